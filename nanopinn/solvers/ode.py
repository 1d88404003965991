"""Systems of ordinary differential equations, dense or banded, with tangents.

``dy/dt = f(t, y, theta)``. Newton's matrix ``I - w J`` is banded where states couple to neighbours
only, as those of an equation on a line do. Tangents by theta are those of the discrete solution
with its steps held: each stage is linear in them, with the matrix at the stage's own solution.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dgbtrf, dgbtrs
from torch import Tensor

from nanopinn.solvers.derivatives import linearise
from nanopinn.solvers.integrate import AcceptedStep, StepController, integrate
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.runge_kutta import (
    TR_BDF2,
    BufferPool,
    NewtonEquation,
    Scheme,
    StageEquations,
    State,
    solve_newton,
)

Array = NDArray[np.float64]

#: ``f(t, y, theta)`` of a time (s), states ``(n,)`` and coordinates ``(m,)``.
RateFunction = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Newton's method stops at this fraction of the error that a step may make.
NEWTON_TOLERANCE_FRACTION = 1e-3
MAX_NEWTON_ITERATIONS = 12


class OdeSystem:
    """A rate with its derivatives at one parameter vector.

    Args:
        rate: of torch functions, without branches that depend on states.
        theta: ``(m,)``.
        states: their number n.
        band: half-bandwidth of the Jacobian; None for a dense one.
    """

    def __init__(
        self, rate: RateFunction, theta: Tensor, states: int, band: int | None = None
    ) -> None:
        self.rate, self.theta = rate, theta
        self.band = states - 1 if band is None else min(band, states - 1)
        colours = min(2 * self.band + 1, states)
        offsets = np.arange(-self.band, self.band + 1)
        rows, columns = np.meshgrid(np.arange(states), offsets, indexing="ij")
        columns = rows + columns
        inside = (columns >= 0) & (columns < states)
        self._rows, self._columns = rows[inside], columns[inside]
        self._colours = self._columns % colours
        self._state_seeds = torch.zeros((colours, states), dtype=torch.float64)
        self._state_seeds[torch.arange(states) % colours, torch.arange(states)] = 1.0
        self._theta_seeds = torch.eye(len(theta), dtype=torch.float64)

    def __call__(self, t: float, y: Array) -> Array:
        with torch.no_grad():
            found = self.rate(
                torch.tensor(t, dtype=torch.float64), torch.from_numpy(y), self.theta
            ).numpy()
        if not np.isfinite(found).all():
            raise SolverError(f"the rate is not finite at t = {t:g}")
        return found

    def derivatives(self, t: float, y: Array, *, by_theta: bool) -> tuple[Array, Array]:
        """Derivatives of the rate by states and by parameters.

        Args:
            t: s.
            y: ``(n,)``.
            by_theta: whether those by parameters are computed.

        Returns:
            Entries of ``df/dy`` at :attr:`jacobian_indices`, and ``df/dtheta`` ``(n, m)``, empty
            if not asked for.
        """
        at = torch.tensor(t, dtype=torch.float64)
        along = linearise(
            lambda state, theta: self.rate(at, state, theta), (torch.from_numpy(y), self.theta)
        )
        by_colour = np.stack([along((seed, None))[0].numpy() for seed in self._state_seeds])
        seeds = self._theta_seeds if by_theta else ()
        by_parameter = [along((None, seed))[0].numpy() for seed in seeds]
        gradient = np.stack(by_parameter, axis=1) if by_parameter else np.zeros((len(y), 0))
        return by_colour[self._colours, self._rows], gradient

    def factorise_newton_matrix(self, w: float, entries: Array) -> BandedLU:
        """LU factors of ``I - w J``."""
        b, n = self.band, self._state_seeds.shape[1]
        matrix = np.zeros((3 * b + 1, n))
        matrix[2 * b + self._rows - self._columns, self._columns] = -w * entries
        matrix[2 * b] += 1.0
        lu, pivots, info = dgbtrf(matrix, b, b, overwrite_ab=True)
        if info != 0:
            raise SolverError("the matrix of a time step is singular")
        return BandedLU(lu, pivots, b)

    @property
    def jacobian_indices(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the entries of ``df/dy``."""
        return self._rows, self._columns

    def jacobian_product(self, entries: Array, directions: Array) -> Array:
        """``J`` times directions ``(n, m)``."""
        out = np.zeros_like(directions)
        np.add.at(out, self._rows, entries[:, None] * directions[self._columns])
        return out


