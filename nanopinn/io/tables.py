"""Tables of text (TSV or CSV) with named columns of numbers, and SHA-256 hashes of input files.

The hashes are for provenance and reveal files that change while they are read.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.io.array_volume import ArrayVolume, hash_array
from nanopinn.io.safe_open import read_text
from nanopinn.io.volumes import sidecar_path

#: Largest number of rows of a curve or a list of offsets.
MAX_ROWS = 100_000
_DECIMAL = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True)
class Table:
    """Header and rows of a table.

    Attributes:
        path: the file, or the name of the argument of a table in memory.
        header: names of the columns.
        rows: cells as text, without empty rows.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[list[str], ...]

    def numbers(self, column: str, problem: str) -> NDArray[np.float64]:
        """Numbers of a column, ``(row,)``.

        Args:
            column: its name.
            problem: first words of an error.

        Raises:
            InputError: the column occurs twice, or a cell is not a finite decimal number.
        """
        if self.header.count(column) > 1:
            raise InputError(
                problem,
                file=self.path,
                field=column,
                found="two columns",
                expected="one",
                remedy="Remove one of them.",
            )
        at = self.header.index(column)
        cells = [row[at] if at < len(row) else "" for row in self.rows]
        found = np.array(
            [float(c) if _DECIMAL.fullmatch(c) else np.nan for c in cells], dtype=np.float64
        )
        if not np.isfinite(found).all():
            wrong = int(np.argmin(np.isfinite(found)))
            raise InputError(
                problem,
                file=self.path,
                field=column,
                found=f"{cells[wrong][:40]!r} in row {wrong + 1}",
                expected="decimal numbers",
                remedy="Correct the table.",
            )
        return found


def table_from_columns(columns: Mapping[str, Any], name: str) -> Table:
    """Make a table of columns in memory.

    Args:
        columns: numbers ``(row,)`` by name.
        name: argument that they were given for, which refusals name.

    Raises:
        InputError: columns differ in length, or one is not a list of numbers.
    """
    values = {str(k): np.asarray(v) for k, v in columns.items()}
    if len({v.shape for v in values.values()}) > 1 or any(v.ndim != 1 for v in values.values()):
        raise InputError(
            "the columns of the table differ in length",
            field=name,
            found=", ".join(f"{k} {v.shape}" for k, v in values.items()),
            expected="lists of equal length",
            remedy="Give one value per row in every column.",
        )
    # repr of a float reads back as the same float
    rows = zip(*([repr(n) for n in v.tolist()] for v in values.values()), strict=True)
    return Table(Path(name), tuple(values), tuple(list(row) for row in rows))


def read_table(path: Path | Table) -> Table:
    """Read a table separated by tabs if its first line has one, else by commas.

    Args:
        path: the file; a table in memory is returned unchanged.

    Raises:
        InputError: as :func:`nanopinn.io.safe_open.read_text`, or it is not a table or too long.
    """
    if isinstance(path, Table):
        return path
    text = read_text(path)
    lines = text.splitlines()
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error as error:
        raise InputError(
            "the table cannot be read",
            file=path,
            found=str(error),
            expected="TSV or CSV",
            remedy="Correct it.",
        ) from error
    if len(rows) > MAX_ROWS + 1:
        raise InputError(
            "the table is too long",
            file=path,
            field="rows",
            found=len(rows) - 1,
            expected=f"at most {MAX_ROWS}",
            remedy="Reduce the number of rows.",
        )
    return Table(path, tuple(rows[0]) if rows else (), tuple(rows[1:]))


def hash_files(files: Iterable[Path | ArrayVolume | Table]) -> dict[str, str]:
    """Compute the SHA-256 of files and their sidecars.

    Missing files are left out, because their readers report them.

    Args:
        files: files, and volumes and tables in memory.

    Returns:
        Hashes by file name without folder, or by the name of the argument in memory; further files
        of the same name have a number.

    Raises:
        InputError: a file cannot be read.
    """
    found: dict[str, str] = {}
    paths = []
    for given in files:
        if isinstance(given, ArrayVolume):
            found[_unique_name(given.name, found)] = hash_array(given)
        elif isinstance(given, Table):
            content = repr((given.header, given.rows)).encode()
            found[_unique_name(str(given.path), found)] = hashlib.sha256(content).hexdigest()
        else:
            paths += [given, sidecar_path(given)]
    for file in dict.fromkeys(paths):
        if file.is_file():
            found[_unique_name(file.name, found)] = _sha256(file)
    return found


def check_files_unchanged(
    before: Mapping[str, str], files: Iterable[Path | ArrayVolume | Table]
) -> None:
    """Refuse files that changed while they were read.

    Args:
        before: hashes from before the files were read.
        files: the same files.

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
                remedy="Restore it and run again; `resume` continues from the last checkpoint.",
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
