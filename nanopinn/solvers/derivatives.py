"""Derivatives of coefficients along many directions at once.

Exact derivatives of an evolution: forward for a few parameters, backward for many.

Both differentiate the steps as they were taken (stages and sizes held), not the continuous
equations, so that they agree with each other to the tolerance of the linear solves. Rates are
linear in their coefficients: the derivative of a rate along a change of coefficients is the rate
with the change in their place. Stages are solved as the evolution solved them: voxels by Krylov,
lines of cells around vessels directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanopinn.solvers.evolve import EvolutionResult, Step
from nanopinn.solvers.implicit_stage import StageFactory, StageSolver
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.runge_kutta import TR_BDF2
from nanopinn.solvers.time_segment import Interval


def directional_derivatives(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    at: Sequence[Tensor],
    directions: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Derivatives of every output of a function along each of m directions, ``(m, *output)`` each.

    The product of a vector with the transposed Jacobian is linear in that vector; its own
    derivative by it is the product with the Jacobian. Both are plain backward passes, half the time
    of ``torch.func.jvp`` under ``vmap`` with no more memory (which moreover imports and asks
    torch's compiler about every constant: a second at its first call).

    Args:
        function: of ``at``. directions: of each argument, ``(m, *argument)``.
    """
    inputs = [t.detach().requires_grad_() for t in at]
    with torch.enable_grad():
        found = function(*inputs)
        outputs = (found,) if isinstance(found, Tensor) else found
        moved = [i for i, t in enumerate(outputs) if t.requires_grad]
        along = tuple(t.new_zeros((len(directions[0]), *t.shape)) for t in outputs)
        if not moved:
            return along
        vectors = [torch.zeros_like(outputs[i], requires_grad=True) for i in moved]
        back = torch.autograd.grad(
            [outputs[i] for i in moved], inputs, vectors, create_graph=True, materialize_grads=True
        )
    felt = [k for k, t in enumerate(back) if t.requires_grad]
    for j in range(len(directions[0])):
        seeds = [directions[k][j] for k in felt]
        parts = torch.autograd.grad(
            [back[k] for k in felt], vectors, seeds, retain_graph=True, materialize_grads=True
        )
        for i, part in zip(moved, parts, strict=True):
            along[i][j] = part
    return along


#: Relative residual of the linear solves.
SENSITIVITY_TOLERANCE = 1e-12


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


def propagate_tangent(
    evolution: EvolutionResult, changes: Sequence[Interval], start: Tensor | None = None
) -> Tensor:
    """Derivative of the saved pools along a change of every interval's coefficients, ``(n, pool, x,
    y, z)``.

    Args:
        evolution: run with ``keep_stages``.
        changes: one per interval, holding the changes of its coefficients (same plasma curves);
            capacity is held.
        start: derivative of the initial pools; zero if None.

    Raises:
        ValueError: the evolution kept no stages or intervals, or a limiter worked in it.
    """
    first = _initial_pools(evolution)
    V = torch.zeros_like(first) if start is None else start
    rate: Tensor | None = None
    saved = [V] if evolution.times[0] == evolution.intervals[0].start else []
    for step in evolution.steps:
        interval, change = evolution.intervals[step.interval], changes[step.interval]
        V, rate = _tangent_step(
            step,
            evolution.stage_factory,
            interval,
            change,
            V,
            None if step.first_stage_evaluated else rate,
        )
        if _ends_at_saved_time(step, evolution):
            saved.append(V)
    return torch.stack(saved)


def _tangent_step(
    step: Step,
    stage_factory: StageFactory,
    interval: Interval,
    change: Interval,
    V: Tensor,
    rate: Tensor | None,
) -> tuple[Tensor, Tensor]:
    capacity, w = interval.capacity, TR_BDF2.gamma * step.dt
    if rate is None:
        rate = (
            change.rate(_step_start(step), step.t)
            - _jacobian_product(interval, _step_start(step), V)
        ) / capacity
    rates = [rate]
    for U, row, c in zip(step.stages, TR_BDF2.a[1:], TR_BDF2.nodes[1:], strict=True):
        known = V + step.dt * sum(a * k for a, k in zip(row, rates, strict=False))
        forcing = change.rate(U, step.t + c * step.dt)
        stage, _ = _build_stage_solver(stage_factory, interval, U, w).solve(
            capacity * known + w * forcing, known, tol=SENSITIVITY_TOLERANCE
        )
        rates.append((stage - known) / w)
    return stage, rates[-1]


