"""The studies of a cohort: what each gives a fit, and what it lacks.

The studies of a table: one row each, columns named as the options of ``nanopinn fit``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanopinn.cohort.bids import (
    MISSING_VALUES,
    StudyName,
    parse_study_id,
    read_rows,
    validate_label,
)
from nanopinn.errors import InputError
from nanopinn.io.volumes import sidecar_path


@dataclass(frozen=True)
class CohortStudy:
    """One scan of one subject.

    Attributes:
        id: ``sub-01_ses-01``. place: its folder below every output, ``sub-01/ses-01``.
        files: every input file, with sidecars. options: of ``nanopinn fit``, naming its inputs.
        problem: empty, or why it cannot be fitted, in words. about: further columns of its row in a
            participants table.
    """

    id: str
    place: Path
    files: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()
    problem: str = ""
    about: tuple[tuple[str, str], ...] = ()


def find_studies(
    source: str | Path, *, only: Sequence[str] = (), given: Sequence[str] = ()
) -> tuple[CohortStudy, ...]:
    """The studies of a BIDS folder, or of a table with one row per study.

    Nothing is read but names and tables. A study that lacks something, or has it twice, says so in
    :attr:`Study.problem`.

    Args:
        source: a folder of ``sub-*`` folders, or a ``.tsv`` or ``.csv``.
        only: subjects (``sub-01`` or ``01``) or studies (``sub-01_ses-01``) to keep; all if empty.
        given: options of ``nanopinn fit`` that every study gets beside its own, such as ``("--t1",
            "1.4")``.

    Raises:
        InputError: nothing is found, a name cannot be used safely, or ``only`` names none of them.
    """
    from nanopinn.cohort.bids_studies import read_bids_studies

    source = Path(source).absolute()
    if source.is_dir():
        found = read_bids_studies(source, tuple(given))
    elif source.suffix.lower() in (".tsv", ".csv"):
        found = read_table_studies(source, tuple(given))
    else:
        raise InputError(
            "no such dataset",
            file=source,
            found=source.name,
            expected="a BIDS folder, or a .tsv or .csv with one row per study",
            remedy="Check the path.",
        )
    _require_distinct_ids(found, source)
    return _select_studies(found, tuple(only), source)


def _require_distinct_ids(studies: Sequence[CohortStudy], source: Path) -> None:
    """Refuse ids that are the same, also where capitals do not count: two studies would share a
    folder.
    """
    seen: dict[str, str] = {}
    for s in studies:
        if s.id.casefold() in seen:
            raise InputError(
                "two studies have one name",
                file=source,
                field="participant_id, session_id",
                found=f"{seen[s.id.casefold()]} and {s.id}",
                expected="names that differ by more than capitals",
                remedy="Rename one, or tell them apart by session_id.",
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


NO_DCE_SERIES = "no DCE series"


def build_cohort_study(
    name: StudyName,
    inputs: Sequence[tuple[str, str]],
    problems: Sequence[str],
    given: Sequence[str],
    *,
    unusable_options: Iterable[str] = (),
    about: Sequence[tuple[str, str]] = (),
) -> CohortStudy:
    """A study from its inputs, with what it lacks.

    Args:
        inputs: option and value; paths are absolute, and one may stand behind ``mask:``.
        problems: what is known to be wrong. given: options that every study gets.
        unclear: options that have files, but not such as can be used. about: further columns.

    Raises:
        InputError: a path holds a line break or another control character.
    """
    for option, value in inputs:
        if any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise InputError(
                "a path with a control character cannot be used",
                field=option,
                found=ascii(value[-80:]),
                remedy="Rename it.",
            )
    paths = [
        Path(v.removeprefix("mask:")) for _, v in inputs if v.removeprefix("mask:").startswith("/")
    ]
    files = [f for p in paths for f in (_files_in(p) if os.path.isdir(p) else [p])]
    sidecars = [s for f in files if os.path.isfile(s := sidecar_path(f))]
    said = [
        *problems,
        *missing_inputs({o for o, _ in inputs} | set(unusable_options), frozenset(given)),
    ]
    options = tuple(word for pair in inputs for word in pair)
    return CohortStudy(
        name.id,
        name.place,
        tuple(dict.fromkeys([*files, *sidecars])),
        options,
        "; ".join(said),
        tuple(about),
    )


def _files_in(folder: Path) -> list[Path]:
    """Files of a folder of DICOM or of dcm2niix; not of the folders below it, which may be a disk."""
    try:
        return sorted(p for p in folder.iterdir() if p.is_file())
    except OSError:
        return []


def missing_inputs(own: set[str], given: frozenset[str]) -> list[str]:
    """What a fit needs and does not get, from the study's own options and those given to all."""
    said = [] if "--dce" in own else [NO_DCE_SERIES]
    if not {"--cest", "--assume-ph"} & (own | given):
        said.append("no pH map or Z-spectra, and no --assume-ph")
    t1 = sorted({"--vfa", "--ir", "--t1"} & (own | given))
    if not t1:
        said.append("no native T1: neither a flip-angle set, inversion times, a T1 map nor --t1")
    if len(t1) > 1:
        said.append(f"native T1 is given {len(t1)} times ({', '.join(t1)}); one is needed")
    said += [f"{option} is its own and given to all" for option in sorted(own & given)]
    return said


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
        InputError: the table cannot be read, holds no row or no column ``participant_id`` or
            ``dce``, or a label or value that cannot be used safely.
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
    """Refuse images in a column that no fit reads: ``masks`` for ``mask`` would be missed without a
    word.

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
