"""Correction of rigid motion of a dynamic series, frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from nanopinn.imaging.geometry import repeat_edge_slices, thin_axis_padding
from nanopinn.imaging.registration import (
    MIN_VOXELS_PER_AXIS,
    optimise_transform,
    rigid_parameter_weights,
    to_sitk_image,
)

Array = NDArray[np.float64]

#: A grid with fewer voxels along an axis than this is not subsampled.
_MIN_VOXELS_FOR_SUBSAMPLING = 24
#: The first pass registers frames to the median of the series, which is blurred by the motion; the
#: next to the median of the registered frames.
_PASSES = 2


@dataclass(frozen=True)
class MotionTrace:
    """Motion of every frame against the reference, along and about the axes of the grid.

    Attributes:
        translation_mm: ``(t, 3)``, mm.
        rotation_deg: ``(t, 3)``, degrees.
    """

    translation_mm: Array
    rotation_deg: Array

    @property
    def largest_mm(self) -> float:
        """Largest translation, mm."""
        return float(np.linalg.norm(self.translation_mm, axis=1).max())


def correct_motion(
    series: Array, voxel_mm: Array, *, progress: Callable[[float], None] = lambda done: None
) -> tuple[Array, MotionTrace]:
    """Register every frame of a series rigidly to the temporal median by mutual information.

    Enhancement changes intensities but not positions, so mutual information (Mattes 2003, IEEE TMI
    22:120) is insensitive to it. Frames are interpolated by cubic splines; voxels from outside the
    field of view are NaN. In a thin slab out-of-plane motion is not estimated.

    Args:
        series: ``(t, x, y, z)``.
        voxel_mm: size of a voxel, ``(3,)``, mm.
        progress: called with the share done.

    Returns:
        The registered series and its motion.
    """
    padding = thin_axis_padding(series.shape[1:])
    affine = np.diag([*voxel_mm, 1.0])
    known = np.stack([repeat_edge_slices(f, affine)[0] for f in np.nan_to_num(series)])
    frames = [to_sitk_image(f, affine) for f in known]
    reference, transforms = frames[0], [_identity_transform(frames[0])] * len(frames)
    for turn in range(_PASSES):
        moved = [_moved(f, reference, t) for f, t in zip(frames, transforms, strict=True)]
        reference = to_sitk_image(
            np.nanmedian(np.where(np.isfinite(m := np.stack(moved)), m, known), axis=0), affine
        )
        for i, frame in enumerate(frames):
            transforms[i] = _register(reference, frame, transforms[i])
            progress((turn + (i + 1) / len(frames)) / _PASSES)
    numbers = np.array([t.GetParameters() for t in transforms])
    moved = [_moved(f, reference, t) for f, t in zip(frames, transforms, strict=True)]
    inside = tuple(slice(n, n + size) for n, size in zip(padding, series.shape[1:], strict=True))
    return np.stack([f[inside] for f in moved]), MotionTrace(
        numbers[:, 3:], np.rad2deg(numbers[:, :3])
    )


def _moved(frame: sitk.Image, reference: sitk.Image, transform: sitk.Euler3DTransform) -> Array:
    return _array(sitk.Resample(frame, reference, transform, sitk.sitkBSpline, float("nan")))


def _identity_transform(image: sitk.Image) -> sitk.Euler3DTransform:
    """No motion, about the centre of the grid."""
    size = np.array(image.GetSize())
    centre = image.TransformContinuousIndexToPhysicalPoint(((size - 1) / 2).tolist())
    return sitk.Euler3DTransform(centre, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))


def _register(
    reference: sitk.Image, frame: sitk.Image, start: sitk.Euler3DTransform
) -> sitk.Euler3DTransform:
    extremes = sitk.MinimumMaximumImageFilter()
    extremes.Execute(frame)
    if extremes.GetMaximum() <= extremes.GetMinimum():
        return start  # an empty frame cannot be registered
    large = min(reference.GetSize()) >= _MIN_VOXELS_FOR_SUBSAMPLING
    parameter_weights = rigid_parameter_weights(
        [n < MIN_VOXELS_PER_AXIS for n in reference.GetSize()]
    )
    return optimise_transform(
        reference,
        frame,
        start,
        first_step_mm=1.0,
        smooth_mm=1.0 if large else 0.0,
        coarse=large,
        parameter_weights=parameter_weights,
    )


def _array(image: sitk.Image) -> Array:
    return np.asarray(sitk.GetArrayFromImage(image), dtype=np.float64).transpose(2, 1, 0)
