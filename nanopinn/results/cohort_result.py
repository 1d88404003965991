"""Results of a cohort: how every study ended, and its parameters over all studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nanopinn.results.fit_result import CheckItem, ScalarEstimate

#: Status in a verdict file; ``unfinished`` if there is none.
StudyStatus = Literal["passed", "check failed", "refused", "internal error", "unfinished"]
#: Statuses that a verdict file may hold.
REPORTED_STATUSES: tuple[StudyStatus, ...] = ("passed", "check failed", "refused", "internal error")


@dataclass(frozen=True)
class ArmOutcome:
    """One outcome of one treatment arm in one study; NaN if it does not exist.

    Attributes:
        arm: Name of the arm.
        outcome: Description of the outcome.
        unit: Unit of the values.
        median: Median of the draws.
        low: Lower end of the central 90 % interval.
        high: Upper end of the central 90 % interval.
    """

    arm: str
    outcome: str
    unit: str
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class StudySummary:
    """How one study ended, and its result.

    Attributes:
        id: Name of the study, ``sub-01_ses-01``.
        relative_folder: Its folder below ``work/``.
        status: How its fit ended.
        message: Why, in one line.
        items: Comparisons of its finite-volume check.
        scalars: Its fitted parameters.
        seconds: Duration of the fit.
        versions: Versions of nanopinn and torch.
        participant_columns: Its columns in the table of participants.
        arms: Status of its comparison of arms; empty if none was asked for.
        comparison_message: Why the comparison ended so, in one line.
        outcomes: Outcomes of its arms.
    """

    id: str
    relative_folder: Path
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
        """Subject of the study, ``sub-01``."""
        return self.id.split("_")[0]

    @property
    def failed_items(self) -> tuple[CheckItem, ...]:
        """Comparisons outside their limits."""
        return tuple(i for i in self.items if not i.passed)

    @property
    def worst_misfit(self) -> tuple[float, str]:
        """Largest chi2/N of the check, and the data it belongs to."""
        found = [
            (i.value, i.name.removeprefix("misfit of ").removesuffix(", chi2/N"))
            for i in self.items
            if i.name.endswith("chi2/N")
        ]
        return max(found, default=(float("nan"), ""))

    @property
    def all_passed(self) -> bool:
        """Whether the fit and the comparison of arms passed."""
        return self.status == "passed" and self.arms in ("", "passed")


@dataclass(frozen=True)
class StudyEstimate:
    """Estimate of a parameter in one study, with the prior divided out.

    Attributes:
        study: Name of the study.
        scalar: Prior and posterior.
        y: Estimate from the data alone; its logarithm if the scale is log.
        s: Standard deviation of ``y``.
        z: Robust z score among the studies; NaN if too few are informed.
    """

    study: str
    scalar: ScalarEstimate
    y: float
    s: float
    z: float


@dataclass(frozen=True)
class CohortParameter:
    """One parameter over the studies whose check passed.

    Attributes:
        name: Name of the parameter.
        label: Its description.
        unit: Unit of medians and intervals.
        scale: ``log`` or ``linear``.
        prior_median: Median of the prior.
        prior_sd: Standard deviation of the prior.
        passed: Number of studies whose check passed.
        estimates: Estimates of the studies in which the images inform the parameter.
        failed: Informed estimates of studies whose check failed; shown, but not counted.
        median: Median of the study medians.
        quartiles: First and third quartile of the study medians.
        mean: Pooled mean of the random-effects model; NaN if it is not computed.
        low: Lower end of the 95 % interval of the pooled mean.
        high: Upper end of the 95 % interval of the pooled mean.
        between_sd: Between-subject standard deviation, of the logarithm if the scale is log.
        outliers: Estimates whose ``z`` exceeds the threshold.
        outliers_tested: Whether enough studies are informed to test for outliers.
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
        """Whether the images inform the parameter in most studies, and in at least two."""
        return 2 * len(self.estimates) > self.passed and len(self.estimates) > 1


@dataclass(frozen=True)
class CohortSummary:
    """All studies of a cohort, and its parameters over them.

    Attributes:
        studies: How every study ended.
        parameters: The fitted parameters.
        threshold: Absolute z score beyond which a study is an outlier.
        min_informed_studies: Number of informed studies from which outliers are tested.
    """

    studies: tuple[StudySummary, ...]
    parameters: tuple[CohortParameter, ...]
    threshold: float
    min_informed_studies: int

    @property
    def all_passed(self) -> bool:
        """Whether every study passed."""
        return all(s.all_passed for s in self.studies)
