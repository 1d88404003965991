"""Conservative face fluxes: the finite-volume code that both engines and every check read.

Arrays of faces along an axis hold n+1 entries there, the outermost on the boundary of the box. Axes are
counted from the end, so any leading batch or pool axes are carried along.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nanopinn.physics.model import FlowCoefficients
from nanopinn.physics.pools import PoolCoefficients
from nanopinn.solvers.advection import Advection, face_weights
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.local import add_products, entries_of, sums_of_products

SPACE = (-3, -2, -1)


def cells_beside_faces(values: Tensor, dim: int, outside: float = 0.0) -> tuple[Tensor, Tensor]:
    """The cell values before and after each face along ``dim``; ``outside`` beyond the box."""
    ghost = torch.full_like(values.narrow(dim, 0, 1), outside)
    padded = torch.cat([ghost, values, ghost], dim=dim)
    n = values.shape[dim] + 1
    return padded.narrow(dim, 0, n), padded.narrow(dim, 1, n)


def conductance(coefficient: Tensor, grid: Grid, dim: int, *, open_ends: bool) -> Tensor:
    """Conductance of each face, ``area / (h/2c + h/2c')`` (harmonic), closed or fixed half a cell beyond.

    Args:
        coefficient: conductivity or diffusivity of the cells, ``(..., x, y, z)``; may be zero.
        open_ends: whether a fixed value stands on the box's boundary (half a cell away); else no flux.
    """
    axis = dim + 3
    n = coefficient.shape[dim]
    coefficient = coefficient / grid.half_width(axis)
    left, right = coefficient.narrow(dim, 0, n - 1), coefficient.narrow(dim, 1, n - 1)
    total = left + right
    # where neither conducts the product is zero too
    inner = left * right / total.clamp_min(torch.finfo(total.dtype).tiny)
    first, last = coefficient.narrow(dim, 0, 1), coefficient.narrow(dim, n - 1, 1)
    ends = (first, last) if open_ends else (torch.zeros_like(first), torch.zeros_like(last))
    return grid.face_area(axis) * torch.cat([ends[0], inner, ends[1]], dim=dim)


def divergence(flows: tuple[Tensor, ...], grid: Grid) -> Tensor:
    """Net outflow of each cell per volume; ``flows`` are volume or mass flows through faces, one per axis."""
    terms = [f.diff(dim=d) for f, d in zip(flows, SPACE, strict=True)]
    return (terms[0] + terms[1] + terms[2]) / grid.cell_volume


def darcy_flows(flow: FlowCoefficients, p: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Volume flow through each face by Darcy's law, m3/s; p_inf on the boundary of the box, the inflow on its cut faces."""
    flows = []
    for dim in SPACE:
        before, after = cells_beside_faces(p, dim, flow.p_inf)
        through = conductance(flow.K, grid, dim, open_ends=True) * (before - after)
        for axis, side in flow.cut:
            if axis == dim + 3:
                through = _with_inflow(through, flow.inflow, dim, side, grid.face_area(axis))
        flows.append(through)
    return flows[0], flows[1], flows[2]


def _with_inflow(flow: Tensor, inflow: Tensor | None, dim: int, side: int, area: float) -> Tensor:
    """Flows along ``dim`` with that through one face of the box replaced by what enters there."""
    n = flow.shape[dim]
    end = torch.zeros_like(flow.narrow(dim, 0, 1))
    if inflow is not None:
        at = inflow.narrow(dim, side * (inflow.shape[dim] - 1), 1)
        end = end + (area if side == 0 else -area) * at
    rest = flow.narrow(dim, 1 - side, n - 1)
    return torch.cat([end, rest] if side == 0 else [rest, end], dim=dim)


def entering(flow: FlowCoefficients, grid: Grid) -> Tensor:
    """What enters the cells at the cut faces of the box, per volume, ``(x, y, z)``, 1/s."""
    out = torch.zeros_like(flow.K)
    if flow.inflow is not None:
        for axis, side in flow.cut:
            index = side * (flow.inflow.shape[axis] - 1)
            out.select(axis, index).add_(flow.inflow.select(axis, index), alpha=1 / grid.spacing[axis])
    return out


def carried_flows(pools: PoolCoefficients, flows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Volume flow times each pool's mobility, ``(pool, ...)`` per axis, m3/s."""
    return tuple(pools.mobility[:, None, None, None] * flow for flow in flows)


def _carried_from_beyond(a: Tensor, b: Tensor, carried: Tensor, dim: int, side: int) -> tuple[Tensor, Tensor]:
    """Face weights with those of one face of the box such that flow of either sign carries what the cell inside it holds."""
    n = a.shape[dim]
    end = carried.narrow(dim, side * (n - 1), 1)
    a_rest, b_rest = (w.narrow(dim, 1 - side, n - 1) for w in (a, b))
    zero = torch.zeros_like(end)
    if side == 0:
        return torch.cat([zero, a_rest], dim=dim), torch.cat([-end, b_rest], dim=dim)
    return torch.cat([a_rest, end], dim=dim), torch.cat([b_rest, zero], dim=dim)


@dataclass(frozen=True)
class PoolOperator:
    """``A U = div(flux) + reaction U`` of a set of pools, linear in U and in its own coefficients.

    Attributes:
        before: per axis, weight of the cell before each face, over the cell volume, 1/s.
        after: the same for the cell after it.
        reaction: ``(..., pool, pool, x, y, z)``, 1/s.
        inflow: ``(..., pool, input, x, y, z)``, 1/s.
    """

    before: tuple[Tensor, Tensor, Tensor]
    after: tuple[Tensor, Tensor, Tensor]
    reaction: Tensor
    inflow: Tensor

    @classmethod
    def of(
        cls, pools: PoolCoefficients, flows: tuple[Tensor, ...], grid: Grid, advection: Advection = "fitted",
        cut: tuple[tuple[int, int], ...] = (),
    ) -> PoolOperator:  # fmt: skip
        """Pools carried by volume flows through the faces (m3/s, one tensor per axis).

        Nothing diffuses through the boundary of the box and nothing flows in through it; but what flows in through the
        faces ``cut`` (axis, side), beyond which the tumour goes on, carries what the cells there hold.
        """
        before, after = [], []
        for carried, dim in zip(carried_flows(pools, flows), SPACE, strict=True):
            a, b = face_weights(conductance(pools.diffusion, grid, dim, open_ends=False), carried, dim, advection)
            for axis, side in cut:
                if axis == dim + 3:
                    a, b = _carried_from_beyond(a, b, carried, dim, side)
            before.append(a / grid.cell_volume)
            after.append(b / grid.cell_volume)
        return cls((before[0], before[1], before[2]), (after[0], after[1], after[2]), pools.reaction, pools.inflow)

    def only(self, pools: slice | list[int]) -> PoolOperator:
        """The part that acts within some of the pools."""
        (b0, b1, b2), (a0, a1, a2) = ([f[..., pools, :, :, :] for f in faces] for faces in (self.before, self.after))
        reaction = self.reaction[..., pools, :, :, :, :][..., pools, :, :, :]
        return PoolOperator((b0, b1, b2), (a0, a1, a2), reaction, self.inflow[..., pools, :, :, :, :])

    def tensors(self) -> tuple[Tensor, ...]:
        """Every coefficient, in a fixed order."""
        return (*self.before, *self.after, self.reaction, self.inflow)

    @classmethod
    def from_tensors(cls, t: tuple[Tensor, ...]) -> PoolOperator:
        """The inverse of :meth:`tensors`."""
        return cls((t[0], t[1], t[2]), (t[3], t[4], t[5]), t[6], t[7])

    @cached_property
    def diagonal(self) -> Tensor:
        """Diagonal of the transport part, ``(..., pool, x, y, z)``, 1/s."""
        total: Tensor | None = None
        for a, b, dim in zip(self.before, self.after, SPACE, strict=True):
            n = a.shape[dim] - 1
            leaving = a.narrow(dim, 1, n) + b.narrow(dim, 0, n)
            total = leaving if total is None else total + leaving
        assert total is not None
        return total

    @cached_property
    def mobile(self) -> tuple[int, ...]:
        """The pools that move between cells."""
        faces = [*self.before, *self.after]
        return tuple(p for p in range(self.reaction.shape[-5]) if any(bool((f[..., p, :, :, :] != 0).any()) for f in faces))

    @cached_property
    def moving(self) -> PoolOperator:
        """What carries the pools that move; their reactions stay behind."""
        faces = [[f[..., list(self.mobile), :, :, :] for f in side] for side in (self.before, self.after)]
        (b0, b1, b2), (a0, a1, a2) = faces
        nothing = self.reaction.new_zeros((0, 0, 1, 1, 1))
        return PoolOperator((b0, b1, b2), (a0, a1, a2), nothing, nothing)

    @cached_property
    def coupled(self) -> dict[tuple[int, int], Tensor]:
        """The reactions that are not zero everywhere, by pool that gains and pool that gives."""
        return entries_of(self.reaction)

    def transport(self, U: Tensor) -> Tensor:
        """Divergence of the face fluxes, ``(..., pool, x, y, z)``, concentration per second."""
        return self.subtract_neighbours(self.diagonal * U, U)

    def subtract_neighbours(self, out: Tensor, U: Tensor, weight: float = 1.0) -> Tensor:
        """Take from ``out``, in place, ``weight`` times what flows in from neighbouring cells."""
        for a, b, dim in zip(self.before, self.after, SPACE, strict=True):
            n = U.shape[dim] - 1
            out.narrow(dim, 1, n).addcmul_(a.narrow(dim, 1, n), U.narrow(dim, 0, n), value=-weight)
            out.narrow(dim, 0, n).addcmul_(b.narrow(dim, 1, n), U.narrow(dim, 1, n), value=-weight)
        return out

    def subtract_neighbours_transposed(self, out: Tensor, U: Tensor, weight: float = 1.0) -> Tensor:
        """The transpose of :meth:`subtract_neighbours`."""
        for a, b, dim in zip(self.before, self.after, SPACE, strict=True):
            n = U.shape[dim] - 1
            out.narrow(dim, 0, n).addcmul_(a.narrow(dim, 1, n), U.narrow(dim, 1, n), value=-weight)
            out.narrow(dim, 1, n).addcmul_(b.narrow(dim, 1, n), U.narrow(dim, 0, n), value=-weight)
        return out

    def react(self, U: Tensor) -> Tensor:
        """``reaction U``, summed over the pools that each pool reads."""
        shape = torch.broadcast_shapes(self.reaction.shape[:-5] + self.reaction.shape[-4:], U.shape)
        return add_products(U.new_zeros(shape), self.coupled, U)

    @cached_property
    def _losses(self) -> Tensor:
        return self.reaction.sum(dim=-5)

    def lost(self, U: Tensor) -> Tensor:
        """What each pool loses for good (not to another pool), summed over cells, ``(..., pool)``, concentration per second."""
        return sums_of_products(self._losses.expand_as(U), U)

    def subtract_from(self, out: Tensor, U: Tensor) -> Tensor:
        """Take ``A U`` from ``out``, in place."""
        out.addcmul_(self.diagonal, U, value=-1)
        self.subtract_neighbours(out, U, -1.0)
        return add_products(out, self.coupled, U, -1.0)

    def __call__(self, U: Tensor) -> Tensor:
        return self.transport(U) + self.react(U)

    def transposed(self, y: Tensor) -> Tensor:
        """``A^T y``, for one set of pools."""
        out = self.subtract_neighbours_transposed(self.diagonal * y, y)
        return add_products(out, {(q, p): m for (p, q), m in self.coupled.items()}, y)

    def gradient(self, y: Tensor, U: Tensor, plasma: Tensor) -> tuple[Tensor, ...]:
        """Gradient of ``y . (inflow plasma - A U)`` with respect to every coefficient, in the order of :meth:`tensors`."""
        before, after = [], []
        for dim in SPACE:
            (y0, y1), (U0, U1) = cells_beside_faces(y, dim), cells_beside_faces(U, dim)
            before.append((y1 - y0) * U0)
            after.append((y0 - y1) * U1)
        return (*before, *after, -y[:, None] * U[None], y[:, None] * plasma[None].expand(1, plasma.shape[0], *y.shape[-3:]))

    def boundary_outflow(self, U: Tensor) -> Tensor:
        """What leaves the box, summed over its faces, per pool and cell volume, 1/s times concentration."""
        total = torch.zeros(U.shape[:-3], dtype=U.dtype, device=U.device)
        for a, b, dim in zip(self.before, self.after, SPACE, strict=True):
            last = a.shape[dim] - 1
            total = total + (a.narrow(dim, last, 1) * U.narrow(dim, last - 1, 1)).sum(dim=SPACE)
            total = total + (b.narrow(dim, 0, 1) * U.narrow(dim, 0, 1)).sum(dim=SPACE)
        return total
