"""A table as a file: TSV for its rows alone, JSON with what is said of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanopinn.errors import InputError
from nanopinn.imaging.io import sync_folder, write_bytes, write_json
from nanopinn.report.claim import reserve_output_file

if TYPE_CHECKING:
    from nanopinn.inference.plan import Plan

SUFFIXES = (".json", ".tsv")


@contextmanager
def reserve_table_file(out: Path | None, *, overwrite: bool) -> Iterator[None]:
    """Hold a file for a table, before anything is computed and until it is written; None: there will be none.

    Raises:
        InputError: it is neither JSON nor TSV by its name.
        OutputError: it exists and ``overwrite`` is false, another run is writing it, or its folder cannot be written.
    """
    if out is None:
        yield
        return
    if out.suffix not in SUFFIXES:
        raise InputError(
            "not a file for a table",
            file=out,
            field="--out",
            found=out.suffix,
            expected=" or ".join(SUFFIXES),
        )
    with reserve_output_file(out, overwrite=overwrite):
        yield


def write_table(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    *,
    name: str = "rows",
    overwrite: bool = False,
) -> Path:
    """Write a table, all or nothing.

    Args:
        said: what a JSON file holds beside the rows, which stand under ``name``.

    Raises:
        InputError, OutputError: see :func:`reserve_table_file`.
    """
    with reserve_table_file(out, overwrite=overwrite):
        if out.suffix == ".json":
            write_json(out, {**metadata, name: [dict(r) for r in rows]})
        else:
            write_bytes(out, format_tsv(rows))
        sync_folder(out.absolute().parent)
    return out


def format_tsv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> bytes:
    """Rows as a TSV: one line each, whatever stands in a cell; nothing and NaN are ``n/a``, as BIDS has it.

    Args:
        heads: of the columns; those of the first row if not given.
    """
    columns = columns or tuple(rows[0])
    lines = [
        "\t".join(_cell(h) for h in columns),
        *("\t".join(_cell(row[h]) for h in columns) for row in rows),
    ]
    return ("\n".join(lines) + "\n").encode()


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    return "n/a" if value is None or value != value or not text else text


def write_plan(
    out: Path, plan: Plan, settings: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write a plan: one row per unknown and addition; as JSON with protocol, settings and words too.

    Raises:
        InputError, OutputError: see :func:`reserve_table_file`.
    """
    metadata = {
        "protocol": list(plan.protocol),
        "settings": dict(settings),
        "in_words": plan.describe(),
        "seconds": plan.seconds,
    }
    return write_table(out, plan.table(), metadata, name="expected", overwrite=overwrite)
