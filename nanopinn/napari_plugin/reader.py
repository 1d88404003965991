"""Readers: a result folder with all its layers, and the files of a study."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.napari_plugin.layers import (
    LayerData,
    comparison_layer_readers,
    is_comparison,
    map_layer,
    mask_layer,
    series_layer,
    stack_layer,
    vectors_layer,
)
from nanopinn.napari_plugin.notify import notify_errors

PathOrPaths = str | list[str]

#: What is shown first; the rest waits in the layer list.
FIRST = ("IFP", "Ktrans")
#: Maps of a folder that are no quantities to look at first.
_TECHNICAL = ("status", "AICc", "model", "pH_validity", "aif_voxels")
_NO_LAYERS: list[Any] = [(None,)]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[Any]] | None:
    """A reader for a result folder or NIfTI files, None for anything else."""
    paths = [Path(p) for p in ([path] if isinstance(path, str) else path)]
    if all(_is_result(p) for p in paths) or all(
        p.name.endswith((".nii", ".nii.gz")) for p in paths
    ):
        return read
    return None


def read(path: PathOrPaths) -> list[Any]:
    """Layers of every path; what cannot be read is told in words and left out."""
    found: list[Any] = []
    for p in [path] if isinstance(path, str) else path:
        with notify_errors(f"Opening {Path(p).name}"):
            found += read_folder(Path(p)) if Path(p).is_dir() else [read_file(Path(p))]
    return found or _NO_LAYERS


def _is_result(path: Path) -> bool:
    return (path / "provenance.json").is_file()


def read_file(path: Path) -> LayerData:
    """A file of a study as a layer, with the part that it plays as far as its sidecar or name
    tells.

    Raises:
        InputError: it cannot be read.
    """
    from nanopinn.io.volumes import read_array, read_sidecar

    values, affine, meta = read_array(path)
    side = read_sidecar(path)
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    role = infer_role(name, values.shape, side)
    known: dict[str, Any] = {"file": str(path.absolute()), "role": role, "sidecar": side}
    if role == "mask":
        return _with_checksum(mask_layer(values, affine, name, **known))
    if values.ndim == 3:
        return _with_checksum(
            map_layer(values, affine, name, side.get("Unit", ""), visible=True, **known)
        )
    series = np.moveaxis(values, -1, 0)
    if role == "dce":
        return _with_checksum(
            series_layer(
                series,
                affine,
                name,
                _uniform_frame_spacing(path, len(series), meta["pixdim4_s"]),
                **known,
            )
        )
    if role == "cest":
        return _with_checksum(
            stack_layer(
                series,
                affine,
                name,
                "offset",
                [f"{o:g} ppm" for o in side["SaturationOffsetsPPM"]],
                **known,
            )
        )
    if "Components" in side:
        return vectors_layer(series, affine, name, side.get("Unit", ""), **known)
    times = side.get("FrameTimes", range(len(series)))
    return _with_checksum(
        stack_layer(
            series, affine, name, "volume", [f"{t:g}" for t in times], visible=True, **known
        )
    )


def infer_role(name: str, shape: tuple[int, ...], side: dict[str, Any]) -> str | None:
    """Which part a file plays in a study: by its sidecar, else by its name; None where neither
    tells.
    """
    low = name.lower()
    if len(shape) == 4:
        if "SaturationOffsetsPPM" in side:
            return "cest"
        timed = "VolumeTiming" in side or "FlipAngle" in side
        return "dce" if timed or ("FrameTimes" not in side and "Components" not in side) else None
    if "TimeAfterDose" in side:
        return "drug"
    if "FlipAngle" in side:
        return "vfa"
    if "mask" in low or "roi" in low or side.get("Description") == "tumour":
        return "mask"
    if "pHStd" in side or low in ("ph", "phe"):
        return "ph"
    return "t1" if low in ("t1", "t1map", "t1_map") else None


def _uniform_frame_spacing(path: Path, frames: int, pixdim4_s: float) -> float | None:
    """Frame spacing in s, if the frames are evenly spaced and their times are known."""
    from nanopinn.errors import InputError
    from nanopinn.imaging.acquisition import load_acquisition

    try:
        steps = np.diff(load_acquisition(path, frames, pixdim4_s).frame_times_s)
    except InputError:  # what is missing is told beside the field of the panel
        return None
    return float(steps.mean()) if np.allclose(steps, steps.mean(), rtol=0.02) else None


def _with_checksum(layer: LayerData) -> LayerData:
    """The layer with a checksum of its data, by which an edit is noticed."""
    from nanopinn.napari_plugin.sources import checksum

    data, looks, _ = layer
    looks["metadata"]["nanopinn"]["checksum"] = checksum(data)
    return layer


def read_folder(folder: Path) -> list[LayerData]:
    """Every layer of a result folder: maps with standard deviations, vectors, pools in time, the
    mask on top.

    Raises:
        InputError: a file is broken.
    """
    return [read_one() for read_one in folder_layer_readers(folder)]


def folder_layer_readers(folder: Path) -> list[Callable[[], LayerData]]:
    """What reads each layer of a result folder, from the lowest to the highest, so that a window
    can have its turn in between.
    """
    if is_comparison(folder):
        return comparison_layer_readers(folder)
    maps = sorted((folder / "maps").glob("*.nii.gz"), key=lambda p: _layer_order(_stem(p)))
    names = [_stem(p) for p in maps]
    first = next((n for n in FIRST if n in names), next((n for n in names if n != "mask"), ""))
    pools = sorted((folder / "fields").glob("*.nii.gz"))
    return [
        *(partial(_map, p, folder, first) for p in maps if _stem(p) != "mask"),
        *(partial(_field, p, folder) for p in pools),
        *(partial(_map, p, folder, first) for p in maps if _stem(p) == "mask"),
    ]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


def _map(path: Path, folder: Path, first: str) -> LayerData:
    """A map of a result folder, visible if it is the first one to look at."""
    from nanopinn.io.volumes import read_array, read_sidecar

    values, affine, _ = read_array(path)
    name, side = _stem(path), read_sidecar(path)
    known = {"folder": str(folder), "file": str(path), "description": side.get("Description", "")}
    if name == "mask":
        return mask_layer(values, affine, **known)
    if "Components" in side:
        return vectors_layer(
            np.moveaxis(values, -1, 0),
            affine,
            name.replace("_", " "),
            side["Unit"],
            visible=first == "IFP",
            **known,
        )
    return map_layer(values, affine, name, side.get("Unit", ""), visible=name == first, **known)


def _field(path: Path, folder: Path) -> LayerData:
    """A pool in time."""
    from nanopinn.io.volumes import read_array, read_sidecar

    values, affine, _ = read_array(path)
    side, values = read_sidecar(path), values[..., None] if values.ndim == 3 else values
    at = [f"{t / 3600:g} h after the dose" for t in side["FrameTimes"]]
    known = {
        "folder": str(folder),
        "file": str(path),
        "times_s": tuple(side["FrameTimes"]),
        "description": side["Description"],
    }
    return stack_layer(
        np.moveaxis(values, -1, 0),
        affine,
        _stem(path),
        "time after dose",
        at,
        unit=side["Unit"],
        **known,
    )


def _layer_order(name: str) -> tuple[int, str]:
    """Standard deviations and technical maps lie below what is looked at, vectors above."""
    return (
        0
        if name in _TECHNICAL
        else 1
        if name.endswith("_std")
        else 3
        if name.endswith("_vector")
        else 2
    ), name
