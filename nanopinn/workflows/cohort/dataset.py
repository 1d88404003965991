"""A dataset of BIDS derivatives: what it says of itself, and the list of its studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanopinn.imaging.io import write_bytes, write_json
from nanopinn.report.table import format_tsv
from nanopinn.workflows.cohort.names import NON_BIDS_PATTERNS
from nanopinn.workflows.cohort.studies import CohortStudy

#: Every official name that is used is in it.
BIDS_VERSION = "1.10.0"
#: What BIDS does not know of a dataset of derivatives: kinetic, pH and drug maps have no official names; ``anat/`` holds those that have.
_NON_BIDS_FILES = ("perf/", "cest/", "work/", "group.html", "group_*.tsv")
STUDIES_FILE = Path("work", "studies.tsv")


def raw_dataset(dataset: Path) -> Path | None:
    """The dataset that these are derivatives of, where BIDS's layout tells: ``RAW/derivatives/NAME``."""
    above = dataset.absolute().parent
    return above.parent if above.name == "derivatives" else None


def write_derivatives_description(dataset: Path) -> None:
    """Write ``dataset_description.json`` and ``.bidsignore``; the same bytes whoever writes them, so several at once do no harm.

    Raises:
        OutputError: the folder cannot be written.
    """
    from nanopinn import __version__

    by = {
        "Name": "nanopinn",
        "Version": __version__,
        "Description": "Inverse modelling of tumour nanomedicine. Research use only.",
    }
    about: dict[str, Any] = {
        "Name": "nanopinn: what images say of drug transport in tumours",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [by],
    }
    if raw_dataset(dataset) is not None:
        about |= {"SourceDatasets": [{"URL": "../.."}], "DatasetLinks": {"raw": "../.."}}
    _write_description(dataset, about, _NON_BIDS_FILES)


def write_raw_description(dataset: Path, name: str, by: str, version: str) -> None:
    """The same for a dataset of scans that a program drew."""
    about = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": by, "Version": version}],
    }
    _write_description(dataset, about, NON_BIDS_PATTERNS)


def _write_description(dataset: Path, about: Mapping[str, Any], ignored: Sequence[str]) -> None:
    write_json(dataset / "dataset_description.json", about)
    write_bytes(dataset / ".bidsignore", ("\n".join(ignored) + "\n").encode())


def write_studies(dataset: Path, studies: Sequence[CohortStudy]) -> Path:
    """Write which studies a cohort has, so that those that never ended are missed; ``work/studies.tsv``.

    Raises:
        OutputError: the folder cannot be written.
    """
    columns = dict.fromkeys(column for s in studies for column, _ in s.about)
    rows = [
        {
            "study": s.id,
            "problem": s.problem,
            **{f"about {c}": dict(s.about).get(c, "") for c in columns},
        }
        for s in studies
    ]
    write_bytes(
        dataset / STUDIES_FILE,
        format_tsv(rows, ("study", "problem", *(f"about {c}" for c in columns))),
    )
    return dataset / STUDIES_FILE
