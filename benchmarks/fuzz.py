"""Fuzz test of all input readers: a corrupted input may only be read or cause an InputError of one
line, within limits of time and memory.

    python benchmarks/fuzz.py --inputs 100000 --seed 0 --out fuzz_findings

Every input is a corrupted copy of a valid one. Bytes are flipped, deleted, repeated or replaced by
tokens that break parsers. Values of headers, sidecars and tables are replaced by implausible
numbers, lists and texts. Gzip streams are corrupted before and after compression. An input depends
on the seed, its reader and its number alone, so that `--reader NAME --only NUMBER` repeats it. Each
reader runs in its own process, on a folder in memory, with a limit of its address space. An input
is a finding if it causes anything but success or an InputError, takes longer than 10 s, or
increases the memory by more than 1 GB. Findings are stored in --out, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_inputs import Reader, Rng, check_error, readers

from nanopinn.errors import InputError

MAX_S, TIMEOUT_S, MAX_MB = 10, 60, 1000


@dataclass
class Tally:
    """Outcomes of the inputs of one reader."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    findings: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    grown_mb: float = 0.0


def run_one(reader: Reader, folder: Path, rng: Rng) -> tuple[str, str]:
    """Outcome of one input (accepted, refused or finding), and the description of a finding."""
    reader.corrupt(folder, rng)
    signal.alarm(MAX_S)
    try:
        reader.read(folder)
        return "accepted", ""
    except InputError as error:
        try:
            check_error(error)
        except AssertionError as wrong:
            return "finding", str(wrong)
        return "refused", ""
    except BaseException:
        return "finding", traceback.format_exc()
    finally:
        signal.alarm(0)


def _raise_timeout(*_: Any) -> None:
    raise TimeoutError(f"more than {MAX_S} s")


def read_inputs(name: str, place: Path, seed: int, numbers: range, out: Path, send: Any) -> None:
    """Read the inputs of one reader in its own process and send the tally as it grows."""
    import warnings

    warnings.simplefilter("ignore")
    reader = readers()[name]
    signal.signal(signal.SIGALRM, _raise_timeout)
    signal.setitimer(signal.ITIMER_REAL, 0)
    tally, began = Tally(), 0.0
    for number in (
        numbers[0],
        *numbers,
    ):  # the first input is read twice, since libraries load modules at their first call
        rng = np.random.default_rng([seed, *name.encode(), number])
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        start = time.perf_counter()
        outcome, description = run_one(reader, place, rng)
        seconds, now = time.perf_counter() - start, _peak_mb()
        if not began:
            began = now
            _limit_address_space()
            continue
        tally.inputs += 1
        tally.accepted += outcome == "accepted"
        tally.refused += outcome == "refused"
        tally.longest_s, tally.grown_mb = max(tally.longest_s, seconds), now - began
        if outcome == "finding" or now - began > MAX_MB:
            description = description or f"memory grew by {now - began:.0f} MB"
            tally.findings.append(description.strip().splitlines()[-1][:200])
            store_finding(place, out, name, number, description)
            began = max(began, now - MAX_MB)
        if number % 50 == 0 or outcome == "finding":
            send.send((number, tally))
    send.send((numbers[-1] + 1, tally))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _limit_address_space() -> None:
    pages = (
        int(Path("/proc/self/statm").read_text().split()[0])
        if Path("/proc/self/statm").exists()
        else 0
    )
    if pages:
        most = pages * resource.getpagesize() + 4 * (MAX_MB << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def store_finding(place: Path, out: Path, name: str, number: int, description: str) -> None:
    """Store a finding and how to repeat it."""
    target = out / f"{name.replace(' ', '_').replace(',', '')}-{number}"
    shutil.copytree(place, target, dirs_exist_ok=True)
    (target / "what.txt").write_text(
        f"--reader '{name}' --only {number}\n{description}\n", errors="backslashreplace"
    )


def run_reader(name: str, place: Path, seed: int, numbers: range, out: Path) -> Tally:
    """Run the inputs of a reader. A worker that dies or stops responding is a finding, and a new
    worker continues after that input.
    """
    total, context, at = Tally(), multiprocessing.get_context("fork"), numbers[0]
    while at <= numbers[-1]:
        receive, send = context.Pipe(duplex=False)
        worker = context.Process(
            target=read_inputs, args=(name, place, seed, range(at, numbers[-1] + 1), out, send)
        )
        worker.start()
        send.close()
        last, tally, silent = at, Tally(), False
        try:
            while not (silent := not receive.poll(TIMEOUT_S)):
                last, tally = receive.recv()
        except EOFError:
            pass
        if silent:
            worker.kill()
        worker.join()
        total = _sum(total, tally)
        if worker.exitcode != 0:
            total.findings.append(
                f"after input {last} the process"
                f" {'stopped responding' if silent else f'died ({worker.exitcode})'}"
            )
            store_finding(place, out, name, last, total.findings[-1])
            last += 50
        at = max(last, at + 1)
    return total


def _sum(a: Tally, b: Tally) -> Tally:
    longest, grown = max(a.longest_s, b.longest_s), max(a.grown_mb, b.grown_mb)
    return Tally(
        a.inputs + b.inputs,
        a.accepted + b.accepted,
        a.refused + b.refused,
        a.findings + b.findings,
        longest,
        grown,
    )


def main() -> None:
    """Run all readers and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("fuzz_findings"),
        help="folder for the findings",
    )
    parser.add_argument("--reader", action="append", help="only this reader; repeatable")
    parser.add_argument("--only", type=int, help="only the input of this number")
    args = parser.parse_args()
    every = readers()
    chosen = {name: every[name] for name in args.reader or every}
    weights = sum(r.weight for r in chosen.values())
    base = Path(
        tempfile.mkdtemp(
            prefix="nanopinn-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
        )
    )
    began, total = time.perf_counter(), Tally()
    print(
        f"{'reader':24s}{'inputs':>9s}{'accepted':>10s}{'InputError':>12s}{'finding':>9s}"
        f"{'longest s':>11s}{'memory MB':>11s}{'s':>8s}"
    )
    try:
        for name, reader in chosen.items():
            start = time.perf_counter()
            numbers = (
                range(args.only, args.only + 1)
                if args.only is not None
                else range(-(-args.inputs * reader.weight // weights))
            )
            found = run_reader(name, base / "input", args.seed, numbers, args.out)
            total = _sum(total, found)
            _print_line(name, found, time.perf_counter() - start)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    _print_line("all", total, time.perf_counter() - began)
    for description in sorted(set(total.findings)):
        print(f"{total.findings.count(description):6d} x {description}")
    sys.exit(1 if total.findings else 0)


def _print_line(name: str, t: Tally, seconds: float) -> None:
    print(
        f"{name:24s}{t.inputs:9d}{t.accepted:10d}{t.refused:12d}{len(t.findings):9d}"
        f"{t.longest_s:11.2f}{t.grown_mb:11.0f}{seconds:8.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
