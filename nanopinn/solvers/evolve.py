"""Pools in time by steps that adapt: time-dependent, non-linear, landing on every event.

    capacity dU/dt = inflow c(t) - A U - transfers(U)

TR-BDF2 (order 2, L-stable) with Newton's method in each stage. Between two events coefficients are constant and plasma
curves smooth; a step never crosses an event, and after one the first stage starts afresh.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from nanopinn.progress import Progress, silent
from nanopinn.solvers.balance import Balance
from nanopinn.solvers.fluxes import SPACE
from nanopinn.solvers.interval import Interval
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.local import add_held, masses
from nanopinn.solvers.schemes import TR_BDF2, Scheme
from nanopinn.solvers.stage import Stage, StageMatrix, StageOf


@dataclass(frozen=True)
class Step:
    """One accepted step: its interval, and the pools it started from and found at each implicit stage (if kept).

    ``fresh`` marks a first stage that was evaluated, not taken over from the step before.
    """

    interval: int
    t: float
    dt: float
    fresh: bool
    start: Tensor | None = None
    stages: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Evolution:
    """Pools at the times asked for, and how they were reached.

    Attributes:
        times: ``(n,)`` s. U: ``(n, ..., pool, x, y, z)``.
        steps: the accepted steps. rejected: those that were tried again. newton, krylov: iterations in all.
        balance: where the mass went. intervals: those of a sequence; none if they were built on the way.
        stage_of: solver of the stages, which derivatives use again.
    """

    times: tuple[float, ...]
    U: Tensor
    balance: Balance
    rejected: int
    newton: int
    krylov: int
    steps: tuple[Step, ...] = field(repr=False)
    intervals: tuple[Interval, ...] = field(repr=False)
    stage_of: StageOf = field(repr=False)

    def __str__(self) -> str:
        return (
            f"{len(self.times)} times to {self.times[-1] / 3600:.3g} h in {len(self.steps)} steps ({self.rejected} tried again), "
            f"{self.newton} Newton and {self.krylov} Krylov iterations; mass imbalance {self.balance.error:.1e}"
        )


@dataclass(frozen=True)
class Tolerance:
    """How exact a run is.

    Attributes:
        step: error a step may make in any pool, over the pool's largest mass so far (or a thousandth of the largest pool's).
        equation: residual of each stage over the mass stored.
        first_step, longest_step: s.
    """

    step: float = 1e-4
    equation: float = 1e-11
    first_step: float = 1.0
    longest_step: float = 4 * 3600.0


def evolve(
    intervals: Iterable[Interval],
    start: Tensor,
    save_at: Sequence[float],
    *,
    tolerance: Tolerance = Tolerance(),
    stage_of: StageOf = StageMatrix,
    keep_stages: bool = False,
    steps: Sequence[tuple[float, float]] | None = None,
    progress: Progress = silent,
    watch: Callable[[float, Tensor], None] | None = None,
) -> Evolution:
    """Take pools through a sequence of intervals.

    Args:
        intervals: in order, each beginning where the last ended; an iterator builds each when it is reached, and none is kept.
        start: pools ``(..., pool, x, y, z)`` at the first interval's start.
        save_at: increasing times at which pools are wanted, s; steps land on them.
        stage_of: solver of the stages. keep_stages: for :mod:`nanopinn.solvers.sensitivity`.
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
    run = _Run(interval, start, tolerance, stage_of, keep_stages)
    given = None if steps is None else iter(steps)
    saved = [start] if save_at and save_at[0] == run.t else []
    if watch is not None:
        watch(run.t, run.U)
    while interval is not None:
        marks = sorted({*(t for t in save_at if interval.start < t < interval.end), interval.end})
        run.enter(number, interval)
        for mark in marks:
            while run.t < mark:
                run.advance(mark, None if given is None else next(given)[1])
                progress("pools in time", min(1.0, run.t / save_at[-1]), {"hours": run.t / 3600})
                if watch is not None:
                    watch(run.t, run.U)
            if mark in save_at:
                saved.append(run.U)
        # let go of this interval before the next is built: each holds hundreds of fields
        run.leave()
        interval = None
        number, interval = number + 1, next(following, None)
    if len(saved) < len(save_at):
        raise ValueError(
            f"times to save at must lie within the intervals, which end at {run.t:g} s"
        )
    return Evolution(
        tuple(save_at),
        torch.stack(saved),
        run.balance(start),
        run.rejected,
        run.newton,
        run.krylov,
        tuple(run.steps),
        kept,
        stage_of,
    )


