"""A cohort on SLURM with one node: ``pytest -m slurm``, as root, with slurm-wlm and munge."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Cohort, until

SCRIPT = Path(__file__).resolve().parents[2] / "pipelines" / "slurm_on_loopback.sh"
#: The loopback SLURM has no accounting; a real one is asked by sacct.
QUICK = (
    "--slurm-status-command squeue --slurm-no-account --slurm-init-seconds-before-status-checks 3"
    " --seconds-between-status-checks 3"
)
pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    missing = [c for c in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(c) is None]
    if missing or os.geteuid() != 0 or Path("/etc/slurm/slurm.conf").exists():
        pytest.skip(
            "needs root, slurm-wlm and munge, and no SLURM that runs already (missing:"
            f" {', '.join(missing) or 'none'})"
        )
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPT, "start", folder], check=True, timeout=60)
    yield
    subprocess.run([SCRIPT, "stop", folder], check=True, timeout=60)


def jobs(state: str) -> list[str]:
    return subprocess.run(
        ["squeue", "-h", "-t", state, "-o", "%i"], capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.usefixtures("slurm")
def test_cohort_completes_on_slurm_and_a_cancelled_job_is_repeated(three: Cohort) -> None:
    three.hold("sub-002")
    driver = three.start("--profile", "slurm", "--snakemake", QUICK)
    until(
        lambda: three.verdict("sub-001") and three.verdict("sub-003") and three.calls("sub-002"),
        180,
    )
    held = jobs("running")
    assert len(held) == 1
    (three.holds / "sub-002").unlink()
    subprocess.run(["scancel", held[0]], check=True)
    said, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, said
    assert held[0] in jobs("cancelled")
    assert len(jobs("completed")) == 3
    assert [three.verdict(s) is not None for s in ("sub-001", "sub-002", "sub-003")] == [
        True,
        True,
        True,
    ]
