"""What a cohort returns: how every study ended, and what the images say of its tumours together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nanopinn.results.fit_result import CheckItem, ScalarEstimate

#: As a verdict calls them; ``unfinished`` where there is none.
StudyStatus = Literal["passed", "check failed", "refused", "internal error", "unfinished"]
#: Those that a verdict may hold.
REPORTED_STATUSES: tuple[StudyStatus, ...] = ("passed", "check failed", "refused", "internal error")
#: What a user can do about each.
REMEDIES: Mapping[str, str] = {
    "refused": "Correct what is named, and run the cohort again: only this study is done anew.",
    "internal error": (
        "Read its log; if memory was short, ask for more. Otherwise please report it."
    ),
    "unfinished": "Run the cohort again: it goes on from there.",
    "check failed": (
        "Read the first lines of its report; --preset accurate refines what most often fails."
    ),
}


@dataclass(frozen=True)
class ArmOutcome:
    """One outcome of one arm in one study: median and central 90 % of the draws; NaN where it does
    not exist.
    """

    arm: str
    outcome: str
    unit: str
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class StudySummary:
    """How one study ended.

    Attributes:
        place: of its folders, below ``work/``. message: why, one line. items: comparisons of its
            check. scalars: its unknowns.
        seconds: it took. versions: of nanopinn and torch. about: its columns in the participants
            table.
        arms: status of its arms, empty where none were asked for; comparison_message, outcomes: of
            them.
    """

    id: str
    place: Path
    status: StudyStatus
    message: str = ""
    items: tuple[CheckItem, ...] = ()
    scalars: tuple[ScalarEstimate, ...] = ()
    seconds: float = float("nan")
    versions: Mapping[str, str] = field(default_factory=dict)
    participant_columns: Mapping[str, str] = field(default_factory=dict)
    arms: StudyStatus | Literal[""] = ""
    comparison_message: str = ""
    outcomes: tuple[ArmOutcome, ...] = ()

    @property
    def subject(self) -> str:
        """``sub-01``."""
        return self.id.split("_")[0]

    @property
    def failed_items(self) -> tuple[CheckItem, ...]:
        """Comparisons outside their limits."""
        return tuple(i for i in self.items if not i.passed)

    @property
    def worst_misfit(self) -> tuple[float, str]:
        """The largest chi2/N of its check, and of what."""
        found = [
            (i.value, i.name.removeprefix("misfit of ").removesuffix(", chi2/N"))
            for i in self.items
            if i.name.endswith("chi2/N")
        ]
        return max(found, default=(float("nan"), ""))

    @property
    def all_passed(self) -> bool:
        """Whether nothing needs a look."""
        return self.status == "passed" and self.arms in ("", "passed")


@dataclass(frozen=True)
class StudyEstimate:
    """One study's value of an unknown, the prior taken out once.

    Attributes:
        y, s: estimate and standard deviation by the images alone; natural logarithm where the
            unknown's scale is log.
        z: distance from the others; NaN where too few are informed.
    """

    study: str
    scalar: ScalarEstimate
    y: float
    s: float
    z: float


@dataclass(frozen=True)
class CohortParameter:
    """One unknown over the studies whose check passed.

    Attributes:
        passed: how many studies. members: those in which the images inform it. failed: estimates of
            studies whose check failed, and which inform it; shown, not counted.
        mean, low, high: typical value and its 95 % interval, in the unknown's unit; NaN where not
            averaged.
        between_sd: between subjects, what a study's own error explains taken out; of the logarithm
            where the scale is log.
        outliers: members whose ``z`` is beyond the threshold. judged: whether there are enough to
            say.
    """

    name: str
    label: str
    unit: str
    scale: str
    prior_median: float
    prior_sd: float
    passed: int
    estimates: tuple[StudyEstimate, ...]
    failed: tuple[tuple[str, ScalarEstimate], ...]
    median: float
    quartiles: tuple[float, float]
    mean: float
    low: float
    high: float
    between_sd: float
    outliers: tuple[StudyEstimate, ...]
    outliers_tested: bool

    @property
    def is_averaged(self) -> bool:
        """Whether the images inform it in most of the studies, two or more."""
        return 2 * len(self.estimates) > self.passed and len(self.estimates) > 1

    def describe(self) -> str:
        """For how many the images speak, and what is done with them."""
        if not self.passed:
            return "no study passed its check"
        said = f"informed by the images in {len(self.estimates)} of {self.passed} studies"
        return (
            said
            if self.is_averaged
            else (
                f"{said}: not averaged, the prior speaks"
                if self.estimates
                else f"{said}: the prior speaks"
            )
        )


@dataclass(frozen=True)
class CohortSummary:
    """A cohort.

    Attributes:
        threshold: of ``|z|`` beyond which a study is an outlier. fewest: informed studies from
            which outliers are judged.
    """

    studies: tuple[StudySummary, ...]
    parameters: tuple[CohortParameter, ...]
    threshold: float
    min_informed_studies: int

    def count(self, status: str) -> int:
        """Studies that ended so."""
        return sum(s.status == status for s in self.studies)

    @property
    def all_passed(self) -> bool:
        """Whether every study passed."""
        return all(s.all_passed for s in self.studies)

    @property
    def headline(self) -> str:
        """One line: what passed, and what did not."""
        said = [f"{self.count('passed')} of {len(self.studies)} studies passed"]
        said += [f"{n} {status}" for status in REMEDIES if (n := self.count(status))]
        arms = sum(s.arms not in ("", "passed") for s in self.studies)
        return "; ".join([*said, *([f"arms of {arms} did not pass"] if arms else [])])

    def summary(self) -> str:
        """The headline, what needs a look, and what the images inform."""
        lines = [self.headline]
        lines += [f"{s.id}: {s.status}: {s.message}" for s in self.studies if s.status != "passed"]
        lines += [
            f"{s.id}: arms {s.arms}: {s.comparison_message}"
            for s in self.studies
            if s.arms not in ("", "passed")
        ]
        lines += [
            f"{m.study}: outlier in {p.label} (z {m.z:+.1f})"
            for p in self.parameters
            for m in p.outliers
        ]
        return "\n".join([*lines, *(f"{p.label}: {p.describe()}" for p in self.parameters)])
