"""What a comparison of treatments returns: arms side by side, what reaches cells far from vessels,
and how sure that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nanopinn.results.fit_result import MapEstimate
from nanopinn.results.simulation_result import Simulation

Array = NDArray[np.float64]
#: Quantiles that are shown beside the median: a central 90 % interval.
LOW, HIGH = 0.05, 0.95
#: Kinds of cells, in words.
CELL_POPULATIONS = {
    "all": "all cells",
    "proliferating": "proliferating cells",
    "quiescent": "quiescent cells",
    "beyond": "cells farther than the limit",
}


def median_and_interval(values: Array) -> Array:
    """Median and central 90 % interval over draws ``(draw, ...)`` as ``(3, ...)``; row 0, the run
    at the medians, is no draw.

    Where there are no draws, the run at the medians stands for all three.
    """
    drawn = values[1:] if len(values) > 1 else values
    known = np.isfinite(drawn).any(axis=0)
    out = np.full((3, *drawn.shape[1:]), np.nan)
    if drawn.ndim == 1:
        return np.nanquantile(drawn, [0.5, LOW, HIGH]) if known else out
    out[:, known] = np.nanquantile(drawn[:, known], [0.5, LOW, HIGH], axis=0)
    return out


@dataclass(frozen=True)
class Outcome:
    """One number by which arms are compared.

    Attributes:
        values: by arm, ``(draw,)``; the first is the run at the medians of everything. NaN where it
            does not exist.
    """

    name: str
    unit: str
    description: str
    values: Mapping[str, Array]

    def interval(self, arm: str) -> tuple[float, float, float]:
        """Median, and the ends of the central 90 % interval."""
        median, low, high = median_and_interval(self.values[arm])
        return float(median), float(low), float(high)


@dataclass(frozen=True)
class PenetrationCurves:
    """Means over the tumour against the distance from the vessel's wall; leading axis: median, low,
    high.

    Attributes:
        distance_um: ``(x,)``. times_h: ``(t,)``.
        cells, free: drug in cells (ng/1e5 cells) and in the interstitium (ug/mL), ``(3, t, x)``.
        peak: largest drug in cells, ng/1e5 cells, ``(3, x)``. survival: by law, ``(3, x)``.
    """

    distance_um: Array
    times_h: Array
    cells: Array
    free: Array
    peak: Array
    survival: Mapping[str, Array]


@dataclass(frozen=True)
class ComparedArm:
    """One arm: at the medians on the voxel grid, over the draws under the voxel.

    Attributes:
        simulation: pools on the voxel grid. curves: means over the tumour. maps: what happens under
            each voxel, back on the grid.
        mass_balance_error: of mass, the worst of all cylinders.
        cluster_peak_concentration: largest drug in cells against distance in each group of voxels,
            ng/1e5 cells, ``(3, group, x)``: median, low, high.
    """

    name: str
    simulation: Simulation
    curves: PenetrationCurves
    maps: Mapping[str, MapEstimate]
    mass_balance_error: float
    cluster_peak_concentration: Array


@dataclass(frozen=True)
class VoxelCluster:
    """Voxels that are alike.

    Attributes:
        voxels: how many. values: their means, by name with unit, at the medians. lethal: by arm,
            median and 90 % interval of the share of cells beyond the limit that are lethally
            exposed.
    """

    voxels: int
    values: Mapping[str, float]
    lethal: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class HeatingDurationSweep:
    """How long the tumour is heated, and what that does beyond the limit.

    Attributes:
        minutes: ``(n,)``. lethal: by law, median and 90 % interval of the share of cells there,
            ``(3, n)``.
        probability: by law, that at least half of the cells there are lethally exposed, ``(n,)``.
    """

    arm: str
    duration_min: Array
    lethal: Mapping[str, Array]
    probability: Mapping[str, Array]


@dataclass(frozen=True)
class OutcomeChange:
    """What radiation changes in one outcome.

    Attributes:
        ratio: with radiation over without, median and 90 % interval over the same draws; a
            difference where the unit is 1.
        likelier: share of the draws in which it is higher with radiation.
    """

    description: str
    unit: str
    ratio: tuple[float, float, float]
    probability_higher: float


@dataclass(frozen=True)
class RadiationComparison:
    """An arm with its radiation beside the same without; pressure ``at_h`` hours from the
    beginning.
    """

    arm: str
    pressure_time_h: float
    rows: tuple[OutcomeChange, ...]

    def describe(self) -> str:
        """Whether radiation helps, with how little is known of it."""
        parts = "; ".join(
            f"{g.description} {_format_change(g)}, higher in {g.probability_higher:.0%} of the"
            " draws"
            for g in self.rows
        )
        return (
            f"What radiation does to {self.arm} (median and 90 % interval, with it against"
            f" without): {parts}. Its effects on vessels and pressure are priors, inconsistent in"
            " the literature even in their direction, unless a second scan was given."
        )


def _format_change(g: OutcomeChange) -> str:
    median, low, high = g.ratio
    if g.unit == "1":
        return f"{median:+.0%} ({low:+.0%} to {high:+.0%}) of the cells"
    return f"x{median:.2f} ({low:.2f} to {high:.2f})"


@dataclass(frozen=True)
class InputSensitivity:
    """How much an outcome follows an input.

    Attributes:
        morris: mean absolute elementary effect, in units of the outcome per range of the input.
            total: Sobol's total index, if worked out.
    """

    symbol: str
    description: str
    morris: float
    total: float | None
    total_error: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Treatments of one tumour side by side.

    Attributes:
        answer: in plain language, one sentence each; the first is the question's.
        outcomes: rows of the table. groups: of voxels. heating, influences: where they were asked
            for.
        radiation: what it changes, where it is given.
        limit_um: from the vessel, the question's. lethal: surviving fraction at or below which an
            exposure is lethal. draws: how many.
        labels: group of every voxel ``(x, y, z)``, -1 outside.
    """

    conclusions: tuple[str, ...]
    arms: Mapping[str, ComparedArm]
    outcomes: tuple[Outcome, ...]
    groups: tuple[VoxelCluster, ...]
    heating: HeatingDurationSweep | None
    sensitivities: tuple[InputSensitivity, ...]
    sensitivity_outcome: str
    limit_um: float
    lethal: float
    draws: int
    assumptions: tuple[str, ...]
    affine: Array
    mask: NDArray[np.bool_]
    labels: NDArray[np.int64]
    seconds: Mapping[str, float] = field(default_factory=dict)
    input_hashes: Mapping[str, str] = field(default_factory=dict)
    radiation: RadiationComparison | None = None

    def __getitem__(self, name: str) -> Outcome:
        return next(o for o in self.outcomes if o.name == name)

    def probability(self, arm: str, law: str) -> float:
        """That at least half of the cells beyond the limit are lethally exposed, over the draws;
        NaN where there are no such cells.
        """
        return probability_of_majority(self[f"lethal beyond, {law}"].values[arm])

    def summary(self) -> str:
        """The answer, and a line per outcome: median and 90 % interval of every arm."""
        heads = "".join(f"{name:>30s}" for name in self.arms)
        lines = [*self.conclusions, "", f"{'median (90 %)':52s}{heads}"]
        for o in self.outcomes:
            cells = "".join(f"{_cell(o.interval(a)):>30s}" for a in self.arms)
            lines.append(
                f"{o.description[:40] + (f', {o.unit}' if o.unit != '1' else ''):52s}{cells}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.arms)}; {self.draws} draws)"


def probability_of_majority(shares: Array) -> float:
    """Share of the draws in which at least half is reached; NaN where nothing is known."""
    drawn = shares[1:] if len(shares) > 1 else shares
    drawn = drawn[np.isfinite(drawn)]
    return float((drawn >= 0.5).mean()) if drawn.size else float("nan")


def _cell(interval: tuple[float, float, float]) -> str:
    median, low, high = interval
    if not np.isfinite(median):
        return "-"
    return f"{median:.3g} ({low:.3g} .. {high:.3g})" if low < high else f"{median:.3g}"
