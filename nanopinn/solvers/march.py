"""Implicit Runge-Kutta march of linear pools, with exact tangents from the same matrices.

capacity dU/dt = -A U + s(t)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.solvers.fluxes import SPACE
from nanopinn.solvers.implicit_stage import KrylovStageSolver
from nanopinn.solvers.mass_balance import PoolMassBalance
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.runge_kutta import TR_BDF2, Scheme

#: Tangents steer, they are not the answer: their solves stop at this many times the tolerance of
#: the pools.
TANGENT_TOLERANCE_FACTOR = 100.0
#: From this relative residual on tangents are marched in single precision, which holds it and moves
#: half the memory.
SINGLE_PRECISION_TOLERANCE = 5e-6

#: ``source(t)`` gives ``s`` of shape (pool, x, y, z) and its tangents (m, pool, x, y, z) or None.
Source = Callable[[float], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Trajectory:
    """Pools at the nodes of the march, with what it cost.

    Attributes:
        times: ``(n,)`` s.
        U: ``(n, pool, x, y, z)``.
        tangents: at the nodes where they were kept, the last always among them, ``(k, m, pool, x,
            y, z)``, or None.
        iterations: Krylov iterations in all.
        balance: what entered, what left, what is stored.
    """

    times: Tensor
    U: Tensor
    tangents: Tensor | None
    iterations: int
    scheme: str
    balance: PoolMassBalance

    @property
    def final_state(self) -> tuple[Tensor, Tensor | None]:
        """Pools and tangents at the last node."""
        return self.U[-1], None if self.tangents is None else self.tangents[-1]


def concatenate_trajectories(runs: Sequence[Trajectory]) -> Trajectory:
    """Trajectories of which each began where the last one ended, as one; tangents are left to who
    knows at which nodes they stand.
    """
    times, U = (
        torch.cat([parts[0], *(p[1:] for p in parts[1:])])
        for parts in ([r.times for r in runs], [r.U for r in runs])
    )
    entered, lost, outflow, stored = (
        torch.stack([getattr(r.balance, name) for r in runs]).sum(dim=0)
        for name in ("entered", "lost", "outflow", "stored")
    )
    return Trajectory(
        times,
        U,
        None,
        sum(r.iterations for r in runs),
        runs[0].scheme,
        PoolMassBalance(entered, lost, outflow, stored),
    )


class _LinearStageSolver:
    """The stages of one step size, and what they cost; those of tangents in their own precision."""

    def __init__(
        self,
        operator: PoolOperator,
        capacity: Tensor,
        w: float,
        tol: float,
        tangent_dtype: torch.dtype | None,
    ) -> None:
        self.operator, self.capacity, self.w, self.tol = operator, capacity, w, tol
        self.iterations = 0
        self.stage = KrylovStageSolver(operator, capacity, w)
        self.tangent_capacity, self.tangent_stage = capacity, self.stage
        if tangent_dtype is not None and tangent_dtype != capacity.dtype:
            self.tangent_capacity = capacity.to(tangent_dtype)
            self.tangent_stage = KrylovStageSolver(
                operator.to(tangent_dtype), self.tangent_capacity, w
            )

    def solve_pools(self, known: Tensor, s: Tensor, guess: Tensor) -> Tensor:
        """The stage from what is known of the pools and their source."""
        found, iterations = self.stage.solve(
            torch.addcmul(self.w * s, self.capacity, known), guess, tol=self.tol, overwrite=True
        )
        self.iterations += iterations
        return found

    def tangents(self, known: Tensor, forcing: Tensor, guess: Tensor) -> Tensor:
        """The same of their tangents."""
        b = torch.add(self.tangent_capacity * known, forcing, alpha=self.w)
        found, iterations = self.tangent_stage.solve(
            b, guess, tol=TANGENT_TOLERANCE_FACTOR * self.tol, overwrite=True
        )
        self.iterations += iterations
        return found


def integrate_fixed_steps(
    operator: PoolOperator,
    capacity: Tensor,
    source: Source,
    times: Sequence[float],
    *,
    scheme: Scheme = TR_BDF2,
    tangent_operators: Sequence[PoolOperator] = (),
    tol: float = 1e-10,
    initial_state: tuple[Tensor, Tensor | None] | None = None,
    tangents_at: Collection[int] | None = None,
) -> Trajectory:
    """March from ``times[0]`` through every later node.

    Args:
        operator: A of the pools.
        capacity: ``(pool, x, y, z)``.
        source: s(t) and its tangents.
        times: nodes, increasing, s; equal steps share one matrix.
        tangent_operators: dA/dtheta_j for each parameter; empty for no tangents.
        tol: relative residual of each linear solve; tangents are solved to
            :data:`TANGENT_TOLERANCE_FACTOR` of it, and where that is
            :data:`SINGLE_PRECISION_TOLERANCE` or more, in single precision.
        begin: pools and tangents at the first node; zero if None.
        tangents_at: indices of the nodes at which tangents are kept, beside the last; None: all.

    Raises:
        SolverError: a linear solve failed.
    """
    m = len(tangent_operators)
    tangent_dtype = (
        torch.float32
        if TANGENT_TOLERANCE_FACTOR * tol >= SINGLE_PRECISION_TOLERANCE
        else capacity.dtype
    )
    stacked = PoolOperator.stack(tangent_operators).to(tangent_dtype) if m else None
    U = torch.zeros_like(capacity)
    V = torch.zeros((m, *capacity.shape), dtype=tangent_dtype, device=capacity.device)
    if initial_state is not None:
        U, V = (
            initial_state[0],
            V if initial_state[1] is None else initial_state[1].to(tangent_dtype),
        )
    kept = range(len(times)) if tangents_at is None else {*tangents_at, len(times) - 1}
    out_U, out_V = [U], [V] if 0 in kept else []
    rate: tuple[Tensor, Tensor] | None = None
    solver: _LinearStageSolver | None = None
    iterations = 0
    source_integral, pool_time_integral = torch.zeros_like(U), torch.zeros_like(U)
    for number, (t0, t1) in enumerate(itertools.pairwise(times), start=1):
        dt = t1 - t0
        if solver is None or abs(solver.w - scheme.gamma * dt) > 1e-9 * solver.w:
            iterations += solver.iterations if solver else 0
            solver = _LinearStageSolver(
                operator, capacity, scheme.gamma * dt, tol, tangent_dtype if m else None
            )
        U, V, rate = _step(
            solver,
            scheme,
            source,
            stacked,
            U,
            V,
            rate,
            t0,
            dt,
            (source_integral, pool_time_integral),
        )
        out_U.append(U)
        if number in kept:
            out_V.append(V)
    iterations += solver.iterations if solver else 0
    # what is lost and what crosses the boundary is linear in the pools
    balance = PoolMassBalance(
        source_integral.sum(dim=SPACE),
        operator.loss_rate(pool_time_integral),
        operator.boundary_outflow(pool_time_integral),
        (capacity * (U - out_U[0])).sum(dim=SPACE),
    )
    return Trajectory(
        torch.tensor(list(times), dtype=capacity.dtype),
        torch.stack(out_U),
        torch.stack(out_V) if m else None,
        iterations,
        scheme.name,
        balance,
    )


def _step(
    solver: _LinearStageSolver,
    scheme: Scheme,
    source: Source,
    dA: PoolOperator | None,
    U: Tensor,
    V: Tensor,
    rate: tuple[Tensor, Tensor] | None,
    t0: float,
    dt: float,
    integrals: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Pools, tangents and their last rates after a step; ``integrals`` of the source and of the
    pools over time grow by it.
    """
    w = solver.w
    rates: list[tuple[Tensor, Tensor]] = []
    for i, (row, c, weight) in enumerate(zip(scheme.a, scheme.nodes, scheme.weights, strict=True)):
        s, ds = source(t0 + c * dt)
        integrals[0].add_(s, alpha=dt * weight)
        if i == 0 and scheme.explicit_first:
            rates.append(rate if rate is not None else _initial_rate(solver, source, dA, U, V, t0))
            integrals[1].add_(U, alpha=dt * weight)
            continue
        known_U, known_V = (
            _known_stage_terms(at, row, [k[which] for k in rates], dt)
            for which, at in enumerate((U, V))
        )
        # the stage before tells where this one will lie
        stage_U = solver.solve_pools(
            known_U, s, torch.add(known_U, rates[-1][0], alpha=w) if rates else known_U
        )
        integrals[1].add_(stage_U, alpha=dt * weight)
        stage_V = known_V
        if dA is not None:
            stage_V = solver.tangents(
                known_V,
                _tangent_forcing(ds, dA, stage_U),
                torch.add(known_V, rates[-1][1], alpha=w) if rates else known_V,
            )
        rates.append(((stage_U - known_U).div_(w), (stage_V - known_V).div_(w)))
    return stage_U, stage_V, rates[-1]


def _known_stage_terms(
    start: Tensor, row: Sequence[float], rates: Sequence[Tensor], dt: float
) -> Tensor:
    """What earlier stages leave for this one."""
    known = start.clone()
    for a, k in zip(row, rates, strict=False):
        known.add_(k, alpha=dt * a)
    return known


def _initial_rate(
    solver: _LinearStageSolver,
    source: Source,
    dA: PoolOperator | None,
    U: Tensor,
    V: Tensor,
    t0: float,
) -> tuple[Tensor, Tensor]:
    s, ds = source(t0)
    k = (s - solver.operator(U)) / solver.capacity
    if dA is None or ds is None:
        return k, torch.zeros_like(V)
    slope = solver.operator(V.to(U.dtype)).to(V.dtype)
    return k, (_tangent_forcing(ds, dA, U) - slope) / solver.tangent_capacity


def _tangent_forcing(ds: Tensor | None, dA: PoolOperator, U: Tensor) -> Tensor:
    """What drives tangents, ``ds - dA U``, in the precision of dA."""
    low = dA.transport.before[0].dtype
    moved = dA(U.to(low)).neg_()
    return moved if ds is None else moved.add_(ds)
