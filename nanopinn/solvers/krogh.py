"""Sub-voxel model: one Krogh cylinder per cluster of voxels and class of tissue radius, its
solution in time, and half-distances and means of radial profiles.

    capacity dU/dt = (1/r) d/dr (r diffusion dU/dr) - reaction U - transfers(U),    R_c < r < R_t
    -diffusion dU/dr = (influx C_v - efflux U) / (S/V)  at R_c,    dU/dr = 0  at R_t

Pools, reactions and transport into cells are those of the voxel (:class:`PoolCoefficients` on a
grid ``(cluster, 1, 1)``). Only the exchange with vessels, which is uniform in a voxel, takes place
at the wall, in series with half the first cell. Uptake per tissue volume is the same, so a cylinder
with fast diffusion equals the voxel. A local microvessel pool belongs to the first cell and is
depleted by the uptake of the tissue.

Tensors are ``(pool, cluster, class, r)``. Each cell counts per volume of its ring, so that sums
along r are means over tissue.

References:
    Krogh, J. Physiol. 52:409 (1919), for the geometry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nanopinn.physics.drug_pools import DRUG_POOLS
from nanopinn.physics.pools import Entries, PoolCoefficients, SaturableTransfer
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.fluxes import TransportOperator
from nanopinn.solvers.implicit_stage import BlockTridiagonalStageSolver
from nanopinn.solvers.krogh_geometry import KroghCylinders
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval, PoolOperator


def vessel_pools(pools: PoolCoefficients) -> tuple[int, ...]:
    """Indices of the pools in the plasma of the microvessels."""
    return tuple(sorted({wall.vessel for wall in pools.walls if wall.vessel is not None}))


def add_filtration_loss(pools: PoolCoefficients, J_v: Tensor) -> PoolCoefficients:
    """Add a loss ``mobility J_v``: fluid that filters into a cluster leaves it with the drug that
    is dissolved in it.

    In the voxel model it flows to the neighbours, which a cluster does not have. Exact where the
    pool and the filtration are uniform.

    Args:
        pools: coefficients of the clusters, ``(cluster, 1, 1)``.
        J_v: filtration, ``(cluster, 1, 1)``, 1/s; reabsorption removes nothing.
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
    """A time interval in which the pools of every cylinder have constant coefficients.

    Args:
        start, end: s.
        pools: coefficients of the clusters, maps ``(cluster, 1, 1)``.
        cylinders: of every cluster.
        plasma: the plasma curves, ``(input,)`` or ``(input, cluster, 1, 1)``, kg/m3.
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
    # a pool of vessels exists in the first cell only; elsewhere it is zero, in an arbitrary volume
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
    """Volume of a pool's reactions per ring: every cell for tissue, the first cell for vessels."""
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
    """Add the exchange at the wall in place: ``a C_v - b C_wall`` in series with ``g (C_wall - C)``
    of half the first cell.
    """
    for wall in pools.walls:
        p, v = wall.pool, wall.vessel
        a, b = (
            rate[..., 0] * cylinders.relative_vessel_density for rate in (wall.influx, wall.efflux)
        )
        # a pool that does not diffuse stays at the wall
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
    """Weights of the faces: diffusion along r, closed at both ends and in the other directions."""
    n, (clusters, classes, cells) = len(pools.moving), cylinders.area.shape
    like = pools.capacity
    along = like.new_zeros((n, clusters, classes, cells + 1))
    along[..., 1:-1] = pools.diffusion * cylinders.conductance
    return (
        like.new_zeros((n, clusters + 1, classes, cells)),
        like.new_zeros((n, clusters, classes + 1, cells)),
        along,
    )


#: Error of a step: a thousandth of the mass of a pool.
KROGH_TOLERANCE = Tolerance(step=1e-3)


