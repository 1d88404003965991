"""Cohorts whose jobs are replaced by a short shell script, to test the workflow alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("snakemake", reason="the pipelines extra is not installed")

#: Counts its calls beside the result, and waits as long as a file of the study's name lies in
#: $HOLDS.
STAND_IN = """#!/usr/bin/env bash
set -e
command=$1; shift
case $command in
  fit | simulate)
    while [ $# -gt 0 ]; do case $1 in --out) out=$2 ;; --verdict) verdict=$2 ;; esac; shift; done
    echo $$ >> "$out.calls"
    while [ -e "$HOLDS/$(basename "$(dirname "$out")")" ]; do sleep 0.05; done
    mkdir -p "$out"
    echo '{"status": "passed", "exit_code": 0, "message": "", "seconds": 1}' > "$verdict.part"
    mv "$verdict.part" "$verdict" ;;
  group) touch group.html ;;
esac
"""
DRIVER = """
import sys
from pathlib import Path
import nanopinn.cohort.snakemake as pipeline
from nanopinn.cli import main
stand_in = Path(sys.argv.pop(1))
pipeline.executables_folder = lambda: stand_in
main()
"""


def dataset(folder: Path, subjects: int) -> Path:
    """A BIDS folder in which every file that a fit asks for is there, and empty."""
    for i in range(1, subjects + 1):
        sub = f"sub-{i:03d}"
        for name in ("perf/{}_dce", "cest/{}_pHmap", "anat/{}_flip-1_VFA", "anat/{}_flip-2_VFA"):
            image = folder / sub / f"{name.format(sub)}.nii.gz"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
            image.with_name(image.name.replace(".nii.gz", ".json")).write_text("{}")
    return folder


class Cohort:
    """A dataset, its output, and drivers on it."""

    def __init__(self, folder: Path, subjects: int) -> None:
        self.bids, self.out, self.holds, self.bin = (
            dataset(folder / "my bids", subjects),
            folder / "out",
            folder / "holds",
            folder / "bin",
        )
        self.holds.mkdir()
        self.bin.mkdir()
        (self.bin / "nanopinn").write_text(STAND_IN)
        (self.bin / "nanopinn").chmod(0o755)

    def start(self, *options: str, held: bool = True) -> subprocess.Popen[str]:
        words = [
            sys.executable,
            "-c",
            DRIVER,
            str(self.bin),
            "cohort",
            str(self.bids),
            str(self.out),
            *options,
        ]
        holds = {"HOLDS": str(self.holds if held else self.holds / "none")}
        return subprocess.Popen(
            words,
            env={**os.environ, **holds},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *options: str) -> tuple[int, str]:
        running = self.start(*options, held=False)
        said, _ = running.communicate(timeout=120)
        return running.returncode, said

    def hold(self, *subjects: str) -> None:
        for subject in subjects:
            (self.holds / subject).touch()

    def calls(self, subject: str, run: str = "fit") -> list[int]:
        """Process ids of the jobs so far."""
        file = self.out / "work" / subject / f"{run}.calls"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def verdict(self, subject: str) -> dict[str, object] | None:
        file = self.out / "work" / subject / "fit.json"
        return json.loads(file.read_text()) if file.exists() else None

    def times(self) -> dict[Path, int]:
        return {
            f: f.stat().st_mtime_ns
            for f in self.out.rglob("*")
            if f.is_file() and ".snakemake" not in f.parts
        }


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A SLURM is started only for those who ask."""
    if "slurm" not in str(config.getoption("-m")):
        for item in items:
            if item.get_closest_marker("slurm"):
                item.add_marker(pytest.mark.skip(reason="starts a SLURM: pytest -m slurm"))


@pytest.fixture
def three(tmp_path: Path) -> Cohort:
    """Three studies."""
    return Cohort(tmp_path, 3)


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
