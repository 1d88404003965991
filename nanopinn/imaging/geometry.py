"""Moving maps between grids in world millimetres; what was not measured stays NaN."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

Array = NDArray[np.float64]


def voxel_coordinates(shape: tuple[int, int, int], affine: Array, other_affine: Array) -> Array:
    """Voxel coordinates in the other grid of every voxel of this one, ``(3, x, y, z)``."""
    index = np.indices(shape, dtype=np.float64).reshape(3, -1)
    matrix = np.linalg.inv(other_affine) @ affine
    return (matrix[:3, :3] @ index + matrix[:3, 3:]).reshape(3, *shape)


def resample(values: Array, affine: Array, shape: tuple[int, int, int], target_affine: Array, order: int = 1) -> Array:
    """Bring a map ``(x, y, z)`` to another grid.

    Trilinear, with the weights shared among the neighbours that were measured; NaN where fewer than half of
    the weight was measured and beyond the outermost voxel faces: nothing is extrapolated. A grid of one slice
    holds through the slice's thickness.

    Args:
        order: 1 for maps, 0 (nearest) for labels.
    """
    at = voxel_coordinates(shape, target_affine, affine)
    inside = np.ones(shape, dtype=bool)
    for axis in range(3):
        inside &= (at[axis] >= -0.5 - 1e-6) & (at[axis] <= values.shape[axis] - 0.5 + 1e-6)
        at[axis] = np.clip(at[axis], 0, values.shape[axis] - 1)
    known = np.isfinite(values).astype(np.float64)
    filled = np.where(known > 0, values, 0.0)
    weight = map_coordinates(known, at, order=order, mode="nearest")
    total = map_coordinates(filled, at, order=order, mode="nearest")
    good = inside & (weight >= 0.5 - 1e-9)
    return np.where(good, total / np.where(good, weight, 1.0), np.nan)


def same_grid(shape: tuple[int, ...], affine: Array, other_shape: tuple[int, ...], other: Array) -> bool:
    """Whether two grids have the same voxels, to a hundredth of a voxel."""
    size = np.linalg.norm(affine[:3, :3], axis=0).min()
    return shape == other_shape and bool(np.abs(affine - other).max() < 0.01 * size)


def local_linear(values: Array, source: NDArray[np.bool_], width: float) -> Array:
    """Smooth a map ``(x, y, z)`` by a straight line fitted around every voxel; NaN far from any source.

    Unlike a weighted mean it keeps gradients, at borders too (Fan and Gijbels 1996).

    Args:
        source: voxels that count, finite there.
        width: standard deviation of the Gaussian weights, voxels.
    """
    at = np.moveaxis(np.indices(values.shape, dtype=np.float64) / width, 0, -1)
    known = np.where(source, values, 0.0)

    def moment(a: Array) -> Array:
        return np.asarray(gaussian_filter(np.where(source, a, 0.0), width, mode="constant"))

    weight = moment(np.ones_like(known))
    near = weight > 1e-3
    scale = np.where(near, weight, 1.0)
    mean, mean_at = moment(known) / scale, np.stack([moment(at[..., i]) for i in range(3)], axis=-1) / scale[..., None]
    second = np.stack([[moment(at[..., i] * at[..., j]) for j in range(3)] for i in range(3)])
    spread = np.moveaxis(second, (0, 1), (-2, -1)) / scale[..., None, None] - mean_at[..., :, None] * mean_at[..., None, :]
    mixed = np.stack([moment(at[..., i] * known) for i in range(3)], axis=-1) / scale[..., None] - mean_at * mean[..., None]
    # a ridge keeps the slope at zero along axes in which the sources do not spread
    slope = np.linalg.solve(spread + 0.02 * np.eye(3), mixed[..., None])[..., 0]
    return np.where(near, mean + ((at - mean_at) * slope).sum(axis=-1), np.nan)
