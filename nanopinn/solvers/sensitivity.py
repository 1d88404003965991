"""Exact derivatives of an evolution: forward for a few parameters, backward for many.

Both differentiate the steps as they were taken (stages and sizes held), not the continuous equations, so that they agree
with each other to the tolerance of the linear solves. Rates are linear in their coefficients: the derivative of a rate along
a change of coefficients is the rate with the change in their place. Stages are solved as the evolution solved them: voxels by
Krylov, lines of cells around vessels directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanopinn.solvers.evolve import Evolution, Step
from nanopinn.solvers.interval import Interval
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.schemes import TR_BDF2
from nanopinn.solvers.stage import Stage, StageOf

#: Relative residual of the linear solves.
EXACT = 1e-12


@dataclass(frozen=True)
class CoefficientGradient:
    """Gradient with respect to the coefficients of one interval, shaped as they are.

    Attributes:
        operator: of transport, reaction and inflow. uptake: of each transfer, ``(x, y, z)``.
    """

    operator: PoolOperator
    uptake: tuple[Tensor, ...]

    def dot(self, change: Interval) -> float:
        """Derivative along a change of the coefficients."""
        pairs = zip(self.operator.tensors(), change.operator.tensors(), strict=True)
        linear = sum(float((g * d).sum()) for g, d in pairs)
        return linear + sum(
            float((g * k.uptake).sum()) for g, k in zip(self.uptake, change.transfers, strict=True)
        )


def tangent(
    evolution: Evolution, changes: Sequence[Interval], start: Tensor | None = None
) -> Tensor:
    """Derivative of the saved pools along a change of every interval's coefficients, ``(n, pool, x, y, z)``.

    Args:
        evolution: run with ``keep_stages``.
        changes: one per interval, holding the changes of its coefficients (same plasma curves); capacity is held.
        start: derivative of the initial pools; zero if None.

    Raises:
        ValueError: the evolution kept no stages or intervals, or a limiter worked in it.
    """
    first = _first(evolution)
    V = torch.zeros_like(first) if start is None else start
    rate: Tensor | None = None
    saved = [V] if evolution.times[0] == evolution.intervals[0].start else []
    for step in evolution.steps:
        interval, change = evolution.intervals[step.interval], changes[step.interval]
        V, rate = _tangent_step(
            step, evolution.stage_of, interval, change, V, None if step.fresh else rate
        )
        if _lands(step, evolution):
            saved.append(V)
    return torch.stack(saved)


def _tangent_step(
    step: Step,
    stage_of: StageOf,
    interval: Interval,
    change: Interval,
    V: Tensor,
    rate: Tensor | None,
) -> tuple[Tensor, Tensor]:
    capacity, w = interval.capacity, TR_BDF2.gamma * step.dt
    if rate is None:
        rate = (change.rate(_kept(step), step.t) - _slope(interval, _kept(step), V)) / capacity
    rates = [rate]
    for U, row, c in zip(step.stages, TR_BDF2.a[1:], TR_BDF2.nodes[1:], strict=True):
        known = V + step.dt * sum(a * k for a, k in zip(row, rates, strict=False))
        forcing = change.rate(U, step.t + c * step.dt)
        stage, _ = _stage(stage_of, interval, U, w).solve(
            capacity * known + w * forcing, known, tol=EXACT
        )
        rates.append((stage - known) / w)
    return stage, rates[-1]


def adjoint(
    evolution: Evolution, gradients: Tensor, gather: Callable[[Interval], Gathered] | None = None
) -> tuple[list[CoefficientGradient], Tensor]:
    """Gradient of a scalar of the saved pools with respect to every interval's coefficients and the initial pools.

    Args:
        evolution: run with ``keep_stages``.
        gradients: of the scalar with respect to the saved pools, ``(n, pool, x, y, z)``.
        gather: what sums gradients over the stages of an interval, where its source hangs on its coefficients in a way of its own.

    Raises:
        ValueError: the evolution kept no stages or intervals, or a limiter worked in it.
    """
    found = [(gather or Gathered)(interval) for interval in evolution.intervals]
    queue = list(range(len(evolution.times)))
    lam, mu = (
        torch.zeros_like(_first(evolution)),
        None,
    )  # of the pools, and of the rate handed to the next step
    for step in reversed(evolution.steps):
        if queue and _lands(step, evolution):
            lam = lam + gradients[queue.pop()]
        lam, mu = _adjoint_step(
            step,
            evolution.stage_of,
            evolution.intervals[step.interval],
            found[step.interval],
            lam,
            mu,
        )
        if step.fresh:
            mu = None
    if queue:
        lam = lam + gradients[queue.pop()]
    return [g.gradient() for g in found], lam


def _adjoint_step(
    step: Step,
    stage_of: StageOf,
    interval: Interval,
    found: Gathered,
    lam: Tensor,
    mu: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """From the gradients of a step's end and of its last rate to those of its start and first rate."""
    capacity, w, rows = interval.capacity, TR_BDF2.gamma * step.dt, TR_BDF2.a
    n = len(rows)
    of_rate = [torch.zeros_like(lam) for _ in range(n)]
    if mu is not None:
        of_rate[-1] = mu
    of_stage, of_start = lam, torch.zeros_like(lam)
    for i in range(n - 1, 0, -1):
        # rate_i = (U_i - known_i)/w and (capacity - w F') U_i = capacity known_i + w F
        of_U = of_stage + of_rate[i] / w
        y, _ = _stage(stage_of, interval, step.stages[i - 1], w).solve(
            of_U, tol=EXACT, transposed=True
        )
        found.add(w * y, step.stages[i - 1], step.t + TR_BDF2.nodes[i] * step.dt)
        of_known = capacity * y - of_rate[i] / w
        of_start = of_start + of_known
        for j in range(i):
            of_rate[j] = of_rate[j] + step.dt * rows[i][j] * of_known
        of_stage = torch.zeros_like(lam)
    if step.fresh:
        y = of_rate[0] / capacity
        found.add(y, _kept(step), step.t)
        of_start = of_start - _slope_transposed(interval, _kept(step), y)
    return of_start, of_rate[0]


