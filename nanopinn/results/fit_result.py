"""What a fit returns: estimates with their priors, engine runs, the check, maps and fields.

Frozen data classes. Functions that compute from them are in :mod:`nanopinn.inference`, functions
that format them in :mod:`nanopinn.report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Rise of (chi2 + prior)/2 at the ends of a 95 % interval: half the 95 % quantile of chi2 with one
#: degree of freedom.
OBJECTIVE_RISE_95 = 1.9207


#: Standard deviations of a Gaussian on either side of its mean that enclose 95 %.
Z_95 = 1.96


def central_interval(
    median: float, sd: float, scale: Literal["log", "linear"], z: float = Z_95
) -> tuple[float, float]:
    """Central interval of a normal or log-normal distribution, 95 % by default.

    Args:
        median: median of the distribution.
        sd: standard deviation, of the logarithm if ``scale`` is "log".
        scale: "log" for a log-normal distribution, "linear" for a normal one.
        z: half-width of the interval in standard deviations.
    """
    if scale == "log":
        return median * float(np.exp(-z * sd)), median * float(np.exp(z * sd))
    return median - z * sd, median + z * sd


@dataclass(frozen=True)
class ScalarEstimate:
    """Prior and posterior of one unknown.

    Attributes:
        name: key of the unknown.
        label: its name in tables and figures.
        unit: customary unit.
        scale: "log" where the logarithm has a Gaussian prior, "linear" where the value has.
        prior_median: in ``unit``.
        prior_sd: of the natural logarithm for scale "log", in ``unit`` for scale "linear".
        median: of the posterior, in ``unit``.
        sd: of the posterior, as ``prior_sd``.
    """

    name: str
    label: str
    unit: str
    scale: Literal["log", "linear"]
    prior_median: float
    prior_sd: float
    median: float
    sd: float

    #: Contraction below which an estimate counts as prior-dominated.
    INFORMED_FROM: ClassVar[float] = 0.5

    @property
    def contraction(self) -> float:
        """``1 - sd_post / sd_prior``: 0 where the posterior equals the prior."""
        return 1.0 - self.sd / self.prior_sd

    @property
    def informed(self) -> bool:
        """Whether the data rather than the prior determine the value."""
        return self.contraction >= self.INFORMED_FROM

    @property
    def unaffected_by_data(self) -> bool:
        """Whether posterior and prior agree to a thousandth."""
        return self.contraction < 1e-3

    def interval(self, z: float = Z_95) -> tuple[float, float]:
        """Central posterior interval in ``unit`` (95 % by default)."""
        return central_interval(self.median, self.sd, self.scale, z)

    def prior_interval(self, z: float = Z_95) -> tuple[float, float]:
        """Central prior interval in ``unit`` (95 % by default)."""
        return central_interval(self.prior_median, self.prior_sd, self.scale, z)


#: Distance of an estimate from its prior, in prior standard deviations, beyond which it is flagged.
FLAGGED_SHIFT = 2.0


@dataclass(frozen=True)
class PriorShift:
    """Distance of an unknown or a systematic error from its prior.

    Attributes:
        name: key.
        label: name in tables.
        shift: estimate less the prior median, in prior standard deviations.
        remaining_sd: posterior over prior standard deviation.
        meaning: what a large shift may mean.
    """

    name: str
    label: str
    shift: float
    remaining_sd: float
    meaning: str

    @property
    def flagged(self) -> bool:
        """Whether the estimate lies far from its prior."""
        return abs(self.shift) > FLAGGED_SHIFT


@dataclass(frozen=True)
class StrongestCorrelation:
    """The unknown that changes most, in posterior standard deviations, when another one changes.

    Attributes:
        partner: name of that unknown.
        strength: change of the partner in its posterior sd per posterior sd of the unknown. By a
            covariance matrix this is the correlation coefficient.
        slope: change of the partner's coordinate (logarithm or value) per change of the unknown's.
    """

    partner: str
    strength: float
    slope: float


@dataclass(frozen=True)
class StartResult:
    """One of several optimisation runs that differ in their starting point.

    Attributes:
        start: coordinates, ``(m,)``.
        end: coordinates of the estimate, ``(m,)``; NaN where the run failed.
        objective: (chi2 + prior)/2 at the estimate; infinite where the run failed.
        converged: whether the last step was below the tolerance.
        distance: from the best estimate, in its posterior sd, largest coordinate.
        message: what happened.
    """

    start: Array
    end: Array
    objective: float
    converged: bool
    distance: float
    message: str


@dataclass(frozen=True)
class EngineRun:
    """The estimate of one engine, the iterations that led to it, and its cost.

    Attributes:
        engine: name of the engine.
        scalars: estimates of the scalar unknowns.
        covariance: posterior covariance in the coordinates of the unknowns, ``(m, m)``.
        objective: (chi2 + prior)/2 after each iteration.
        chi2: sum of squared whitened residuals.
        observations: number of independent observations.
        seconds: duration.
        converged: whether the last step was below the tolerance.
        message: what happened and, where it did not converge, what to try.
        stats: numbers of the run by name.
        starts: every optimisation run, where there were several.
        events: errors from which the engine recovered.
    """

    engine: str
    scalars: tuple[ScalarEstimate, ...]
    covariance: Array
    objective: tuple[float, ...]
    chi2: float
    observations: int
    seconds: float
    converged: bool
    message: str
    stats: Mapping[str, float | int | str] = field(default_factory=dict)
    starts: tuple[StartResult, ...] = ()
    events: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> ScalarEstimate:
        return next(s for s in self.scalars if s.name == name)


@dataclass(frozen=True)
class CheckItem:
    """One comparison of the fit with the independent finite-volume solution."""

    name: str
    value: float
    limit: float
    passed: bool
    meaning: str


@dataclass(frozen=True)
class CheckResult:
    """The finite-volume check: refined grid, other time scheme, no model error."""

    items: tuple[CheckItem, ...]
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every comparison is within its limit."""
        return all(item.passed for item in self.items)

    @property
    def headline(self) -> str:
        """One line that says whether the check passed and, if not, which comparisons failed."""
        failed = [item.name for item in self.items if not item.passed]
        if not failed:
            return (
                f"CHECK PASSED: {len(self.items)} of {len(self.items)} comparisons within their"
                " limits"
            )
        names = ", ".join(failed)
        return (
            f"CHECK FAILED: {len(failed)} of {len(self.items)} comparisons outside their limits"
            f" ({names})"
        )


