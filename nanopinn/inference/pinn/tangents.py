"""Linearised finite-volume residuals of the fields, in units of error, with networks for the solutions.

Around an anchor the fields are ``u(x, t; theta) = u_a + sum_j (theta_j - theta_a,j) v_j``. Each ``v_j`` is
a network; it is trained on the linearised residual of every cell, which is the flux code of the solvers
and nothing else: no data, no finite-volume tangents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.inference.pinn.network import FieldNetwork, Relaxation, normalised
from nanopinn.inference.pinn.timebasis import TimeBasis
from nanopinn.solvers.operator import PoolOperator


@dataclass(frozen=True)
class PressureTangents:
    """``A v_j = f_j`` on the flow grid; A is symmetric, so its solution is the least of an energy.

    The loss ``v A v / 2 - f v`` has the finite-volume residual ``A v - f`` of every cell as its gradient,
    and the conditioning of A rather than of its square.

    Attributes:
        operator: A. forcing: ``(m, X, Y, Z)``. inverse_diagonal: ``(X, Y, Z)``. refine: cells per voxel edge.
    """

    operator: Callable[[Tensor], Tensor]
    forcing: Tensor
    inverse_diagonal: Tensor
    refine: int

    @property
    def scale(self) -> Tensor:
        """Size of each tangent, from its forcing, ``(m, 1, 1, 1)``."""
        local = self.inverse_diagonal * self.forcing
        return local.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()

    def features(self) -> Tensor:
        """Local answers to the forcing on the cells of each voxel, ``(m r^3, x, y, z)``."""
        return _to_channels(self.inverse_diagonal * self.forcing / self.scale, self.refine)

    def field(self, channels: Tensor) -> Tensor:
        """Network channels ``(m r^3, x, y, z)`` to tangents ``(m, X, Y, Z)``: a correction of the local answer."""
        return self.inverse_diagonal * self.forcing + self.scale * _from_channels(channels, self.refine)

    def residual(self, v: Tensor) -> Tensor:
        """What ``v`` lacks, over the diagonal of A."""
        return self.inverse_diagonal * (self.operator(v) - self.forcing)

    def loss(self, v: Tensor) -> Tensor:
        """Energy of each tangent over its scale, averaged over cells."""
        weight = 1 / (self.scale.square() * (1 / self.inverse_diagonal).mean())
        return ((v * (self.operator(v) / 2 - self.forcing)) * weight).mean(dim=(1, 2, 3)).sum()

    def error(self, v: Tensor) -> float:
        """Relative residual, worst tangent."""
        r = self.operator(v) - self.forcing
        return float((r.flatten(1).norm(dim=1) / self.forcing.flatten(1).norm(dim=1)).max())


@dataclass(frozen=True)
class PoolTangents:
    """Integrated residual ``capacity v + A (integral of v) - F`` in a time basis, over its cell-local part.

    The cell-local part is inverted exactly, so that the residual is what the local answer still lacks: an
    error in the units of the field.

    Attributes:
        operator: A at the anchor. capacity: ``(pool, x, y, z)``. basis: of the histories.
        forcing: coefficients of the integrated forcing, ``(m, r, pool, x, y, z)``.
        inverse: ``(x, y, z, r pool, r pool)``.
    """

    operator: PoolOperator
    capacity: Tensor
    basis: TimeBasis
    forcing: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, operator: PoolOperator, capacity: Tensor, basis: TimeBasis, forcing: Tensor) -> PoolTangents:
        """Prepare the exact inverse of the cell-local part."""
        P, r = capacity.shape[0], basis.integral.shape[0]
        eye = torch.eye(P, dtype=capacity.dtype, device=capacity.device)
        local = capacity.new_zeros((P, P, *capacity.shape[1:]))
        for (p, q), entry in operator.within_cells().items():
            local[p, q] = entry
        time_eye = torch.eye(r, dtype=capacity.dtype, device=capacity.device)
        block = torch.einsum("rs,pq,pxyz->xyzrpsq", time_eye, eye, capacity)
        block = block + torch.einsum("rs,pqxyz->xyzrpsq", basis.integral, local)
        inverse = torch.linalg.inv(block.reshape(*capacity.shape[1:], r * P, r * P))
        return cls(operator, capacity, basis, forcing, inverse)

    def local(self, right: Tensor) -> Tensor:
        """The cell-local answer to a right-hand side ``(m, r, pool, x, y, z)``."""
        m, r, P, *space = right.shape
        flat = right.reshape(m, r * P, *space).permute(2, 3, 4, 1, 0)
        return (self.inverse @ flat).permute(4, 3, 0, 1, 2).reshape(right.shape)

    def residual(self, v: Tensor) -> Tensor:
        """What ``v`` lacks, in the units of the field."""
        carried = torch.einsum("rs,mspxyz->mrpxyz", self.basis.integral, self.operator(v))
        return self.local(self.capacity * v + carried - self.forcing)

    @property
    def scale(self) -> Tensor:
        """Size of each tangent of each pool, ``(m, 1, pool, 1, 1, 1)``; absent ones count as the largest."""
        size = self.local(self.forcing).square().mean(dim=(3, 4, 5), keepdim=True).sum(dim=1, keepdim=True).sqrt()
        largest = size.amax(dim=0, keepdim=True).clamp_min(1e-300)
        return torch.where(size > 1e-6 * largest, size, largest)

    def features(self) -> Tensor:
        """Cell-local answers over their scale, ``(m r pool, x, y, z)``."""
        return (self.local(self.forcing) / self.scale).flatten(0, 2)

    def field(self, channels: Tensor) -> Tensor:
        """Network channels to coefficients: the cell-local answer plus a correction."""
        return self.local(self.forcing) + self.scale * channels.reshape(self.forcing.shape)

    def loss(self, v: Tensor) -> Tensor:
        """Mean square of the scaled residual, summed over time functions and pools."""
        r = self.residual(v) / self.scale
        return r.square().mean(dim=(3, 4, 5)).sum() / r.shape[0]

    def error(self, v: Tensor) -> float:
        """Relative preconditioned residual over all tangents and pools."""
        scaled = self.residual(v) / self.scale
        reference = self.local(self.forcing) / self.scale
        return float(scaled.norm() / reference.norm())


Tangents = PressureTangents | PoolTangents


class Learner:
    """A network with the standing problem it solves; keeps its weights as the anchor moves."""

    def __init__(self, generator: torch.Generator, width: int, relaxations: int) -> None:
        self.generator, self.width = generator, width
        self.network: FieldNetwork | None = None
        self.relaxation = Relaxation(relaxations)
        self.evaluations = 0

    def weights(self) -> int:
        """Trainable numbers."""
        modules = (self.relaxation, *([self.network] if self.network is not None else []))
        return sum(w.numel() for module in modules for w in module.parameters())

    def solve(self, problem: Tangents, maps: Tensor, steps: int) -> tuple[Tensor, float]:
        """Train on the residual of every cell by L-BFGS and return the fields and their relative residual.

        The convolutions work in single precision, the residual and the fields in the precision of ``maps``.

        Args:
            maps: features of the tissue and of the anchor, ``(c, x, y, z)``.
            steps: L-BFGS iterations.
        """
        local = problem.features()
        features = torch.cat([normalised(maps), local / local.abs().amax().clamp_min(1e-300)]).float()
        if self.network is None:
            self.network = FieldNetwork(features.shape[0], local.shape[0], width=self.width, generator=self.generator).to(features)
            self.relaxation.to(maps.device)
        network, relaxation = self.network, self.relaxation

        def fields() -> Tensor:
            return relaxation(problem.field(network(features).to(maps)), problem.residual)

        optimiser = torch.optim.LBFGS(
            [*network.parameters(), *relaxation.parameters()], max_iter=steps, max_eval=2 * steps,
            history_size=20, tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = problem.loss(fields())
            loss.backward()
            self.evaluations += 1
            return loss

        optimiser.step(closure)
        with torch.no_grad():
            v = fields()
        return v, problem.error(v)


def _to_channels(fine: Tensor, r: int) -> Tensor:
    m, X, Y, Z = fine.shape
    parts = fine.reshape(m, X // r, r, Y // r, r, Z // r, r).permute(0, 2, 4, 6, 1, 3, 5)
    return parts.reshape(m * r**3, X // r, Y // r, Z // r)


def _from_channels(channels: Tensor, r: int) -> Tensor:
    c, x, y, z = channels.shape
    m = c // r**3
    parts = channels.reshape(m, r, r, r, x, y, z).permute(0, 4, 1, 5, 2, 6, 3)
    return parts.reshape(m, x * r, y * r, z * r)
