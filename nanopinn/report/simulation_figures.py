"""Figures of a forward run: courses over the tumour, plasma, and maps of a middle slice in time."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from nanopinn.inference.result import FieldEstimate
from nanopinn.report.figures import COLOUR_MAPS, as_data_uri, map_panel, tumour_window
from nanopinn.report.simulated import Simulation


def simulation_figures(s: Simulation) -> dict[str, str]:
    """Every figure of the page as data URIs, by name."""
    found = {"courses": tissue_time_course_panel(s), "plasma": plasma_time_course_panel(s)}
    found |= {f"field {f.name}": field_panel(f, s) for f in s.fields.values()}
    found |= {f"map {m.name}": map_panel(m, s.mask) for m in s.maps.values()}
    found |= {
        f"{kind} {m.name}": map_panel(m, s.mask)
        for kind, maps in (("peak", s.peak_maps), ("area", s.auc_maps))
        for m in maps.values()
    }
    return {name: as_data_uri(figure) for name, figure in found.items()}


def tissue_time_course_panel(s: Simulation) -> Figure:
    """Tumour means of every pool, on a scale that shows all of them."""
    figure = Figure(figsize=(9.0, 4.0), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for name, values in s.courses.tumour.items():
        axes.plot(
            s.courses.times_s / 3600, np.where(values > 0, values, np.nan), lw=1.5, label=name
        )
    _set_log_time_course_axes(axes, max(float(v.max()) for v in s.courses.tumour.values()))
    axes.set_ylabel("ug/mL of tissue")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def plasma_time_course_panel(s: Simulation) -> Figure:
    """Drug in plasma."""
    figure = Figure(figsize=(9.0, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for name, values in s.courses.plasma.items():
        if values.max() > 0:
            axes.plot(
                s.courses.times_s / 3600,
                np.where(values > 0, values, np.nan),
                lw=1.5,
                label=name.replace("_", ", "),
            )
    _set_log_time_course_axes(axes, max(float(v.max()) for v in s.courses.plasma.values()))
    axes.set_ylabel("ug/mL of plasma")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _set_log_time_course_axes(axes, top: float) -> None:  # type: ignore[no-untyped-def]
    axes.set_yscale("log")
    if top > 0:
        axes.set_ylim(1e-6 * top, 2 * top)
    axes.set_xlabel("h")


def field_panel(f: FieldEstimate, s: Simulation, most: int = 5) -> Figure:
    """A field in the slice with most tumour, at up to ``most`` of the imaging times, on one scale."""
    z = int(np.argmax(s.mask.sum(axis=(0, 1))))
    x, y = tumour_window(s.mask)
    chosen = np.unique(np.linspace(0, len(f.times_s) - 1, most).round().astype(int))
    shown = f.values[chosen][:, x, y, z]
    known = f.values[chosen][:, s.mask]
    low, top = (
        (float(np.nanmin(known)), float(np.nanmax(known)))
        if f.name == "temperature"
        else (0.0, float(np.nanpercentile(known, 99)))
    )
    figure = Figure(figsize=(2.4 * len(chosen) + 1.2, 2.6), dpi=100, layout="constrained")
    axes = [figure.add_subplot(1, len(chosen), i + 1) for i in range(len(chosen))]
    for a, values, t in zip(axes, shown, f.times_s[chosen], strict=True):
        image = a.imshow(
            values.T,
            origin="lower",
            cmap=COLOUR_MAPS.get(f.name, "viridis"),
            vmin=low,
            vmax=top if top > low else low + 1e-12,
        )
        a.contour(s.mask[x, y, z].T.astype(float), levels=[0.5], colors="white", linewidths=1.0)
        a.set_title(f"{t / 3600:g} h", fontsize=10)
        a.set_xticks([])
        a.set_yticks([])
    figure.colorbar(image, ax=axes, label=f.unit)
    return figure