@dataclass(frozen=True)
class MapEstimate:
    """A map with its posterior standard deviation, NaN where it was not estimated.

    Attributes:
        name: of the map and its file.
        unit: of ``values`` and ``std``.
        description: one phrase.
        source: what determines the values: the images, both, or the prior alone.
        values: ``(x, y, z)``.
        std: ``(x, y, z)``.
    """

    name: str
    unit: str
    description: str
    source: Literal["images", "images and prior", "prior"]
    values: Array
    std: Array | None = None


@dataclass(frozen=True)
class FieldEstimate:
    """A dynamic field ``(t, x, y, z)`` in ``unit`` at ``times_s``."""

    name: str
    unit: str
    description: str
    times_s: Array
    values: Array


@dataclass(frozen=True)
class VectorEstimate:
    """A vector field ``(3, x, y, z)`` along the voxel axes in ``unit``, NaN where not estimated."""

    name: str
    unit: str
    description: str
    values: Array


@dataclass(frozen=True)
class Curve:
    """A measured and a modelled mean time course over the tumour."""

    name: str
    unit: str
    times_s: Array
    measured: Array
    modelled: Array
    measured_sd: Array | None = None


@dataclass(frozen=True)
class Profile:
    """Profile likelihood of one unknown, its points in increasing order of the value.

    Attributes:
        name: key of the unknown.
        label: its name in tables and figures.
        unit: customary unit.
        scale: "log" or "linear".
        values: in ``unit``, ``(k,)``.
        misfit: chi2/2, ``(k,)``.
        prior: half of the squared distance from the prior, ``(k,)``.
        theta: every coordinate at every point, ``(k, m)``.
        remaining_decrease: predicted decrease of the objective by one more step of the other
            unknowns, ``(k,)``.
        estimate: index of the fit's own estimate.
        interval: 95 %, in ``unit``; 0 or infinite on a side that the profile did not close.
        laplace: the interval of the fit's covariance, in ``unit``.
        strongest_correlation: of the other unknowns, along the profile.
        solves: number of full solutions.
        seconds: duration.
        stopped: why a side ended early; empty where none did.
    """

    name: str
    label: str
    unit: str
    scale: Literal["log", "linear"]
    values: Array
    misfit: Array
    prior: Array
    theta: Array
    remaining_decrease: Array
    estimate: int
    interval: tuple[float, float]
    laplace: tuple[float, float]
    strongest_correlation: StrongestCorrelation | None
    solves: int
    seconds: float
    stopped: str = ""

    @property
    def objective(self) -> Array:
        """Misfit and prior together."""
        return self.misfit + self.prior

    @property
    def bounded(self) -> tuple[bool, bool]:
        """Whether the misfit alone rises by 1.92 below and above, within the range computed."""
        best = self.misfit.min()
        return bool(self.misfit[0] - best > OBJECTIVE_RISE_95), bool(
            self.misfit[-1] - best > OBJECTIVE_RISE_95
        )


