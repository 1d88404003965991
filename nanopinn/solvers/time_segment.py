"""A stretch of time between two events: what pools do in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nanopinn.physics.pools import Entries, PoolCoefficients, SaturableTransfer
from nanopinn.solvers.cell_elimination import cell_dot_product
from nanopinn.solvers.fluxes import Advection, advective_flows, limiter_divergence
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.operator import PoolOperator


@dataclass(frozen=True)
class Interval:
    """A stretch of time in which nothing jumps.

    Attributes:
        start, end: s.
        operator: transport, reaction and inflow of the pools.
        capacity: ``(..., pool, x, y, z)``.
        plasma: the plasma curves, ``(input,)`` or ``(input, x, y, z)``, kg/m3, smooth from
            ``start`` to ``end``.
        transfers: what is not linear in the pools.
        names: the pools.
        correction: a divergence that the operator leaves out (a limiter's), not linear in the pools
            either.
        jumps: whether anything jumps at its start; otherwise it goes on where coefficients have
            drifted, with the steps of the last.
    """

    start: float
    end: float
    operator: PoolOperator
    capacity: Tensor
    plasma: Callable[[float], Tensor]
    transfers: tuple[SaturableTransfer, ...] = ()
    correction: Callable[[Tensor], Tensor] | None = None
    names: tuple[str, ...] = ()
    starts_at_event: bool = True

    @classmethod
    def from_pools(
        cls,
        start: float,
        end: float,
        pools: PoolCoefficients,
        flows: tuple[Tensor, ...],
        grid: Grid,
        plasma: Callable[[float], Tensor],
        advection: Advection = "fitted",
    ) -> Interval:
        """Assembled pools, carried by volume flows (m3/s) through the faces of a grid."""
        operator = PoolOperator.from_pools(pools.validate(), flows, grid, advection)
        correction = None
        if advection == "limited":
            correction = partial(
                _limiter,
                moving=pools.moving,
                advective_flow=advective_flows(pools, flows),
                grid=grid,
            )
        return cls(
            start, end, operator, pools.capacity, plasma, pools.transfers, correction, pools.names
        )

    @property
    def linear(self) -> bool:
        """Whether one solve is all that a stage takes."""
        return not self.transfers and self.correction is None

    def plasma_values(self, t: float) -> Tensor:
        """The plasma curves at a time, shaped to weigh maps, kg/m3."""
        c = self.plasma(t)
        return c.reshape(*c.shape, 1, 1, 1) if c.dim() == 1 else c

    def total_plasma_inflow(self, t: float) -> Tensor:
        """What plasma brings to each pool, summed over cells, ``(..., pool)``."""
        c = self.plasma_values(t).expand(-1, *self.capacity.shape[-3:])
        total = self.capacity.new_zeros(self.capacity.shape[:-3])
        for (p, q), m in self.operator.nonzero_inflow.items():
            total[..., p] += cell_dot_product(m, c[q])
        return total

    def rate(self, U: Tensor, t: float, out: Tensor | None = None) -> Tensor:
        """``capacity dU/dt``, kg/m3/s, written to ``out`` if given."""
        rate = self.operator.subtract_from(
            self.operator.plasma_source(self.plasma_values(t), out), U
        )
        return self.apply_saturable_transfers(
            rate if self.correction is None else rate.sub_(self.correction(U)), U
        )

    def apply_saturable_transfers(self, out: Tensor, U: Tensor) -> Tensor:
        """Move, in ``out``, what transporters carry at U."""
        for k in self.transfers:
            z = k.rate(U)
            out[..., k.outside, :, :, :].sub_(z)
            out[..., k.inside, :, :, :].add_(z)
        return out

    def linearised_reaction(self, U: Tensor) -> Entries:
        """Reaction of a small change about U."""
        entries = dict(self.operator.nonzero_reaction)
        for k in self.transfers:
            into, back = k.rate_derivatives(U)
            changes = {
                (k.outside, k.outside): into,
                (k.inside, k.outside): -into,
                (k.outside, k.inside): -back,
                (k.inside, k.inside): back,
            }
            for pq, change in changes.items():
                entries[pq] = entries[pq] + change if pq in entries else change
        return entries


def _limiter(
    U: Tensor, moving: tuple[int, ...], advective_flow: tuple[Tensor, ...], grid: Grid
) -> Tensor:
    out, at = torch.zeros_like(U), list(moving)
    out[..., at, :, :, :] = limiter_divergence(U[..., at, :, :, :], advective_flow, grid)
    return out
