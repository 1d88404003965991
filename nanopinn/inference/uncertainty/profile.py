"""From an estimate outwards along one unknown, all others fitted anew at every point.

Each point is a full solve of the states; the others move by Gauss-Newton from the neighbouring
point. Its tangents are those at the estimate, brought in line with every solve since (Broyden), or
exact on request: without them a value is exact at its point and an upper bound of the profile, off
by about ``left``. The problem is held as the fit left it, with its maps and systematic errors, so
that every point is of one objective.

Profile likelihood: an unknown held at one value after another, all others fitted anew.

    f(x) = min over theta with theta_j = x of (chi2 + prior)/2

Points are found as :mod:`nanopinn.inference.uncertainty.profile` says. The 95 % interval is where f
rises by 1.92 (Venzon and Moolgavkar 1988, Appl. Stat. 37:87); an unknown whose misfit alone stays
flat is not identifiable (Raue 2009, Bioinformatics 25:1923).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError, NanopinnError
from nanopinn.inference.fitted_problem import fitted_problem_of
from nanopinn.inference.problem import Objective, ResidualProblem
from nanopinn.inference.quadratic_model import Linearisation, QuadraticModel
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results.fit_result import (
    OBJECTIVE_RISE_95,
    FitResult,
    Profile,
    StrongestCorrelation,
)

Array = NDArray[np.float64]

#: A side ends where the objective rose by that of three standard deviations, or at so many of them.
MAX_OBJECTIVE_RISE, MAX_DISTANCE_SD = 4.5, 6
#: A point whose objective is lower than the estimate's by this much shows that the fit had not
#: converged to the minimum.
SIGNIFICANT_DECREASE = 0.1
BETTER_POINT_MESSAGE = (
    "the profile found a lower objective than the estimate: fit again with several `starts`"
)
#: The others are fitted well enough when a step would gain less than this; never more solves than
#: this per point.
DECREASE_TOLERANCE, MAX_SOLVES_PER_POINT = 0.02, 3


@dataclass(frozen=True)
class ProfilePoint:
    """Where a walk stands.

    Attributes:
        theta: every coordinate, ``(m,)``. expansion: residual and tangents there.
        prior: half the squared distance from the prior. left: what another step of the others would
            still gain, about.
    """

    theta: Array
    expansion: Linearisation
    prior: float
    remaining_decrease: float

    @property
    def objective(self) -> float:
        """Half of chi2 and of the squared distance from the prior."""
        return self.expansion.misfit + self.prior


class ProfileContinuation:
    """From the estimate outwards, one posterior standard deviation a step."""

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
        """Points on one side (``sign`` -1 or 1), until the objective rose enough; ``stopped`` says
        where the states could not be solved.
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
                    f"a side ended at {z - 1} sd, where the states can no longer be solved"
                    f" ({error})"
                )
                return
            yield point
            rise = point.objective - self.start.objective

    def solve_next_point(
        self, point: ProfilePoint, x: float, most: int = MAX_SOLVES_PER_POINT
    ) -> ProfilePoint:
        """The neighbour with unknown j at x: others predicted, then fitted, by at most so many
        solves.
        """
        step = np.zeros_like(point.theta)
        step[self.j] = x - point.theta[self.j]
        step[self.nuisance] = self._nuisance_model(
            point.theta + step, point.expansion, step
        ).full_step
        point = self._evaluate_step(point, step)
        for _ in range(most - 1):
            model = self._nuisance_model(point.theta, point.expansion)
            if model.predicted_decrease < DECREASE_TOLERANCE:
                break
            step = np.zeros_like(point.theta)
            step[self.nuisance] = model.full_step
            trial = self._evaluate_step(point, step)
            if trial.objective > point.objective:
                # the solve was not in vain: the tangents know of it now
                known = replace(point.expansion, jacobian=trial.expansion.jacobian)
                point = replace(point, expansion=known)
            else:
                point = trial
        remaining = self._nuisance_model(point.theta, point.expansion).predicted_decrease
        return replace(point, remaining_decrease=remaining)

    def _evaluate_step(self, point: ProfilePoint, step: Array) -> ProfilePoint:
        theta = point.theta + step
        at, prior = self.objective, self.objective.prior(theta)
        return ProfilePoint(
            theta,
            (
                at.expand(theta)
                if self.exact
                else point.expansion.broyden_update(step, at.residual(theta), self.sd)
            ),
            prior,
            0.0,
        )

    def _nuisance_model(
        self, theta: Array, at: Linearisation, fixed_step: Array | None = None
    ) -> QuadraticModel:
        """Quadratic model of the other unknowns, after a step of all unknowns if one is given.

        Args:
            theta: after the step, ``(m,)``.
            at: linearisation before the step.
            fixed_step: ``(m,)``.
        """
        if fixed_step is not None:
            at = replace(at, residual=at.residual + at.jacobian @ fixed_step)
        return self.objective.quadratic(theta, at).restrict(self.nuisance)


