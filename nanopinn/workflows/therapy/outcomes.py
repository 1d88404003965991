"""From exposures of groups of voxels to what arms are compared by: means over the tumour, for every draw."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.result import MapEstimate
from nanopinn.report.compared import (
    CELL_POPULATIONS,
    PHARMACODYNAMIC_MODELS,
    Outcome,
    PenetrationCurves,
    median_and_interval,
)
from nanopinn.solvers.exposure import Exposure

Array = NDArray[np.float64]
#: ug/mL, ug h/mL, ng and um per SI unit.
UG_PER_ML, UG_H_PER_ML, NG, UM = 1e3, 1e3 / 3600, 1e12, 1e6


def tumour_mean(values: Tensor, voxels: Array, shares: Tensor | None = None) -> Array:
    """Mean over the tumour of values of groups.

    Args:
        values: ``(draw, group)`` or ``(draw, group, ...)``, NaN where a group has none. voxels: ``(group,)``.
        shares: of a group's tissue that the values are of, ``(draw, group)``; all of it if None.

    Returns:
        ``(draw, ...)``; NaN where no group has any.
    """
    v = values.cpu().numpy()
    weights = (
        np.broadcast_to(voxels, v.shape[:2]) if shares is None else voxels * shares.cpu().numpy()
    )
    weights = weights.reshape(weights.shape + (1,) * (v.ndim - 2)) * np.isfinite(v)
    total = weights.sum(axis=1)
    mean = (weights * np.nan_to_num(v)).sum(axis=1) / np.where(total > 0, total, 1.0)
    return np.asarray(np.where(total > 0, mean, np.nan))


def compute_outcomes(
    exposures: Mapping[str, Exposure], voxels: Array, lethal: float
) -> tuple[Outcome, ...]:
    """The rows of the table, for every arm and draw.

    Args:
        voxels: of every group, ``(group,)``. lethal: surviving fraction at or below which an exposure is.
    """
    first = next(iter(exposures.values()))
    limit = f"{first.far_distance_m * UM:g} um"
    at = int(np.argmin(abs(first.distances_m.cpu().numpy() - first.far_distance_m)))

    def row(name: str, unit: str, words: str, of) -> Outcome:  # type: ignore[no-untyped-def]
        return Outcome(name, unit, words, {arm: of(e) for arm, e in exposures.items()})

    cells = "ng/1e5 cells"
    rows = [
        row(
            "peak at wall",
            cells,
            "largest drug in cells at the vessel",
            lambda e: tumour_mean(e.peak_intracellular[..., 0], voxels) * NG,
        ),
        row(
            "peak at limit",
            cells,
            f"largest drug in cells {limit} away",
            lambda e: tumour_mean(e.peak_intracellular[..., at], voxels) * NG,
        ),
        row(
            "area",
            "ug h/mL",
            "area under free drug, mean of tissue",
            lambda e: tumour_mean(e.mean_auc_free, voxels) * UG_H_PER_ML,
        ),
        row(
            "half-distance",
            "um",
            f"half-distance in cells at {first.times_s[0] / 3600:g} h",
            lambda e: tumour_mean(e.half_distance[:, 0], voxels) * UM,
        ),
        row(
            "beyond",
            "1",
            f"share of tissue alive beyond {limit}",
            lambda e: tumour_mean(e.shares["beyond"], voxels),
        ),
    ]
    for law in PHARMACODYNAMIC_MODELS:
        rows.append(
            row(
                f"lethal radius, {law}",
                "um",
                f"lethal within this distance, {law} law",
                lambda e, law=law: tumour_mean(e.lethal_radius[law], voxels) * UM,
            )
        )
        for kind, words in CELL_POPULATIONS.items():
            said = f"beyond {limit}" if kind == "beyond" else words
            rows.append(
                row(
                    f"lethal {kind}, {law}",
                    "1",
                    f"lethally exposed, {said}, {law} law",
                    lambda e, law=law, kind=kind: tumour_mean(
                        e.killed[law][kind], voxels, e.shares[kind]
                    ),
                )
            )
        rows.append(
            row(
                f"survival, {law}",
                "1",
                f"surviving fraction, {law} law",
                lambda e, law=law: tumour_mean(e.mean_survival[law]["all"], voxels),
            )
        )
    return tuple(rows)


def penetration_curves(e: Exposure, voxels: Array) -> PenetrationCurves:
    """Means over the tumour against distance; a group without tissue so far out does not count there."""
    cells, free = (
        median_and_interval(tumour_mean(v.movedim(1, -1), voxels)) for v in (e.cells, e.free)
    )
    return PenetrationCurves(
        e.distances_m.cpu().numpy() * UM,
        np.array(e.times_s) / 3600,
        np.moveaxis(cells, -1, 1) * NG,
        np.moveaxis(free, -1, 1) * UG_PER_ML,
        median_and_interval(tumour_mean(e.peak_intracellular, voxels)) * NG,
        {law: median_and_interval(tumour_mean(s, voxels)) for law, s in e.survival.items()},
    )


def group_peak_quantiles(e: Exposure) -> Array:
    """Largest drug in cells against distance in every group, ng/1e5 cells, ``(3, group, x)``: median and 90 % interval."""
    return median_and_interval(e.peak_intracellular.cpu().numpy()) * NG


def exposure_maps(e: Exposure, labels: NDArray[np.int64]) -> dict[str, MapEstimate]:
    """What happens under each voxel, back on the grid of the image ``(x, y, z)``; sd over the draws."""
    limit = f"{e.far_distance_m * UM:g} um"
    found: dict[str, MapEstimate] = {}

    def put(name: str, unit: str, words: str, values: Tensor, factor: float = 1.0) -> None:
        drawn = values.cpu().numpy() * factor
        middle = median_and_interval(drawn)[0]
        sd = np.nanstd(drawn[1:], axis=0) if len(drawn) > 1 else None
        std = None if sd is None else _map_group_values(sd, labels)
        found[name] = MapEstimate(
            name, unit, words, "images and prior", _map_group_values(middle, labels), std
        )

    put("beyond", "1", f"share of tissue farther than {limit} from its vessel", e.shares["beyond"])
    put(
        "peak_cells",
        "ng/1e5 cells",
        "largest drug in cells, mean of tissue",
        e.mean_peak_intracellular,
        NG,
    )
    for law, words in PHARMACODYNAMIC_MODELS.items():
        by = f"by the {words}"
        put(
            f"lethal_radius_{law}",
            "um",
            f"distance from the vessel within which exposure is lethal, {by}",
            e.lethal_radius[law],
            UM,
        )
        put(
            f"lethal_beyond_{law}",
            "1",
            f"share of cells beyond {limit} that are lethally exposed, {by}",
            e.killed[law]["beyond"],
        )
        put(
            f"lethal_all_{law}",
            "1",
            f"share of cells that are lethally exposed, {by}",
            e.killed[law]["all"],
        )
        put(f"survival_{law}", "1", f"surviving fraction, {by}", e.mean_survival[law]["all"])
    return found


def _map_group_values(values: Array, labels: NDArray[np.int64]) -> Array:
    return np.where(labels >= 0, values[labels.clip(0)], np.nan)
