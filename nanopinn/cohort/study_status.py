"""How the work on each study of a cohort ended, as the verdicts of its runs say.

How every study of a cohort ended, from its verdicts and result folders.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanopinn.cohort.bids import MISSING_VALUES, parse_study_id, read_rows
from nanopinn.cohort.bids_derivatives import STUDIES_FILE
from nanopinn.errors import InputError
from nanopinn.io.safe_open import read_json_or_empty
from nanopinn.report.result_folder import read_result
from nanopinn.results.cohort_result import REPORTED_STATUSES, ArmOutcome, StudyStatus, StudySummary

if TYPE_CHECKING:
    from nanopinn.cohort.study_table import CohortStudy


#: What the statuses are called in verdicts.
PASSED, FAILED_CHECK, REFUSED, UNFINISHED = "passed", "check failed", "refused", "unfinished"


@dataclass(frozen=True)
class RunStatus:
    """How one run ended.

    Attributes:
        id: of the study. run: ``fit`` or ``arms``. status: the verdict's, or ``unfinished`` where
            there is none.
        message: one line. seconds: it took, 0 where that is not known.
    """

    id: str
    run: str
    status: str
    message: str = ""
    seconds: float = 0.0

    @property
    def has_result(self) -> bool:
        """Whether it left a result."""
        return self.status in (PASSED, FAILED_CHECK)

    def format_line(self) -> str:
        """One line for the screen."""
        took = f" ({self.seconds:.0f} s)" if self.seconds else ""
        return f"{self.id}: {self.run} {self.status}{took}" + (
            f": {self.message}" if self.message and self.status != PASSED else ""
        )


def read_run_status(out: Path, study: CohortStudy, run: str) -> RunStatus:
    """How a run ended; one that a look at the files forbids is not begun."""
    if study.problem:
        return RunStatus(study.id, run, REFUSED, study.problem)
    place = out / "work" / study.place
    try:
        verdict = json.loads((place / f"{run}.json").read_text(encoding="utf-8"))
        return RunStatus(
            study.id,
            run,
            str(verdict["status"]),
            _one_line(verdict.get("message", "")),
            float(verdict.get("seconds", 0)),
        )
    except FileNotFoundError:
        log = Path("work", study.place, f"{run}.log")
        return RunStatus(
            study.id,
            run,
            UNFINISHED,
            (
                f"it was killed, or could not write; see {log}"
                if (out / log).exists()
                else "not begun"
            ),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return RunStatus(study.id, run, UNFINISHED, f"work/{study.place}/{run}.json cannot be read")


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def read_run_statuses(
    out: Path, studies: Sequence[CohortStudy], *, arms: bool
) -> tuple[RunStatus, ...]:
    """How every run of a cohort ended; arms of a study without a fit are not counted."""
    fits = [read_run_status(out, s, "fit") for s in studies]
    usable = [s for s, fit in zip(studies, fits, strict=True) if fit.has_result] if arms else []
    return (*fits, *(read_run_status(out, s, "arms") for s in usable))


def exit_code(ends: Sequence[RunStatus]) -> int:
    """0 where all passed, 3 where no study left a result, else 6."""
    if all(e.status == PASSED for e in ends):
        return 0
    return 6 if any(e.has_result for e in ends if e.run == "fit") else 3


class RunMonitor:
    """Tells of each run of a cohort once, when its verdict appears; of those that were there
    before, nothing.
    """

    def __init__(
        self, out: Path, studies: Sequence[CohortStudy], arms: bool, notify: Callable[[str], None]
    ) -> None:
        self._out, self._studies, self._arms, self._tell = out, studies, arms, notify
        self._seen = set(self._ends())

    def __call__(self) -> None:
        for end in self._ends():
            if end not in self._seen:
                self._seen.add(end)
                self._tell(end.format_line())

    def _ends(self) -> list[RunStatus]:
        return [
            e
            for e in read_run_statuses(self._out, self._studies, arms=self._arms)
            if e.status != UNFINISHED
        ]


_ENTITY = re.compile(r"(sub|ses|run)-[0-9A-Za-z]{1,64}", re.ASCII)
_RUN_OUTPUTS = ("fit", "fit.json", "fit.log", "fit.partial", "arms.json")


def read_study_ends(dataset: Path) -> tuple[StudySummary, ...]:
    """Every study that the dataset lists or holds, in order of their names.

    Raises:
        InputError: there is none.
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
            remedy="Run nanopinn cohort first.",
        )
    ends = [_read_study_end(dataset, id, listed.get(id, {})) for id in ids]
    if any(e.arms not in ("", "unfinished") for e in ends):
        return tuple(ends)
    begun = any((dataset / "work" / e.place / "arms.log").exists() for e in ends)
    return tuple(ends if begun else [replace(e, arms="", comparison_message="") for e in ends])


