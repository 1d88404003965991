"""Pools in time by steps that adapt: time-dependent, non-linear, landing on every event.

    capacity dU/dt = inflow c(t) - A U - transfers(U)

TR-BDF2 (order 2, L-stable) with Newton's method in each stage. Between two events coefficients are
constant and plasma curves smooth; a step never crosses an event, and after one the first stage
starts afresh.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.cell_elimination import add_capacity_difference, mass_norms
from nanopinn.solvers.fluxes import SPACE
from nanopinn.solvers.implicit_stage import KrylovStageSolver, StageFactory, StageSolver
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.mass_balance import PoolMassBalance
from nanopinn.solvers.runge_kutta import TR_BDF2, Scheme
from nanopinn.solvers.time_segment import Interval


@dataclass(frozen=True)
class Step:
    """One accepted step: its interval, and the pools it started from and found at each implicit
    stage (if kept).

    ``fresh`` marks a first stage that was evaluated, not taken over from the step before.
    """

    interval: int
    t: float
    dt: float
    first_stage_evaluated: bool
    start: Tensor | None = None
    stages: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class EvolutionResult:
    """Pools at the times asked for, and how they were reached.

    Attributes:
        times: ``(n,)`` s. U: ``(n, ..., pool, x, y, z)``.
        steps: the accepted steps. rejected: those that were tried again. newton, krylov: iterations
            in all.
        balance: where the mass went. intervals: those of a sequence; none if they were built on the
            way.
        stage_factory: solver of the stages, which derivatives use again.
    """

    times: tuple[float, ...]
    U: Tensor
    balance: PoolMassBalance
    rejected: int
    newton: int
    krylov: int
    steps: tuple[Step, ...] = field(repr=False)
    intervals: tuple[Interval, ...] = field(repr=False)
    stage_factory: StageFactory = field(repr=False)

    def __str__(self) -> str:
        return (
            f"{len(self.times)} times to {self.times[-1] / 3600:.3g} h in {len(self.steps)} steps"
            f" ({self.rejected} tried again), {self.newton} Newton and {self.krylov} Krylov"
            f" iterations; mass imbalance {self.balance.error:.1e}"
        )


@dataclass(frozen=True)
class Tolerance:
    """How exact a run is.

    Attributes:
        step: error a step may make in any pool, over the pool's largest mass so far (or a
            thousandth of the largest pool's).
        equation: residual of each stage over the mass stored.
        first_step, max_step: s.
    """

    step: float = 1e-4
    residual: float = 1e-11
    first_step: float = 1.0
    max_step: float = 4 * 3600.0


def integrate_adaptive(
    intervals: Iterable[Interval],
    start: Tensor,
    save_at: Sequence[float],
    *,
    tolerance: Tolerance = Tolerance(),
    stage_factory: StageFactory = KrylovStageSolver,
    keep_stages: bool = False,
    steps: Sequence[tuple[float, float]] | None = None,
    progress: Progress = ignore_progress,
    on_step: Callable[[float, Tensor], None] | None = None,
) -> EvolutionResult:
    """Take pools through a sequence of intervals.

    Args:
        intervals: in order, each beginning where the last ended; an iterator builds each when it is
            reached, and none is kept.
        start: pools ``(..., pool, x, y, z)`` at the first interval's start.
        save_at: increasing times at which pools are wanted, s; steps land on them.
        stage_factory: solver of the stages. keep_stages: for :mod:`nanopinn.solvers.derivatives`.
        steps: the very steps to take, as (t, dt), instead of adapting them.
        watch: called with the time and the pools at the start and after each step.

    Raises:
        SolverError: steps became too short, or a linear solve failed.
    """
    kept = tuple(intervals) if isinstance(intervals, Sequence) else ()
    _check_order(kept, save_at)
    following = iter(kept or intervals)
    number, interval = 0, next(following, None)
    if interval is None:
        raise ValueError("there is no interval to go through")
    run = _AdaptiveIntegrator(interval, start, tolerance, stage_factory, keep_stages)
    given = None if steps is None else iter(steps)
    saved = [start] if save_at and save_at[0] == run.t else []
    if on_step is not None:
        on_step(run.t, run.U)
    while interval is not None:
        marks = sorted({*(t for t in save_at if interval.start < t < interval.end), interval.end})
        run.begin_interval(number, interval)
        for mark in marks:
            while run.t < mark:
                run.advance(mark, None if given is None else next(given)[1])
                progress("pools in time", min(1.0, run.t / save_at[-1]), {"hours": run.t / 3600})
                if on_step is not None:
                    on_step(run.t, run.U)
            if mark in save_at:
                saved.append(run.U)
        # let go of this interval before the next is built: each holds hundreds of fields
        run.end_interval()
        interval = None
        number, interval = number + 1, next(following, None)
    if len(saved) < len(save_at):
        raise ValueError(
            f"times to save at must lie within the intervals, which end at {run.t:g} s"
        )
    return EvolutionResult(
        tuple(save_at),
        torch.stack(saved),
        run.balance(start),
        run.rejected,
        run.newton,
        run.krylov,
        tuple(run.steps),
        kept,
        stage_factory,
    )


def _check_order(intervals: Sequence[Interval], save_at: Sequence[float]) -> None:
    for a, b in itertools.pairwise(intervals):
        _check_contiguous(a.end, b.start)
    if list(save_at) != sorted(set(save_at)) or (
        intervals and not intervals[0].start <= save_at[0] <= save_at[-1] <= intervals[-1].end
    ):
        raise ValueError("times to save at must increase and lie within the intervals")


def _check_contiguous(end: float, start: float) -> None:
    if end != start:
        raise ValueError(f"an interval ends at {end} s and the next begins at {start} s")


@dataclass
class _TrialStep:
    """A step that was tried: the pools at its end, the rates of its stages, what was exchanged, and
    the stages if they are kept.
    """

    U: Tensor
    rates: list[Tensor]
    exchanged: Tensor
    stages: tuple[Tensor, ...]


class _AdaptiveIntegrator:
    """The state of a run, advanced step by step."""

    def __init__(
        self,
        first: Interval,
        U: Tensor,
        tolerance: Tolerance,
        stage_factory: StageFactory,
        keep: bool,
    ) -> None:
        self.U, self.tolerance, self.stage_factory, self.keep = U, tolerance, stage_factory, keep
        self.t, self.dt, self.capacity = first.start, tolerance.first_step, first.capacity
        self.totals = U.new_zeros((3, *U.shape[:-3]))
        self.steps: list[Step] = []
        self.rejected = self.newton = self.krylov = 0
        self.scheme: Scheme = TR_BDF2
        self.rate: Tensor | None = None
        self.stage: StageSolver | None = None
        self._free_buffers: list[Tensor] = []
        self.worst_pool = ""
        self.largest = self._mass_norms(U)

    def begin_interval(self, number: int, interval: Interval) -> None:
        _check_contiguous(self.t, interval.start)
        self.number, self.interval, self.capacity = number, interval, interval.capacity
        self.rate, self.stage, self.w = None, None, 0.0
        self.dt = min(self.dt, self.tolerance.first_step) if interval.starts_at_event else self.dt

    def end_interval(self) -> None:
        """Forget the interval and what was built of it."""
        self.rate, self.stage = None, None
        self._free_buffers.clear()
        del self.interval

    def _take_buffer(self) -> Tensor:
        """Pools to be written: large blocks that are given back to the system are zeroed anew each
        time they are asked for.
        """
        return self._free_buffers.pop() if self._free_buffers else torch.empty_like(self.U)

    def balance(self, start: Tensor) -> PoolMassBalance:
        entered, lost, outflow = self.totals
        stored = [
            (c * (b - a)).sum(dim=SPACE)
            for c, a, b in zip(*(v.unbind(-4) for v in (self.capacity, start, self.U)), strict=True)
        ]
        return PoolMassBalance(entered, lost, outflow, torch.stack(stored, dim=-1))

    def _mass_norms(self, U: Tensor) -> Tensor:
        return mass_norms(self.capacity, U)

    def advance(self, mark: float, dt: float | None = None) -> None:
        """One accepted step, not beyond ``mark``; ``dt`` if it is given, whatever its error."""
        while True:
            left = mark - self.t
            # never leave a crumb before a mark
            step = (
                dt
                if dt is not None
                else (
                    left
                    if left <= 1.0001 * self.dt
                    else left / 2
                    if left < 2 * self.dt
                    else self.dt
                )
            )
            tried = self._try_step(step)
            error = self._scaled_error(tried, step)
            grow = 0.9 * error ** (-1 / 3) if error > 0 else 5.0
            if dt is not None or error <= 1:
                break
            self._free_buffers += (
                [tried.U, *tried.rates] if self.rate is None else [tried.U, *tried.rates[1:]]
            )
            del tried
            self.rejected += 1
            self.dt = step * max(0.2, min(0.8, grow))
            if self.dt < 1e-9 * max(1.0, self.t):
                raise SolverError(
                    f"time steps shrink to nothing at {self.t:.6g} s, because of {self.worst_pool}:"
                    " look for a rate far too large"
                )
        self._accept_step(
            step,
            mark if step == left or mark - self.t - step < 1e-9 * max(1.0, mark) else self.t + step,
            tried,
        )
        # a slightly longer step is not worth a new matrix
        self.dt = (
            min(self.tolerance.max_step, step * min(5.0, grow))
            if grow > 1.2 or grow < 1
            else max(step, min(self.dt, step))
        )

    def _try_step(self, dt: float) -> _TrialStep:
        w, interval, scheme = self.scheme.gamma * dt, self.interval, self.scheme
        rates = [
            (
                interval.rate(self.U, self.t, self._take_buffer()).div_(interval.capacity)
                if self.rate is None
                else self.rate
            )
        ]
        exchanged = scheme.weights[0] * self._mass_exchange_rates(self.U, self.t)
        stages: list[Tensor] = []
        for i, (row, c) in enumerate(zip(scheme.a, scheme.nodes, strict=True)):
            if i == 0:
                continue
            known = self._take_buffer().copy_(self.U)
            for a, k in zip(row[:i], rates, strict=True):
                known.add_(k, alpha=dt * a)
            U = self._solve_stage(known, rates[-1], self.t + c * dt, w)
            exchanged += scheme.weights[i] * self._mass_exchange_rates(U, self.t + c * dt)
            rates.append(known.sub_(U).div_(-w))
            if self.keep:
                stages.append(U)
            elif i + 1 < len(scheme.a):
                self._free_buffers.append(U)
        return _TrialStep(U, rates, dt * exchanged, tuple(stages))

    def _solve_stage(self, known: Tensor, rate: Tensor, t: float, w: float) -> Tensor:
        """Newton's method on ``capacity (U - known) = w rate(U, t)``, from the rate of the stage
        before.
        """
        interval, U, residual = (
            self.interval,
            torch.add(known, rate, alpha=w, out=self._take_buffer()),
            self._take_buffer(),
        )
        # fluxes between thin cells are far larger than what they change: rounding leaves this much
        # of them
        rounding = 4 * torch.finfo(U.dtype).eps * w * interval.operator.throughput(U)
        for _ in range(20 if interval.correction is None else 200):
            add_capacity_difference(
                interval.rate(U, t, residual).mul_(w), interval.capacity, known, U
            )
            stored = float(self._mass_norms(U).norm().clamp_min(1e-300))
            size = float(residual.norm()) / stored
            if not isfinite(size):
                raise SolverError(
                    f"the pools are not finite at {t:.6g} s: look for a plasma curve or rate that"
                    " is not"
                )
            goal = max(self.tolerance.residual, rounding / stored)
            if size <= goal:
                self._free_buffers.append(residual)
                return U
            wanted = 0.3 * goal / size
            tol = max(wanted, 1e-13 if interval.linear else 1e-4)
            residual, iterations = self._stage_solver_for(U, w).solve(
                residual, tol=tol, overwrite=True
            )
            U.add_(residual)
            self.newton, self.krylov = self.newton + 1, self.krylov + iterations
        raise SolverError(f"Newton's method stopped at a residual of {size:.1e} at {t:.6g} s")

    def _stage_solver_for(self, U: Tensor, w: float) -> StageSolver:
        if self.stage is None or self.interval.transfers or abs(w - self.w) > 1e-12 * w:
            reaction = self.interval.linearised_reaction(U)
            if self.stage is None:
                self.stage = self.stage_factory(
                    self.interval.operator, self.interval.capacity, w, reaction
                )
            else:  # in the same place: memory given back would be asked for again
                self.stage.update_matrix(w, reaction)
            self.w = w
        return self.stage

    def _scaled_error(self, tried: _TrialStep, dt: float) -> float:
        """Error of the step over what is allowed; stiff parts are damped as the scheme damps them."""
        assert self.scheme.error is not None
        raw = self._take_buffer().zero_()
        for e, k in zip(self.scheme.error, tried.rates, strict=True):
            raw.add_(k, alpha=dt * e)
        # that of the last Newton step will do: it only damps
        stage = self.stage or self._stage_solver_for(tried.U, self.scheme.gamma * dt)
        error = self._mass_norms(stage.apply_preconditioner(raw.mul_(self.interval.capacity)))
        self._free_buffers.append(raw)
        scale = torch.maximum(self.largest, self._mass_norms(tried.U))
        scale = torch.maximum(scale, 1e-3 * scale.max(dim=-1, keepdim=True).values).clamp_min(
            1e-300
        )
        over = (error / scale).reshape(-1, error.shape[-1]).max(dim=0).values / self.tolerance.step
        names = self.interval.names or [f"pool {p}" for p in range(len(over))]
        self.worst_pool = names[int(over.argmax())]
        return float(over.max())

    def _accept_step(self, dt: float, end: float, tried: _TrialStep) -> None:
        kept = (self.U, tried.stages) if self.keep else (None, ())
        self.steps.append(Step(self.number, self.t, dt, self.rate is None, *kept))
        self.totals += tried.exchanged
        self._free_buffers += tried.rates[:-1]
        self.U, self.rate, self.t = tried.U, tried.rates[-1], end
        self.largest = torch.maximum(self.largest, self._mass_norms(self.U))

    def _mass_exchange_rates(self, U: Tensor, t: float) -> Tensor:
        operator = self.interval.operator
        return torch.stack(
            [
                self.interval.total_plasma_inflow(t),
                operator.loss_rate(U),
                operator.boundary_outflow(U),
            ]
        )
