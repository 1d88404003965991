"""Pools over given time nodes, with exact tangents from the same matrices.

    capacity dU/dt = -A U - z(U) + s(t)

z are saturable transfers, if there are any; without them the pools are linear. The responses to
many sources at once, and the temperature of Pennes' equation, are such pools.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.physics.heat import TemperatureCourse, TemperatureSegment, bioheat_coefficients
from nanopinn.physics.pools import Entries, SaturableTransfer
from nanopinn.solvers.fluxes import SPACE
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.implicit_stage import KrylovStageSolver
from nanopinn.solvers.integrate import AcceptedStep, integrate
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.operator import Interval, PoolMassBalance, PoolOperator
from nanopinn.solvers.runge_kutta import TR_BDF2, BufferPool, Scheme, StageEquations, State

#: Linear solves of tangents stop at this many times the tolerance of the pools: tangents only
#: determine the search direction.
TANGENT_TOLERANCE_FACTOR = 100.0
#: Largest number of Newton iterations of a stage with saturable transfers.
MAX_NEWTON_ITERATIONS = 30
#: From this relative residual on tangents are integrated in single precision, which is exact enough
#: and moves half the memory.
SINGLE_PRECISION_TOLERANCE = 5e-6

#: ``source(t)`` gives ``s`` of shape (pool, x, y, z) and its tangents (m, pool, x, y, z) or None.
SourceTerm = Callable[[float], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Trajectory:
    """Pools at time nodes, and the cost of computing them.

    Attributes:
        times: ``(n,)`` s.
        U: ``(n, pool, x, y, z)``.
        tangents: at the nodes where they were kept, the last always among them, ``(k, m, pool, x,
            y, z)``, or None.
        iterations: Krylov iterations in all.
        scheme: name of the Runge-Kutta method.
        balance: mass balance of the pools.
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
    """Join trajectories of which each began where the last one ended.

    The tangents are left out, because a trajectory does not store the nodes at which they were
    kept.
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


@dataclass(frozen=True)
class SaturableTerms:
    """Saturable transfers between pools, and their derivatives by the parameters.

    Attributes:
        transfers: at the parameters.
        moved: the transfers with a small step of each parameter, None where it does not change
            them.
        step: of a parameter.
    """

    transfers: tuple[SaturableTransfer, ...] = ()
    moved: tuple[tuple[SaturableTransfer, ...] | None, ...] = ()
    step: float = 1e-4

    def add_rates(self, out: Tensor, U: Tensor) -> Tensor:
        """Add the transfers at U to the rates in ``out``, in place."""
        return _add_transfers(out, self.transfers, U)

    def tangent_forcing(self, forcing: Tensor, U: Tensor) -> Tensor:
        """Add the derivatives of the transfers at fixed U to ``(m, pool, x, y, z)``, in place."""
        for total, moved in zip(forcing, self.moved, strict=False):
            if moved is not None:
                change = _add_transfers(torch.zeros_like(U), moved, U)
                change -= _add_transfers(torch.zeros_like(U), self.transfers, U)
                total += (change / self.step).to(total.dtype)
        return forcing


def _add_transfers(out: Tensor, transfers: tuple[SaturableTransfer, ...], U: Tensor) -> Tensor:
    for k in transfers:
        z = k.rate(U)
        out[..., k.outside, :, :, :].sub_(z)
        out[..., k.inside, :, :, :].add_(z)
    return out


class _FixedStepEquations(StageEquations):
    """Stages of pools ``(U,)``, or of pools and their tangents ``(U, V)``.

    Tangents obey ``capacity dV/dt = -J(U) V + ds - dA U``; their precision is that of V. With
    saturable transfers the stages of U are solved by Newton's method, and J is A with the
    derivatives of the transfers.
    """

    def __init__(
        self,
        operator: PoolOperator,
        capacity: Tensor,
        source: SourceTerm,
        times: Sequence[float],
        tol: float,
        dA: PoolOperator | None = None,
        *,
        saturable: SaturableTerms = SaturableTerms(),
        balanced: bool = True,
    ) -> None:
        self.start, self.end = times[0], times[-1]
        self.buffers = BufferPool()
        self.operator, self.capacity, self.source = operator, capacity, source
        self.tol, self.dA, self.balanced = tol, dA, balanced
        self.saturable = saturable
        self.w, self.iterations = 0.0, 0
        self.stage: KrylovStageSolver | None = None
        self.tangent_stage: KrylovStageSolver | None = None
        self.tangent_operator, self.tangent_capacity = operator, capacity
        if dA is not None:
            dtype = dA.transport.before[0].dtype
            self.tangent_operator = operator.to(dtype)
            self.tangent_capacity = capacity.to(dtype)
        self._last: tuple[float, Tensor, Tensor | None] | None = None

    def _source_at(self, t: float) -> tuple[Tensor, Tensor | None]:
        """The source, that of the same time evaluated once: a step begins where the last ended."""
        if self._last is None or abs(self._last[0] - t) > 1e-9 * max(1.0, abs(t)):
            self._last = (t, *self.source(t))
        return self._last[1:]

    def rate(self, t: float, y: State) -> State:
        s, ds = self._source_at(t)
        k = self.saturable.add_rates(s - self.operator(y[0]), y[0]) / self.capacity
        if self.dA is None:
            return (k,)
        forcing = self._tangent_forcing(ds, y[0])
        V = y[1].to(y[0].dtype)
        slope = self.operator(V)
        for transfer in self.saturable.transfers:
            into, back = transfer.rate_derivatives(y[0])
            z = into * V[:, transfer.outside] - back * V[:, transfer.inside]
            slope[:, transfer.outside] += z
            slope[:, transfer.inside] -= z
        return k, (forcing - slope.to(y[1].dtype)) / self.tangent_capacity

    def prepare_step(self, t: float, y: State, w: float) -> float:
        """Steps of equal size share a matrix."""
        if self.stage is not None and abs(self.w - w) <= 1e-9 * self.w:
            return self.w
        self.w = w
        if not self.saturable.transfers:
            self._update_matrices(self.operator.nonzero_reaction)
        return w

    def _update_matrices(self, reaction: Entries) -> None:
        """Matrices of the stages of this step, for pools and for tangents."""
        low = self.tangent_capacity.dtype
        reduced = {pq: m.to(low) for pq, m in reaction.items()}
        if self.stage is None or self.tangent_stage is None:
            self.stage = KrylovStageSolver(self.operator, self.capacity, self.w, reaction)
            self.tangent_stage = self.stage
            if self.tangent_operator is not self.operator:
                self.tangent_stage = KrylovStageSolver(
                    self.tangent_operator, self.tangent_capacity, self.w, reduced
                )
            return
        self.stage.update_matrix(self.w, reaction)
        if self.tangent_stage is not self.stage:
            self.tangent_stage.update_matrix(self.w, reduced)

    def solve_stage(
        self, stage: int, t: float, w: float, known: State, rate: State | None
    ) -> State:
        s, ds = self._source_at(t)
        right = torch.mul(self.capacity, known[0], out=self.buffers.acquire(known[0]))
        right.add_(s, alpha=w)
        if self.saturable.transfers:
            U = self._solve_newton(right, known, rate, t)
        else:
            assert self.stage is not None
            U = self._solve(self.stage, right, known, rate, 0, self.tol)
        if self.dA is None:
            return (U,)
        assert self.tangent_stage is not None
        right = torch.mul(self.tangent_capacity, known[1], out=self.buffers.acquire(known[1]))
        right.add_(self._tangent_forcing(ds, U), alpha=w)
        tol = TANGENT_TOLERANCE_FACTOR * self.tol
        return U, self._solve(self.tangent_stage, right, known, rate, 1, tol)

    def _solve_newton(self, right: Tensor, known: State, rate: State | None, t: float) -> Tensor:
        """Newton's method on ``capacity U + w (A U + z(U)) = right``; the last matrix remains."""
        U = known[0].clone() if rate is None else known[0] + self.w * rate[0]
        goal = self.tol * float(right.norm())
        for _ in range(MAX_NEWTON_ITERATIONS):
            self._update_matrices(_with_transfers(self.operator, self.saturable.transfers, U))
            assert self.stage is not None
            change = self.saturable.add_rates(-self.operator(U), U)
            residual = (right - self.capacity * U).add_(change, alpha=self.w)
            size = float(residual.norm())
            if size <= goal:
                self.buffers.release((right,))
                return U
            step, iterations = self.stage.solve(residual, tol=max(1e-3, 0.3 * goal / size))
            U, self.iterations = U + step, self.iterations + iterations
        raise SolverError(f"Newton's method did not converge at {t:.6g} s")

    def _solve(
        self,
        solver: KrylovStageSolver,
        right: Tensor,
        known: State,
        rate: State | None,
        part: int,
        tol: float,
    ) -> Tensor:
        """The solution in the place of the right-hand side, from the rate of the stage before."""
        guess = known[part]
        if rate is not None:
            guess = torch.add(
                known[part], rate[part], alpha=self.w, out=self.buffers.acquire(known[part])
            )
        found, iterations = solver.solve(right, guess, tol=tol, overwrite=True)
        if rate is not None:
            self.buffers.release((guess,))
        self.iterations += iterations
        return found

    def _tangent_forcing(self, ds: Tensor | None, U: Tensor) -> Tensor:
        """Right-hand side of the tangent equation, ``ds - dA U``, in the precision of dA."""
        assert self.dA is not None
        low = self.dA.transport.before[0].dtype
        moved = self.dA(U.to(low)).neg_()
        forcing = moved if ds is None else moved.add_(ds)
        return self.saturable.tangent_forcing(forcing, U)

    def integrands(self, t: float, y: State) -> State:
        """The source and the pools, of which mass balance takes the integrals over time."""
        return (self._source_at(t)[0], y[0]) if self.balanced else ()


