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
#: Units without calibration: change of the relaxation rate R1, and any proportional signal.
RELAXATION_UNIT, ARBITRARY_UNIT = "1/s", "a.u."
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
        notes: of the registration and the unit, one sentence each.
        relative: whether values and noise are in arbitrary units, so that their scale is unknown.
        scale_sd: stated standard deviation of the logarithm of the scale that all images of the
            quantity share; None: the default.
    """

    values: Array
    time_s: float
    quantity: Literal["encapsulated", "released", "free", "total"]
    noise_sd: float
    notes: tuple[str, ...] = ()
    relative: bool = False
    scale_sd: float | None = None


def load_drug_image(
    path: VolumeSource,
    shape: tuple[int, int, int],
    affine: Array,
    mask: NDArray[np.bool_],
    *,
    coregistration: Coregistration | None = None,
) -> DrugImage:
    """Read a post-dose image and resample it to the DCE grid.

    The unit is that of a concentration per tissue volume; ``1/s`` for the change of the relaxation
    rate R1 by a labelled carrier, which ``Relaxivity`` (1/s per ug/mL of drug) turns into a
    concentration and which is relative without it; or ``a.u.`` for any signal that is proportional
    to the concentration, such as fluorescence.

    Args:
        path: image, a file or a volume in memory; its sidecar holds ``TimeAfterDose`` (s),
            ``Quantity``, ``NoiseSD``, ``Units``, and where they are known ``Relaxivity`` and
            ``ScaleSD`` (relative uncertainty of the calibration).
        shape: of the DCE grid.
        affine: ``(4, 4)`` of the DCE grid, RAS mm.
        mask: tumour, ``(x, y, z)``.
        coregistration: registers the image to the DCE scan first; None: by its affine alone.

    Raises:
        InputError: the sidecar lacks a key or holds a wrong value, or the image misses the tumour.
    """
    side, name = read_sidecar(path), sidecar_path(path)
    unit = _read_choice(side, "Units", (*DRUG_UNITS, RELAXATION_UNIT, ARBITRARY_UNIT), name)
    factor, relative, unit_notes = _calibration(side, unit, name)
    scale_sd = (
        read_sidecar_number(side, "ScaleSD", name, 1e-6, 5.0, "relative standard deviation")
        if "ScaleSD" in side and not relative
        else None
    )
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
        values * factor,
        time_s,
        quantity,  # type: ignore[arg-type]
        noise * factor,
        (*notes, *unit_notes),
        relative,
        scale_sd,
    )


def _calibration(side: dict[str, Any], unit: str, name: Path) -> tuple[float, bool, list[str]]:
    """Factor to kg/m3, whether values stay relative, and what is assumed."""
    if unit in DRUG_UNITS:
        return DRUG_UNITS[unit], False, []
    if unit == RELAXATION_UNIT and "Relaxivity" in side:
        relaxivity = read_sidecar_number(
            side, "Relaxivity", name, _SMALLEST, 1e6, "1/s per ug/mL of drug"
        )
        note = f"The drug image is R1 over a relaxivity of {relaxivity:g} 1/s per ug/mL of drug."
        return DRUG_UNITS["ug/mL"] / relaxivity, False, [note]
    note = (
        "The drug image has no calibration: its scale is unknown and is estimated, so that it"
        " informs patterns in space and time and no amount."
    )
    return 1.0, True, [note]


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
