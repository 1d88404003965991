"""Transport, reaction and inflow of a set of pools: the matrix that every solver reads, as sparse
as the couplings are.
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
        pools: how many. moving: those that move between cells.
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
        """Pools carried by volume flows through the faces, see :meth:`Transport.of`."""
        return cls(
            len(pools.names),
            pools.moving,
            TransportOperator.from_pools(pools, flows, grid, advection, cut),
            pools.reaction,
            pools.inflow,
        )

    @classmethod
    def stack(cls, operators: Sequence[PoolOperator]) -> PoolOperator:
        """Operators of the same pools as one, along a new leading axis."""
        return operators[0].with_tensors(
            tuple(torch.stack(ts) for ts in zip(*(op.tensors() for op in operators), strict=True))
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it acts on, ``(..., pool, x, y, z)``."""
        *lead, _, x, y, z = self.transport.shape
        return (*lead, self.pools, x, y, z)

    def restrict_to(self, pools: Sequence[int]) -> PoolOperator:
        """The part that acts within some of the pools."""
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
        """The same in another precision; itself in its own."""
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
        """What plasma brings, ``inflow plasma``, ``(..., pool, x, y, z)``, written to ``out`` if
        given.

        Args:
            plasma: ``(input,)`` or ``(input, x, y, z)``.
        """
        out = self.transport.before[0].new_zeros(self.shape) if out is None else out.zero_()
        return add_matrix_product(
            out, self.nonzero_inflow, plasma[:, None, None, None] if plasma.dim() == 1 else plasma
        )

    def local_entries(self) -> dict[tuple[int, int], Tensor]:
        """What acts within a cell: reactions, and what leaves through its faces."""
        entries = dict(self.nonzero_reaction)
        for p, transport in zip(self.moving, self.transport.per_pool, strict=True):
            entries[p, p] = (
                entries[p, p] + transport.diagonal if (p, p) in entries else transport.diagonal
            )
        return entries

    def subtract_from(self, out: Tensor, U: Tensor) -> Tensor:
        """Take ``A U`` from ``out``, in place."""
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
        """Gradient of ``y . (inflow plasma - A U)`` with respect to every coefficient, in the order
        of :meth:`tensors`.
        """
        at = list(self.moving)
        reaction = ((-y[p] * U[q]).sum_to_size(m.shape) for (p, q), m in self.reaction.items())
        inflow = ((y[p] * plasma[c]).sum_to_size(m.shape) for (p, c), m in self.inflow.items())
        return (*self.transport.gradient(y[at], U[at]), *reaction, *inflow)

    def loss_rate(self, U: Tensor) -> Tensor:
        """What each pool loses for good (not to another pool), summed over cells, ``(..., pool)``,
        concentration per second.
        """
        out = U.new_zeros(U.shape[:-3])
        for q, loss in self._losses.items():
            out[..., q] = cell_dot_product(loss, U[..., q, :, :, :])
        return out

    def throughput(self, U: Tensor) -> float:
        """What leaves cells through their faces, root of the summed squares, concentration per
        second.
        """
        each = zip(self.moving, self.transport.per_pool, strict=True)
        return float(sum((t.diagonal * U[..., p, :, :, :]).square_().sum() for p, t in each)) ** 0.5

    def boundary_outflow(self, U: Tensor) -> Tensor:
        """What leaves the box, summed over its faces, ``(..., pool)``, concentration per second."""
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
