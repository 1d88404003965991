"""Extracellular pH on the grid of the DCE scan: measured where it was, stated where it was not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import resample
from nanopinn.imaging.io import Orientation, read_sidecar, read_volume
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
            "not an extracellular pH", field="--assume-ph", found=pH, expected=f"{LOWEST_PH} to {HIGHEST_PH}"
        )
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
            "a Z-spectrum series cannot be read by this version", file=path, field="dimensions", found=str(values.shape),
            expected="a 3-D pH map", remedy="Compute the pH map first and give it to --cest.",
        )  # fmt: skip
    values = np.where(np.isfinite(values) & (values != 0) & (values != -1), values, np.nan)
    low, high = (
        (float(q) for q in np.nanpercentile(values, [2, 98])) if np.isfinite(values).any() else (np.nan, np.nan)
    )
    if not (low >= LOWEST_PH and high <= HIGHEST_PH):
        raise InputError(
            "these are not pH values", file=path, field="values", found=f"{low:.3g} to {high:.3g}",
            expected=f"{LOWEST_PH} to {HIGHEST_PH}", remedy="Give a pH map, not a ratio or a contrast map.",
        )  # fmt: skip
    values = np.where((values >= LOWEST_PH) & (values <= HIGHEST_PH), values, np.nan)
    on_dce = resample(values, np.asarray(volume.affine, dtype=np.float64), shape, affine)
    coverage = float(np.isfinite(on_dce[mask]).mean())
    if coverage == 0:
        raise InputError(
            "the pH map does not overlap the tumour", file=path, field="affine",
            expected="the same world coordinates as the DCE scan", remedy="Check both affines, or register the scans.",
        )  # fmt: skip
    noise = read_sidecar(path).get("pHStd", value("sd_pHe"))
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise < 2:
        raise InputError("not a standard deviation of pH", file=path, field="pHStd", found=noise, expected="0 to 2")
    fill = float(np.mean(on_dce[mask & np.isfinite(on_dce)]))
    filled = np.where(np.isfinite(on_dce), on_dce, np.where(mask, fill, value("pHe_n")))
    notes = [f"pH was measured in {coverage:.0%} of the tumour."]
    if coverage < 1:
        notes.append(f"Tumour voxels outside the pH slab carry the measured mean, {fill:.2f}.")
    if "pHStd" not in read_sidecar(path):
        notes.append(f"The noise of the pH map is taken as {value('sd_pHe'):g} (no pHStd in its sidecar).")
    return PhMap(on_dce, np.where(np.isfinite(on_dce), noise, np.nan), filled, fill, coverage, tuple(notes))
