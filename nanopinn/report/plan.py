"""The file of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError, OutputError
from nanopinn.imaging.io import write_bytes, write_json
from nanopinn.inference.plan import Plan

SUFFIXES = (".json", ".tsv")


def claim_plan_file(out: Path, *, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before anything is computed.

    Raises:
        InputError: it is neither JSON nor TSV by its name.
        OutputError: it exists and ``overwrite`` is false.
    """
    if out.suffix not in SUFFIXES:
        raise InputError("not a file for a plan", file=out, field="--out", found=out.suffix, expected=" or ".join(SUFFIXES))
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already. Give another file to --out, or --overwrite.")


def write_plan(out: Path, plan: Plan, settings: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write a plan, all or nothing: its table, one row per unknown and addition; as JSON with protocol, settings and words too.

    Raises:
        InputError, OutputError: see :func:`claim_plan_file`.
    """
    claim_plan_file(out, overwrite=overwrite)
    rows = plan.table()
    if out.suffix == ".json":
        said = {"protocol": list(plan.protocol), "settings": dict(settings), "in_words": plan.in_words(), "seconds": plan.seconds}
        write_json(out, {**said, "expected": [dict(r) for r in rows]})
    else:
        lines = ["\t".join(rows[0]), *("\t".join(str(v) for v in row.values()) for row in rows)]
        write_bytes(out, ("\n".join(lines) + "\n").encode())
    return out
