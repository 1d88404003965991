"""Layers for napari: orientation and coordinates, maps, series, vectors, and treatment arms.

Axes are (z, y, x) in mm along the axes of the scan, because napari would cut an oblique scan
askew along the axes of the scanner. The world is ``w = R^-1 (A v)`` with the affine ``A`` and the
unit vectors ``R`` of its axes. Parallel volumes overlay correctly. The affine itself is kept in the
metadata of the layer, and files are written with it. Treatment arms are shown next to each other,
with one time slider and one colour scale.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Duration of the only frame of a layer that does not depend on the time of the scan, s: longer
#: than any scan, so that the layer is shown at all times.
STATIC_FRAME_S = 1e6

_AXIS_REVERSAL = np.eye(4)[[2, 1, 0, 3]]


def spacing_mm(affine: Array) -> Array:
    """Voxel size along x, y, z ``(3,)``, mm."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def voxel_axis_directions(affine: Array) -> Array:
    """Directions of the voxel axes in the scanner ``(4, 4)``, without translation."""
    turned = np.eye(4)
    turned[:3, :3] = affine[:3, :3] / spacing_mm(affine)
    return turned


def layer_transform(affine: Array) -> dict[str, Any]:
    """Properties ``scale`` and ``translate`` of a layer ``(z, y, x)``, mm."""
    inside = np.linalg.inv(voxel_axis_directions(affine)) @ affine
    return {"scale": tuple(spacing_mm(affine)[::-1]), "translate": tuple(inside[:3, 3][::-1])}


def world_to_index(position: Any, affine: Array) -> Array:
    """Fractional index ``(z, y, x)`` of a position in the world ``(..., z, y, x)``, mm."""
    transform = layer_transform(affine)
    offset = np.asarray(position, dtype=float)[-3:] - transform["translate"]
    return np.asarray(offset / np.asarray(transform["scale"]))


def ras_affine(data_to_world: Array, reference: Array) -> Array:
    """Affine to RAS mm of a layer in the world of a reference scan.

    Args:
        data_to_world: Affine ``(4, 4)`` of the layer's last three axes, ``(z, y, x)``.
        reference: Affine of the reference scan ``(4, 4)``.
    """
    return np.asarray(
        voxel_axis_directions(reference) @ _AXIS_REVERSAL @ data_to_world @ _AXIS_REVERSAL
    )


def to_napari_axes(values: NDArray[Any]) -> NDArray[Any]:
    """Reorder axes from ``(..., x, y, z)`` to ``(..., z, y, x)``."""
    return np.swapaxes(values, -1, -3)


def from_napari_axes(data: NDArray[Any]) -> NDArray[Any]:
    """Invert :func:`to_napari_axes`; the single frame of a static layer is dropped."""
    values = np.swapaxes(np.asarray(data), -1, -3)
    return values[:, 0] if values.ndim == 5 and values.shape[1] == 1 else values


LayerData = tuple[Any, dict[str, Any], str]

#: Key of the plugin's entries in the metadata of a layer.
METADATA_KEY = "nanopinn"

#: Maps of a result folder that are no physical quantities.
TECHNICAL_MAPS = ("status", "AICc", "model", "pH_validity", "aif_voxels")

#: Colour map of each quantity, and whether its colour scale begins at zero.
LOOKS = {
    "Ktrans": ("inferno", True),
    "ve": ("viridis", True),
    "vp": ("magma", True),
    "T1": ("plasma", False),
    "pH": ("turbo", False),
    "IFP": ("plasma", True),
    "velocity": ("viridis", True),
    "Jv": ("viridis", False),
    "krel": ("magma", True),
    "r2": ("gray", True),
}


def format_layer_name(name: str, unit: str) -> str:
    """Name and unit for the layer list."""
    return name if unit in ("", "1") else f"{name} ({unit})"


def layer_metadata(affine: Array, **known: Any) -> dict[str, Any]:
    """Metadata of a layer: its affine and further entries."""
    return {METADATA_KEY: {"affine": np.asarray(affine, dtype=np.float64), **known}}


