"""The studies of a BIDS folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanopinn.cohort.bids import (
    EXPECTED_LAYOUT,
    BidsFileName,
    Participants,
    Role,
    StudyName,
    find_role,
    parse_name,
    read_participants,
    validate_label,
)
from nanopinn.cohort.study_table import NO_DCE_SERIES, CohortStudy, build_cohort_study
from nanopinn.errors import InputError
from nanopinn.io.volumes import sidecar_path


@dataclass(frozen=True)
class _ClassifiedFile:
    """A file with its role."""

    name: BidsFileName
    role: Role

    @property
    def run(self) -> str:
        """Number of its repeat without leading zeros; empty if it has none."""
        run = self.name.entities.get("run", "")
        return run.lstrip("0") or run[-1:]


def read_bids_studies(source: Path, given: Sequence[str]) -> tuple[CohortStudy, ...]:
    """Every session of every subject, in order of their names.

    Raises:
        InputError: no subject has a DCE series, a name cannot be used, or the folder cannot be
            read.
    """
    if _made_by_nanopinn(source):
        raise InputError(
            "the folder holds results of nanopinn, not scans",
            file=source,
            expected="the dataset that was scanned",
            remedy="Give the folder that the results were made from.",
        )
    participants = read_participants(source / "participants.tsv")
    try:
        derived = [d for d in _list_folders(source / "derivatives") if not _made_by_nanopinn(d)]
        subjects = _list_entity_folders(source, "sub")
    except OSError as error:
        raise InputError(
            "the folder cannot be read",
            file=source,
            found=error.strerror,
            remedy="Check its permissions.",
        ) from error
    found = [
        s
        for subject in subjects
        for s in _studies_of_subject(subject, derived, participants, given)
    ]
    if all(NO_DCE_SERIES in s.problem for s in found):
        raise InputError(
            "no study is found",
            file=source,
            found=f"{len(found)} sessions without a DCE series" if found else "no folder sub-*",
            expected=EXPECTED_LAYOUT,
            remedy="Name the files so, or give a table with one row per study.",
        )
    return tuple(found)


def _list_folders(place: Path) -> list[Path]:
    try:
        with os.scandir(place) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir())
    except FileNotFoundError:
        return []


def _list_entity_folders(place: Path, entity: str) -> list[Path]:
    """Folders ``sub-*`` or ``ses-*``.

    Raises:
        InputError: one has a label that cannot be used.
    """
    folders = [f for f in _list_folders(place) if f.name.startswith(f"{entity}-")]
    for f in folders:
        validate_label(f.name, entity, place)
    return folders


def _made_by_nanopinn(dataset: Path) -> bool:
    """Whether a dataset is what an earlier run wrote: its maps must not become the inputs of the
    next.
    """
    try:
        about = json.loads((dataset / "dataset_description.json").read_text(encoding="utf-8"))
        return any(g.get("Name") == "nanopinn" for g in about.get("GeneratedBy", []))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def _studies_of_subject(
    subject: Path, derived: Sequence[Path], participants: Participants, given: Sequence[str]
) -> list[CohortStudy]:
    whole_subject = StudyName(subject.name.removeprefix("sub-"))
    try:
        sessions = _list_entity_folders(subject, "ses")
        names = [StudyName(whole_subject.sub, s.name.removeprefix("ses-")) for s in sessions]
        found = [
            s
            for n, place in zip(names, sessions, strict=True)
            for s in _studies_of_session(n, place, derived, participants, given)
        ]
        return found + [
            s
            for s in _studies_of_session(whole_subject, subject, derived, participants, given)
            if not sessions or s.files
        ]
    except OSError as error:
        return [
            CohortStudy(
                whole_subject.id,
                whole_subject.place,
                problem=f"its folder cannot be read: {error.strerror}",
                about=participants.columns_for(whole_subject),
            )
        ]


def _studies_of_session(
    name: StudyName,
    place: Path,
    derived: Sequence[Path],
    participants: Participants,
    given: Sequence[str],
) -> list[CohortStudy]:
    """The study of a session; several where its DCE series are numbered and every file says to
    which it belongs.
    """
    files = _files(name, place, derived)
    series = sorted(
        (f for f in files if f.role.option == "--dce"), key=lambda f: (len(f.run), f.run)
    )
    runs, about = [f.run for f in series], participants.columns_for(name)
    if len(set(runs)) < 2 or "" in runs:
        return [_build_study(name, files, given, about)]
    files_without_run = [f for f in files if f.run not in runs]
    if files_without_run:
        return [
            _build_study(
                name,
                files,
                given,
                about,
                f"{len(series)} DCE series, but {_format_file_names(files_without_run)} say not of"
                " which (run)",
            )
        ]
    own = {f.run: StudyName(name.sub, name.ses, f.name.entities["run"]) for f in series}
    return [
        _build_study(n, [f for f in files if f.run == run], given, about) for run, n in own.items()
    ]


def _files(name: StudyName, place: Path, derived: Sequence[Path]) -> list[_ClassifiedFile]:
    """Files with a role: those of the session, and what others derived from it."""
    found = [
        _ClassifiedFile(n, role)
        for n in _parse_file_names(_list_folders(place))
        if (role := find_role(n))
    ]
    for dataset in derived:
        names = _parse_file_names(_list_folders(dataset / name.place))
        found += [
            _ClassifiedFile(n, role) for n in names if (role := find_role(n)) and role.derived
        ]
    return found


def _parse_file_names(folders: Iterable[Path]) -> list[BidsFileName]:
    """Files of data folders whose names follow the grammar; sessions are no data folders."""
    data = [f for f in folders if not f.name.startswith("ses-")]
    paths = [Path(folder, name) for folder in data for name in sorted(os.listdir(folder))]
    return [n for p in paths if (n := parse_name(p))]


def _build_study(
    name: StudyName,
    files: Sequence[_ClassifiedFile],
    given: Sequence[str],
    about: Sequence[tuple[str, str]],
    *problems: str,
) -> CohortStudy:
    said, inputs = list(problems), []
    misplaced = [
        f
        for f in files
        if (f.name.entities.get("sub"), f.name.entities.get("ses", "")) != (name.sub, name.ses)
    ]
    unreadable = [f for f in files if not f.name.path.is_file()]
    said += [f"{_format_file_names(misplaced)} in the folder of {name.id}"] if misplaced else []
    said += (
        [f"{_format_file_names(unreadable)} cannot be read (a link to nothing?)"]
        if unreadable
        else []
    )
    usable = [f for f in files if f not in misplaced and f not in unreadable]
    for option in dict.fromkeys(f.role.option for f in usable):
        own = [f for f in usable if f.role.option == option]
        if (same := _find_ambiguous_files(own)) and not problems:
            said.append(
                f"{len(same)} files for {option} ({_format_file_names(same)}) where one is needed"
            )
        elif not same:
            inputs += [(option, f"{f.role.value_prefix}{f.name.path}") for f in own]
    said += _describe_missing_sidecars(usable, given)
    return build_cohort_study(
        name, inputs, said, given, unusable_options=[f.role.option for f in files], about=about
    )


def _find_ambiguous_files(own: Sequence[_ClassifiedFile]) -> list[_ClassifiedFile]:
    """Files of one option that stand for the same thing, none or several."""
    distinguishing_entity = own[0].role.distinguishing_entity
    labels = [f.name.entities.get(distinguishing_entity, "") for f in own]
    return (
        []
        if distinguishing_entity == "any"
        else [f for f, label in zip(own, labels, strict=True) if labels.count(label) > 1]
    )


def _describe_missing_sidecars(files: Sequence[_ClassifiedFile], given: Sequence[str]) -> list[str]:
    """A DCE series whose timing and flip angle stand nowhere that a fit looks."""
    missing = [
        f for f in files if f.role.option == "--dce" and not sidecar_path(f.name.path).is_file()
    ]
    return (
        [f"{_format_file_names(missing)} without a sidecar of its own (none is inherited)"]
        if missing and "--tr" not in given
        else []
    )


def _format_file_names(files: Sequence[_ClassifiedFile]) -> str:
    return ", ".join(f.name.path.name for f in files[:3]) + (
        f" and {len(files) - 3} more" if len(files) > 3 else ""
    )
