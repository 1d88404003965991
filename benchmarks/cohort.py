"""Eight phantom subjects processed by `nanopinn cohort`, with a truncated series and killed jobs.

    OMP_NUM_THREADS=1 python benchmarks/cohort.py FOLDER

The cohort is run once undisturbed and once more without changes. A second run of the same subjects
loses one job and then its driver process to SIGKILL. Its posterior medians are compared with those
of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from nanopinn.cohort.snakemake import find_orphan_processes
from nanopinn.phantoms.phantom_dataset import make_phantom_dataset
from nanopinn.settings import PhantomSettings

TRUNCATED = "sub-03"
SUBJECTS = tuple(f"sub-{i:02d}" for i in range(1, 9))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--killed", type=int, default=len(SUBJECTS), help="number of subjects in the killed runs"
    )
    args = parser.parse_args()
    folder, some = args.folder.resolve(), SUBJECTS[: args.killed]
    bids = folder / "bids"
    if not bids.exists():
        make_phantom_dataset(
            bids,
            len(SUBJECTS),
            PhantomSettings(
                seed=1,
                shape=(8, 8, 6),
                voxel_mm=(0.6, 0.6, 0.6),
                tumour_mm=(3.4, 3.4, 2.6),
                frames=20,
                frame_spacing_s=15.0,
                refine=2,
            ),
        )
        os.truncate(bids / TRUNCATED / "perf" / f"{TRUNCATED}_dce.nii.gz", 1000)
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    _print_row("eight subjects, one truncated", *_run(bids, undisturbed), undisturbed)
    before = _modification_times(undisturbed)
    _print_row("second run", *_run(bids, undisturbed), undisturbed)
    after = _modification_times(undisturbed)
    print(
        f"  files that changed: {sorted(f for f in after if before.get(f) != after[f]) or 'none'}"
    )
    _kill_a_job(bids, killed, some)
    _print_row("after the killed job", *_run(bids, killed, some), killed)
    for file in killed.glob("work/sub-0[1-4]/fit.json"):
        file.unlink()
    _kill_the_driver(bids, killed, some)
    _print_row("after the killed driver", *_run(bids, killed, some), killed)
    print(
        "largest relative difference of a posterior median from the undisturbed run:"
        f" {_largest_relative_difference(undisturbed, killed, some):.1e}"
    )


def _start(bids: Path, out: Path, subjects: tuple[str, ...]) -> subprocess.Popen[bytes]:
    only = [word for s in subjects for word in ("--only", s)]
    words = [
        sys.executable,
        "-m",
        "nanopinn",
        "cohort",
        str(bids),
        str(out),
        "--engine",
        "fv",
        "--preset",
        "fast",
        *only,
    ]
    out.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(words, stdout=(out / "output.txt").open("ab"), stderr=subprocess.STDOUT)


def _run(bids: Path, out: Path, subjects: tuple[str, ...] = SUBJECTS) -> tuple[int, float]:
    began = time.perf_counter()
    return _start(bids, out, subjects).wait(), time.perf_counter() - began


def _print_row(name: str, code: int, seconds: float, out: Path) -> None:
    log = (out / "work" / "cohort.log").read_text(encoding="utf-8")
    jobs = {rule: log.count(f"rule {rule}:") for rule in ("fit", "derivatives", "group")}
    print(f"{name}: exit code {code}, {seconds:.0f} s, jobs {jobs}", flush=True)


def _running_fits(out: Path) -> list[psutil.Process]:
    """Running fits of a cohort, without the shells around them."""
    return [
        p
        for p in find_orphan_processes(out)
        if [Path(word).name for word in _command_line(p)[1:3]] == ["nanopinn", "fit"]
    ]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _start_until_two_fits_run(
    bids: Path, out: Path, subjects: tuple[str, ...]
) -> subprocess.Popen[bytes]:
    """Start a driver and wait until two fits are running that have each written a checkpoint."""
    driver = _start(bids, out, subjects)
    while driver.poll() is None and not (
        len(_running_fits(out)) == 2
        and len(list(out.glob("work/*/fit.partial/fv.safetensors"))) >= 2
    ):
        time.sleep(0.05)
    return driver


def _kill_a_job(bids: Path, out: Path, subjects: tuple[str, ...]) -> None:
    began = time.perf_counter()
    driver = _start_until_two_fits_run(bids, out, subjects)
    os.kill(_running_fits(out)[0].pid, signal.SIGKILL)
    _print_row("one job killed", driver.wait(), time.perf_counter() - began, out)


def _kill_the_driver(bids: Path, out: Path, subjects: tuple[str, ...]) -> None:
    driver = _start_until_two_fits_run(bids, out, subjects)
    driver.kill()
    print(
        f"driver killed (exit code {driver.wait()}), {len(_running_fits(out))} orphan fits",
        flush=True,
    )


def _modification_times(out: Path) -> dict[str, int]:
    return {
        str(f.relative_to(out)): f.stat().st_mtime_ns
        for f in out.rglob("*")
        if f.is_file() and ".snakemake" not in f.parts
    }


def _largest_relative_difference(one: Path, other: Path, subjects: tuple[str, ...]) -> float:
    worst = 0.0
    for subject in [s for s in subjects if (one / "work" / s / "fit").is_dir()]:
        a, b = (
            json.loads((out / "work" / subject / "fit" / "parameters.json").read_text())[
                "parameters"
            ]
            for out in (one, other)
        )
        worst = max(
            worst,
            *(
                abs(math.log(x["posterior_median"] / y["posterior_median"]))
                for x, y in zip(a, b, strict=True)
            ),
        )
    return worst


if __name__ == "__main__":
    main()
