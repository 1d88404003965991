"""Find the studies of a cohort: in a BIDS folder, or in a table with one row per study.

The columns of a table are named as the options of a fit, with underscores.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nanopinn.cohort.bids import (
    MISSING_VALUES,
    StudyName,
    parse_study_id,
    read_rows,
    validate_label,
)
from nanopinn.cohort.bids_studies import (
    MASK_PREFIX,
    CohortStudy,
    build_cohort_study,
    read_bids_studies,
)
from nanopinn.errors import InputError

FILE_COLUMNS = (
    "dce",
    "cest",
    "cest_pre",
    "cest_power2",
    "offsets",
    "b0",
    "mask",
    "b1",
    "schedule",
    "plasma",
)
FILE_LIST_COLUMNS = ("vfa", "ir", "drug")
#: The cell is a file if one of that name exists; otherwise it is a name or number.
FILE_OR_VALUE_COLUMNS = ("t1", "aif", "agent", "ph_calibration", "formulation")
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
    "contrast_dose",
    "baseline_frames",
    "bolus_arrival",
    "hematocrit",
    "drug_dose",
    "species",
    "body_weight",
    "body_surface",
    "infusion",
)
#: Inputs that distinguish groups of studies, and are copied to the tables of the group too.
GROUP_COLUMNS = ("formulation", "drug_dose", "species")
INPUT_COLUMNS = (*FILE_COLUMNS, *FILE_LIST_COLUMNS, *FILE_OR_VALUE_COLUMNS, *TEXT_COLUMNS)
_IMAGE_ENDINGS = (".nii", ".nii.gz")


def find_studies(
    source: str | Path, *, only: Sequence[str] = (), shared_inputs: Iterable[str] = ()
) -> tuple[CohortStudy, ...]:
    """Find the studies of a BIDS folder, or of a table with one row per study.

    Only names and tables are read. A study that lacks an input, or has it twice, says so in
    :attr:`CohortStudy.problem`.

    Args:
        source: A folder of ``sub-*`` folders, or a ``.tsv`` or ``.csv`` file.
        only: Subjects (``sub-01`` or ``01``) or studies (``sub-01_ses-01``) to keep; all if empty.
        shared_inputs: Names of the inputs that every study gets, such as ``["t1", "assume_ph"]``.

    Raises:
        InputError: No study is found, a name is unsafe, or ``only`` names an unknown study.
    """
    source = Path(source).absolute()
    if source.is_dir():
        found = read_bids_studies(source, frozenset(shared_inputs))
    elif source.suffix.lower() in (".tsv", ".csv"):
        found = read_table_studies(source, frozenset(shared_inputs))
    else:
        raise InputError(
            "no such dataset",
            file=source,
            found=source.name,
            expected="a BIDS folder, or a .tsv or .csv file with one row per study",
            remedy="Check the path.",
        )
    _require_distinct_ids(found, source)
    return _select_studies(found, tuple(only), source)


def _require_distinct_ids(studies: Sequence[CohortStudy], source: Path) -> None:
    """Refuse ids that differ in case at most: the two studies would share a folder."""
    seen: dict[str, str] = {}
    for s in studies:
        if s.id.casefold() in seen:
            raise InputError(
                "two studies have the same name",
                file=source,
                field="participant_id, session_id",
                found=f"{seen[s.id.casefold()]} and {s.id}",
                expected="names that differ in more than upper and lower case",
                remedy="Rename one of them, or give them different values of session_id.",
            )
        seen[s.id.casefold()] = s.id


def _select_studies(
    studies: tuple[CohortStudy, ...], only: tuple[str, ...], source: Path
) -> tuple[CohortStudy, ...]:
    kept: set[str] = set()
    for word in only:
        wanted = parse_study_id(word if word.startswith("sub-") else f"sub-{word}")
        matching = {s.id for s in studies if s.id == wanted.id or s.id.startswith(f"{wanted.id}_")}
        if not matching:
            some = ", ".join(s.id for s in studies[:5]) + (", ..." if len(studies) > 5 else "")
            raise InputError(
                "no such study",
                file=source,
                found=word,
                expected=f"one of {some}",
                remedy="Check the name.",
            )
        kept |= matching
    return tuple(s for s in studies if not only or s.id in kept)


def read_table_studies(source: Path, shared_inputs: frozenset[str]) -> tuple[CohortStudy, ...]:
    """Read one study per row of a table.

    Raises:
        InputError: The table cannot be read, has no row or no column ``participant_id`` or
            ``dce``, or holds an unsafe label or value.
    """
    rows = read_rows(source)
    if not rows or not {"participant_id", "dce"} <= rows[0].keys():
        raise InputError(
            "no study is found",
            file=source,
            found=", ".join(rows[0]) if rows else "no row",
            expected="a row per study with the columns participant_id and dce",
            remedy="Rename the columns.",
        )
    return tuple(_study_from_row(row, source, shared_inputs) for row in rows)


def _study_from_row(
    row: Mapping[str, str], source: Path, shared_inputs: frozenset[str]
) -> CohortStudy:
    session = row.get("session_id", "")
    name = StudyName(
        validate_label(row["participant_id"], "sub", source),
        "" if session in MISSING_VALUES else validate_label(session, "ses", source),
    )
    inputs: list[tuple[str, str]] = []
    other = [(column, row[column]) for column in GROUP_COLUMNS if column in row]
    for column, cell in row.items():
        if column == "dose":
            raise InputError(
                "the dose does not say of what it is",
                file=source,
                field=column,
                found=ascii(cell[:80]),
                expected="contrast_dose in mmol/kg, or drug_dose such as 5mg/kg",
                remedy="Rename the column.",
            )
        if column in INPUT_COLUMNS:
            inputs += [(column, v) for v in _input_values(column, cell, source)]
        elif column not in ("participant_id", "session_id"):
            _refuse_image_in_unknown_column(column, cell, source)
            other.append((column, cell))
    paths = [Path(v.removeprefix(MASK_PREFIX)) for _, v in inputs]
    missing = [p.name for p in paths if p.is_absolute() and not os.path.exists(p)]
    problems = [f"no such file: {', '.join(missing)}"] if missing else []
    return build_cohort_study(name, inputs, problems, shared_inputs, participant_columns=other)


def _input_values(column: str, cell: str, source: Path) -> list[str]:
    """Values that a cell gives its input: absolute paths, or one word."""
    if cell in MISSING_VALUES:
        return []
    parts = (
        [p.strip() for p in cell.split(";") if p.strip()] if column in FILE_LIST_COLUMNS else [cell]
    )
    if column in (*FILE_COLUMNS, *FILE_LIST_COLUMNS):
        return [_absolute_path(p, source) for p in parts]
    if column == "aif" and cell.startswith(MASK_PREFIX):
        return [MASK_PREFIX + _absolute_path(cell.removeprefix(MASK_PREFIX), source)]
    if column in FILE_OR_VALUE_COLUMNS and ("/" in cell or os.path.exists(source.parent / cell)):
        return [_absolute_path(cell, source)]
    if cell.startswith("-"):
        raise InputError(
            "a value cannot begin with a dash",
            file=source,
            field=column,
            found=ascii(cell[:80]),
            remedy="Correct the value.",
        )
    return [cell]


def _absolute_path(text: str, source: Path) -> str:
    """Absolute path of a file that a table names relative to its own folder."""
    return os.path.normpath(source.parent / text)


def _refuse_image_in_unknown_column(column: str, cell: str, source: Path) -> None:
    """Refuse an image in a column that no fit reads, such as ``masks`` for ``mask``.

    Raises:
        InputError: The cell names an image.
    """
    if cell.lower().endswith(_IMAGE_ENDINGS):
        raise InputError(
            "a column of images is not known",
            file=source,
            field=ascii(column),
            found=cell[-80:],
            expected=", ".join((*FILE_COLUMNS, *FILE_LIST_COLUMNS, "t1", "aif")),
            remedy="Rename the column.",
        )
