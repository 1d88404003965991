"""Gauss-Newton with Levenberg's damping on a whitened residual and Gaussian priors; shared by the engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: A step turns round where the cosine between it and the last, in the metric of the posterior, is below minus this.
TURNED = 0.7


@dataclass(frozen=True)
class Quadratic:
    """Normal equations of the misfit at a point.

    Attributes:
        objective: (chi2 + prior)/2 there.
        chi2: misfit alone.
        gradient: ``J' r + prior``, ``(m,)``.
        hessian: ``J' J`` + prior precision, ``(m, m)``.
    """

    objective: float
    chi2: float
    gradient: Array
    hessian: Array

    @classmethod
    def of(
        cls, residual: Array, jacobian: Array, prior_residual: Array, prior_sd: Array
    ) -> Quadratic:
        """From a whitened residual ``(N,)`` and its Jacobian ``(N, m)``."""
        chi2 = float(residual @ residual)
        return cls(
            objective=0.5 * (chi2 + float(prior_residual @ prior_residual)),
            chi2=chi2,
            gradient=jacobian.T @ residual + prior_residual / prior_sd,
            hessian=jacobian.T @ jacobian + np.diag(prior_sd**-2.0),
        )

    def terms(self, observations: int) -> dict[str, float]:
        """The objective's terms for those who wait: chi2 per observation, and the squared distance from the prior in its sd."""
        return {"chi2/N": self.chi2 / observations, "prior": 2 * self.objective - self.chi2}

    @property
    def covariance(self) -> Array:
        """Laplace posterior covariance: the inverse Hessian."""
        return np.asarray(np.linalg.inv(self.hessian), dtype=np.float64)

    @property
    def full_step(self) -> Array:
        """To the minimum of the quadratic model, ``(m,)``."""
        return np.asarray(-np.linalg.solve(self.hessian, self.gradient), dtype=np.float64)

    def step(self, damping: float, largest: Array) -> Array:
        """Damped step, shortened so that no coordinate moves more than ``largest``."""
        H = self.hessian + damping * np.diag(np.diag(self.hessian))
        step = -np.linalg.solve(H, self.gradient)
        return np.asarray(step / max(1.0, float(np.max(np.abs(step) / largest))), dtype=np.float64)


@dataclass(frozen=True)
class Descent:
    """How a minimisation went."""

    theta: Array
    quadratic: Quadratic
    history: tuple[float, ...]
    converged: bool
    iterations: int


@dataclass(frozen=True)
class Stride:
    """The step that led to a point: ``taken``, and ``wanted`` by the quadratic model where it began."""

    taken: Array
    wanted: Array

    def shortened(self, step: Array, hessian: Array) -> Array:
        """The next step; one that leads back goes no further along this one than the secant through both slopes.

        A step that turns round has met more curvature than Gauss-Newton knows of: residuals times second derivatives, which
        count where data hardly hold an unknown.
        """
        along = hessian @ self.taken
        length, next_length = (float(np.sqrt(s @ hessian @ s)) for s in (self.taken, step))
        if float(along @ step) >= -TURNED * length * next_length:
            return step
        ahead, back = (float(along @ s) / length**2 for s in (self.wanted, -step))
        share = min(1.0, 1 / (ahead + back)) if ahead > 0 else 1.0
        return np.asarray(step + (1 - share) * back * self.taken, dtype=np.float64)


@dataclass(frozen=True)
class Place:
    """Where a minimisation stands before an iteration: all it needs to go on."""

    iteration: int
    theta: Array
    damping: float = 1e-3
    history: tuple[float, ...] = ()
    before: Stride | None = None


def minimise(
    expand: Callable[[Array], Quadratic],
    value_at: Callable[[Array], float],
    theta: Array,
    prior_sd: Array,
    *,
    iterations: int,
    tolerance: float,
    on_step: Callable[[int, Array, Quadratic], None],
    begin: Place | None = None,
    keep: Callable[[Place], None] | None = None,
) -> Descent:
    """Minimise until a full step is below ``tolerance`` posterior standard deviations in every coordinate.

    Args:
        expand: normal equations at a point (with tangents).
        value_at: the objective at a point, without tangents; called only to test steps.
        theta: start, ``(m,)``.
        prior_sd: ``(m,)``; no step is longer than 1.5 of them.
        on_step: told of every expansion.
        begin: where an earlier minimisation stood, from which this one goes on; ``theta`` is not read then.
        keep: told where it stands before every iteration.
    """
    at = begin or Place(0, theta)
    theta, damping, history, before = at.theta, at.damping, list(at.history), at.before
    for k in range(at.iteration, iterations):
        if keep is not None:
            keep(Place(k, theta, damping, tuple(history), before))
        quadratic = expand(theta)
        history.append(quadratic.objective)
        on_step(k, theta, quadratic)
        sd = np.sqrt(np.diag(quadratic.covariance))
        wanted = quadratic.full_step
        if np.max(np.abs(wanted) / sd) < tolerance:
            return Descent(theta, quadratic, tuple(history), True, k + 1)
        for _ in range(6):
            step = quadratic.step(damping, 1.5 * prior_sd)
            trial = theta + (step if before is None else before.shortened(step, quadratic.hessian))
            if value_at(trial) <= quadratic.objective:
                before = Stride(trial - theta, wanted)
                theta, damping = trial, damping / 5
                break
            damping *= 8
        else:
            return Descent(theta, quadratic, tuple(history), False, k + 1)
    return Descent(theta, quadratic, tuple(history), False, iterations)
