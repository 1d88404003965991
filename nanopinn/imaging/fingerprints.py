"""What was read, by name and SHA-256: for provenance, and to tell a file that was changed from the one that was given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.imaging.io import sidecar_path


def hash_files(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files and their sidecars, by name without folder; a second file of one name is told from the first by a number.

    What is not there is left out: who reads it says so better.

    Raises:
        InputError: a file is there and cannot be read.
    """
    found: dict[str, str] = {}
    for file in dict.fromkeys(f for given in files for f in (given, sidecar_path(given))):
        if file.is_file():
            found[_unique_name(file.name, found)] = _sha256(file)
    return found


def check_files_unchanged(before: Mapping[str, str], files: Iterable[Path]) -> None:
    """Refuse to go on with what may be neither the old nor the new content of a file.

    Args:
        before: of the same files, from before they were read.

    Raises:
        InputError: one was changed or removed while it was read.
    """
    now = hash_files(files)
    for name in (*before, *now):
        if before.get(name) != now.get(name):
            found = (
                "changed"
                if name in before and name in now
                else "removed"
                if name in before
                else "new"
            )
            raise InputError(
                "the file was changed or removed while it was read",
                file=name,
                found=found,
                expected="the same bytes throughout",
                remedy="Put it back and start again; what was reached is kept where --resume finds it.",
            )


def _unique_name(name: str, taken: Mapping[str, str]) -> str:
    numbered = (f"{name} ({k})" for k in range(2, len(taken) + 3))
    return name if name not in taken else next(n for n in numbered if n not in taken)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            "the file cannot be read",
            file=file,
            found=error.strerror,
            remedy="Check its permissions.",
        ) from error
