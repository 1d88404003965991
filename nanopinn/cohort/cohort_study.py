"""A study of a cohort: the inputs that its fit gets, and what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanopinn.cohort.bids import StudyName
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
