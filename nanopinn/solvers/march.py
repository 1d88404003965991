"""Implicit Runge-Kutta march of linear pools, with exact tangents from the same matrices.

capacity dU/dt = -A U + s(t)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.solvers.balance import Balance
from nanopinn.solvers.fluxes import SPACE
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.schemes import TR_BDF2, Scheme
from nanopinn.solvers.stage import StageMatrix

#: Tangents steer, they are not the answer: their solves stop at this many times the tolerance of the pools.
TANGENTS_LOOSER = 100.0
#: From this relative residual on tangents are marched in single precision, which holds it and moves half the memory.
SINGLE_FROM = 5e-6

#: ``source(t)`` gives ``s`` of shape (pool, x, y, z) and its tangents (m, pool, x, y, z) or None.
Source = Callable[[float], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Trajectory:
    """Pools at the nodes of the march, with what it cost.

    Attributes:
        times: ``(n,)`` s.
        U: ``(n, pool, x, y, z)``.
        tangents: ``(n, m, pool, x, y, z)`` or None.
        iterations: Krylov iterations in all.
        balance: what entered, what left, what is stored.
    """

    times: Tensor
    U: Tensor
    tangents: Tensor | None
    iterations: int
    scheme: str
    balance: Balance

    @property
    def end(self) -> tuple[Tensor, Tensor | None]:
        """Pools and tangents at the last node."""
        return self.U[-1], None if self.tangents is None else self.tangents[-1]


def joined(runs: Sequence[Trajectory]) -> Trajectory:
    """Trajectories of which each began where the last one ended, as one."""
    if len(runs) == 1:
        return runs[0]

    def along(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([parts[0], *(p[1:] for p in parts[1:])])

    tangents = [r.tangents for r in runs if r.tangents is not None]
    entered, lost, outflow, stored = (
        torch.stack([getattr(r.balance, name) for r in runs]).sum(dim=0) for name in ("entered", "lost", "outflow", "stored")
    )
    return Trajectory(
        along([r.times for r in runs]), along([r.U for r in runs]), along(tangents) if tangents else None,
        sum(r.iterations for r in runs), runs[0].scheme, Balance(entered, lost, outflow, stored),
    )  # fmt: skip


class _StageSolver:
    """The stages of one step size, and what they cost; those of tangents in their own precision."""

    def __init__(self, operator: PoolOperator, capacity: Tensor, w: float, tol: float, steered: torch.dtype | None) -> None:
        self.operator, self.capacity, self.w, self.tol = operator, capacity, w, tol
        self.iterations = 0
        self.stage = StageMatrix(operator, capacity, w)
        self.tangent_capacity, self.tangent_stage = capacity, self.stage
        if steered is not None and steered != capacity.dtype:
            self.tangent_capacity = capacity.to(steered)
            self.tangent_stage = StageMatrix(operator.to(steered), self.tangent_capacity, w)

    def exchange(self, U: Tensor, s: Tensor) -> Tensor:
        """Rates at which each pool's mass enters by the source, is lost, and crosses the boundary, ``(3, pool)``."""
        return torch.stack([s.sum(dim=SPACE), self.operator.lost(U), self.operator.boundary_outflow(U)])

    def pools(self, known: Tensor, s: Tensor) -> Tensor:
        """The stage from what is known of the pools and their source."""
        found, iterations = self.stage.solve(self.capacity * known + self.w * s, known, tol=self.tol)
        self.iterations += iterations
        return found

    def tangents(self, known: Tensor, forcing: Tensor) -> Tensor:
        """The same of their tangents."""
        b = torch.add(self.tangent_capacity * known, forcing, alpha=self.w)
        found, iterations = self.tangent_stage.solve(b, known, tol=TANGENTS_LOOSER * self.tol, overwrite=True)
        self.iterations += iterations
        return found


