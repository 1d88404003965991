"""Outcomes by which arms are compared: means over the tumour of the exposure of clusters, for every
draw; penetration curves, maps and conclusions in sentences; the identity of a comparison, by which
an interrupted one is recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.saved_fit import fit_file_path
from nanopinn.io.array_volume import ArrayVolume
from nanopinn.io.checkpoint_store import run_identity
from nanopinn.parameters import HOUR, NG, UG_H_PER_ML, UG_PER_ML, UM
from nanopinn.physics.cell_kill import KILL_MODELS, KillModel
from nanopinn.results import (
    HeatingDurationSweep,
    InputSensitivity,
    MapEstimate,
    Outcome,
    PenetrationCurves,
    VoxelCluster,
    median_and_interval,
    probability_of_majority,
)
from nanopinn.settings import ComparisonSettings, PhantomSettings
from nanopinn.solvers.krogh_exposure import CELL_POPULATIONS, Exposure
from nanopinn.studies.arms.arm_specs import Arm
from nanopinn.studies.arms.patient import Patient

Array = NDArray[np.float64]


def tumour_mean(values: Tensor, voxels: Array, shares: Tensor | None = None) -> Array:
    """Mean over the tumour of values of clusters.

    Args:
        values: ``(draw, cluster)`` or ``(draw, cluster, ...)``, NaN where a cluster has none.
        voxels: number of voxels of each cluster, ``(cluster,)``.
        shares: fraction of each cluster's tissue that the values refer to, ``(draw, cluster)``; all
            of it if None.

    Returns:
        ``(draw, ...)``; NaN where no cluster has a value.
    """
    v = values.cpu().numpy()
    weights = (
        np.broadcast_to(voxels, v.shape[:2]) if shares is None else voxels * shares.cpu().numpy()
    )
    weights = weights.reshape(weights.shape + (1,) * (v.ndim - 2)) * np.isfinite(v)
    total = weights.sum(axis=1)
    mean = (weights * np.nan_to_num(v)).sum(axis=1) / np.where(total > 0, total, 1.0)
    return np.asarray(np.where(total > 0, mean, np.nan))


def compute_outcomes(exposures: Mapping[str, Exposure], voxels: Array) -> tuple[Outcome, ...]:
    """Compute every outcome for every arm and draw.

    Args:
        exposures: by arm.
        voxels: number of voxels of each cluster, ``(cluster,)``.
    """
    first = next(iter(exposures.values()))
    limit = f"{first.far_distance_m / UM:g} um"
    at = int(np.argmin(abs(first.distances_m.cpu().numpy() - first.far_distance_m)))

    def row(name: str, unit: str, description: str, value: Callable[[Exposure], Array]) -> Outcome:
        values = {arm: value(e) for arm, e in exposures.items()}
        return Outcome(name, unit, description, values)

    cells = "ng/1e5 cells"
    rows = [
        row(
            "peak at wall",
            cells,
            "peak intracellular concentration at the vessel",
            lambda e: tumour_mean(e.peak_intracellular[..., 0], voxels) / NG,
        ),
        row(
            "peak at limit",
            cells,
            f"peak intracellular concentration at {limit}",
            lambda e: tumour_mean(e.peak_intracellular[..., at], voxels) / NG,
        ),
        row(
            "area",
            "ug h/mL",
            "AUC of free drug, mean over the tissue",
            lambda e: tumour_mean(e.mean_auc_free, voxels) / UG_H_PER_ML,
        ),
        row(
            "half-distance",
            "um",
            f"half-distance of intracellular drug at {first.times_s[0] / HOUR:g} h",
            lambda e: tumour_mean(e.half_distance[:, 0], voxels) / UM,
        ),
        row(
            "beyond",
            "1",
            f"fraction of the tissue that lives beyond {limit}",
            lambda e: tumour_mean(e.shares["beyond"], voxels),
        ),
    ]

    def lethal_row(law: str, model: KillModel, kind: str, population: str) -> Outcome:
        return row(
            f"lethal {kind}, {law}",
            "1",
            f"lethally exposed {population}, {model.name}",
            lambda e: tumour_mean(e.killed[law][kind], voxels, e.shares[kind]),
        )

    def rows_of(law: str, model: KillModel) -> list[Outcome]:
        populations = {**CELL_POPULATIONS, "beyond": f"cells beyond {limit}"}
        return [
            row(
                f"lethal radius, {law}",
                "um",
                f"distance of lethal exposure, {model.name}",
                lambda e: tumour_mean(e.lethal_radius[law], voxels) / UM,
            ),
            *(lethal_row(law, model, kind, words) for kind, words in populations.items()),
            row(
                f"survival, {law}",
                "1",
                f"surviving fraction, {model.name}",
                lambda e: tumour_mean(e.mean_survival[law]["all"], voxels),
            ),
        ]

    return (*rows, *(o for law, model in KILL_MODELS.items() for o in rows_of(law, model)))


def penetration_curves(e: Exposure, voxels: Array) -> PenetrationCurves:
    """Means over the tumour against the distance from the vessel.

    Clusters without tissue at a distance do not count there.

    Args:
        e: exposure of one arm.
        voxels: number of voxels of each cluster, ``(cluster,)``.
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
    """Peak intracellular concentration against distance in every cluster, ng/1e5 cells: median and
    90 % interval, ``(3, cluster, x)``.
    """
    return median_and_interval(e.peak_intracellular.cpu().numpy()) / NG