def strongest_correlation(
    names: Sequence[str], covariance: Array, name: str
) -> StrongestCorrelation | None:
    """The unknown with the largest correlation to another one.

    Args:
        names: of the unknowns.
        covariance: of the posterior, ``(m, m)``.
        name: of the unknown.

    Returns:
        The partner; None where every correlation is below a thousandth.
    """
    j = names.index(name)
    return correlation_along_profile(names, covariance[:, j], np.sqrt(np.diag(covariance)), j)


def correlation_along_profile(
    names: Sequence[str], moved: Array, sd: Array, j: int
) -> StrongestCorrelation | None:
    """The unknown that changes most, in its posterior sd, while unknown ``j`` changes.

    Args:
        names: of the unknowns.
        moved: change of every coordinate, ``(m,)``.
        sd: posterior standard deviations, ``(m,)``.
        j: index of the unknown.
    """
    share = moved / sd / (moved[j] / sd[j])
    share[j] = 0.0
    i = int(np.argmax(np.abs(share)))
    # smaller values are rounding errors
    return (
        StrongestCorrelation(names[i], float(share[i]), float(moved[i] / moved[j]))
        if abs(share[i]) > 1e-3
        else None
    )


def profile_likelihood(
    fit: FitResult, name: str, *, exact: bool = False, progress: Progress = ignore_progress
) -> Profile:
    """Profile likelihood of an unknown of a fit.

    Args:
        fit: from :func:`nanopinn.run_fit` or :func:`nanopinn.load_fit`.
        name: of the unknown.
        exact: compute the Jacobian at every point, at about ten times the cost.
        progress: called with the state of the work.

    Returns:
        The profile; the one that the fit itself computed where there is one and ``exact`` is false.

    Raises:
        InputError: there is no such unknown, or the fit does not hold its problem.
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
    """The profile of an unknown around an estimate.

    Args:
        problem: as the fit left it.
        theta: the estimate, ``(m,)``.
        expansion: residual and tangents there; solved for if None.
        exact: tangents anew at every point, about ten times the work.

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
    points = [*reversed(down), continuation.start, *up]
    unknown = problem.unknowns.items[continuation.j]
    theta = np.stack([p.theta for p in points])
    estimate = unknown.estimate(
        float(continuation.start.theta[continuation.j]), float(continuation.sd[continuation.j])
    )
    coordinates = theta[:, continuation.j]
    ends = _crossings(coordinates, np.array([p.objective for p in points]), len(down))
    moved = theta[-1] - theta[0]
    partner = (
        correlation_along_profile(problem.unknowns.names, moved, continuation.sd, continuation.j)
        if len(points) > 1
        else None
    )

    def shown(x: float) -> float:
        return unknown.estimate(x, 0.0).median

    return Profile(
        name=unknown.name,
        label=unknown.label,
        unit=unknown.unit,
        scale=unknown.scale,
        values=np.array([shown(float(x)) for x in coordinates]),
        misfit=np.array([p.expansion.misfit for p in points]),
        prior=np.array([p.prior for p in points]),
        theta=theta,
        remaining_decrease=np.array([p.remaining_decrease for p in points]),
        estimate=len(down),
        interval=(shown(ends[0]), shown(ends[1])),
        laplace=estimate.interval(),
        strongest_correlation=partner,
        solves=continuation.objective.solves,
        seconds=seconds,
        stopped=continuation.stopped,
    )


def _crossings(x: Array, objective: Array, start: int) -> tuple[float, float]:
    """Where the objective is 1.92 above its least, on both sides of it; infinite where it does not
    get there.

    Between points the root of the rise, which is straight for a parabola, is interpolated.
    """
    least = int(np.argmin(objective))
    centre = least if objective[least] < objective[start] - SIGNIFICANT_DECREASE else start
    root = np.sqrt(np.clip(objective - objective[centre], 0.0, None))
    return _crossing(x[centre::-1], root[centre::-1], -np.inf), _crossing(
        x[centre:], root[centre:], np.inf
    )


def _crossing(x: Array, root: Array, open_end: float) -> float:
    level = np.sqrt(OBJECTIVE_RISE_95)
    beyond = np.flatnonzero(root >= level)
    if not beyond.size:
        return float(open_end)
    k = int(beyond[0])
    return float(x[k - 1] + (x[k] - x[k - 1]) * (level - root[k - 1]) / (root[k] - root[k - 1]))
