"""Spoiled input by the hundred thousand: only an InputError of one line may come of it, soon, and
in little memory.

    python benchmarks/fuzz.py --inputs 100000 --seed 0 --out fuzz_finds

Every input is a valid one, spoiled: bytes flipped, cut, doubled or replaced by tokens that break
parsers; values of headers, sidecars and tables replaced by numbers, lists and texts that no reader
should believe; gzip streams spoiled inside and outside. An input follows from the seed, its reader
and its number alone, so that `--reader NAME --only NUMBER` repeats it. Each reader works in a
process of its own, on a folder in memory, under a limit of its address space; an input that ends in
anything but success or an InputError, takes longer than 10 s or lets the memory grow by more than 1
GB is kept in --out, and the command ends with 1.
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
from fuzz_inputs import Reader, Rng, in_one_line, readers

from nanopinn.errors import InputError

LONGEST_S, SILENT_S, MOST_MB = 10, 60, 1000


@dataclass
class Tally:
    """What became of one reader's inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    finds: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    grown_mb: float = 0.0


def run_one(reader: Reader, folder: Path, rng: Rng) -> tuple[str, str]:
    """Outcome of one input (accepted, refused or find), and what to say of a find."""
    reader.spoil(folder, rng)
    signal.alarm(LONGEST_S)
    try:
        reader.read(folder)
        return "accepted", ""
    except InputError as error:
        try:
            in_one_line(error)
        except AssertionError as wrong:
            return "find", str(wrong)
        return "refused", ""
    except BaseException:
        return "find", traceback.format_exc()
    finally:
        signal.alarm(0)


def _late(*_: Any) -> None:
    raise TimeoutError(f"more than {LONGEST_S} s")


def work(name: str, place: Path, seed: int, numbers: range, out: Path, send: Any) -> None:
    """One reader's inputs, in a process of its own; tells of each as it goes."""
    import warnings

    warnings.simplefilter("ignore")
    reader = readers()[name]
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, 0)
    tally, began = Tally(), 0.0
    for number in (
        numbers[0],
        *numbers,
    ):  # the first once before counting: libraries load what they need
        rng = np.random.default_rng([seed, *name.encode(), number])
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        start = time.perf_counter()
        outcome, words = run_one(reader, place, rng)
        seconds, now = time.perf_counter() - start, _peak_mb()
        if not began:
            began = now
            _limit_address_space()
            continue
        tally.inputs += 1
        tally.accepted += outcome == "accepted"
        tally.refused += outcome == "refused"
        tally.longest_s, tally.grown_mb = max(tally.longest_s, seconds), now - began
        if outcome == "find" or now - began > MOST_MB:
            words = words or f"memory grew by {now - began:.0f} MB"
            tally.finds.append(words.strip().splitlines()[-1][:200])
            keep(place, out, name, number, words)
            began = max(began, now - MOST_MB)
        if number % 50 == 0 or outcome == "find":
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
        most = pages * resource.getpagesize() + 4 * (MOST_MB << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def keep(place: Path, out: Path, name: str, number: int, words: str) -> None:
    """A find, with what is needed to repeat it."""
    target = out / f"{name.replace(' ', '_').replace(',', '')}-{number}"
    shutil.copytree(place, target, dirs_exist_ok=True)
    (target / "what.txt").write_text(
        f"--reader '{name}' --only {number}\n{words}\n", errors="backslashreplace"
    )


def watched(name: str, place: Path, seed: int, numbers: range, out: Path) -> Tally:
    """Run a reader's inputs; a worker that dies or falls silent counts as a find, and another goes
    on behind it.
    """
    total, context, at = Tally(), multiprocessing.get_context("fork"), numbers[0]
    while at <= numbers[-1]:
        receive, send = context.Pipe(duplex=False)
        worker = context.Process(
            target=work, args=(name, place, seed, range(at, numbers[-1] + 1), out, send)
        )
        worker.start()
        send.close()
        last, tally, silent = at, Tally(), False
        try:
            while not (silent := not receive.poll(SILENT_S)):
                last, tally = receive.recv()
        except EOFError:
            pass
        if silent:
            worker.kill()
        worker.join()
        total = _sum(total, tally)
        if worker.exitcode != 0:
            total.finds.append(
                f"the process {'fell silent' if silent else f'died ({worker.exitcode})'} after"
                f" input {last}"
            )
            keep(place, out, name, last, total.finds[-1])
            last += 50
        at = max(last, at + 1)
    return total


def _sum(a: Tally, b: Tally) -> Tally:
    longest, grown = max(a.longest_s, b.longest_s), max(a.grown_mb, b.grown_mb)
    return Tally(
        a.inputs + b.inputs,
        a.accepted + b.accepted,
        a.refused + b.refused,
        a.finds + b.finds,
        longest,
        grown,
    )


def main() -> None:
    """Spoil, read, count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("fuzz_finds"),
        help="folder for inputs that broke something",
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
        f"{'reader':24s}{'inputs':>9s}{'accepted':>10s}{'InputError':>12s}{'else':>6s}{'longest s':>11s}{'memory MB':>11s}{'s':>8s}"
    )
    try:
        for name, reader in chosen.items():
            start = time.perf_counter()
            numbers = (
                range(args.only, args.only + 1)
                if args.only is not None
                else range(-(-args.inputs * reader.weight // weights))
            )
            found = watched(name, base / "input", args.seed, numbers, args.out)
            total = _sum(total, found)
            _line(name, found, time.perf_counter() - start)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    _line("all", total, time.perf_counter() - began)
    for words in sorted(set(total.finds)):
        print(f"{total.finds.count(words):6d} x {words}")
    sys.exit(1 if total.finds else 0)


def _line(name: str, t: Tally, seconds: float) -> None:
    print(
        f"{name:24s}{t.inputs:9d}{t.accepted:10d}{t.refused:12d}{len(t.finds):6d}{t.longest_s:11.2f}{t.grown_mb:11.0f}{seconds:8.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
