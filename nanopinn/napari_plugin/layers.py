"""Where voxels lie in napari: axes (z, y, x) in mm along the axes of the scan, not of the scanner.

An oblique scan would be cut askew if napari's world were the scanner's. So the world is the
scanner's, turned so that the scan's own axes are its axes: ``w = R^-1 (A v)`` with ``A`` the affine
and ``R`` its axes of unit length. Volumes that are parallel lie on one another; the affine itself
travels in the layer's metadata, and files are written with it.

Layers as napari takes them: data, looks and what is known of them.

Arms of treatment as layers: one tumour beside the other, on one slider, in one colour scale.
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

from nanopinn.physics.cell_kill import KILL_MODELS

Array = NDArray[np.float64]

#: A frame that lasts longer than any scan: what is no function of the scan's time is shown at all
#: of it.
STATIC_FRAME_S = 1e6

_AXIS_REVERSAL = np.eye(4)[[2, 1, 0, 3]]


def spacing_mm(affine: Array) -> Array:
    """Voxel edges along x, y, z, ``(3,)``."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def voxel_axis_directions(affine: Array) -> Array:
    """Directions of the voxel axes in the scanner, ``(4, 4)`` without shift."""
    turned = np.eye(4)
    turned[:3, :3] = affine[:3, :3] / spacing_mm(affine)
    return turned


def layer_transform(affine: Array) -> dict[str, Any]:
    """``scale`` and ``translate`` of a layer ``(z, y, x)``, mm."""
    inside = np.linalg.inv(voxel_axis_directions(affine)) @ affine
    return {"scale": tuple(spacing_mm(affine)[::-1]), "translate": tuple(inside[:3, 3][::-1])}


def affine_to_reference_world(affine: Array, reference: Array) -> Array:
    """Affine ``(4, 4)``, in ``(z, y, x)``, by which a layer on any grid comes to lie in the world
    of a reference scan.

    It stands before the layer's own scale and shift, as napari's ``affine`` does.
    """
    own = layer_transform(affine)
    inside = np.eye(4)
    inside[:3, :3], inside[:3, 3] = np.diag(own["scale"]), own["translate"]
    wanted = (
        _AXIS_REVERSAL @ np.linalg.inv(voxel_axis_directions(reference)) @ affine @ _AXIS_REVERSAL
    )
    return np.asarray(wanted @ np.linalg.inv(inside))


def ras_affine(data_to_world: Array, reference: Array) -> Array:
    """Affine to RAS mm of a layer in the world of a reference scan.

    Args:
        data_to_world: ``(4, 4)`` of the layer's last three axes, ``(z, y, x)``.
    """
    return np.asarray(
        voxel_axis_directions(reference) @ _AXIS_REVERSAL @ data_to_world @ _AXIS_REVERSAL
    )


def to_napari_axes(values: NDArray[Any]) -> NDArray[Any]:
    """``(..., x, y, z)`` as napari wants it, ``(..., z, y, x)``."""
    return np.swapaxes(values, -1, -3)


def from_napari_axes(data: NDArray[Any]) -> NDArray[Any]:
    """The inverse of :func:`shown`; an axis that only stood for all times is dropped."""
    values = np.swapaxes(np.asarray(data), -1, -3)
    return values[:, 0] if values.ndim == 5 and values.shape[1] == 1 else values


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
    """Volumes ``(n, x, y, z)`` along an axis of their own beside the scan's time: hours after a
    dose, saturation offsets.

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
    """Vectors ``(3, x, y, z)`` along the voxel axes, drawn in mm; the fast ones (95th percentile)
    are a voxel and a half long.
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


#: What can be shown of the arms, where it lies in an arm's folder, and words for it; the first is
#: shown first.
QUANTITIES = {
    "fields/intracellular": "drug in cells",
    "fields/free": "free drug",
    "fields/encapsulated": "drug in carriers",
    **{
        f"maps/lethal_beyond_{key}": f"lethal fraction far from vessels, {model.name}"
        for key, model in KILL_MODELS.items()
    },
    "maps/lethal_all_peak": f"lethal fraction of all cells, {KILL_MODELS['peak'].name}",
}
#: From one arm to the next, in widths of the image.
STEP = 1.1