def half_distance(profile: Tensor, cylinders: KroghCylinders) -> Tensor:
    """Distance from the vessel wall at which a profile first falls to half its value at the wall,
    m.

    Args:
        profile: ``(..., cluster, class, r)``.
        cylinders: of every cluster.

    Returns:
        ``(..., cluster, class)``; NaN where the profile stays above half within the tissue or is
        zero.
    """
    wall = _at_wall(profile)
    ratio = torch.cat([torch.ones_like(wall), profile / wall], dim=-1)
    x = torch.cat([cylinders.faces[..., :1], cylinders.r], dim=-1).log().expand_as(ratio)
    r = torch.exp(find_first_below(ratio, x, 0.5))
    return torch.where(wall.squeeze(-1) > 0, r - cylinders.wall_radius, torch.nan)


def find_first_below(values: Tensor, x: Tensor, level: float) -> Tensor:
    """Position at which values first fall below a level, by linear interpolation.

    Args:
        values: ``(..., x)``.
        x: positions.
        level: threshold.

    Returns:
        ``(...)``; the first position where the first value is below the level, NaN where none is.
    """
    below = values < level
    after = below.double().argmax(dim=-1, keepdim=True)
    x = x.expand_as(values)
    (x0, x1), (y0, y1) = (
        (v.gather(-1, (after - 1).clamp_min(0)), v.gather(-1, after)) for v in (x, values)
    )
    at = torch.where(
        after == 0, x1, x0 + (x1 - x0) * (y0 - level) / torch.where(y0 == y1, 1.0, y0 - y1)
    )
    return torch.where(below.any(dim=-1, keepdim=True), at, torch.nan).squeeze(-1)


def _at_wall(profile: Tensor) -> Tensor:
    """Linear extrapolation from the first two cells to the wall, ``(..., 1)``."""
    return 1.5 * profile[..., :1] - 0.5 * profile[..., 1:2]


def interpolate_at_radii(profile: Tensor, r: Tensor, cylinders: KroghCylinders) -> Tensor:
    """A profile at radii, linear in ln r between cells and constant beyond the outermost.

    Args:
        profile: ``(..., cluster, class, r)``.
        r: radii, ``(cluster, class, point)``, m.
        cylinders: of every cluster.
    """
    at = ((r / cylinders.wall_radius[..., None]).log() / cylinders.step - 0.5).clamp(
        0.0, cylinders.cells - 1.0
    )
    low = at.floor().clamp_max(cylinders.cells - 2.0)
    index = low.long().expand(*profile.shape[:-1], r.shape[-1])
    lower, upper = profile.gather(-1, index), profile.gather(-1, index + 1)
    return lower + (at - low) * (upper - lower)


def equal_area_radii(cylinders: KroghCylinders, points: int = 200) -> Tensor:
    """Radii in the middle of rings of equal tissue area, ``(cluster, class, point)``, m."""
    share = (
        torch.arange(points, dtype=cylinders.R_t.dtype, device=cylinders.R_t.device) + 0.5
    ) / points
    return (cylinders.wall_radius[..., None] ** 2 + share * cylinders.ring_area[..., None]).sqrt()


def interpolate_at_distances(
    profile: Tensor, distances: Tensor, cylinders: KroghCylinders
) -> Tensor:
    """Mean of a profile over the tissue at distances from the wall.

    At one distance every vessel whose tissue extends so far has the same amount of tissue, so
    classes are weighted by their vessels.

    Args:
        profile: ``(..., cluster, class, r)``.
        distances: ``(x,)``, m.
        cylinders: of every cluster.

    Returns:
        ``(..., cluster, x)``; NaN where no tissue extends so far.
    """
    r = cylinders.wall_radius[..., None] + distances
    ends = torch.cat([_at_wall(profile), profile[..., :1]], dim=-1)
    # half the first cell lies before its centre
    inner = ((r / cylinders.wall_radius[..., None]).log() / (0.5 * cylinders.step)).clamp(0.0, 1.0)
    values = interpolate_at_radii(profile, r, cylinders) - (1 - inner) * (
        ends[..., 1:] - ends[..., :1]
    )
    weight = (r <= cylinders.R_t[..., None]) * cylinders.vessels[:, None]
    total = weight.sum(-2)
    return (values * weight).sum(-2) / torch.where(total > 0, total, torch.nan)


