"""What tells one comparison of arms from another, so that an interrupted one goes on as itself alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from nanopinn.inference.checkpoint import fit_file_path
from nanopinn.workflows.settings import ComparisonSettings, PhantomSettings
from nanopinn.workflows.therapy.arms import Arm
from nanopinn.workflows.therapy.patient import Patient


def list_comparison_files(
    patient: Patient, arms: Sequence[Arm], schedule: Path | None, settings: ComparisonSettings
) -> tuple[Path, ...]:
    """Every file that a comparison reads."""
    of_arms = [
        f
        for a in arms
        for f in (*a.treatment.files, *(h.file for h in a.treatment.heatings if h.file is not None))
    ]
    second = (
        [fit_file_path(settings.radiation_from.rpartition("@")[0])]
        if settings.radiation_from
        else []
    )
    return tuple(
        dict.fromkeys([*patient.tissue.files, *([schedule] if schedule else []), *of_arms, *second])
    )


def comparison_identity(
    settings: ComparisonSettings, read: Mapping[str, str], phantom: PhantomSettings | None
) -> dict[str, str]:
    """All that was given, each by name: choices by value, files by hash."""
    tables = {
        "arms": settings.model_dump(mode="json"),
        "phantom": phantom.model_dump(mode="json") if phantom else {},
    }
    study = {
        f"{table}.{k}": json.dumps(v)
        for table, entries in tables.items()
        for k, v in entries.items()
    }
    return {**study, **read, "nanopinn": version("nanopinn")}
