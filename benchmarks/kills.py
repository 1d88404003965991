"""SIGKILL at random moments: is what is left readable and whole, and does the run that goes on end
where it would have ended?

    python benchmarks/kills.py --kills 100 --seed 3
    python benchmarks/kills.py --kills 20 --what arms

A run is killed again and again on its way, at a moment drawn over its whole length or, one time in
three, while its result is written; after each kill the folder is examined and the run goes on with
``--continue``. One thread. One process in five is a fresh one, imports included; the others fork
from one that has its imports behind it, which saves the half of the time that says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

#: Share of kills that wait for the writing, and of a run's length within which the others fall: few
#: end before.
WRITING, LENGTH = 0.25, 0.8
#: A run is let go to its end after so many kills, and taken for hung after so many seconds.
ON_THE_WAY, HUNG_S = 10, 900.0


@dataclass(frozen=True)
class Case:
    """A command, and where its numbers stand.

    Attributes:
        command: without ``--out``. numbers: file with them. own: its tables that say how long it
            took or what it recovered from.
    """

    name: str
    command: tuple[str, ...]
    numbers: str
    own: tuple[str, ...]


@dataclass
class Tally:
    """What was found."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    states: int = 0
    unreadable: int = 0
    half_written: int = 0
    left_over: int = 0
    failed: int = 0
    largest_difference: float = 0.0


@dataclass
class Whole:
    """A run that nobody killed: its numbers, files and durations, of all and of the writing, s;
    shorter where others end sooner.
    """

    answer: np.ndarray
    names: set[str]
    seconds: float
    writes: float


def cases(folder: Path, what: str) -> list[Case]:
    """What is killed: fits by finite volumes, by both engines; or arms."""
    if what == "arms":
        phantom = ("--phantom", "--shape", "10", "10", "6", "--refine", "1", "--device", "cpu")
        arms = (
            "--arms",
            "free,tsl",
            "--heat",
            "42:10",
            "--end",
            "1",
            "--draws",
            "60",
            "--groups",
            "2",
            "--heating-times",
            "none",
        )
        return [
            Case(
                "arms",
                ("simulate", *phantom, *arms, "--no-sensitivity"),
                "comparison.json",
                ("seconds",),
            )
        ]
    files = [
        f"--{name}={folder / file}"
        for name, file in (("dce", "dce.nii.gz"), ("cest", "ph.nii.gz"), ("mask", "mask.nii.gz"))
    ]
    fit = ("fit", *files, "--t1", "1.4", "--preset", "fast", "--device", "cpu")
    made = [
        Case(engine, (*fit, "--engine", engine), "parameters.json", ("engines",))
        for engine in ("fv", "auto")
    ]
    return {"fv": made[:1], "auto": made[1:], "fit": [*made[:1] * 5, made[1]]}[what]


def started(command: Iterable[str], fresh: bool) -> int:
    """Process id of a command that has begun."""
    argv = ["nanopinn", *command]
    pid = os.fork()
    if pid:
        return pid
    nothing = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nothing, handle)
    if fresh:
        os.execv(sys.executable, [sys.executable, "-m", *argv])
    sys.argv = argv
    try:
        from nanopinn.cli import main

        main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    finally:
        os._exit(1)


