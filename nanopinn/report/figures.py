"""Figures of a fit, of a simulation and of the imaging, drawn without a screen, and the helpers of
all figures.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from nanopinn.imaging.imaging_data import ImagingMaps, kinetic_quantities
from nanopinn.imaging.voxel_status import INVALID
from nanopinn.parameters import HOUR
from nanopinn.results import (
    OBJECTIVE_RISE_95,
    Curve,
    EngineRun,
    FieldEstimate,
    FitResult,
    MapEstimate,
    Profile,
    ScalarEstimate,
    Simulation,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Sequential colour maps that remain readable in grey and to the colour-blind.
COLOUR_MAPS = {
    "Ktrans": "magma",
    "IFP": "viridis",
    "pH": "cividis",
    "krel": "inferno",
    "velocity": "plasma",
}
#: Margin around the tumour in maps, voxels.
_MARGIN = 3


def as_data_uri(figure: Figure) -> str:
    """Encode a figure as a PNG data URI, which a page contains."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure; width and height in inches."""
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def tumour_slice(mask: Mask) -> tuple[slice, slice, int]:
    """Index of the slice with the largest tumour area, cropped around the tumour.

    Args:
        mask: Tumour ``(x, y, z)``.
    """
    shadow = np.asarray(mask.any(axis=2))
    z = int(np.argmax(mask.sum(axis=(0, 1))))
    return _window(shadow, 0), _window(shadow, 1), z


def _window(shadow: Mask, axis: int) -> slice:
    where = np.flatnonzero(shadow.any(axis=1 - axis))
    high = min(shadow.shape[axis], int(where[-1]) + _MARGIN + 1)
    return slice(max(0, int(where[0]) - _MARGIN), high)


def draw_slice(
    axes: Axes,
    values: Array,
    mask: Mask,
    title: str,
    limits: tuple[float, float],
    *,
    colour_map: str = "viridis",
    outline: str = "white",
) -> AxesImage:
    """Draw a slice of a map with the outline of the tumour.

    Args:
        axes: Axes to draw in.
        values: Values ``(x, y)``.
        mask: Tumour ``(x, y)``.
        title: Title of the axes.
        limits: Limits of the colour scale.
        colour_map: Name of the colour map.
        outline: Colour of the outline.
    """
    low, high = limits
    image = axes.imshow(values.T, origin="lower", cmap=colour_map, vmin=low, vmax=high)
    if mask.any() and not mask.all():
        axes.contour(mask.T.astype(float), levels=[0.5], colors=outline, linewidths=1.0)
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    return image


