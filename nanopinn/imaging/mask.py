"""The tumour mask: read from a volume, or segmented automatically."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import resample_to_grid
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
    """Read a mask (above one half is tumour) and resample it to the DCE grid.

    Args:
        path: mask, a file or a volume in memory.
        shape: of the DCE grid.
        affine: ``(4, 4)`` of the DCE grid, RAS mm.
        orientation: affine to use where sform and qform disagree.

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
            remedy="Draw the tumour, or leave `mask` out.",
        )
    inside = (values > 0.5).astype(np.float64)
    mask = np.nan_to_num(resample_to_grid(inside, own, shape, affine)) > 0.5
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
    """Segment the largest connected region that enhances strongly.

    The area under the concentration curve, smoothed over a voxel, is thresholded by Otsu's method;
    the region is closed, its holes are filled, and its largest component is kept.

    Args:
        concentration_mM: ``(t, x, y, z)``.
        frame_times_s: ``(t,)``.

    Raises:
        InputError: nothing enhances.
    """
    area = np.trapezoid(np.nan_to_num(concentration_mM), frame_times_s, axis=0)
    smooth = ndimage.gaussian_filter(area, 1.0)
    high = smooth > _otsu(smooth)
    # closing erodes from the edges of the image, which would leave nothing of a single slice
    around = np.pad(high, 1, mode="edge")
    closed = ndimage.binary_closing(around, iterations=1)[1:-1, 1:-1, 1:-1] | high
    labels, count = ndimage.label(ndimage.binary_fill_holes(closed))
    if count == 0 or smooth.max() <= 0:
        raise InputError(
            "no tumour can be segmented, because nothing enhances",
            field="mask",
            found="no enhancing region",
            expected="a tumour that takes up contrast",
            remedy="Give `mask`.",
        )
    sizes = ndimage.sum_labels(np.ones_like(area), labels, index=np.arange(1, count + 1))
    return np.asarray(labels == 1 + int(np.argmax(sizes)))


def _otsu(values: Array) -> float:
    """Threshold of least variance within the two classes of a histogram (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    mass = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below / below[-1] - mass) ** 2 / (below * (below[-1] - below))
    return float(centres[int(np.nanargmax(between[:-1]))])
