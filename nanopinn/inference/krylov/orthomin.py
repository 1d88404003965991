"""Truncated Krylov methods for several right-hand sides: conjugate gradients and ORTHOMIN(4).

    v = sum_k c_k h_k,      h_k = P^-1 (f - A sum_{i<k} c_i h_i)

The search direction of iteration k is the preconditioned residual, orthogonalised against the last
directions. ``P`` is the cell-local part of the operator. For the pressure, whose operator is
symmetric, one previous direction suffices (conjugate gradients); the pools keep four (ORTHOMIN(4),
Vinsome 1976). Each coefficient minimises the energy or the residual along its direction, so that no
iteration increases it.

The systems are the linearised finite-volume equations of the fields: around a point the fields are
``u(x, t; theta) = u_0 + sum_j (theta_j - theta_0,j) v_j``, and each ``v_j`` solves one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from nanopinn.inference.device import on_device
from nanopinn.inference.krylov.time_basis import TimeBasis
from nanopinn.physics.flow import FlowCoefficients
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.pressure import pressure_diagonal, pressure_operator

#: Called with an error from which a solution recovered.
EventCallback = Callable[[str], None]


@dataclass(frozen=True)
class KrylovSolution:
    """Solution of a linear system.

    Attributes:
        v: one solution per right-hand side, as ``rhs``.
        residual: over the right-hand side, the largest of all.
        iterations: number of search directions.
    """

    v: Tensor
    residual: float
    iterations: int


@dataclass(frozen=True)
class KrylovSolver:
    """Truncated Krylov method.

    Attributes:
        max_iterations: largest number of search directions.
        tolerance: the solution ends when every residual is below this share of its right-hand side.
        max_restarts: from the last finite solution, where an iteration is not finite.
    """

    max_iterations: int
    tolerance: float = 1e-5
    max_restarts: int = 3

    def solve(self, problem: LinearSystem, on_event: EventCallback) -> KrylovSolution:
        """Solve a linear system.

        Args:
            problem: the system.
            on_event: called with an error from which the solution recovered.

        Raises:
            SolverError: iterations were not finite more often than ``max_restarts``.
        """
        rhs = problem.rhs
        good, r, size = torch.zeros_like(rhs), rhs, problem.norm(rhs).clamp_min(1e-300)
        directions: list[tuple[Tensor, Tensor, Tensor]] = []
        again = 0
        for k in range(self.max_iterations):
            error = float((problem.norm(r) / size).max())
            if error <= self.tolerance:
                return KrylovSolution(good, error, k)
            h, w, t = _orthogonalise(problem, problem.precondition(r), directions)
            c = _dot(t, r)
            v, left = good + c * h, r - c * w
            if bool(torch.isfinite(left).all() & torch.isfinite(v).all()):
                good, r, directions = v, left, [*directions, (h, w, t)][-problem.truncation :]
                continue
            again += 1
            if again > self.max_restarts:
                raise SolverError(
                    f"the Krylov iteration was not finite {again} times, last in iteration {k + 1}"
                )
            on_event(f"iteration {k + 1} was not finite; restarted from the last finite solution")
            r, directions = rhs - problem.apply(good), []
        return KrylovSolution(good, float((problem.norm(r) / size).max()), self.max_iterations)


def solve_in_batches(
    solver: KrylovSolver, problem: LinearSystem, on_event: EventCallback
) -> KrylovSolution:
    """Solve a linear system in as few batches of right-hand sides as the memory allows.

    Where one right-hand side alone exceeds the memory of the device, the CPU solves the system.

    Args:
        solver: of each batch.
        problem: the system.
        on_event: called with an error from which the solution recovered.

    Raises:
        torch.OutOfMemoryError: one right-hand side exceeds the memory of the CPU.
    """
    count = problem.rhs.shape[0]
    home = device_of(problem)
    at_once, device = count, home
    while True:
        try:
            here = problem if device == home else problem.to(device)
            parts = [
                solver.solve(here.slice(i, i + at_once), on_event) for i in range(0, count, at_once)
            ]
            v = torch.cat([p.v for p in parts])
            return KrylovSolution(
                move_to_device(v, home),
                max(p.residual for p in parts),
                max(p.iterations for p in parts),
            )
        except torch.OutOfMemoryError:
            if at_once > 1:
                at_once = -(-at_once // 2)
                on_event(f"out of memory; solving {at_once} of {count} tangents at a time")
            elif device != "cpu":
                at_once, device = count, "cpu"
                on_event("GPU out of memory with a single tangent; solving on the CPU")
            else:
                raise


def device_of(problem: LinearSystem) -> str:
    return str(problem.rhs.device)


def move_to_device(v: Tensor, device: str) -> Tensor:
    return v.to(device)


def _orthogonalise(
    problem: LinearSystem, h: Tensor, directions: list[tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """A search direction orthogonal to the previous ones, its image, and its test vector."""
    w = problem.apply(h)
    for h_k, w_k, t_k in directions:
        shared = _dot(t_k, w)
        h, w = h - shared * h_k, w - shared * w_k
    t = problem.test_vector(h, w)
    size = _dot(t, w).clamp_min(torch.finfo(h.dtype).tiny).sqrt()
    return h / size, w / size, t / size


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1).reshape(-1, *(1,) * (a.dim() - 1))


class LinearSystem(Protocol):
    """``A v_j = rhs_j`` for several j at once, along the first axis."""

    @property
    def truncation(self) -> int:
        """Number of previous directions against which a new one is orthogonalised."""

    @property
    def rhs(self) -> Tensor:
        """Right-hand sides, ``(m, ...)``."""

    def apply(self, v: Tensor) -> Tensor:
        """``A v``."""

    def precondition(self, residual: Tensor) -> Tensor:
        """``P^-1`` of a residual."""

    def test_vector(self, direction: Tensor, image: Tensor) -> Tensor:
        """The vector to which the next residual is made orthogonal."""

    def norm(self, residual: Tensor) -> Tensor:
        """Norm of each residual, ``(m,)``."""

    def slice(self, first: int, last: int) -> LinearSystem:
        """The right-hand sides from ``first`` to ``last``."""

    def to(self, device: str) -> LinearSystem:
        """The system on another device."""


@dataclass(frozen=True)
class PressureTangentSystem:
    """``A v_j = f_j`` on the flow grid, with a symmetric A: conjugate gradients.

    Attributes:
        coefficients: of the flow, which determine A.
        grid: of the flow.
        forcing: ``(m, X, Y, Z)``.
        truncation: number of previous directions.
    """

    coefficients: FlowCoefficients
    grid: Grid
    forcing: Tensor
    truncation: int = 1

    @property
    def rhs(self) -> Tensor:
        return self.forcing

    @cached_property
    def operator(self) -> Callable[[Tensor], Tensor]:
        return pressure_operator(self.coefficients, self.grid)

    @cached_property
    def diagonal(self) -> Tensor:
        return pressure_diagonal(self.coefficients, self.grid)

    def apply(self, v: Tensor) -> Tensor:
        return self.operator(v)

    def precondition(self, residual: Tensor) -> Tensor:
        return residual / self.diagonal

    def test_vector(self, direction: Tensor, image: Tensor) -> Tensor:
        return direction

    def norm(self, residual: Tensor) -> Tensor:
        return residual.flatten(1).norm(dim=1)

    def slice(self, first: int, last: int) -> PressureTangentSystem:
        return replace(self, forcing=self.forcing[first:last])

    def to(self, device: str) -> PressureTangentSystem:
        return on_device(self, device)


@dataclass(frozen=True)
class PoolTangentSystem:
    """``capacity v + A (integral of v) = F`` in a time basis, preconditioned from the left.

    The cell-local part is inverted exactly. The residual is therefore an error in the unit of the
    field, and its mean square over cells is minimised.

    Attributes:
        operator: A.
        capacity: ``(pool, x, y, z)``.
        basis: of the histories.
        forcing: coefficients of the integrated forcing, ``(m, r, pool, x, y, z)``.
        inverse: of the cell-local part, ``(x, y, z, r pool, r pool)``.
        weight: of each pool's error in the mean square, ``(pool, 1, 1, 1)``.
        truncation: number of previous directions.
    """

    operator: PoolOperator
    capacity: Tensor
    basis: TimeBasis
    forcing: Tensor
    inverse: Tensor
    weight: Tensor
    truncation: int = 4

    @classmethod
    def build(
        cls, operator: PoolOperator, capacity: Tensor, basis: TimeBasis, forcing: Tensor
    ) -> PoolTangentSystem:
        """Build a system with the inverse of its cell-local part."""
        P, r = capacity.shape[0], basis.integral.shape[0]
        eye = torch.eye(P, dtype=capacity.dtype, device=capacity.device)
        local = capacity.new_zeros((P, P, *capacity.shape[1:]))
        for (p, q), entry in operator.local_entries().items():
            local[p, q] = entry
        time_eye = torch.eye(r, dtype=capacity.dtype, device=capacity.device)
        block = torch.einsum("rs,pq,pxyz->xyzrpsq", time_eye, eye, capacity)
        block = block + torch.einsum("rs,pqxyz->xyzrpsq", basis.integral, local)
        inverse = torch.linalg.inv(block.reshape(*capacity.shape[1:], r * P, r * P))
        blank = cls(
            operator, capacity, basis, forcing, inverse, torch.ones_like(capacity[:, :1, :1, :1])
        )
        # every pool has the same weight, whatever its concentrations
        size = blank.rhs.square().mean(dim=(0, 1, 3, 4, 5))
        return replace(
            blank,
            weight=(1 / size.clamp_min(1e-12 * float(size.max()) + 1e-300))[:, None, None, None],
        )

    @property
    def rhs(self) -> Tensor:
        return self._apply_local_inverse(self.forcing)

    def apply(self, v: Tensor) -> Tensor:
        return self._apply_local_inverse(
            self.capacity * v
            + torch.einsum("rs,mspxyz->mrpxyz", self.basis.integral, self.operator(v))
        )

    def precondition(self, residual: Tensor) -> Tensor:
        return residual

    def test_vector(self, direction: Tensor, image: Tensor) -> Tensor:
        return self.weight * image

    def norm(self, residual: Tensor) -> Tensor:
        return (self.weight.sqrt() * residual).flatten(1).norm(dim=1)

    def slice(self, first: int, last: int) -> PoolTangentSystem:
        return replace(self, forcing=self.forcing[first:last])

    def to(self, device: str) -> PoolTangentSystem:
        return on_device(self, device)

    def _apply_local_inverse(self, right: Tensor) -> Tensor:
        """Inverse of the cell-local part times ``(m, r, pool, x, y, z)``."""
        m, r, P, *space = right.shape
        flat = right.reshape(m, r * P, *space).permute(2, 3, 4, 1, 0)
        return (self.inverse @ flat).permute(4, 3, 0, 1, 2).reshape(right.shape)
