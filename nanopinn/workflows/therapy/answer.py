"""The question in plain language: does lethal exposure reach cells far from vessels, where, when and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nanopinn.report.compared import (
    PHARMACODYNAMIC_MODELS,
    VoxelCluster,
    HeatingDurationSweep,
    InputSensitivity,
    Outcome,
    probability_of_majority,
    median_and_interval,
)

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
            f"By its plasma volume no tissue lies farther than {limit_um:g} um from its vessels: the question does not arise.",
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
    shares = {law: rows[f"lethal beyond, {law}"] for law in PHARMACODYNAMIC_MODELS}
    sure = {law: probability_of_majority(o.values[arm]) for law, o in shares.items()}
    low, high = min(sure.values()), max(sure.values())
    verdict = "Yes" if low >= 0.9 else "No" if high <= 0.1 else "It cannot be said with confidence"
    if len(shares["peak"].values[arm]) == 1:
        return (
            f"At the medians of all inputs, without draws, nothing is said of how sure this is: {arm} at {limit_um:g} um and beyond, "
            f"where {beyond:.0%} of the tissue lies (lethal: at most {lethal:.0%} of the cells survive)."
        )
    chances = ", ".join(f"{p:.0%} by the {law} law" for law, p in sure.items())
    return (
        f"{verdict}: does {arm} carry lethal exposure (at most {lethal:.0%} of the cells survive) beyond {limit_um:g} um, where "
        f"{beyond:.0%} of the tissue lies? The probability that at least half of the cells there are so exposed is {chances}."
    )


def _describe_lethal_shares(arm: str, rows: Mapping[str, Outcome], limit_um: float) -> list[str]:
    said = []
    middle = {}
    for law in PHARMACODYNAMIC_MODELS:
        median, low, high = rows[f"lethal beyond, {law}"].interval(arm)
        middle[law] = median
        drawn = len(rows[f"lethal beyond, {law}"].values[arm]) > 1
        said.append(
            f"{median:.0%}{f' ({low:.0%} to {high:.0%})' if drawn else ''} by the {law} law"
        )
    how = ", median and 90 % interval" if drawn else ""
    text = f"Share of the cells beyond {limit_um:g} um that are lethally exposed{how}: {', '.join(said)}."
    if max(middle.values()) - min(middle.values()) > LAW_DISAGREEMENT:
        text += " The laws disagree: the choice of law decides more than the tumour does."
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
        return f"It is alike in all groups of voxels: {best.lethal[arm][0]:.0%} by the peak law."

    def described(g: VoxelCluster) -> str:
        return f"{g.lethal[arm][0]:.0%} in {g.voxels} voxels ({', '.join(f'{k} {v:.3g}' for k, v in g.values.items())})"

    return f"Where: most in the best group, {described(best)}; least in {described(worst)}; by the peak law."


def _describe_ranking(rows: Mapping[str, Outcome]) -> str:
    peaks, areas = rows["peak at limit"], rows["area"]

    def order(o: Outcome) -> str:
        middle = {arm: o.interval(arm)[0] for arm in o.values}
        return " > ".join(
            f"{a} ({middle[a]:.2g})" for a in sorted(middle, key=lambda a: -middle[a])
        )

    if len(peaks.values) < 2:
        return ""
    return f"Arms by {peaks.description}, {peaks.unit}: {order(peaks)}; by {areas.description}, {areas.unit}: {order(areas)}."


def _describe_quiescent_cells(arm: str, rows: Mapping[str, Outcome]) -> list[str]:
    medians = {
        law: rows[f"lethal quiescent, {law}"].interval(arm)[0] for law in PHARMACODYNAMIC_MODELS
    }
    if not any(np.isfinite(v) for v in medians.values()):
        return ["No cells are quiescent for want of oxygen at the medians of all inputs."]
    return [
        f"Of the quiescent cells, {', '.join(f'{v:.0%} by the {law} law' for law, v in medians.items())} are lethally exposed (median)."
    ]


def _describe_heating_times(heating: HeatingDurationSweep | None, limit_um: float) -> list[str]:
    if heating is None:
        return []
    said = []
    for law, p in heating.probability.items():
        reached = np.flatnonzero(p >= 0.5)
        said.append(
            f"{heating.duration_min[reached[0]]:g} min by the {law} law"
            if reached.size
            else f"at none by the {law} law"
        )
    tried = ", ".join(f"{m:g}" for m in heating.duration_min)
    return [
        f"Heating time (of {tried} min) from which half of the cells beyond {limit_um:g} um are more likely than not lethally exposed: "
        f"{', '.join(said)}."
    ]


def _describe_influences(influences: Sequence[InputSensitivity]) -> list[str]:
    if not influences:
        return []
    first = ", ".join(f"{i.description} ({i.symbol})" for i in influences[:3])
    return [
        f"What the outcome follows most: {first}. No image informs these unless the fit says so."
    ]