def _with_transfers(
    operator: PoolOperator, transfers: tuple[SaturableTransfer, ...], U: Tensor
) -> Entries:
    """Reaction of the operator with the transfers linearised about U."""
    interval = Interval(0.0, 1.0, operator, U, lambda t: U, transfers)
    return interval.linearised_reaction(U)


def integrate_fixed_steps(
    operator: PoolOperator,
    capacity: Tensor,
    source: SourceTerm,
    times: Sequence[float],
    *,
    scheme: Scheme = TR_BDF2,
    tangent_operators: Sequence[PoolOperator] = (),
    tol: float = 1e-10,
    initial_state: tuple[Tensor, Tensor | None] | None = None,
    tangents_at: Collection[int] | None = None,
    saturable: SaturableTerms = SaturableTerms(),
) -> Trajectory:
    """Integrate pools from ``times[0]`` through every later node.

    Args:
        operator: A of the pools.
        capacity: ``(pool, x, y, z)``.
        source: s(t) and its tangents.
        times: nodes, increasing, s; equal steps share one matrix.
        scheme: the Runge-Kutta method.
        tangent_operators: dA/dtheta_j for each parameter; empty for no tangents.
        tol: relative residual of each linear solve; tangents are solved to
            :data:`TANGENT_TOLERANCE_FACTOR` of it, and where that is
            :data:`SINGLE_PRECISION_TOLERANCE` or more, in single precision.
        initial_state: pools and tangents at the first node; zero if None.
        tangents_at: indices of the nodes at which tangents are kept, beside the last; None: all.
        saturable: transfers that are not linear in the pools.

    Raises:
        SolverError: a linear solve or Newton's method failed.
    """
    m = len(tangent_operators)
    single = TANGENT_TOLERANCE_FACTOR * tol >= SINGLE_PRECISION_TOLERANCE
    dtype = torch.float32 if single else capacity.dtype
    dA = PoolOperator.stack(tangent_operators).to(dtype) if m else None
    U, V = (None, None) if initial_state is None else initial_state
    U = torch.zeros_like(capacity) if U is None else U
    if m:
        V = capacity.new_zeros((m, *capacity.shape), dtype=dtype) if V is None else V.to(dtype)
    kept = range(len(times)) if tangents_at is None else {*tangents_at, len(times) - 1}
    every_U, every_V = [U], [V] if V is not None and 0 in kept else []

    def record(step: AcceptedStep) -> None:
        every_U.append(step.state[0])
        if m and len(every_U) - 1 in kept:
            every_V.append(step.state[1])

    equations = _FixedStepEquations(operator, capacity, source, times, tol, dA, saturable=saturable)
    start = (U, V) if m and V is not None else (U,)
    run = integrate([equations], start, record, scheme=scheme, marks=times, controller=None)
    # what is lost and what crosses the boundary is linear in the pools
    source_integral, pool_integral = run.integrals
    balance = PoolMassBalance(
        source_integral.sum(dim=SPACE),
        operator.loss_rate(pool_integral),
        operator.boundary_outflow(pool_integral),
        (capacity * (run.state[0] - U)).sum(dim=SPACE),
    )
    return Trajectory(
        torch.tensor(list(times), dtype=capacity.dtype),
        torch.stack(every_U),
        torch.stack(every_V) if m else None,
        equations.iterations,
        scheme.name,
        balance,
    )