def _check_order(intervals: Sequence[Interval], save_at: Sequence[float]) -> None:
    for a, b in itertools.pairwise(intervals):
        _check_joint(a.end, b.start)
    if list(save_at) != sorted(set(save_at)) or (
        intervals and not intervals[0].start <= save_at[0] <= save_at[-1] <= intervals[-1].end
    ):
        raise ValueError("times to save at must increase and lie within the intervals")


def _check_joint(end: float, start: float) -> None:
    if end != start:
        raise ValueError(f"an interval ends at {end} s and the next begins at {start} s")


@dataclass
class _Tried:
    """A step that was tried: the pools at its end, the rates of its stages, what was exchanged, and the stages if they are kept."""

    U: Tensor
    rates: list[Tensor]
    exchanged: Tensor
    stages: tuple[Tensor, ...]


class _Run:
    """The state of a run, advanced step by step."""

    def __init__(
        self, first: Interval, U: Tensor, tolerance: Tolerance, stage_of: StageOf, keep: bool
    ) -> None:
        self.U, self.tolerance, self.stage_of, self.keep = U, tolerance, stage_of, keep
        self.t, self.dt, self.capacity = first.start, tolerance.first_step, first.capacity
        self.totals = U.new_zeros((3, *U.shape[:-3]))
        self.steps: list[Step] = []
        self.rejected = self.newton = self.krylov = 0
        self.scheme: Scheme = TR_BDF2
        self.rate: Tensor | None = None
        self.stage: Stage | None = None
        self._spare: list[Tensor] = []
        self.worst = ""
        self.largest = self._masses(U)

    def enter(self, number: int, interval: Interval) -> None:
        _check_joint(self.t, interval.start)
        self.number, self.interval, self.capacity = number, interval, interval.capacity
        self.rate, self.stage, self.w = None, None, 0.0
        self.dt = min(self.dt, self.tolerance.first_step) if interval.jumps else self.dt

    def leave(self) -> None:
        """Forget the interval and what was built of it."""
        self.rate, self.stage = None, None
        self._spare.clear()
        del self.interval

    def _room(self) -> Tensor:
        """Pools to be written: large blocks that are given back to the system are zeroed anew each time they are asked for."""
        return self._spare.pop() if self._spare else torch.empty_like(self.U)

    def balance(self, start: Tensor) -> Balance:
        entered, lost, outflow = self.totals
        stored = [
            (c * (b - a)).sum(dim=SPACE)
            for c, a, b in zip(*(v.unbind(-4) for v in (self.capacity, start, self.U)), strict=True)
        ]
        return Balance(entered, lost, outflow, torch.stack(stored, dim=-1))

    def _masses(self, U: Tensor) -> Tensor:
        return masses(self.capacity, U)

    def advance(self, mark: float, dt: float | None = None) -> None:
        """One accepted step, not beyond ``mark``; ``dt`` if it is given, whatever its error."""
        while True:
            left = mark - self.t
            # never leave a crumb before a mark
            step = (
                dt
                if dt is not None
                else left
                if left <= 1.0001 * self.dt
                else left / 2
                if left < 2 * self.dt
                else self.dt
            )
            tried = self._try(step)
            error = self._error(tried, step)
            grow = 0.9 * error ** (-1 / 3) if error > 0 else 5.0
            if dt is not None or error <= 1:
                break
            self._spare += (
                [tried.U, *tried.rates] if self.rate is None else [tried.U, *tried.rates[1:]]
            )
            del tried
            self.rejected += 1
            self.dt = step * max(0.2, min(0.8, grow))
            if self.dt < 1e-9 * max(1.0, self.t):
                raise SolverError(
                    f"time steps shrink to nothing at {self.t:.6g} s, because of {self.worst}: look for a rate far too large"
                )
        self._accept(
            step,
            mark if step == left or mark - self.t - step < 1e-9 * max(1.0, mark) else self.t + step,
            tried,
        )
        # a slightly longer step is not worth a new matrix
        self.dt = (
            min(self.tolerance.longest_step, step * min(5.0, grow))
            if grow > 1.2 or grow < 1
            else max(step, min(self.dt, step))
        )

    def _try(self, dt: float) -> _Tried:
        w, interval, scheme = self.scheme.gamma * dt, self.interval, self.scheme
        rates = [
            interval.rate(self.U, self.t, self._room()).div_(interval.capacity)
            if self.rate is None
            else self.rate
        ]
        exchanged = scheme.weights[0] * self._exchange(self.U, self.t)
        stages: list[Tensor] = []
        for i, (row, c) in enumerate(zip(scheme.a, scheme.nodes, strict=True)):
            if i == 0:
                continue
            known = self._room().copy_(self.U)
            for a, k in zip(row[:i], rates, strict=True):
                known.add_(k, alpha=dt * a)
            U = self._solve_stage(known, rates[-1], self.t + c * dt, w)
            exchanged += scheme.weights[i] * self._exchange(U, self.t + c * dt)
            rates.append(known.sub_(U).div_(-w))
            if self.keep:
                stages.append(U)
            elif i + 1 < len(scheme.a):
                self._spare.append(U)
        return _Tried(U, rates, dt * exchanged, tuple(stages))

    def _solve_stage(self, known: Tensor, rate: Tensor, t: float, w: float) -> Tensor:
        """Newton's method on ``capacity (U - known) = w rate(U, t)``, from the rate of the stage before."""
        interval, U, residual = (
            self.interval,
            torch.add(known, rate, alpha=w, out=self._room()),
            self._room(),
        )
        # fluxes between thin cells are far larger than what they change: rounding leaves this much of them
        rounding = 4 * torch.finfo(U.dtype).eps * w * interval.operator.throughput(U)
        for _ in range(20 if interval.correction is None else 200):
            add_held(interval.rate(U, t, residual).mul_(w), interval.capacity, known, U)
            stored = float(self._masses(U).norm().clamp_min(1e-300))
            size = float(residual.norm()) / stored
            if not isfinite(size):
                raise SolverError(
                    f"the pools are not finite at {t:.6g} s: look for a plasma curve or rate that is not"
                )
            goal = max(self.tolerance.equation, rounding / stored)
            if size <= goal:
                self._spare.append(residual)
                return U
            wanted = 0.3 * goal / size
            tol = max(wanted, 1e-13 if interval.linear else 1e-4)
            residual, iterations = self._matrix(U, w).solve(residual, tol=tol, overwrite=True)
            U.add_(residual)
            self.newton, self.krylov = self.newton + 1, self.krylov + iterations
        raise SolverError(f"Newton's method stopped at a residual of {size:.1e} at {t:.6g} s")

    def _matrix(self, U: Tensor, w: float) -> Stage:
        if self.stage is None or self.interval.transfers or abs(w - self.w) > 1e-12 * w:
            reaction = self.interval.linearised(U)
            if self.stage is None:
                self.stage = self.stage_of(
                    self.interval.operator, self.interval.capacity, w, reaction
                )
            else:  # in the same place: memory given back would be asked for again
                self.stage.renew(w, reaction)
            self.w = w
        return self.stage

    def _error(self, tried: _Tried, dt: float) -> float:
        """Error of the step over what is allowed; stiff parts are damped as the scheme damps them."""
        assert self.scheme.error is not None
        raw = self._room().zero_()
        for e, k in zip(self.scheme.error, tried.rates, strict=True):
            raw.add_(k, alpha=dt * e)
        # that of the last Newton step will do: it only damps
        stage = self.stage or self._matrix(tried.U, self.scheme.gamma * dt)
        error = self._masses(stage.settle(raw.mul_(self.interval.capacity)))
        self._spare.append(raw)
        scale = torch.maximum(self.largest, self._masses(tried.U))
        scale = torch.maximum(scale, 1e-3 * scale.max(dim=-1, keepdim=True).values).clamp_min(
            1e-300
        )
        over = (error / scale).reshape(-1, error.shape[-1]).max(dim=0).values / self.tolerance.step
        names = self.interval.names or [f"pool {p}" for p in range(len(over))]
        self.worst = names[int(over.argmax())]
        return float(over.max())

    def _accept(self, dt: float, end: float, tried: _Tried) -> None:
        kept = (self.U, tried.stages) if self.keep else (None, ())
        self.steps.append(Step(self.number, self.t, dt, self.rate is None, *kept))
        self.totals += tried.exchanged
        self._spare += tried.rates[:-1]
        self.U, self.rate, self.t = tried.U, tried.rates[-1], end
        self.largest = torch.maximum(self.largest, self._masses(self.U))

    def _exchange(self, U: Tensor, t: float) -> Tensor:
        operator = self.interval.operator
        return torch.stack(
            [self.interval.entered(t), operator.lost(U), operator.boundary_outflow(U)]
        )
