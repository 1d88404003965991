"""Figures of the report, drawn without a screen."""

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

from nanopinn.inference.result import Curve, EngineRun, FitResult, MapEstimate, ScalarEstimate

if TYPE_CHECKING:
    from nanopinn.inference.profile import Profile

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
    from nanopinn.inference.walk import OBJECTIVE_RISE_95

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
