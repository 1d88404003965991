"""The imaging alone, from files to a folder of maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nanopinn.errors import OutputError
from nanopinn.imaging.io import write_json, write_volume
from nanopinn.imaging.maps import ImagingInputs, ImagingMaps, make_maps
from nanopinn.inference.progress import Progress, silent


def run_maps(inputs: ImagingInputs, *, progress: Progress | None = None) -> ImagingMaps:
    """Kinetic maps and pH of one study.

    Raises:
        InputError: something given cannot be used.
    """
    (progress or silent)("imaging", 0.0, {})
    return make_maps(inputs)


def write_maps(out: Path, imaging: ImagingMaps) -> Path:
    """Write the maps with their standard deviations and status.

    Raises:
        OutputError: the folder exists already or cannot be written.
    """
    if out.exists():
        raise OutputError(f"{out} exists already. Give another folder to --out.")
    maps = {
        "Ktrans": (imaging.ktrans_per_min, "1/min"), "Ktrans_std": (imaging.ktrans_std, "1/min"),
        "ve": (imaging.ve, "1"), "ve_std": (imaging.ve_std, "1"), "vp": (imaging.vp, "1"),
        "vp_std": (imaging.vp_std, "1"), "T1": (imaging.t1_s, "s"), "pH": (imaging.ph, "1"), "r2": (imaging.r2, "1"),
        "status": (imaging.status, "1"), "mask": (imaging.mask, "1"),
    }  # fmt: skip
    for name, (values, unit) in maps.items():
        write_volume(out / f"{name}.nii.gz", np.asarray(values), imaging.affine, sidecar={"Unit": unit})
    write_json(out / "assumptions.json", {"assumptions": list(imaging.assumptions), "summary": imaging.summary()})
    return out
