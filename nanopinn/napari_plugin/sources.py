"""Inputs from layers or files: layers that were drawn or edited are written as NIfTI."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.napari_plugin.layers import METADATA_KEY, from_napari_axes, ras_affine
from nanopinn.napari_plugin.notify import notify_errors


def write_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one image or labels layer; returns the file, or nothing after an error."""
    with notify_errors(f"Saving {Path(path).name}"):
        write_layer_file(Path(path), data, attributes)
        return [path]
    return []


def write_layer_file(
    path: Path, data: Any, attributes: dict[str, Any], sidecar: dict[str, Any] | None = None
) -> None:
    """Write a layer as NIfTI with its affine and its sidecar.

    Args:
        path: The file.
        data: Data of the layer ``(z, y, x)`` or ``(t, z, y, x)``.
        attributes: Attributes of the layer.
        sidecar: Sidecar; that of the layer's metadata if None.

    Raises:
        InputError: The layer is not a volume.
        OutputError: The file cannot be written.
    """
    from nanopinn.errors import InputError
    from nanopinn.io.volumes import write_volume

    values = from_napari_axes(np.asarray(data))
    if values.ndim not in (3, 4):
        raise InputError(
            "this layer is not a volume",
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
    """RAS affine of a layer: of its metadata, or of napari's axes taken as the scanner's."""
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
    """Frame spacing for the header, s; 0 if the time axis has no unit."""
    units = [str(u) for u in attributes.get("units", ())]
    return (
        float(attributes["scale"][0])
        if dimensions == 4 and units and units[0] in ("s", "second")
        else 0.0
    )


@dataclass(frozen=True)
class LayerOrFile:
    """One input: an open layer or a file.

    Attributes:
        layer: The layer; None if the input is a file.
        file: The file.
    """

    layer: Any = None
    file: Path | None = None

    @property
    def name(self) -> str:
        """Name of the layer or the file."""
        return (
            str(self.layer.name)
            if self.layer is not None
            else self.file.name
            if self.file
            else "nothing"
        )


def checksum(data: Any) -> int:
    """Checksum by which an edit of a layer is detected."""
    return zlib.crc32(np.ascontiguousarray(data).tobytes())


def plugin_metadata(layer: Any) -> dict[str, Any]:
    """Metadata of the plugin in a layer; empty for other layers."""
    found = layer.metadata.get(METADATA_KEY, {}) if layer is not None else {}
    return dict(found)


def unmodified_source_file(layer: Any) -> Path | None:
    """File that a layer was read from, if it exists and the layer was not edited."""
    known = plugin_metadata(layer)
    path = Path(known["file"]) if "file" in known else None
    if path is None or not path.is_file() or "checksum" not in known:
        return None
    return path if checksum(layer.data) == known["checksum"] else None


def export_to_file(source: LayerOrFile, folder: Path, reference: Any = None) -> Path:
    """File of an input; a layer without an unmodified file is written.

    Args:
        source: The input.
        folder: Folder for the files of layers.
        reference: Layer of the DCE scan, which defines the world of the other layers.

    Raises:
        OutputError: The layer cannot be written.
    """
    if source.layer is None:
        assert source.file is not None
        return source.file
    path = unmodified_source_file(source.layer)
    if path is not None:
        return path

    layer = source.layer
    name = "".join(c if c.isalnum() else "_" for c in layer.name)
    target = folder / f"{name}_{checksum(layer.data):08x}.nii.gz"
    if not target.is_file():
        data = np.asarray(layer.data)
        if _is_labels(layer):
            # labels drawn on a series hold for all its frames
            data = (
                np.asarray((data > 0).reshape(-1, *data.shape[-3:]).any(axis=0))
                if data.ndim >= 3
                else data
            )
        attributes = {
            "metadata": {
                METADATA_KEY: plugin_metadata(layer) | {"affine": layer_affine(layer, reference)}
            },
            "scale": layer.scale,
            "units": layer.units,
        }
        write_layer_file(target, data, attributes)
    return target


def layer_affine(layer: Any, reference: Any = None) -> Any:
    """RAS affine of a layer: its own, or through the world of the reference scan."""
    known = plugin_metadata(layer)
    if "affine" in known:
        return known["affine"]
    world = plugin_metadata(reference).get("affine", np.eye(4))
    return ras_affine(data_to_world(layer), world)


def data_to_world(layer: Any) -> Any:
    """Affine ``(4, 4)`` of the last three axes."""
    matrix = np.asarray(layer._data_to_world.affine_matrix)
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = matrix[-4:-1, -4:-1], matrix[-4:-1, -1]
    return out


def _is_labels(layer: Any) -> bool:
    return getattr(layer, "_type_string", "") == "labels"
