"""Readers for napari: result folders, files of a study, and the sample study.

The sample study is the one in the checkout, or one that is simulated once on this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.napari_plugin.layers import (
    TECHNICAL_MAPS,
    LayerData,
    comparison_layer_readers,
    is_comparison,
    map_layer,
    mask_layer,
    series_layer,
    stack_layer,
    vectors_layer,
)
from nanopinn.napari_plugin.notify import notify_errors, notify_info

PathOrPaths = str | list[str]

#: Maps that are shown first; the others are hidden.
FIRST = ("IFP", "Ktrans")
_NO_LAYERS: list[Any] = [(None,)]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[Any]] | None:
    """Reader of result folders and NIfTI files; None for other paths."""
    paths = [Path(p) for p in ([path] if isinstance(path, str) else path)]
    if all(_is_result(p) for p in paths) or all(
        p.name.endswith((".nii", ".nii.gz")) for p in paths
    ):
        return read
    return None


def read(path: PathOrPaths) -> list[Any]:
    """Read the layers of every path; a path that cannot be read is reported and left out."""
    found: list[Any] = []
    for p in [path] if isinstance(path, str) else path:
        with notify_errors(f"Opening {Path(p).name}"):
            found += read_folder(Path(p)) if Path(p).is_dir() else [read_file(Path(p))]
    return found or _NO_LAYERS


def _is_result(path: Path) -> bool:
    return (path / "provenance.json").is_file()


def read_file(path: Path) -> LayerData:
    """Read a file of a study as a layer, with its role in the study.

    Raises:
        InputError: The file cannot be read.
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
    """Infer the role of a file in a study from its sidecar or its name.

    Args:
        name: Name of the file without extension.
        shape: Shape of the values.
        side: Sidecar.

    Returns:
        ``dce``, ``cest``, ``vfa``, ``drug``, ``mask``, ``ph`` or ``t1``; None if it is unknown.
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
    """Frame spacing, s; None if the frames are uneven or their times are unknown."""
    from nanopinn.errors import InputError
    from nanopinn.imaging.acquisition import load_acquisition

    try:
        steps = np.diff(load_acquisition(path, frames, pixdim4_s).frame_times_s)
    except InputError:  # the panel shows next to its field what is missing
        return None
    return float(steps.mean()) if np.allclose(steps, steps.mean(), rtol=0.02) else None


def _with_checksum(layer: LayerData) -> LayerData:
    """Add a checksum of the data to a layer, by which an edit is detected."""
    from nanopinn.napari_plugin.sources import checksum

    data, looks, _ = layer
    looks["metadata"]["nanopinn"]["checksum"] = checksum(data)
    return layer


def read_folder(folder: Path) -> list[LayerData]:
    """Read every layer of a result folder: maps, standard deviations, vectors, pools and mask.

    Raises:
        InputError: A file cannot be read.
    """
    return [read_one() for read_one in folder_layer_readers(folder)]


def folder_layer_readers(folder: Path) -> list[Callable[[], LayerData]]:
    """Functions that read each layer of a result folder, from the lowest to the highest.

    The window can process its events between two of them.
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
    """Read a map of a result folder; it is visible if it is the first one."""
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
    """Read a drug pool over time."""
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
    """Order of the layers: technical maps, standard deviations, maps, vectors."""
    if name in TECHNICAL_MAPS:
        return 0, name
    if name.endswith("_std"):
        return 1, name
    return (3 if name.endswith("_vector") else 2), name


#: Settings of the sample study: as small as an informative fit allows.
SAMPLE_SETTINGS = {"shape": [16, 16, 10], "frames": 40, "refine": 2, "length_scale_mm": 0.45}


def open_sample() -> list[LayerData]:
    """Open a synthetic study: series, flip-angle set, pH, post-dose drug images and mask."""
    with notify_errors("Opening the sample study"):
        folder = sample_folder()
        return [] if folder is None else _sample_layers(folder)
    return []


def sample_folder() -> Path | None:
    """Folder of the sample study, which is simulated the first time; None if that failed."""
    checkout = Path(__file__).resolve().parents[2] / "sample_data"
    if (checkout / "dce.nii.gz").is_file():
        return checkout
    made = _cache_folder() / "sample-1"
    if not (made / "dce.nii.gz").is_file():
        notify_info(
            "The sample study is simulated once on this machine. This takes about half a minute."
        )
        _simulate_sample(made)
    return made if (made / "dce.nii.gz").is_file() else None


def _cache_folder() -> Path:
    from qtpy.QtCore import QStandardPaths

    return (
        Path(QStandardPaths.writableLocation(QStandardPaths.StandardLocation.GenericCacheLocation))
        / "nanopinn"
    )


def _simulate_sample(folder: Path) -> None:
    """Simulate the study in the worker process, while the window stays responsive."""
    import shutil

    from qtpy.QtCore import QEventLoop

    from nanopinn.errors import InputError
    from nanopinn.napari_plugin.worker import Worker

    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    worker, wait, wrong = Worker(), QEventLoop(), list[str]()
    worker.done.connect(wait.quit)
    worker.failed.connect(wrong.append)
    worker.failed.connect(wait.quit)
    worker.start({"kind": "sample", "out": str(part), "settings": SAMPLE_SETTINGS})
    wait.exec()
    worker.close()
    if wrong:
        raise InputError(f"the sample study cannot be simulated: {wrong[0].rstrip('.')}")
    part.rename(folder)


def _sample_layers(folder: Path) -> list[LayerData]:
    names = [
        "dce",
        *sorted(p.name.removesuffix(".nii.gz") for p in folder.glob("vfa_*.nii.gz")),
        "ph",
    ]
    names += [*sorted(p.name.removesuffix(".nii.gz") for p in folder.glob("drug_*.nii.gz")), "mask"]
    found: list[Any] = [read_file(folder / f"{n}.nii.gz") for n in names]
    for _, looks, _ in found:
        looks["visible"] = looks["name"] in ("dce", "mask")
    return found
