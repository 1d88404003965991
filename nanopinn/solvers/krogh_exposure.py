"""Exposure of cells to drug around the vessels of every cluster, and cell kill, for every draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from nanopinn.parameters import Number, Values, parameter_lookup
from nanopinn.physics.cell_kill import CELLS_PER_UNIT, KILL_MODELS, CellKillParameters
from nanopinn.physics.oxygen import OxygenSupply
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.krogh import (
    KROGH_TOLERANCE,
    KroghSolution,
    equal_area_radii,
    find_first_below,
    interpolate_at_distances,
    interpolate_at_radii,
    intracellular_drug,
    solve_cylinders,
    tissue_average,
)
from nanopinn.solvers.krogh_geometry import KroghCylinders
from nanopinn.solvers.nonlinear_pools import Tolerance
from nanopinn.solvers.operator import Interval

#: Distances from the wall at which profiles are given, m.
DISTANCES_M = tuple(2.5e-6 * i for i in range(61))
#: Populations of living cells by key: all, those with enough oxygen to divide, those without, and
#: those far from vessels.
CELL_POPULATIONS = {
    "all": "all cells",
    "proliferating": "proliferating cells",
    "quiescent": "quiescent cells",
    "beyond": "cells beyond the limit",
}


@dataclass(frozen=True)
class Exposure:
    """Drug and survival against distance from the vessel wall, and fractions of killed cells; NaN
    where there is no such tissue.

    Kill models and populations are named by :data:`nanopinn.physics.cell_kill.KILL_MODELS` and
    :data:`CELL_POPULATIONS`.

    Attributes:
        distances_m: from the wall, ``(x,)``.
        times_s: at which profiles are saved.
        free: free drug, ``(draw, t, cluster, x)``, kg/m3 of interstitial fluid; mean over the
            classes whose tissue extends so far, weighted by area there.
        cells: drug in cells and their nuclei, ``(draw, t, cluster, x)``, kg per 1e5 cells.
        peak_intracellular: peak intracellular concentration, ``(draw, cluster, x)``, kg per 1e5
            cells.
        auc_free: AUC of free drug, ``(draw, cluster, x)``, kg s/m3.
        half_distance: of drug in cells, ``(draw, t, cluster)``, m.
        shares: fraction of the tissue of each population, ``(draw, cluster)``; the rest is
            necrotic.
        mean_peak_intracellular: mean of ``peak_intracellular`` over the tissue, ``(draw,
            cluster)``.
        mean_auc_free: mean of ``auc_free`` over the tissue, ``(draw, cluster)``.
        survival: surviving fraction of proliferating cells by kill model, ``(draw, cluster, x)``.
        lethal_radius: distance within which survival is at most ``lethal``, by kill model, ``(draw,
            cluster)``, m; 0 if there is none.
        killed: fraction of cells whose survival is at most ``lethal``, by kill model and
            population, ``(draw, cluster)``.
        mean_survival: mean surviving fraction by kill model and population, ``(draw, cluster)``.
        means: mean of each pool over the tissue (over the vessels for a pool of microvessels),
            ``(draw, t, cluster)``, kg/m3 as in the voxel.
        far_distance_m: distance from the wall that counts as far, m.
        lethal: surviving fraction that counts as killed.
        mass_balance_error: relative, over all draws and clusters.
        steps: of the time integration.
    """

    distances_m: Tensor = field(repr=False)
    times_s: tuple[float, ...]
    free: Tensor = field(repr=False)
    cells: Tensor = field(repr=False)
    peak_intracellular: Tensor = field(repr=False)
    auc_free: Tensor = field(repr=False)
    half_distance: Tensor = field(repr=False)
    shares: Mapping[str, Tensor] = field(repr=False)
    mean_peak_intracellular: Tensor = field(repr=False)
    mean_auc_free: Tensor = field(repr=False)
    survival: Mapping[str, Tensor] = field(repr=False)
    lethal_radius: Mapping[str, Tensor] = field(repr=False)
    killed: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    mean_survival: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    means: Mapping[str, Tensor] = field(repr=False)
    far_distance_m: float
    lethal: float
    mass_balance_error: float
    steps: int

    @classmethod
    def concatenate(cls, batches: Sequence[Exposure]) -> Exposure:
        """Join batches of draws in their order; the mass-balance error is the largest of theirs."""
        first = batches[0]
        every = {
            f.name: _concatenate([getattr(b, f.name) for b in batches])
            for f in fields(cls)
            if f.name not in ("distances_m", *_PLAIN)
        }
        plain = {
            name: getattr(first, name)
            for name in ("distances_m", "times_s", "far_distance_m", "lethal")
        }
        return cls(
            **plain,
            **every,
            mass_balance_error=max(b.mass_balance_error for b in batches),
            steps=sum(b.steps for b in batches),
        )


_PLAIN = ("times_s", "far_distance_m", "lethal", "mass_balance_error", "steps")


def _concatenate(parts: Sequence[Any]) -> Any:
    """Join tensors, or mappings of tensors, along the draws."""
    return (
        torch.cat(list(parts))
        if isinstance(parts[0], Tensor)
        else {k: _concatenate([v[k] for v in parts]) for k in parts[0]}
    )


@dataclass(frozen=True)
class KillCriteria:
    """Thresholds for counting cells.

    Attributes:
        far_distance_m: distance from the vessel wall that counts as far, m.
        lethal: surviving fraction at or below which a cell counts as killed.
    """

    far_distance_m: float = 50e-6
    lethal: float = 0.5


def simulate_exposure(
    intervals: Iterable[Interval],
    names: tuple[str, ...],
    vessels: Sequence[int],
    cylinders: KroghCylinders,
    draws: int,
    save_at: Sequence[float],
    values: Values | None = None,
    *,
    counted: KillCriteria | None = None,
    tolerance: Tolerance = KROGH_TOLERANCE,
    progress: Progress = ignore_progress,
) -> Exposure:
    """Integrate the clusters of all draws in time, and compute the exposure of their cells.

    Args:
        intervals, names, vessels, save_at, tolerance, progress: as in
            :func:`nanopinn.solvers.krogh.solve_cylinders`.
        cylinders: of all clusters, draw by draw.
        draws: number of draws.
        values: of parameters by symbol, in place of the table's, one or ``(draw * cluster, 1, 1)``.
        counted: thresholds for counting cells.
    """
    accumulator = ExposureAccumulator(names, values)
    run = solve_cylinders(
        intervals,
        names,
        vessels,
        cylinders,
        save_at,
        tolerance=tolerance,
        progress=progress,
        on_step=accumulator,
    )
    return compute_exposure(run, accumulator, draws, counted or KillCriteria())


class ExposureAccumulator:
    """Exposure by every kill model along a time integration, linear in time between its steps.

    Args:
        names: of the pools.
        values: of parameters by symbol, in place of the table's.

    Attributes:
        exposures: by kill model, ``(cluster, class, r)``, of proliferating cells.
        parameters: of the kill models.
        per_unit: drug in 1e5 cells per drug in tissue, kg per kg/m3.
    """

    def __init__(self, names: tuple[str, ...], values: Values | None = None) -> None:
        self.names, self.values = names, values or {}
        self.parameters = CellKillParameters.from_values(values)
        self.per_unit = CELLS_PER_UNIT / parameter_lookup(values)("rho_c")
        self.exposures: dict[str, Tensor] = {}
        self._last: tuple[float, Mapping[str, Tensor]] | None = None

    def __call__(self, t: float, U: Tensor) -> None:
        C = {
            "intracellular": intracellular_drug(U, self.names) * self.per_unit,
            "free": U[self.names.index("free")].clone(),
        }
        if self._last is None:
            self.exposures = {
                key: model.initial(C[model.concentration]) for key, model in KILL_MODELS.items()
            }
        else:
            before, C_0 = self._last
            self.exposures = {
                key: model.accumulate(
                    self.exposures[key],
                    C_0[model.concentration],
                    C[model.concentration],
                    t - before,
                    self.parameters,
                )
                for key, model in KILL_MODELS.items()
            }
        self._last = (t, C)

    @property
    def peak(self) -> Tensor:
        """Peak intracellular concentration, kg per 1e5 cells."""
        return self.exposures["peak"]

    @property
    def auc_free(self) -> Tensor:
        """AUC of free drug, kg s/m3."""
        return self.exposures["area"]

    def survival(
        self, exposures: Mapping[str, Tensor], resistance: Number = 1.0
    ) -> dict[str, Tensor]:
        """Surviving fraction by every kill model.

        Args:
            exposures: by kill model.
            resistance: of the cells over proliferating ones.
        """
        return {
            key: model.survival(exposures[key], self.parameters, resistance)
            for key, model in KILL_MODELS.items()
        }


_ByPopulation = dict[str, dict[str, Tensor]]


def compute_exposure(
    run: KroghSolution, accumulator: ExposureAccumulator, draws: int, counted: KillCriteria
) -> Exposure:
    """Compute the exposure from a solution and what was accumulated along it.

    Args:
        run: the solution for the clusters of all draws, draw by draw.
        accumulator: called at every step of it.
        draws: number of draws.
        counted: thresholds for counting cells.
    """
    cylinders = run.cylinders
    x = cylinders.R_t.new_tensor(DISTANCES_M)

    def by_draw(values: Tensor) -> Tensor:
        """``(..., draw * cluster, x)`` as ``(draw, ..., cluster, x)``."""
        return values.unflatten(-2, (draws, -1)).movedim(-3, 0)

    cells = interpolate_at_distances(run.cells() * accumulator.per_unit, x, cylinders)
    survival = accumulator.survival(accumulator.exposures)
    shown = {law: interpolate_at_distances(S, x, cylinders) for law, S in survival.items()}
    killed, survivors, shares = _count_kill(cylinders, accumulator, counted)

    def mean(values: Tensor) -> Tensor:
        return cylinders.tissue_mean(values).unflatten(0, (draws, -1))

    def each(values: _ByPopulation) -> _ByPopulation:
        return {
            law: {kind: v.unflatten(0, (draws, -1)) for kind, v in kinds.items()}
            for law, kinds in values.items()
        }

    return Exposure(
        distances_m=x,
        times_s=run.times,
        free=by_draw(interpolate_at_distances(run.pool("free"), x, cylinders)),
        cells=by_draw(cells),
        peak_intracellular=by_draw(interpolate_at_distances(accumulator.peak, x, cylinders)),
        auc_free=by_draw(interpolate_at_distances(accumulator.auc_free, x, cylinders)),
        half_distance=by_draw(_half_distance(cells, x)[..., None])[..., 0],
        shares={kind: v.unflatten(0, (draws, -1)) for kind, v in shares.items()},
        mean_peak_intracellular=mean(accumulator.peak),
        mean_auc_free=mean(accumulator.auc_free),
        survival={law: by_draw(S) for law, S in shown.items()},
        lethal_radius={
            law: by_draw(_lethal_distance(S, x, counted.lethal)[..., None])[..., 0]
            for law, S in shown.items()
        },
        killed=each(killed),
        mean_survival=each(survivors),
        means={
            n: run.mean[:, p].unflatten(-1, (draws, -1)).movedim(-2, 0)
            for p, n in enumerate(run.names)
        },
        far_distance_m=counted.far_distance_m,
        lethal=counted.lethal,
        mass_balance_error=run.mass_balance_error,
        steps=run.steps,
    )


def _half_distance(profile: Tensor, x: Tensor) -> Tensor:
    """Distance at which a profile is half its value at the wall, m."""
    wall = profile[..., :1]
    return torch.where(wall[..., 0] > 0, find_first_below(profile / wall, x, 0.5), torch.nan)


def _lethal_distance(survival: Tensor, x: Tensor, lethal: float) -> Tensor:
    """Distance from the wall within which survival is at most ``lethal``, m; limited to the extent
    of the tissue.
    """
    tissue = torch.where(torch.isnan(survival), -torch.inf, x.expand_as(survival)).amax(-1)
    found = find_first_below(-survival, x, -lethal)
    return torch.where(torch.isnan(found), tissue, found)


def _count_kill(
    cylinders: KroghCylinders, accumulator: ExposureAccumulator, counted: KillCriteria
) -> tuple[_ByPopulation, _ByPopulation, dict[str, Tensor]]:
    """Killed fraction and mean survival by kill model and population, and the fraction of tissue of
    each population, ``(cluster,)`` each.
    """
    r = equal_area_radii(cylinders)
    along_classes = {
        n: v[..., 0] if isinstance(v, Tensor) else v for n, v in accumulator.values.items()
    }
    zones = OxygenSupply.from_values(along_classes).zones(cylinders.R_t, cylinders.wall_radius)
    growing, alive = (r < radius[..., None] for radius in (zones.r_hypoxia, zones.r_necrosis))
    far = r > cylinders.wall_radius[..., None] + counted.far_distance_m
    kinds = {
        "all": alive,
        "proliferating": growing & alive,
        "quiescent": alive & ~growing,
        "beyond": alive & far,
    }
    resistance = torch.where(
        growing,
        1.0,
        torch.as_tensor(accumulator.parameters.resistance, dtype=r.dtype, device=r.device),
    )
    exposures = {
        key: interpolate_at_radii(v, r, cylinders) for key, v in accumulator.exposures.items()
    }
    S = accumulator.survival(exposures, resistance)

    def over(values: Mapping[str, Tensor]) -> _ByPopulation:
        return {
            law: {kind: tissue_average(v, among, cylinders) for kind, among in kinds.items()}
            for law, v in values.items()
        }

    return (
        over({law: (s <= counted.lethal).to(s) for law, s in S.items()}),
        over(S),
        {
            kind: tissue_average(among.to(r), torch.ones_like(r), cylinders)
            for kind, among in kinds.items()
        },
    )
