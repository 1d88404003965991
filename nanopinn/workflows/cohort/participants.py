"""What is known of the participants beside their scans: age, group, ...: read, and carried to the results."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.imaging.given import read_text
from nanopinn.workflows.cohort.names import StudyName

#: A cohort's table is small; a file of images under its name is not read into memory.
MAX_TABLE_BYTES = 20_000_000
MISSING_VALUES = ("", "n/a")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a TSV or CSV by its heads.

    Raises:
        InputError: it is no text, too large, has a column twice, a row of another length, or a control character.
    """
    if path.is_file() and path.stat().st_size > MAX_TABLE_BYTES:
        raise InputError(
            "the table is too large",
            file=path,
            found=f"{path.stat().st_size} bytes",
            expected=f"up to {MAX_TABLE_BYTES}",
        )
    text = read_text(path)
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter="," if path.suffix.lower() == ".csv" else "\t",
            strict=True,
        )
        rows = [
            [cell.strip(" ") for cell in row] for row in reader if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise InputError(
            "the table cannot be read", file=path, found=str(error), expected="one row per study"
        ) from error
    heads = rows[0] if rows else []
    if not heads or len(set(heads)) != len(heads) or "" in heads:
        raise InputError(
            "the table's heads are wrong",
            file=path,
            found=", ".join(heads)[:200] or "nothing",
            expected="names that differ",
        )
    for number, row in enumerate(rows, 1):
        if len(row) != len(heads):
            raise InputError(
                "a row has another length than the heads",
                file=path,
                field=f"row {number}",
                found=len(row),
                expected=str(len(heads)),
            )
        for head, cell in zip(heads, row, strict=True):
            if any(ord(c) < 32 or ord(c) == 127 for c in cell):
                raise InputError(
                    "a line break or control character cannot be used",
                    file=path,
                    field=f"row {number}, {head!a}",
                    found=ascii(cell[:80]),
                    remedy="Remove it.",
                )
    return [dict(zip(heads, row, strict=True)) for row in rows[1:]]


@dataclass(frozen=True)
class Participants:
    """Further columns by participant, and session where the table has one."""

    columns: tuple[str, ...] = ()
    rows: Mapping[tuple[str, str], tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def columns_for(self, name: StudyName) -> tuple[tuple[str, str], ...]:
        """Columns and values of a study."""
        return self.rows.get((name.sub, name.ses), self.rows.get((name.sub, ""), ()))


def read_participants(path: Path) -> Participants:
    """A ``participants.tsv``; nothing where there is none.

    Raises:
        InputError: see :func:`read_rows`.
    """
    if not path.is_file():
        return Participants()
    table = read_rows(path)
    columns = tuple(
        k for k in (table[0] if table else ()) if k not in ("participant_id", "session_id")
    )
    rows = {
        (_entity_label(r, "participant_id", "sub-"), _entity_label(r, "session_id", "ses-")): tuple(
            (k, r[k]) for k in columns
        )
        for r in table
    }
    return Participants(columns, rows)


def _entity_label(row: Mapping[str, str], column: str, entity: str) -> str:
    cell = row.get(column, "")
    return "" if cell in MISSING_VALUES else cell.removeprefix(entity)
