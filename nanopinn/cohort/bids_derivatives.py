"""Write results as BIDS derivatives: maps and tables, the description and the list of studies."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanopinn.cohort.bids import NON_BIDS_PATTERNS, StudyName, parse_study_id
from nanopinn.cohort.bids_studies import CohortStudy
from nanopinn.errors import InputError, OutputError
from nanopinn.io.output import exclusive_lock
from nanopinn.io.safe_open import read_json_or_empty
from nanopinn.io.volumes import read_sidecar, write_bytes, write_json
from nanopinn.report.result_files import format_tsv
from nanopinn.report.result_folder import read_result

#: Version that defines every official name used here.
BIDS_VERSION = "1.10.0"
#: Files that BIDS does not define: kinetic, pH and drug maps have no official names. ``anat/``
#: holds the maps that have.
_NON_BIDS_FILES = ("perf/", "cest/", "work/", "group.html", "group_*.tsv")
STUDIES_FILE = Path("work", "studies.tsv")


def raw_dataset(dataset: Path) -> Path | None:
    """Dataset that these are derivatives of, if the layout is ``RAW/derivatives/NAME``."""
    above = dataset.absolute().parent
    return above.parent if above.name == "derivatives" else None


def write_derivatives_description(dataset: Path) -> None:
    """Write ``dataset_description.json`` and ``.bidsignore``.

    Every run writes the same bytes, so several may write at once.

    Raises:
        OutputError: The folder cannot be written.
    """
    from nanopinn import __version__

    by = {
        "Name": "nanopinn",
        "Version": __version__,
        "Description": "Inverse modelling of tumour nanomedicine. Research use only.",
    }
    about: dict[str, Any] = {
        "Name": "nanopinn: drug transport in tumours estimated from images",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [by],
    }
    if raw_dataset(dataset) is not None:
        about |= {"SourceDatasets": [{"URL": "../.."}], "DatasetLinks": {"raw": "../.."}}
    _write_description(dataset, about, _NON_BIDS_FILES)


def write_raw_description(dataset: Path, name: str, by: str, version: str) -> None:
    """Write both files for a dataset of simulated scans."""
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
    """Write the list of all studies, ``work/studies.tsv``, so that unfinished ones are reported.

    Raises:
        OutputError: The folder cannot be written.
    """
    columns = dict.fromkeys(column for s in studies for column, _ in s.participant_columns)
    rows = [
        {
            "study": s.id,
            "problem": s.problem,
            **{f"about {c}": dict(s.participant_columns).get(c, "") for c in columns},
        }
        for s in studies
    ]
    write_bytes(
        dataset / STUDIES_FILE,
        format_tsv(rows, ("study", "problem", *(f"about {c}" for c in columns))),
    )
    return dataset / STUDIES_FILE


#: Table that is written last: if it exists, the derivatives are complete.
_COMPLETION_TABLES = {
    "fit": "perf/{id}_desc-fit_parameters.tsv",
    "arms": "perf/{id}_desc-arms_outcomes.tsv",
}
_BIDS_SUFFIXES = {"T1": ("anat", "T1map"), "pH": ("cest", "pHmap")}
_COLUMNS = {
    "name": "name of the parameter",
    "label": "description of the parameter",
    "unit": "unit of medians and intervals",
    "scale": "log: standard deviations are those of the natural logarithm",
    "prior_median": "median of the prior",
    "prior_sd": "standard deviation of the prior",
    "posterior_median": "median of the posterior",
    "posterior_sd": "standard deviation of the posterior",
    "low_95": "lower end of the central 95 % posterior interval",
    "high_95": "upper end of the central 95 % posterior interval",
    "contraction": "1 - posterior_sd / prior_sd",
    "informed": "whether the images inform the parameter; otherwise it is prior-dominated",
}


@dataclass(frozen=True)
class _OutputFile:
    """A file to write.

    Attributes:
        stem: Path below the session, without file extension.
        source: File to copy.
        sidecar: Further keys of its sidecar.
    """

    stem: str
    source: Path
    sidecar: Mapping[str, Any]


def write_derivatives(result: Path, dataset: Path, id: str) -> Path:
    """Write the result folder of a fit or of compared arms as the derivatives of a study.

    ``sub-01/ses-01/anat/`` holds the maps that BIDS defines (``desc-fit_T1map``,
    ``label-tumour_mask``). ``perf/`` and ``cest/`` hold the other maps as
    ``desc-fit_<quantity>map`` with ``desc-std``, drug pools over time as ``desc-<pool>_drug``, and
    tables. Files are written to a temporary folder and renamed one by one, the table last: if it
    exists, the derivatives are complete.

    Args:
        result: The result folder.
        dataset: Dataset of derivatives.
        id: Name of the study, ``sub-01_ses-01``.

    Returns:
        The table that was written last.

    Raises:
        InputError: The folder is no result, or the name of the study is invalid.
        OutputError: The dataset cannot be written, or another run writes this study.
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
            shutil.rmtree(stage, ignore_errors=True)  # left by a killed run
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
    """List maps and fields of a fit.

    Raises:
        InputError: The folder is no result.
    """
    check = {"CheckPassed": read_result(result).check.passed}
    for path in sorted((result / "maps").glob("*.nii.gz")):
        yield _OutputFile(_map_stem(id, path, "fit", "std"), path, check)
    for path in sorted((result / "fields").glob("*.nii.gz")):
        yield _OutputFile(f"perf/{id}_desc-{_camel_case(_stem(path))}_drug", path, check)


