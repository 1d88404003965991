"""A table of text (TSV or CSV): one header, and columns of numbers by name."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.given import read_text

#: More rows than any curve or list of offsets has.
MAX_ROWS = 100_000
_DECIMAL = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True)
class Table:
    """Header and rows as they stand in a file, empty rows left out."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[list[str], ...]

    def numbers(self, column: str, problem: str) -> NDArray[np.float64]:
        """A column ``(row,)``; ``problem`` opens the error.

        Raises:
            InputError: the column stands twice, or a row holds no finite decimal number there.
        """
        if self.header.count(column) > 1:
            raise InputError(
                problem,
                file=self.path,
                field=column,
                found="two columns",
                expected="one",
                remedy="Remove the wrong one.",
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


def read_table(path: Path) -> Table:
    """A table whose columns are parted by tabs if its first line has one, else by commas.

    Raises:
        InputError: as :func:`nanopinn.imaging.given.read_text`, or it is no table or too long a one.
    """
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
            remedy="Thin it out.",
        )
    return Table(path, tuple(rows[0]) if rows else (), tuple(rows[1:]))
