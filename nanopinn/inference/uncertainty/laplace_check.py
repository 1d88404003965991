"""How far the posterior of a scalar reaches: Laplace's approximation held against full solves.

Laplace takes the objective for a parabola. Where two unknowns explain one image in turns it is a
bent valley, and the true value may lie many of Laplace's standard deviations away. So of every
scalar that the images seem to inform, one far point on either side is solved, all others fitted
anew (:mod:`nanopinn.inference.uncertainty.profile`). Where the objective may have risen by less
than a parabola, the side is walked with exact tangents until it rose by 1.92; the longer side gives
the sd.
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
)
from nanopinn.inference.unknowns import Unknown
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results.fit_result import OBJECTIVE_RISE_95, ScalarEstimate

Array = NDArray[np.float64]

#: A side is looked at so many of Laplace's standard deviations away, by at most so many solves, and
#: walked where the objective may have risen by less than this share of a parabola's rise.
PROBE_DISTANCE_SD, MAX_PROBE_SOLVES, MIN_PARABOLA_FRACTION = 2.5, 2, 0.75
#: Over a tenth no positive scalar bends what it enters: one that is known so well (sd of its
#: logarithm) is not looked at.
WELL_DETERMINED_SD = 0.1
#: An interval longer than Laplace's by this factor is told and taken.
MIN_WIDENING = 1.15
#: A side ends at the latest so many prior sd beyond the prior's mean.
MAX_PRIOR_DISTANCE_SD = 2.0
Z_95 = 1.96


@dataclass(frozen=True)
class ProfileInterval:
    """How far the posterior of a scalar reaches.

    Attributes:
        lower, upper: ends of its 95 % interval, coordinates.
        sd: of the longer side, at most the prior's; None where Laplace's holds.
        better: whether a better point than the estimate was found on the way.
    """

    lower: float
    upper: float
    sd: float | None
    better_point_found: bool


@dataclass(frozen=True)
class CheckedPosterior:
    """A posterior that was held against solves.

    Attributes:
        scalars, covariance: with the longer sd where there is one; correlations as they were.
        notes: what was found, in words.
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
    """The posterior at the end of a fit, as wide as full solves find it.

    Args:
        problem: as the fit left it. theta: the estimate, ``(m,)``.
        scalars: of every unknown. covariance: Laplace's, ``(m, m)``.
        expansion: residual and tangents there; solved for if None.
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
        progress("how far the answer reaches", k / len(informed), {})
        try:
            profile_interval = _profile_interval(objective, j, theta, at)
        except NanopinnError as error:
            notes.append(
                f"How far {scalars[j].label} reaches could not be solved ({error}); its interval is"
                " a parabola's."
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
    progress("how far the answer reaches", 1.0, {})
    return CheckedPosterior(tuple(wider), covariance * np.outer(factor, factor), tuple(notes))


def _profile_interval(
    objective: Objective, j: int, theta: Array, expansion: Linearisation
) -> ProfileInterval:
    unknown = objective.problem.unknowns.items[j]
    quick, exact = (
        ProfileContinuation(objective, j, theta, expansion, exact=e) for e in (False, True)
    )
    at, sd = float(theta[j]), float(quick.sd[j])
    length, lowest = [Z_95 * sd, Z_95 * sd], 0.0
    for side, sign in enumerate((-1, 1)):
        if _is_flatter_than_parabola(quick, sign):
            points = list(_trace_outwards(exact, sign, unknown))
            length[side], lowest = (
                _interval_length(points),
                min(lowest, *(rise for _, rise in points)),
            )
    longer = max(length)
    wider = min(longer / Z_95, unknown.prior_sd) if longer >= MIN_WIDENING * Z_95 * sd else None
    return ProfileInterval(at - length[0], at + length[1], wider, lowest < -SIGNIFICANT_DECREASE)


def _is_flatter_than_parabola(continuation: ProfileContinuation, sign: int) -> bool:
    """Whether the objective may rise by less than a parabola on a side, by one far point and what
    fitting on would still gain there.
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
        < MIN_PARABOLA_FRACTION * PROBE_DISTANCE_SD**2 / 2
    )


def _trace_outwards(
    continuation: ProfileContinuation, sign: int, unknown: Unknown
) -> Iterator[tuple[float, float]]:
    """Distance from the estimate and rise of the objective, point after point, until it rose enough
    or the prior ends.
    """
    start, sd = continuation.start, float(continuation.sd[continuation.j])
    end = (
        sign * (unknown.prior_mean - float(start.theta[continuation.j]))
        + MAX_PRIOR_DISTANCE_SD * unknown.prior_sd
    )
    point, distance, rise = start, 0.0, 0.0
    yield distance, rise
    while rise < OBJECTIVE_RISE_95:
        last, distance = (
            distance,
            distance + max(sd, distance - 2 * sd),
        )  # 1, 2, 3, 4, 6, 10 sd: a plain is crossed in strides
        if distance > end:
            yield max(last, end), OBJECTIVE_RISE_95
            return
        point = continuation.solve_next_point(
            point, float(start.theta[continuation.j]) + sign * distance
        )
        rise = point.objective - start.objective
        yield distance, rise


def _interval_length(points: list[tuple[float, float]]) -> float:
    """Distance at which the objective rose by 1.92, between points by its root."""
    (d0, r0), (d1, r1) = points[-2:]
    level, low, high = (float(np.sqrt(max(r, 0.0))) for r in (OBJECTIVE_RISE_95, r0, r1))
    return d0 + (d1 - d0) * (level - low) / (high - low) if high > low else d1


def _describe_interval(
    profile_interval: ProfileInterval, scalar: ScalarEstimate, unknown: Unknown
) -> str:
    low, high = (
        unknown.estimate(x, 0.0).median for x in (profile_interval.lower, profile_interval.upper)
    )
    unit = "" if scalar.unit == "1" else f" {scalar.unit}"
    said = scalar.interval()
    return (
        f"{scalar.label} reaches from {low:.3g} to {high:.3g}{unit} (95 %) by full solves, where a"
        f" parabola would say {said[0]:.3g} to {said[1]:.3g}: its sd is that of the longer side, at"
        " most the prior's."
    )
