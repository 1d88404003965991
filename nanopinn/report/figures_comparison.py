"""Figures of a comparison of arms: maps side by side, penetration, survival, heating times, what
decides.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nanopinn.physics.cell_kill import KILL_MODELS
from nanopinn.report.figures import tumour_window
from nanopinn.results.comparison_result import ComparedArm, Comparison
from nanopinn.results.fit_result import MapEstimate

Array = NDArray[np.float64]
#: One colour per arm in every figure, told apart by the colour-blind too (Okabe and Ito 2008).
ARM_COLOURS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
#: Of the kill models, in their order.
LINE_STYLES = ("-", "--", ":", "-.")


def arm_colours(c: Comparison) -> dict[str, str]:
    """The colour of each arm."""
    return {arm: ARM_COLOURS[i % len(ARM_COLOURS)] for i, arm in enumerate(c.arms)}


def comparison_figures(c: Comparison) -> dict[str, Figure]:
    """Every figure by the name of its file."""
    found = {
        "penetration": penetration_panel(c),
        "survival": survival_panel(c),
        "lethal": lethal_panel(c),
        "courses": arm_time_course_panel(c),
        "plasma": arm_plasma_panel(c),
        "ifp": pressure_panel(c),
    }
    for name in plotted_maps(c):
        found[f"map_{name}"] = arm_map_panel(c, name)
    if c.heating is not None:
        found["heating"] = heating_panel(c)
    if c.sensitivities:
        found["influences"] = sensitivity_panel(c)
    return found


def plotted_maps(c: Comparison) -> list[str]:
    """Maps that are shown: peaks and areas of the voxels, and what happens under them."""
    first = next(iter(c.arms.values()))
    wanted = [
        "peak_intracellular",
        "auc_free",
        "lethal_radius_peak",
        "lethal_beyond_peak",
        "survival_peak",
    ]
    return [name for name in wanted if name in arm_maps(first)]


def arm_maps(arm: ComparedArm) -> dict[str, MapEstimate]:
    """All maps of an arm, of its voxels and under them."""
    s = arm.simulation
    voxels = {
        f"{kind}_{m.name}": m
        for kind, maps in (("peak", s.peak_maps), ("auc", s.auc_maps))
        for m in maps.values()
    }
    return {**voxels, **arm.maps}


def penetration_panel(c: Comparison) -> Figure:
    """Drug in cells against distance: the largest over the run with its interval, and at every
    imaging time.
    """
    first = next(iter(c.arms.values())).curves
    figure = Figure(figsize=(4.2 * (1 + len(c.arms)), 3.4), dpi=100, layout="constrained")
    axes = figure.subplots(1, 1 + len(c.arms))
    for arm, colour in arm_colours(c).items():
        middle, low, high = c.arms[arm].curves.peak
        axes[0].fill_between(first.distance_um, low, high, color=colour, alpha=0.18, lw=0)
        axes[0].plot(first.distance_um, middle, color=colour, lw=1.8, label=arm)
    axes[0].set_title("largest over the run", fontsize=10)
    axes[0].legend(frameon=False, fontsize=9)
    for a, (arm, colour) in zip(axes[1:], arm_colours(c).items(), strict=True):
        curves = c.arms[arm].curves
        for i, t in enumerate(curves.times_h):
            a.plot(
                curves.distance_um,
                curves.cells[0, i],
                color=colour,
                alpha=0.3 + 0.7 * (i + 1) / len(curves.times_h),
                lw=1.2,
                ls=("-", "--", "-.", ":", (0, (6, 1)))[i % 5],
                label=f"{t:g} h",
            )
        a.set_title(f"{arm}: medians in time", fontsize=10)
        a.legend(frameon=False, fontsize=8)
    for a in axes:
        _set_distance_axis(a, c)
        a.set_yscale("log")
        _limit_decades(a)
    axes[0].set_ylabel("drug in cells, ng/1e5 cells")
    return figure


def survival_panel(c: Comparison) -> Figure:
    """Surviving fraction against distance, one panel for each kill model."""
    figure = Figure(figsize=(4.0 * len(KILL_MODELS), 3.2), dpi=100, layout="constrained")
    for i, (a, law) in enumerate(
        zip(
            figure.subplots(1, len(KILL_MODELS), sharey=True),
            KILL_MODELS,
            strict=True,
        )
    ):
        for arm, colour in arm_colours(c).items():
            x, (middle, low, high) = (
                c.arms[arm].curves.distance_um,
                c.arms[arm].curves.survival[law],
            )
            a.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
            a.plot(x, middle, color=colour, lw=1.8, label=arm)
        a.axhline(c.lethal, color="0.4", lw=0.8, ls="--")
        a.set_title(KILL_MODELS[law].name, fontsize=10)
        a.set_ylim(0, 1.02)
        _set_distance_axis(a, c)
        if i == 0:
            a.set_ylabel("surviving fraction")
            a.legend(frameon=False, fontsize=9)
    return figure


def lethal_panel(c: Comparison) -> Figure:
    """Share of cells lethally exposed, by kind, kill model and arm, with 90 % intervals."""
    kinds = ("all", "proliferating", "quiescent", "beyond")
    said = ("all", "proliferating", "quiescent", f"beyond {c.limit_um:g} um")
    figure = Figure(figsize=(4.0 * len(KILL_MODELS), 3.2), dpi=100, layout="constrained")
    width = 0.8 / len(c.arms)
    for a, law in zip(
        figure.subplots(1, len(KILL_MODELS), sharey=True),
        KILL_MODELS,
        strict=True,
    ):
        for j, (arm, colour) in enumerate(arm_colours(c).items()):
            v = np.array([c[f"lethal {kind}, {law}"].interval(arm) for kind in kinds]) * 100
            x = np.arange(len(kinds)) + (j - (len(c.arms) - 1) / 2) * width
            ends = np.clip(np.stack([v[:, 0] - v[:, 1], v[:, 2] - v[:, 0]]), 0, None)
            a.errorbar(x, v[:, 0], ends, fmt="o", ms=5, color=colour, capsize=3, lw=1.4, label=arm)
        a.set_xticks(range(len(kinds)), said, rotation=20, fontsize=9)
        a.set_title(KILL_MODELS[law].name, fontsize=10)
        a.set_ylim(-3, 103)
        a.grid(axis="y", color="0.92")
    figure.axes[0].set_ylabel("cells lethally exposed, %")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, frameon=False, fontsize=9, ncols=len(names), loc="outside upper center"
    )
    return figure


def arm_time_course_panel(c: Comparison) -> Figure:
    """Means over the tumour of drug in carriers, free, and in cells."""
    parts = {
        "in carriers": ("encapsulated", "retained"),
        "free and on albumin": ("free", "bound"),
        "in cells": ("intracellular", "nuclear"),
    }
    figure = Figure(figsize=(4.0 * len(parts), 3.2), dpi=100, layout="constrained")
    for a, (title, names) in zip(figure.subplots(1, len(parts)), parts.items(), strict=True):
        for arm, colour in arm_colours(c).items():
            s = c.arms[arm].simulation.courses
            values = sum((s.tumour[n] for n in names if n in s.tumour), np.zeros(len(s.times_s)))
            if values.max() > 0:
                a.plot(
                    s.times_s / 3600,
                    np.where(values > 0, values, np.nan),
                    color=colour,
                    lw=1.6,
                    label=arm,
                )
        _set_time_axis(a)
        a.set_title(title, fontsize=10)
        a.legend(frameon=False, fontsize=9)
    figure.axes[0].set_ylabel("ug/mL of tissue")
    return figure


def arm_plasma_panel(c: Comparison) -> Figure:
    """Plasma: drug in carriers and free drug."""
    figure = Figure(figsize=(8.2, 3.2), dpi=100, layout="constrained")
    for a, (name, title) in zip(
        figure.subplots(1, 2),
        {"encapsulated": "in carriers", "free_total": "free, bound included"}.items(),
        strict=True,
    ):
        for arm, colour in arm_colours(c).items():
            s = c.arms[arm].simulation.courses
            if s.plasma[name].max() > 0:
                a.plot(
                    s.times_s / 3600,
                    np.where(s.plasma[name] > 0, s.plasma[name], np.nan),
                    color=colour,
                    lw=1.6,
                    label=arm,
                )
        _set_time_axis(a)
        a.set_title(f"plasma, {title}", fontsize=10)
        a.legend(frameon=False, fontsize=9)
    figure.axes[0].set_ylabel("ug/mL of plasma")
    return figure


def pressure_panel(c: Comparison) -> Figure:
    """Interstitial pressure at the start of each arm and at its later times, tumour mean."""
    figure = Figure(figsize=(5.2, 3.2), dpi=100, layout="constrained")
    a = figure.add_subplot()
    for arm, colour in arm_colours(c).items():
        s = c.arms[arm].simulation
        start = float(np.nanmean(s.maps["IFP"].values[s.mask]))
        times, means = [0.0], [start]
        if "IFP" in s.fields:
            times, means = [*times, *(s.fields["IFP"].times_s / 3600)], [*means, *s.means("IFP")]
        else:
            times, means = [0.0, s.courses.times_s[-1] / 3600], [start, start]
        a.plot(times, means, "o-", ms=4, color=colour, lw=1.4, label=arm)
    a.set_xlabel("h")
    a.set_ylabel("IFP, tumour mean, mmHg")
    a.set_ylim(bottom=0)
    a.legend(frameon=False, fontsize=9)
    return figure


def arm_map_panel(c: Comparison, name: str) -> Figure:
    """One map of every arm on one scale, in the slice with most tumour."""
    z = int(np.argmax(c.mask.sum(axis=(0, 1))))
    x, y = tumour_window(c.mask)
    arms = {arm: arm_maps(a)[name] for arm, a in c.arms.items() if name in arm_maps(a)}
    known = np.concatenate([m.values[c.mask & np.isfinite(m.values)] for m in arms.values()])
    top = float(np.percentile(known, 99)) if known.size else 1.0
    figure = Figure(figsize=(2.7 * len(arms) + 1.2, 2.8), dpi=100, layout="constrained")
    for a, (arm, m) in zip(np.atleast_1d(figure.subplots(1, len(arms))), arms.items(), strict=True):
        shown = np.where(c.mask, m.values, np.nan)[x, y, z]
        image = a.imshow(
            shown.T, origin="lower", cmap="viridis", vmin=0.0, vmax=top if top > 0 else 1.0
        )
        a.contour(c.mask[x, y, z].T.astype(float), levels=[0.5], colors="0.3", linewidths=0.8)
        a.set_title(arm, fontsize=10)
        a.set_xticks([])
        a.set_yticks([])
    unit = next(iter(arms.values())).unit
    figure.colorbar(image, ax=figure.axes, label="share" if unit == "1" else unit)
    return figure


def heating_panel(c: Comparison) -> Figure:
    """Share of cells beyond the limit that are lethally exposed against the heating time."""
    h = c.heating
    assert h is not None
    figure = Figure(figsize=(8.2, 3.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, law in enumerate(KILL_MODELS):
        style = LINE_STYLES[i % len(LINE_STYLES)]
        middle, low, high = h.lethal[law] * 100
        colour = ARM_COLOURS[i]
        left.fill_between(h.duration_min, low, high, color=colour, alpha=0.15, lw=0)
        left.plot(
            h.duration_min,
            middle,
            style,
            color=colour,
            marker="o",
            ms=4,
            label=KILL_MODELS[law].name,
        )
        right.plot(
            h.duration_min,
            h.probability[law],
            style,
            color=colour,
            marker="o",
            ms=4,
            label=KILL_MODELS[law].name,
        )
    left.set_ylabel(f"lethally exposed beyond {c.limit_um:g} um, %")
    right.set_ylabel("P(at least half of the cells there)")
    right.axhline(0.5, color="0.4", lw=0.8, ls="--")
    for a, top in ((left, 103), (right, 1.03)):
        a.set_xlabel(f"min of heat ({h.arm})")
        a.set_ylim(-0.03 * top, top)
        a.legend(frameon=False, fontsize=9)
    return figure


def sensitivity_panel(c: Comparison) -> Figure:
    """Inputs by what the outcome follows most."""
    shown = c.sensitivities[:12][::-1]
    figure = Figure(figsize=(8.2, 0.28 * len(shown) + 1.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh([i.symbol for i in shown], [i.morris for i in shown], color=ARM_COLOURS[0])
    left.set_xlabel("mean absolute effect (Morris)")
    right.barh(
        range(len(shown)),
        [i.total or 0.0 for i in shown],
        xerr=[i.total_error or 0.0 for i in shown],
        color=ARM_COLOURS[2],
    )
    right.set_xlabel("total Sobol index")
    right.set_xlim(left=0)
    return figure


def _set_distance_axis(a: Axes, c: Comparison) -> None:
    a.axvline(c.limit_um, color="0.4", lw=0.8, ls=":")
    a.set_xlabel("distance from the vessel, um")
    a.set_xlim(0, 120)


def _limit_decades(a: Axes, decades: float = 4.0) -> None:
    drawn = [np.asarray(line.get_ydata(), dtype=np.float64) for line in a.lines]
    top = max((float(np.nanmax(y)) for y in drawn if y.size > 2), default=1.0)
    if np.isfinite(top) and top > 0:
        a.set_ylim(top * 10**-decades, 2 * top)


def _set_time_axis(a: Axes) -> None:
    a.set_yscale("log")
    _limit_decades(a, 5.0)
    a.set_xlabel("h")


def figure_assumptions(c: Comparison) -> Mapping[str, str]:
    """What each figure assumes, in a sentence below it."""
    draws = (
        f"Bands: 90 % of {c.draws} draws from the posterior of the fit and the priors of all else."
    )
    pressure = (
        "The level of the pressure carries its prior; what heat and radiation do to it are priors,"
        " and of radiation the literature"
    )
    under = "Around one vessel per group of voxels, radii of tissue by the plasma volume (Krogh)."
    under = f"{under} {draws if c.draws else 'No draws: medians of all inputs.'}"
    voxel = (
        "On the voxel grid, at the medians of all inputs; vessels and tissue of a voxel are mixed."
    )
    first, of_voxels = arm_maps(next(iter(c.arms.values()))), ("peak_", "auc_")
    of_maps = {
        f"map_{n}": f"{first[n].description}. {voxel if n.startswith(of_voxels) else under}"
        for n in plotted_maps(c)
    }
    return of_maps | {
        "penetration": (
            f"{under} Means over the tumour; only tissue that exists so far from its vessel counts."
        ),
        "survival": (
            f"{under} Relative to untreated cells. Dashed: lethal is at most"
            f" {c.lethal:.0%} survival."
        ),
        "lethal": (
            f"{under} Quiescent: too little oxygen to divide, more resistant by a prior from"
            " memory."
        ),
        "courses": voxel,
        "plasma": "Population kinetics of the parameter table; this patient's are not measured.",
        "ifp": f"{voxel} {pressure} is inconsistent.",
        "heating": f"{under} The same dose and start of heat; only its length changes.",
        "influences": (
            f"{c.sensitivity_outcome} Inputs over their priors, one group of mean tissue."
        ),
    }