def tissue_average(values: Tensor, region: Tensor, cylinders: KroghCylinders) -> Tensor:
    """Mean of values over a region of a cluster's tissue.

    Args:
        values: at :func:`equal_area_radii`, ``(..., cluster, class, point)``.
        region: which points count.
        cylinders: of every cluster.

    Returns:
        ``(..., cluster)``; NaN where the region is empty.
    """
    weight = region * cylinders.tissue_fractions[..., None]
    total = weight.sum((-2, -1))
    return (values * weight).sum((-2, -1)) / torch.where(total > 0, total, torch.nan)


@dataclass(frozen=True)
class KroghSolution:
    """Pools around the vessels of every cluster.

    Attributes:
        times: s.
        names: of the pools.
        cylinders: the tissue.
        U: ``(time, pool, cluster, class, r)``, kg/m3 as in the voxel; a pool of microvessels is in
            the first cell only.
        mean: over the tissue, or over the vessels for a pool of microvessels, ``(time, pool,
            cluster)``.
        mass_balance_error: relative.
        steps: of the time integration.
    """

    times: tuple[float, ...]
    names: tuple[str, ...]
    cylinders: KroghCylinders = field(repr=False)
    U: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    mass_balance_error: float
    steps: int

    def pool(self, name: str) -> Tensor:
        """One pool, ``(time, cluster, class, r)``."""
        return self.U[:, self.names.index(name)]

    def cells(self) -> Tensor:
        """Drug in cells and their nuclei, ``(time, cluster, class, r)``, kg/m3 of tissue."""
        return intracellular_drug(self.U, self.names)


def intracellular_drug(U: Tensor, names: Sequence[str]) -> Tensor:
    """Drug in cells and their nuclei, of pools ``(..., pool, cluster, class, r)``."""
    cellular = {name for name, pool in DRUG_POOLS.items() if pool.volume == "tissue"}
    there = [U[..., p, :, :, :] for p, name in enumerate(names) if name in cellular]
    return sum(there, torch.zeros_like(U[..., 0, :, :, :]))


def solve_cylinders(
    intervals: Iterable[Interval],
    names: tuple[str, ...],
    vessels: Sequence[int],
    cylinders: KroghCylinders,
    save_at: Sequence[float],
    *,
    tolerance: Tolerance = KROGH_TOLERANCE,
    progress: Progress = ignore_progress,
    on_step: Callable[[float, Tensor], None] | None = None,
) -> KroghSolution:
    """Integrate the pools of every cylinder in time, from zero.

    Args:
        intervals: of :func:`krogh_interval`, in order; an iterator builds each when it is reached.
        names: of the pools.
        vessels: of :func:`vessel_pools`.
        cylinders: of every cluster.
        save_at: times at which the pools are saved, s.
        tolerance: of the time integration.
        progress: called with the stage and the fraction that is done.
        on_step: called with the time and the pools ``(pool, cluster, class, r)`` at the start and
            after each step.
    """
    start = cylinders.area.new_zeros((len(names), *cylinders.area.shape))
    run = integrate_adaptive(
        intervals,
        start,
        save_at,
        tolerance=tolerance,
        stage_factory=BlockTridiagonalStageSolver,
        progress=progress,
        on_step=on_step,
    )
    mean = cylinders.tissue_mean(run.U)
    for v in vessels:
        mean[:, v] = (run.U[:, v, ..., 0] * cylinders.vessels).sum(-1)
    return KroghSolution(
        run.times, names, cylinders, run.U, mean, run.balance.error, len(run.steps)
    )
