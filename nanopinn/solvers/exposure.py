"""What an arm does around the vessels of every cluster, for every draw of what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

#: Laws of cell kill, as results name them.
LAWS = ("peak", "rate", "area")
#: Tissue whose cells are counted, as results name it: all that live, those with oxygen to divide, those without, those far from vessels.
KINDS = ("all", "proliferating", "quiescent", "beyond")


@dataclass(frozen=True)
class Exposure:
    """Drug and cells against distance from the vessel wall, and what is counted of them; NaN where there is no such tissue.

    Attributes:
        distances_m: ``(x,)``, from the wall.
        times_s: at which profiles were kept.
        free: ``(draw, t, cluster, x)``, kg/m3 of interstitial fluid; the mean over classes whose tissue reaches so far, by area there.
        cells: ``(draw, t, cluster, x)``, drug in cells and their nuclei, kg per 1e5 cells.
        peak_cells: ``(draw, cluster, x)``, the largest over the run.
        area_free: ``(draw, cluster, x)``, integral of ``free`` over the run, kg s/m3.
        half_distance: ``(draw, t, cluster)``, of drug in cells, m.
        shares: by kind, ``(draw, cluster)``, share of the tissue that is of it; all is 1.
        peak_mean, area_mean: ``(draw, cluster)``, means over the tissue of ``peak_cells`` and ``area_free``.
        survival: by law, ``(draw, cluster, x)``, surviving fraction of proliferating cells.
        lethal_radius: by law, ``(draw, cluster)``, distance within which survival is at most ``lethal``, m; 0 if none.
        killed: by law and kind, ``(draw, cluster)``, share of such tissue's cells whose survival is at most ``lethal``.
        survivors: by law and kind, ``(draw, cluster)``, mean surviving fraction over such tissue.
        means: by pool, ``(draw, t, cluster)``, over the tissue (over the vessels for a pool of microvessels), kg/m3 as in the voxel.
        limit_m: distance that counts as far, m. lethal: surviving fraction that counts as killed.
        balance_error: relative imbalance of mass over all draws and clusters. steps: of the march.
    """

    distances_m: Tensor = field(repr=False)
    times_s: tuple[float, ...]
    free: Tensor = field(repr=False)
    cells: Tensor = field(repr=False)
    peak_cells: Tensor = field(repr=False)
    area_free: Tensor = field(repr=False)
    half_distance: Tensor = field(repr=False)
    shares: Mapping[str, Tensor] = field(repr=False)
    peak_mean: Tensor = field(repr=False)
    area_mean: Tensor = field(repr=False)
    survival: Mapping[str, Tensor] = field(repr=False)
    lethal_radius: Mapping[str, Tensor] = field(repr=False)
    killed: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    survivors: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    means: Mapping[str, Tensor] = field(repr=False)
    limit_m: float
    lethal: float
    balance_error: float
    steps: int
