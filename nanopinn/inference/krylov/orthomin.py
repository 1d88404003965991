"""The fields as networks whose last layer is eliminated.

    v = sum_k c_k h_k,      h_k = P^-1 (f - A sum_{i<k} c_i h_i)

Hidden layer k is a stencil that varies from cell to cell: the finite-volume residual that the
layers before leave, answered by each cell on its own (P). In time the features are responses to
plasma at random rates (:mod:`timebasis`). Neither is trained; the weights ``c`` of the last layer
are those that make the residual of every cell least, worked out after every layer (variable
projection), so that adding a layer never makes it worse. Those of the pressure, which is symmetric,
are the best of all layers together; the pools' are the best of the last four given the others.
Layers are added until the residual is small enough. Trained convolutions in their place take four
times longer to a residual two thousand times larger (``benchmarks/pinn_formulations.py``).

Linearised finite-volume residuals of the fields, as the networks read them.

Around an anchor the fields are ``u(x, t; theta) = u_a + sum_j (theta_j - theta_a,j) v_j``, and each
``v_j`` solves a linear standing problem: the flux code of the solvers, on every cell, and nothing
else. No data, no finite-volume tangents.
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

#: Told in words of what a network had to recover from.
EventCallback = Callable[[str], None]


@dataclass(frozen=True)
class KrylovSolution:
    """Fields of a network, with their residual over the forcing, worst of all, and the number of
    its layers.
    """

    v: Tensor
    residual: float
    layers: int


@dataclass(frozen=True)
class KrylovSolver:
    """How deep a network grows: ``most`` layers, fewer once its residual is below ``enough`` of the
    forcing.

    Attributes:
        restarts: from the last good weights, where a layer holds numbers that are not finite.
    """

    max_iterations: int
    tolerance: float = 1e-5
    max_restarts: int = 3

    def solve(self, problem: LinearSystem, on_event: EventCallback) -> KrylovSolution:
        """Grow a network on a standing problem.

        Raises:
            SolverError: numbers that are not finite, again and again.
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
                    f"a network met numbers that are not finite {again} times, last in layer"
                    f" {k + 1}"
                )
            on_event(
                f"layer {k + 1} held numbers that are not finite: went on from the last good"
                " weights"
            )
            r, directions = rhs - problem.apply(good), []
        return KrylovSolution(good, float((problem.norm(r) / size).max()), self.max_iterations)


def solve_in_batches(
    layers: KrylovSolver, problem: LinearSystem, on_event: EventCallback
) -> KrylovSolution:
    """The same in as few parts as the device's memory takes, on the CPU where it takes none.

    Raises:
        torch.OutOfMemoryError: not even the CPU has room for one tangent.
    """
    count = problem.rhs.shape[0]
    home = device_of(problem)
    at_once, device = count, home
    while True:
        try:
            here = problem if device == home else problem.to(device)
            parts = [
                layers.solve(here.slice(i, i + at_once), on_event) for i in range(0, count, at_once)
            ]
            v = torch.cat([p.v for p in parts])
            return KrylovSolution(
                move_to_device(v, home),
                max(p.residual for p in parts),
                max(p.layers for p in parts),
            )
        except torch.OutOfMemoryError:
            if at_once > 1:
                at_once = -(-at_once // 2)
                on_event(f"memory ran out: {at_once} of {count} tangents at once from here")
            elif device != "cpu":
                at_once, device = count, "cpu"
                on_event("the GPU's memory ran out with a single tangent: worked out on the CPU")
            else:
                raise


def device_of(problem: LinearSystem) -> str:
    return str(problem.rhs.device)


def move_to_device(v: Tensor, device: str) -> Tensor:
    return v.to(device)


def _orthogonalise(
    problem: LinearSystem, h: Tensor, directions: list[tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """A feature of unit size that shares nothing with those before, its image, and what it is
    weighed with.
    """
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
    """``image(v_j) = right_j`` for several j, the first axis, at once."""

    @property
    def truncation(self) -> int:
        """How many earlier features a new one is kept apart from."""

    @property
    def rhs(self) -> Tensor:
        """What the image has to be."""

    def apply(self, v: Tensor) -> Tensor:
        """What the residual holds of ``v``."""

    def precondition(self, residual: Tensor) -> Tensor:
        """What each cell by itself would answer to a residual."""

    def test_vector(self, feature: Tensor, image: Tensor) -> Tensor:
        """What the residual of a feature is weighed with where its weight is worked out."""

    def norm(self, residual: Tensor) -> Tensor:
        """Of a residual, ``(m,)``."""

    def slice(self, first: int, last: int) -> LinearSystem:
        """Some of the j."""

    def to(self, device: str) -> LinearSystem:
        """The same on another device."""


@dataclass(frozen=True)
class PressureTangentSystem:
    """``A v_j = f_j`` on the flow grid. A is symmetric, so the best weights make an energy least,
    ``v A v / 2 - f v``.

    Attributes:
        coefficients, grid: of the flow, which make A. forcing: ``(m, X, Y, Z)``.
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

    def test_vector(self, feature: Tensor, image: Tensor) -> Tensor:
        return feature

    def norm(self, residual: Tensor) -> Tensor:
        return residual.flatten(1).norm(dim=1)

    def slice(self, first: int, last: int) -> PressureTangentSystem:
        return replace(self, forcing=self.forcing[first:last])

    def to(self, device: str) -> PressureTangentSystem:
        return on_device(self, device)


@dataclass(frozen=True)
class PoolTangentSystem:
    """``capacity v + A (integral of v) = F`` in a time basis, over its cell-local part.

    The cell-local part is inverted exactly, so that the residual is what the cell's own answer
    still lacks: an error in the units of the field, and its mean square over cells is what the best
    weights make least.

    Attributes:
        operator: A at the anchor. capacity: ``(pool, x, y, z)``. basis: of the histories.
        forcing: coefficients of the integrated forcing, ``(m, r, pool, x, y, z)``.
        inverse: of the cell-local part, ``(x, y, z, r pool, r pool)``.
        weight: of each pool's error in the mean square, ``(pool, 1, 1, 1)``.
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
        """Prepare the exact inverse of the cell-local part."""
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
        # pools count alike, however little of the drug one of them holds
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

    def test_vector(self, feature: Tensor, image: Tensor) -> Tensor:
        return self.weight * image

    def norm(self, residual: Tensor) -> Tensor:
        return (self.weight.sqrt() * residual).flatten(1).norm(dim=1)

    def slice(self, first: int, last: int) -> PoolTangentSystem:
        return replace(self, forcing=self.forcing[first:last])

    def to(self, device: str) -> PoolTangentSystem:
        return on_device(self, device)

    def _apply_local_inverse(self, right: Tensor) -> Tensor:
        """The cell-local answer to a right-hand side ``(m, r, pool, x, y, z)``."""
        m, r, P, *space = right.shape
        flat = right.reshape(m, r * P, *space).permute(2, 3, 4, 1, 0)
        return (self.inverse @ flat).permute(4, 3, 0, 1, 2).reshape(right.shape)
