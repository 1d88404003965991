"""The spatial operator of a set of pools, their mass balance, and a time segment of their equation.

The operator is stored as sparsely as the pools are coupled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from nanopinn.physics.pools import Entries, PoolCoefficients, SaturableTransfer
from nanopinn.solvers.cell_elimination import (
    add_matrix_product,
    broadcast_shape,
    cell_dot_product,
    column_sums,
    drop_zero_entries,
    select_block,
    transpose_entries,
)
from nanopinn.solvers.fluxes import (
    Advection,
    TransportOperator,
    advective_flows,
    limiter_divergence,
)
from nanopinn.solvers.grid import Grid


@dataclass(frozen=True)
class PoolOperator:
    """``A U = div(flux) + reaction U`` of a set of pools, linear in U and in its own coefficients.

    Attributes:
        pools: number of pools.
        moving: indices of those that move between cells.
        transport: of the pools that move.
        reaction: by (pool, pool), ``(..., x, y, z)``, 1/s.
        inflow: by (pool, input), ``(..., x, y, z)``, 1/s.
    """

    pools: int
    moving: tuple[int, ...]
    transport: TransportOperator
    reaction: Entries
    inflow: Entries

    @classmethod
    def from_pools(
        cls,
        pools: PoolCoefficients,
        flows: tuple[Tensor, ...],
        grid: Grid,
        advection: Advection = "fitted",
        cut: tuple[tuple[int, int], ...] = (),
    ) -> PoolOperator:
        """Pools transported by volume flows through the faces.

        See :meth:`nanopinn.solvers.fluxes.TransportOperator.from_pools`.
        """
        return cls(
            len(pools.names),
            pools.moving,
            TransportOperator.from_pools(pools, flows, grid, advection, cut),
            pools.reaction,
            pools.inflow,
        )

    @classmethod
    def stack(cls, operators: Sequence[PoolOperator]) -> PoolOperator:
        """Stack operators of the same pools along a new leading axis."""
        return operators[0].with_tensors(
            tuple(torch.stack(ts) for ts in zip(*(op.tensors() for op in operators), strict=True))
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the operand, ``(..., pool, x, y, z)``."""
        *lead, _, x, y, z = self.transport.shape
        return (*lead, self.pools, x, y, z)

    def restrict_to(self, pools: Sequence[int]) -> PoolOperator:
        """The operator within some of the pools."""
        moving = tuple(i for i, p in enumerate(pools) if p in self.moving)
        transport = self.transport.restrict_to([self.moving.index(pools[i]) for i in moving])
        inflow = {
            (i, c): m for i, p in enumerate(pools) for (q, c), m in self.inflow.items() if q == p
        }
        return PoolOperator(
            len(pools), moving, transport, select_block(self.reaction, pools, pools), inflow
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Every coefficient, in a fixed order."""
        return (
            *self.transport.before,
            *self.transport.after,
            *self.reaction.values(),
            *self.inflow.values(),
        )

    def with_tensors(self, t: Sequence[Tensor]) -> PoolOperator:
        """The same pools with other coefficients, in the order of :meth:`tensors`."""
        n = 6 + len(self.reaction)
        reaction, inflow = (
            dict(zip(self.reaction, t[6:n], strict=True)),
            dict(zip(self.inflow, t[n:], strict=True)),
        )
        return replace(
            self,
            transport=TransportOperator((t[0], t[1], t[2]), (t[3], t[4], t[5])),
            reaction=reaction,
            inflow=inflow,
        )

    def to(self, dtype: torch.dtype) -> PoolOperator:
        """The operator in another precision."""
        return (
            self
            if self.transport.before[0].dtype == dtype
            else self.with_tensors([t.to(dtype) for t in self.tensors()])
        )

    @cached_property
    def nonzero_reaction(self) -> Entries:
        """The reactions that are not zero everywhere."""
        return drop_zero_entries(self.reaction)

    @cached_property
    def nonzero_inflow(self) -> Entries:
        """The inflows that are not zero everywhere."""
        return drop_zero_entries(self.inflow)

    @cached_property
    def _losses(self) -> dict[int, Tensor]:
        return column_sums(self.nonzero_reaction)

    def plasma_source(self, plasma: Tensor, out: Tensor | None = None) -> Tensor:
        """Source from plasma, ``inflow plasma``, ``(..., pool, x, y, z)``.

        Args:
            plasma: ``(input,)`` or ``(input, x, y, z)``.
            out: to which it is written, if given.
        """
        out = self.transport.before[0].new_zeros(self.shape) if out is None else out.zero_()
        return add_matrix_product(
            out, self.nonzero_inflow, plasma[:, None, None, None] if plasma.dim() == 1 else plasma
        )

    def local_entries(self) -> dict[tuple[int, int], Tensor]:
        """Terms local to a cell: reactions, and outflow through its faces."""
        entries = dict(self.nonzero_reaction)
        for p, transport in zip(self.moving, self.transport.per_pool, strict=True):
            entries[p, p] = (
                entries[p, p] + transport.diagonal if (p, p) in entries else transport.diagonal
            )
        return entries

    def subtract_from(self, out: Tensor, U: Tensor) -> Tensor:
        """Subtract ``A U`` from ``out``, in place."""
        for p, transport in zip(self.moving, self.transport.per_pool, strict=True):
            o, u = out[..., p, :, :, :], U[..., p, :, :, :]
            transport.subtract_neighbours(o.addcmul_(transport.diagonal, u, value=-1), u, -1.0)
        return add_matrix_product(out, self.nonzero_reaction, U, -1.0)

    def __call__(self, U: Tensor) -> Tensor:
        return self._apply(U, self.nonzero_reaction, transpose=False)

    def transposed(self, y: Tensor) -> Tensor:
        """``A^T y``."""
        return self._apply(y, transpose_entries(self.nonzero_reaction), transpose=True)

    def _apply(self, U: Tensor, coupled: Entries, *, transpose: bool) -> Tensor:
        out = U.new_zeros(broadcast_shape(self.shape, U.shape))
        for p, transport in zip(self.moving, self.transport.per_pool, strict=True):
            o, u = out[..., p, :, :, :], U[..., p, :, :, :]
            transport.subtract_neighbours(
                o.addcmul_(transport.diagonal, u), u, transposed=transpose
            )
        return add_matrix_product(out, coupled, U)

    def gradient(self, y: Tensor, U: Tensor, plasma: Tensor) -> tuple[Tensor, ...]:
        """Gradient of ``y . (inflow plasma - A U)`` with respect to :meth:`tensors`."""
        at = list(self.moving)
        reaction = ((-y[p] * U[q]).sum_to_size(m.shape) for (p, q), m in self.reaction.items())
        inflow = ((y[p] * plasma[c]).sum_to_size(m.shape) for (p, c), m in self.inflow.items())
        return (*self.transport.gradient(y[at], U[at]), *reaction, *inflow)

    def loss_rate(self, U: Tensor) -> Tensor:
        """Loss of each pool that is not a gain of another, summed over cells, ``(..., pool)``.

        In concentration per second.
        """
        out = U.new_zeros(U.shape[:-3])
        for q, loss in self._losses.items():
            out[..., q] = cell_dot_product(loss, U[..., q, :, :, :])
        return out

    def throughput(self, U: Tensor) -> float:
        """Outflow of cells through their faces, root of the summed squares, in concentration per
        second.
        """
        each = zip(self.moving, self.transport.per_pool, strict=True)
        return float(sum((t.diagonal * U[..., p, :, :, :]).square_().sum() for p, t in each)) ** 0.5

    def boundary_outflow(self, U: Tensor) -> Tensor:
        """Outflow of the box, summed over faces, ``(..., pool)``, concentration per second."""
        out = U.new_zeros(U.shape[:-3])
        for p, transport in zip(self.moving, self.transport.per_pool, strict=True):
            out[..., p] = transport.boundary_outflow(U[..., p, :, :, :])
        return out


@dataclass(frozen=True)
class PoolMassBalance:
    """Mass balance of pools over cells and time: ``entered = lost + outflow + stored``, summed.

    Each total is concentration times cells, per pool ``(pool,)``.

    Attributes:
        entered: from plasma.
        lost: through walls, into lymph and by decay, not to another pool.
        outflow: across the boundary of the box.
        stored: at the end less at the start.
    """

    entered: Tensor
    lost: Tensor
    outflow: Tensor
    stored: Tensor

    @property
    def error(self) -> float:
        """Mass-balance error of all pools together, over the largest of the totals."""
        entered, lost, outflow, stored = (
            float(t.sum()) for t in (self.entered, self.lost, self.outflow, self.stored)
        )
        return abs(entered - lost - outflow - stored) / max(
            abs(entered), abs(lost), abs(stored), 1e-300
        )

    def table(self, names: tuple[str, ...], scale: float = 1.0) -> str:
        """The totals of each pool as text.

        Args:
            names: of the pools.
            scale: factor; the volume of a cell converts kg/m3 to kg.
        """
        rows = torch.stack([self.entered, self.lost, self.outflow, self.stored], dim=-1) * scale
        rows = torch.cat([rows, rows.sum(dim=0, keepdim=True)])
        head = f"{'pool':20s}{'entered':>13s}{'lost':>13s}{'outflow':>13s}{'stored':>13s}"
        lines = [
            f"{name:20s}" + "".join(f"{v:13.4e}" for v in row)
            for name, row in zip((*names, "all"), rows.tolist(), strict=True)
        ]
        return "\n".join([head, *lines, f"mass-balance error {self.error:.1e}"])


@dataclass(frozen=True)
class Interval:
    """A time segment in which no coefficient jumps.

    Attributes:
        start, end: s.
        operator: transport, reaction and inflow of the pools.
        capacity: ``(..., pool, x, y, z)``.
        plasma: the plasma curves, ``(input,)`` or ``(input, x, y, z)``, kg/m3, smooth from
            ``start`` to ``end``.
        transfers: saturable transport between pools.
        correction: a divergence that the operator leaves out (that of a limiter), not linear in the
            pools.
        names: of the pools.
        starts_at_event: whether a coefficient jumps at its start; otherwise coefficients have
            drifted, and steps keep their size.
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
        """Assemble pools transported by volume flows through the faces of a grid.

        Args:
            start, end: s.
            pools: coefficients of the pools.
            flows: volume flows, one tensor per axis, m3/s.
            grid: of the maps.
            plasma: the plasma curves.
            advection: scheme of the advective fluxes.
        """
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
        """Whether the equation is linear in the pools."""
        return not self.transfers and self.correction is None

    def plasma_values(self, t: float) -> Tensor:
        """The plasma curves at a time, shaped to broadcast with maps, kg/m3."""
        c = self.plasma(t)
        return c.reshape(*c.shape, 1, 1, 1) if c.dim() == 1 else c

    def total_plasma_inflow(self, t: float) -> Tensor:
        """Source of each pool from plasma, summed over cells, ``(..., pool)``."""
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
        """Add saturable transport at U to the rates in ``out``, in place."""
        for k in self.transfers:
            z = k.rate(U)
            out[..., k.outside, :, :, :].sub_(z)
            out[..., k.inside, :, :, :].add_(z)
        return out

    def linearised_reaction(self, U: Tensor) -> Entries:
        """Reaction linearised about U, saturable transport included."""
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
    """Divergence of the antidiffusive fluxes of the pools that move, ``(..., pool, x, y, z)``."""
    out, at = torch.zeros_like(U), list(moving)
    out[..., at, :, :, :] = limiter_divergence(U[..., at, :, :, :], advective_flow, grid)
    return out
