"""Implicit Runge-Kutta march of linear pools, with exact tangents from the same matrices.

    capacity dU/dt = -A U + s(t)

Both schemes are L-stable and stiffly accurate with one diagonal coefficient, so that every stage of a
step shares its matrix: TR-BDF2 (order 2; Hosea and Shampine 1996), which fits use, and the three-stage
SDIRK of order 3 (Alexander 1977), which checks and phantoms use.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.solvers.fluxes import PoolOperator, add_products, nonzero_pairs
from nanopinn.solvers.linear import bicgstab


@dataclass(frozen=True)
class Scheme:
    """Butcher tableau of a stiffly accurate DIRK method; ``explicit_first`` marks a first stage at t_n."""

    name: str
    order: int
    gamma: float
    a: tuple[tuple[float, ...], ...]
    explicit_first: bool

    @property
    def nodes(self) -> tuple[float, ...]:
        """Times of the stages as fractions of the step."""
        return tuple(sum(row) for row in self.a)


def _tr_bdf2() -> Scheme:
    g = 1 - 2**-0.5
    w = 2**0.5 / 4
    return Scheme("TR-BDF2", 2, g, ((0.0,), (g, g), (w, w, g)), explicit_first=True)


def _sdirk3() -> Scheme:
    g = 0.4358665215084590
    b1 = -1.5 * g**2 + 4 * g - 0.25
    b2 = 1.5 * g**2 - 5 * g + 1.25
    return Scheme("SDIRK3", 3, g, ((g,), ((1 - g) / 2, g), (b1, b2, g)), explicit_first=False)


TR_BDF2, SDIRK3 = _tr_bdf2(), _sdirk3()

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


@dataclass(frozen=True)
class Balance:
    """Totals over pools, cells and time, per cell volume: ``entered = reacted + outflow + stored``.

    ``reacted`` is what left by walls, lymph and decay; ``outflow`` what crossed the boundary of the box.
    """

    entered: float
    reacted: float
    outflow: float
    stored: float

    @property
    def error(self) -> float:
        """Imbalance over the larger of what entered and what was exchanged."""
        gap = self.entered - self.reacted - self.outflow - self.stored
        return abs(gap) / max(abs(self.entered), abs(self.reacted), abs(self.stored), 1e-300)


def _balance(totals: Tensor, stored: float) -> Balance:
    entered, reacted, outflow = totals.tolist()
    return Balance(entered, reacted, outflow, stored)


class _StageSolver:
    """``(capacity + w A) U = b`` for one step size.

    Pools that do not move are eliminated cell by cell, so that the Krylov solver only sees those that do;
    it is preconditioned with the exact inverse of what is local to a cell.
    """

    def __init__(self, operator: PoolOperator, capacity: Tensor, w: float, tol: float) -> None:
        self.operator, self.capacity, self.w, self.tol = operator, capacity, w, tol
        self.iterations = 0
        self.moving, self.still = list(operator.mobile), [p for p in range(len(capacity)) if p not in operator.mobile]
        local = (w * operator.reaction).movedim((0, 1), (-2, -1)).contiguous()
        local = local + torch.diag_embed((capacity + w * operator.diagonal).movedim(0, -1))
        mm, ms, sm, ss = (local[..., rows, :][..., columns] for rows in (self.moving, self.still) for columns in (self.moving, self.still))
        # with nothing that stays, these are empty and change nothing
        self.settle = _Local(torch.linalg.inv(ss))
        self.feed, self.return_ = _Local(sm), _Local(ms)
        reduced = mm - ms @ torch.linalg.inv(ss) @ sm
        self.local, self.inverse = _Local(reduced), _Local(torch.linalg.inv(reduced))
        self.transport = operator.only(self.moving)

    def matrix(self, U: Tensor) -> Tensor:
        """The moving pools' equation, the others eliminated."""
        return self.transport.subtract_neighbours(self.local(U), U, self.w)

    def exchange(self, U: Tensor, s: Tensor) -> Tensor:
        """Rates at which mass enters by the source, reacts away, and crosses the boundary, summed."""
        return torch.stack([s.sum(), self.operator.react(U).sum(), self.operator.boundary_outflow(U).sum()])

    def __call__(self, b: Tensor, start: Tensor) -> Tensor:
        lead = b.dim() - 4
        tol = self.tol if lead == 0 else 100 * self.tol  # tangents steer, they are not the answer
        b_moving, b_still = b[..., self.moving, :, :, :], b[..., self.still, :, :, :]
        right = b_moving - self.return_(self.settle(b_still))
        solution = bicgstab(self.matrix, right, self.inverse, start[..., self.moving, :, :, :], tol=tol, lead=lead)
        self.iterations += solution.iterations
        out = torch.empty_like(b)
        out[..., self.moving, :, :, :] = solution.x
        out[..., self.still, :, :, :] = self.settle(b_still - self.feed(solution.x))
        return out


