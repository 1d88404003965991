"""Post-dose images of encapsulated or released drug, on the grid of the DCE scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import read_sidecar_number
from nanopinn.imaging.geometry import resample_to_grid
from nanopinn.imaging.registration import Coregistration
from nanopinn.io.array_volume import VolumeSource
from nanopinn.io.volumes import read_map, read_sidecar, sidecar_path
from nanopinn.parameters import DAY

Array = NDArray[np.float64]

#: kg/m3 per unit.
DRUG_UNITS = {"kg/m3": 1.0, "g/L": 1.0, "mg/mL": 1.0, "ug/mL": 1e-3, "mg/L": 1e-3, "ng/mL": 1e-6}
#: Least positive time and noise.
_SMALLEST = 1e-12
DRUG_QUANTITIES = ("encapsulated", "released", "free", "total")


@dataclass(frozen=True)
class DrugImage:
    """A post-dose image on the DCE grid.

    Attributes:
        values: ``(x, y, z)``, kg per m3 of tissue; NaN outside its field of view.
        time_s: after the dose, s.
        quantity: pools that the image shows.
        noise_sd: standard deviation of a voxel, kg/m3.
        notes: of the registration, one sentence each.
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
    """Read a post-dose image and resample it to the DCE grid.

    Args:
        path: image, a file or a volume in memory; its sidecar holds ``TimeAfterDose`` (s),
            ``Quantity``, ``NoiseSD`` and ``Units``.
        shape: of the DCE grid.
        affine: ``(4, 4)`` of the DCE grid, RAS mm.
        mask: tumour, ``(x, y, z)``.
        coregistration: registers the image to the DCE scan first; None: by its affine alone.

    Raises:
        InputError: the sidecar lacks a key or holds a wrong value, or the image misses the tumour.
    """
    side, name = read_sidecar(path), sidecar_path(path)
    unit = _read_choice(side, "Units", tuple(DRUG_UNITS), name)
    quantity = _read_choice(side, "Quantity", DRUG_QUANTITIES, name)
    time_s = read_sidecar_number(
        side, "TimeAfterDose", name, _SMALLEST, 60 * DAY, "s after the dose"
    )
    noise = read_sidecar_number(
        side, "NoiseSD", name, _SMALLEST, 1e6, f"standard deviation of a voxel, {unit}"
    )
    values, own, _ = read_map(path)
    own, notes = (
        (own, [])
        if coregistration is None
        else coregistration.register_scan("drug image", values, own, path)
    )
    values = resample_to_grid(values, own, shape, affine)
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
            remedy="Write it into the sidecar, or give it with the array.",
        )
    return str(side[key])
