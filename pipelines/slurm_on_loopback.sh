#!/usr/bin/env bash
# Start SLURM with one node on this machine, to test --profile slurm without a cluster. Needs root, but no systemd.
#   apt-get install -y --no-install-recommends slurm-wlm munge
#   pipelines/slurm_on_loopback.sh start DIR
#   nanopinn cohort BIDS OUT --profile slurm --snakemake '--slurm-status-command squeue --slurm-no-account'
#   pipelines/slurm_on_loopback.sh stop DIR
# The configuration is a link /etc/slurm/slurm.conf, because jobs do not inherit SLURM_CONF. A machine with SLURM is refused.
set -euo pipefail
what=${1:?start or stop} dir=$(realpath -m "${2:?a folder for its state}")
link=/etc/slurm/slurm.conf
host=$(hostname -s) port=${SLURM_PORT:-$((20000 + RANDOM % 10000))}

start() {
  [ ! -e $link ] || { echo "$link exists: this machine has SLURM already" >&2; exit 1; }
  mkdir -p "$dir/state" "$dir/spool"
  chmod 755 "$dir"
  head -c 1024 /dev/urandom > "$dir/munge.key"
  chmod 400 "$dir/munge.key"
  munged --force --key-file "$dir/munge.key" --socket "$dir/munge.socket" --pid-file "$dir/munged.pid" \
    --log-file "$dir/munged.log" --seed-file "$dir/munge.seed"
  # no control groups (they may be in use) and no accounting; squeue reports ended jobs for MinJobAge seconds
  cat > "$dir/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MinJobAge=600
KillWait=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo) State=UNKNOWN
PartitionName=loopback Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  mkdir -p "$(dirname $link)"
  ln -sfn "$dir/slurm.conf" $link
  slurmctld -c
  slurmd
  for _ in $(seq 60); do
    [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && return
    sleep 0.5
  done
  echo "SLURM did not start; see $dir/*.log" >&2
  return 1
}

stop() {
  for name in slurmd slurmctld munged; do
    [ -s "$dir/$name.pid" ] && kill "$(cat "$dir/$name.pid")" 2>/dev/null || true
  done
  [ "$(readlink $link)" != "$dir/slurm.conf" ] || rm $link
}

"$what"
