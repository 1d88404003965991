"""Linear pools over given time nodes, with exact tangents from the same matrices.

    capacity dU/dt = -A U + s(t)

The responses to many sources at once, and the temperature of Pennes' equation, are such pools.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.physics.heat import TemperatureCourse, TemperatureSegment, bioheat_coefficients
from nanopinn.solvers.fluxes import SPACE
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.implicit_stage import KrylovStageSolver
from nanopinn.solvers.integrate import AcceptedStep, integrate
from nanopinn.solvers.operator import PoolMassBalance, PoolOperator
from nanopinn.solvers.runge_kutta import TR_BDF2, BufferPool, Scheme, StageEquations, State

#: Linear solves of tangents stop at this many times the tolerance of the pools: tangents only
#: determine the search direction.
TANGENT_TOLERANCE_FACTOR = 100.0
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


class _LinearPoolEquations(StageEquations):
    """Stages of linear pools ``(U,)``, or of pools and their tangents ``(U, V)``.

    Tangents obey ``capacity dV/dt = -A V + ds - dA U``; their precision is that of V.
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
        balanced: bool = True,
    ) -> None:
        self.start, self.end = times[0], times[-1]
        self.buffers = BufferPool()
        self.operator, self.capacity, self.source = operator, capacity, source
        self.tol, self.dA, self.balanced = tol, dA, balanced
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
        k = (s - self.operator(y[0])) / self.capacity
        if self.dA is None:
            return (k,)
        forcing = _tangent_forcing(ds, self.dA, y[0])
        slope = self.operator(y[1].to(y[0].dtype)).to(y[1].dtype)
        return k, (forcing - slope) / self.tangent_capacity

    def prepare_step(self, t: float, y: State, w: float) -> float:
        """Steps of equal size share a matrix."""
        if self.stage is None:
            self.stage = self.tangent_stage = KrylovStageSolver(self.operator, self.capacity, w)
            if self.tangent_operator is not self.operator:
                self.tangent_stage = KrylovStageSolver(
                    self.tangent_operator, self.tangent_capacity, w
                )
        elif abs(self.w - w) <= 1e-9 * self.w:
            return self.w
        else:
            self.stage.update_matrix(w, self.operator.nonzero_reaction)
            if self.tangent_stage is not None and self.tangent_stage is not self.stage:
                self.tangent_stage.update_matrix(w, self.tangent_operator.nonzero_reaction)
        self.w = w
        return w

    def solve_stage(
        self, stage: int, t: float, w: float, known: State, rate: State | None
    ) -> State:
        assert self.stage is not None
        assert self.tangent_stage is not None
        s, ds = self._source_at(t)
        right = torch.mul(self.capacity, known[0], out=self.buffers.acquire(known[0]))
        right.add_(s, alpha=w)
        U = self._solve(self.stage, right, known, rate, 0, self.tol)
        if self.dA is None:
            return (U,)
        right = torch.mul(self.tangent_capacity, known[1], out=self.buffers.acquire(known[1]))
        right.add_(_tangent_forcing(ds, self.dA, U), alpha=w)
        tol = TANGENT_TOLERANCE_FACTOR * self.tol
        return U, self._solve(self.tangent_stage, right, known, rate, 1, tol)

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

    def integrands(self, t: float, y: State) -> State:
        """The source and the pools, of which mass balance takes the integrals over time."""
        return (self._source_at(t)[0], y[0]) if self.balanced else ()


def _tangent_forcing(ds: Tensor | None, dA: PoolOperator, U: Tensor) -> Tensor:
    """Right-hand side of the tangent equation, ``ds - dA U``, in the precision of dA."""
    low = dA.transport.before[0].dtype
    moved = dA(U.to(low)).neg_()
    return moved if ds is None else moved.add_(ds)


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
) -> Trajectory:
    """Integrate linear pools from ``times[0]`` through every later node.

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

    Raises:
        SolverError: a linear solve failed.
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

    equations = _LinearPoolEquations(operator, capacity, source, times, tol, dA)
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

    equations = _LinearPoolEquations(
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