def exposure_maps(e: Exposure, labels: NDArray[np.int64]) -> dict[str, MapEstimate]:
    """Maps of the sub-voxel exposure on the grid of the image, with the sd over the draws.

    Args:
        e: exposure of one arm.
        labels: cluster of every voxel of the image, ``(x, y, z)``; -1 outside the tumour.
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

    put(
        "beyond",
        "1",
        f"fraction of the tissue farther than {limit} from its vessel",
        e.shares["beyond"],
    )
    put(
        "peak_cells",
        "ng/1e5 cells",
        "peak intracellular concentration, mean over the tissue",
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
            f"fraction of the cells beyond {limit} that are lethally exposed, {by}",
            e.killed[law]["beyond"],
        )
        put(
            f"lethal_all_{law}",
            "1",
            f"fraction of the cells that are lethally exposed, {by}",
            e.killed[law]["all"],
        )
        put(f"survival_{law}", "1", f"surviving fraction, {by}", e.mean_survival[law]["all"])
    return found


def _map_group_values(values: Array, labels: NDArray[np.int64]) -> Array:
    return np.where(labels >= 0, values[labels.clip(0)], np.nan)


#: Kill models disagree where their fractions of killed cells differ by more than this.
MODEL_DISAGREEMENT = 0.2


def summarise_comparison(
    arm: str,
    outcomes: Sequence[Outcome],
    groups: Sequence[VoxelCluster],
    heating: HeatingDurationSweep | None,
    influences: Sequence[InputSensitivity],
    limit_um: float,
    lethal: float,
) -> tuple[str, ...]:
    """Conclusions of a comparison, one sentence or two each; the first answers whether lethal
    exposure extends beyond the limit.

    Args:
        arm: name of the arm that the conclusions are about.
        outcomes: of every arm.
        groups: clusters of voxels.
        heating: sweep of the heating duration, if there is one.
        influences: sensitivities by falling effect.
        limit_um: distance from the vessel, um.
        lethal: surviving fraction at or below which an exposure is lethal.
    """
    rows = {o.name: o for o in outcomes}
    beyond = median_and_interval(rows["beyond"].values[arm])[0]
    if not beyond > 0:
        return (
            (
                f"The plasma volume leaves no tissue farther than {limit_um:g} um from the"
                " vessels, so that the question cannot be answered."
            ),
        )
    sentences = [
        _describe_lethal_probability(arm, rows, limit_um, lethal, float(beyond)),
        *_describe_lethal_shares(arm, rows, limit_um),
        _describe_groups(arm, groups),
        _describe_ranking(rows),
        *_describe_quiescent_cells(arm, rows),
        *_describe_heating_times(heating, limit_um),
        *_describe_influences(influences),
    ]
    return tuple(s for s in sentences if s)


def _describe_lethal_probability(
    arm: str, rows: Mapping[str, Outcome], limit_um: float, lethal: float, beyond: float
) -> str:
    shares = {law: rows[f"lethal beyond, {law}"] for law in KILL_MODELS}
    sure = {law: probability_of_majority(o.values[arm]) for law, o in shares.items()}
    low, high = min(sure.values()), max(sure.values())
    verdict = "Yes" if low >= 0.9 else "No" if high <= 0.1 else "The answer is uncertain"
    if len(shares["peak"].values[arm]) == 1:
        return (
            "There are no draws: the values are those at the medians of all inputs, and the"
            f" certainty of the answer is unknown. The question is whether {arm} gives lethal"
            f" exposure (at most {lethal:.0%} of the cells survive) beyond {limit_um:g} um, where"
            f" {beyond:.0%} of the tissue lies."
        )
    chances = ", ".join(f"{p:.0%} by the {KILL_MODELS[law].name}" for law, p in sure.items())
    return (
        f"{verdict}. The question is whether {arm} gives lethal exposure (at most {lethal:.0%} of"
        f" the cells survive) beyond {limit_um:g} um, where {beyond:.0%} of the tissue lies. The"
        f" probability that at least half of the cells there are lethally exposed is {chances}."
    )


def _describe_lethal_shares(arm: str, rows: Mapping[str, Outcome], limit_um: float) -> list[str]:
    sentences = []
    middle = {}
    for law, model in KILL_MODELS.items():
        median, low, high = rows[f"lethal beyond, {law}"].interval(arm)
        middle[law] = median
        drawn = len(rows[f"lethal beyond, {law}"].values[arm]) > 1
        interval = f" ({low:.0%} to {high:.0%})" if drawn else ""
        sentences.append(f"{median:.0%}{interval} by the {model.name}")
    how = ", median and 90 % interval" if drawn else ""
    text = (
        f"Fraction of the cells beyond {limit_um:g} um that are lethally exposed{how}:"
        f" {', '.join(sentences)}."
    )
    if max(middle.values()) - min(middle.values()) > MODEL_DISAGREEMENT:
        text += " The kill models disagree: the choice of model matters more than the tumour."
    return [text]


def _describe_groups(arm: str, groups: Sequence[VoxelCluster]) -> str:
    known = [
        g for g in groups if arm in g.lethal_fraction and np.isfinite(g.lethal_fraction[arm][0])
    ]
    if len(known) < 2:
        return ""
    best, worst = (
        max(known, key=lambda g: g.lethal_fraction[arm][0]),
        min(known, key=lambda g: g.lethal_fraction[arm][0]),
    )
    if best.lethal_fraction[arm][0] - worst.lethal_fraction[arm][0] < 0.01:
        return (
            "The fraction is the same in all clusters of voxels:"
            f" {best.lethal_fraction[arm][0]:.0%} by the {KILL_MODELS['peak'].name}."
        )

    def described(g: VoxelCluster) -> str:
        return (
            f"{g.lethal_fraction[arm][0]:.0%} in {g.voxels} voxels"
            f" ({', '.join(f'{k} {v:.3g}' for k, v in g.values.items())})"
        )

    return (
        f"By the {KILL_MODELS['peak'].name} the fraction is largest in the cluster with"
        f" {described(best)} and smallest in the cluster with {described(worst)}."
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
        return ["At the medians of all inputs no cells are quiescent because of hypoxia."]
    fractions = ", ".join(f"{v:.0%} by the {KILL_MODELS[law].name}" for law, v in medians.items())
    return [f"Of the quiescent cells, {fractions} are lethally exposed (median)."]


def _describe_heating_times(heating: HeatingDurationSweep | None, limit_um: float) -> list[str]:
    if heating is None:
        return []
    sentences = []
    for law, p in heating.probability.items():
        reached = np.flatnonzero(p >= 0.5)
        sentences.append(
            f"{heating.duration_min[reached[0]]:g} min by the {KILL_MODELS[law].name}"
            if reached.size
            else f"none by the {KILL_MODELS[law].name}"
        )
    tried = ", ".join(f"{m:g}" for m in heating.duration_min)
    return [
        f"Shortest heating (of {tried} min) with which at least half of the cells beyond"
        f" {limit_um:g} um are more likely than not lethally exposed: {', '.join(sentences)}."
    ]


def _describe_influences(influences: Sequence[InputSensitivity]) -> list[str]:
    if not influences:
        return []
    first = ", ".join(f"{i.description} ({i.symbol})" for i in influences[:3])
    return [
        f"Most influential inputs: {first}. The report of the fit lists which of them"
        " the images inform."
    ]


def list_comparison_files(
    patient: Patient, arms: Sequence[Arm], schedule: Path | None, settings: ComparisonSettings
) -> tuple[Path | ArrayVolume, ...]:
    """List every file and volume in memory that a comparison reads.

    Args:
        patient: tissue and posterior.
        arms: treatments.
        schedule: file of the treatment, if there is one.
        settings: of the comparison.
    """
    of_arms = [
        f
        for a in arms
        for f in (*a.treatment.files, *(h.file for h in a.treatment.heatings if h.file is not None))
    ]
    second = [fit_file_path(settings.radiation_from.folder)] if settings.radiation_from else []
    files = dict.fromkeys([*([schedule] if schedule else []), *of_arms, *second])
    return (*patient.tissue.files, *files)


def comparison_identity(
    settings: ComparisonSettings, read: Mapping[str, str], phantom: PhantomSettings | None
) -> dict[str, str]:
    """All that determines the result of a comparison.

    It is in the form of :func:`nanopinn.io.checkpoint_store.run_identity`.

    Args:
        settings: of the comparison.
        read: SHA-256 of every file, by name.
        phantom: settings of the phantom, if it is compared on one.
    """
    choices = {
        "arms": settings.model_dump(mode="json"),
        "phantom": phantom.model_dump(mode="json") if phantom else {},
    }
    return run_identity(choices, read)
