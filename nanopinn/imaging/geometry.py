"""Resampling of maps between grids in world millimetres; what was not measured stays NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, map_coordinates

Array = NDArray[np.float64]


def voxel_coordinates(shape: tuple[int, int, int], affine: Array, other_affine: Array) -> Array:
    """Voxel coordinates in another grid of every voxel of a grid.

    Args:
        shape: of the grid.
        affine: ``(4, 4)`` of the grid, RAS mm.
        other_affine: ``(4, 4)`` of the other grid, RAS mm.

    Returns:
        ``(3, x, y, z)``.
    """
    index = np.indices(shape, dtype=np.float64).reshape(3, -1)
    matrix = np.linalg.inv(other_affine) @ affine
    return (matrix[:3, :3] @ index + matrix[:3, 3:]).reshape(3, *shape)


def resample(
    values: Array, affine: Array, shape: tuple[int, int, int], target_affine: Array, order: int = 1
) -> Array:
    """Resample a map to another grid.

    Interpolation is trilinear, with the weights renormalised over the neighbours that were
    measured. The result is NaN where less than half of the weight was measured, and beyond the
    outermost voxel faces: nothing is extrapolated. A grid of one slice holds through the thickness
    of the slice.

    Args:
        values: ``(x, y, z)``, NaN where not measured.
        affine: ``(4, 4)`` of the map, RAS mm.
        shape: of the other grid.
        target_affine: ``(4, 4)`` of the other grid, RAS mm.
        order: 1 for maps, 0 (nearest) for labels.

    Returns:
        ``shape``, NaN where not measured.
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


def resample_to_grid(
    values: Array, affine: Array, shape: tuple[int, ...], target_affine: Array
) -> Array:
    """A map on a grid: as it is where it lies on that grid already, else by :func:`resample`."""
    if same_grid(shape, target_affine, values.shape, affine):
        return values
    return resample(values, affine, (shape[0], shape[1], shape[2]), target_affine)


def same_grid(
    shape: tuple[int, ...], affine: Array, other_shape: tuple[int, ...], other: Array
) -> bool:
    """Whether two grids have the same voxels, to a hundredth of a voxel."""
    size = np.linalg.norm(affine[:3, :3], axis=0).min()
    return shape == other_shape and bool(np.abs(affine - other).max() < 0.01 * size)


def smooth_local_quadratic(values: Array, source: NDArray[np.bool_], width: float) -> Array:
    """Smooth a map by local polynomial regression (Fan and Gijbels 1996).

    Around every voxel a plane plus one isotropic curvature is fitted. Unlike a weighted mean it
    keeps gradients, at borders too, and unlike a plane it does not fill minima.

    Args:
        values: ``(x, y, z)``.
        source: voxels that are fitted to, ``(x, y, z)``; ``values`` are finite there.
        width: standard deviation of the Gaussian weights, voxels.

    Returns:
        ``(x, y, z)``, NaN far from any source.
    """
    reach = np.arange(-round(4 * width), round(4 * width) + 1) / width
    weights = np.exp(-0.5 * reach**2) / np.exp(-0.5 * reach**2).sum()

    def moments(a: Array) -> Callable[..., Array]:
        """Weighted sums of a x^i y^j z^k over the neighbours at (x, y, z) of every voxel, in
        widths.
        """
        masked, found = np.where(source, a, 0.0), {}

        def moment(*powers: int) -> Array:
            if powers not in found:
                out = masked
                for axis, power in enumerate(powers):
                    out = correlate1d(out, weights * reach**power, axis=axis, mode="constant")
                found[powers] = out
            return found[powers]

        return moment

    # polynomials as sums of powers: 1, x, y, z, x^2 + y^2 + z^2
    basis = [[(0, 0, 0)], [(1, 0, 0)], [(0, 1, 0)], [(0, 0, 1)], [(2, 0, 0), (0, 2, 0), (0, 0, 2)]]
    of_one, of_values = moments(np.ones(values.shape)), moments(values)
    known = np.stack([np.sum([of_values(*p) for p in b], axis=0) for b in basis], axis=-1)
    products = [
        [np.sum([of_one(*np.add(p, q)) for p in a for q in b], axis=0) for b in basis]
        for a in basis
    ]
    near = of_one(0, 0, 0) > 1e-2
    # a ridge keeps slopes and curvature at zero along axes in which the sources do not spread
    ridge = np.diag([0.0, *[0.02] * (len(basis) - 1)])
    out = np.full(values.shape, np.nan)
    for x in range(
        len(out)
    ):  # a slab at a time: the systems of a whole volume would fill the memory
        at = x, near[x]
        weight = of_one(0, 0, 0)[at][:, None, None]
        system = (
            np.stack([np.stack([c[at] for c in row], axis=-1) for row in products], axis=-2)
            / weight
            + ridge
        )
        out[at] = np.linalg.solve(system, known[at][..., None] / weight)[:, 0, 0]
    return out


#: Least voxels along every axis of an image whose gradient is computed (SimpleITK).
_MIN_VOXELS_OF_GRADIENT = 4


def repeat_edge_slices(values: Array, affine: Array) -> tuple[Array, Array]:
    """Repeat the first and last voxels of axes too short for the gradient of an image.

    Args:
        values: ``(x, y, z)``.
        affine: ``(4, 4)``.

    Returns:
        The image with at least four voxels along every axis, and its affine.
    """
    more = thin_axis_padding(values.shape)
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ np.array(more, dtype=np.float64)
    return np.pad(values, [(n, n) for n in more], mode="edge"), moved


def thin_axis_padding(shape: tuple[int, ...]) -> list[int]:
    """Voxels that :func:`repeat_edge_slices` adds on either side of every axis."""
    return [max(0, -((n - _MIN_VOXELS_OF_GRADIENT) // 2)) for n in shape]
