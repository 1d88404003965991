"""Systems of ordinary equations, and equations on a line that were cut into cells: implicit,
adaptive, with tangents.

``dy/dt = f(t, y, theta)`` is solved by a stiffly accurate DIRK scheme. Newton's matrix ``I - h
gamma J`` is banded where states couple to neighbours only. Tangents by theta are those of the
discrete solution with its steps frozen: each stage is linear in them, with the same matrix taken at
the stage's own solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dgbtrf, dgbtrs
from torch import Tensor

from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.runge_kutta import TR_BDF2, Scheme

Array = NDArray[np.float64]

#: ``f(t, y, theta)`` of a time (s), states ``(n,)`` and coordinates ``(m,)``.
RateFunction = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Newton stops at this share of the error that a step may make.
NEWTON_TOLERANCE_FRACTION = 1e-3
MAX_NEWTON_ITERATIONS, MAX_STEPS = 12, 100_000


class OdeSystem:
    """A rate with its derivatives at one parameter vector.

    Args:
        rate: made of torch's functions; states do not branch in it.
        theta: ``(m,)``.
        states: n.
        band: how far from the diagonal its Jacobian reaches; None where every state may touch every
            other.
    """

    def __init__(
        self, rate: RateFunction, theta: Tensor, states: int, band: int | None = None
    ) -> None:
        self.rate, self.theta = rate, theta
        self.band = states - 1 if band is None else min(band, states - 1)
        colours = min(2 * self.band + 1, states)
        offsets = np.arange(-self.band, self.band + 1)
        rows, columns = np.meshgrid(np.arange(states), offsets, indexing="ij")
        columns = rows + columns
        inside = (columns >= 0) & (columns < states)
        self._rows, self._columns = rows[inside], columns[inside]
        self._colours = self._columns % colours
        self._state_seeds = torch.zeros((colours, states), dtype=torch.float64)
        self._state_seeds[torch.arange(states) % colours, torch.arange(states)] = 1.0
        self._theta_seeds = torch.eye(len(theta), dtype=torch.float64)

    def __call__(self, t: float, y: Array) -> Array:
        with torch.no_grad():
            found = self.rate(
                torch.tensor(t, dtype=torch.float64), torch.from_numpy(y), self.theta
            ).numpy()
        if not np.isfinite(found).all():
            raise SolverError(f"the rate is not finite at t = {t:g}")
        return found

    def derivatives(self, t: float, y: Array, *, by_theta: bool) -> tuple[Array, Array]:
        """Entries of ``df/dy`` in the order of :meth:`factorised`, and ``df/dtheta`` ``(n, m)``
        (empty if not asked for).
        """
        found = np.stack(
            list(
                self._directional_derivatives(
                    t, y, self._theta_seeds if by_theta else self._theta_seeds[:0]
                )
            )
        )
        return found[self._colours, self._rows], found[len(self._state_seeds) :].T

    def _directional_derivatives(self, t: float, y: Array, theta_seeds: Tensor) -> Iterator[Array]:
        """Derivatives of the rate along every colour of states, then along unknowns.

        The product with the transposed Jacobian is linear in its vector ``v``; its own derivative
        by ``v`` is the product with the Jacobian. Both are plain backward passes: for systems this
        small torch.func costs ten times as much.
        """
        at, theta = (
            torch.from_numpy(y).requires_grad_(),
            self.theta.detach().clone().requires_grad_(),
        )
        with torch.enable_grad():
            out = self.rate(torch.tensor(t, dtype=torch.float64), at, theta)
            v = torch.zeros_like(out, requires_grad=True)
            back = torch.autograd.grad(
                out, (at, theta), v, create_graph=True, allow_unused=True, materialize_grads=True
            )
        for transposed, seeds in zip(back, (self._state_seeds, theta_seeds), strict=True):
            for seed in seeds:
                if transposed.requires_grad:
                    (along,) = torch.autograd.grad(
                        transposed,
                        v,
                        seed,
                        retain_graph=True,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                    yield along.numpy()
                else:
                    yield np.zeros(len(y))

    def factorise_newton_matrix(self, w: float, entries: Array) -> BandedLU:
        """``I - w J`` in factors."""
        b, n = self.band, self._state_seeds.shape[1]
        matrix = np.zeros((3 * b + 1, n))
        matrix[2 * b + self._rows - self._columns, self._columns] = -w * entries
        matrix[2 * b] += 1.0
        lu, pivots, info = dgbtrf(matrix, b, b, overwrite_ab=True)
        if info != 0:
            raise SolverError("a time step's matrix is singular")
        return BandedLU(lu, pivots, b)

    @property
    def jacobian_indices(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the entries of ``df/dy``."""
        return self._rows, self._columns

    def times(self, entries: Array, directions: Array) -> Array:
        """``J`` times directions ``(n, m)``."""
        out = np.zeros_like(directions)
        np.add.at(out, self._rows, entries[:, None] * directions[self._columns])
        return out