def _read_listed_studies(dataset: Path) -> dict[str, dict[str, str]]:
    path = dataset / STUDIES_FILE
    return (
        {parse_study_id(row["study"]).id: row for row in read_rows(path) if "study" in row}
        if path.is_file()
        else {}
    )


def _find_started_studies(place: Path, parts: tuple[str, ...]) -> Iterator[str]:
    """Ids of places in which a run left something."""
    if not place.is_dir():
        return
    names = set(os.listdir(place))
    if parts and names & set(_RUN_OUTPUTS):
        yield "_".join(parts)
    for name in sorted(names):
        keys = [p.split("-")[0] for p in (*parts, name)]
        if (
            _ENTITY.fullmatch(name)
            and keys[0] == "sub"
            and keys == [k for k in ("sub", "ses", "run") if k in keys]
        ):
            yield from _find_started_studies(place / name, (*parts, name))


def _read_study_end(dataset: Path, id: str, row: Mapping[str, str]) -> StudySummary:
    place = parse_study_id(id).place
    work, about = (
        dataset / "work" / place,
        {k.removeprefix("about "): v for k, v in row.items() if k.startswith("about ")},
    )
    status, message, verdict = _read_run_status(work, "fit", row.get("problem", ""))
    end = StudySummary(
        id,
        place,
        status,
        message,
        seconds=_float_or_nan(verdict.get("seconds")),
        participant_columns=about,
    )
    if verdict.get("version"):
        end = replace(end, versions={"nanopinn": str(verdict["version"])})
    return _add_result(end, work) if status in ("passed", "check failed") else end


def _read_run_status(
    work: Path, run: str, problem: str = ""
) -> tuple[StudyStatus, str, dict[str, Any]]:
    """Status and message of a run; what is wrong with the files today counts before what a run said
    of them once.
    """
    if problem not in MISSING_VALUES:
        return "refused", problem, {}
    verdict = read_json_or_empty(work / f"{run}.json")
    status: StudyStatus | None = next(
        (s for s in REPORTED_STATUSES if s == verdict.get("status")), None
    )
    if status is not None:
        return status, " ".join(str(verdict.get("message", "")).split()), verdict
    begun = any((work / f"{run}{rest}").exists() for rest in (".log", ".partial", ".json", ""))
    return (
        "unfinished",
        (
            f"it ended without a verdict; {run}.log in its folder says how far it came"
            if begun
            else "not begun"
        ),
        {},
    )


def _add_result(end: StudySummary, work: Path) -> StudySummary:
    """The same with what its result folder holds; where that says worse than the verdict, it is
    believed.
    """
    try:
        found = read_result(work / "fit")
    except InputError:
        return replace(
            end,
            status="internal error",
            message=f"its verdict is '{end.status}', but its result folder cannot be read",
        )
    versions = read_json_or_empty(work / "fit" / "provenance.json").get("versions")
    kept = (
        {k: str(versions[k]) for k in ("nanopinn", "torch") if k in versions}
        if isinstance(versions, dict)
        else {}
    )
    status: StudyStatus = end.status if found.check.passed else "check failed"
    message = "" if found.check.passed else found.check.headline
    arms, said, _ = _read_run_status(work, "arms")
    outcomes: tuple[ArmOutcome, ...] = ()
    if arms in ("passed", "check failed"):
        try:
            outcomes = tuple(_outcomes(work / "arms" / "outcomes.tsv"))
        except InputError:
            arms, said = (
                "internal error",
                f"its verdict is '{arms}', but its table of outcomes cannot be read",
            )
    return replace(
        end,
        status=status,
        message=message,
        items=found.check.items,
        scalars=found.scalars,
        versions={**end.versions, **kept},
        arms=arms,
        comparison_message=said,
        outcomes=outcomes,
    )


def _outcomes(path: Path) -> Iterator[ArmOutcome]:
    """Rows of a comparison's table, one per arm.

    Raises:
        InputError: it cannot be read.
    """
    for row in read_rows(path):
        for head in [h for h in row if h.endswith("_median")]:
            arm = head.removesuffix("_median")
            numbers = [
                _float_or_nan(row.get(f"{arm}_{q}")) for q in ("median", "low_90", "high_90")
            ]
            yield ArmOutcome(
                arm, row.get("words", row.get("outcome", "")), row.get("unit", ""), *numbers
            )


def _float_or_nan(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
