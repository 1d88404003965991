"""A B1 map: the flip angle that was reached over the one that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import resample, same_grid
from nanopinn.imaging.io import read_map
from nanopinn.imaging.nifti import Orientation

Array = NDArray[np.float64]

#: Relative flip angles of scanners; a map in percent is a hundred times this.
_LOWEST, _HIGHEST = 0.2, 2.0


@dataclass(frozen=True)
class B1Map:
    """True over nominal flip angle on its own grid, NaN where unknown."""

    values: Array
    affine: Array
    note: str

    def resample_to(self, shape: tuple[int, ...], affine: Array) -> Array:
        """The map on another grid; 1 where it is not known there."""
        own = self.values
        if not same_grid(shape, affine, own.shape, self.affine):
            own = resample(own, self.affine, (shape[0], shape[1], shape[2]), affine)
        return np.where(np.isfinite(own), own, 1.0)


def load_b1(path: str | Path, orientation: Orientation | None = None) -> B1Map:
    """Read a B1 map, as a fraction or in percent; which it is follows from its median.

    Raises:
        InputError: it is neither.
    """
    values, affine, _ = read_map(path, orientation=orientation)
    known = values[np.isfinite(values) & (values > 0)]
    middle = float(np.median(known)) if known.size else float("nan")
    percent = _LOWEST * 100 <= middle <= _HIGHEST * 100
    if not percent and not _LOWEST <= middle <= _HIGHEST:
        raise InputError(
            "not a B1 map",
            file=path,
            field="values",
            found=f"median {middle:g}",
            expected="true over nominal flip angle, about 1, or about 100 in percent",
            remedy="Convert it, or leave --b1 out.",
        )
    relative = values / 100 if percent else values
    good = np.isfinite(relative) & (relative >= _LOWEST) & (relative <= _HIGHEST)
    unit = "percent" if percent else "a fraction"
    note = (
        f"The B1 map (median {middle:.3g}) is read as {unit}; outside it flip angles are nominal."
    )
    return B1Map(np.where(good, relative, np.nan), affine, note)
