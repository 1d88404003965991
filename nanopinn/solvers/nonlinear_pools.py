"""Pools that change with time and need not be linear, by steps whose size the error controls.

    capacity dU/dt = inflow c(t) - A U - transfers(U)

TR-BDF2 (order 2, L-stable) with Newton's method in each stage. Between two events coefficients are
constant and plasma curves smooth.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from nanopinn.parameters import HOUR
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.cell_elimination import add_capacity_difference, mass_norms
from nanopinn.solvers.fluxes import SPACE
from nanopinn.solvers.implicit_stage import KrylovStageSolver, StageFactory, StageSolver
from nanopinn.solvers.integrate import AcceptedStep, StepController, integrate
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.operator import Interval, PoolMassBalance
from nanopinn.solvers.runge_kutta import (
    TR_BDF2,
    BufferPool,
    NewtonEquation,
    Scheme,
    StageEquations,
    State,
    solve_newton,
)


@dataclass(frozen=True)
class Step:
    """One accepted step of pools.

    Attributes:
        interval: number of its interval.
        t, dt, end: start, length and end, s.
        first_stage_evaluated: whether the rate at the start was evaluated, not taken over from the
            step before.
        start: the pools it started from, if kept.
        stages: the pools at each stage that was solved for, if kept.
    """

    interval: int
    t: float
    dt: float
    end: float
    first_stage_evaluated: bool
    start: Tensor | None = None
    stages: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class EvolutionResult:
    """Pools at the times asked for, and the cost of computing them.

    Attributes:
        times: ``(n,)`` s.
        U: ``(n, ..., pool, x, y, z)``.
        balance: mass balance of the pools.
        rejected: steps that were tried again.
        newton, krylov: iterations in all.
        scheme: the Runge-Kutta method.
        steps: the accepted steps.
        intervals: those of a sequence; none if they were built on the way.
        stage_factory: solver of the stages, which derivatives use again.
    """

    times: tuple[float, ...]
    U: Tensor
    balance: PoolMassBalance
    rejected: int
    newton: int
    krylov: int
    scheme: Scheme = field(repr=False)
    steps: tuple[Step, ...] = field(repr=False)
    intervals: tuple[Interval, ...] = field(repr=False)
    stage_factory: StageFactory = field(repr=False)

    def __str__(self) -> str:
        return (
            f"{len(self.times)} times to {self.times[-1] / HOUR:.3g} h in {len(self.steps)} steps"
            f" ({self.rejected} rejected), {self.newton} Newton and {self.krylov} Krylov"
            f" iterations; mass-balance error {self.balance.error:.1e}"
        )


@dataclass(frozen=True)
class Tolerance:
    """Accuracy of an integration.

    Attributes:
        step: error of a step in any pool, over the pool's largest mass so far (or a thousandth of
            the largest pool's).
        residual: of each stage, over the mass stored.
        first_step, max_step: s.
    """

    step: float = 1e-4
    residual: float = 1e-11
    first_step: float = 1.0
    max_step: float = 4 * HOUR


def integrate_adaptive(
    intervals: Iterable[Interval],
    start: Tensor,
    save_at: Sequence[float],
    *,
    tolerance: Tolerance = Tolerance(),
    scheme: Scheme = TR_BDF2,
    stage_factory: StageFactory = KrylovStageSolver,
    keep_stages: bool = False,
    nodes: Sequence[float] | None = None,
    progress: Progress = ignore_progress,
    on_step: Callable[[float, Tensor], None] | None = None,
) -> EvolutionResult:
    """Integrate pools through a sequence of intervals.

    Args:
        intervals: in order, each beginning where the last ended; an iterator builds each when it is
            reached, and none is kept.
        start: pools ``(..., pool, x, y, z)`` at the first interval's start.
        save_at: increasing times at which pools are returned, s; steps land on them.
        tolerance: of steps and stages.
        scheme: the Runge-Kutta method.
        stage_factory: solver of the stages.
        keep_stages: whether steps keep what :mod:`nanopinn.solvers.derivatives` needs.
        nodes: increasing ends of the steps to take, s, whatever their error; the ends of intervals
            and ``save_at`` are added. None to control the steps by their error.
        progress: called after each step.
        on_step: called with the time and the pools at the start and after each step.

    Raises:
        SolverError: steps became too small, or a linear solve failed.
        ValueError: intervals or times are out of order.
    """
    kept = tuple(intervals) if isinstance(intervals, Sequence) else ()
    _check_order(kept, save_at)
    shared = _Shared(tolerance, stage_factory)
    saved: list[Tensor] = []
    steps: list[Step] = []

    def begin(interval: Interval) -> _PoolEquations:
        if shared.largest is None:
            shared.largest = mass_norms(interval.capacity, start)
            if save_at and save_at[0] == interval.start:
                saved.append(start)
            if on_step is not None:
                on_step(interval.start, start)
        return _PoolEquations(interval, shared)

    def record(step: AcceptedStep) -> None:
        (before,), (after,) = step.start, step.state
        shared.accept()
        stages = tuple(stage for (stage,) in step.stages)
        steps.append(
            Step(
                step.segment,
                step.t,
                step.dt,
                step.end,
                step.first_stage_evaluated,
                before if keep_stages else None,
                stages,
            )
        )
        if len(saved) < len(save_at) and step.end == save_at[len(saved)]:
            saved.append(after)
        progress("pools in time", min(1.0, step.end / save_at[-1]), {"hours": step.end / HOUR})
        if on_step is not None:
            on_step(step.end, after)

    run = integrate(
        map(begin, kept or intervals),
        (start,),
        record,
        scheme=scheme,
        marks=_marks(save_at, nodes or ()),
        controller=None
        if nodes is not None
        else StepController(tolerance.first_step, tolerance.max_step),
        keep_stages=keep_stages,
    )
    if len(saved) < len(save_at):
        raise ValueError(
            f"times to save at must lie within the intervals, which end at {run.t:g} s"
        )
    return EvolutionResult(
        tuple(save_at),
        torch.stack(saved),
        shared.balance(start, run.state[0], run.integrals[0]),
        run.rejected,
        shared.newton,
        shared.krylov,
        scheme,
        tuple(steps),
        kept,
        stage_factory,
    )


def _check_order(intervals: Sequence[Interval], save_at: Sequence[float]) -> None:
    """Refuse gaps between intervals, and times that do not increase or lie outside them."""
    for a, b in itertools.pairwise(intervals):
        if a.end != b.start:
            raise ValueError(f"an interval ends at {a.end} s and the next begins at {b.start} s")
    if list(save_at) != sorted(set(save_at)) or (
        intervals and not intervals[0].start <= save_at[0] <= save_at[-1] <= intervals[-1].end
    ):
        raise ValueError("times to save at must increase and lie within the intervals")


def _marks(save_at: Sequence[float], nodes: Sequence[float]) -> list[float]:
    """Times to land on; a node that differs by rounding from a time to save at is that time."""
    near = lambda t: any(abs(t - s) < 1e-9 * max(1.0, s) for s in save_at)  # noqa: E731
    return sorted({*save_at, *(t for t in nodes if not near(t))})


class _Shared:
    """What the equations of all intervals share: settings, buffers, counts and masses so far."""

    def __init__(self, tolerance: Tolerance, stage_factory: StageFactory) -> None:
        self.tolerance, self.stage_factory = tolerance, stage_factory
        self.buffers = BufferPool()
        self.newton = self.krylov = 0
        self.capacity: Tensor | None = None
        self.largest: Tensor | None = None
        self.tried: Tensor | None = None
        self.worst_pool = ""

    def accept(self) -> None:
        """Note the masses of a step that was accepted, if its error was computed."""
        if self.tried is not None:
            self.largest, self.tried = self.tried, None

    def balance(self, start: Tensor, end: Tensor, exchanged: Tensor) -> PoolMassBalance:
        """Mass balance between two states, from the integrals of what was exchanged."""
        assert self.capacity is not None
        entered, lost, outflow = exchanged
        stored = [
            (c * (b - a)).sum(dim=SPACE)
            for c, a, b in zip(*(v.unbind(-4) for v in (self.capacity, start, end)), strict=True)
        ]
        return PoolMassBalance(entered, lost, outflow, torch.stack(stored, dim=-1))


class _PoolEquations(StageEquations):
    """Stages of the pools of an interval, ``(U,)``, by Newton's method."""

    def __init__(self, interval: Interval, shared: _Shared) -> None:
        self.start, self.end = interval.start, interval.end
        self.starts_at_event = interval.starts_at_event
        self.interval, self.shared, self.buffers = interval, shared, shared.buffers
        self.stage: StageSolver | None = None
        self.w = 0.0
        shared.capacity = interval.capacity

    def rate(self, t: float, y: State) -> State:
        out = self.buffers.acquire(y[0])
        return (self.interval.rate(y[0], t, out).div_(self.interval.capacity),)

    def solve_stage(
        self, stage: int, t: float, w: float, known: State, rate: State | None
    ) -> State:
        """Newton's method on ``capacity (U - known) = w rate(U, t)``."""
        U = self.buffers.acquire(known[0])
        if rate is None:
            U.copy_(known[0])
        else:
            torch.add(known[0], rate[0], alpha=w, out=U)
        # fluxes between thin cells are far larger than what they change: rounding leaves this much
        # of them
        throughput = self.interval.operator.throughput(U)
        rounding = 4 * torch.finfo(U.dtype).eps * w * throughput
        newton = _StageNewton(self, t, w, known[0], rounding, self.buffers.acquire(known[0]))
        equation = NewtonEquation(newton.residual, newton.correct, newton.residual_is_small)
        U = solve_newton(equation, U, 20 if self.interval.correction is None else 200, t)
        self.buffers.release((newton.out,))
        return (U,)

    def stage_solver(self, U: Tensor, w: float) -> StageSolver:
        """The matrix of a stage, linearised about U; that of the last stage if it still holds."""
        if self.stage is None or self.interval.transfers or abs(w - self.w) > 1e-12 * w:
            reaction = self.interval.linearised_reaction(U)
            if self.stage is None:
                self.stage = self.shared.stage_factory(
                    self.interval.operator, self.interval.capacity, w, reaction
                )
            else:  # in the same place: memory that was freed would be allocated again
                self.stage.update_matrix(w, reaction)
            self.w = w
        return self.stage

    def error_norm(self, error: Tensor, start: Tensor, end: Tensor, w: float) -> float:
        """The largest error of a pool over its tolerance; stiff parts are damped as the method
        damps them.
        """
        shared = self.shared
        assert shared.largest is not None
        # the matrix of the last Newton iteration is exact enough, because it only damps
        stage = self.stage or self.stage_solver(end, w)
        norms = mass_norms(
            self.interval.capacity, stage.apply_preconditioner(error.mul_(self.interval.capacity))
        )
        scale = torch.maximum(shared.largest, mass_norms(self.interval.capacity, end))
        shared.tried = scale
        scale = torch.maximum(scale, 1e-3 * scale.max(dim=-1, keepdim=True).values)
        relative = (norms / scale.clamp_min(1e-300)).reshape(-1, norms.shape[-1])
        over = relative.max(dim=0).values / shared.tolerance.step
        names = self.interval.names or [f"pool {p}" for p in range(len(over))]
        shared.worst_pool = names[int(over.argmax())]
        return float(over.max())

    def describe_failure(self) -> str:
        return (
            f"; the error is dominated by {self.shared.worst_pool}, of which a rate may be far too"
            " large"
        )

    def integrands(self, t: float, y: State) -> State:
        """Inflow from plasma, loss, and outflow over the boundary, ``(3, ..., pool)``."""
        operator = self.interval.operator
        return (
            torch.stack(
                [
                    self.interval.total_plasma_inflow(t),
                    operator.loss_rate(y[0]),
                    operator.boundary_outflow(y[0]),
                ]
            ),
        )


