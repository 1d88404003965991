"""How far a drug comes from its vessels: profiles around them, and what is read from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanopinn.physics.oxygen import OxygenSupply, OxygenZones
from nanopinn.progress import Progress, silent
from nanopinn.solvers.evolve import Tolerance, evolve
from nanopinn.solvers.interval import Interval
from nanopinn.solvers.line import LineMatrix
from nanopinn.solvers.radial import Cylinders

#: Exact to a thousandth of a pool's mass a step.
TOLERANCE = Tolerance(step=1e-3)


def half_distance(profile: Tensor, cylinders: Cylinders) -> Tensor:
    """Distance from the vessel wall at which a profile first falls to half its value at the wall, m.

    Args:
        profile: ``(..., cluster, class, r)``.

    Returns:
        ``(..., cluster, class)``; NaN where it stays above half as far as the tissue goes, or there is nothing.
    """
    wall = 1.5 * profile[..., :1] - 0.5 * profile[..., 1:2]
    ratio = torch.cat([torch.ones_like(wall), profile / wall], dim=-1)
    below = ratio < 0.5
    after = below.double().argmax(dim=-1, keepdim=True).clamp_min(1)
    x = torch.cat([cylinders.faces[..., :1], cylinders.r], dim=-1).log().expand_as(ratio)
    (x0, x1), (y0, y1) = ((v.gather(-1, after - 1), v.gather(-1, after)) for v in (x, ratio))
    r = torch.exp(x0 + (x1 - x0) * (y0 - 0.5) / (y0 - y1))
    reached = below.any(dim=-1, keepdim=True) & (wall > 0)
    return torch.where(reached, r - cylinders.R_c, torch.nan).squeeze(-1)


def by_area(profile: Tensor, cylinders: Cylinders, points: int = 200) -> tuple[Tensor, Tensor]:
    """A profile at points of equal tissue area, ``(..., cluster, class, point)``, and their radii, m; linear in ln r."""
    share = (torch.arange(points, dtype=profile.dtype, device=profile.device) + 0.5) / points
    r = (cylinders.R_c**2 + share * cylinders.ring[..., None]).sqrt()
    at = ((r / cylinders.R_c).log() / cylinders.step - 0.5).clamp(0.0, cylinders.cells - 1.0)
    low = at.floor().clamp_max(cylinders.cells - 2.0)
    index = low.long().expand(*profile.shape[:-1], points)
    lower, upper = profile.gather(-1, index), profile.gather(-1, index + 1)
    return lower + (at - low) * (upper - lower), r


def reached(profile: Tensor, threshold: float, cylinders: Cylinders, inner: Tensor, outer: Tensor) -> Tensor:
    """Share of a cluster's tissue between two radii in which a profile is above a threshold, ``(..., cluster)``.

    Args:
        profile: ``(..., cluster, class, r)``.
        inner, outer: ``(cluster, class)``, m. NaN is returned where a cluster has no such tissue.
    """
    values, r = by_area(profile, cylinders)
    zone = (r >= inner[..., None]) & (r < outer[..., None])
    held = (zone * cylinders.share[..., None]).sum((-2, -1))
    above = ((values > threshold) & zone).to(values.dtype) * cylinders.share[..., None]
    return above.sum((-2, -1)) / torch.where(held > 0, held, torch.nan)


@dataclass(frozen=True)
class KroghResult:
    """Pools around the vessels of every cluster.

    Attributes:
        times: s. names: of the pools. cylinders: the tissue.
        U: ``(time, pool, cluster, class, r)``, kg/m3 as in the voxel; a pool of microvessels stands at r = 0 alone.
        mean: ``(time, pool, cluster)``, over the tissue (over the vessels for a pool of microvessels).
        half_free, half_cells: ``(time, cluster, class)``, half-distance of free drug and of drug in cells, m.
        oxygen: zones of every cylinder, ``(cluster, class)``.
        proliferating, quiescent: ``(time, cluster)``, share of such tissue in which drug in cells exceeds ``threshold``.
        threshold: kg/m3 of tissue. imbalance: of mass, relative. steps: of the march.
    """

    times: tuple[float, ...]
    names: tuple[str, ...]
    cylinders: Cylinders = field(repr=False)
    U: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    half_free: Tensor = field(repr=False)
    half_cells: Tensor = field(repr=False)
    oxygen: OxygenZones = field(repr=False)
    proliferating: Tensor = field(repr=False)
    quiescent: Tensor = field(repr=False)
    threshold: float
    imbalance: float
    steps: int

    def pool(self, name: str) -> Tensor:
        """One pool, ``(time, cluster, class, r)``."""
        return self.U[:, self.names.index(name)]


def solve_cylinders(
    intervals: Sequence[Interval], names: tuple[str, ...], vessels: Sequence[int], cylinders: Cylinders, save_at: Sequence[float],
    *, threshold: float, oxygen: OxygenSupply | None = None, tolerance: Tolerance = TOLERANCE, progress: Progress = silent,
) -> KroghResult:  # fmt: skip
    """March the pools of every cylinder from nothing, and read from their profiles how far the drug comes.

    Args:
        intervals: of :func:`nanopinn.solvers.krogh.krogh_interval`, in order.
        names: of the pools; "free" and, of what is in cells, "intracellular" and "nuclear" are read.
        vessels: of :func:`nanopinn.solvers.krogh.vessel_pools`.
        save_at: s.
        threshold: of drug in cells, kg/m3 of tissue.
        oxygen: the table's, if None.
    """
    start = torch.zeros_like(intervals[0].capacity)
    run = evolve(intervals, start, save_at, tolerance=tolerance, stage_of=LineMatrix, progress=progress)
    mean = cylinders.tissue_mean(run.U)
    for v in vessels:
        mean[:, v] = (run.U[:, v, ..., 0] * cylinders.vessels).sum(-1)
    cells = sum((run.U[:, names.index(n)] for n in ("intracellular", "nuclear") if n in names), torch.zeros_like(run.U[:, 0]))
    zones = (oxygen or OxygenSupply.of_table()).zones(cylinders.R_t, cylinders.R_c)
    wall = torch.full_like(zones.r_hypoxia, cylinders.R_c)
    return KroghResult(
        run.times, names, cylinders, run.U, mean, half_distance(run.U[:, names.index("free")], cylinders), half_distance(cells, cylinders),
        zones, reached(cells, threshold, cylinders, wall, zones.r_hypoxia),
        reached(cells, threshold, cylinders, zones.r_hypoxia, zones.r_necrosis), threshold, run.balance.error, len(run.steps),
    )  # fmt: skip