def march(
    operator: PoolOperator, capacity: Tensor, source: Source, times: Sequence[float], *, scheme: Scheme = TR_BDF2,
    tangent_operators: Sequence[PoolOperator] = (), tol: float = 1e-10, begin: tuple[Tensor, Tensor | None] | None = None,
) -> Trajectory:  # fmt: skip
    """March from ``times[0]`` through every later node.

    Args:
        operator: A of the pools.
        capacity: ``(pool, x, y, z)``.
        source: s(t) and its tangents.
        times: nodes, increasing, s; equal steps share one matrix.
        tangent_operators: dA/dtheta_j for each parameter; empty for no tangents.
        tol: relative residual of each linear solve; tangents are solved to :data:`TANGENTS_LOOSER` of it, and where
            that is :data:`SINGLE_FROM` or more, in single precision.
        begin: pools and tangents at the first node; zero if None.

    Raises:
        SolverError: a linear solve failed.
    """
    m = len(tangent_operators)
    steered = torch.float32 if TANGENTS_LOOSER * tol >= SINGLE_FROM else capacity.dtype
    stacked = PoolOperator.stacked(tangent_operators).to(steered) if m else None
    U = torch.zeros_like(capacity)
    V = torch.zeros((m, *capacity.shape), dtype=steered, device=capacity.device)
    if begin is not None:
        U, V = begin[0], V if begin[1] is None else begin[1].to(steered)
    out_U, out_V = [U], [V]
    rate: tuple[Tensor, Tensor] | None = None
    solver: _StageSolver | None = None
    iterations = 0
    totals = capacity.new_zeros((3, len(capacity)))
    for t0, t1 in itertools.pairwise(times):
        dt = t1 - t0
        if solver is None or abs(solver.w - scheme.gamma * dt) > 1e-9 * solver.w:
            iterations += solver.iterations if solver else 0
            solver = _StageSolver(operator, capacity, scheme.gamma * dt, tol, steered if m else None)
        U, V, rate, exchanged = _step(solver, scheme, source, stacked, U, V, rate, t0, dt)
        totals = totals + exchanged
        out_U.append(U)
        out_V.append(V)
    iterations += solver.iterations if solver else 0
    return Trajectory(
        torch.tensor(list(times), dtype=capacity.dtype), torch.stack(out_U), torch.stack(out_V) if m else None,
        iterations, scheme.name, Balance(totals[0], totals[1], totals[2], (capacity * (U - out_U[0])).sum(dim=SPACE)),
    )  # fmt: skip


def _step(
    solver: _StageSolver, scheme: Scheme, source: Source, dA: PoolOperator | None, U: Tensor, V: Tensor,
    rate: tuple[Tensor, Tensor] | None, t0: float, dt: float,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:  # fmt: skip
    w = solver.w
    rates: list[tuple[Tensor, Tensor]] = []
    exchanged = U.new_zeros((3, len(U)))
    for i, (row, c, weight) in enumerate(zip(scheme.a, scheme.nodes, scheme.a[-1], strict=True)):
        s, ds = source(t0 + c * dt)
        if i == 0 and scheme.explicit_first:
            rates.append(rate if rate is not None else _initial_rate(solver, source, dA, U, V, t0))
            exchanged = exchanged + dt * weight * solver.exchange(U, s)
            continue
        known_U = U + dt * sum(a * k[0] for a, k in zip(row[:i], rates, strict=True)) if i else U
        known_V = V + dt * sum(a * k[1] for a, k in zip(row[:i], rates, strict=True)) if i else V
        stage_U = solver.pools(known_U, s)
        stage_V = known_V
        if dA is not None:
            stage_V = solver.tangents(known_V, _forcing(ds, dA, stage_U))
        rates.append(((stage_U - known_U) / w, (stage_V - known_V) / w))
        exchanged = exchanged + dt * weight * solver.exchange(stage_U, s)
    return stage_U, stage_V, rates[-1], exchanged


def _initial_rate(solver: _StageSolver, source: Source, dA: PoolOperator | None, U: Tensor, V: Tensor, t0: float) -> tuple[Tensor, Tensor]:
    s, ds = source(t0)
    k = (s - solver.operator(U)) / solver.capacity
    if dA is None or ds is None:
        return k, torch.zeros_like(V)
    slope = solver.operator(V.to(U.dtype)).to(V.dtype)
    return k, (_forcing(ds, dA, U) - slope) / solver.tangent_capacity


def _forcing(ds: Tensor | None, dA: PoolOperator, U: Tensor) -> Tensor:
    """What drives tangents, ``ds - dA U``, in the precision of dA."""
    low = dA.transport.before[0].dtype
    moved = -dA(U.to(low))
    return moved if ds is None else moved.add_(ds.to(low))