class _StageNewton:
    """Residual and correction of one stage of pools, in tensors that are written again."""

    def __init__(
        self,
        equations: _PoolEquations,
        t: float,
        w: float,
        known: Tensor,
        rounding: float,
        out: Tensor,
    ) -> None:
        self.equations, self.t, self.w, self.known = equations, t, w, known
        self.rounding, self.out = rounding, out

    def residual(self, U: Tensor) -> Tensor:
        """``w rate(U, t) - capacity (U - known)``."""
        interval = self.equations.interval
        return add_capacity_difference(
            interval.rate(U, self.t, self.out).mul_(self.w), interval.capacity, self.known, U
        )

    def residual_is_small(self, U: Tensor, residual: Tensor) -> bool:
        """Whether the residual is below the tolerance over the mass stored, or is round-off."""
        interval, tolerance = self.equations.interval, self.equations.shared.tolerance
        stored = float(mass_norms(interval.capacity, U).norm().clamp_min(1e-300))
        size = float(residual.norm()) / stored
        if not isfinite(size):
            raise SolverError(
                f"the pools are not finite at {self.t:.6g} s; check that plasma curves and rates"
                " are finite"
            )
        goal = max(tolerance.residual, self.rounding / stored)
        self.wanted = 0.3 * goal / max(size, 1e-300)
        return size <= goal

    def correct(self, U: Tensor, residual: Tensor) -> Tensor:
        """Solve with the matrix of the stage, in the place of the residual."""
        equations, shared = self.equations, self.equations.shared
        tol = max(self.wanted, 1e-13 if equations.interval.linear else 1e-4)
        self.out, iterations = equations.stage_solver(U, self.w).solve(
            residual, tol=tol, overwrite=True
        )
        shared.newton, shared.krylov = shared.newton + 1, shared.krylov + iterations
        return self.out
