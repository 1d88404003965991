"""Writes the lock files in this folder: all packages of the demo, the tests and the napari plugin,
with the SHA-256 of the file that pip installs.

`make lock` runs it on Python 3.11, Linux x86-64, without a GPU. A layer lists the packages that the
layers before it do not list, and is installed after them. The versions agree, because the largest
set is resolved first and constrains the smaller ones.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAYERS = {
    "demo": (),
    "test": ("test", "dev", "pipelines"),
    "gui": ("test", "dev", "pipelines", "gui"),
}
HEAD = "# {} packages for Python 3.11 on Linux x86-64 without a GPU, made by `make lock`; {}.\n"
NEEDS = {
    "demo": "complete in itself",
    "test": "after demo.txt",
    "gui": "after demo.txt and test.txt",
}


def read_requirements(extras: tuple[str, ...]) -> list[str]:
    """Requirements of the package with the given extras, and of its build."""
    table = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    project = table["project"]
    chosen = [r for extra in extras for r in project["optional-dependencies"][extra]]
    return [*table["build-system"]["requires"], *project["dependencies"], *chosen]


def resolve(requirements: list[str], constraints: Path) -> dict[str, tuple[str, str]]:
    """Version and SHA-256, by name, of the packages that pip would install without others."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--dry-run",
            "--ignore-installed",
            "--report",
            str(report),
            "-c",
            str(constraints),
        ]
        subprocess.run([*command, *requirements], check=True)
        found = json.loads(report.read_text())["install"]
    return {
        re.sub(r"[-_.]+", "-", f["metadata"]["name"]).lower(): version_and_hash(f) for f in found
    }


def version_and_hash(found: dict) -> tuple[str, str]:
    return found["metadata"]["version"], found["download_info"]["archive_info"]["hashes"]["sha256"]


def main() -> None:
    every = resolve(read_requirements(LAYERS["gui"]), HERE.parent / "constraints-cpu.txt")
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text("".join(f"{name}=={version}\n" for name, (version, _) in every.items()))
        sets = {
            layer: every if layer == "gui" else resolve(read_requirements(extras), pins)
            for layer, extras in LAYERS.items()
        }
    before: set[str] = set()
    for layer, found in sets.items():
        own = sorted(set(found) - before)
        lines = (f"{name}=={found[name][0]} --hash=sha256:{found[name][1]}\n" for name in own)
        (HERE / f"{layer}.txt").write_text(HEAD.format(len(own), NEEDS[layer]) + "".join(lines))
        before |= set(found)
        print(f"{layer}: {len(own)} packages")


if __name__ == "__main__":
    main()
