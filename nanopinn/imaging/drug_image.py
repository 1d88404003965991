"""Post-dose images of encapsulated or released drug, on the grid of the DCE scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import resample, same_grid
from nanopinn.imaging.registration import Coregistration
from nanopinn.io.array_volume import VolumeSource
from nanopinn.io.safe_open import is_number
from nanopinn.io.volumes import read_map, read_sidecar, sidecar_path

Array = NDArray[np.float64]

#: kg/m3 per unit.
DRUG_UNITS = {"kg/m3": 1.0, "g/L": 1.0, "mg/mL": 1.0, "ug/mL": 1e-3, "mg/L": 1e-3, "ng/mL": 1e-6}
QUANTITIES = ("encapsulated", "released", "free", "total")


@dataclass(frozen=True)
class DrugImage:
    """One image, kg per m3 of tissue; NaN outside its field of view.

    Attributes:
        time_s: after the dose. noise_sd: kg/m3. notes: how it was moved, if it was.
    """

    values: Array
    time_s: float
    quantity: Literal["encapsulated", "released", "free", "total"]
    noise_sd: float
    notes: tuple[str, ...] = ()


def load_drug_image(
    path: VolumeSource,
    shape: tuple[int, int, int],
    affine: Array,
    mask: NDArray[np.bool_],
    *,
    coregistration: Coregistration | None = None,
) -> DrugImage:
    """Read a post-dose image; its sidecar holds TimeAfterDose (s), Quantity, NoiseSD and Units.

    Args:
        shape, affine, mask: the DCE grid and the tumour on it. onto: moves the image over the DCE
            scan first, by what it shows.

    Raises:
        InputError: the sidecar lacks a key or holds a wrong value, or the image misses the tumour.
    """
    side, name = read_sidecar(path), sidecar_path(path)
    unit = _read_choice(side, "Units", tuple(DRUG_UNITS), name)
    quantity = _read_choice(side, "Quantity", QUANTITIES, name)
    time_s = _read_positive(side, "TimeAfterDose", name, "s after the dose", 60 * 86400.0)
    noise = _read_positive(
        side, "NoiseSD", name, f"standard deviation of the noise of a voxel, in {unit}", 1e6
    )
    values, own, _ = read_map(path)
    own, notes = (
        (own, [])
        if coregistration is None
        else coregistration.register_scan("drug image", values, own, path)
    )
    if not same_grid(shape, affine, values.shape, own):
        values = resample(values, own, shape, affine)
    if not np.isfinite(values[mask]).any():
        raise InputError(
            "the drug image does not overlap the tumour",
            file=path,
            field="affine",
            remedy="Check both affines.",
        )
    return DrugImage(
        values * DRUG_UNITS[unit],
        time_s,
        quantity,  # type: ignore[arg-type]
        noise * DRUG_UNITS[unit],
        tuple(notes),
    )


def _read_choice(side: dict[str, Any], key: str, allowed: tuple[str, ...], name: Path) -> str:
    if side.get(key) not in allowed:
        raise InputError(
            "a value of the drug image is missing or unknown",
            file=name,
            field=key,
            found=side.get(key),
            expected=" or ".join(allowed),
            remedy="Write it into the sidecar.",
        )
    return str(side[key])


def _read_positive(
    side: dict[str, Any], key: str, name: Path, meaning: str, highest: float
) -> float:
    found = side.get(key)
    if not is_number(found) or not 0 < found <= highest:
        raise InputError(
            "a value of the drug image is missing or out of range",
            file=name,
            field=key,
            found=found,
            expected=f"a positive number, {meaning}",
            remedy="Write it into the sidecar.",
        )
    return float(found)