@dataclass(frozen=True)
class PosteriorSamples:
    """Samples of the posterior, in the coordinates of the unknowns.

    Attributes:
        names: of the unknowns.
        theta: ``(chain, step, m)``.
        log_posterior: ``(chain, step)``, up to a constant.
        laplace_mean: mean of the Laplace approximation, ``(m,)``.
        laplace_sd: standard deviations of the Laplace approximation, ``(m,)``.
        ess: effective sample size, ``(m,)``.
        r_hat: split R-hat, ``(m,)``; 1 where the chains agree.
        acceptance: share of accepted proposals.
        solves: number of full solutions.
        seconds: duration.
    """

    names: tuple[str, ...]
    theta: Array
    log_posterior: Array
    laplace_mean: Array
    laplace_sd: Array
    ess: Array
    r_hat: Array
    acceptance: float
    solves: int
    seconds: float

    @property
    def flat(self) -> Array:
        """All chains in one, ``(n, m)``."""
        return self.theta.reshape(-1, self.theta.shape[-1])

    @property
    def mean(self) -> Array:
        """Sample mean, ``(m,)``."""
        return np.asarray(self.flat.mean(axis=0))

    @property
    def covariance(self) -> Array:
        """Sample covariance, ``(m, m)``."""
        return np.cov(self.flat.T).reshape(len(self.names), -1)

    def interval(self, name: str, share: float = 0.95) -> tuple[float, float]:
        """Central interval of the coordinate of an unknown."""
        low, high = np.quantile(
            self.flat[:, self.names.index(name)], [(1 - share) / 2, (1 + share) / 2]
        )
        return float(low), float(high)


@dataclass(frozen=True)
class FitResult:
    """The result of fitting one study.

    Attributes:
        scalars: estimates of the engine that ran last.
        covariance: posterior covariance of ``scalars`` in their coordinates, ``(m, m)``.
        runs: the run of every engine, by its name.
        engine_distance: per unknown, the distance from the estimate of the first engine to the next
            exact Gauss-Newton iterate of engine ``fv``, in posterior standard deviations; empty
            where one engine ran.
        check: comparison with the independent finite-volume solution.
        maps: maps by name.
        fields: dynamic fields by name.
        curves: mean time courses, measured and modelled.
        assumptions: sentences.
        affine: voxel indices to mm, ``(4, 4)``.
        mask: the tumour, ``(x, y, z)``.
        seconds: durations by stage.
        profiles: profile likelihoods that the fit computed, by the name of the unknown.
        fitted_problem: the problem as it was at the estimate, a
            :class:`nanopinn.inference.saved_fit.FittedProblem`; None where it is not stored.
        vectors: vector fields by name.
        prior_shifts: distance of every unknown and shared systematic error from its prior.
    """

    scalars: tuple[ScalarEstimate, ...]
    covariance: Array
    runs: Mapping[str, EngineRun]
    engine_distance: Mapping[str, float]
    check: CheckResult
    maps: Mapping[str, MapEstimate]
    fields: Mapping[str, FieldEstimate]
    curves: tuple[Curve, ...]
    assumptions: tuple[str, ...]
    affine: Array
    mask: NDArray[np.bool_]
    seconds: Mapping[str, float] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    fitted_problem: object | None = field(default=None, repr=False)
    vectors: Mapping[str, VectorEstimate] = field(default_factory=dict)
    prior_shifts: tuple[PriorShift, ...] = ()

    def __getitem__(self, name: str) -> ScalarEstimate:
        return next(s for s in self.scalars if s.name == name)
