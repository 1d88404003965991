"""The studies of a BIDS folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.imaging.io import sidecar_path
from nanopinn.workflows.cohort.names import (
    EXPECTED,
    Named,
    Role,
    StudyName,
    label_of,
    parse_name,
    role_of,
)
from nanopinn.workflows.cohort.participants import Participants, read_participants
from nanopinn.workflows.cohort.studies import NO_SERIES, Study, as_study


@dataclass(frozen=True)
class _Found:
    """A file with its role."""

    name: Named
    role: Role

    @property
    def run(self) -> str:
        """Number of its repeat without leading zeros; empty if it has none."""
        run = self.name.entities.get("run", "")
        return run.lstrip("0") or run[-1:]


def studies_of_folder(source: Path, given: Sequence[str]) -> tuple[Study, ...]:
    """Every session of every subject, in order of their names.

    Raises:
        InputError: no subject has a DCE series, a name cannot be used, or the folder cannot be read.
    """
    if _made_by_nanopinn(source):
        raise InputError(
            "the folder holds results of nanopinn, not scans",
            file=source,
            expected="the dataset that was scanned",
            remedy="Give the folder that the results were made from.",
        )
    people = read_participants(source / "participants.tsv")
    try:
        derived = [d for d in _folders(source / "derivatives") if not _made_by_nanopinn(d)]
        subjects = _labelled(source, "sub")
    except OSError as error:
        raise InputError(
            "the folder cannot be read",
            file=source,
            found=error.strerror,
            remedy="Check its permissions.",
        ) from error
    found = [s for subject in subjects for s in _of_subject(subject, derived, people, given)]
    if all(NO_SERIES in s.problem for s in found):
        raise InputError(
            "no study is found",
            file=source,
            found=f"{len(found)} sessions without a DCE series" if found else "no folder sub-*",
            expected=EXPECTED,
            remedy="Name the files so, or give a table with one row per study.",
        )
    return tuple(found)


def _folders(place: Path) -> list[Path]:
    try:
        with os.scandir(place) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir())
    except FileNotFoundError:
        return []


def _labelled(place: Path, entity: str) -> list[Path]:
    """Folders ``sub-*`` or ``ses-*``.

    Raises:
        InputError: one has a label that cannot be used.
    """
    folders = [f for f in _folders(place) if f.name.startswith(f"{entity}-")]
    for f in folders:
        label_of(f.name, entity, place)
    return folders


def _made_by_nanopinn(dataset: Path) -> bool:
    """Whether a dataset is what an earlier run wrote: its maps must not become the inputs of the next."""
    try:
        about = json.loads((dataset / "dataset_description.json").read_text(encoding="utf-8"))
        return any(g.get("Name") == "nanopinn" for g in about.get("GeneratedBy", []))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def _of_subject(
    subject: Path, derived: Sequence[Path], people: Participants, given: Sequence[str]
) -> list[Study]:
    alone = StudyName(subject.name.removeprefix("sub-"))
    try:
        sessions = _labelled(subject, "ses")
        names = [StudyName(alone.sub, s.name.removeprefix("ses-")) for s in sessions]
        found = [
            s
            for n, place in zip(names, sessions, strict=True)
            for s in _of_session(n, place, derived, people, given)
        ]
        return found + [
            s
            for s in _of_session(alone, subject, derived, people, given)
            if not sessions or s.files
        ]
    except OSError as error:
        return [
            Study(
                alone.id,
                alone.place,
                problem=f"its folder cannot be read: {error.strerror}",
                about=people.of(alone),
            )
        ]


def _of_session(
    name: StudyName,
    place: Path,
    derived: Sequence[Path],
    people: Participants,
    given: Sequence[str],
) -> list[Study]:
    """The study of a session; several where its DCE series are numbered and every file says to which it belongs."""
    files = _files(name, place, derived)
    series = sorted(
        (f for f in files if f.role.option == "--dce"), key=lambda f: (len(f.run), f.run)
    )
    runs, about = [f.run for f in series], people.of(name)
    if len(set(runs)) < 2 or "" in runs:
        return [_study(name, files, given, about)]
    homeless = [f for f in files if f.run not in runs]
    if homeless:
        return [
            _study(
                name,
                files,
                given,
                about,
                f"{len(series)} DCE series, but {_some(homeless)} say not of which (run)",
            )
        ]
    own = {f.run: StudyName(name.sub, name.ses, f.name.entities["run"]) for f in series}
    return [_study(n, [f for f in files if f.run == run], given, about) for run, n in own.items()]


def _files(name: StudyName, place: Path, derived: Sequence[Path]) -> list[_Found]:
    """Files with a role: those of the session, and what others derived from it."""
    found = [_Found(n, role) for n in _named(_folders(place)) if (role := role_of(n))]
    for dataset in derived:
        names = _named(_folders(dataset / name.place))
        found += [_Found(n, role) for n in names if (role := role_of(n)) and role.derived]
    return found


def _named(folders: Iterable[Path]) -> list[Named]:
    """Files of data folders whose names follow the grammar; sessions are no data folders."""
    data = [f for f in folders if not f.name.startswith("ses-")]
    paths = [Path(folder, name) for folder in data for name in sorted(os.listdir(folder))]
    return [n for p in paths if (n := parse_name(p))]


def _study(
    name: StudyName,
    files: Sequence[_Found],
    given: Sequence[str],
    about: Sequence[tuple[str, str]],
    *problems: str,
) -> Study:
    said, inputs = list(problems), []
    strange = [
        f
        for f in files
        if (f.name.entities.get("sub"), f.name.entities.get("ses", "")) != (name.sub, name.ses)
    ]
    lost = [f for f in files if not f.name.path.is_file()]
    said += [f"{_some(strange)} in the folder of {name.id}"] if strange else []
    said += [f"{_some(lost)} cannot be read (a link to nothing?)"] if lost else []
    usable = [f for f in files if f not in strange and f not in lost]
    for option in dict.fromkeys(f.role.option for f in usable):
        own = [f for f in usable if f.role.option == option]
        if (same := _same(own)) and not problems:
            said.append(f"{len(same)} files for {option} ({_some(same)}) where one is needed")
        elif not same:
            inputs += [(option, f"{f.role.before}{f.name.path}") for f in own]
    said += _without_sidecar(usable, given)
    return as_study(name, inputs, said, given, unclear=[f.role.option for f in files], about=about)


def _same(own: Sequence[_Found]) -> list[_Found]:
    """Files of one option that stand for the same thing, none or several."""
    several = own[0].role.several
    told = [f.name.entities.get(several, "") for f in own]
    return (
        []
        if several == "any"
        else [f for f, label in zip(own, told, strict=True) if told.count(label) > 1]
    )


def _without_sidecar(files: Sequence[_Found], given: Sequence[str]) -> list[str]:
    """A DCE series whose timing and flip angle stand nowhere that a fit looks."""
    missing = [
        f for f in files if f.role.option == "--dce" and not sidecar_path(f.name.path).is_file()
    ]
    return (
        [f"{_some(missing)} without a sidecar of its own (none is inherited)"]
        if missing and "--tr" not in given
        else []
    )


def _some(files: Sequence[_Found]) -> str:
    return ", ".join(f.name.path.name for f in files[:3]) + (
        f" and {len(files) - 3} more" if len(files) > 3 else ""
    )
