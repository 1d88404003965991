"""A folder in place of a series: what dcm2niix made of a scan, or DICOM that it can still convert."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib

from nanopinn.errors import InputError


@contextmanager
def as_series(path: str | Path) -> Iterator[tuple[Path, list[str]]]:
    """The 4-D volume of a path, with what was done to get it; a file is itself.

    A folder may hold dcm2niix's output (a NIfTI and its JSON). Failing that it is taken for DICOM and converted by
    dcm2niix, if that is installed, into a folder that is gone afterwards.

    Raises:
        InputError: there is no series in the folder, there are several, or dcm2niix is missing or fails.
    """
    path = Path(path)
    if not path.is_dir():
        yield path, []
    elif _volumes(path):
        yield _only_series(path, path), []
    else:
        with tempfile.TemporaryDirectory(prefix="nanopinn-dicom-") as folder:
            version = _convert(path, Path(folder))
            yield _only_series(Path(folder), path), [f"The series was converted from DICOM by dcm2niix ({version})."]


def files_in(path: Path) -> list[Path]:
    """The files that a path stands for, for provenance."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _volumes(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.endswith((".nii", ".nii.gz")))


def _only_series(folder: Path, asked: Path) -> Path:
    series = [p for p in _volumes(folder) if _frames(p) > 1]
    if len(series) != 1:
        names = ", ".join(p.name for p in series) or ", ".join(p.name for p in _volumes(folder)) or "no volume"
        raise InputError(
            "the folder does not hold exactly one dynamic series", file=asked, field="--dce", found=names,
            expected="one 4-D NIfTI", remedy="Give the file itself.",
        )  # fmt: skip
    return series[0]


def _frames(path: Path) -> int:
    try:
        shape = nib.load(path).shape  # type: ignore[attr-defined]
    except Exception:  # whatever is wrong with a file beside the series is not the user's question here
        return 0
    return int(shape[3]) if len(shape) == 4 else 1


def _convert(source: Path, target: Path) -> str:
    tool = shutil.which("dcm2niix")
    if tool is None:
        raise InputError(
            "the folder holds no NIfTI, and dcm2niix is not installed to convert DICOM", file=source, field="--dce",
            found="a folder", expected="a 4-D NIfTI with its sidecar",
            remedy="Install dcm2niix (apt install dcm2niix, or pip install dcm2niix), or convert the scan elsewhere.",
        )  # fmt: skip
    command = [tool, "-z", "y", "-b", "y", "-f", "series_%s", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not _volumes(target):
        raise InputError(
            "dcm2niix could not convert the folder", file=source, field="--dce", found=f"exit code {done.returncode}",
            expected="DICOM files of one scan", remedy="Run dcm2niix by hand and give its output.",
        )  # fmt: skip
    first = (done.stdout or "").splitlines()
    return first[0].strip()[:80] if first else "unknown version"