def solve_responses(
    operator: PoolOperator,
    capacity: Tensor,
    source: Callable[[float], Tensor],
    times: Sequence[float],
    keep: Sequence[int],
    *,
    scheme: Scheme = TR_BDF2,
    tol: float = 3e-6,
) -> Tensor:
    """Responses of linear pools to many sources, from zero at ``times[0]``, with one matrix.

    Args:
        operator: A; its inflow is not used.
        capacity: ``(pool, x, y, z)``.
        source: of each of m responses, ``(m, pool, x, y, z)``.
        times: nodes, s.
        keep: indices of the nodes that are returned, increasing.
        scheme: the Runge-Kutta method.
        tol: relative residual of each solve.

    Returns:
        The pools at the nodes kept, ``(n, m, pool, x, y, z)``.
    """
    V = torch.zeros_like(source(times[0]))
    found = {0: V} if 0 in keep else {}
    number = itertools.count(1)

    def record(step: AcceptedStep) -> None:
        if (i := next(number)) in keep:
            found[i] = step.state[0]

    equations = _FixedStepEquations(
        operator, capacity, lambda t: (source(t), None), times, tol, balanced=False
    )
    integrate([equations], (V,), record, scheme=scheme, marks=times, controller=None)
    return torch.stack([found[i] for i in keep])


