"""Writer: a layer as NIfTI with the affine that it came with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.napari_plugin.geometry import ras_affine, from_napari_axes
from nanopinn.napari_plugin.layers import METADATA_KEY
from nanopinn.napari_plugin.notify import notify_errors


def write_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one image or labels layer; returns the file, or nothing where it could not be written."""
    with notify_errors(f"Saving {Path(path).name}"):
        write_layer_file(Path(path), data, attributes)
        return [path]
    return []


def write_layer_file(
    path: Path, data: Any, attributes: dict[str, Any], sidecar: dict[str, Any] | None = None
) -> None:
    """Write a layer with its affine, and its sidecar where it has one.

    Raises:
        InputError: it is no volume.
        OutputError: it cannot be written.
    """
    from nanopinn.errors import InputError
    from nanopinn.imaging.io import write_volume

    values = from_napari_axes(np.asarray(data))
    if values.ndim not in (3, 4):
        raise InputError(
            "this layer is no volume",
            file=path,
            found=f"{values.ndim} axes",
            expected="(z, y, x) or (t, z, y, x)",
        )
    known = attributes.get("metadata", {}).get(METADATA_KEY, {})
    side = (
        sidecar or known.get("sidecar") or ({"Unit": known["unit"]} if known.get("unit") else None)
    )
    write_volume(
        path,
        values,
        affine_from_attributes(attributes),
        sidecar=side,
        frame_spacing_s=_frame_spacing(values.ndim, attributes),
    )


def affine_from_attributes(attributes: dict[str, Any]) -> Any:
    """RAS affine of a layer's attributes: its own where it has one, else napari's axes are taken as the scanner's."""
    known = attributes.get("metadata", {}).get(METADATA_KEY, {})
    if "affine" in known:
        return known["affine"]
    own = np.eye(4)
    own[:3, :3] = np.diag(np.asarray(attributes["scale"], dtype=float)[-3:])
    own[:3, 3] = np.asarray(attributes["translate"], dtype=float)[-3:]
    outer = np.eye(4)
    if "affine" in attributes:
        matrix = np.asarray(attributes["affine"], dtype=float)
        outer[:3, :3], outer[:3, 3] = matrix[-4:-1, -4:-1], matrix[-4:-1, -1]
    return ras_affine(outer @ own, np.eye(4))


def _frame_spacing(dimensions: int, attributes: dict[str, Any]) -> float:
    """Spacing of the frames for the header, s; 0 where the time axis only counts."""
    units = [str(u) for u in attributes.get("units", ())]
    return (
        float(attributes["scale"][0])
        if dimensions == 4 and units and units[0] in ("s", "second")
        else 0.0
    )
