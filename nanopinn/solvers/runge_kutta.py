"""Implicit Runge-Kutta methods: the tableaux, one step, one Newton iteration, one adjoint step.

A method is a tableau; what it is applied to supplies the rate and the solution of a stage
(:class:`StageEquations`). For ``M dy/dt = F(t, y)`` and the diagonal coefficient ``gamma``, stage i
of a step ``dt`` solves

    M (Y_i - known_i) = w F(t_i, Y_i),    known_i = y + dt sum_j<i a_ij k_j,    w = gamma dt
    k_i = (Y_i - known_i) / w

This module alone reads the coefficients of a tableau.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.solvers.linear import SolverError

#: The solution, followed by what is integrated with the same stages (its tangents).
State = tuple[Tensor, ...]
Vector = TypeVar("Vector", Tensor, NDArray[np.float64])


@dataclass(frozen=True)
class Scheme:
    """Butcher tableau of an L-stable, stiffly accurate DIRK method with one diagonal coefficient.

    Attributes:
        name: as printed.
        order: of convergence.
        gamma: the diagonal coefficient.
        a: rows of the tableau, each up to its diagonal.
        explicit_first: whether the first stage is the start of the step.
        error: weights of the stage rates in the difference from an embedded method of one order
            more; None if there is none.
    """

    name: str
    order: int
    gamma: float
    a: tuple[tuple[float, ...], ...]
    explicit_first: bool
    error: tuple[float, ...] | None = None

    @property
    def nodes(self) -> tuple[float, ...]:
        """Times of the stages as fractions of the step."""
        return tuple(sum(row) for row in self.a)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each stage in the step, the last row of the tableau."""
        return self.a[-1]

    @property
    def implicit_nodes(self) -> tuple[float, ...]:
        """The nodes of the stages that are solved for."""
        return self.nodes[1:] if self.explicit_first else self.nodes


def _tr_bdf2() -> Scheme:
    g = 1 - 2**-0.5
    w = 2**0.5 / 4
    third = ((1 - w) / 3, (3 * w + 1) / 3, g / 3)
    error = (w - third[0], w - third[1], g - third[2])
    return Scheme("TR-BDF2", 2, g, ((0.0,), (g, g), (w, w, g)), explicit_first=True, error=error)


def _sdirk3() -> Scheme:
    g = 0.4358665215084590
    b1 = -1.5 * g**2 + 4 * g - 0.25
    b2 = 1.5 * g**2 - 5 * g + 1.25
    return Scheme("SDIRK3", 3, g, ((g,), ((1 - g) / 2, g), (b1, b2, g)), explicit_first=False)


#: Order 2 (Hosea and Shampine 1996), which fits and simulations use.
TR_BDF2 = _tr_bdf2()
#: Order 3 (Alexander 1977), which checks and phantoms use.
SDIRK3 = _sdirk3()


class BufferPool:
    """Tensors to be written again.

    The system zeroes a large block anew each time it is allocated, which takes longer than the
    arithmetic on it.
    """

    _MOST_PER_SHAPE = 8

    def __init__(self) -> None:
        self._free: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}

    def acquire(self, like: Tensor) -> Tensor:
        """A tensor of the same shape and type, of any content."""
        free = self._free.get((like.shape, like.dtype))
        return free.pop() if free else torch.empty_like(like)

    def release(self, *states: State) -> None:
        """Release tensors that nothing else refers to."""
        for state in states:
            for t in state:
                free = self._free.setdefault((t.shape, t.dtype), [])
                if len(free) < self._MOST_PER_SHAPE:
                    free.append(t)

    def clear(self) -> None:
        """Return the memory to the system."""
        self._free.clear()


