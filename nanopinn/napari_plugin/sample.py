"""The sample study: the one beside a checkout, else one that is made, once, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanopinn.napari_plugin.layers import LayerData
from nanopinn.napari_plugin.notify import notify_errors, notify_info

#: As small as a fit of it still tells something.
SETTINGS = {"shape": [16, 16, 10], "frames": 40, "refine": 2, "length_scale_mm": 0.45}


def open_sample() -> list[LayerData]:
    """Layers of a synthetic study: series, flip-angle set, pH, post-dose drug images, mask."""
    with notify_errors("Opening the sample study"):
        folder = sample_folder()
        return [] if folder is None else _layers(folder)
    return []


def sample_folder() -> Path | None:
    """Where the sample lies; made the first time, without a network. None where it was not."""
    beside = Path(__file__).resolve().parents[2] / "sample_data"
    if (beside / "dce.nii.gz").is_file():
        return beside
    made = _cache() / "sample-1"
    if not (made / "dce.nii.gz").is_file():
        notify_info("The sample study is made on this machine, about half a minute the first time.")
        _make(made)
    return made if (made / "dce.nii.gz").is_file() else None


def _cache() -> Path:
    from qtpy.QtCore import QStandardPaths

    return (
        Path(QStandardPaths.writableLocation(QStandardPaths.StandardLocation.GenericCacheLocation))
        / "nanopinn"
    )


def _make(folder: Path) -> None:
    """Have the worker make it under another name, the window answering meanwhile."""
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
    worker.start({"kind": "sample", "out": str(part), "settings": SETTINGS})
    wait.exec()
    worker.close()
    if wrong:
        raise InputError(f"the sample study cannot be made: {wrong[0].rstrip('.')}")
    part.rename(folder)


def _layers(folder: Path) -> list[LayerData]:
    from nanopinn.napari_plugin.reader import read_file

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
