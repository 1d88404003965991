"""Pools of a voxel resolved around its vessels: one Krogh cylinder per cluster of voxels and class of tissue radius.

    capacity dU/dt = (1/r) d/dr (r diffusion dU/dr) - reaction U - transfers(U),    R_c < r < R_t
    -diffusion dU/dr = (influx C_v - efflux U) / (S/V)  at R_c,    dU/dr = 0  at R_t

The pools, their reactions and their transport into cells are those of the voxel (:class:`PoolCoefficients` on a
grid ``(cluster, 1, 1)``); only the exchange with vessels, which the voxel has everywhere, stands at the wall, in series
with half the first cell. Per tissue volume both take up the same, so that a cylinder with fast diffusion is the voxel.
A local microvessel pool is the first cell's, and is depleted by what the tissue takes.

Tensors are ``(pool, cluster, class, r)``, each cell per volume of its ring, so that sums along r are means over tissue.

Source: Krogh (1919) for the geometry; the pools as in :mod:`nanopinn.physics.drug`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nanopinn.physics.pools import Entries, PoolCoefficients, SaturableTransfer
from nanopinn.solvers.fluxes import TransportOperator
from nanopinn.solvers.interval import Interval
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.radial import KroghCylinders


def vessel_pools(pools: PoolCoefficients) -> tuple[int, ...]:
    """Pools that are plasma of the microvessels."""
    return tuple(sorted({wall.vessel for wall in pools.walls if wall.vessel is not None}))


def add_filtration_loss(pools: PoolCoefficients, J_v: Tensor) -> PoolCoefficients:
    """The pools with a loss ``mobility J_v``: fluid that filters into a cluster leaves it with what is dissolved there.

    In the voxel model neighbours take it, here nothing would. Exact where a pool and the filtration are uniform.

    Args:
        J_v: filtration, ``(cluster, 1, 1)``, 1/s; reabsorption takes nothing.
    """
    reaction = dict(pools.reaction)
    for p, mobility in zip(pools.moving, pools.mobility, strict=True):
        loss = mobility * J_v.clamp_min(0.0)
        reaction[p, p] = reaction[p, p] + loss if (p, p) in reaction else loss
    return replace(pools, reaction=reaction)


def krogh_interval(
    start: float,
    end: float,
    pools: PoolCoefficients,
    cylinders: KroghCylinders,
    plasma: Callable[[float], Tensor],
) -> Interval:
    """A stretch of time in which the pools of every cylinder have constant coefficients.

    Args:
        pools: coefficients of the clusters, maps ``(cluster, 1, 1)``.
        plasma: the curves, ``(input,)`` or ``(input, cluster, 1, 1)``, kg/m3.
    """
    operator, capacity, transfers = krogh_operator(pools, cylinders)
    return Interval(start, end, operator, capacity, plasma, transfers)


def krogh_operator(
    pools: PoolCoefficients, cylinders: KroghCylinders
) -> tuple[PoolOperator, Tensor, tuple[SaturableTransfer, ...]]:
    """Operator, capacity and saturable transport of the pools in every cylinder."""
    area, weight = cylinders.area, _reaction_volumes(pools, cylinders)
    reaction, inflow = (
        {(p, q): m * weight[p] for (p, q), m in entries.items()}
        for entries in _tissue_entries(pools)
    )
    _add_walls(reaction, inflow, pools, cylinders)
    # a pool of vessels has no reaction beyond the first cell; it holds nothing there, in some volume
    capacity = pools.capacity * torch.where(weight > 0, weight, area)
    transfers = tuple(
        replace(k, uptake=k.uptake * area, efflux=k.efflux * area) for k in pools.transfers
    )
    faces = _face_weights(pools, cylinders)
    return (
        PoolOperator(
            len(pools.names), pools.moving, TransportOperator(faces, faces), reaction, inflow
        ),
        capacity,
        transfers,
    )


def _reaction_volumes(pools: PoolCoefficients, cylinders: KroghCylinders) -> Tensor:
    """Volume in which a pool's reactions happen, per ring: cells for tissue, the first cell for vessels."""
    vessel = torch.zeros_like(cylinders.area)
    vessel[..., 0] = cylinders.relative_vessel_density
    of_vessels = vessel_pools(pools)
    return torch.stack(
        [vessel if p in of_vessels else cylinders.area for p in range(len(pools.names))]
    )


def _tissue_entries(
    pools: PoolCoefficients,
) -> tuple[dict[tuple[int, int], Tensor], dict[tuple[int, int], Tensor]]:
    """Reaction and inflow without the exchange through walls."""
    reaction, inflow = dict(pools.reaction), dict(pools.inflow)
    for wall in pools.walls:
        p, v = wall.pool, wall.vessel
        reaction[p, p] = reaction[p, p] - wall.efflux
        if v is None:
            inflow[p, wall.plasma] = inflow[p, wall.plasma] - wall.influx
        else:
            reaction[v, v] = reaction[v, v] - wall.influx
            reaction[p, v] = reaction[p, v] + wall.influx
            reaction[v, p] = reaction[v, p] + wall.efflux
    return reaction, inflow


def _add_walls(
    reaction: Entries, inflow: Entries, pools: PoolCoefficients, cylinders: KroghCylinders
) -> None:
    """Exchange at the wall, in place: ``a C_v - b C_wall`` in series with ``g (C_wall - C)`` of half the first cell."""
    for wall in pools.walls:
        p, v = wall.pool, wall.vessel
        a, b = (
            rate[..., 0] * cylinders.relative_vessel_density for rate in (wall.influx, wall.efflux)
        )
        # what does not diffuse does not come away from the wall
        D = (
            pools.diffusion[pools.moving.index(p)]
            if p in pools.moving
            else torch.zeros_like(pools.capacity[p])
        )
        g = 2 * D[..., 0] * cylinders.conductance[..., 0]
        a, b = a * g / (g + b), b * g / (g + b)
        reaction[p, p][..., 0] += b
        if v is None:
            inflow[p, wall.plasma][..., 0] += a
        else:
            reaction[v, v][..., 0] += a
            reaction[p, v][..., 0] -= a
            reaction[v, p][..., 0] -= b


def _face_weights(
    pools: PoolCoefficients, cylinders: KroghCylinders
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the faces, closed but along r and at its ends; diffusion weighs both sides alike."""
    n, (clusters, classes, cells) = len(pools.moving), cylinders.area.shape
    like = pools.capacity
    along = like.new_zeros((n, clusters, classes, cells + 1))
    along[..., 1:-1] = pools.diffusion * cylinders.conductance
    return (
        like.new_zeros((n, clusters + 1, classes, cells)),
        like.new_zeros((n, clusters, classes + 1, cells)),
        along,
    )
