"""Studies of a cohort, read from the names of the files of a BIDS folder.

A :class:`CohortStudy` holds the inputs that its fit gets, and what is missing.
"""

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
from nanopinn.errors import InputError
from nanopinn.io.volumes import sidecar_path

NO_DCE_SERIES = "no DCE series"
#: Prefix of an arterial input that is the mask of an artery.
MASK_PREFIX = "mask:"


@dataclass(frozen=True)
class CohortStudy:
    """One scan of one subject.

    Attributes:
        id: Name of the study, ``sub-01_ses-01``.
        relative_folder: Folder of the study below every output, ``sub-01/ses-01``.
        files: Every input file, with sidecars.
        inputs: Name and value of each input of the fit, such as ``("dce", "/data/dce.nii.gz")``.
        problem: Why the study cannot be fitted; empty if it can.
        participant_columns: Further columns of its row in a table of participants.
    """

    id: str
    relative_folder: Path
    files: tuple[Path, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()
    problem: str = ""
    participant_columns: tuple[tuple[str, str], ...] = ()


def build_cohort_study(
    name: StudyName,
    inputs: Sequence[tuple[str, str]],
    problems: Sequence[str],
    shared_inputs: Iterable[str],
    *,
    unusable_inputs: Iterable[str] = (),
    participant_columns: Sequence[tuple[str, str]] = (),
) -> CohortStudy:
    """Build a study from its inputs, and list what is missing.

    Args:
        name: Subject, session and run.
        inputs: Name and value of each input; paths are absolute and may follow ``mask:``.
        problems: Problems that are known already.
        shared_inputs: Names of the inputs that every study of the cohort gets.
        unusable_inputs: Names of inputs that have files, none of which can be used.
        participant_columns: Further columns of the study.

    Raises:
        InputError: A path holds a line break or another control character.
    """
    for input_name, value in inputs:
        if any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise InputError(
                "a path with a control character cannot be used",
                field=input_name,
                found=ascii(value[-80:]),
                remedy="Rename the file.",
            )
    values = [v.removeprefix(MASK_PREFIX) for _, v in inputs]
    paths = [Path(v) for v in values if v.startswith("/")]
    files = [f for p in paths for f in (_files_in(p) if os.path.isdir(p) else [p])]
    sidecars = [s for f in files if os.path.isfile(s := sidecar_path(f))]
    own = {n for n, _ in inputs} | set(unusable_inputs)
    return CohortStudy(
        name.id,
        name.relative_folder,
        tuple(dict.fromkeys([*files, *sidecars])),
        tuple(inputs),
        "; ".join([*problems, *missing_inputs(own, frozenset(shared_inputs))]),
        tuple(participant_columns),
    )


def _files_in(folder: Path) -> list[Path]:
    """Files of a folder of DICOM or dcm2niix; subfolders are not read, they may be a whole disk."""
    try:
        return sorted(p for p in folder.iterdir() if p.is_file())
    except OSError:
        return []


def missing_inputs(own: set[str], shared: frozenset[str]) -> list[str]:
    """List what a fit needs and does not get, and what is given twice.

    Args:
        own: Names of the study's own inputs.
        shared: Names of the inputs that every study gets.
    """
    problems = [] if "dce" in own else [NO_DCE_SERIES]
    if not {"cest", "assume_ph"} & (own | shared):
        problems.append("no pH map or Z-spectra, and no `assume_ph`")
    t1 = sorted({"vfa", "ir", "t1"} & (own | shared))
    if not t1:
        problems.append("no native T1: no flip-angle set, inversion-recovery set, T1 map or `t1`")
    if len(t1) > 1:
        names = ", ".join(f"`{name}`" for name in t1)
        problems.append(f"native T1 is given {len(t1)} times ({names}); one is needed")
    twice = sorted(own & shared)
    return problems + [f"`{name}` is given for this study and for all studies" for name in twice]


@dataclass(frozen=True)
class _ClassifiedFile:
    """A file with its role in a fit."""

    name: BidsFileName
    role: Role

    @property
    def run(self) -> str:
        """Index of the run without leading zeros; empty if the file has none."""
        run = self.name.entities.get("run", "")
        return run.lstrip("0") or run[-1:]


@dataclass(frozen=True)
class _Dataset:
    """What all studies of a dataset share.

    Attributes:
        derived: Datasets of derivatives made by other programs.
        participants: Table of participants.
        shared_inputs: Names of the inputs that every study gets.
    """

    derived: tuple[Path, ...]
    participants: Participants
    shared_inputs: frozenset[str]


def read_bids_studies(source: Path, shared_inputs: frozenset[str]) -> tuple[CohortStudy, ...]:
    """Read every session of every subject, in order of their names.

    Args:
        source: Folder of the dataset.
        shared_inputs: Names of the inputs that every study gets.

    Raises:
        InputError: No subject has a DCE series, a name cannot be used, or the folder cannot be
            read.
    """
    if _made_by_nanopinn(source):
        raise InputError(
            "the folder holds results of nanopinn, not scans",
            file=source,
            expected="the dataset with the scans",
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
    dataset = _Dataset(tuple(derived), participants, shared_inputs)
    found = [s for subject in subjects for s in _studies_of_subject(subject, dataset)]
    if all(NO_DCE_SERIES in s.problem for s in found):
        raise InputError(
            "no study is found",
            file=source,
            found=f"{len(found)} sessions without a DCE series" if found else "no folder sub-*",
            expected=EXPECTED_LAYOUT,
            remedy="Rename the files, or give a table with one row per study.",
        )
    return tuple(found)


def _list_folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir())
    except FileNotFoundError:
        return []


def _list_entity_folders(parent: Path, entity: str) -> list[Path]:
    """Folders ``sub-*`` or ``ses-*``.

    Raises:
        InputError: The label of one of them cannot be used.
    """
    folders = [f for f in _list_folders(parent) if f.name.startswith(f"{entity}-")]
    for f in folders:
        validate_label(f.name, entity, parent)
    return folders


def _made_by_nanopinn(dataset: Path) -> bool:
    """Whether an earlier run wrote the dataset: its maps must not become inputs."""
    try:
        about = json.loads((dataset / "dataset_description.json").read_text(encoding="utf-8"))
        return any(g.get("Name") == "nanopinn" for g in about.get("GeneratedBy", []))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def _studies_of_subject(subject: Path, dataset: _Dataset) -> list[CohortStudy]:
    whole_subject = StudyName(subject.name.removeprefix("sub-"))
    try:
        sessions = _list_entity_folders(subject, "ses")
        names = [StudyName(whole_subject.sub, s.name.removeprefix("ses-")) for s in sessions]
        found = [
            s
            for name, folder in zip(names, sessions, strict=True)
            for s in _studies_of_session(name, folder, dataset)
        ]
        return found + [
            s
            for s in _studies_of_session(whole_subject, subject, dataset)
            if not sessions or s.files
        ]
    except OSError as error:
        return [
            CohortStudy(
                whole_subject.id,
                whole_subject.relative_folder,
                problem=f"its folder cannot be read: {error.strerror}",
                participant_columns=dataset.participants.columns_for(whole_subject),
            )
        ]


def _studies_of_session(name: StudyName, folder: Path, dataset: _Dataset) -> list[CohortStudy]:
    """The study of a session; one per run if the DCE series and all other files are numbered."""
    files = _files(name, folder, dataset.derived)
    series = sorted((f for f in files if f.role.input == "dce"), key=lambda f: (len(f.run), f.run))
    runs = [f.run for f in series]
    if len(set(runs)) < 2 or "" in runs:
        return [_build_study(name, files, name, dataset)]
    files_without_run = [f for f in files if f.run not in runs]
    if files_without_run:
        problem = (
            f"{len(series)} DCE series, but {_format_file_names(files_without_run)} do not say to"
            " which run they belong"
        )
        return [_build_study(name, files, name, dataset, problem)]
    own = {f.run: StudyName(name.sub, name.ses, f.name.entities["run"]) for f in series}
    return [
        _build_study(run_name, [f for f in files if f.run == run], name, dataset)
        for run, run_name in own.items()
    ]


def _files(name: StudyName, folder: Path, derived: Sequence[Path]) -> list[_ClassifiedFile]:
    """Files with a role: those of the session, and those that other programs derived from it."""
    found = [
        _ClassifiedFile(n, role)
        for n in _parse_file_names(_list_folders(folder))
        if (role := find_role(n))
    ]
    for dataset in derived:
        names = _parse_file_names(_list_folders(dataset / name.relative_folder))
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
    session: StudyName,
    dataset: _Dataset,
    *problems: str,
) -> CohortStudy:
    found, inputs = list(problems), []
    misplaced = [
        f
        for f in files
        if (f.name.entities.get("sub"), f.name.entities.get("ses", "")) != (name.sub, name.ses)
    ]
    unreadable = [f for f in files if not f.name.path.is_file()]
    found += [f"{_format_file_names(misplaced)} in the folder of {name.id}"] if misplaced else []
    if unreadable:
        found.append(f"{_format_file_names(unreadable)} cannot be read (a broken link?)")
    usable = [f for f in files if f not in misplaced and f not in unreadable]
    for input_name in dict.fromkeys(f.role.input for f in usable):
        own = [f for f in usable if f.role.input == input_name]
        ambiguous = _find_ambiguous_files(own)
        if ambiguous and not problems:
            found.append(
                f"{len(ambiguous)} files for `{input_name}` ({_format_file_names(ambiguous)})"
                " where one is needed"
            )
        elif not ambiguous:
            inputs += [(input_name, f"{f.role.value_prefix}{f.name.path}") for f in own]
    found += _describe_missing_sidecars(usable, dataset.shared_inputs)
    return build_cohort_study(
        name,
        inputs,
        found,
        dataset.shared_inputs,
        unusable_inputs=[f.role.input for f in files],
        participant_columns=dataset.participants.columns_for(session),
    )


def _find_ambiguous_files(own: Sequence[_ClassifiedFile]) -> list[_ClassifiedFile]:
    """Files of one input of which each could be the one that is needed."""
    entity = own[0].role.distinguishing_entity
    labels = [f.name.entities.get(entity, "") for f in own]
    if entity == "any":
        return []
    return [f for f, label in zip(own, labels, strict=True) if labels.count(label) > 1]


def _describe_missing_sidecars(
    files: Sequence[_ClassifiedFile], shared_inputs: frozenset[str]
) -> list[str]:
    """DCE series whose timing and flip angle are given nowhere that a fit looks."""
    missing = [
        f for f in files if f.role.input == "dce" and not sidecar_path(f.name.path).is_file()
    ]
    if not missing or "tr" in shared_inputs:
        return []
    return [f"{_format_file_names(missing)} without a sidecar of its own (none is inherited)"]


def _format_file_names(files: Sequence[_ClassifiedFile]) -> str:
    return ", ".join(f.name.path.name for f in files[:3]) + (
        f" and {len(files) - 3} more" if len(files) > 3 else ""
    )
