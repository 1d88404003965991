"""Writer: a layer as NIfTI with the affine that it came with.

Where an input comes from, a layer or a file; layers that were drawn or changed are written out for
the work to read.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.napari_plugin.layers import METADATA_KEY, from_napari_axes, ras_affine
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
    from nanopinn.io.volumes import write_volume

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
    """RAS affine of a layer's attributes: its own where it has one, else napari's axes are taken as
    the scanner's.
    """
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


@dataclass(frozen=True)
class Source:
    """One input: an open layer, or else a file."""

    layer: Any = None
    file: Path | None = None

    @property
    def name(self) -> str:
        return (
            str(self.layer.name)
            if self.layer is not None
            else self.file.name
            if self.file
            else "nothing"
        )


def checksum(data: Any) -> int:
    """By which an edit of a layer is noticed."""
    return zlib.crc32(np.ascontiguousarray(data).tobytes())


def plugin_metadata(layer: Any) -> dict[str, Any]:
    """What the plugin knows of a layer; empty for a layer of other origin."""
    found = layer.metadata.get(METADATA_KEY, {}) if layer is not None else {}
    return dict(found)


def unmodified_source_file(layer: Any) -> Path | None:
    """The file that a layer was read from, if it is there and the layer still shows what it holds."""
    known = plugin_metadata(layer)
    path = Path(known["file"]) if "file" in known else None
    if path is None or not path.is_file() or "checksum" not in known:
        return None
    return path if checksum(layer.data) == known["checksum"] else None


def export_to_file(source: Source, folder: Path, reference: Any = None) -> Path:
    """A file for an input: its own, or the layer written into ``folder``.

    Args:
        reference: the layer of the DCE scan, in whose world other layers lie.

    Raises:
        OutputError: it cannot be written.
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
            # labels drawn over a series are of all its times
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
    """``(4, 4)`` of the last three axes."""
    matrix = np.asarray(layer._data_to_world.affine_matrix)
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = matrix[-4:-1, -4:-1], matrix[-4:-1, -1]
    return out


def _is_labels(layer: Any) -> bool:
    return getattr(layer, "_type_string", "") == "labels"