def set_log_x_axis(axes: Axes, multiples: Sequence[float]) -> None:
    """Make the x axis logarithmic, with plain numbers at these multiples of powers of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=tuple(multiples)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def plot_positive(axes: Axes, times_s: Array, values: Array, **style: Any) -> None:
    """Plot a time course in hours; values of zero are left out, as a logarithmic axis needs."""
    axes.plot(times_s / HOUR, np.where(values > 0, values, np.nan), **style)


def map_panel(m: MapEstimate, mask: Mask, std_label: str = "posterior SD") -> Figure:
    """Draw a map and its standard deviation in the slice with the largest tumour area."""
    at = tumour_slice(mask)
    panels: list[tuple[str, Array]] = [(m.name, m.values)]
    if m.std is not None:
        panels.append((f"{m.name}, {std_label}", m.std))
    figure = new_figure(4.2 * len(panels), 3.6)
    for i, (title, values) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        shown, inside = values[at], mask[at]
        known = shown[inside & np.isfinite(shown)]
        high = float(np.percentile(known, 99)) if known.size else 1.0
        low = float(np.percentile(known, 1)) if known.size and m.name in ("pH", "T1") else 0.0
        colour_map = COLOUR_MAPS.get(m.name, "viridis")
        image = draw_slice(axes, shown, inside, title, (low, high or 1.0), colour_map=colour_map)
        figure.colorbar(image, ax=axes, label="" if m.unit == "1" else m.unit)
    return figure


def curve_panel(curves: Sequence[Curve]) -> Figure:
    """Draw measured and modelled tumour means."""
    figure = new_figure(4.4 * len(curves), 3.4)
    for i, c in enumerate(curves):
        axes = figure.add_subplot(1, len(curves), i + 1)
        hours = c.times_s[-1] > 7200
        t = c.times_s / (3600 if hours else 60)
        axes.errorbar(t, c.measured, c.measured_sd, fmt="o", ms=3, color="0.35", label="measured")
        style = "-" if len(t) > 5 else "s"
        axes.plot(t, c.modelled, style, color="tab:red", lw=1.5, mfc="none", label="model")
        axes.set_xlabel("time after the dose, h" if hours else "time, min")
        axes.set_ylabel(c.unit)
        axes.set_title(c.name, fontsize=11)
        axes.legend(frameon=False)
    return figure


def prior_posterior_panel(scalars: Sequence[ScalarEstimate]) -> Figure:
    """Draw prior (grey) and posterior (red) of every parameter, scaled to equal heights."""
    columns = 5
    rows = -(-len(scalars) // columns)
    figure = new_figure(3.0 * columns, 2.4 * rows)
    for i, s in enumerate(scalars):
        axes = figure.add_subplot(rows, columns, i + 1)
        for centre, sd, colour in (
            (s.prior_median, s.prior_sd, "0.6"),
            (s.median, s.sd, "tab:red"),
        ):
            x, density = _density(s, centre, sd)
            axes.fill_between(x, density, color=colour, alpha=0.5, lw=0)
        if s.scale == "log":
            decades = 7 * max(s.prior_sd, s.sd) / np.log(10)
            set_log_x_axis(axes, (1.0,) if decades > 2 else (1.0, 3.0))
        axes.set_yticks([])
        axes.set_title(s.label, fontsize=9)
        axes.set_xlabel("" if s.unit == "1" else s.unit, fontsize=9)
        axes.tick_params(labelsize=8)
    return figure


def _density(s: ScalarEstimate, centre: float, sd: float) -> tuple[Array, Array]:
    z = np.linspace(-3.5, 3.5, 141)
    x = centre * np.exp(z * sd) if s.scale == "log" else centre + z * sd
    return x, np.exp(-(z**2) / 2)  # equal heights, because the widths are compared


def convergence_panel(runs: Mapping[str, EngineRun]) -> Figure:
    """Draw the objective of each engine against its iterations."""
    figure = new_figure(5.0, 3.2)
    axes = figure.add_subplot()
    for name, run in runs.items():
        axes.semilogy(range(len(run.objective)), run.objective, "o-", ms=4, label=name)
    axes.set_xlabel("iteration")
    axes.set_ylabel("objective: misfit + prior")
    axes.legend(frameon=False)
    return figure


def profile_panel(profiles: Sequence[Profile]) -> Figure:
    """Draw profile likelihoods, misfit and prior separately, with the 95 % threshold."""
    columns = min(4, len(profiles))
    rows = -(-len(profiles) // columns)
    figure = new_figure(3.4 * columns, 2.8 * rows)
    for i, p in enumerate(profiles):
        axes = figure.add_subplot(rows, columns, i + 1)
        for values, style, label in (
            (p.objective, "o-k", "objective"),
            (p.misfit, "--", "misfit"),
            (p.prior, ":", "prior"),
        ):
            axes.plot(p.values, values - values.min(), style, ms=3, lw=1.2, label=label)
        axes.axhline(OBJECTIVE_RISE_95, color="0.6", lw=0.8)
        for end in p.laplace:
            axes.axvline(end, color="tab:red", lw=0.8, ls=":")
        # a narrower logarithmic axis would have hardly any ticks
        if p.scale == "log" and p.values[-1] > 5 * p.values[0]:
            set_log_x_axis(axes, (1.0, 2.0, 5.0))
        axes.set_title(p.label, fontsize=9)
        axes.set_xlabel("" if p.unit == "1" else p.unit, fontsize=9)
        axes.set_ylabel("increase of (chi2 + prior)/2", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(frameon=False, fontsize=7)
    return figure


def fit_figures(fit: FitResult) -> dict[str, str]:
    """Draw every figure of the fit report, as data URIs by name."""
    found = {
        f"map {m.name}": map_panel(m, fit.mask)
        for m in fit.maps.values()
        if np.isfinite(m.values[fit.mask]).any()
    }
    found["curves"] = curve_panel(fit.curves)
    found["prior and posterior"] = prior_posterior_panel(fit.scalars)
    found["convergence"] = convergence_panel(fit.runs)
    if fit.profiles:
        found["profiles"] = profile_panel(list(fit.profiles.values()))
    return {name: as_data_uri(figure) for name, figure in found.items()}


def simulation_figures(s: Simulation) -> dict[str, str]:
    """Draw every figure of the page of a simulation, as data URIs by name."""
    plasma = {name.replace("_", ", "): v for name, v in s.courses.plasma.items() if v.max() > 0}
    times = s.courses.times_s
    found = {n: flow_course_panel(times, n, v) for n, v in s.courses.flow.items()}
    if s.courses.tumour:
        found["courses"] = time_course_panel(times, s.courses.tumour, "ug/mL of tissue", 4.0)
        found["plasma"] = time_course_panel(times, plasma, "ug/mL of plasma", 3.2)
    found |= {f"field {f.name}": field_panel(f, s.mask) for f in s.fields.values()}
    for kind, maps in (("map", s.maps), ("peak", s.peak_maps), ("auc", s.auc_maps)):
        found |= {f"{kind} {m.name}": map_panel(m, s.mask) for m in maps.values()}
    return {name: as_data_uri(figure) for name, figure in found.items()}


def time_course_panel(
    times_s: Array, courses: Mapping[str, Array], unit: str, height: float
) -> Figure:
    """Draw time courses on a logarithmic scale of six decades.

    Args:
        times_s: Times ``(t,)``, s.
        courses: Concentrations ``(t,)`` by name.
        unit: Label of the vertical axis.
        height: Height of the figure, inches.
    """
    figure = new_figure(9.0, height)
    axes = figure.add_subplot()
    for name, values in courses.items():
        plot_positive(axes, times_s, values, lw=1.5, label=name)
    top = max((float(v.max()) for v in courses.values()), default=0.0)
    axes.set_yscale("log")
    if top > 0:
        axes.set_ylim(1e-6 * top, 2 * top)
    axes.set_xlabel("time, h")
    axes.set_ylabel(unit)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def flow_course_panel(times_s: Array, name: str, values: Array) -> Figure:
    """Draw the tumour mean of a quantity of the flow against time.

    Args:
        times_s: Times ``(t,)``, s.
        name: Quantity and unit, such as ``filtration_per_h``.
        values: ``(t,)``.
    """
    figure = new_figure(9.0, 2.6)
    axes = figure.add_subplot()
    axes.plot(times_s / HOUR, values, lw=1.5)
    axes.set_xlabel("time, h")
    axes.set_ylabel(name.replace("_per_", "/").replace("_", " "))
    axes.set_ylim(bottom=min(0.0, float(values.min())))
    return figure


def field_panel(f: FieldEstimate, mask: Mask, max_times: int = 5) -> Figure:
    """Draw a field in the slice with the largest tumour area, with one colour scale for all times.

    Args:
        f: The field.
        mask: Tumour ``(x, y, z)``.
        max_times: Largest number of imaging times to draw.
    """
    at = tumour_slice(mask)
    chosen = np.unique(np.linspace(0, len(f.times_s) - 1, max_times).round().astype(int))
    known = f.values[chosen][:, mask]
    low, high = (
        (float(np.nanmin(known)), float(np.nanmax(known)))
        if f.name == "temperature"
        else (0.0, float(np.nanpercentile(known, 99)))
    )
    limits = (low, high if high > low else low + 1e-12)
    figure = new_figure(2.4 * len(chosen) + 1.2, 2.6)
    for i, k in enumerate(chosen):
        axes = figure.add_subplot(1, len(chosen), i + 1)
        title, colour_map = f"{f.times_s[k] / HOUR:g} h", COLOUR_MAPS.get(f.name, "viridis")
        image = draw_slice(axes, f.values[k][at], mask[at], title, limits, colour_map=colour_map)
    figure.colorbar(image, ax=figure.axes, label=f.unit)
    return figure


def imaging_figures(imaging: ImagingMaps) -> dict[str, Figure]:
    """Draw every figure of the imaging page, by name."""
    found = input_figures(imaging)
    if imaging.has_dce:
        found["curves"] = voxel_panel(imaging)
    maps = [
        MapEstimate(q.name, q.unit, q.description, "images", v, imaging.kinetics.std[q.name])
        for q, v in kinetic_quantities(imaging)
    ]
    for name, unit, description, values, std in (
        ("T1", "s", "native T1", imaging.t1_s, imaging.t1_std_s),
        ("pH", "1", "extracellular pH", imaging.ph, imaging.ph_std),
    ):
        known = std if np.isfinite(std[imaging.mask]).any() else None
        maps.append(MapEstimate(name, unit, description, "images", values, known))
    for m in maps:
        if np.isfinite(m.values[imaging.mask]).any():
            found[f"map {m.name}"] = map_panel(m, imaging.mask, std_label="SD")
    return found


def input_figures(imaging: ImagingMaps) -> dict[str, Figure]:
    """Draw the figures that the fit report shares: arterial input, pH overlay and motion."""
    if not imaging.has_dce:
        return {}
    found = {"arterial input": arterial_panel(imaging)}
    if np.isfinite(imaging.ph).any():
        found["overlay"] = overlay_panel(imaging)
    if imaging.motion is not None:
        found["motion"] = motion_panel(imaging)
    return found


def arterial_panel(imaging: ImagingMaps) -> Figure:
    """Draw the arterial input function, and the measured curve with the SD between its voxels."""
    figure = new_figure(6.0, 3.2)
    axes = figure.add_subplot()
    label = "plasma, at arrival in the tumour"
    axes.plot(imaging.aif.times_s, imaging.aif.plasma_mM, color="tab:red", lw=1.5, label=label)
    if imaging.arterial_voxels is not None:
        v, t = imaging.arterial_voxels, imaging.frame_times_s
        style: dict[str, Any] = {"fmt": "o", "ms": 2.5, "color": "0.5", "lw": 0.8}
        axes.errorbar(t, v.blood_mM, v.std_mM, label="blood, measured", **style)
    axes.set_xlim(imaging.frame_times_s[0], imaging.frame_times_s[-1])
    axes.set_xlabel("time, s")
    axes.set_ylabel("contrast agent, mM")
    axes.legend(frameon=False)
    return figure


def voxel_panel(imaging: ImagingMaps, count: int = 4) -> Figure:
    """Draw measured and fitted curves of tumour voxels, from low to high Ktrans or plasma volume.

    Args:
        imaging: Maps and curves.
        count: Number of voxels.
    """
    k, figure = imaging.kinetics, new_figure(3.4 * count, 3.0)
    valid = np.flatnonzero(((k.status & int(INVALID)) == 0) & imaging.mask)
    rank = next(iter(k.values.values())).reshape(-1)[valid]
    order = valid[np.argsort(np.nan_to_num(rank))]
    if len(order):
        order = order[np.round(np.linspace(0.1, 0.9, count) * (len(order) - 1)).astype(int)]
    measured, fitted = (a.reshape(len(a), -1) for a in (imaging.concentration_mM, k.curves_mM))
    for i, voxel in enumerate(order):
        axes = figure.add_subplot(1, count, i + 1)
        axes.plot(imaging.frame_times_s, measured[:, voxel], "o", ms=2.5, color="0.4")
        axes.plot(imaging.frame_times_s, fitted[:, voxel], color="tab:red", lw=1.5)
        index = tuple(int(n) for n in np.unravel_index(voxel, imaging.mask.shape))
        axes.set_title(f"voxel {index}", fontsize=10)
        axes.set_xlabel("time, s")
        if i == 0:
            axes.set_ylabel("contrast agent, mM")
    return figure


def overlay_panel(imaging: ImagingMaps) -> Figure:
    """Draw pH over the DCE scan in the slice with the most pH, to check the registration."""
    z = int(np.argmax(np.isfinite(imaging.ph).sum(axis=(0, 1))))
    figure = new_figure(5.4, 4.2)
    axes = figure.add_subplot()
    mean_mM = np.nan_to_num(imaging.concentration_mM[..., z]).mean(axis=0)
    title = "pH over mean contrast agent; white: tumour"
    draw_slice(
        axes,
        mean_mM,
        imaging.mask[..., z],
        title,
        (mean_mM.min(), mean_mM.max()),
        colour_map="gray",
    )
    image = axes.imshow(imaging.ph[..., z].T, origin="lower", cmap="cividis", alpha=0.55)
    figure.colorbar(image, ax=axes, label="pH")
    return figure


def motion_panel(imaging: ImagingMaps) -> Figure:
    """Draw the estimated translations and rotations of every frame."""
    assert imaging.motion is not None
    figure = new_figure(8.0, 2.8)
    for i, (values, label) in enumerate(
        (
            (imaging.motion.translation_mm, "translation, mm"),
            (imaging.motion.rotation_deg, "rotation, degrees"),
        )
    ):
        axes = figure.add_subplot(1, 2, i + 1)
        for a, name in enumerate("xyz"):
            axes.plot(imaging.frame_times_s, values[:, a], lw=1.2, label=name)
        axes.set_xlabel("time, s")
        axes.set_ylabel(label)
        axes.legend(frameon=False, ncols=3)
    return figure
