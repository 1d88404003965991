"""Pools of a voxel resolved around its vessels: one Krogh cylinder per cluster of voxels and class
of tissue radius.

    capacity dU/dt = (1/r) d/dr (r diffusion dU/dr) - reaction U - transfers(U),    R_c < r < R_t
    -diffusion dU/dr = (influx C_v - efflux U) / (S/V)  at R_c,    dU/dr = 0  at R_t

The pools, their reactions and their transport into cells are those of the voxel
(:class:`PoolCoefficients` on a grid ``(cluster, 1, 1)``); only the exchange with vessels, which the
voxel has everywhere, stands at the wall, in series with half the first cell. Per tissue volume both
take up the same, so that a cylinder with fast diffusion is the voxel. A local microvessel pool is
the first cell's, and is depleted by what the tissue takes.

Tensors are ``(pool, cluster, class, r)``, each cell per volume of its ring, so that sums along r
are means over tissue.

Source: Krogh (1919) for the geometry; the pools as in :mod:`nanopinn.physics.drug_pools`.

Pools marched around their vessels, and what is read from profiles: half-distances, means at a
distance, shares of tissue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nanopinn.physics.pools import Entries, PoolCoefficients, SaturableTransfer
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.fluxes import TransportOperator
from nanopinn.solvers.implicit_stage import BlockTridiagonalStageSolver
from nanopinn.solvers.krogh_geometry import KroghCylinders
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.time_segment import Interval


def vessel_pools(pools: PoolCoefficients) -> tuple[int, ...]:
    """Pools that are plasma of the microvessels."""
    return tuple(sorted({wall.vessel for wall in pools.walls if wall.vessel is not None}))


def add_filtration_loss(pools: PoolCoefficients, J_v: Tensor) -> PoolCoefficients:
    """The pools with a loss ``mobility J_v``: fluid that filters into a cluster leaves it with what
    is dissolved there.

    In the voxel model neighbours take it, here nothing would. Exact where a pool and the filtration
    are uniform.

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
    # a pool of vessels has no reaction beyond the first cell; it holds nothing there, in some
    # volume
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
    """Volume in which a pool's reactions happen, per ring: cells for tissue, the first cell for
    vessels.
    """
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
    """Exchange at the wall, in place: ``a C_v - b C_wall`` in series with ``g (C_wall - C)`` of
    half the first cell.
    """
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


#: Exact to a thousandth of a pool's mass a step.
KROGH_TOLERANCE = Tolerance(step=1e-3)


def half_distance(profile: Tensor, cylinders: KroghCylinders) -> Tensor:
    """Distance from the vessel wall at which a profile first falls to half its value at the wall,
    m.

    Args:
        profile: ``(..., cluster, class, r)``.

    Returns:
        ``(..., cluster, class)``; NaN where it stays above half as far as the tissue goes, or there
        is nothing.
    """
    wall = _at_wall(profile)
    ratio = torch.cat([torch.ones_like(wall), profile / wall], dim=-1)
    x = torch.cat([cylinders.faces[..., :1], cylinders.r], dim=-1).log().expand_as(ratio)
    r = torch.exp(find_first_below(ratio, x, 0.5))
    return torch.where(wall.squeeze(-1) > 0, r - cylinders.wall_radius, torch.nan)


def find_first_below(values: Tensor, x: Tensor, level: float) -> Tensor:
    """Where values ``(..., x)`` first fall below a level, on straight lines between points; NaN
    where they never do.

    Where the first value already lies below it, that is at the first point.
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
    """The line through the first two cells, at the wall, ``(..., 1)``."""
    return 1.5 * profile[..., :1] - 0.5 * profile[..., 1:2]


def interpolate_at_radii(profile: Tensor, r: Tensor, cylinders: KroghCylinders) -> Tensor:
    """A profile at radii ``(cluster, class, point)``, m, on lines in ln r between cells; flat
    beyond the outermost.
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
    """A profile ``(..., cluster, class, r)`` at distances from the wall, the mean over tissue
    there, ``(..., cluster, x)``.

    At one distance every vessel whose tissue reaches so far has the same of it: classes weigh by
    their vessels. NaN where none does.
    """
    r = cylinders.wall_radius[..., None] + distances
    ends = torch.cat([_at_wall(profile), profile[..., :1]], dim=-1)
    # half the first cell lies before its centre
    inner = ((r / cylinders.wall_radius[..., None]).log() / (0.5 * cylinders.step)).clamp(0.0, 1.0)
    values = interpolate_at_radii(profile, r, cylinders) - (1 - inner) * (
        ends[..., 1:] - ends[..., :1]
    )
    weight = (r <= cylinders.R_t[..., None]) * cylinders.vessels[:, None]
    held = weight.sum(-2)
    return (values * weight).sum(-2) / torch.where(held > 0, held, torch.nan)


def tissue_average(of: Tensor, among: Tensor, cylinders: KroghCylinders) -> Tensor:
    """Mean of values over some of a cluster's tissue, both at :func:`equal_area_radii`, ``(...,
    cluster)``; NaN where it has none.
    """
    weight = among * cylinders.tissue_fractions[..., None]
    held = weight.sum((-2, -1))
    return (of * weight).sum((-2, -1)) / torch.where(held > 0, held, torch.nan)


@dataclass(frozen=True)
class KroghSolution:
    """Pools around the vessels of every cluster.

    Attributes:
        times: s. names: of the pools. cylinders: the tissue.
        U: ``(time, pool, cluster, class, r)``, kg/m3 as in the voxel; a pool of microvessels stands
            at r = 0 alone.
        mean: ``(time, pool, cluster)``, over the tissue (over the vessels for a pool of
            microvessels).
        imbalance: of mass, relative. steps: of the march.
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
    there = [U[..., names.index(n), :, :, :] for n in ("intracellular", "nuclear") if n in names]
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
    """March the pools of every cylinder from nothing.

    Args:
        intervals: of :func:`nanopinn.solvers.krogh.krogh_interval`, in order; an iterator builds
            each when it is reached.
        names: of the pools.
        vessels: of :func:`nanopinn.solvers.krogh.vessel_pools`.
        save_at: s.
        watch: called with the time and the pools ``(pool, cluster, class, r)`` at the start and
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
