"""From exposures of groups of voxels to what arms are compared by: means over the tumour, for every
draw.

The question in plain language: does lethal exposure reach cells far from vessels, where, when and
how surely.

What tells one comparison of arms from another, so that an interrupted one goes on as itself alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.saved_fit import fit_file_path
from nanopinn.io.checkpoint_store import run_identity
from nanopinn.parameters.units import HOUR, NG, UG_H_PER_ML, UG_PER_ML, UM
from nanopinn.physics.cell_kill import KILL_MODELS
from nanopinn.results.comparison_result import (
    CELL_POPULATIONS,
    HeatingDurationSweep,
    InputSensitivity,
    Outcome,
    PenetrationCurves,
    VoxelCluster,
    median_and_interval,
    probability_of_majority,
)
from nanopinn.results.fit_result import MapEstimate
from nanopinn.settings import ComparisonSettings, PhantomSettings
from nanopinn.solvers.krogh_exposure import Exposure
from nanopinn.studies.arms.arm_specs import Arm
from nanopinn.studies.arms.draws import Patient

Array = NDArray[np.float64]


def tumour_mean(values: Tensor, voxels: Array, shares: Tensor | None = None) -> Array:
    """Mean over the tumour of values of groups.

    Args:
        values: ``(draw, group)`` or ``(draw, group, ...)``, NaN where a group has none. voxels:
            ``(group,)``.
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
        voxels: of every group, ``(group,)``. lethal: surviving fraction at or below which an
            exposure is.
    """
    first = next(iter(exposures.values()))
    limit = f"{first.far_distance_m / UM:g} um"
    at = int(np.argmin(abs(first.distances_m.cpu().numpy() - first.far_distance_m)))

    def row(name: str, unit: str, words: str, of) -> Outcome:  # type: ignore[no-untyped-def]
        return Outcome(name, unit, words, {arm: of(e) for arm, e in exposures.items()})

    cells = "ng/1e5 cells"
    rows = [
        row(
            "peak at wall",
            cells,
            "largest drug in cells at the vessel",
            lambda e: tumour_mean(e.peak_intracellular[..., 0], voxels) / NG,
        ),
        row(
            "peak at limit",
            cells,
            f"largest drug in cells {limit} away",
            lambda e: tumour_mean(e.peak_intracellular[..., at], voxels) / NG,
        ),
        row(
            "area",
            "ug h/mL",
            "area under free drug, mean of tissue",
            lambda e: tumour_mean(e.mean_auc_free, voxels) / UG_H_PER_ML,
        ),
        row(
            "half-distance",
            "um",
            f"half-distance in cells at {first.times_s[0] / HOUR:g} h",
            lambda e: tumour_mean(e.half_distance[:, 0], voxels) / UM,
        ),
        row(
            "beyond",
            "1",
            f"share of tissue alive beyond {limit}",
            lambda e: tumour_mean(e.shares["beyond"], voxels),
        ),
    ]
    for law, model in KILL_MODELS.items():
        rows.append(
            row(
                f"lethal radius, {law}",
                "um",
                f"lethal within this distance, {model.name}",
                lambda e, law=law: tumour_mean(e.lethal_radius[law], voxels) / UM,
            )
        )
        for kind, words in CELL_POPULATIONS.items():
            said = f"beyond {limit}" if kind == "beyond" else words
            rows.append(
                row(
                    f"lethal {kind}, {law}",
                    "1",
                    f"lethally exposed, {said}, {model.name}",
                    lambda e, law=law, kind=kind: tumour_mean(
                        e.killed[law][kind], voxels, e.shares[kind]
                    ),
                )
            )
        rows.append(
            row(
                f"survival, {law}",
                "1",
                f"surviving fraction, {model.name}",
                lambda e, law=law: tumour_mean(e.mean_survival[law]["all"], voxels),
            )
        )
    return tuple(rows)


def penetration_curves(e: Exposure, voxels: Array) -> PenetrationCurves:
    """Means over the tumour against distance; a group without tissue so far out does not count
    there.
    """
    cells, free = (
        median_and_interval(tumour_mean(v.movedim(1, -1), voxels)) for v in (e.cells, e.free)
    )
    return PenetrationCurves(
        e.distances_m.cpu().numpy() / UM,
        np.array(e.times_s) / HOUR,
        np.moveaxis(cells, -1, 1) / NG,
        np.moveaxis(free, -1, 1) / UG_PER_ML,
        median_and_interval(tumour_mean(e.peak_intracellular, voxels)) / NG,
        {law: median_and_interval(tumour_mean(s, voxels)) for law, s in e.survival.items()},
    )


def group_peak_quantiles(e: Exposure) -> Array:
    """Largest drug in cells against distance in every group, ng/1e5 cells, ``(3, group, x)``:
    median and 90 % interval.
    """
    return median_and_interval(e.peak_intracellular.cpu().numpy()) / NG


def exposure_maps(e: Exposure, labels: NDArray[np.int64]) -> dict[str, MapEstimate]:
    """What happens under each voxel, back on the grid of the image ``(x, y, z)``; sd over the
    draws.
    """
    limit = f"{e.far_distance_m / UM:g} um"
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
        1 / NG,
    )
    for law, model in KILL_MODELS.items():
        by = f"by the {model.name}"
        put(
            f"lethal_radius_{law}",
            "um",
            f"distance from the vessel within which exposure is lethal, {by}",
            e.lethal_radius[law],
            1 / UM,
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


#: Laws disagree, where the shares they give differ by more than this.
LAW_DISAGREEMENT = 0.2


def summarise_comparison(
    arm: str,
    outcomes: Sequence[Outcome],
    groups: Sequence[VoxelCluster],
    heating: HeatingDurationSweep | None,
    influences: Sequence[InputSensitivity],
    limit_um: float,
    lethal: float,
) -> tuple[str, ...]:
    """Sentences, the question's own first.

    Args:
        arm: the triggered one, or the one that is asked about.
    """
    rows = {o.name: o for o in outcomes}
    beyond = median_and_interval(rows["beyond"].values[arm])[0]
    if not beyond > 0:
        return (
            (
                f"By its plasma volume no tissue lies farther than {limit_um:g} um from its"
                " vessels: the question does not arise."
            ),
        )
    said = [
        _describe_lethal_probability(arm, rows, limit_um, lethal, float(beyond)),
        *_describe_lethal_shares(arm, rows, limit_um),
        _describe_groups(arm, groups, limit_um),
        _describe_ranking(rows),
        *_describe_quiescent_cells(arm, rows),
        *_describe_heating_times(heating, limit_um),
        *_describe_influences(influences),
    ]
    return tuple(s for s in said if s)


def _describe_lethal_probability(
    arm: str, rows: Mapping[str, Outcome], limit_um: float, lethal: float, beyond: float
) -> str:
    shares = {law: rows[f"lethal beyond, {law}"] for law in KILL_MODELS}
    sure = {law: probability_of_majority(o.values[arm]) for law, o in shares.items()}
    low, high = min(sure.values()), max(sure.values())
    verdict = "Yes" if low >= 0.9 else "No" if high <= 0.1 else "It cannot be said with confidence"
    if len(shares["peak"].values[arm]) == 1:
        return (
            "At the medians of all inputs, without draws, nothing is said of how sure this is:"
            f" {arm} at {limit_um:g} um and beyond, where {beyond:.0%} of the tissue lies (lethal:"
            f" at most {lethal:.0%} of the cells survive)."
        )
    chances = ", ".join(f"{p:.0%} by the {KILL_MODELS[law].name}" for law, p in sure.items())
    return (
        f"{verdict}: does {arm} carry lethal exposure (at most {lethal:.0%} of the cells survive)"
        f" beyond {limit_um:g} um, where {beyond:.0%} of the tissue lies? The probability that at"
        f" least half of the cells there are so exposed is {chances}."
    )


def _describe_lethal_shares(arm: str, rows: Mapping[str, Outcome], limit_um: float) -> list[str]:
    said = []
    middle = {}
    for law in KILL_MODELS:
        median, low, high = rows[f"lethal beyond, {law}"].interval(arm)
        middle[law] = median
        drawn = len(rows[f"lethal beyond, {law}"].values[arm]) > 1
        said.append(
            f"{median:.0%}{f' ({low:.0%} to {high:.0%})' if drawn else ''} by the {KILL_MODELS[law].name}"
        )
    how = ", median and 90 % interval" if drawn else ""
    text = (
        f"Share of the cells beyond {limit_um:g} um that are lethally exposed{how}:"
        f" {', '.join(said)}."
    )
    if max(middle.values()) - min(middle.values()) > LAW_DISAGREEMENT:
        text += " The kill models disagree: the choice of model matters more than the tumour."
    return [text]


def _describe_groups(arm: str, groups: Sequence[VoxelCluster], limit_um: float) -> str:
    known = [g for g in groups if arm in g.lethal and np.isfinite(g.lethal[arm][0])]
    if len(known) < 2:
        return ""
    best, worst = (
        max(known, key=lambda g: g.lethal[arm][0]),
        min(known, key=lambda g: g.lethal[arm][0]),
    )
    if best.lethal[arm][0] - worst.lethal[arm][0] < 0.01:
        return f"It is alike in all groups of voxels: {best.lethal[arm][0]:.0%} by the {KILL_MODELS['peak'].name}."

    def described(g: VoxelCluster) -> str:
        return (
            f"{g.lethal[arm][0]:.0%} in {g.voxels} voxels"
            f" ({', '.join(f'{k} {v:.3g}' for k, v in g.values.items())})"
        )

    return (
        f"Where: most in the best group, {described(best)}; least in {described(worst)}; by the"
        f" {KILL_MODELS['peak'].name}."
    )


def _describe_ranking(rows: Mapping[str, Outcome]) -> str:
    peaks, areas = rows["peak at limit"], rows["area"]

    def order(o: Outcome) -> str:
        middle = {arm: o.interval(arm)[0] for arm in o.values}
        return " > ".join(
            f"{a} ({middle[a]:.2g})" for a in sorted(middle, key=lambda a: -middle[a])
        )

    if len(peaks.values) < 2:
        return ""
    return (
        f"Arms by {peaks.description}, {peaks.unit}: {order(peaks)}; by {areas.description},"
        f" {areas.unit}: {order(areas)}."
    )


def _describe_quiescent_cells(arm: str, rows: Mapping[str, Outcome]) -> list[str]:
    medians = {law: rows[f"lethal quiescent, {law}"].interval(arm)[0] for law in KILL_MODELS}
    if not any(np.isfinite(v) for v in medians.values()):
        return ["No cells are quiescent for want of oxygen at the medians of all inputs."]
    return [
        "Of the quiescent cells,"
        f" {', '.join(f'{v:.0%} by the {KILL_MODELS[law].name}' for law, v in medians.items())} are lethally"
        " exposed (median)."
    ]


def _describe_heating_times(heating: HeatingDurationSweep | None, limit_um: float) -> list[str]:
    if heating is None:
        return []
    said = []
    for law, p in heating.probability.items():
        reached = np.flatnonzero(p >= 0.5)
        said.append(
            f"{heating.duration_min[reached[0]]:g} min by the {KILL_MODELS[law].name}"
            if reached.size
            else f"at none by the {KILL_MODELS[law].name}"
        )
    tried = ", ".join(f"{m:g}" for m in heating.duration_min)
    return [
        f"Heating time (of {tried} min) from which half of the cells beyond {limit_um:g} um are"
        f" more likely than not lethally exposed: {', '.join(said)}."
    ]


def _describe_influences(influences: Sequence[InputSensitivity]) -> list[str]:
    if not influences:
        return []
    first = ", ".join(f"{i.description} ({i.symbol})" for i in influences[:3])
    return [
        f"What the outcome follows most: {first}. No image informs these unless the fit says so."
    ]


def list_comparison_files(
    patient: Patient, arms: Sequence[Arm], schedule: Path | None, settings: ComparisonSettings
) -> tuple[Path, ...]:
    """Every file that a comparison reads."""
    of_arms = [
        f
        for a in arms
        for f in (*a.treatment.files, *(h.file for h in a.treatment.heatings if h.file is not None))
    ]
    second = [fit_file_path(settings.radiation_from.folder)] if settings.radiation_from else []
    tissue = [f for f in patient.tissue.files if isinstance(f, Path)]
    return tuple(dict.fromkeys([*tissue, *([schedule] if schedule else []), *of_arms, *second]))


def comparison_identity(
    settings: ComparisonSettings, read: Mapping[str, str], phantom: PhantomSettings | None
) -> dict[str, str]:
    """All that was given, each by name: choices by value, files by hash."""
    choices = {
        "arms": settings.model_dump(mode="json"),
        "phantom": phantom.model_dump(mode="json") if phantom else {},
    }
    return run_identity(choices, read)