@dataclass(frozen=True)
class BandedLU:
    """LU factors of a banded matrix."""

    lu: Array
    pivots: NDArray[np.int32]
    band: int

    def solve(self, right: Array) -> Array:
        """The solution for one right-hand side ``(n,)`` or several ``(n, k)``."""
        x, info = dgbtrs(self.lu, self.band, self.band, right, self.pivots)
        if info != 0:
            raise SolverError("the linear system of a time step cannot be solved")
        return np.asarray(x, dtype=np.float64)


@dataclass(frozen=True)
class OdeSolution:
    """Solution of a system at given times.

    Attributes:
        times: ``(k,)``, s.
        states: ``(k, n)``.
        tangents: ``(k, n, m)``, or None.
        nodes: ends of the steps, by which a later run may repeat them.
        evaluations: of the rate.
    """

    times: Array
    states: Array
    tangents: Array | None
    nodes: Array = field(repr=False)
    evaluations: int


@dataclass(frozen=True)
class ErrorTolerance:
    """Error that a step may make: ``tolerance (scale + |y|)`` in the root mean square over states.

    Attributes:
        tolerance: relative error allowed for a state far above its scale.
        scale: size of each state ``(n,)`` below which its relative error does not matter.
    """

    tolerance: float
    scale: Array

    def norm(self, error: Array, y: Array) -> float:
        """Error over what is allowed."""
        return float(np.sqrt(np.mean((error / (self.tolerance * (self.scale + np.abs(y)))) ** 2)))


def integrate_ode(
    system: OdeSystem,
    start: float,
    initial: Array,
    d_initial: Array,
    times: Array,
    tolerance: ErrorTolerance,
    *,
    tangents: bool = False,
    events: Sequence[float] = (),
    nodes: Array | None = None,
    scheme: Scheme = TR_BDF2,
) -> OdeSolution:
    """Solve from ``start`` to the last of ``times``.

    Args:
        system: the rate and its derivatives.
        start: s.
        initial: ``(n,)``.
        d_initial: its tangents, ``(n, m)``.
        times: increasing, none before ``start``, s; states between steps are cubic Hermite
            interpolants.
        tolerance: error that a step may make.
        tangents: whether they are computed.
        events: times at which the rate jumps, s; steps end there.
        nodes: ends of the steps to take, s; None to control the steps by their error.
        scheme: the Runge-Kutta method; without ``nodes`` it needs an embedded method.

    Raises:
        SolverError: steps became too small, or a matrix is singular.
    """
    span = float(times[-1]) - start
    ends = [*sorted({e for e in events if start < e < times[-1]}), float(times[-1])]
    segments = [
        _OdeEquations(system, tolerance, left, right)
        for left, right in itertools.pairwise([start, *ends])
    ]
    state: State = (torch.from_numpy(initial),)
    if tangents:
        state = (*state, torch.from_numpy(np.ascontiguousarray(d_initial)))
    output = _DenseOutput(times, start, [t.numpy() for t in state])
    visited = [start]

    def record(step: AcceptedStep) -> None:
        output.record(step)
        visited.append(step.end)

    integrate(
        segments,
        state,
        record,
        scheme=scheme,
        marks=() if nodes is None else [float(t) for t in nodes],
        controller=partial(_step_controller, tolerance, span) if nodes is None else None,
    )
    return OdeSolution(
        times,
        output.values[0],
        output.values[1] if tangents else None,
        np.array(visited),
        sum(s.evaluations for s in segments),
    )


def _step_controller(
    tolerance: ErrorTolerance, span: float, equations: StageEquations, y: State, rate: State
) -> StepController:
    """Steps of a segment; the first moves the state by a hundredth of its size."""
    state, f = y[0].numpy(), rate[0].numpy()
    size = tolerance.norm(state + tolerance.scale, state)
    moved = tolerance.norm(f, state)
    return StepController(
        first_step=min(0.01 * size / max(moved, 1e-300), 0.01 * span),
        most_growth=4.0,
        least_growth=0.1,
        least_reduction=1.0,
        reuse_below=1.0,
        min_step=1e-14 * span,
        min_relative_step=0.0,
        retry_failed=True,
    )