def is_comparison(folder: Path) -> bool:
    """Whether a folder is of several arms."""
    return (folder / "comparison.json").is_file()


def comparison_layer_readers(folder: Path) -> list[Callable[[], LayerData]]:
    """What reads each layer of a comparison, quantity by quantity, the first one on top."""
    arms = list(json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["arms"])
    found: list[Callable[[], LayerData]] = []
    for quantity in reversed(QUANTITIES):
        there = [a for a in arms if (folder / a / f"{quantity}.nii.gz").is_file()]
        found += [
            partial(_layer, folder, arm, arms.index(arm), quantity, tuple(there)) for arm in there
        ]
    return found


def _layer(
    folder: Path, arm: str, place: int, quantity: str, together: tuple[str, ...]
) -> LayerData:
    """One quantity of one arm, in the colour scale that all arms share."""
    from nanopinn.io.volumes import read_array, read_sidecar

    path = folder / arm / f"{quantity}.nii.gz"
    values, affine, _ = read_array(path)
    side = read_sidecar(path)
    unit, first = side.get("Unit", ""), quantity == next(iter(QUANTITIES))
    known = {
        "folder": str(folder),
        "file": str(path),
        "arm": arm,
        "place": place,
        "shows": quantity,
        "description": side["Description"],
    }
    name = f"{arm}: {QUANTITIES[quantity]}"
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
    everything = [
        values,
        *(read_array(folder / a / f"{quantity}.nii.gz")[0] for a in together if a != arm),
    ]
    whole = quantity.startswith("maps/lethal")
    looks["contrast_limits"] = (
        (0.0, 1.0)
        if whole
        else contrast_limits(np.concatenate([v.ravel() for v in everything]), True)
    )
    looks["translate"] = (
        *looks["translate"][:-1],
        looks["translate"][-1] + place * STEP * _width(values.shape, affine),
    )
    return made


def _width(shape: tuple[int, ...], affine: NDArray[Any]) -> float:
    """Of the image along x, mm."""
    return float(shape[0] * spacing_mm(affine)[0])


@dataclass(frozen=True)
class ClusterCurves:
    """Penetration curves of the groups of voxels of a comparison.

    Attributes:
        number: group of every voxel ``(x, y, z)``, -1 outside. distance_um: ``(d,)``.
        curves: by arm, median, low and high ``(group, d, 3)``, ng/1e5 cells.
    """

    affine: NDArray[np.float64]
    labels: NDArray[np.int64]
    distance_um: NDArray[np.float64]
    curves: dict[str, NDArray[np.float64]]

    @classmethod
    def of(cls, folder: Path) -> ClusterCurves:
        """Of a comparison's folder.

        Raises:
            InputError: its volume of groups is broken.
        """
        from nanopinn.io.safe_open import read_text
        from nanopinn.io.volumes import read_array

        values, affine, _ = read_array(folder / "groups.nii.gz")
        heads, *rows = [
            line.split("\t") for line in read_text(folder / "penetration_groups.tsv").splitlines()
        ]
        table = np.array(rows, dtype=float)
        groups = int(table[:, 0].max()) + 1
        table = table.reshape(groups, -1, len(heads))
        arms = [h.removesuffix("_median") for h in heads if h.endswith("_median")]
        curves = {arm: table[:, :, 2 + 3 * i : 5 + 3 * i] for i, arm in enumerate(arms)}
        return cls(affine, values.round().astype(np.int64), table[0, :, 1], curves)

    def voxel_at(self, position: Any) -> tuple[int, int, int] | None:
        """Voxel at a position in the world, in whichever arm's picture; None beside the tumour."""
        place = layer_transform(self.affine)
        z, y, x = (np.asarray(position, dtype=float)[-3:] - place["translate"]) / np.asarray(
            place["scale"]
        )
        if not np.isfinite([x, y, z]).all():
            return None
        x = (x + 0.5) % (STEP * self.labels.shape[0]) - 0.5
        voxel = int(np.round(x)), int(np.round(y)), int(np.round(z))
        inside = all(0 <= i < n for i, n in zip(voxel, self.labels.shape, strict=True))
        return voxel if inside and self.labels[voxel] >= 0 else None
