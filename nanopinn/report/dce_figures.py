"""Figures of the imaging: maps, curves with their fits, arterial input, motion."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from nanopinn.imaging.maps import ImagingMaps
from nanopinn.imaging.status import INVALID
from nanopinn.inference.result import MapEstimate
from nanopinn.report.figures import map_panel


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
    """The plasma curve as it reaches the tumour; where it was measured, with the spread of its voxels."""
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
    """Measured and fitted curves of tumour voxels from the lowest to the highest Ktrans, or plasma fraction."""
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
    """pH over what the DCE scan shows of the same places, in the slice with most pH: do the two scans fit?"""
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