class Gathered:
    """Gradients with respect to an interval's coefficients, summed over stages."""

    def __init__(self, interval: Interval) -> None:
        self.interval = interval
        self.total = [torch.zeros_like(t) for t in interval.operator.tensors()]
        self.uptake = [torch.zeros_like(k.uptake) for k in interval.transfers]

    def add(self, y: Tensor, U: Tensor, t: float) -> None:
        """Add the gradient of ``y . rate(U, t)``."""
        for total, part in zip(
            self.total, self.interval.operator.gradient(y, U, self.interval.inputs(t)), strict=True
        ):
            total += part
        for k, total in zip(self.interval.transfers, self.uptake, strict=True):
            unit = replace(k, uptake=torch.ones_like(k.uptake), efflux=0.0).rate(U)
            total += (y[k.inside] - y[k.outside]) * unit

    def gradient(self) -> CoefficientGradient:
        return CoefficientGradient(
            self.interval.operator.with_tensors(self.total), tuple(self.uptake)
        )


def _kept(step: Step) -> Tensor:
    if step.start is None:
        raise ValueError("the evolution did not keep its stages: run it with keep_stages=True")
    return step.start


def _first(evolution: Evolution) -> Tensor:
    """The pools it started from."""
    if not evolution.intervals:
        raise ValueError(
            "the evolution did not keep its intervals: give them as a sequence, not as an iterator"
        )
    return _kept(evolution.steps[0])


def _lands(step: Step, evolution: Evolution) -> bool:
    """Whether a saved time stands at the end of the step."""
    return any(abs(step.t + step.dt - t) < 1e-9 * max(1.0, t) for t in evolution.times)


def _stage(stage_of: StageOf, interval: Interval, U: Tensor, w: float) -> Stage:
    if interval.correction is not None:
        raise ValueError(
            "a limiter has no derivative: run with fitted, central or upwind advection"
        )
    return stage_of(interval.operator, interval.capacity, w, interval.linearised(U))


def _slope(interval: Interval, U: Tensor, V: Tensor) -> Tensor:
    """``-dF/dU V``."""
    out = interval.operator(V)
    for k in interval.transfers:
        into, back = k.slopes(U)
        z = into * V[k.outside] - back * V[k.inside]
        out[k.outside] += z
        out[k.inside] -= z
    return out


def _slope_transposed(interval: Interval, U: Tensor, y: Tensor) -> Tensor:
    """``-(dF/dU)^T y``."""
    out = interval.operator.transposed(y)
    for k in interval.transfers:
        into, back = k.slopes(U)
        difference = y[k.outside] - y[k.inside]
        out[k.outside] += into * difference
        out[k.inside] -= back * difference
    return out
