"""Which other unknown an unknown is traded against: the valley along which the data are nearly
indifferent.

What a fit returns: frozen, readable, with prior beside posterior and the check first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.progress import Progress, ignore_progress

if TYPE_CHECKING:
    from nanopinn.inference.multistart import StartResult
    from nanopinn.inference.saved_fit import FittedProblem
    from nanopinn.inference.uncertainty.profile import Profile
    from nanopinn.inference.uncertainty.sampling import PosteriorSamples


Array = NDArray[np.float64]


@dataclass(frozen=True)
class StrongestCorrelation:
    """The other unknown that moves most, in its posterior standard deviations, when one is moved.

    Attributes:
        partner: its name.
        strength: posterior sd of the partner per posterior sd of the unknown; by a covariance that
            is their correlation.
        slope: change of the partner's coordinate per change of the unknown's (logarithm or value),
            along the valley.
    """

    partner: str
    strength: float
    slope: float


def strongest_correlation(
    names: Sequence[str], covariance: Array, name: str
) -> StrongestCorrelation | None:
    """By a posterior covariance ``(m, m)``; None for an unknown that stands alone."""
    j = names.index(name)
    return correlation_along_profile(names, covariance[:, j], np.sqrt(np.diag(covariance)), j)


def correlation_along_profile(
    names: Sequence[str], moved: Array, sd: Array, j: int
) -> StrongestCorrelation | None:
    """By how far every coordinate went, ``(m,)``, while unknown j was moved.

    Args:
        sd: posterior standard deviations of the coordinates, ``(m,)``.
    """
    share = moved / sd / (moved[j] / sd[j])
    share[j] = 0.0
    i = int(np.argmax(np.abs(share)))
    # round-off is no valley
    return (
        StrongestCorrelation(names[i], float(share[i]), float(moved[i] / moved[j]))
        if abs(share[i]) > 1e-3
        else None
    )


@dataclass(frozen=True)
class ScalarEstimate:
    """One unknown, before and after the data.

    ``median`` values are in ``unit``; ``sd`` values are in natural-log units where ``scale`` is
    "log" and in ``unit`` where it is "linear". ``low`` and ``high`` are the central 95 % interval
    in ``unit``.
    """

    name: str
    label: str
    unit: str
    scale: Literal["log", "linear"]
    prior_median: float
    prior_sd: float
    median: float
    sd: float

    #: Below this contraction the images have said next to nothing: the posterior is the prior.
    INFORMED_FROM: ClassVar[float] = 0.5

    @property
    def contraction(self) -> float:
        """1 - sd_post / sd_prior: 0 when the images said nothing, near 1 when they said it all."""
        return 1.0 - self.sd / self.prior_sd

    @property
    def informed(self) -> bool:
        """Whether the images, rather than the prior, set this value."""
        return self.contraction >= self.INFORMED_FROM

    @property
    def unaffected_by_data(self) -> bool:
        """Whether no observation moved it at all."""
        return self.contraction < 1e-3

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Central posterior interval in ``unit`` (95 % by default)."""
        return self._interval(self.median, self.sd, z)

    def prior_interval(self, z: float = 1.96) -> tuple[float, float]:
        """Central prior interval in ``unit`` (95 % by default)."""
        return self._interval(self.prior_median, self.prior_sd, z)

    def _interval(self, centre: float, sd: float, z: float) -> tuple[float, float]:
        if self.scale == "log":
            return centre * float(np.exp(-z * sd)), centre * float(np.exp(z * sd))
        return centre - z * sd, centre + z * sd


@dataclass(frozen=True)
class EngineRun:
    """One engine's own answer, its path and its cost."""

    engine: str
    scalars: tuple[ScalarEstimate, ...]
    covariance: Array
    """Posterior covariance in the coordinates of the unknowns (log or linear), (n, n)."""
    objective: tuple[float, ...]
    """Misfit plus prior, 0.5 chi2, after each iteration."""
    chi2: float
    observations: int
    seconds: float
    converged: bool
    message: str
    """What happened and, where it did not converge, what to try."""
    stats: Mapping[str, float | int | str] = field(default_factory=dict)
    starts: tuple[StartResult, ...] = ()
    """Every descent, where there were several."""
    events: tuple[str, ...] = ()
    """What it had to recover from on the way, in words."""

    def __getitem__(self, name: str) -> ScalarEstimate:
        return next(s for s in self.scalars if s.name == name)


def describe_unaffected(scalars: tuple[ScalarEstimate, ...]) -> str:
    """A clause on unknowns that no observation touches; empty where there is none."""
    names = [s.label for s in scalars if s.unaffected_by_data]
    return f"; no observation touches {', '.join(names)}: kept at the prior" if names else ""


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
        return all(item.passed for item in self.items)

    @property
    def headline(self) -> str:
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
    """A map with its posterior standard deviation, both ``(x, y, z)``, in ``unit``; NaN where not
    estimated.
    """

    name: str
    unit: str
    description: str
    source: Literal["images", "images and prior", "prior"]
    """Where the value comes from: the images, both, or the prior alone."""
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
    """A field of vectors ``(3, x, y, z)`` along the voxel axes, in ``unit``; NaN where not
    estimated.
    """

    name: str
    unit: str
    description: str
    values: Array


