"""Minimisation of least-squares objectives by Gauss-Newton steps with Levenberg damping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.problem import QuadraticModel

Array = NDArray[np.float64]

#: A step reverses the last one where the cosine between them, in the metric of the posterior, is
#: below minus this.
REVERSAL_COSINE = 0.7
#: Longest step in any coordinate, prior standard deviations.
LARGEST_STEP_PRIOR_SD = 1.5


@dataclass(frozen=True)
class OptimisationRun:
    """The course of a minimisation.

    Attributes:
        theta: the last accepted point, ``(m,)``.
        quadratic: the last quadratic model, at ``theta`` where the run converged.
        history: objective after each iteration.
        converged: whether the last step was below the tolerance.
        iterations: number of quadratic models.
    """

    theta: Array
    quadratic: QuadraticModel
    history: tuple[float, ...]
    converged: bool
    iterations: int


@dataclass(frozen=True)
class PreviousStep:
    """The step that led to a point.

    Attributes:
        accepted: the step that was taken, ``(m,)``.
        proposed: the full step of the quadratic model where it began, ``(m,)``.
    """

    accepted: Array
    proposed: Array

    def limit_reversal(self, step: Array, hessian: Array) -> Array:
        """The next step, shortened along this one where it reverses it.

        A reversing step met more curvature than Gauss-Newton includes: residuals times second
        derivatives, which matter where the data constrain an unknown weakly. Along the previous
        step it is therefore limited to the secant through both slopes.

        Args:
            step: proposed next, ``(m,)``.
            hessian: at the current point, ``(m, m)``.
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
    """The state of a minimisation before an iteration, complete for a restart.

    Attributes:
        iteration: number of completed iterations.
        theta: current point, ``(m,)``.
        damping: Levenberg parameter.
        history: objective after each completed iteration.
        previous_step: None before the first one.
    """

    iteration: int
    theta: Array
    damping: float = 1e-3
    history: tuple[float, ...] = ()
    previous_step: PreviousStep | None = None


@dataclass(frozen=True)
class DampingControl:
    """How the Levenberg parameter changes.

    Attributes:
        decrease: divides it after an accepted step.
        increase: multiplies it after a rejected step.
        attempts: rejected steps per iteration before the iteration fails.
        failures: failed iterations in a row before the minimisation ends.
        floor: see :meth:`QuadraticModel.damped_step`.
        limit_reversals: see :meth:`PreviousStep.limit_reversal`.
    """

    decrease: float = 5.0
    increase: float = 8.0
    attempts: int = 10
    failures: int = 1
    floor: float = 0.0
    limit_reversals: bool = True


def step_below(tolerance: float) -> Callable[[QuadraticModel], bool]:
    """Whether the full step is below ``tolerance`` posterior sd in every coordinate."""

    def converged(quadratic: QuadraticModel) -> bool:
        sd = np.sqrt(np.diag(quadratic.covariance))
        return bool(np.max(np.abs(quadratic.full_step) / sd) < tolerance)

    return converged


def minimise(
    expand: Callable[[Array], QuadraticModel],
    value_at: Callable[[Array], float],
    theta: Array,
    largest_step: Array,
    *,
    iterations: int,
    converged: Callable[[QuadraticModel], bool],
    on_step: Callable[[int, Array, QuadraticModel], None],
    control: DampingControl | None = None,
    initial_state: OptimiserState | None = None,
    save_state: Callable[[OptimiserState], None] | None = None,
) -> OptimisationRun:
    """Minimise an objective by damped Gauss-Newton steps.

    Args:
        expand: quadratic model at a point.
        value_at: objective at a point, called to test steps; infinite where it is not defined.
        theta: starting point, ``(m,)``.
        largest_step: longest step in each coordinate, ``(m,)``.
        iterations: largest number of quadratic models.
        converged: whether a quadratic model ends the minimisation.
        on_step: called with iteration, point and quadratic model.
        control: of the damping.
        initial_state: state of an earlier minimisation, used in place of ``theta``.
        save_state: called with the state before every iteration.
    """
    control = control or DampingControl()
    at = initial_state or OptimiserState(0, theta)
    theta, damping, history = at.theta, at.damping, list(at.history)
    previous_step, failures = at.previous_step, 0
    for k in range(at.iteration, iterations):
        if save_state is not None:
            save_state(OptimiserState(k, theta, damping, tuple(history), previous_step))
        quadratic = expand(theta)
        history.append(quadratic.objective)
        on_step(k, theta, quadratic)
        if converged(quadratic):
            return OptimisationRun(theta, quadratic, tuple(history), True, k + 1)
        for attempt in range(control.attempts):
            # a limited reversal need not be a descent direction, however small the damped step is
            before = previous_step if attempt < control.attempts // 2 else None
            trial = _trial_point(theta, quadratic, damping, largest_step, before, control)
            if trial is not None and value_at(trial) <= quadratic.objective:
                if control.limit_reversals:
                    previous_step = PreviousStep(trial - theta, quadratic.full_step)
                theta, damping, failures = trial, damping / control.decrease, 0
                break
            damping *= control.increase
        else:
            failures += 1
            if failures == control.failures:
                return OptimisationRun(theta, quadratic, tuple(history), False, k + 1)
    return OptimisationRun(theta, quadratic, tuple(history), False, iterations)


def _trial_point(
    theta: Array,
    quadratic: QuadraticModel,
    damping: float,
    largest_step: Array,
    previous_step: PreviousStep | None,
    control: DampingControl,
) -> Array | None:
    """The point after a damped step; None where the damped Hessian is not positive definite."""
    try:
        step = quadratic.damped_step(damping, largest_step, control.floor)
    except np.linalg.LinAlgError:
        return None
    if previous_step is not None:
        step = previous_step.limit_reversal(step, quadratic.hessian)
    return theta + step
