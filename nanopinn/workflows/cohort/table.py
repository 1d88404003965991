"""The studies of a table: one row each, columns named as the options of ``nanopinn fit``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.workflows.cohort.names import StudyName, validate_label
from nanopinn.workflows.cohort.participants import MISSING_VALUES, read_rows
from nanopinn.workflows.cohort.studies import CohortStudy, build_cohort_study

FILE_COLUMNS = ("dce", "cest", "cest_pre", "cest_power2", "offsets", "b0", "mask", "b1")
FILE_LIST_COLUMNS = ("vfa", "ir", "drug")
#: A file where there is one of that name; else a name or number that the option knows.
FILE_OR_VALUE_COLUMNS = ("t1", "aif", "agent", "ph_calibration")
TEXT_COLUMNS = (
    "assume_ph",
    "cest_contrast",
    "ph_method",
    "register",
    "t1_method",
    "relation",
    "aif_dispersion",
    "blood_t1",
    "delay",
    "orientation",
    "flip_angle",
    "tr",
    "frame_spacing",
    "relaxivity",
    "dose",
    "baseline_frames",
    "bolus_arrival",
    "hematocrit",
)
_IMAGE_ENDINGS = (".nii", ".nii.gz")


def read_table_studies(source: Path, given: Sequence[str]) -> tuple[CohortStudy, ...]:
    """The study of every row.

    Raises:
        InputError: the table cannot be read, holds no row or no column ``participant_id`` or ``dce``, or a label or value that cannot
            be used safely.
    """
    rows = read_rows(source)
    if not rows or not {"participant_id", "dce"} <= rows[0].keys():
        raise InputError(
            "no study is found",
            file=source,
            found=", ".join(rows[0]) if rows else "no row",
            expected="a row per study with the columns participant_id and dce",
            remedy="Name the columns so.",
        )
    return tuple(_study_from_row(row, source, given) for row in rows)


def _study_from_row(row: Mapping[str, str], source: Path, given: Sequence[str]) -> CohortStudy:
    session = row.get("session_id", "")
    name = StudyName(
        validate_label(row["participant_id"], "sub", source),
        "" if session in MISSING_VALUES else validate_label(session, "ses", source),
    )
    inputs: list[tuple[str, str]] = []
    about: list[tuple[str, str]] = []
    for column, cell in row.items():
        if column in (*FILE_COLUMNS, *FILE_LIST_COLUMNS, *FILE_OR_VALUE_COLUMNS, *TEXT_COLUMNS):
            inputs += [
                (f"--{column.replace('_', '-')}", v) for v in _option_values(column, cell, source)
            ]
        elif column not in ("participant_id", "session_id"):
            _refuse_image_in_unknown_column(column, cell, source)
            about.append((column, cell))
    paths = [Path(v.removeprefix("mask:")) for _, v in inputs]
    missing = [p.name for p in paths if p.is_absolute() and not os.path.exists(p)]
    return build_cohort_study(
        name, inputs, [f"no such file: {', '.join(missing)}"] if missing else [], given, about=about
    )


def _option_values(column: str, cell: str, source: Path) -> list[str]:
    """What a cell gives its option: absolute paths, or a word."""
    if cell in MISSING_VALUES:
        return []
    parts = (
        [p.strip() for p in cell.split(";") if p.strip()] if column in FILE_LIST_COLUMNS else [cell]
    )
    if column in (*FILE_COLUMNS, *FILE_LIST_COLUMNS):
        return [_absolute_path(p, source) for p in parts]
    if column == "aif" and cell.startswith("mask:"):
        return [f"mask:{_absolute_path(cell.removeprefix('mask:'), source)}"]
    if column in FILE_OR_VALUE_COLUMNS and ("/" in cell or os.path.exists(source.parent / cell)):
        return [_absolute_path(cell, source)]
    if cell.startswith("-"):
        raise InputError(
            "a value cannot begin with a dash",
            file=source,
            field=column,
            found=ascii(cell[:80]),
            remedy="Correct it.",
        )
    return [cell]


def _absolute_path(text: str, source: Path) -> str:
    """A path as the table means it, beside the table, made absolute."""
    return os.path.normpath(source.parent / text)


def _refuse_image_in_unknown_column(column: str, cell: str, source: Path) -> None:
    """Refuse images in a column that no fit reads: ``masks`` for ``mask`` would be missed without a word.

    Raises:
        InputError: the cell names an image.
    """
    if cell.lower().endswith(_IMAGE_ENDINGS):
        known = ", ".join((*FILE_COLUMNS, *FILE_LIST_COLUMNS, "t1", "aif"))
        raise InputError(
            "a column of images is not known",
            file=source,
            field=ascii(column),
            found=cell[-80:],
            expected=known,
            remedy="Rename it.",
        )