@dataclass(frozen=True)
class BandedLU:
    """LU factors of a banded matrix."""

    lu: Array
    pivots: NDArray[np.int32]
    band: int

    def solve(self, right: Array) -> Array:
        """The solution for one right-hand side ``(n,)`` or several ``(n, k)``."""
        x, info = dgbtrs(self.lu, self.band, self.band, right, self.pivots)
        if info != 0:
            raise SolverError("a time step's matrix cannot be solved")
        return np.asarray(x, dtype=np.float64)


@dataclass(frozen=True)
class OdeSolution:
    """States at the times asked for.

    Attributes:
        times: ``(k,)``. states: ``(k, n)``. tangents: ``(k, n, m)``, None where not asked for.
        nodes: ends of the steps, which a later run may be told to take again.
        evaluations: of the rate.
    """

    times: Array
    states: Array
    tangents: Array | None
    nodes: Array = field(repr=False)
    evaluations: int


@dataclass(frozen=True)
class ErrorTolerance:
    """Error that a step may make: ``tolerance (scale + |y|)`` in the root mean square over states.

    Attributes:
        scale: size of each state ``(n,)`` below which its relative error does not matter.
    """

    tolerance: float
    scale: Array

    def norm(self, error: Array, y: Array) -> float:
        """Error over what is allowed."""
        return float(np.sqrt(np.mean((error / (self.tolerance * (self.scale + np.abs(y)))) ** 2)))


@dataclass(frozen=True)
class _Node:
    """A state and its rate at a node, each with tangents (or with none, ``(n, 0)``)."""

    t: float
    y: Array
    f: Array
    dy: Array
    df: Array


def integrate_ode(
    system: OdeSystem,
    start: float,
    initial: Array,
    d_initial: Array,
    times: Array,
    accuracy: ErrorTolerance,
    *,
    tangents: bool = False,
    events: Sequence[float] = (),
    nodes: Array | None = None,
    scheme: Scheme = TR_BDF2,
) -> OdeSolution:
    """Solve from ``start`` to the last of ``times``.

    Args:
        initial: ``(n,)``. d_initial: its tangents ``(n, m)``.
        times: increasing, none before ``start``; states between steps are cubic Hermite
            interpolants.
        events: times at which the rate jumps; steps end there.
        nodes: steps to take, in place of those that the error asks for.
        scheme: stiffly accurate; without ``nodes`` it needs an embedded error.

    Raises:
        SolverError: steps became too small, or a matrix is singular.
    """
    run = _OdeIntegrator(system, accuracy, scheme, tangents, float(times[-1]) - start)
    ends = [*sorted(e for e in events if start < e < times[-1]), float(times[-1])]
    out = _DenseOutput(times, len(initial), d_initial.shape[1] if tangents else 0)
    d = d_initial if tangents else d_initial[:, :0]
    visited = [start]
    y, left = initial, start
    for right in ends:
        run.left, run.right = left, right
        point = run.point(left, y, d)
        out.record_at(left, y, d)
        planned = None if nodes is None else nodes[(nodes > left) & (nodes <= right)]
        for after in run.steps(point, planned):
            out.record_between(point, after)
            point = after
            visited.append(point.t)
        left, y, d = right, point.y, point.dy
    return OdeSolution(
        times, out.y, out.dy if tangents else None, np.array(visited), run.evaluations
    )


class _DenseOutput:
    """What was asked for, filled in as steps go by."""

    def __init__(self, times: Array, n: int, m: int) -> None:
        self.times = times
        self.y, self.dy = np.zeros((len(times), n)), np.zeros((len(times), n, m))

    def record_at(self, t: float, y: Array, dy: Array) -> None:
        at = self.times == t
        self.y[at], self.dy[at] = y, dy

    def record_between(self, a: _Node, b: _Node) -> None:
        """Cubic Hermite between two nodes; its derivative by theta is that of its ingredients."""
        first, last = np.searchsorted(self.times, (a.t, b.t), side="right")
        if first == last:
            return
        h = b.t - a.t
        s = ((self.times[first:last] - a.t) / h)[:, None]
        weights = (
            (1 + 2 * s) * (1 - s) ** 2,
            s**2 * (3 - 2 * s),
            h * s * (1 - s) ** 2,
            -h * s**2 * (1 - s),
        )
        self.y[first:last] = sum(w * v for w, v in zip(weights, (a.y, b.y, a.f, b.f), strict=True))
        if self.dy.shape[2]:
            self.dy[first:last] = sum(
                w[..., None] * v for w, v in zip(weights, (a.dy, b.dy, a.df, b.df), strict=True)
            )


