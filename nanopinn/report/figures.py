"""Figures of the report, drawn without a screen.

Figures of the imaging: maps, curves with their fits, arterial input, motion.

Figures of a forward run: courses over the tumour, plasma, and maps of a middle slice in time.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from nanopinn.imaging.parametric_maps import ImagingMaps
from nanopinn.imaging.voxel_status import INVALID
from nanopinn.results.fit_result import (
    OBJECTIVE_RISE_95,
    Curve,
    EngineRun,
    FieldEstimate,
    FitResult,
    MapEstimate,
    ScalarEstimate,
)
from nanopinn.results.simulation_result import Simulation

if TYPE_CHECKING:
    from nanopinn.results.fit_result import Profile


Array = NDArray[np.float64]

#: Sequential colour maps that print in grey and serve the colour-blind.
COLOUR_MAPS = {
    "Ktrans": "magma",
    "IFP": "viridis",
    "pH": "cividis",
    "krel": "inferno",
    "velocity": "plasma",
}


def as_data_uri(figure: Figure) -> str:
    """A figure as a PNG that a page carries inside itself."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def map_panel(m: MapEstimate, mask: NDArray[np.bool_], std_label: str = "posterior sd") -> Figure:
    """A map and its standard deviation in the slice with most tumour, around the tumour."""
    z = int(np.argmax(mask.sum(axis=(0, 1))))
    window = tumour_window(mask)
    panels: list[tuple[str, Array]] = [(m.name, m.values)]
    if m.std is not None:
        panels.append((f"{m.name}, {std_label}", m.std))
    figure = Figure(figsize=(4.2 * len(panels), 3.6), dpi=100, layout="constrained")
    for i, (title, values) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        shown = values[window[0], window[1], z]
        inside = mask[window[0], window[1], z]
        known = shown[inside & np.isfinite(shown)]
        top = float(np.percentile(known, 99)) if known.size else 1.0
        low = float(np.percentile(known, 1)) if known.size and m.name in ("pH", "T1") else 0.0
        image = axes.imshow(
            shown.T,
            origin="lower",
            cmap=COLOUR_MAPS.get(m.name, "viridis"),
            vmin=low,
            vmax=top or 1.0,
        )
        if inside.any() and not inside.all():
            axes.contour(inside.T, levels=[0.5], colors="white", linewidths=1.0)
        axes.set_title(title, fontsize=11)
        axes.set_xticks([])
        axes.set_yticks([])
        figure.colorbar(image, ax=axes, label="" if m.unit == "1" else m.unit)
    return figure


def tumour_window(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The tumour's part of a slice, with a margin."""
    shadow = np.asarray(mask.any(axis=2))
    return _window(shadow, 0), _window(shadow, 1)


def _window(shadow: NDArray[np.bool_], axis: int) -> slice:
    where = np.flatnonzero(shadow.any(axis=1 - axis))
    return slice(max(0, int(where[0]) - 3), min(shadow.shape[axis], int(where[-1]) + 4))


def curve_panel(curves: Sequence[Curve]) -> Figure:
    """Measured and modelled tumour means."""
    figure = Figure(figsize=(4.4 * len(curves), 3.4), dpi=100, layout="constrained")
    for i, c in enumerate(curves):
        axes = figure.add_subplot(1, len(curves), i + 1)
        hours = c.times_s[-1] > 7200
        t = c.times_s / (3600 if hours else 60)
        axes.errorbar(t, c.measured, c.measured_sd, fmt="o", ms=3, color="0.35", label="measured")
        axes.plot(
            t,
            c.modelled,
            "-" if len(t) > 5 else "s",
            color="tab:red",
            lw=1.5,
            mfc="none",
            label="model",
        )
        axes.set_xlabel("h after the dose" if hours else "min")
        axes.set_ylabel(c.unit)
        axes.set_title(c.name, fontsize=11)
        axes.legend(frameon=False)
    return figure


def prior_posterior_panel(scalars: Sequence[ScalarEstimate]) -> Figure:
    """Prior (grey) beside posterior (red) of every unknown."""
    columns = 5
    rows = -(-len(scalars) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.4 * rows), dpi=100, layout="constrained")
    for i, s in enumerate(scalars):
        axes = figure.add_subplot(rows, columns, i + 1)
        for centre, sd, colour in (
            (s.prior_median, s.prior_sd, "0.6"),
            (s.median, s.sd, "tab:red"),
        ):
            x, density = _density(s, centre, sd)
            axes.fill_between(x, density, color=colour, alpha=0.5, lw=0)
        if s.scale == "log":
            axes.set_xscale("log")
            decades = 7 * max(s.prior_sd, s.sd) / np.log(10)
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 3.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks([])
        axes.set_title(s.label, fontsize=9)
        axes.set_xlabel("" if s.unit == "1" else s.unit, fontsize=9)
        axes.tick_params(labelsize=8)
    return figure


