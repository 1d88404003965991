"""How the runs of each study of a cohort ended, read from their verdict files and result folders.

The verdict file of a run is ``work/<study>/fit.json`` or ``arms.json``; a run writes it last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanopinn.cohort.bids import MISSING_VALUES, parse_study_id, read_rows
from nanopinn.cohort.bids_derivatives import STUDIES_FILE
from nanopinn.errors import InputError, PartialCohortError
from nanopinn.io.safe_open import read_json_or_empty
from nanopinn.report.result_folder import read_result
from nanopinn.results import REPORTED_STATUSES, ArmOutcome, StudyStatus, StudySummary

if TYPE_CHECKING:
    from nanopinn.cohort.bids_studies import CohortStudy

_ENTITY = re.compile(r"(sub|ses|run)-[0-9A-Za-z]{1,64}", re.ASCII)
_RUN_OUTPUTS = ("fit", "fit.json", "fit.log", "fit.partial", "arms.json")
_WITH_RESULT = ("passed", "check failed")


@dataclass(frozen=True)
class RunStatus:
    """How one run ended.

    Attributes:
        id: Name of the study.
        run: ``fit`` or ``arms``.
        status: Status in the verdict file; ``unfinished`` if there is none.
        message: One line.
        seconds: Duration of the run; NaN if it is not known.
        version: Version of nanopinn that ran; empty if it is not known.
    """

    id: str
    run: str
    status: StudyStatus
    message: str = ""
    seconds: float = float("nan")
    version: str = ""

    @property
    def has_result(self) -> bool:
        """Whether the run left a result."""
        return self.status in _WITH_RESULT


def format_run_status(run: RunStatus) -> str:
    """Format the status of a run as one line for the screen."""
    duration = f" ({run.seconds:.0f} s)" if run.seconds > 0 else ""
    message = f": {run.message}" if run.message and run.status != "passed" else ""
    return f"{run.id}: {run.run} {run.status}{duration}{message}"


def read_run_status(
    dataset: Path, id: str, run: Literal["fit", "arms"], problem: str = ""
) -> RunStatus:
    """Read how a run ended.

    Args:
        dataset: Folder with the studies below ``work/``.
        id: Name of the study.
        run: Which of its runs.
        problem: What is wrong with the study's files now. It takes precedence over the verdict
            file, which may be older.
    """
    if problem not in MISSING_VALUES:
        return RunStatus(id, run, "refused", problem)
    folder = Path("work") / parse_study_id(id).relative_folder
    verdict = read_json_or_empty(dataset / folder / f"{run}.json")
    status = next((s for s in REPORTED_STATUSES if s == verdict.get("status")), None)
    if status is not None:
        return RunStatus(
            id,
            run,
            status,
            " ".join(str(verdict.get("message", "")).split()),
            _float_or_nan(verdict.get("seconds")),
            str(verdict.get("version") or ""),
        )
    endings = (".log", ".partial", ".json", "")
    if any((dataset / folder / f"{run}{ending}").exists() for ending in endings):
        log = folder / f"{run}.log"
        return RunStatus(id, run, "unfinished", f"it ended without a verdict file; see {log}")
    return RunStatus(id, run, "unfinished", "not started")


def read_run_statuses(
    dataset: Path, studies: Sequence[CohortStudy], *, arms: bool
) -> tuple[RunStatus, ...]:
    """Read how every run of a cohort ended; arms of a study without a fit are not counted."""
    fits = [read_run_status(dataset, s.id, "fit", s.problem) for s in studies]
    usable = [s for s, fit in zip(studies, fits, strict=True) if fit.has_result] if arms else []
    return (*fits, *(read_run_status(dataset, s.id, "arms", s.problem) for s in usable))


def exit_code(runs: Sequence[RunStatus]) -> int:
    """Exit code of a cohort: 0 if all runs passed, 3 if no study left a result, otherwise 6."""
    if all(r.status == "passed" for r in runs):
        return 0
    any_result = any(r.has_result for r in runs if r.run == "fit")
    return PartialCohortError.exit_code if any_result else InputError.exit_code


class RunMonitor:
    """Reports each run of a cohort once, when its verdict file appears.

    Runs that had ended before are not reported.
    """

    def __init__(
        self,
        dataset: Path,
        studies: Sequence[CohortStudy],
        arms: bool,
        notify: Callable[[str], None],
    ) -> None:
        self._dataset, self._studies, self._arms, self._notify = dataset, studies, arms, notify
        self._seen = set(self._ended_runs())

    def __call__(self) -> None:
        for line in self._ended_runs():
            if line not in self._seen:
                self._seen.add(line)
                self._notify(line)

    def _ended_runs(self) -> list[str]:
        runs = read_run_statuses(self._dataset, self._studies, arms=self._arms)
        return [format_run_status(r) for r in runs if r.status != "unfinished"]


def read_study_summaries(dataset: Path) -> tuple[StudySummary, ...]:
    """Read every study that the dataset lists or holds, in order of their names.

    Raises:
        InputError: There is none.
    """
    listed = _read_listed_studies(dataset)
    ids = sorted(
        {*listed, *_find_started_studies(dataset / "work", ())},
        key=lambda id: parse_study_id(id).parts,
    )
    if not ids:
        raise InputError(
            "no study is found",
            file=dataset.absolute(),
            found="no work/sub-*",
            expected="work/sub-01/ses-01/fit.json and fit/",
            remedy="Run the cohort first.",
        )
    studies = [_read_study_summary(dataset, id, listed.get(id, {})) for id in ids]
    if any(s.arms not in ("", "unfinished") for s in studies):
        return tuple(studies)
    begun = any((dataset / "work" / s.relative_folder / "arms.log").exists() for s in studies)
    if begun:
        return tuple(studies)
    return tuple(replace(s, arms="", comparison_message="") for s in studies)


def _read_listed_studies(dataset: Path) -> dict[str, dict[str, str]]:
    path = dataset / STUDIES_FILE
    if not path.is_file():
        return {}
    return {parse_study_id(row["study"]).id: row for row in read_rows(path) if "study" in row}


def _find_started_studies(folder: Path, parts: tuple[str, ...]) -> Iterator[str]:
    """Names of the studies in whose folders a run left something."""
    if not folder.is_dir():
        return
    names = set(os.listdir(folder))
    if parts and names & set(_RUN_OUTPUTS):
        yield "_".join(parts)
    for name in sorted(names):
        keys = [p.split("-")[0] for p in (*parts, name)]
        if (
            _ENTITY.fullmatch(name)
            and keys[0] == "sub"
            and keys == [k for k in ("sub", "ses", "run") if k in keys]
        ):
            yield from _find_started_studies(folder / name, (*parts, name))


def _read_study_summary(dataset: Path, id: str, row: Mapping[str, str]) -> StudySummary:
    """Read a study; ``row`` is its row in the list of studies."""
    folder = parse_study_id(id).relative_folder
    fit = read_run_status(dataset, id, "fit", row.get("problem", ""))
    study = StudySummary(
        id,
        folder,
        fit.status,
        fit.message,
        seconds=fit.seconds,
        versions={"nanopinn": fit.version} if fit.version else {},
        participant_columns={
            k.removeprefix("about "): v for k, v in row.items() if k.startswith("about ")
        },
    )
    return _add_result(study, dataset) if fit.has_result else study


def _add_result(study: StudySummary, dataset: Path) -> StudySummary:
    """Add the content of the result folder; the worse of its status and the verdict's counts."""
    work = dataset / "work" / study.relative_folder
    try:
        found = read_result(work / "fit")
    except InputError:
        return replace(
            study,
            status="internal error",
            message=f"its verdict is '{study.status}', but its result folder cannot be read",
        )
    versions = read_json_or_empty(work / "fit" / "provenance.json").get("versions")
    if not isinstance(versions, dict):
        versions = {}
    kept = {k: str(versions[k]) for k in ("nanopinn", "torch") if k in versions}
    arms = read_run_status(dataset, study.id, "arms")
    outcomes: tuple[ArmOutcome, ...] = ()
    if arms.has_result:
        try:
            outcomes = tuple(_read_outcomes(work / "arms" / "outcomes.tsv"))
        except InputError:
            message = f"its verdict is '{arms.status}', but its table of outcomes cannot be read"
            arms = replace(arms, status="internal error", message=message)
    return replace(
        study,
        status=study.status if found.check.passed else "check failed",
        message="" if found.check.passed else found.check.headline,
        items=found.check.items,
        scalars=found.scalars,
        versions={**study.versions, **kept},
        arms=arms.status,
        comparison_message=arms.message,
        outcomes=outcomes,
    )


def _read_outcomes(path: Path) -> Iterator[ArmOutcome]:
    """Read the rows of a comparison's table, one per arm.

    Raises:
        InputError: The table cannot be read.
    """
    for row in read_rows(path):
        for column in [c for c in row if c.endswith("_median")]:
            arm = column.removesuffix("_median")
            numbers = [
                _float_or_nan(row.get(f"{arm}_{q}")) for q in ("median", "low_90", "high_90")
            ]
            description = row.get("words", row.get("outcome", ""))
            yield ArmOutcome(arm, description, row.get("unit", ""), *numbers)


def _float_or_nan(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
