"""Series in a folder: the output of dcm2niix, or DICOM files that dcm2niix converts."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.io.array_volume import ArrayVolume, VolumeSource
from nanopinn.io.nifti import read_shape
from nanopinn.io.safe_open import is_file, is_folder
from nanopinn.io.volumes import read_header

#: Largest number of files of one scan.
MAX_FILES = 50_000
#: Time after which a conversion is stopped, s.
_CONVERSION_TIMEOUT_S = 1800.0


@contextmanager
def open_series(path: VolumeSource) -> Iterator[tuple[Path | ArrayVolume, list[str]]]:
    """Find the 4-D volume of a file, a folder or a series in memory.

    A folder may contain the output of dcm2niix (a NIfTI file and its JSON). Otherwise it is taken
    as DICOM and converted by dcm2niix, if that is installed, into a temporary folder.

    Args:
        path: file, folder or series in memory.

    Yields:
        The volume, and sentences on its conversion.

    Raises:
        InputError: the folder contains no series or several, or dcm2niix is missing or fails.
    """
    if isinstance(path, ArrayVolume):
        yield path, []
        return
    path = Path(path)
    if not is_folder(path):
        yield path, []
    elif _volumes(path):
        yield _find_single_series(path, path), []
    else:
        with tempfile.TemporaryDirectory(prefix="nanopinn-dicom-") as folder:
            version = _convert(path, Path(folder))
            yield (
                _find_single_series(Path(folder), path),
                [f"The series was converted from DICOM by dcm2niix ({version})."],
            )


def list_scan_files(path: VolumeSource) -> list[Path | ArrayVolume]:
    """List the files of a scan for provenance; links to folders are not followed.

    Args:
        path: file, folder or series in memory.

    Raises:
        InputError: a folder contains more files than a scan has, or cannot be read.
    """
    if isinstance(path, ArrayVolume):
        return [path]
    path = Path(path)
    if not is_folder(path):
        return [path]
    found: list[Path] = []
    for folder, _, names in os.walk(path, onerror=_raise_unreadable):
        found += [file for file in (Path(folder, name) for name in names) if is_file(file)]
        if len(found) > MAX_FILES:
            raise InputError(
                "the folder contains more files than a scan has",
                file=path,
                field="dce",
                found=f"more than {MAX_FILES} files",
                expected="the files of one scan",
                remedy="Give the folder of that scan alone.",
            )
    return list(sorted(found))


def _raise_unreadable(error: OSError) -> None:
    raise InputError(
        "the folder cannot be read",
        file=error.filename,
        found=error.strerror,
        remedy="Check its permissions.",
    ) from error


def _volumes(folder: Path) -> list[Path]:
    """NIfTI files of a folder, by name."""
    try:
        return sorted(p for p in folder.iterdir() if p.name.endswith((".nii", ".nii.gz")))
    except OSError as error:
        raise InputError(
            "the folder cannot be read",
            file=folder,
            found=error.strerror,
            remedy="Check its permissions.",
        ) from error


def _find_single_series(folder: Path, asked: Path) -> Path:
    """The only file of a folder with several frames."""
    series = [p for p in _volumes(folder) if _frames(p) > 1]
    if len(series) != 1:
        names = (
            ", ".join(p.name for p in series)
            or ", ".join(p.name for p in _volumes(folder))
            or "no volume"
        )
        raise InputError(
            "the folder does not contain exactly one dynamic series",
            file=asked,
            field="dce",
            found=names,
            expected="one 4-D NIfTI",
            remedy="Give the file of the series.",
        )
    return series[0]


def _frames(path: Path) -> int:
    """Number of frames by the header; 0 if it cannot be read."""
    try:
        shape = read_shape(read_header(path))
    except InputError:  # errors of files beside the series do not matter here
        return 0
    return shape[3] if len(shape) == 4 else 1


def _convert(source: Path, target: Path) -> str:
    """Convert DICOM by dcm2niix and return its version."""
    tool = shutil.which("dcm2niix")
    if tool is None:
        raise InputError(
            "the folder contains no NIfTI file, and dcm2niix is not installed to convert DICOM",
            file=source,
            field="dce",
            found="a folder",
            expected="a 4-D NIfTI with its sidecar",
            remedy=(
                "Install dcm2niix, which package managers of operating systems and of Python"
                " offer, or convert the scan elsewhere."
            ),
        )
    list_scan_files(source)
    # an absolute path: the name of a folder may begin like an option
    command = [
        tool,
        "-z",
        "y",
        "-b",
        "y",
        "-f",
        "series_%s",
        "-o",
        str(target),
        str(source.absolute()),
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            check=False,
            timeout=_CONVERSION_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            "dcm2niix did not finish with the folder in time",
            file=source,
            field="dce",
            found=f"{_CONVERSION_TIMEOUT_S:g} s",
            expected="DICOM files of one scan",
            remedy="Run dcm2niix by hand and give its output.",
        ) from error
    if done.returncode != 0 or not _volumes(target):
        raise InputError(
            "dcm2niix could not convert the folder",
            file=source,
            field="dce",
            found=f"exit code {done.returncode}",
            expected="DICOM files of one scan",
            remedy="Run dcm2niix by hand and give its output.",
        )
    first = (done.stdout or "").splitlines()
    return first[0].strip()[:80] if first else "unknown version"
