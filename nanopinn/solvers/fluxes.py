"""Conservative face fluxes of the finite-volume method: Darcy flow, diffusion and advection.

Arrays of faces along an axis hold n+1 entries there, the outermost on the boundary of the box. Axes
are counted from the end, so that leading batch or pool axes may be added.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from nanopinn.physics.flow import FlowCoefficients, exchange_coefficients
from nanopinn.physics.pools import PoolCoefficients
from nanopinn.solvers.grid import Grid

SPACE = (-3, -2, -1)


def cells_beside_faces(values: Tensor, dim: int, outside: float = 0.0) -> tuple[Tensor, Tensor]:
    """The cell values before and after each face along ``dim``; ``outside`` beyond the box."""
    ghost = torch.full_like(values.narrow(dim, 0, 1), outside)
    padded = torch.cat([ghost, values, ghost], dim=dim)
    n = values.shape[dim] + 1
    return padded.narrow(dim, 0, n), padded.narrow(dim, 1, n)


def face_conductance(
    coefficient: Tensor, grid: Grid, dim: int, *, fixed_value_boundary: bool
) -> Tensor:
    """Conductance of each face, ``area / (h/2c + h/2c')`` (harmonic), closed or fixed half a cell
    beyond.

    Args:
        coefficient: conductivity or diffusivity of the cells, ``(..., x, y, z)``; may be zero.
        grid: of the cells.
        dim: axis of the faces, from the end.
        fixed_value_boundary: whether the value is fixed on the boundary of the box, half a cell
            away; otherwise the boundary is closed.
    """
    axis = dim + 3
    n = coefficient.shape[dim]
    coefficient = coefficient / grid.half_width(axis)
    left, right = coefficient.narrow(dim, 0, n - 1), coefficient.narrow(dim, 1, n - 1)
    total = left + right
    # where neither conducts the product is zero too
    inner = left * right / total.clamp_min(torch.finfo(total.dtype).tiny)
    first, last = coefficient.narrow(dim, 0, 1), coefficient.narrow(dim, n - 1, 1)
    ends = (
        (first, last) if fixed_value_boundary else (torch.zeros_like(first), torch.zeros_like(last))
    )
    return grid.face_area(axis) * torch.cat([ends[0], inner, ends[1]], dim=dim)


def divergence(flows: tuple[Tensor, ...], grid: Grid) -> Tensor:
    """Net outflow of each cell per volume; ``flows`` are volume or mass flows through faces, one
    per axis.
    """
    terms = [f.diff(dim=d) for f, d in zip(flows, SPACE, strict=True)]
    return (terms[0] + terms[1] + terms[2]) / grid.cell_volume


def darcy_flows(flow: FlowCoefficients, p: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Volume flow through each face by Darcy's law, m3/s; p_inf on the boundary of the box, the
    inflow on its cut faces.
    """
    flows = []
    for dim in SPACE:
        before, after = cells_beside_faces(p, dim, flow.p_inf)
        through = face_conductance(flow.K, grid, dim, fixed_value_boundary=True) * (before - after)
        for axis, side in flow.cut:
            if axis == dim + 3:
                through = _replace_boundary_flow(
                    through, flow.inflow, dim, side, grid.face_area(axis)
                )
        flows.append(through)
    return flows[0], flows[1], flows[2]


def _replace_boundary_flow(
    flow: Tensor, inflow: Tensor | None, dim: int, side: int, area: float
) -> Tensor:
    """Flows along ``dim`` with that through one face of the box replaced by what enters there."""
    n = flow.shape[dim]
    end = torch.zeros_like(flow.narrow(dim, 0, 1))
    if inflow is not None:
        at = inflow.narrow(dim, side * (inflow.shape[dim] - 1), 1)
        end = end + (area if side == 0 else -area) * at
    rest = flow.narrow(dim, 1 - side, n - 1)
    return torch.cat([end, rest] if side == 0 else [rest, end], dim=dim)


def cut_face_inflow(flow: FlowCoefficients, grid: Grid) -> Tensor:
    """Inflow through the cut faces of the box, per volume, ``(x, y, z)``, 1/s."""
    out = torch.zeros_like(flow.K)
    if flow.inflow is not None:
        for axis, side in flow.cut:
            index = side * (flow.inflow.shape[axis] - 1)
            out.select(axis, index).add_(
                flow.inflow.select(axis, index), alpha=1 / grid.spacing[axis]
            )
    return out


def advective_flows(pools: PoolCoefficients, flows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Volume flow times the mobility of each pool that moves, ``(moving, ...)`` per axis, m3/s."""
    return tuple(pools.mobility[:, None, None, None] * flow for flow in flows)


def _zero_gradient_boundary_weights(
    a: Tensor, b: Tensor, advective_flow: Tensor, dim: int, side: int
) -> tuple[Tensor, Tensor]:
    """Face weights with those of one face of the box such that flow of either sign carries what the
    cell inside it holds.
    """
    n = a.shape[dim]
    end = advective_flow.narrow(dim, side * (n - 1), 1)
    a_rest, b_rest = (w.narrow(dim, 1 - side, n - 1) for w in (a, b))
    zero = torch.zeros_like(end)
    if side == 0:
        return torch.cat([zero, a_rest], dim=dim), torch.cat([-end, b_rest], dim=dim)
    return torch.cat([a_rest, end], dim=dim), torch.cat([b_rest, zero], dim=dim)


@dataclass(frozen=True)
class TransportOperator:
    """Divergence of the face fluxes of pools that move, linear in them and in its own weights.

    Attributes:
        before: per axis, weight of the cell before each face, over the cell volume, ``(...,
            faces)``, 1/s.
        after: the same for the cell after it.
    """

    before: tuple[Tensor, Tensor, Tensor]
    after: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def from_pools(
        cls,
        pools: PoolCoefficients,
        flows: tuple[Tensor, ...],
        grid: Grid,
        advection: Advection = "fitted",
        cut: tuple[tuple[int, int], ...] = (),
    ) -> TransportOperator:
        """Pools carried by volume flows through the faces (m3/s, one tensor per axis).

        Nothing diffuses through the boundary of the box and nothing flows in through it; but what
        flows in through the faces ``cut`` (axis, side), beyond which the tumour continues, carries
        what the cells there hold.
        """
        before, after = [], []
        for advective_flow, dim in zip(advective_flows(pools, flows), SPACE, strict=True):
            a, b = face_weights(
                face_conductance(pools.diffusion, grid, dim, fixed_value_boundary=False),
                advective_flow,
                dim,
                advection,
            )
            for axis, side in cut:
                if axis == dim + 3:
                    a, b = _zero_gradient_boundary_weights(a, b, advective_flow, dim, side)
            before.append(a / grid.cell_volume)
            after.append(b / grid.cell_volume)
        return cls((before[0], before[1], before[2]), (after[0], after[1], after[2]))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the operand, ``(..., x, y, z)``."""
        x, (*_, y, z) = self.before[1].shape[-3], self.before[0].shape
        return (*self.before[0].shape[:-3], x, y, z)

    def restrict_to(self, pools: list[int]) -> TransportOperator:
        """The operator of some of the pools that move."""
        (b0, b1, b2), (a0, a1, a2) = (
            [f[..., pools, :, :, :] for f in faces] for faces in (self.before, self.after)
        )
        return TransportOperator((b0, b1, b2), (a0, a1, a2))

    @cached_property
    def per_pool(self) -> tuple[TransportOperator, ...]:
        """Pool by pool, as views without a pool axis."""
        alone = zip(*(f.unbind(-4) for f in (*self.before, *self.after)), strict=True)
        return tuple(
            TransportOperator((b0, b1, b2), (a0, a1, a2)) for b0, b1, b2, a0, a1, a2 in alone
        )

    @cached_property
    def diagonal(self) -> Tensor:
        """Outflow of each cell through its faces, ``(..., x, y, z)``, 1/s."""
        total = self.before[0].new_zeros(self.shape)
        for a, b, dim in zip(self.before, self.after, SPACE, strict=True):
            n = a.shape[dim] - 1
            total.add_(a.narrow(dim, 1, n)).add_(b.narrow(dim, 0, n))
        return total

    def subtract_neighbours(
        self, out: Tensor, U: Tensor, weight: float = 1.0, *, transposed: bool = False
    ) -> Tensor:
        """Subtract ``weight`` times the inflow from neighbours, or its transpose, in place."""
        for a, b, dim in zip(self.before, self.after, SPACE, strict=True):
            n = U.shape[dim] - 1
            up, down = (a.narrow(dim, 1, n), b.narrow(dim, 1, n))[:: -1 if transposed else 1]
            out.narrow(dim, 1, n).addcmul_(up, U.narrow(dim, 0, n), value=-weight)
            out.narrow(dim, 0, n).addcmul_(down, U.narrow(dim, 1, n), value=-weight)
        return out

    def boundary_outflow(self, U: Tensor) -> Tensor:
        """What leaves the box, summed over its faces, per pool and cell volume, 1/s times
        concentration.
        """
        total = torch.zeros(U.shape[:-3], dtype=U.dtype, device=U.device)
        for a, b, dim in zip(self.before, self.after, SPACE, strict=True):
            last = a.shape[dim] - 1
            total = total + (a.narrow(dim, last, 1) * U.narrow(dim, last - 1, 1)).sum(dim=SPACE)
            total = total + (b.narrow(dim, 0, 1) * U.narrow(dim, 0, 1)).sum(dim=SPACE)
        return total

    def gradient(self, y: Tensor, U: Tensor) -> tuple[Tensor, ...]:
        """Gradient of ``-y . transport U`` with respect to the weights, those before the faces
        first.
        """
        before, after = [], []
        for dim in SPACE:
            (y0, y1), (U0, U1) = cells_beside_faces(y, dim), cells_beside_faces(U, dim)
            before.append((y1 - y0) * U0)
            after.append((y0 - y1) * U1)
        return *before, *after


#: Schemes of the advective flux. ``fitted``: exponentially fitted (Scharfetter-Gummel), central
#: where diffusion dominates, upwind where flow does, never a new extremum. ``central``: second
#: order, oscillates where the Peclet number of a face exceeds 2. ``upwind``: first order, never a
#: new extremum. ``limited``: upwind with :func:`limiter_divergence` added.
Advection = Literal["fitted", "central", "upwind", "limited"]


def face_weights(
    conductance: Tensor, advective_flow: Tensor, dim: int, advection: Advection
) -> tuple[Tensor, Tensor]:
    """Weights of the face flux ``a C - b C'``, from the cell before each face to that after it,
    m3/s.

    Args:
        conductance: of diffusion, ``(..., faces)``.
        advective_flow: volume flow times mobility.
        dim: axis of the faces.
        advection: the scheme.
    """
    if advection == "fitted":
        return exchange_coefficients(conductance, advective_flow, 0.0)
    ahead, back = advective_flow.clamp_min(0.0), (-advective_flow).clamp_min(0.0)
    if advection == "central":
        n = advective_flow.shape[dim]
        inside = torch.zeros_like(advective_flow)
        inside.narrow(dim, 1, n - 2).fill_(1.0)
        # through the boundary of the box the flow only leaves
        ahead, back = (
            ahead - inside * advective_flow.abs() / 2,
            back - inside * advective_flow.abs() / 2,
        )
    return conductance + ahead, conductance + back


def limiter_divergence(U: Tensor, advective_flow: tuple[Tensor, ...], grid: Grid) -> Tensor:
    """What the limited scheme adds to upwind, as a divergence, ``(..., pool, x, y, z)``,
    concentration per second.

    The antidiffusive flux ``-|q| psi(r)/2 (C' - C)`` with van Leer's limiter ``psi = (r + |r|)/(1 +
    |r|)``, r the slope upwind of the face over the slope at it: second order where the pool is
    smooth, upwind at its extrema.
    """
    total = torch.zeros_like(U)
    for flow, dim in zip(advective_flow, (-3, -2, -1), strict=True):
        n = U.shape[dim]
        slope = U.diff(dim=dim)
        zero = torch.zeros_like(slope.narrow(dim, 0, 1))
        padded = torch.cat([zero, slope, zero], dim=dim)
        inner = flow.narrow(dim, 1, n - 1)
        upwind = torch.where(inner > 0, padded.narrow(dim, 0, n - 1), padded.narrow(dim, 2, n - 1))
        flux = inner.abs() / 2 * _van_leer(upwind, slope) / grid.cell_volume
        total.narrow(dim, 0, n - 1).add_(flux)
        total.narrow(dim, 1, n - 1).sub_(flux)
    return total


def _van_leer(upwind: Tensor, slope: Tensor) -> Tensor:
    """``psi(r) slope``, r = upwind/slope: the harmonic mean of two slopes of one sign, 0 between
    slopes of two.
    """
    product = upwind * slope
    return torch.where(
        product > 0, 2 * product / torch.where(product > 0, upwind + slope, 1.0), 0.0
    )