def solve_bioheat(
    tumour: Tensor,
    grid: Grid,
    power: Callable[[float], Tensor],
    times_s: Sequence[float],
    scheme: Scheme = TR_BDF2,
) -> TemperatureCourse:
    """Temperature of the tissue by Pennes' bioheat equation, from body temperature at the start.

    No heat crosses the boundary of the box.

    Args:
        tumour: 1 in the tumour, 0 in normal tissue, ``(x, y, z)``.
        grid: of the maps.
        power: Q at a time, W/m3, ``(x, y, z)``.
        times_s: time nodes, s; the course is linear between them.
        scheme: the Runge-Kutta method.
    """
    pool = bioheat_coefficients(tumour)
    operator = PoolOperator.from_pools(pool, _zero_face_flows(tumour), grid)
    run = integrate_fixed_steps(
        operator,
        pool.capacity,
        lambda t: (operator.plasma_source(power(t)[None]), None),
        list(times_s),
        scheme=scheme,
    )
    maps = value("T_body") + run.U[:, 0]
    pairs = itertools.pairwise(zip(times_s, maps, strict=True))
    return TemperatureCourse(
        torch.full_like(tumour, value("T_body")),
        tuple(TemperatureSegment(t0, t1, a, b) for (t0, a), (t1, b) in pairs),
    )


def _zero_face_flows(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Face flows of a fluid at rest: perfusion carries heat in Pennes' equation, interstitial fluid
    does not.
    """
    nx, ny, nz = like.shape
    return (
        like.new_zeros((nx + 1, ny, nz)),
        like.new_zeros((nx, ny + 1, nz)),
        like.new_zeros((nx, ny, nz + 1)),
    )