@dataclass(frozen=True)
class Curve:
    """A measured and a modelled mean time course over the tumour, for the report."""

    name: str
    unit: str
    times_s: Array
    measured: Array
    modelled: Array
    measured_sd: Array | None = None


@dataclass(frozen=True)
class FitResult:
    """The whole answer to one study.

    ``scalars`` are those of the last engine that ran; ``runs`` holds every engine's own; ``ended``
    is where it ended, from which :meth:`profile` goes on; ``profiles`` are those worked out so far.
    """

    scalars: tuple[ScalarEstimate, ...]
    covariance: Array
    runs: Mapping[str, EngineRun]
    engine_distance: Mapping[str, float]
    """Per unknown, from where pinn ended to where one more exact step of fv leads, posterior sd;
    empty when one engine ran.
    """
    check: CheckResult
    maps: Mapping[str, MapEstimate]
    fields: Mapping[str, FieldEstimate]
    curves: tuple[Curve, ...]
    assumptions: tuple[str, ...]
    affine: Array
    mask: NDArray[np.bool_]
    seconds: Mapping[str, float] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    fitted_problem: FittedProblem | None = field(default=None, repr=False)
    vectors: Mapping[str, VectorEstimate] = field(default_factory=dict)

    def __getitem__(self, name: str) -> ScalarEstimate:
        return next(s for s in self.scalars if s.name == name)

    def ridge(self, name: str) -> StrongestCorrelation | None:
        """The other unknown that this one is traded against, by the posterior covariance."""
        return strongest_correlation([s.name for s in self.scalars], self.covariance, name)

    def profile(
        self, name: str, *, exact: bool = False, progress: Progress = ignore_progress
    ) -> Profile:
        """Profile likelihood of an unknown
        (:func:`nanopinn.inference.uncertainty.profile.profile_likelihood`), worked out once.

        Raises:
            InputError: there is no such unknown, or the fit does not hold its problem.
        """
        if exact or name not in self.profiles:
            from nanopinn.inference.uncertainty.profile import profile_likelihood

            end = self._require_problem("a profile")
            self.profiles[name] = profile_likelihood(
                end.full_problem,
                end.full_theta,
                name,
                expansion=end.tangents,
                exact=exact,
                progress=progress,
            )
        return self.profiles[name]

    def sample(
        self, draws: int = 400, *, seed: int = 0, progress: Progress = ignore_progress
    ) -> PosteriorSamples:
        """Draws from the posterior by full solves
        (:func:`nanopinn.inference.uncertainty.sampling.sample_posterior`).

        Raises:
            InputError: emcee is not installed, or the fit does not hold its problem.
        """
        from nanopinn.inference.uncertainty.sampling import sample_posterior

        end = self._require_problem("sampling")
        return sample_posterior(
            end.full_problem,
            end.full_theta,
            expansion=end.tangents,
            draws=draws,
            seed=seed,
            progress=progress,
        )

    def _require_problem(self, wanted: str) -> FittedProblem:
        if self.fitted_problem is None:
            raise InputError(
                f"the fit does not hold its problem, which {wanted} needs",
                remedy="Take the one that run_fit returns.",
            )
        return self.fitted_problem

    def save(self, path: str | Path) -> Path:
        """Write the whole fit as safetensors with JSON in its header; :func:`nanopinn.load_fit`
        reads it back.

        Args:
            path: a file named ``.safetensors``, or a folder.

        Raises:
            OutputError: it cannot be written.
        """
        from nanopinn.inference.saved_fit import fit_file_path, fit_to_bytes
        from nanopinn.io.volumes import write_bytes

        write_bytes(fit_file_path(path), fit_to_bytes(self))
        return fit_file_path(path)

    def summary(self) -> str:
        """A plain table: prior beside posterior, and in words what the images did not inform."""
        lines = [
            self.check.headline,
            (
                f"{'quantity':34s} {'unit':8s} {'prior (95 %)':>26s} {'posterior (95 %)':>34s} {'contraction':>12s} "
                " traded against"
            ),
        ]
        for s in self.scalars:
            low, high = s.prior_interval()
            post, ridge = s.interval(), self.ridge(s.name)
            lines.append(
                f"{s.label:34s} {s.unit:8s} {f'{low:.3g} .. {high:.3g}':>26s} {f'{s.median:.3g} ({post[0]:.3g} .. {post[1]:.3g})':>34s} {s.contraction:12.2f} "
                f" {said(ridge)}"
            )
        return "\n".join([*lines, *(p.describe() for p in self.profiles.values()), self.describe()])

    def describe(self) -> str:
        """Which quantities the images informed and which still carry the prior."""
        informed = [s.label for s in self.scalars if s.informed]
        carried = [s.label for s in self.scalars if not s.informed]
        said = (
            f"The images informed: {', '.join(informed)}."
            if informed
            else "The images informed nothing."
        )
        if not carried:
            return said
        return f"{said} Not informed, the prior speaks: {', '.join(carried)}."


def said(ridge: StrongestCorrelation | None) -> str:
    """A ridge partner with its correlation, or that there is none."""
    return "none" if ridge is None else f"{ridge.partner} ({ridge.strength:+.2f})"