class _OdeIntegrator:
    """The march between two events."""

    def __init__(
        self,
        system: OdeSystem,
        accuracy: ErrorTolerance,
        scheme: Scheme,
        tangents: bool,
        span: float,
    ) -> None:
        self.system, self.accuracy, self.scheme, self.tangents, self.span = (
            system,
            accuracy,
            scheme,
            tangents,
            span,
        )
        self.left = self.right = 0.0
        self.evaluations = 0

    def rate(self, t: float, y: Array) -> Array:
        self.evaluations += 1
        return self.system(self._clip_inside_interval(t), y)

    def _clip_inside_interval(self, t: float) -> float:
        """A time a hair within the interval: at its ends the rate may jump."""
        hair = 1e-11 * (self.right - self.left)
        return min(max(t, self.left + hair), self.right - hair)

    def point(self, t: float, y: Array, dy: Array) -> _Node:
        """The node at which an interval starts."""
        f = self.rate(t, y)
        if not self.tangents:
            return _Node(t, y, f, dy, dy)
        entries, by_theta = self.system.derivatives(self._clip_inside_interval(t), y, by_theta=True)
        return _Node(t, y, f, dy, self.system.times(entries, dy) + by_theta)

    def first_step(self, point: _Node) -> float:
        """One that moves the state by a hundredth of its size."""
        size = self.accuracy.norm(point.y + self.accuracy.scale, point.y)
        moved = self.accuracy.norm(point.f, point.y)
        return min(0.01 * size / max(moved, 1e-300), 0.01 * self.span)

    def steps(self, point: _Node, planned: Array | None) -> Iterator[_Node]:
        """Nodes one after the other, to the end of the interval."""
        if planned is not None:
            for t in planned:
                point, _ = self.step(point, float(t))
                yield point
            return
        h, order = self.first_step(point), self.scheme.order + 1
        for _ in range(MAX_STEPS):
            left = self.right - point.t
            end = (
                self.right if h > 0.999 * left else point.t + (h if h < 0.5 * left else 0.5 * left)
            )
            try:
                after, error = self.step(point, end)
            except SolverError:
                after, error = (
                    point,
                    1e3,
                )  # Newton did not get there, or a rate that is not finite: a shorter step
            h = (end - point.t) * min(4.0, max(0.1, 0.9 * max(error, 1e-10) ** (-1 / order)))
            if error > 1 or after is point:
                if h < 1e-14 * self.span:
                    raise SolverError(
                        f"steps became too small at t = {point.t:g}: the solution may not exist"
                        " beyond"
                    )
                continue
            point = after
            yield point
            if point.t >= self.right:
                return
        raise SolverError(f"more than {MAX_STEPS} time steps")

    def step(self, point: _Node, end: float) -> tuple[_Node, float]:
        """One step, and its error over what is allowed."""
        scheme, h = self.scheme, end - point.t
        w = h * scheme.gamma
        entries, _ = self.system.derivatives(
            self._clip_inside_interval(point.t), point.y, by_theta=False
        )
        newton = self.system.factorise_newton_matrix(w, entries)
        k, dk = ([point.f], [point.df]) if scheme.explicit_first else ([], [])
        y, dy = point.y, point.dy
        for row, node in list(zip(scheme.a, scheme.nodes, strict=True))[len(k) :]:
            t = point.t + node * h
            base = point.y + h * sum(a * v for a, v in zip(row, k, strict=False))
            y = self.stage(t, base, w, base + w * (k[-1] if k else point.f), newton)
            k.append((y - base) / w)
            if self.tangents:
                d_base = point.dy + h * sum(a * v for a, v in zip(row, dk, strict=False))
                entries, by_theta = self.system.derivatives(
                    self._clip_inside_interval(t), y, by_theta=True
                )
                dy = self.system.factorise_newton_matrix(w, entries).solve(d_base + w * by_theta)
                dk.append((dy - d_base) / w)
        after = _Node(end, y, k[-1], dy, dk[-1] if self.tangents else dy)
        if scheme.error is None:
            return after, 0.0
        error = newton.solve(h * np.tensordot(scheme.error, k, axes=1))
        return after, self.accuracy.norm(error, np.maximum(np.abs(y), np.abs(point.y)))

    def stage(self, t: float, base: Array, w: float, guess: Array, newton: BandedLU) -> Array:
        """``y = base + w f(t, y)`` by Newton with a matrix from the start of the step."""
        y, before = guess, np.inf
        for _ in range(MAX_NEWTON_ITERATIONS):
            change = newton.solve(base + w * self.rate(t, y) - y)
            y = y + change
            size = self.accuracy.norm(change, y)
            if size < NEWTON_TOLERANCE_FRACTION:
                return y
            if size > 2 * before:
                break
            before = size
        raise SolverError(f"Newton's method did not converge at t = {t:g}")
