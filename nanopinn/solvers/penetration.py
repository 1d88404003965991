"""Pools marched around their vessels, and what is read from profiles: half-distances, means at a distance, shares of tissue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.evolve import Tolerance, integrate_adaptive
from nanopinn.solvers.interval import Interval
from nanopinn.solvers.line import BlockTridiagonalStageSolver
from nanopinn.solvers.radial import KroghCylinders

#: Exact to a thousandth of a pool's mass a step.
KROGH_TOLERANCE = Tolerance(step=1e-3)


def half_distance(profile: Tensor, cylinders: KroghCylinders) -> Tensor:
    """Distance from the vessel wall at which a profile first falls to half its value at the wall, m.

    Args:
        profile: ``(..., cluster, class, r)``.

    Returns:
        ``(..., cluster, class)``; NaN where it stays above half as far as the tissue goes, or there is nothing.
    """
    wall = _at_wall(profile)
    ratio = torch.cat([torch.ones_like(wall), profile / wall], dim=-1)
    x = torch.cat([cylinders.faces[..., :1], cylinders.r], dim=-1).log().expand_as(ratio)
    r = torch.exp(find_first_below(ratio, x, 0.5))
    return torch.where(wall.squeeze(-1) > 0, r - cylinders.wall_radius, torch.nan)


def find_first_below(values: Tensor, x: Tensor, level: float) -> Tensor:
    """Where values ``(..., x)`` first fall below a level, on straight lines between points; NaN where they never do.

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
    """A profile at radii ``(cluster, class, point)``, m, on lines in ln r between cells; flat beyond the outermost."""
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
    """A profile ``(..., cluster, class, r)`` at distances from the wall, the mean over tissue there, ``(..., cluster, x)``.

    At one distance every vessel whose tissue reaches so far has the same of it: classes weigh by their vessels. NaN where none does.
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
    """Mean of values over some of a cluster's tissue, both at :func:`equal_area_radii`, ``(..., cluster)``; NaN where it has none."""
    weight = among * cylinders.tissue_fractions[..., None]
    held = weight.sum((-2, -1))
    return (of * weight).sum((-2, -1)) / torch.where(held > 0, held, torch.nan)


@dataclass(frozen=True)
class KroghSolution:
    """Pools around the vessels of every cluster.

    Attributes:
        times: s. names: of the pools. cylinders: the tissue.
        U: ``(time, pool, cluster, class, r)``, kg/m3 as in the voxel; a pool of microvessels stands at r = 0 alone.
        mean: ``(time, pool, cluster)``, over the tissue (over the vessels for a pool of microvessels).
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
        intervals: of :func:`nanopinn.solvers.krogh.krogh_interval`, in order; an iterator builds each when it is reached.
        names: of the pools.
        vessels: of :func:`nanopinn.solvers.krogh.vessel_pools`.
        save_at: s.
        watch: called with the time and the pools ``(pool, cluster, class, r)`` at the start and after each step.
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
