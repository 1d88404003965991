"""Linearised finite-volume residuals of the fields, as the networks read them.

Around an anchor the fields are ``u(x, t; theta) = u_a + sum_j (theta_j - theta_a,j) v_j``, and each ``v_j`` solves a linear
standing problem: the flux code of the solvers, on every cell, and nothing else. No data, no finite-volume tangents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from nanopinn.inference.device import on_device
from nanopinn.inference.pinn.timebasis import TimeBasis
from nanopinn.physics.model import FlowCoefficients
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.pressure import pressure_diagonal, pressure_operator


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
    """``A v_j = f_j`` on the flow grid. A is symmetric, so the best weights make an energy least, ``v A v / 2 - f v``.

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

    The cell-local part is inverted exactly, so that the residual is what the cell's own answer still lacks: an
    error in the units of the field, and its mean square over cells is what the best weights make least.

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
