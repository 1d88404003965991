"""Figures of a comparison of treatment arms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nanopinn.parameters import HOUR
from nanopinn.physics.cell_kill import KILL_MODELS
from nanopinn.report.figures import draw_slice, new_figure, plot_positive, tumour_slice
from nanopinn.results import ComparedArm, Comparison, MapEstimate

Array = NDArray[np.float64]
#: One colour per arm, distinguishable by the colour-blind (Okabe and Ito 2008).
ARM_COLOURS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
_MODEL_LINE_STYLES = ("-", "--", ":", "-.")
_TIME_LINE_STYLES = ("-", "--", "-.", ":", (0, (6, 1)))
#: Pools of each part of the time courses.
_POOL_GROUPS = {
    "encapsulated drug": ("encapsulated", "retained"),
    "free and albumin-bound drug": ("free", "bound"),
    "intracellular drug": ("intracellular", "nuclear"),
}
#: Largest distance from the vessel that is drawn, um.
_MAX_DISTANCE_UM = 120


def arm_colours(c: Comparison) -> dict[str, str]:
    """Colour of each arm."""
    return {arm: ARM_COLOURS[i % len(ARM_COLOURS)] for i, arm in enumerate(c.arms)}


def comparison_figures(c: Comparison) -> dict[str, Figure]:
    """Draw every figure of a comparison, by the name of its file."""
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
        found["sensitivities"] = sensitivity_panel(c)
    return found


def plotted_maps(c: Comparison) -> list[str]:
    """Names of the maps that are drawn: of the voxel grid, and of the sub-voxel model."""
    available = arm_maps(next(iter(c.arms.values())))
    wanted = (
        "peak_intracellular",
        "auc_free",
        "lethal_radius_peak",
        "lethal_beyond_peak",
        "survival_peak",
    )
    return [name for name in wanted if name in available]


def arm_maps(arm: ComparedArm) -> dict[str, MapEstimate]:
    """All maps of an arm by name: of the voxel grid, and of the sub-voxel model."""
    s = arm.simulation
    voxels = {
        f"{kind}_{m.name}": m
        for kind, maps in (("peak", s.peak_maps), ("auc", s.auc_maps))
        for m in maps.values()
    }
    return {**voxels, **arm.maps}


def penetration_panel(c: Comparison) -> Figure:
    """Draw intracellular drug against distance: its peak with interval, and the imaging times."""
    first = next(iter(c.arms.values())).curves
    figure = new_figure(4.2 * (1 + len(c.arms)), 3.4)
    axes = figure.subplots(1, 1 + len(c.arms))
    for arm, colour in arm_colours(c).items():
        _draw_band(axes[0], first.distance_um, c.arms[arm].curves.peak, colour, arm)
    axes[0].set_title("peak over the simulation", fontsize=10)
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
                ls=_TIME_LINE_STYLES[i % len(_TIME_LINE_STYLES)],
                label=f"{t:g} h",
            )
        a.set_title(f"{arm}: medians at the imaging times", fontsize=10)
        a.legend(frameon=False, fontsize=8)
    for a in axes:
        _set_distance_axis(a, c)
        a.set_yscale("log")
        _limit_decades(a)
    axes[0].set_ylabel("intracellular drug, ng/1e5 cells")
    return figure


def survival_panel(c: Comparison) -> Figure:
    """Draw the surviving fraction against distance, one panel per kill model."""
    figure, panels = _model_panels()
    for a, model in zip(panels, KILL_MODELS.values(), strict=True):
        for arm, colour in arm_colours(c).items():
            curves = c.arms[arm].curves
            _draw_band(a, curves.distance_um, curves.survival[model.key], colour, arm)
        a.axhline(c.lethal_survival, color="0.4", lw=0.8, ls="--")
        a.set_title(model.name, fontsize=10)
        a.set_ylim(0, 1.02)
        _set_distance_axis(a, c)
    panels[0].set_ylabel("surviving fraction")
    panels[0].legend(frameon=False, fontsize=9)
    return figure


def lethal_panel(c: Comparison) -> Figure:
    """Draw the lethally exposed fraction of each cell population, with 90 % intervals."""
    populations = {
        "all": "all",
        "proliferating": "proliferating",
        "quiescent": "quiescent",
        "beyond": f"beyond {c.limit_um:g} um",
    }
    figure, panels = _model_panels()
    width = 0.8 / len(c.arms)
    for a, model in zip(panels, KILL_MODELS.values(), strict=True):
        for j, (arm, colour) in enumerate(arm_colours(c).items()):
            intervals = [c[f"lethal {kind}, {model.key}"].interval(arm) for kind in populations]
            v = np.array(intervals) * 100
            x = np.arange(len(populations)) + (j - (len(c.arms) - 1) / 2) * width
            ends = np.clip(np.stack([v[:, 0] - v[:, 1], v[:, 2] - v[:, 0]]), 0, None)
            a.errorbar(x, v[:, 0], ends, fmt="o", ms=5, color=colour, capsize=3, lw=1.4, label=arm)
        a.set_xticks(range(len(populations)), list(populations.values()), rotation=20, fontsize=9)
        a.set_title(model.name, fontsize=10)
        a.set_ylim(-3, 103)
        a.grid(axis="y", color="0.92")
    panels[0].set_ylabel("lethally exposed cells, %")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, names, frameon=False, fontsize=9, ncols=len(names), loc="outside upper center"
    )
    return figure


def arm_time_course_panel(c: Comparison) -> Figure:
    """Draw tumour means of encapsulated, free and intracellular drug."""
    figure = new_figure(4.0 * len(_POOL_GROUPS), 3.2)
    panels = figure.subplots(1, len(_POOL_GROUPS))
    for a, (title, pools) in zip(panels, _POOL_GROUPS.items(), strict=True):
        for arm, colour in arm_colours(c).items():
            s = c.arms[arm].simulation.courses
            values = sum((s.tumour[p] for p in pools if p in s.tumour), np.zeros(len(s.times_s)))
            if values.max() > 0:
                plot_positive(a, s.times_s, values, color=colour, lw=1.6, label=arm)
        _set_time_axis(a, title)
    panels[0].set_ylabel("ug/mL of tissue")
    return figure


def arm_plasma_panel(c: Comparison) -> Figure:
    """Draw encapsulated and free drug in plasma."""
    figure = new_figure(8.2, 3.2)
    panels = figure.subplots(1, 2)
    titles = {"encapsulated": "plasma, encapsulated", "free_total": "plasma, free and bound"}
    for a, (name, title) in zip(panels, titles.items(), strict=True):
        for arm, colour in arm_colours(c).items():
            s = c.arms[arm].simulation.courses
            if s.plasma[name].max() > 0:
                plot_positive(a, s.times_s, s.plasma[name], color=colour, lw=1.6, label=arm)
        _set_time_axis(a, title)
    panels[0].set_ylabel("ug/mL of plasma")
    return figure


def pressure_panel(c: Comparison) -> Figure:
    """Draw the tumour mean of the interstitial pressure at the start and at later times."""
    figure = new_figure(5.2, 3.2)
    a = figure.add_subplot()
    for arm, colour in arm_colours(c).items():
        s = c.arms[arm].simulation
        start = float(np.nanmean(s.maps["IFP"].values[s.mask]))
        if "IFP" in s.fields:
            times = [0.0, *(s.fields["IFP"].times_s / HOUR)]
            means = [start, *s.means("IFP")]
        else:
            times, means = [0.0, s.courses.times_s[-1] / HOUR], [start, start]
        a.plot(times, means, "o-", ms=4, color=colour, lw=1.4, label=arm)
    a.set_xlabel("time, h")
    a.set_ylabel("IFP, tumour mean, mmHg")
    a.set_ylim(bottom=0)
    a.legend(frameon=False, fontsize=9)
    return figure


def arm_map_panel(c: Comparison, name: str) -> Figure:
    """Draw one map of every arm in the slice with the largest tumour area, on one colour scale."""
    at = tumour_slice(c.mask)
    arms = {arm: arm_maps(a)[name] for arm, a in c.arms.items() if name in arm_maps(a)}
    known = np.concatenate([m.values[c.mask & np.isfinite(m.values)] for m in arms.values()])
    top = float(np.percentile(known, 99)) if known.size else 1.0
    limits = (0.0, top if top > 0 else 1.0)
    figure = new_figure(2.7 * len(arms) + 1.2, 2.8)
    panels = np.atleast_1d(figure.subplots(1, len(arms)))
    for a, (arm, m) in zip(panels, arms.items(), strict=True):
        shown = np.where(c.mask, m.values, np.nan)[at]
        image = draw_slice(a, shown, c.mask[at], arm, limits, outline="0.3")
    unit = next(iter(arms.values())).unit
    figure.colorbar(image, ax=figure.axes, label="fraction" if unit == "1" else unit)
    return figure


def heating_panel(c: Comparison) -> Figure:
    """Draw the lethally exposed fraction of cells beyond the limit against the heating duration."""
    h = c.heating
    assert h is not None
    figure = new_figure(8.2, 3.2)
    left, right = figure.subplots(1, 2)
    for i, model in enumerate(KILL_MODELS.values()):
        colour = ARM_COLOURS[i]
        style = {"ls": _MODEL_LINE_STYLES[i % len(_MODEL_LINE_STYLES)], "marker": "o", "ms": 4}
        fraction = h.lethal_fraction[model.key] * 100
        _draw_band(left, h.duration_min, fraction, colour, model.name, **style)
        right.plot(
            h.duration_min, h.probability[model.key], color=colour, label=model.name, **style
        )
    left.set_ylabel(f"lethally exposed beyond {c.limit_um:g} um, %")
    right.set_ylabel("P(at least half of these cells)")
    right.axhline(0.5, color="0.4", lw=0.8, ls="--")
    for a, top in ((left, 103), (right, 1.03)):
        a.set_xlabel(f"heating duration, min ({h.arm})")
        a.set_ylim(-0.03 * top, top)
        a.legend(frameon=False, fontsize=9)
    return figure


def sensitivity_panel(c: Comparison) -> Figure:
    """Draw the inputs ranked by the sensitivity of the outcome."""
    shown = c.sensitivities[:12][::-1]
    figure = new_figure(8.2, 0.28 * len(shown) + 1.2)
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh([i.symbol for i in shown], [i.morris for i in shown], color=ARM_COLOURS[0])
    left.set_xlabel("mean absolute elementary effect (Morris)")
    totals = [i.total or 0.0 for i in shown]
    errors = [i.total_error or 0.0 for i in shown]
    right.barh(range(len(shown)), totals, xerr=errors, color=ARM_COLOURS[2])
    right.set_xlabel("total Sobol index")
    right.set_xlim(left=0)
    return figure


def _model_panels() -> tuple[Figure, NDArray[np.object_]]:
    """A figure with one panel per kill model."""
    count = len(KILL_MODELS)
    figure = new_figure(4.0 * count, 3.2)
    return figure, figure.subplots(1, count, sharey=True)


def _draw_band(a: Axes, x: Array, curve: Array, colour: str, label: str, **style: object) -> None:
    """Draw a median with its interval; ``curve`` is ``(3, x)``: median, low, high."""
    median, low, high = curve
    a.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
    a.plot(x, median, color=colour, label=label, **{"lw": 1.8, **style})  # type: ignore[arg-type]


def _set_distance_axis(a: Axes, c: Comparison) -> None:
    a.axvline(c.limit_um, color="0.4", lw=0.8, ls=":")
    a.set_xlabel("distance from the vessel, um")
    a.set_xlim(0, _MAX_DISTANCE_UM)


def _limit_decades(a: Axes, decades: float = 4.0) -> None:
    drawn = [np.asarray(line.get_ydata(), dtype=np.float64) for line in a.lines]
    top = max((float(np.nanmax(y)) for y in drawn if y.size > 2), default=1.0)
    if np.isfinite(top) and top > 0:
        a.set_ylim(top * 10**-decades, 2 * top)


def _set_time_axis(a: Axes, title: str) -> None:
    a.set_yscale("log")
    _limit_decades(a, 5.0)
    a.set_xlabel("time, h")
    a.set_title(title, fontsize=10)
    a.legend(frameon=False, fontsize=9)


def figure_assumptions(c: Comparison) -> Mapping[str, str]:
    """Assumptions of each figure, as a note below it."""
    draws = (
        f"Bands: central 90 % of {c.draws} draws from the posterior of the fit and the priors of"
        " the other inputs."
        if c.draws
        else "No draws: medians of all inputs."
    )
    krogh = (
        "Sub-voxel (Krogh cylinder) model: one vessel per cluster of voxels, with tissue radii by"
        f" the plasma volume. {draws}"
    )
    voxel = (
        "On the voxel grid, at the medians of all inputs; vessels and tissue of a voxel are mixed."
    )
    first = arm_maps(next(iter(c.arms.values())))
    maps = {
        f"map_{n}": f"{first[n].description}. {voxel if n.startswith(('peak_', 'auc_')) else krogh}"
        for n in plotted_maps(c)
    }
    return maps | {
        "penetration": (
            f"{krogh} Means over the tumour; at each distance only tissue that extends so far from"
            " its vessel is counted."
        ),
        "survival": (
            f"{krogh} Relative to untreated cells. Dashed: an exposure is lethal at"
            f" {c.lethal_survival:.0%} survival or less."
        ),
        "lethal": (
            f"{krogh} Quiescent cells have too little oxygen to divide; their resistance has a"
            " prior from memory."
        ),
        "courses": voxel,
        "plasma": (
            "Population pharmacokinetics of the parameter table; those of this patient are not"
            " measured."
        ),
        "ifp": (
            f"{voxel} The level of the pressure depends on its prior. The effects of heat and"
            " radiation are priors; the literature on radiation is inconsistent."
        ),
        "heating": f"{krogh} Dose and start of heating are the same; only the duration changes.",
        "sensitivities": (
            f"{c.sensitivity_outcome} Inputs vary over their priors, in one cluster of mean tissue."
        ),
    }