def _density(s: ScalarEstimate, centre: float, sd: float) -> tuple[Array, Array]:
    z = np.linspace(-3.5, 3.5, 141)
    x = centre * np.exp(z * sd) if s.scale == "log" else centre + z * sd
    return x, np.exp(-(z**2) / 2)  # equal heights: widths are what is compared


def convergence_panel(runs: dict[str, EngineRun] | Any) -> Figure:
    """Objective of each engine against its iterations."""
    figure = Figure(figsize=(5.0, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for name, run in runs.items():
        axes.semilogy(range(len(run.objective)), run.objective, "o-", ms=4, label=name)
    axes.set_xlabel("iteration")
    axes.set_ylabel("misfit + prior")
    axes.legend(frameon=False)
    return figure


def profile_panel(profiles: Sequence[Profile]) -> Figure:
    """Objective of every profile, misfit and prior apart, with the 95 % line and both intervals."""
    columns = min(4, len(profiles))
    rows = -(-len(profiles) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), dpi=100, layout="constrained")
    for i, p in enumerate(profiles):
        axes = figure.add_subplot(rows, columns, i + 1)
        for values, style, label in (
            (p.objective, "o-k", "both"),
            (p.misfit, "--", "misfit"),
            (p.prior, ":", "prior"),
        ):
            axes.plot(p.values, values - values.min(), style, ms=3, lw=1.2, label=label)
        axes.axhline(OBJECTIVE_RISE_95, color="0.6", lw=0.8)
        for at in p.laplace:
            axes.axvline(at, color="tab:red", lw=0.8, ls=":")
        if (
            p.scale == "log" and p.values[-1] > 5 * p.values[0]
        ):  # a narrower log axis has next to no ticks
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(p.label, fontsize=9)
        axes.set_xlabel("" if p.unit == "1" else p.unit, fontsize=9)
        axes.set_ylabel("rise of (chi2 + prior)/2", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(frameon=False, fontsize=7)
    return figure


def fit_figures(fit: FitResult) -> dict[str, str]:
    """Every figure of the report as data URIs, by name."""
    found = {
        f"map {m.name}": as_data_uri(map_panel(m, fit.mask))
        for m in fit.maps.values()
        if _has_finite_values(m, fit.mask)
    }
    found["curves"] = as_data_uri(curve_panel(fit.curves))
    found["prior and posterior"] = as_data_uri(prior_posterior_panel(fit.scalars))
    found["descent"] = as_data_uri(convergence_panel(fit.runs))
    if fit.profiles:
        found["profiles"] = as_data_uri(profile_panel(list(fit.profiles.values())))
    return found


def _has_finite_values(m: MapEstimate, mask: NDArray[np.bool_]) -> bool:
    return bool(np.isfinite(m.values[mask]).any())


def imaging_figures(imaging: ImagingMaps) -> dict[str, Figure]:
    """Every figure of the page, by name."""
    found = {"arterial input": arterial_panel(imaging), "curves": voxel_panel(imaging)}
    for q, values in imaging.quantities():
        if np.isfinite(values[imaging.mask]).any():
            m = MapEstimate(
                q.name, q.unit, q.description, "images", values, imaging.kinetics.std[q.name]
            )
            found[f"map {q.name}"] = map_panel(m, imaging.mask, std_label="sd")
    for name, unit, words, values, std in (
        ("T1", "s", "native T1", imaging.t1_s, imaging.t1_std_s),
        ("pH", "1", "extracellular pH", imaging.ph, imaging.ph_std),
    ):
        if np.isfinite(values[imaging.mask]).any():
            known = std if np.isfinite(std[imaging.mask]).any() else None
            found[f"map {name}"] = map_panel(
                MapEstimate(name, unit, words, "images", values, known),
                imaging.mask,
                std_label="sd",
            )
    if np.isfinite(imaging.ph).any():
        found["overlay"] = overlay_panel(imaging)
    if imaging.motion is not None:
        found["motion"] = motion_panel(imaging)
    return found


def arterial_panel(imaging: ImagingMaps) -> Figure:
    """The plasma curve as it reaches the tumour; where it was measured, with the spread of its
    voxels.
    """
    figure = Figure(figsize=(6.0, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        imaging.aif.times_s,
        imaging.aif.plasma_mM,
        color="tab:red",
        lw=1.5,
        label="plasma, at the tumour",
    )
    if imaging.arterial_voxels is not None:
        v, t = imaging.arterial_voxels, imaging.frame_times_s
        axes.errorbar(
            t,
            v.blood_mM,
            v.std_mM,
            fmt="o",
            ms=2.5,
            color="0.5",
            lw=0.8,
            label="blood, measured",
        )
    axes.set_xlim(imaging.frame_times_s[0], imaging.frame_times_s[-1])
    axes.set_xlabel("s")
    axes.set_ylabel("mM")
    axes.legend(frameon=False)
    return figure


def voxel_panel(imaging: ImagingMaps, count: int = 4) -> Figure:
    """Measured and fitted curves of tumour voxels from the lowest to the highest Ktrans, or plasma
    fraction.
    """
    k, figure = imaging.kinetics, Figure(figsize=(3.4 * count, 3.0), dpi=100, layout="constrained")
    good = np.flatnonzero(((k.status & int(INVALID)) == 0) & imaging.mask)
    rank = next(iter(k.values.values())).reshape(-1)[good]
    order = good[np.argsort(np.nan_to_num(rank))]
    picked = (
        order[np.round(np.linspace(0.1, 0.9, count) * (len(order) - 1)).astype(int)]
        if len(order)
        else order
    )
    measured, fitted = (a.reshape(len(a), -1) for a in (imaging.concentration_mM, k.curves_mM))
    for i, voxel in enumerate(picked):
        axes = figure.add_subplot(1, count, i + 1)
        axes.plot(imaging.frame_times_s, measured[:, voxel], "o", ms=2.5, color="0.4")
        axes.plot(imaging.frame_times_s, fitted[:, voxel], color="tab:red", lw=1.5)
        axes.set_title(
            f"voxel {tuple(int(n) for n in np.unravel_index(voxel, imaging.mask.shape))}",
            fontsize=10,
        )
        axes.set_xlabel("s")
        if i == 0:
            axes.set_ylabel("mM")
    return figure


def overlay_panel(imaging: ImagingMaps) -> Figure:
    """pH over what the DCE scan shows of the same places, in the slice with most pH: do the two
    scans fit?
    """
    z = int(np.argmax(np.isfinite(imaging.ph).sum(axis=(0, 1))))
    figure = Figure(figsize=(5.4, 4.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(
        np.nan_to_num(imaging.concentration_mM[..., z]).mean(axis=0).T, origin="lower", cmap="gray"
    )
    image = axes.imshow(imaging.ph[..., z].T, origin="lower", cmap="cividis", alpha=0.55)
    axes.contour(imaging.mask[..., z].T.astype(float), levels=[0.5], colors="white", linewidths=1.0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title("pH over mean contrast agent; white: tumour", fontsize=10)
    figure.colorbar(image, ax=axes, label="pH")
    return figure


def motion_panel(imaging: ImagingMaps) -> Figure:
    """Translations and rotations of every frame."""
    assert imaging.motion is not None
    figure = Figure(figsize=(8.0, 2.8), dpi=100, layout="constrained")
    for i, (values, unit) in enumerate(
        ((imaging.motion.translation_mm, "mm"), (imaging.motion.rotation_deg, "degrees"))
    ):
        axes = figure.add_subplot(1, 2, i + 1)
        for a, name in enumerate("xyz"):
            axes.plot(imaging.frame_times_s, values[:, a], lw=1.2, label=name)
        axes.set_xlabel("s")
        axes.set_ylabel(unit)
        axes.legend(frameon=False, ncols=3)
    return figure


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
