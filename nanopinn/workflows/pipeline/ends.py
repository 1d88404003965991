"""How the work on each study of a cohort ended, as the verdicts of its runs say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanopinn.workflows.cohort.studies import CohortStudy

#: What the statuses are called in verdicts.
PASSED, FAILED_CHECK, REFUSED, UNFINISHED = "passed", "check failed", "refused", "unfinished"


@dataclass(frozen=True)
class RunStatus:
    """How one run ended.

    Attributes:
        id: of the study. run: ``fit`` or ``arms``. status: the verdict's, or ``unfinished`` where there is none.
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
            f"it was killed, or could not write; see {log}"
            if (out / log).exists()
            else "not begun",
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
    """Tells of each run of a cohort once, when its verdict appears; of those that were there before, nothing."""

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
