"""Figures of the imaging: maps, curves with their fits, arterial input function, motion."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nanopinn.imaging.parametric_maps import ImagingMaps, kinetic_quantities
from nanopinn.imaging.voxel_status import INVALID
from nanopinn.report.figures import draw_slice, map_panel, new_figure
from nanopinn.results.fit_result import MapEstimate


def imaging_figures(imaging: ImagingMaps) -> dict[str, Figure]:
    """Draw every figure of the imaging page, by name."""
    found = {"curves": voxel_panel(imaging), **input_figures(imaging)}
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