class StageEquations:
    """``M dy/dt = F(t, y)`` in a time segment in which nothing jumps, as an integrator needs it.

    Attributes:
        start, end: of the segment, s.
        starts_at_event: whether coefficients jump at the start, so that steps begin small again.
        needs_start_rate: whether the rate at the start of each step is used although the method has
            no explicit first stage.
        buffers: tensors that stages may be written to.
    """

    start: float
    end: float
    starts_at_event: bool = True
    needs_start_rate: bool = False
    buffers: BufferPool

    def rate(self, t: float, y: State) -> State:
        """``dy/dt``, in tensors of their own."""
        raise NotImplementedError

    def prepare_step(self, t: float, y: State, w: float) -> float:
        """Prepare the matrix of a step from y at t; returns the w it holds, which may differ by
        rounding.
        """
        return w

    def solve_stage(
        self, stage: int, t: float, w: float, known: State, rate: State | None
    ) -> State:
        """The solution ``Y`` of ``M (Y - known) = w F(t, Y)``, in tensors of its own.

        Args:
            stage: its number within the step, from 0.
            t: time of the stage, s.
            w: ``gamma dt`` as :meth:`prepare_step` returned it.
            known: what earlier stages contribute; not to be changed.
            rate: of the stage before, for an initial guess ``known + w rate``; None if unknown.
        """
        raise NotImplementedError

    def integrands(self, t: float, y: State) -> State:
        """What is integrated beside the state, at a stage."""
        return ()

    def error_norm(self, error: Tensor, start: Tensor, end: Tensor, w: float) -> float:
        """Size of the error of a step over what is allowed; may overwrite ``error``."""
        raise NotImplementedError

    def describe_failure(self) -> str:
        """What to add to the message when steps become too small."""
        return ""


@dataclass
class RungeKuttaStep:
    """A step that was taken: stages and rates of each, the state at its end, and the integrals of
    what is integrated beside it.
    """

    state: State
    rates: list[State]
    stages: tuple[State, ...]
    integrals: list[Tensor]
    w: float


def take_step(
    scheme: Scheme,
    equations: StageEquations,
    t: float,
    dt: float,
    start: State,
    start_rate: State | None,
    *,
    integrals: list[Tensor],
    keep_stages: bool = False,
) -> RungeKuttaStep:
    """One step.

    Args:
        scheme: the tableau.
        equations: to be integrated.
        t, dt: start and length, s.
        start: the state at t.
        start_rate: the rate there; None only if the method does not need it.
        integrals: to which the integrals over the step are added; empty for none so far.
        keep_stages: whether the stages that were solved for are kept.

    Raises:
        SolverError: a stage could not be solved.
    """
    buffers = equations.buffers
    w = equations.prepare_step(t, start, scheme.gamma * dt)
    rates: list[State] = []
    stages: list[State] = []
    state = start
    for i, (row, c, weight) in enumerate(zip(scheme.a, scheme.nodes, scheme.weights, strict=True)):
        at = t + c * dt
        if i == 0 and scheme.explicit_first:
            assert start_rate is not None
            rates.append(start_rate)
        else:
            known = _known_terms(start, row, rates, dt, buffers)
            state = equations.solve_stage(i, at, w, known, rates[-1] if rates else start_rate)
            # the rate is written over the known terms
            rates.append(tuple(k.sub_(y).div_(-w) for k, y in zip(known, state, strict=True)))
        accumulate(integrals, equations.integrands(at, state), dt * weight)
        if state is start:
            continue
        if keep_stages:
            stages.append(state)
        elif i + 1 < len(scheme.a):
            buffers.release(state)
    return RungeKuttaStep(state, rates, tuple(stages), integrals, w)


def _known_terms(
    start: State, row: Sequence[float], rates: Sequence[State], dt: float, buffers: BufferPool
) -> State:
    """``y + dt sum_j a_ij k_j`` over the earlier stages."""
    known = tuple(buffers.acquire(y).copy_(y) for y in start)
    for a, rate in zip(row, rates, strict=False):
        for total, k in zip(known, rate, strict=True):
            total.add_(k, alpha=dt * a)
    return known


def accumulate(totals: list[Tensor], parts: Sequence[Tensor], weight: float) -> None:
    """Add weighted parts to totals, which the first parts create."""
    if not totals:
        totals.extend(weight * part for part in parts)
        return
    for total, part in zip(totals, parts, strict=True):
        total.add_(part, alpha=weight)