class _Local:
    """A matrix over pools in every cell, given as ``(x, y, z, row, column)``."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix.movedim((-2, -1), (0, 1)).contiguous()
        self.pairs = nonzero_pairs(self.matrix)

    def __call__(self, U: Tensor) -> Tensor:
        out = U.new_zeros((*U.shape[:-4], self.matrix.shape[0], *U.shape[-3:]))
        return add_products(out, self.matrix, U, self.pairs)


def march(
    operator: PoolOperator, capacity: Tensor, source: Source, times: Sequence[float], *, scheme: Scheme = TR_BDF2,
    tangent_operators: Sequence[PoolOperator] = (), tol: float = 1e-9,
) -> Trajectory:  # fmt: skip
    """March from zero at ``times[0]`` through every later node.

    Args:
        operator: A of the pools.
        capacity: ``(pool, x, y, z)``.
        source: s(t) and its tangents.
        times: nodes, increasing, s; equal steps share one matrix.
        tangent_operators: dA/dtheta_j for each parameter; empty for no tangents.
        tol: relative residual of each linear solve.

    Raises:
        SolverError: a linear solve failed.
    """
    m = len(tangent_operators)
    stacked = _stack(tangent_operators) if m else None
    U = torch.zeros_like(capacity)
    V = torch.zeros((m, *capacity.shape), dtype=capacity.dtype, device=capacity.device)
    out_U, out_V = [U], [V]
    rate: tuple[Tensor, Tensor] | None = None
    solver: _StageSolver | None = None
    iterations = 0
    totals = torch.zeros(3, dtype=capacity.dtype, device=capacity.device)
    for t0, t1 in itertools.pairwise(times):
        dt = t1 - t0
        if solver is None or abs(solver.w - scheme.gamma * dt) > 1e-9 * solver.w:
            iterations += solver.iterations if solver else 0
            solver = _StageSolver(operator, capacity, scheme.gamma * dt, tol)
        U, V, rate, exchanged = _step(solver, scheme, source, stacked, U, V, rate, t0, dt)
        totals = totals + exchanged
        out_U.append(U)
        out_V.append(V)
    iterations += solver.iterations if solver else 0
    return Trajectory(
        torch.tensor(list(times), dtype=capacity.dtype), torch.stack(out_U), torch.stack(out_V) if m else None,
        iterations, scheme.name, _balance(totals, float((capacity * U).sum())),
    )  # fmt: skip


def _step(
    solver: _StageSolver, scheme: Scheme, source: Source, dA: PoolOperator | None, U: Tensor, V: Tensor,
    rate: tuple[Tensor, Tensor] | None, t0: float, dt: float,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:  # fmt: skip
    w = solver.w
    rates: list[tuple[Tensor, Tensor]] = []
    exchanged = torch.zeros(3, dtype=U.dtype, device=U.device)
    for i, (row, c, weight) in enumerate(zip(scheme.a, scheme.nodes, scheme.a[-1], strict=True)):
        s, ds = source(t0 + c * dt)
        if i == 0 and scheme.explicit_first:
            rates.append(rate if rate is not None else _initial_rate(solver, source, dA, U, V, t0))
            exchanged = exchanged + dt * weight * solver.exchange(U, s)
            continue
        known_U = U + dt * sum(a * k[0] for a, k in zip(row[:i], rates, strict=True)) if i else U
        known_V = V + dt * sum(a * k[1] for a, k in zip(row[:i], rates, strict=True)) if i else V
        stage_U = solver(solver.capacity * known_U + w * s, known_U)
        stage_V = known_V
        if dA is not None:
            forcing = -dA(stage_U) if ds is None else ds - dA(stage_U)
            stage_V = solver(solver.capacity * known_V + w * forcing, known_V)
        rates.append(((stage_U - known_U) / w, (stage_V - known_V) / w))
        exchanged = exchanged + dt * weight * solver.exchange(stage_U, s)
    return stage_U, stage_V, rates[-1], exchanged


def _initial_rate(solver: _StageSolver, source: Source, dA: PoolOperator | None, U: Tensor, V: Tensor, t0: float) -> tuple[Tensor, Tensor]:
    s, ds = source(t0)
    k = (s - solver.operator(U)) / solver.capacity
    if dA is None or ds is None:
        return k, torch.zeros_like(V)
    return k, (ds - dA(U) - solver.operator(V)) / solver.capacity


def _stack(operators: Sequence[PoolOperator]) -> PoolOperator:
    return PoolOperator.from_tensors(tuple(torch.stack(ts) for ts in zip(*(op.tensors() for op in operators), strict=True)))
