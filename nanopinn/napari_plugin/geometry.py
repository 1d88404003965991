"""Where voxels lie in napari: axes (z, y, x) in mm along the axes of the scan, not of the scanner.

An oblique scan would be cut askew if napari's world were the scanner's. So the world is the scanner's, turned so that
the scan's own axes are its axes: ``w = R^-1 (A v)`` with ``A`` the affine and ``R`` its axes of unit length. Volumes
that are parallel lie on one another; the affine itself travels in the layer's metadata, and files are written with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: A frame that lasts longer than any scan: what is no function of the scan's time is shown at all of it.
STATIC_FRAME_S = 1e6

_AXIS_REVERSAL = np.eye(4)[[2, 1, 0, 3]]


def spacing_mm(affine: Array) -> Array:
    """Voxel edges along x, y, z, ``(3,)``."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def voxel_axis_directions(affine: Array) -> Array:
    """Directions of the voxel axes in the scanner, ``(4, 4)`` without shift."""
    turned = np.eye(4)
    turned[:3, :3] = affine[:3, :3] / spacing_mm(affine)
    return turned


def layer_transform(affine: Array) -> dict[str, Any]:
    """``scale`` and ``translate`` of a layer ``(z, y, x)``, mm."""
    inside = np.linalg.inv(voxel_axis_directions(affine)) @ affine
    return {"scale": tuple(spacing_mm(affine)[::-1]), "translate": tuple(inside[:3, 3][::-1])}


def affine_to_reference_world(affine: Array, reference: Array) -> Array:
    """Affine ``(4, 4)``, in ``(z, y, x)``, by which a layer on any grid comes to lie in the world of a reference scan.

    It stands before the layer's own scale and shift, as napari's ``affine`` does.
    """
    own = layer_transform(affine)
    inside = np.eye(4)
    inside[:3, :3], inside[:3, 3] = np.diag(own["scale"]), own["translate"]
    wanted = (
        _AXIS_REVERSAL @ np.linalg.inv(voxel_axis_directions(reference)) @ affine @ _AXIS_REVERSAL
    )
    return np.asarray(wanted @ np.linalg.inv(inside))


def ras_affine(data_to_world: Array, reference: Array) -> Array:
    """Affine to RAS mm of a layer in the world of a reference scan.

    Args:
        data_to_world: ``(4, 4)`` of the layer's last three axes, ``(z, y, x)``.
    """
    return np.asarray(
        voxel_axis_directions(reference) @ _AXIS_REVERSAL @ data_to_world @ _AXIS_REVERSAL
    )


def to_napari_axes(values: NDArray[Any]) -> NDArray[Any]:
    """``(..., x, y, z)`` as napari wants it, ``(..., z, y, x)``."""
    return np.swapaxes(values, -1, -3)


def from_napari_axes(data: NDArray[Any]) -> NDArray[Any]:
    """The inverse of :func:`shown`; an axis that only stood for all times is dropped."""
    values = np.swapaxes(np.asarray(data), -1, -3)
    return values[:, 0] if values.ndim == 5 and values.shape[1] == 1 else values
