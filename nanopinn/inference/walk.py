"""From an estimate outwards along one unknown, all others fitted anew at every point.

Each point is a full solve of the states; the others move by Gauss-Newton from the neighbouring point. Its tangents are
those at the estimate, brought in line with every solve since (Broyden), or exact on request: without them a value is
exact at its point and an upper bound of the profile, off by about ``left``. The problem is held as the fit left it, with
its maps and systematic errors, so that every point is of one objective.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import NanopinnError
from nanopinn.inference.expansion import Linearisation, Objective

Array = NDArray[np.float64]

#: Half the 95 % quantile of chi2 with one degree of freedom.
OBJECTIVE_RISE_95 = 1.9207
#: A side ends where the objective rose by that of three standard deviations, or at so many of them.
MAX_OBJECTIVE_RISE, MAX_DISTANCE_SD = 4.5, 6
#: A point whose objective lies so much below the estimate's says that the fit had not arrived, and these are its words.
SIGNIFICANT_DECREASE = 0.1
BETTER_POINT_MESSAGE = (
    "a better point than the estimate was found on the way: fit again with --starts"
)
#: The others are fitted well enough when a step would gain less than this; never more solves than this per point.
DECREASE_TOLERANCE, MAX_SOLVES_PER_POINT = 0.02, 3


@dataclass(frozen=True)
class ProfilePoint:
    """Where a walk stands.

    Attributes:
        theta: every coordinate, ``(m,)``. expansion: residual and tangents there.
        prior: half the squared distance from the prior. left: what another step of the others would still gain, about.
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
        """Points on one side (``sign`` -1 or 1), until the objective rose enough; ``stopped`` says where the states could not be solved."""
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
                self.stopped = f"a side ended at {z - 1} sd, where the states can no longer be solved ({error})"
                return
            yield point
            rise = point.objective - self.start.objective

    def solve_next_point(
        self, point: ProfilePoint, x: float, most: int = MAX_SOLVES_PER_POINT
    ) -> ProfilePoint:
        """The neighbour with unknown j at x: others predicted, then fitted, by at most so many solves."""
        step = np.zeros_like(point.theta)
        step[self.j] = x - point.theta[self.j]
        step[self.nuisance] = self._nuisance_step(point.theta + step, point.expansion, step)
        point = self._evaluate_step(point, step)
        for _ in range(most - 1):
            step = np.zeros_like(point.theta)
            step[self.nuisance] = self._nuisance_step(point.theta, point.expansion, step)
            if self._predicted_decrease(point) < DECREASE_TOLERANCE:
                break
            trial = self._evaluate_step(point, step)
            if trial.objective > point.objective:
                # the solve was not in vain: the tangents know of it now
                known = replace(point.expansion, jacobian=trial.expansion.jacobian)
                point = replace(point, expansion=known)
            else:
                point = trial
        return replace(point, remaining_decrease=self._predicted_decrease(point))

    def _evaluate_step(self, point: ProfilePoint, step: Array) -> ProfilePoint:
        theta = point.theta + step
        at, prior = self.objective, self.objective.prior(theta)
        return ProfilePoint(
            theta,
            at.expand(theta)
            if self.exact
            else point.expansion.broyden_update(step, at.residual(theta), self.sd),
            prior,
            0.0,
        )

    def _nuisance_step(self, theta: Array, at: Linearisation, fixed: Array) -> Array:
        """Gauss-Newton step of the others from where ``at`` holds, when ``fixed`` is gone as well."""
        J, o = at.jacobian, self.nuisance
        residual = at.residual + J @ fixed
        gradient = (
            J[:, o].T @ residual
            + (self.objective.prior_residual(theta) / self.objective.prior_sd)[o]
        )
        hessian = J[:, o].T @ J[:, o] + np.diag(self.objective.prior_sd[o] ** -2.0)
        return np.asarray(-np.linalg.solve(hessian, gradient), dtype=np.float64)

    def _predicted_decrease(self, point: ProfilePoint) -> float:
        """What a step of the others would gain by the quadratic model."""
        J, o = point.expansion.jacobian, self.nuisance
        step = self._nuisance_step(point.theta, point.expansion, np.zeros_like(point.theta))
        hessian = J[:, o].T @ J[:, o] + np.diag(self.objective.prior_sd[o] ** -2.0)
        return 0.5 * float(step @ hessian @ step)
