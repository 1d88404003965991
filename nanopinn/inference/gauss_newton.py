"""Gauss-Newton with Levenberg's damping on a whitened residual and Gaussian priors; shared by the
engines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: A step turns round where the cosine between it and the last, in the metric of the posterior, is
#: below minus this.
REVERSAL_COSINE = 0.7


@dataclass(frozen=True)
class QuadraticModel:
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
    def from_residual(
        cls, residual: Array, jacobian: Array, prior_residual: Array, prior_sd: Array
    ) -> QuadraticModel:
        """From a whitened residual ``(N,)`` and its Jacobian ``(N, m)``."""
        chi2 = float(residual @ residual)
        return cls(
            objective=0.5 * (chi2 + float(prior_residual @ prior_residual)),
            chi2=chi2,
            gradient=jacobian.T @ residual + prior_residual / prior_sd,
            hessian=jacobian.T @ jacobian + np.diag(prior_sd**-2.0),
        )

    def terms(self, observations: int) -> dict[str, float]:
        """The objective's terms for those who wait: chi2 per observation, and the squared distance
        from the prior in its sd.
        """
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
class OptimisationRun:
    """How a minimisation went."""

    theta: Array
    quadratic: QuadraticModel
    history: tuple[float, ...]
    converged: bool
    iterations: int


@dataclass(frozen=True)
class PreviousStep:
    """The step that led to a point: ``taken``, and ``wanted`` by the quadratic model where it
    began.
    """

    accepted: Array
    proposed: Array

    def limit_reversal(self, step: Array, hessian: Array) -> Array:
        """The next step; one that leads back goes no further along this one than the secant through
        both slopes.

        A step that turns round has met more curvature than Gauss-Newton knows of: residuals times
        second derivatives, which count where data hardly hold an unknown.
        """
        along = hessian @ self.accepted
        length, next_length = (float(np.sqrt(s @ hessian @ s)) for s in (self.accepted, step))
        if float(along @ step) >= -REVERSAL_COSINE * length * next_length:
            return step
        ahead, back = (float(along @ s) / length**2 for s in (self.proposed, -step))
        share = min(1.0, 1 / (ahead + back)) if ahead > 0 else 1.0
        return np.asarray(step + (1 - share) * back * self.accepted, dtype=np.float64)


@dataclass(frozen=True)
class OptimiserState:
    """Where a minimisation stands before an iteration: all it needs to go on."""

    iteration: int
    theta: Array
    damping: float = 1e-3
    history: tuple[float, ...] = ()
    previous_step: PreviousStep | None = None


def minimise(
    expand: Callable[[Array], QuadraticModel],
    value_at: Callable[[Array], float],
    theta: Array,
    prior_sd: Array,
    *,
    iterations: int,
    tolerance: float,
    on_step: Callable[[int, Array, QuadraticModel], None],
    initial_state: OptimiserState | None = None,
    save_state: Callable[[OptimiserState], None] | None = None,
) -> OptimisationRun:
    """Minimise until a full step is below ``tolerance`` posterior standard deviations in every
    coordinate.

    Args:
        expand: normal equations at a point (with tangents).
        value_at: the objective at a point, without tangents; called only to test steps.
        theta: start, ``(m,)``.
        prior_sd: ``(m,)``; no step is longer than 1.5 of them.
        on_step: told of every expansion.
        begin: where an earlier minimisation stood, from which this one goes on; ``theta`` is not
            read then.
        keep: told where it stands before every iteration.
    """
    at = initial_state or OptimiserState(0, theta)
    theta, damping, history, previous_step = (
        at.theta,
        at.damping,
        list(at.history),
        at.previous_step,
    )
    for k in range(at.iteration, iterations):
        if save_state is not None:
            save_state(OptimiserState(k, theta, damping, tuple(history), previous_step))
        quadratic = expand(theta)
        history.append(quadratic.objective)
        on_step(k, theta, quadratic)
        sd = np.sqrt(np.diag(quadratic.covariance))
        proposed = quadratic.full_step
        if np.max(np.abs(proposed) / sd) < tolerance:
            return OptimisationRun(theta, quadratic, tuple(history), True, k + 1)
        for _ in range(6):
            step = quadratic.step(damping, 1.5 * prior_sd)
            trial = theta + (
                step
                if previous_step is None
                else previous_step.limit_reversal(step, quadratic.hessian)
            )
            if value_at(trial) <= quadratic.objective:
                previous_step = PreviousStep(trial - theta, proposed)
                theta, damping = trial, damping / 5
                break
            damping *= 8
        else:
            return OptimisationRun(theta, quadratic, tuple(history), False, k + 1)
    return OptimisationRun(theta, quadratic, tuple(history), False, iterations)