def solve_adjoint(
    evolution: EvolutionResult,
    gradients: Tensor,
    accumulator_factory: Callable[[Interval], GradientAccumulator] | None = None,
) -> tuple[list[CoefficientGradient], Tensor]:
    """Gradient of a scalar of the saved pools with respect to every interval's coefficients and the
    initial pools.

    Args:
        evolution: run with ``keep_stages``.
        gradients: of the scalar with respect to the saved pools, ``(n, pool, x, y, z)``.
        gather: what sums gradients over the stages of an interval, where its source hangs on its
            coefficients in a way of its own.

    Raises:
        ValueError: the evolution kept no stages or intervals, or a limiter worked in it.
    """
    found = [
        (accumulator_factory or GradientAccumulator)(interval) for interval in evolution.intervals
    ]
    queue = list(range(len(evolution.times)))
    lam, mu = (
        torch.zeros_like(_initial_pools(evolution)),
        None,
    )  # of the pools, and of the rate handed to the next step
    for step in reversed(evolution.steps):
        if queue and _ends_at_saved_time(step, evolution):
            lam = lam + gradients[queue.pop()]
        lam, mu = _adjoint_step(
            step,
            evolution.stage_factory,
            evolution.intervals[step.interval],
            found[step.interval],
            lam,
            mu,
        )
        if step.first_stage_evaluated:
            mu = None
    if queue:
        lam = lam + gradients[queue.pop()]
    return [g.gradient() for g in found], lam


def _adjoint_step(
    step: Step,
    stage_factory: StageFactory,
    interval: Interval,
    found: GradientAccumulator,
    lam: Tensor,
    mu: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """From the gradients of a step's end and of its last rate to those of its start and first rate."""
    capacity, w, rows = interval.capacity, TR_BDF2.gamma * step.dt, TR_BDF2.a
    n = len(rows)
    grad_rate = [torch.zeros_like(lam) for _ in range(n)]
    if mu is not None:
        grad_rate[-1] = mu
    grad_stage, grad_start = lam, torch.zeros_like(lam)
    for i in range(n - 1, 0, -1):
        # rate_i = (U_i - known_i)/w and (capacity - w F') U_i = capacity known_i + w F
        grad_U = grad_stage + grad_rate[i] / w
        y, _ = _build_stage_solver(stage_factory, interval, step.stages[i - 1], w).solve(
            grad_U, tol=SENSITIVITY_TOLERANCE, transposed=True
        )
        found.add(w * y, step.stages[i - 1], step.t + TR_BDF2.nodes[i] * step.dt)
        grad_known = capacity * y - grad_rate[i] / w
        grad_start = grad_start + grad_known
        for j in range(i):
            grad_rate[j] = grad_rate[j] + step.dt * rows[i][j] * grad_known
        grad_stage = torch.zeros_like(lam)
    if step.first_stage_evaluated:
        y = grad_rate[0] / capacity
        found.add(y, _step_start(step), step.t)
        grad_start = grad_start - _jacobian_transpose_product(interval, _step_start(step), y)
    return grad_start, grad_rate[0]


class GradientAccumulator:
    """Gradients with respect to an interval's coefficients, summed over stages."""

    def __init__(self, interval: Interval) -> None:
        self.interval = interval
        self.total = [torch.zeros_like(t) for t in interval.operator.tensors()]
        self.uptake = [torch.zeros_like(k.uptake) for k in interval.transfers]

    def add(self, y: Tensor, U: Tensor, t: float) -> None:
        """Add the gradient of ``y . rate(U, t)``."""
        for total, part in zip(
            self.total,
            self.interval.operator.gradient(y, U, self.interval.plasma_values(t)),
            strict=True,
        ):
            total += part
        for k, total in zip(self.interval.transfers, self.uptake, strict=True):
            unit = replace(k, uptake=torch.ones_like(k.uptake), efflux=0.0).rate(U)
            total += (y[k.inside] - y[k.outside]) * unit

    def gradient(self) -> CoefficientGradient:
        return CoefficientGradient(
            self.interval.operator.with_tensors(self.total), tuple(self.uptake)
        )


def _step_start(step: Step) -> Tensor:
    if step.start is None:
        raise ValueError("the evolution did not keep its stages: run it with keep_stages=True")
    return step.start


def _initial_pools(evolution: EvolutionResult) -> Tensor:
    """The pools it started from."""
    if not evolution.intervals:
        raise ValueError(
            "the evolution did not keep its intervals: give them as a sequence, not as an iterator"
        )
    return _step_start(evolution.steps[0])


def _ends_at_saved_time(step: Step, evolution: EvolutionResult) -> bool:
    """Whether a saved time stands at the end of the step."""
    return any(abs(step.t + step.dt - t) < 1e-9 * max(1.0, t) for t in evolution.times)


def _build_stage_solver(
    stage_factory: StageFactory, interval: Interval, U: Tensor, w: float
) -> StageSolver:
    if interval.correction is not None:
        raise ValueError(
            "a limiter has no derivative: run with fitted, central or upwind advection"
        )
    return stage_factory(interval.operator, interval.capacity, w, interval.linearised_reaction(U))


def _jacobian_product(interval: Interval, U: Tensor, V: Tensor) -> Tensor:
    """``-dF/dU V``."""
    out = interval.operator(V)
    for k in interval.transfers:
        into, back = k.rate_derivatives(U)
        z = into * V[k.outside] - back * V[k.inside]
        out[k.outside] += z
        out[k.inside] -= z
    return out


def _jacobian_transpose_product(interval: Interval, U: Tensor, y: Tensor) -> Tensor:
    """``-(dF/dU)^T y``."""
    out = interval.operator.transposed(y)
    for k in interval.transfers:
        into, back = k.rate_derivatives(U)
        difference = y[k.outside] - y[k.inside]
        out[k.outside] += into * difference
        out[k.inside] -= back * difference
    return out