def estimate_error(scheme: Scheme, step: RungeKuttaStep, dt: float, buffers: BufferPool) -> Tensor:
    """Difference of a step from the embedded method, of the solution alone.

    Raises:
        ValueError: the method has no embedded method.
    """
    if scheme.error is None:
        raise ValueError(f"{scheme.name} has no embedded error estimate: give the time nodes")
    error = buffers.acquire(step.state[0]).zero_()
    for e, rate in zip(scheme.error, step.rates, strict=True):
        error.add_(rate[0], alpha=dt * e)
    return error


@dataclass(frozen=True)
class NewtonEquation(Generic[Vector]):
    """``R(Y) = 0`` as Newton's method needs it, for tensors or arrays.

    Attributes:
        residual: R at Y.
        correct: the correction of Y for a residual.
        residual_is_small: whether Y is accepted for its residual, before a correction.
        correction_is_small: whether Y is accepted for its last correction.
    """

    residual: Callable[[Vector], Vector]
    correct: Callable[[Vector, Vector], Vector]
    residual_is_small: Callable[[Vector, Vector], bool] = lambda Y, residual: False
    correction_is_small: Callable[[Vector, Vector], bool] = lambda Y, correction: False


def solve_newton(
    equation: NewtonEquation[Vector], guess: Vector, max_iterations: int, t: float
) -> Vector:
    """The solution of a stage at time t by Newton's method, in the place of the guess.

    Raises:
        SolverError: it did not converge.
    """
    for _ in range(max_iterations):
        residual = equation.residual(guess)
        if equation.residual_is_small(guess, residual):
            return guess
        correction = equation.correct(guess, residual)
        guess += correction
        if equation.correction_is_small(guess, correction):
            return guess
    raise SolverError(f"Newton's method did not converge at t = {t:.6g} s")


class AdjointEquations:
    """Transposed stages of a recorded step."""

    def solve_transposed_stage(self, stage: int, w: float, gradient: Tensor) -> Tensor:
        """``M y`` where ``(M - w dF/dY)^T y = gradient`` at a recorded stage.

        What depends on y, such as the gradients with respect to coefficients, is accumulated.

        Args:
            stage: its number among those that were solved for, from 0.
            w: factor of the rate in the stage equation, s.
            gradient: the right-hand side, shaped as the state.
        """
        raise NotImplementedError

    def transposed_start_rate(self, gradient: Tensor) -> Tensor:
        """``(dk/dy)^T gradient`` of the rate at the start; accumulates as the stages do."""
        raise NotImplementedError


def take_adjoint_step(
    scheme: Scheme,
    equations: AdjointEquations,
    dt: float,
    grad_end: Tensor,
    grad_end_rate: Tensor | None,
    *,
    first_stage_evaluated: bool,
) -> tuple[Tensor, Tensor | None]:
    """The transpose of :func:`take_step`, linearised about a recorded step.

    Args:
        scheme: the tableau.
        equations: the transposed stages.
        dt: s.
        grad_end: gradient of a scalar with respect to the state at the end of the step.
        grad_end_rate: the same for the rate there, which the next step took over; None if it did
            not.
        first_stage_evaluated: whether the rate at the start was evaluated rather than taken over
            from the step before.

    Returns:
        The gradients with respect to the state at the start and to the rate taken over there.
    """
    w, n = scheme.gamma * dt, len(scheme.a)
    first = 1 if scheme.explicit_first else 0
    grad_rate = [torch.zeros_like(grad_end) for _ in range(n)]
    if grad_end_rate is not None:
        grad_rate[-1] = grad_end_rate
    grad_stage, grad_start = grad_end, torch.zeros_like(grad_end)
    for i in range(n - 1, first - 1, -1):
        # k_i = (Y_i - known_i)/w and (M - w F') Y_i = M known_i + w F
        grad_Y = grad_stage + grad_rate[i] / w
        grad_known = equations.solve_transposed_stage(i - first, w, grad_Y) - grad_rate[i] / w
        grad_start = grad_start + grad_known
        for j in range(i):
            grad_rate[j] = grad_rate[j] + dt * scheme.a[i][j] * grad_known
        grad_stage = torch.zeros_like(grad_end)
    if not scheme.explicit_first:
        return grad_start, None
    if first_stage_evaluated:
        return grad_start + equations.transposed_start_rate(grad_rate[0]), None
    return grad_start, grad_rate[0]
