"""Layers as napari takes them: data, looks and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.napari_plugin.geometry import STATIC_FRAME_S, layer_transform, to_napari_axes

Array = NDArray[np.float64]
LayerData = tuple[Any, dict[str, Any], str]

#: Key of a layer's metadata under which the plugin keeps what it knows.
METADATA_KEY = "nanopinn"

#: Colour map of each quantity, and whether its scale begins at zero.
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
    """Name and unit, as the layer list shows them."""
    return name if unit in ("", "1") else f"{name} ({unit})"


def layer_metadata(affine: Array, **known: Any) -> dict[str, Any]:
    """Metadata of a layer: its affine, and all else that is known."""
    return {METADATA_KEY: {"affine": np.asarray(affine, dtype=np.float64), **known}}


def contrast_limits(values: NDArray[Any], from_zero: bool) -> tuple[float, float]:
    """Contrast limits that single voxels do not set."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(finite, [0.01, 0.99]))
    low = min(0.0, low) if from_zero else low
    return (low, high) if high > low else (low, low + max(abs(low), 1.0))


def map_layer(
    values: Array, affine: Array, name: str, unit: str, *, visible: bool = False, **known: Any
) -> LayerData:
    """A map ``(x, y, z)``; where it is NaN, what lies below is seen."""
    base = name.removesuffix("_std")
    colours, from_zero = LOOKS.get(base, ("viridis", False))
    if name.endswith("_std"):
        colours, from_zero = "gray", True
    looks = {
        "name": format_layer_name(name.replace("_std", " sd"), unit),
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
    """A dynamic series ``(t, x, y, z)``; without even frames its time axis counts them."""
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
    """Volumes ``(n, x, y, z)`` along an axis of their own beside the scan's time: hours after a dose, saturation offsets.

    Args:
        at: what each volume is of, in words.
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
    """A tumour as an outline that can be edited."""
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
    """Vectors ``(3, x, y, z)`` along the voxel axes, drawn in mm; the fast ones (95th percentile) are a voxel and a half long."""
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
