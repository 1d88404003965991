"""What tells one comparison of arms from another, so that an interrupted one goes on as itself alone."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from nanopinn.workflows.settings import ComparisonSettings, PhantomSettings
from nanopinn.workflows.therapy.patient import Patient


def identity(settings: ComparisonSettings, patient: Patient, schedule: Path | None, phantom: PhantomSettings | None) -> dict[str, str]:
    """All that was given, each by name: choices by value, files by hash."""
    tables = {"arms": settings.model_dump(mode="json"), "phantom": phantom.model_dump(mode="json") if phantom else {}}
    study = {f"{table}.{k}": json.dumps(v) for table, entries in tables.items() for k, v in entries.items()}
    files = [*patient.tissue.files, *(Path(a) for a in settings.arms if a.endswith(".toml")), *((schedule,) if schedule else ())]
    study |= {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}
    return study | {"nanopinn": version("nanopinn")}
