"""Extracellular pH on the grid of the DCE scan: measured where it was, stated where it was not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import resample
from nanopinn.imaging.io import read_sidecar, read_volume, sidecar_path
from nanopinn.imaging.nifti import Orientation
from nanopinn.parameters import value

Array = NDArray[np.float64]

#: Extracellular pH of living tissue.
LOWEST_PH, HIGHEST_PH = 5.0, 8.5


@dataclass(frozen=True)
class PhMap:
    """pH on the DCE grid.

    Attributes:
        measured, std: ``(x, y, z)``, NaN where not measured.
        filled: for the physics, without holes. fill_value: what stands in tumour voxels not measured.
        coverage: measured share of the tumour.
    """

    measured: Array
    std: Array
    filled: Array
    fill_value: float
    coverage: float
    assumptions: tuple[str, ...]


def assumed_ph(pH: float, mask: NDArray[np.bool_]) -> PhMap:
    """No pH was measured: one value in the tumour, said so.

    Raises:
        InputError: the value is no pH of living tissue.
    """
    if not LOWEST_PH <= pH <= HIGHEST_PH:
        raise InputError(
            "not an extracellular pH", field="--assume-ph", found=pH, expected=f"{LOWEST_PH} to {HIGHEST_PH}",
            remedy="Give the pH itself, e.g. 6.9.",
        )  # fmt: skip
    nothing = np.full(mask.shape, np.nan)
    note = f"pH was not measured: {pH:g} is assumed throughout the tumour, so release is not informed by a pH map."
    return PhMap(nothing, nothing, np.where(mask, pH, value("pHe_n")), pH, 0.0, (note,))


def load_ph(
    path: str | Path, shape: tuple[int, int, int], affine: Array, mask: NDArray[np.bool_],
    orientation: Orientation | None = None,
) -> PhMap:  # fmt: skip
    """Read a ready pH map and bring it to the DCE grid by the affines.

    Raises:
        InputError: not a 3-D map, not pH values, or it does not overlap the tumour.
    """
    volume = read_volume(path, orientation=orientation)
    values = np.asarray(volume.numpy(), dtype=np.float64)
    if values.ndim != 3:
        raise InputError(
            "Z-spectra cannot be read by this version", file=path, field="dimensions",
            found="x".join(map(str, values.shape)), expected="a 3-D pH map",
            remedy="Compute the pH map first and give that to --cest.",
        )  # fmt: skip
    values, implausible = _plausible(values, path)
    on_dce = resample(values, np.asarray(volume.affine, dtype=np.float64), shape, affine)
    coverage = float(np.isfinite(on_dce[mask]).mean())
    if coverage == 0:
        raise InputError(
            "the pH map does not overlap the tumour", file=path, field="affine",
            found=f"0 of {int(mask.sum())} tumour voxels", expected="the same world coordinates as the DCE scan",
            remedy="Check both affines, or register the scans.",
        )  # fmt: skip
    noise, noise_note = _noise(path)
    fill = float(np.mean(on_dce[mask & np.isfinite(on_dce)]))
    filled = np.where(np.isfinite(on_dce), on_dce, np.where(mask, fill, value("pHe_n")))
    notes = [f"pH was measured in {coverage:.0%} of the tumour.", *implausible]
    if coverage < 1:
        notes.append(f"Tumour voxels where pH was not measured carry the measured mean, {fill:.2f}.")
    notes.append(f"Outside the tumour, unmeasured tissue carries pH {value('pHe_n'):g}.")
    return PhMap(on_dce, np.where(np.isfinite(on_dce), noise, np.nan), filled, fill, coverage, (*notes, *noise_note))


def _plausible(values: Array, path: str | Path) -> tuple[Array, list[str]]:
    """The map with NaN for what is missing (0, -1, not finite) or no pH, and how much was no pH."""
    known = np.isfinite(values) & (values != 0) & (values != -1)
    if not known.any():
        raise InputError(
            "the pH map holds no value", file=path, field="values", found="only 0, -1 and NaN, which are 'missing'",
            expected=f"{LOWEST_PH} to {HIGHEST_PH}", remedy="Export the map again.",
        )  # fmt: skip
    low, high = (float(q) for q in np.percentile(values[known], [2, 98]))
    if not (low >= LOWEST_PH and high <= HIGHEST_PH):
        raise InputError(
            "these are not pH values", file=path, field="values", found=f"{low:.3g} to {high:.3g}",
            expected=f"{LOWEST_PH} to {HIGHEST_PH}", remedy="Give a pH map, not a ratio or a contrast map.",
        )  # fmt: skip
    good = known & (values >= LOWEST_PH) & (values <= HIGHEST_PH)
    lost = int((known & ~good).sum())
    note = f"{lost} voxels of the pH map outside {LOWEST_PH} to {HIGHEST_PH} count as not measured."
    return np.where(good, values, np.nan), [note] if lost else []


def _noise(path: str | Path) -> tuple[float, list[str]]:
    """Standard deviation of a voxel's pH, and what was assumed for it."""
    side = read_sidecar(path)
    found = side.get("pHStd", value("sd_pHe"))
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < 2:
        raise InputError(
            "not a standard deviation of pH", file=sidecar_path(path), field="pHStd", found=found,
            expected="0 to 2", remedy="Correct the sidecar.",
        )  # fmt: skip
    if "pHStd" in side:
        return float(found), []
    return float(found), [f"The noise of the pH map is taken as {found:g} (no pHStd in its sidecar)."]
