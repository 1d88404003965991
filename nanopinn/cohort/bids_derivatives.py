"""A dataset of BIDS derivatives: what it says of itself, and the list of its studies.

The maps and tables of one result under the names of BIDS derivatives, all or nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanopinn.cohort.bids import NON_BIDS_PATTERNS, StudyName, parse_study_id
from nanopinn.cohort.study_table import CohortStudy
from nanopinn.errors import InputError, OutputError
from nanopinn.io.output import exclusive_lock
from nanopinn.io.safe_open import read_json_or_empty
from nanopinn.io.volumes import read_sidecar, write_bytes, write_json
from nanopinn.report.result_folder import format_tsv, read_result

#: Every official name that is used is in it.
BIDS_VERSION = "1.10.0"
#: What BIDS does not know of a dataset of derivatives: kinetic, pH and drug maps have no official
#: names; ``anat/`` holds those that have.
_NON_BIDS_FILES = ("perf/", "cest/", "work/", "group.html", "group_*.tsv")
STUDIES_FILE = Path("work", "studies.tsv")


def raw_dataset(dataset: Path) -> Path | None:
    """The dataset that these are derivatives of, where BIDS's layout tells:
    ``RAW/derivatives/NAME``.
    """
    above = dataset.absolute().parent
    return above.parent if above.name == "derivatives" else None


def write_derivatives_description(dataset: Path) -> None:
    """Write ``dataset_description.json`` and ``.bidsignore``; the same bytes whoever writes them,
    so several at once do no harm.

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
    """Write which studies a cohort has, so that those that never ended are missed;
    ``work/studies.tsv``.

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


#: The file that is written last: where it is, all is.
_COMPLETION_TABLES = {
    "fit": "perf/{id}_desc-fit_parameters.tsv",
    "arms": "perf/{id}_desc-arms_outcomes.tsv",
}
_BIDS_SUFFIXES = {"T1": ("anat", "T1map"), "pH": ("cest", "pHmap")}
_COLUMNS = {
    "name": "unknown",
    "label": "unknown, in words",
    "unit": "of medians and limits",
    "scale": "log: standard deviations are of the natural logarithm",
    "prior_median": "before the images",
    "prior_sd": "before the images",
    "posterior_median": "after the images",
    "posterior_sd": "after the images",
    "low_95": "central 95 % interval",
    "high_95": "central 95 % interval",
    "contraction": "1 - posterior_sd / prior_sd",
    "informed": "whether the images, rather than the prior, set the value",
}


@dataclass(frozen=True)
class _OutputFile:
    """A file to write: below the session, without its ending; what stands in the sidecar."""

    stem: str
    source: Path
    sidecar: Mapping[str, Any]


def write_derivatives(result: Path, dataset: Path, id: str) -> Path:
    """Write a result folder, of a fit or of compared arms, as the derivatives of a study.

    ``sub-01/ses-01/anat/`` holds what BIDS has names for (``desc-fit_T1map``,
    ``label-tumour_mask``), ``perf/`` and ``cest/`` maps as ``desc-fit_<quantity>map`` with
    ``desc-std`` beside them, drug in time as ``desc-<pool>_drug``, and tables. Files are written
    beside their place and renamed one after the other, the table last: where it is, all is.

    Args:
        id: ``sub-01_ses-01``.

    Returns:
        The table that was written last.

    Raises:
        InputError: it is no result folder, or no id. OutputError: the dataset cannot be written, or
            another run writes this study.
    """
    name, kind = parse_study_id(id), "arms" if (result / "comparison.json").is_file() else "fit"
    items = list(
        _list_arm_files(result, name.id) if kind == "arms" else _list_fit_files(result, name.id)
    )
    _require_distinct_names(items, result)
    write_derivatives_description(dataset)
    session = dataset.joinpath(*[p for p in name.parts if not p.startswith("run-")])
    stage = session / f".{name.id}_{kind}.part"
    with exclusive_lock(session / f"{name.id}_{kind}"):
        try:
            shutil.rmtree(stage, ignore_errors=True)  # what a killed run left
            return _move_into_place(
                _write_staged_files(items, stage, name, result, dataset, kind),
                stage,
                session,
                name.id,
            )
        except OSError as error:
            raise OutputError(f"{session} cannot be written: {error.strerror}.") from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _list_fit_files(result: Path, id: str) -> Iterator[_OutputFile]:
    """Maps and fields of a fit.

    Raises:
        InputError: it is no result folder.
    """
    check = {"CheckPassed": read_result(result).check.passed}
    for path in sorted((result / "maps").glob("*.nii.gz")):
        yield _OutputFile(_map_stem(id, path, "fit", "std"), path, check)
    for path in sorted((result / "fields").glob("*.nii.gz")):
        yield _OutputFile(f"perf/{id}_desc-{_camel_case(_stem(path))}_drug", path, check)


def _list_arm_files(result: Path, id: str) -> Iterator[_OutputFile]:
    """What happens under the voxels and over time in each arm; whole fields stay in the result
    folder, the mask is the fit's.
    """
    arms = read_json_or_empty(result / "comparison.json").get("arms")
    if not isinstance(arms, dict) or not (result / "outcomes.tsv").is_file():
        raise InputError(
            "not a folder of compared arms",
            file=result,
            expected="comparison.json and outcomes.tsv",
            remedy="Run the arms again.",
        )
    for arm in arms:
        for path in sorted((result / Path(arm).name / "maps").glob("*.nii.gz")):
            if _stem(path) != "mask":
                yield _OutputFile(
                    _map_stem(id, path, _camel_case(arm), f"{_camel_case(arm)}Std"), path, {}
                )


def _stem(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


def _camel_case(words: str) -> str:
    """Letters and digits alone, as labels and suffixes want them: ``velocity_vector`` is
    ``velocityVector``.
    """
    first, *rest = re.split(
        r"[^0-9A-Za-z]+", words.encode("ascii", "ignore").decode().strip("_- ")
    ) or [""]
    return first + "".join(w[:1].upper() + w[1:] for w in rest)


def _map_stem(id: str, path: Path, estimate: str, std_label: str) -> str:
    quantity, is_std = _stem(path).removesuffix("_std"), _stem(path).endswith("_std")
    if quantity == "mask":
        return f"anat/{id}_label-tumour_mask"
    folder, suffix = _BIDS_SUFFIXES.get(quantity, ("perf", f"{_camel_case(quantity)}map"))
    return f"{folder}/{id}_desc-{std_label if is_std else estimate}_{suffix}"


def _require_distinct_names(items: list[_OutputFile], result: Path) -> None:
    names = [i.stem for i in items]
    if not items or len(set(names)) < len(names):
        twice = ", ".join(sorted({n for n in names if names.count(n) > 1})) or "no map"
        raise InputError(
            "the folder cannot be named as derivatives",
            file=result,
            found=twice,
            expected="maps whose names differ by letters and digits",
        )


def _write_staged_files(
    items: list[_OutputFile], stage: Path, name: StudyName, result: Path, dataset: Path, kind: str
) -> list[str]:
    """Write everything below ``stage``; the names in the order in which they are put in place."""
    raw = _raw_files(result, dataset, name)
    written = []
    for item in items:
        write_bytes(stage / f"{item.stem}.nii.gz", item.source.read_bytes())
        write_json(stage / f"{item.stem}.json", _sidecar(item, dataset, raw))
        written += [f"{item.stem}.json", f"{item.stem}.nii.gz"]
    completion_table = _COMPLETION_TABLES[kind].format(id=name.id)
    for table, rows, about in _tables(result, name.id, kind):
        write_bytes(stage / table, rows)
        sidecar = table.replace(".tsv", ".json")
        written += [sidecar, *([] if table == completion_table else [table])]
        write_json(
            stage / sidecar,
            {
                **about,
                **({"Files": sorted({*written, sidecar})} if table == completion_table else {}),
            },
        )
    return [*written, completion_table]


def _sidecar(item: _OutputFile, dataset: Path, raw: list[str]) -> dict[str, Any]:
    """BIDS's keys, and what the result's own sidecar says; ``Unit`` is ``Units`` there."""
    own = read_sidecar(item.source)
    sidecar = {"Units" if key == "Unit" else key: value for key, value in own.items()}
    return {
        **sidecar,
        "SkullStripped": False,
        "Sources": [*_bids_uri(item.source, dataset), *raw],
        **item.sidecar,
    }


def _bids_uri(path: Path, dataset: Path) -> list[str]:
    """The file as a BIDS URI, if it lies in the dataset; no path of this machine is written."""
    real, home = path.resolve(), dataset.resolve()
    return [f"bids::{real.relative_to(home).as_posix()}"] if real.is_relative_to(home) else []


def _raw_files(result: Path, dataset: Path, name: StudyName) -> list[str]:
    """The scans of which the result says that it read them, where the layout tells in which dataset
    they lie.
    """
    raw, read = (
        raw_dataset(dataset),
        read_json_or_empty(result / "provenance.json").get("inputs", {}),
    )
    if raw is None or not isinstance(read, dict):
        return []
    session = raw.joinpath(*[p for p in name.parts if not p.startswith("run-")])
    return [
        f"bids:raw:{f.relative_to(raw).as_posix()}"
        for f in sorted(session.glob("*/*"))
        if f.name in read
    ]


def _tables(result: Path, id: str, kind: str) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Tables with what their columns mean; the last is the mark."""
    if kind == "arms":
        heads = {"outcome": "name", "unit": "of the numbers", "words": "the outcome in words"}
        about = {c: {"Description": w} for c, w in heads.items()} | {
            "Description": "Of each arm: median and central 90 % interval of the draws."
        }
        yield (
            _COMPLETION_TABLES["arms"].format(id=id),
            (result / "outcomes.tsv").read_bytes(),
            about,
        )
        return
    check = read_result(result).check
    items = [
        {
            "name": i.name,
            "value": i.value,
            "limit": i.limit,
            "passed": "yes" if i.passed else "no",
            "meaning": i.meaning,
        }
        for i in check.items
    ]
    yield (
        f"perf/{id}_desc-fit_check.tsv",
        format_tsv(items),
        {"Description": check.headline, "CheckPassed": check.passed},
    )
    about = {c: {"Description": words} for c, words in _COLUMNS.items()}
    yield (
        _COMPLETION_TABLES["fit"].format(id=id),
        (result / "parameters.tsv").read_bytes(),
        about | {"CheckPassed": check.passed},
    )


def _move_into_place(written: list[str], stage: Path, session: Path, id: str) -> Path:
    """Rename everything into place, and remove what an earlier result had and this one has not."""
    completion_table = session / written[-1]
    before = read_json_or_empty(completion_table.with_suffix(".json")).get("Files", [])
    completion_table.unlink(missing_ok=True)
    own = re.compile(rf"(anat|perf|cest)/{re.escape(id)}_[\w+-]+(\.nii\.gz|\.json|\.tsv)", re.ASCII)
    for old in (f for f in before if isinstance(f, str) and own.fullmatch(f) and f not in written):
        (session / old).unlink(missing_ok=True)
    for name in written:
        (session / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage / name, session / name)
    return completion_table