def _list_arm_files(result: Path, id: str) -> Iterator[_OutputFile]:
    """List the maps of each arm; fields stay in the result folder, and the mask is the fit's."""
    arms = read_json_or_empty(result / "comparison.json").get("arms")
    if not isinstance(arms, dict) or not (result / "outcomes.tsv").is_file():
        raise InputError(
            "not a folder of compared arms",
            file=result,
            expected="comparison.json and outcomes.tsv",
            remedy="Compare the arms again.",
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
    """Name in letters and digits, as labels and suffixes require: ``velocityVector``."""
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
            "the maps cannot be named as derivatives",
            file=result,
            found=twice,
            expected="maps whose names differ in letters and digits",
        )


def _write_staged_files(
    items: list[_OutputFile], stage: Path, name: StudyName, result: Path, dataset: Path, kind: str
) -> list[str]:
    """Write all files below ``stage``; returns their names in the order of their renaming."""
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
    """Keys of BIDS and of the result's own sidecar, whose ``Unit`` is ``Units`` in BIDS."""
    own = read_sidecar(item.source)
    sidecar = {"Units" if key == "Unit" else key: value for key, value in own.items()}
    return {
        **sidecar,
        "SkullStripped": False,
        "Sources": [*_bids_uri(item.source, dataset), *raw],
        **item.sidecar,
    }


def _bids_uri(path: Path, dataset: Path) -> list[str]:
    """BIDS URI of a file in the dataset; empty for other files, whose paths are not written."""
    real, home = path.resolve(), dataset.resolve()
    return [f"bids::{real.relative_to(home).as_posix()}"] if real.is_relative_to(home) else []


def _raw_files(result: Path, dataset: Path, name: StudyName) -> list[str]:
    """BIDS URIs of the scans that the result lists as its inputs, if the raw dataset is known."""
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
    """Tables with descriptions of their columns; the completion table comes last."""
    if kind == "arms":
        columns = {
            "outcome": "name of the outcome",
            "unit": "unit of the values",
            "words": "description of the outcome",
        }
        about = {c: {"Description": d} for c, d in columns.items()} | {
            "Description": "Median and central 90 % interval of the draws for each arm."
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
    about = {c: {"Description": d} for c, d in _COLUMNS.items()}
    yield (
        _COMPLETION_TABLES["fit"].format(id=id),
        (result / "parameters.tsv").read_bytes(),
        about | {"CheckPassed": check.passed},
    )


def _move_into_place(written: list[str], stage: Path, session: Path, id: str) -> Path:
    """Rename all files into place, and remove those that only an earlier result had."""
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