def ended(pid: int, seconds: float) -> int | None:
    """Exit code of a process that ends in time; else None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def writing(out: Path, pid: int) -> bool:
    return out.with_name(f".{out.name}.part-{pid}").exists()


def stage(out: Path, pid: int, before: int) -> str:
    """How far a run had got when it was killed; ``before``: the result that it found, as
    :func:`which`.
    """
    if writing(out, pid):
        return "writing"
    if which(out) != before:
        return "after the rename"
    return (
        "descent or check"
        if any(out.with_name(f"{out.name}.partial").glob("*.safetensors"))
        else "imports or imaging"
    )


def which(out: Path) -> int:
    return out.stat().st_ino if out.exists() else 0


def examined(out: Path, names: set[str], tally: Tally) -> None:
    """Whether states can be read and the result is whole or absent."""
    from nanopinn.inference.engine_driver import ENGINE_STATE_CLASSES
    from nanopinn.io import serialize as saving
    from nanopinn.solvers.krogh_exposure import Exposure

    for file in out.with_name(f"{out.name}.partial").glob("*.safetensors"):
        tally.states += 1
        try:
            saving.from_bytes(file.read_bytes(), (*ENGINE_STATE_CLASSES, Exposure))
        except ValueError:
            tally.unreadable += 1
    if out.exists() and names_in(out) != names:
        tally.half_written += 1


def names_in(folder: Path) -> set[str]:
    return {
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.is_file() and p.stat().st_size > 0
    }


def numbers(content: Any, own: tuple[str, ...]) -> Iterator[float]:
    """Every number of a JSON file, in order."""
    if isinstance(content, dict):
        for key in sorted(content):
            if key not in own:
                yield from numbers(content[key], own)
    elif isinstance(content, list):
        for entry in content:
            yield from numbers(entry, own)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield float(content)


def read(out: Path, case: Case) -> np.ndarray:
    return np.array(list(numbers(json.loads((out / case.numbers).read_text()), case.own)))


def once(
    case: Case,
    out: Path,
    whole: Whole,
    left: int,
    fresh: float,
    rng: np.random.Generator,
    tally: Tally,
) -> None:
    """One run, killed on its way, and compared at its end."""
    command = (*case.command, "--overwrite", "--continue", "--quiet", "--out", str(out))
    for k in range(min(ON_THE_WAY, left)):
        began, before, pid = time.monotonic(), which(out), started(command, rng.random() < fresh)
        if rng.random() < WRITING:
            code = None
            while code is None and not writing(out, pid):
                code = ended(pid, 0.002)
            code = ended(pid, rng.uniform(0, LENGTH * whole.writes)) if code is None else code
        else:
            code = ended(pid, rng.uniform(0, LENGTH * whole.seconds))
        if code is not None:
            whole.seconds = min(whole.seconds, time.monotonic() - began if k == 0 else np.inf)
            break
        killed(pid)
        at = stage(out, pid, before)
        tally.kills[at] += 1
        examined(out, whole.names, tally)
    else:
        code = ended(started(command, False), HUNG_S)
    tally.failed += code not in (0, 5)
    tally.runs += 1
    again = read(out, case)
    answer, same = whole.answer, again.shape == whole.answer.shape
    size = np.maximum(np.abs(answer), 1e-300)
    tally.largest_difference = max(
        tally.largest_difference,
        float(np.nanmax(np.abs(again - answer) / size)) if same else np.inf,
    )
    tally.half_written += names_in(out) != whole.names
    tally.left_over += [p.name for p in out.parent.iterdir()] != [out.name]


def reference(case: Case, out: Path) -> Whole:
    """Numbers, files and durations (of all, of the writing) of a run that nobody kills."""
    began = time.monotonic()
    pid = started((*case.command, "--quiet", "--out", str(out)), False)
    while not writing(out, pid):
        if ended(pid, 0.002) is not None:
            raise SystemExit(f"{case.name} does not run")
    wrote = time.monotonic()
    code = ended(pid, HUNG_S)
    if code not in (0, 5):
        raise SystemExit(f"{case.name} does not run: {code}")
    return Whole(read(out, case), names_in(out), time.monotonic() - began, time.monotonic() - wrote)


def study(
    kills: int, seed: int, what: str, fresh: float, folder: Path, phantom: Path | None
) -> Tally:
    """Kill so many times."""
    import nanopinn.cli.app
    import nanopinn.report.result_folder
    import nanopinn.report.treatment_folder
    import nanopinn.studies.arms.compare  # noqa: F401
    from nanopinn.phantoms.synthetic_study import make_phantom
    from nanopinn.settings import PhantomSettings

    rng, tally = np.random.default_rng(seed), Tally()
    if phantom is None and what != "arms":
        phantom = make_phantom(folder / "phantom", PhantomSettings(shape=(10, 10, 6), refine=2))
    chosen = cases(phantom or folder, what)
    wholes: dict[str, Whole] = {}
    while tally.kills.total() < kills:
        case = chosen[tally.runs % len(chosen)]
        if case.name not in wholes:
            wholes[case.name] = reference(case, folder / f"{case.name}_whole")
        place = folder / f"{case.name}_{tally.runs}"
        place.mkdir()
        once(case, place / "out", wholes[case.name], kills - tally.kills.total(), fresh, rng, tally)
        print(
            f"{tally.kills.total()} kills, {tally.runs} runs: {tally}", file=sys.stderr, flush=True
        )
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--what", choices=("fit", "fv", "auto", "arms"), default="fit")
    parser.add_argument(
        "--fresh",
        type=float,
        default=0.2,
        help="share of processes that are started afresh, imports included",
    )
    parser.add_argument("--study", type=Path, help="a phantom that is there already")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = study(given.kills, given.seed, given.what, given.fresh, Path(folder), given.study)
    print(
        json.dumps(
            {**vars(tally), "kills": dict(tally.kills), "seconds": round(time.monotonic() - began)},
            indent=2,
        )
    )
    bad = tally.unreadable + tally.half_written + tally.left_over + tally.failed
    sys.exit(0 if bad == 0 and tally.largest_difference <= 1e-10 else 1)


if __name__ == "__main__":
    if (
        os.environ.get("OMP_NUM_THREADS") != "1"
    ):  # threads of the parent would not live in the forks
        sys.exit(
            subprocess.call([sys.executable, *sys.argv], env={**os.environ, "OMP_NUM_THREADS": "1"})
        )
    main()