def contrast_limits(values: NDArray[Any], from_zero: bool) -> tuple[float, float]:
    """Contrast limits from the 1st and 99th percentile."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(finite, [0.01, 0.99]))
    low = min(0.0, low) if from_zero else low
    return (low, high) if high > low else (low, low + max(abs(low), 1.0))


def map_layer(
    values: Array, affine: Array, name: str, unit: str, *, visible: bool = False, **known: Any
) -> LayerData:
    """Layer of a map ``(x, y, z)``; it is transparent where it is NaN."""
    base = name.removesuffix("_std")
    colours, from_zero = LOOKS.get(base, ("viridis", False))
    if name.endswith("_std"):
        colours, from_zero = "gray", True
    looks = {
        "name": format_layer_name(name.replace("_std", " SD"), unit),
        "colormap": colours,
        "contrast_limits": contrast_limits(values, from_zero),
        "blending": "translucent",
        "visible": visible,
        "units": ("mm",) * 3,
        "axis_labels": ("z", "y", "x"),
        "metadata": layer_metadata(affine, quantity=name, unit=unit, **known),
        **layer_transform(affine),
    }
    return np.ascontiguousarray(to_napari_axes(values).astype(np.float32)), looks, "image"


def series_layer(
    values: NDArray[Any], affine: Array, name: str, spacing_s: float | None, **known: Any
) -> LayerData:
    """Layer of a dynamic series ``(t, x, y, z)``; uneven frames are numbered."""
    place = layer_transform(affine)
    looks = {
        "name": name,
        "colormap": "gray",
        "contrast_limits": contrast_limits(values[:: max(1, len(values) // 8)], False),
        "units": ("s" if spacing_s else "pixel", "mm", "mm", "mm"),
        "axis_labels": ("t", "z", "y", "x"),
        "scale": (spacing_s or 1.0, *place["scale"]),
        "translate": (0.0, *place["translate"]),
        "metadata": layer_metadata(affine, **known),
    }
    return to_napari_axes(values).astype(np.float32), looks, "image"


def stack_layer(
    values: NDArray[Any],
    affine: Array,
    name: str,
    axis: str,
    at: Sequence[str],
    *,
    unit: str = "",
    visible: bool = False,
    **known: Any,
) -> LayerData:
    """Layer of volumes ``(n, x, y, z)`` along an axis besides the time of the scan.

    Args:
        values: Values ``(n, x, y, z)``.
        affine: Affine of the image ``(4, 4)``.
        name: Name of the layer.
        axis: Name of the axis, such as hours after the dose or saturation offsets.
        at: Label of each volume.
        unit: Unit of the values.
        visible: Whether the layer is shown at once.
        known: Further metadata.
    """
    place = layer_transform(affine)
    looks = {
        "name": format_layer_name(name, unit),
        "colormap": "viridis" if unit else "gray",
        "contrast_limits": contrast_limits(values, bool(unit)),
        "blending": "translucent",
        "visible": visible,
        "units": ("pixel", "s", "mm", "mm", "mm"),
        "axis_labels": (axis, "t", "z", "y", "x"),
        "scale": (1.0, STATIC_FRAME_S, *place["scale"]),
        "translate": (0.0, 0.0, *place["translate"]),
        "metadata": layer_metadata(affine, at=tuple(at), quantity=name, unit=unit, **known),
    }
    return to_napari_axes(values).astype(np.float32)[:, None], looks, "image"


def mask_layer(mask: NDArray[Any], affine: Array, name: str = "mask", **known: Any) -> LayerData:
    """Layer of a tumour mask, as an outline that can be edited."""
    looks = {
        "name": name,
        "opacity": 0.8,
        "units": ("mm",) * 3,
        "axis_labels": ("z", "y", "x"),
        "metadata": layer_metadata(affine, **known),
        **layer_transform(affine),
    }
    return np.ascontiguousarray(to_napari_axes(mask > 0.5).astype(np.uint8)), looks, "labels"


def vectors_layer(
    values: Array, affine: Array, name: str, unit: str, *, visible: bool = True, **known: Any
) -> LayerData:
    """Layer of vectors ``(3, x, y, z)`` along the voxel axes.

    A vector at the 95th percentile of the speed is drawn 1.5 voxels long.
    """
    speed = np.linalg.norm(values, axis=0)
    where = np.argwhere(np.isfinite(speed) & (speed > 0))
    found, fast = values[:, *where.T].T, speed[*where.T]
    scale = np.asarray(layer_transform(affine)["scale"])
    length = 1.5 * scale.min() / max(float(np.quantile(fast, 0.95)), 1e-30) if len(fast) else 1.0
    data = np.stack([where[:, ::-1].astype(float), found[:, ::-1] * length / scale], axis=1)
    looks = {
        "name": format_layer_name(name, unit),
        "features": {"speed": fast},
        "edge_color": "speed",
        "edge_colormap": "viridis",
        "edge_width": 0.12,
        "vector_style": "arrow",
        "opacity": 1.0,
        "visible": visible,
        "units": ("mm",) * 3,
        "axis_labels": ("z", "y", "x"),
        "metadata": layer_metadata(affine, quantity=name, unit=unit, **known),
        **layer_transform(affine),
    }
    if not len(fast):
        looks |= {"features": {}, "edge_color": "white"}
    return data, looks, "vectors"


#: Quantities of the treatment arms: file in the folder of the arm, and description. The first is
#: shown first. The names of the kill models equal those of the physics, whose import is too slow
#: for the window.
ARM_QUANTITIES = {
    "fields/intracellular": "intracellular drug",
    "fields/free": "free drug",
    "fields/encapsulated": "encapsulated drug",
    "maps/lethal_beyond_peak": "lethal fraction far from vessels, Hill (C_max) model",
    "maps/lethal_beyond_rate": "lethal fraction far from vessels, time-integrated E_max model",
    "maps/lethal_beyond_area": "lethal fraction far from vessels, AUC model",
    "maps/lethal_all_peak": "lethal fraction of all cells, Hill (C_max) model",
}
#: Distance from one arm to the next, in widths of the image.
STEP = 1.1


def is_comparison(folder: Path) -> bool:
    """Whether a folder is the result of a comparison of arms."""
    return (folder / "comparison.json").is_file()


def comparison_layer_readers(folder: Path) -> list[Callable[[], LayerData]]:
    """Functions that read each layer of a comparison, the first quantity on top."""
    arms = list(json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["arms"])
    found: list[Callable[[], LayerData]] = []
    for quantity in reversed(ARM_QUANTITIES):
        there = [a for a in arms if (folder / a / f"{quantity}.nii.gz").is_file()]
        found += [
            partial(_layer, folder, arm, arms.index(arm), quantity, tuple(there)) for arm in there
        ]
    return found


def _layer(
    folder: Path, arm: str, arm_index: int, quantity: str, arms: tuple[str, ...]
) -> LayerData:
    """Layer of one quantity of one arm, with the colour scale of all arms."""
    from nanopinn.io.volumes import read_array, read_sidecar

    path = folder / arm / f"{quantity}.nii.gz"
    values, affine, _ = read_array(path)
    side = read_sidecar(path)
    unit, first = side.get("Unit", ""), quantity == next(iter(ARM_QUANTITIES))
    known = {
        "folder": str(folder),
        "file": str(path),
        "arm": arm,
        "arm_index": arm_index,
        "quantity_path": quantity,
        "description": side["Description"],
    }
    name = f"{arm}: {ARM_QUANTITIES[quantity]}"
    if values.ndim == 4:
        at = [f"{t / 3600:g} h after the dose" for t in side["FrameTimes"]]
        made = stack_layer(
            np.moveaxis(values, -1, 0),
            affine,
            name,
            "time after dose",
            at,
            unit=unit,
            visible=first,
            **known,
        )
    else:
        made = map_layer(values, affine, name, unit, visible=first, **known)
    looks = made[1]
    all_values = [
        values,
        *(read_array(folder / a / f"{quantity}.nii.gz")[0] for a in arms if a != arm),
    ]
    is_fraction = quantity.startswith("maps/lethal")
    looks["contrast_limits"] = (
        (0.0, 1.0)
        if is_fraction
        else contrast_limits(np.concatenate([v.ravel() for v in all_values]), True)
    )
    looks["translate"] = (
        *looks["translate"][:-1],
        looks["translate"][-1] + arm_index * STEP * _width(values.shape, affine),
    )
    return made


def _width(shape: tuple[int, ...], affine: NDArray[Any]) -> float:
    """Width of the image along x, mm."""
    return float(shape[0] * spacing_mm(affine)[0])


@dataclass(frozen=True)
class ClusterCurves:
    """Penetration curves of the clusters of voxels of a comparison.

    Attributes:
        affine: Affine of the image ``(4, 4)``.
        labels: Index of the cluster of each voxel ``(x, y, z)``, -1 outside the tumour.
        distance_um: Distance from the vessel wall ``(d,)``, um.
        curves: Peak intracellular concentration by arm ``(cluster, d, 3)``, ng/1e5 cells: median,
            low and high.
    """

    affine: NDArray[np.float64]
    labels: NDArray[np.int64]
    distance_um: NDArray[np.float64]
    curves: dict[str, NDArray[np.float64]]

    def voxel_at(self, position: Any) -> tuple[int, int, int] | None:
        """Voxel at a position in the world, in the image of any arm; None outside the tumour."""
        z, y, x = world_to_index(position, self.affine)
        if not np.isfinite([x, y, z]).all():
            return None
        x = (x + 0.5) % (STEP * self.labels.shape[0]) - 0.5
        voxel = int(np.round(x)), int(np.round(y)), int(np.round(z))
        inside = all(0 <= i < n for i, n in zip(voxel, self.labels.shape, strict=True))
        return voxel if inside and self.labels[voxel] >= 0 else None


def read_cluster_curves(folder: Path) -> ClusterCurves:
    """Read the penetration curves of a comparison.

    Raises:
        InputError: The volume of clusters cannot be read.
    """
    from nanopinn.io.safe_open import read_text
    from nanopinn.io.volumes import read_array

    values, affine, _ = read_array(folder / "groups.nii.gz")
    lines = read_text(folder / "penetration_groups.tsv").splitlines()
    header, *rows = [line.split("\t") for line in lines]
    table = np.array(rows, dtype=float)
    clusters = int(table[:, 0].max()) + 1
    table = table.reshape(clusters, -1, len(header))
    arms = [h.removesuffix("_median") for h in header if h.endswith("_median")]
    curves = {arm: table[:, :, 2 + 3 * i : 5 + 3 * i] for i, arm in enumerate(arms)}
    return ClusterCurves(affine, values.round().astype(np.int64), table[0, :, 1], curves)