class _DenseOutput:
    """The state and its tangents at the times asked for, by cubic Hermite interpolation."""

    def __init__(self, times: Array, start: float, initial: Sequence[Array]) -> None:
        self.times = times
        self.values = [np.zeros((len(times), *y.shape)) for y in initial]
        for values, y in zip(self.values, initial, strict=True):
            values[times == start] = y

    def record(self, step: AcceptedStep) -> None:
        """Fill in the times within a step."""
        first, last = np.searchsorted(self.times, (step.t, step.end), side="right")
        if first == last:
            return
        assert step.start_rate is not None
        h = step.end - step.t
        s = (self.times[first:last] - step.t) / h
        weights = np.array(
            [
                (1 + 2 * s) * (1 - s) ** 2,
                s**2 * (3 - 2 * s),
                h * s * (1 - s) ** 2,
                -h * s**2 * (1 - s),
            ]
        )
        for values, *parts in zip(
            self.values, step.start, step.state, step.start_rate, step.end_rate, strict=True
        ):
            values[first:last] = np.tensordot(
                weights, np.stack([part.numpy() for part in parts]), axes=(0, 0)
            )


class _OdeEquations(StageEquations):
    """Stages of a system between two events: the state ``(y,)``, or ``(y, dy)`` with tangents."""

    needs_start_rate = True

    def __init__(
        self, system: OdeSystem, tolerance: ErrorTolerance, start: float, end: float
    ) -> None:
        self.system, self.tolerance, self.start, self.end = system, tolerance, start, end
        self.buffers = BufferPool()
        self.evaluations = 0
        self._step_start: tuple[float, Array] | None = None
        self._last_stage: tuple[float, Array] | None = None

    def _inside(self, t: float) -> float:
        """The time moved into the segment by a small amount, because the rate may jump at its
        ends.
        """
        margin = 1e-11 * (self.end - self.start)
        return min(max(t, self.start + margin), self.end - margin)

    def _evaluate(self, t: float, y: Array) -> Array:
        self.evaluations += 1
        return self.system(self._inside(t), y)

    def rate(self, t: float, y: State) -> State:
        f = torch.from_numpy(self._evaluate(t, y[0].numpy()))
        if len(y) == 1:
            return (f,)
        entries, by_theta = self.system.derivatives(self._inside(t), y[0].numpy(), by_theta=True)
        self._last_stage = (t, entries)
        df = self.system.jacobian_product(entries, y[1].numpy()) + by_theta
        return f, torch.from_numpy(df)

    def prepare_step(self, t: float, y: State, w: float) -> float:
        """Newton's matrix of the step, from the Jacobian at its start."""
        for known in (self._step_start, self._last_stage):
            if known is not None and abs(known[0] - t) <= 1e-12 * (self.end - self.start):
                entries = known[1]
                break
        else:
            entries, _ = self.system.derivatives(self._inside(t), y[0].numpy(), by_theta=False)
        self._step_start = (t, entries)
        self.newton_matrix = self.system.factorise_newton_matrix(w, entries)
        return w

    def solve_stage(
        self, stage: int, t: float, w: float, known: State, rate: State | None
    ) -> State:
        """``y = known + w f(t, y)`` by Newton's method with the matrix of the step."""
        assert rate is not None
        base, before = known[0].numpy(), float("inf")

        def residual(y: Array) -> Array:
            return base + w * self._evaluate(t, y) - y

        def correct(y: Array, residual: Array) -> Array:
            return self.newton_matrix.solve(residual)

        def is_small(y: Array, correction: Array) -> bool:
            nonlocal before
            size = self.tolerance.norm(correction, y)
            if size > 2 * before:
                raise SolverError(f"Newton's method diverged at t = {t:.6g} s")
            before = size
            return size < NEWTON_TOLERANCE_FRACTION

        solution = solve_newton(
            NewtonEquation(residual, correct, correction_is_small=is_small),
            base + w * rate[0].numpy(),
            MAX_NEWTON_ITERATIONS,
            t,
        )
        y = torch.from_numpy(solution)
        if len(known) == 1:
            return (y,)
        entries, by_theta = self.system.derivatives(self._inside(t), solution, by_theta=True)
        self._last_stage = (t, entries)
        matrix = self.system.factorise_newton_matrix(w, entries)
        return y, torch.from_numpy(matrix.solve(known[1].numpy() + w * by_theta))

    def error_norm(self, error: Tensor, start: Tensor, end: Tensor, w: float) -> float:
        damped = self.newton_matrix.solve(error.numpy())
        return self.tolerance.norm(damped, np.maximum(end.abs().numpy(), start.abs().numpy()))

    def describe_failure(self) -> str:
        return "; the solution may not exist beyond it"
