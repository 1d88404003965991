"""Profile likelihood of one unknown, and the unknown that it is most strongly correlated with.

    f(x) = min over theta with theta_j = x of (chi2 + prior)/2

The profile is computed by continuation outwards from the estimate. At every point the states are
solved, and the other unknowns (the nuisance parameters) are optimised by Gauss-Newton steps from
the neighbouring point. The Jacobian of the estimate is updated by the method of Broyden after every
solve, so that a value is exact at its point and an upper bound of the profile, too large by about
``remaining_decrease``. On request the Jacobian is computed exactly. Maps and systematic errors stay
as they are at the end of the fit, so all points belong to one objective. The 95 % interval ends
where f has risen by 1.92. An unknown whose misfit alone stays flat is not identifiable.

References:
    Venzon and Moolgavkar 1988, Appl. Stat. 37:87.
    Raue et al. 2009, Bioinformatics 25:1923.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError, NanopinnError
from nanopinn.inference.problem import Linearisation, Objective, QuadraticModel, ResidualProblem
from nanopinn.inference.saved_fit import fitted_problem_of
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import OBJECTIVE_RISE_95, FitResult, Profile, StrongestCorrelation

Array = NDArray[np.float64]

#: A side ends where the objective has risen by that of three standard deviations of a Gaussian, or
#: at this distance in posterior standard deviations.
MAX_OBJECTIVE_RISE, MAX_DISTANCE_SD = 4.5, 6
#: A point whose objective is lower than the estimate's by this much shows that the fit had not
#: converged to the minimum.
SIGNIFICANT_DECREASE = 0.1
BETTER_POINT_MESSAGE = (
    "the profile found a lower objective than the estimate: fit again with several `starts`"
)
#: The nuisance parameters are optimised until a step would decrease the objective by less than
#: this, with at most so many solves per point.
DECREASE_TOLERANCE, MAX_SOLVES_PER_POINT = 0.02, 3

#: Correlations below this are rounding errors.
MIN_CORRELATION = 1e-3


@dataclass(frozen=True)
class ProfilePoint:
    """One point of a profile.

    Attributes:
        theta: all coordinates, ``(m,)``.
        expansion: residual and Jacobian there.
        prior: half the squared distance from the prior.
        remaining_decrease: decrease of the objective predicted for another step of the nuisance
            parameters.
    """

    theta: Array
    expansion: Linearisation
    prior: float
    remaining_decrease: float

    @property
    def objective(self) -> float:
        """``(chi2 + prior)/2`` at the point."""
        return self.expansion.misfit + self.prior


class ProfileContinuation:
    """Continuation of the conditional minimum along one unknown, outwards from the estimate.

    Args:
        objective: objective for fixed maps and systematic errors.
        j: index of the unknown.
        theta: estimate, ``(m,)``.
        expansion: residual and Jacobian at the estimate; computed if None.
        exact: whether to compute the Jacobian at every point instead of Broyden updates.
    """

    def __init__(
        self,
        objective: Objective,
        j: int,
        theta: Array,
        expansion: Linearisation | None,
        exact: bool,
    ) -> None:
        self.objective, self.j, self.exact = objective, j, exact
        at = objective.expand(theta) if expansion is None else expansion
        self.covariance = objective.quadratic(theta, at).covariance
        self.sd = np.sqrt(np.diag(self.covariance))
        self.nuisance = np.arange(len(theta)) != j
        self.start = ProfilePoint(theta, at, objective.prior(theta), 0.0)
        self.stopped = ""

    def trace_side(self, sign: int) -> Iterator[ProfilePoint]:
        """Points on one side of the estimate, one posterior standard deviation apart, until the
        objective has risen enough. ``stopped`` gives the reason if the model has no solution on the
        way.

        Args:
            sign: side, -1 or 1.
        """
        point, rise, z = self.start, 0.0, 0
        while (
            z < MAX_DISTANCE_SD
            and (z < 3 or rise < OBJECTIVE_RISE_95)
            and rise < MAX_OBJECTIVE_RISE
        ):
            z += 1
            try:
                point = self.solve_next_point(
                    point, self.start.theta[self.j] + sign * z * self.sd[self.j]
                )
            except NanopinnError as error:
                self.stopped = (
                    f"one side ends at {z - 1} sd, because the model has no solution beyond it"
                    f" ({error})"
                )
                return
            yield point
            rise = point.objective - self.start.objective

    def solve_next_point(
        self, point: ProfilePoint, x: float, max_solves: int = MAX_SOLVES_PER_POINT
    ) -> ProfilePoint:
        """The neighbouring point with unknown j at x.

        Args:
            point: the point to continue from.
            x: coordinate of unknown j.
            max_solves: maximum number of solves to optimise the nuisance parameters.
        """
        step = np.zeros_like(point.theta)
        step[self.j] = x - point.theta[self.j]
        step[self.nuisance] = self._nuisance_model(
            point.theta + step, point.expansion, step
        ).full_step
        point = self._evaluate_step(point, step)
        for _ in range(max_solves - 1):
            model = self._nuisance_model(point.theta, point.expansion)
            if model.predicted_decrease < DECREASE_TOLERANCE:
                break
            step = np.zeros_like(point.theta)
            step[self.nuisance] = model.full_step
            trial = self._evaluate_step(point, step)
            if trial.objective > point.objective:
                # the step is rejected, but its solve improves the Jacobian
                updated = replace(point.expansion, jacobian=trial.expansion.jacobian)
                point = replace(point, expansion=updated)
            else:
                point = trial
        remaining = self._nuisance_model(point.theta, point.expansion).predicted_decrease
        return replace(point, remaining_decrease=remaining)

    def _evaluate_step(self, point: ProfilePoint, step: Array) -> ProfilePoint:
        """The point after a step, with its residual and Jacobian."""
        theta = point.theta + step
        if self.exact:
            expansion = self.objective.expand(theta)
        else:
            residual = self.objective.residual(theta)
            expansion = point.expansion.broyden_update(step, residual, self.sd)
        return ProfilePoint(theta, expansion, self.objective.prior(theta), 0.0)

    def _nuisance_model(
        self, theta: Array, at: Linearisation, fixed_step: Array | None = None
    ) -> QuadraticModel:
        """Quadratic model of the nuisance parameters, a fixed step from ``at`` if one is given."""
        if fixed_step is not None:
            at = replace(at, residual=at.residual + at.jacobian @ fixed_step)
        return self.objective.quadratic(theta, at).restrict(self.nuisance)


def strongest_correlation(
    names: Sequence[str], covariance: Array, name: str
) -> StrongestCorrelation | None:
    """The unknown with the largest correlation to another one.

    Args:
        names: names of the unknowns.
        covariance: posterior covariance, ``(m, m)``.
        name: name of the unknown.

    Returns:
        The partner; None if every correlation is below ``MIN_CORRELATION``.
    """
    j = names.index(name)
    return correlation_along_profile(names, covariance[:, j], np.sqrt(np.diag(covariance)), j)


def correlation_along_profile(
    names: Sequence[str], change: Array, sd: Array, j: int
) -> StrongestCorrelation | None:
    """The unknown that changes most, in its posterior sd, while unknown ``j`` changes.

    Args:
        names: names of the unknowns.
        change: change of every coordinate, ``(m,)``.
        sd: posterior standard deviations, ``(m,)``.
        j: index of the unknown.

    Returns:
        The partner; None if the relative change of every other unknown is below
            ``MIN_CORRELATION``.
    """
    strength = change / sd / (change[j] / sd[j])
    strength[j] = 0.0
    i = int(np.argmax(np.abs(strength)))
    if abs(strength[i]) <= MIN_CORRELATION:
        return None
    return StrongestCorrelation(names[i], float(strength[i]), float(change[i] / change[j]))


def profile_likelihood(
    fit: FitResult, name: str, *, exact: bool = False, progress: Progress = ignore_progress
) -> Profile:
    """Profile likelihood of an unknown of a fit.

    Args:
        fit: result of :func:`nanopinn.run_fit` or :func:`nanopinn.load_fit`.
        name: name of the unknown.
        exact: whether to compute the Jacobian at every point, at about ten times the cost.
        progress: receives the state of the computation.

    Returns:
        The profile; the one that the fit contains, if it contains one and ``exact`` is false.

    Raises:
        InputError: there is no such unknown, or the fit does not contain its problem.
    """
    if name in fit.profiles and not exact:
        return fit.profiles[name]
    fitted = fitted_problem_of(fit, "a profile likelihood")
    return profile_unknown(
        fitted.full_problem,
        fitted.full_theta,
        name,
        expansion=fitted.tangents,
        exact=exact,
        progress=progress,
    )


def profile_unknown(
    problem: ResidualProblem,
    theta: Array,
    name: str,
    *,
    expansion: Linearisation | None = None,
    exact: bool = False,
    progress: Progress = ignore_progress,
) -> Profile:
    """Profile likelihood of an unknown of a problem around an estimate.

    Args:
        problem: problem as it is at the end of the fit.
        theta: estimate, ``(m,)``.
        name: name of the unknown.
        expansion: residual and Jacobian at the estimate; computed if None.
        exact: whether to compute the Jacobian at every point, at about ten times the cost.
        progress: receives the state of the computation.

    Returns:
        The profile.

    Raises:
        InputError: there is no such unknown.
    """
    names = problem.unknowns.names
    if name not in names:
        raise InputError(
            "no such unknown to profile", field="profile", found=name, expected=", ".join(names)
        )
    began = time.perf_counter()
    continuation = ProfileContinuation(
        Objective(problem), names.index(name), theta, expansion, exact
    )
    down, up = (
        list(_report_points(continuation.trace_side(sign), progress, name, sign))
        for sign in (-1, 1)
    )
    return _build_profile(continuation, down, up, problem, time.perf_counter() - began)


def _report_points(
    points: Iterator[ProfilePoint], progress: Progress, name: str, sign: int
) -> Iterator[ProfilePoint]:
    """Pass on the points and report the progress after each."""
    for k, point in enumerate(points):
        progress(
            f"profile of {name}",
            (0.0 if sign < 0 else 0.5) + min(k + 1, 3) / 6,
            {"objective": point.objective},
        )
        yield point


def _build_profile(
    continuation: ProfileContinuation,
    down: list[ProfilePoint],
    up: list[ProfilePoint],
    problem: ResidualProblem,
    seconds: float,
) -> Profile:
    """The profile from the points on both sides."""
    points = [*reversed(down), continuation.start, *up]
    unknown = problem.unknowns.items[continuation.j]
    theta = np.stack([p.theta for p in points])
    estimate = unknown.estimate(
        float(continuation.start.theta[continuation.j]), float(continuation.sd[continuation.j])
    )
    coordinates = theta[:, continuation.j]
    ends = _crossings(coordinates, np.array([p.objective for p in points]), len(down))
    change = theta[-1] - theta[0]
    partner = (
        correlation_along_profile(problem.unknowns.names, change, continuation.sd, continuation.j)
        if len(points) > 1
        else None
    )

    def in_unit(x: float) -> float:
        """Customary value of a coordinate."""
        return unknown.estimate(x, 0.0).median

    return Profile(
        name=unknown.name,
        label=unknown.label,
        unit=unknown.unit,
        scale=unknown.scale,
        values=np.array([in_unit(float(x)) for x in coordinates]),
        misfit=np.array([p.expansion.misfit for p in points]),
        prior=np.array([p.prior for p in points]),
        theta=theta,
        remaining_decrease=np.array([p.remaining_decrease for p in points]),
        estimate=len(down),
        interval=(in_unit(ends[0]), in_unit(ends[1])),
        laplace=estimate.interval(),
        strongest_correlation=partner,
        solves=continuation.objective.solves,
        seconds=seconds,
        stopped=continuation.stopped,
    )


def _crossings(x: Array, objective: Array, start: int) -> tuple[float, float]:
    """Coordinates on both sides of the lowest objective at which it has risen by 1.92; infinite on
    a side that does not rise so far.
    """
    lowest = int(np.argmin(objective))
    centre = lowest if objective[lowest] < objective[start] - SIGNIFICANT_DECREASE else start
    rise = objective - objective[centre]
    return (
        _first_crossing(x[centre::-1], rise[centre::-1], -np.inf),
        _first_crossing(x[centre:], rise[centre:], np.inf),
    )


def _first_crossing(x: Array, rise: Array, open_end: float) -> float:
    """The first crossing of 1.92 in order of the points, or ``open_end``."""
    beyond = np.flatnonzero(rise >= OBJECTIVE_RISE_95)
    if not beyond.size:
        return open_end
    k = int(beyond[0])
    return interpolate_crossing(float(x[k - 1]), float(x[k]), float(rise[k - 1]), float(rise[k]))


def interpolate_crossing(x0: float, x1: float, rise0: float, rise1: float) -> float:
    """Position between two points at which the objective has risen by 1.92.

    The square root of the rise is interpolated linearly, which is exact for a quadratic objective.

    Args:
        x0: position of the inner point.
        x1: position of the outer point.
        rise0: rise of the objective at the inner point.
        rise1: rise of the objective at the outer point.

    Returns:
        Position of the crossing; ``x1`` if the objective does not rise between the points.
    """
    level, low, high = (float(np.sqrt(max(r, 0.0))) for r in (OBJECTIVE_RISE_95, rise0, rise1))
    return x0 + (x1 - x0) * (level - low) / (high - low) if high > low else x1
