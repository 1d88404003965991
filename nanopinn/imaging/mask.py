"""The tumour: a mask that was drawn, or a documented automatic one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import resample, same_grid
from nanopinn.io.array_volume import VolumeSource
from nanopinn.io.nifti import Orientation
from nanopinn.io.volumes import read_map

Array = NDArray[np.float64]


def load_mask(
    path: VolumeSource,
    shape: tuple[int, int, int],
    affine: Array,
    orientation: Orientation | None = None,
) -> NDArray[np.bool_]:
    """Read a mask (anything above one half is tumour) and bring it to the DCE grid.

    Raises:
        InputError: it is not 3-D, is empty, or lies outside the DCE scan.
    """
    values, own, _ = read_map(path, orientation=orientation)
    if not (values > 0.5).any():
        raise InputError(
            "the mask is empty",
            file=path,
            field="values",
            found=f"maximum {np.nanmax(values):g}",
            expected="voxels above 0.5",
            remedy="Draw the tumour, or leave --mask out.",
        )
    if not same_grid(shape, affine, values.shape, own):
        values = np.nan_to_num(resample((values > 0.5).astype(float), own, shape, affine))
    mask = values > 0.5
    if not mask.any():
        raise InputError(
            "the mask does not overlap the DCE scan",
            file=path,
            field="affine",
            found="0 voxels in common",
            expected="the same world coordinates",
            remedy="Check both affines.",
        )
    return mask


def automatic_mask(concentration_mM: Array, frame_times_s: Array) -> NDArray[np.bool_]:
    """The largest connected region that enhances strongly.

    Area under the concentration curve, smoothed over a voxel, above Otsu's threshold; closed, holes
    filled, the largest component kept.

    Raises:
        InputError: nothing enhances.
    """
    area = np.trapezoid(np.nan_to_num(concentration_mM), frame_times_s, axis=0)
    smooth = ndimage.gaussian_filter(area, 1.0)
    closed = ndimage.binary_closing(smooth > _otsu(smooth), iterations=1)
    labels, count = ndimage.label(ndimage.binary_fill_holes(closed))
    if count == 0 or smooth.max() <= 0:
        raise InputError(
            "nothing enhances, so no tumour can be found",
            field="--mask",
            found="no enhancing region",
            expected="a tumour that takes up contrast",
            remedy="Give a mask with --mask.",
        )
    sizes = ndimage.sum_labels(np.ones_like(area), labels, index=np.arange(1, count + 1))
    return np.asarray(labels == 1 + int(np.argmax(sizes)))


def _otsu(values: Array) -> float:
    """Threshold that parts a histogram into two classes of least variance (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    mass = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below / below[-1] - mass) ** 2 / (below * (below[-1] - below))
    return float(centres[int(np.nanargmax(between[:-1]))])
