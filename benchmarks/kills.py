"""SIGKILL at random moments: whether the files left are readable and complete, and whether the
continued run gives the result of an undisturbed one.

    python benchmarks/kills.py --kills 100 --seed 3
    python benchmarks/kills.py --kills 20 --what arms

A run is killed repeatedly, at a moment drawn over its whole duration or, one time in four, while
its result is written. After each kill the folder is examined and the run is continued with
``--continue``. All runs use one thread. One process in five is started afresh and repeats the
imports; the others fork from a process that has already imported the package, which halves the
duration.
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

#: Share of the kills that wait until the result is written, and the share of a run's duration
#: within which the other kills fall.
WRITING, SPAN = 0.25, 0.8
#: Number of kills after which a run is left to finish, and the duration after which it counts as
#: hung, s.
MAX_KILLS_PER_RUN, HUNG_S = 10, 900.0


@dataclass(frozen=True)
class Case:
    """A command whose runs are killed.

    Attributes:
        name: Name of the case.
        command: Arguments of ``nanopinn`` without ``--out``.
        numbers: Result file that holds the numbers to compare.
        own: Its keys that differ between runs, such as durations.
    """

    name: str
    command: tuple[str, ...]
    numbers: str
    own: tuple[str, ...]


@dataclass
class Tally:
    """Counts over all kills and runs."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    states: int = 0
    unreadable: int = 0
    half_written: int = 0
    left_over: int = 0
    failed: int = 0
    largest_difference: float = 0.0


@dataclass
class Reference:
    """An undisturbed run.

    Attributes:
        answer: Numbers of its result.
        names: Files of its result.
        seconds: Duration of the run; of the shortest run so far.
        writes: Duration of writing the result, s.
    """

    answer: np.ndarray
    names: set[str]
    seconds: float
    writes: float


def cases(folder: Path, what: str) -> list[Case]:
    """The commands to kill: fits by ``fv`` or ``auto``, or a comparison of arms."""
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


def start_process(command: Iterable[str], fresh: bool) -> int:
    """Start a command and return its process id."""
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


def wait_for_exit(pid: int, seconds: float) -> int | None:
    """Exit code of a process, or None if it is still running after ``seconds``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def kill_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def is_writing(out: Path, pid: int) -> bool:
    return out.with_name(f".{out.name}.part-{pid}").exists()


def stage(out: Path, pid: int, before: int) -> str:
    """Stage of a run when it was killed; ``before`` is the :func:`result_inode` at its start."""
    if is_writing(out, pid):
        return "writing"
    if result_inode(out) != before:
        return "after the rename"
    return (
        "optimisation or check"
        if any(out.with_name(f"{out.name}.partial").glob("*.safetensors"))
        else "imports or imaging"
    )


def result_inode(out: Path) -> int:
    return out.stat().st_ino if out.exists() else 0


def examine_files(out: Path, names: set[str], tally: Tally) -> None:
    """Count the checkpoints that cannot be read and results that are incomplete."""
    from nanopinn.inference.engine_driver import ENGINE_STATE_CLASSES
    from nanopinn.io import serialize as saving
    from nanopinn.solvers.krogh_exposure import Exposure

    for file in out.with_name(f"{out.name}.partial").glob("*.safetensors"):
        tally.states += 1
        try:
            saving.from_bytes(file.read_bytes(), (*ENGINE_STATE_CLASSES, Exposure))
        except ValueError:
            tally.unreadable += 1
    if out.exists() and list_files(out) != names:
        tally.half_written += 1


def list_files(folder: Path) -> set[str]:
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


def read_numbers(out: Path, case: Case) -> np.ndarray:
    return np.array(list(numbers(json.loads((out / case.numbers).read_text()), case.own)))


def run_with_kills(
    case: Case,
    out: Path,
    undisturbed: Reference,
    left: int,
    fresh: float,
    rng: np.random.Generator,
    tally: Tally,
) -> None:
    """One run that is killed repeatedly; its final result is compared with the undisturbed run."""
    command = (*case.command, "--overwrite", "--continue", "--quiet", "--out", str(out))
    for k in range(min(MAX_KILLS_PER_RUN, left)):
        began, before, pid = (
            time.monotonic(),
            result_inode(out),
            start_process(command, rng.random() < fresh),
        )
        if rng.random() < WRITING:
            code = None
            while code is None and not is_writing(out, pid):
                code = wait_for_exit(pid, 0.002)
            code = (
                wait_for_exit(pid, rng.uniform(0, SPAN * undisturbed.writes))
                if code is None
                else code
            )
        else:
            code = wait_for_exit(pid, rng.uniform(0, SPAN * undisturbed.seconds))
        if code is not None:
            undisturbed.seconds = min(
                undisturbed.seconds, time.monotonic() - began if k == 0 else np.inf
            )
            break
        kill_process(pid)
        at = stage(out, pid, before)
        tally.kills[at] += 1
        examine_files(out, undisturbed.names, tally)
    else:
        code = wait_for_exit(start_process(command, False), HUNG_S)
    tally.failed += code not in (0, 5)
    tally.runs += 1
    again = read_numbers(out, case)
    answer, same = undisturbed.answer, again.shape == undisturbed.answer.shape
    size = np.maximum(np.abs(answer), 1e-300)
    tally.largest_difference = max(
        tally.largest_difference,
        float(np.nanmax(np.abs(again - answer) / size)) if same else np.inf,
    )
    tally.half_written += list_files(out) != undisturbed.names
    tally.left_over += [p.name for p in out.parent.iterdir()] != [out.name]


def reference(case: Case, out: Path) -> Reference:
    """Carry out the undisturbed run."""
    began = time.monotonic()
    pid = start_process((*case.command, "--quiet", "--out", str(out)), False)
    while not is_writing(out, pid):
        if wait_for_exit(pid, 0.002) is not None:
            raise SystemExit(f"{case.name} does not run")
    wrote = time.monotonic()
    code = wait_for_exit(pid, HUNG_S)
    if code not in (0, 5):
        raise SystemExit(f"{case.name} does not run: {code}")
    return Reference(
        read_numbers(out, case), list_files(out), time.monotonic() - began, time.monotonic() - wrote
    )


def run_study(
    kills: int, seed: int, what: str, fresh: float, folder: Path, phantom: Path | None
) -> Tally:
    """Kill runs until there are ``kills`` kills."""
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
    references: dict[str, Reference] = {}
    while tally.kills.total() < kills:
        case = chosen[tally.runs % len(chosen)]
        if case.name not in references:
            references[case.name] = reference(case, folder / f"{case.name}_undisturbed")
        run_folder = folder / f"{case.name}_{tally.runs}"
        run_folder.mkdir()
        run_with_kills(
            case,
            run_folder / "out",
            references[case.name],
            kills - tally.kills.total(),
            fresh,
            rng,
            tally,
        )
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
        help="share of processes that are started afresh and repeat the imports",
    )
    parser.add_argument("--study", type=Path, help="folder of an existing phantom")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = run_study(
            given.kills, given.seed, given.what, given.fresh, Path(folder), given.study
        )
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
    ):  # threads of the parent do not exist in forked processes
        sys.exit(
            subprocess.call([sys.executable, *sys.argv], env={**os.environ, "OMP_NUM_THREADS": "1"})
        )
    main()
