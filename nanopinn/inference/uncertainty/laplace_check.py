"""Laplace approximation checked by profile likelihood.

The Laplace approximation takes the objective for quadratic. With a non-linear correlation of two
unknowns, for example if both explain one image, the true value may lie many of its standard
deviations away. Therefore one distant point on either side is solved for every scalar that the
images inform, with all other unknowns optimised (:mod:`nanopinn.inference.uncertainty.profile`). If
the objective may have risen by less than the quadratic approximation, the profile on this side is
computed with exact Jacobians until the rise is 1.92. The longer side gives the standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import NanopinnError
from nanopinn.inference.problem import Linearisation, Objective, ResidualProblem
from nanopinn.inference.uncertainty.profile import (
    BETTER_POINT_MESSAGE,
    SIGNIFICANT_DECREASE,
    ProfileContinuation,
    interpolate_crossing,
)
from nanopinn.inference.unknowns import Unknown
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import OBJECTIVE_RISE_95, Z_95, ScalarEstimate

Array = NDArray[np.float64]

#: Each side is probed at this distance in standard deviations of the Laplace approximation, with at
#: most so many solves. The profile is computed if the objective may have risen by less than this
#: fraction of the rise of the quadratic approximation.
PROBE_DISTANCE_SD, MAX_PROBE_SOLVES, MIN_QUADRATIC_FRACTION = 2.5, 2, 0.75
#: A positive scalar whose logarithm has a smaller standard deviation is not checked, because the
#: model is nearly linear over this range.
WELL_DETERMINED_SD = 0.1
#: The interval of the profile replaces the Laplace interval if it is longer by at least this
#: factor.
MIN_WIDENING = 1.15
#: A side ends at this many prior standard deviations beyond the prior mean.
MAX_PRIOR_DISTANCE_SD = 2.0
#: Stage name for progress.
LAPLACE_CHECK_STAGE = "Laplace approximation check"


@dataclass(frozen=True)
class ProfileInterval:
    """95 % interval of a scalar by profile likelihood.

    Attributes:
        lower: lower end, coordinate.
        upper: upper end, coordinate.
        sd: standard deviation from the longer side, at most that of the prior; None if the Laplace
            approximation is confirmed.
        better_point_found: whether the profile found a lower objective than the estimate.
    """

    lower: float
    upper: float
    sd: float | None
    better_point_found: bool


@dataclass(frozen=True)
class CheckedPosterior:
    """A Laplace approximation after its check by profile likelihood.

    Attributes:
        scalars: estimates of all unknowns, with the standard deviation of the longer side where it
            is larger.
        covariance: posterior covariance with these standard deviations and unchanged correlations.
        notes: findings as sentences.
    """

    scalars: tuple[ScalarEstimate, ...]
    covariance: Array
    notes: tuple[str, ...]


def check_laplace_approximation(
    problem: ResidualProblem,
    theta: Array,
    scalars: Sequence[ScalarEstimate],
    covariance: Array,
    *,
    expansion: Linearisation | None = None,
    progress: Progress = ignore_progress,
) -> CheckedPosterior:
    """Check the posterior at the end of a fit, and widen it where the profile likelihood is wider.

    Args:
        problem: problem as it is at the end of the fit.
        theta: estimate, ``(m,)``.
        scalars: estimate of every unknown.
        covariance: covariance of the Laplace approximation, ``(m, m)``.
        expansion: residual and Jacobian at the estimate; computed if None.
        progress: receives the state of the check.

    Returns:
        The checked posterior.
    """
    objective = Objective(problem)
    at = objective.expand(theta) if expansion is None else expansion
    informed = [
        j
        for j, s in enumerate(scalars)
        if s.informed and not (s.scale == "log" and s.sd < WELL_DETERMINED_SD)
    ]
    factor, wider, notes = np.ones(len(covariance)), list(scalars), []
    for k, j in enumerate(informed):
        progress(LAPLACE_CHECK_STAGE, k / len(informed), {})
        try:
            profile_interval = _profile_interval(objective, j, theta, at)
        except NanopinnError as error:
            notes.append(
                f"{scalars[j].label}: the profile likelihood could not be computed ({error}), so"
                " the interval of the Laplace approximation was not checked."
            )
            continue
        if profile_interval.better_point_found:
            notes.append(f"{scalars[j].label}: {BETTER_POINT_MESSAGE}.")
        if profile_interval.sd is not None:
            factor[j] = max(1.0, profile_interval.sd / scalars[j].sd)
            wider[j] = replace(scalars[j], sd=factor[j] * scalars[j].sd)
            notes.append(
                _describe_interval(profile_interval, scalars[j], problem.unknowns.items[j])
            )
    progress(LAPLACE_CHECK_STAGE, 1.0, {})
    return CheckedPosterior(tuple(wider), covariance * np.outer(factor, factor), tuple(notes))


def _profile_interval(
    objective: Objective, j: int, theta: Array, expansion: Linearisation
) -> ProfileInterval:
    """The interval of unknown j, from the Laplace approximation on a side that it describes."""
    unknown = objective.problem.unknowns.items[j]
    approximate, exact = (
        ProfileContinuation(objective, j, theta, expansion, exact=e) for e in (False, True)
    )
    at, sd = float(theta[j]), float(approximate.sd[j])
    length, lowest = [Z_95 * sd, Z_95 * sd], 0.0
    for side, sign in enumerate((-1, 1)):
        if _is_flatter_than_quadratic(approximate, sign):
            points = list(_trace_outwards(exact, sign, unknown))
            (d0, rise0), (d1, rise1) = points[-2:]
            length[side] = interpolate_crossing(d0, d1, rise0, rise1)
            lowest = min(lowest, *(rise for _, rise in points))
    longer = max(length)
    wider = min(longer / Z_95, unknown.prior_sd) if longer >= MIN_WIDENING * Z_95 * sd else None
    return ProfileInterval(at - length[0], at + length[1], wider, lowest < -SIGNIFICANT_DECREASE)


def _is_flatter_than_quadratic(continuation: ProfileContinuation, sign: int) -> bool:
    """Whether the objective may rise by less than the quadratic approximation on a side, by one
    distant point and the decrease that further optimisation is predicted to give there.
    """
    point = continuation.solve_next_point(
        continuation.start,
        float(
            continuation.start.theta[continuation.j]
            + sign * PROBE_DISTANCE_SD * continuation.sd[continuation.j]
        ),
        MAX_PROBE_SOLVES,
    )
    return (
        point.objective - point.remaining_decrease - continuation.start.objective
        < MIN_QUADRATIC_FRACTION * PROBE_DISTANCE_SD**2 / 2
    )


def _trace_outwards(
    continuation: ProfileContinuation, sign: int, unknown: Unknown
) -> Iterator[tuple[float, float]]:
    """Distance from the estimate and rise of the objective at successive points, until the rise is
    sufficient or the range of the prior ends.
    """
    start, sd = continuation.start, float(continuation.sd[continuation.j])
    end = (
        sign * (unknown.prior_mean - float(start.theta[continuation.j]))
        + MAX_PRIOR_DISTANCE_SD * unknown.prior_sd
    )
    point, distance, rise = start, 0.0, 0.0
    yield distance, rise
    while rise < OBJECTIVE_RISE_95:
        # 1, 2, 3, 4, 6, 10 sd: the steps grow where the objective is flat
        last, distance = distance, distance + max(sd, distance - 2 * sd)
        if distance > end:
            yield max(last, end), OBJECTIVE_RISE_95
            return
        point = continuation.solve_next_point(
            point, float(start.theta[continuation.j]) + sign * distance
        )
        rise = point.objective - start.objective
        yield distance, rise


def _describe_interval(
    profile_interval: ProfileInterval, scalar: ScalarEstimate, unknown: Unknown
) -> str:
    """Both intervals of a scalar as a sentence."""
    low, high = (
        unknown.estimate(x, 0.0).median for x in (profile_interval.lower, profile_interval.upper)
    )
    unit = "" if scalar.unit == "1" else f" {scalar.unit}"
    laplace_low, laplace_high = scalar.interval()
    return (
        f"{scalar.label}: the 95 % interval by profile likelihood is {low:.3g} to {high:.3g}{unit},"
        f" by the Laplace approximation {laplace_low:.3g} to {laplace_high:.3g}{unit}. The reported"
        " sd is that of the longer side of the profile, at most the prior sd."
    )
