"""The studies of a cohort: what each gives a fit, and what it lacks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.imaging.io import sidecar_path
from nanopinn.workflows.cohort.names import StudyName, parse_study_id


@dataclass(frozen=True)
class CohortStudy:
    """One scan of one subject.

    Attributes:
        id: ``sub-01_ses-01``. place: its folder below every output, ``sub-01/ses-01``.
        files: every input file, with sidecars. options: of ``nanopinn fit``, naming its inputs.
        problem: empty, or why it cannot be fitted, in words. about: further columns of its row in a participants table.
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

    Nothing is read but names and tables. A study that lacks something, or has it twice, says so in :attr:`Study.problem`.

    Args:
        source: a folder of ``sub-*`` folders, or a ``.tsv`` or ``.csv``.
        only: subjects (``sub-01`` or ``01``) or studies (``sub-01_ses-01``) to keep; all if empty.
        given: options of ``nanopinn fit`` that every study gets beside its own, such as ``("--t1", "1.4")``.

    Raises:
        InputError: nothing is found, a name cannot be used safely, or ``only`` names none of them.
    """
    from nanopinn.workflows.cohort.folder import read_bids_studies
    from nanopinn.workflows.cohort.table import read_table_studies

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
    """Refuse ids that are the same, also where capitals do not count: two studies would share a folder."""
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
