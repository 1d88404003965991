"""Rigid motion of a dynamic series, found frame by frame and undone; optional, and never without its trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Axes with fewer voxels than this are neither smoothed nor thinned while searching.
_THIN = 16


@dataclass(frozen=True)
class MotionTrace:
    """Motion of every frame against the reference, along and about the axes of the grid.

    Attributes:
        translation_mm, rotation_deg: ``(t, 3)``.
    """

    translation_mm: Array
    rotation_deg: Array

    @property
    def largest_mm(self) -> float:
        """Longest translation."""
        return float(np.linalg.norm(self.translation_mm, axis=1).max())


def correct_motion(
    series: Array, voxel_mm: Array, *, progress: Callable[[float], None] = lambda done: None
) -> tuple[Array, MotionTrace]:  # fmt: skip
    """Bring every frame of a series to its temporal median, rigidly, by mutual information.

    Enhancement changes intensities, not places: mutual information (Mattes 2003) does not take it for motion.
    Frames are interpolated by cubic splines; what moved in from outside is NaN.

    Args:
        series: ``(t, x, y, z)``. voxel_mm: ``(3,)``.
    """
    known = np.nan_to_num(series)
    reference = _image(np.median(known, axis=0), voxel_mm)
    moved, shifts, turns = [], [], []
    for i, frame in enumerate(known):
        transform = _register(reference, _image(frame, voxel_mm))
        moved.append(_array(sitk.Resample(_image(frame, voxel_mm), reference, transform, sitk.sitkBSpline, float("nan"))))
        angles = transform.GetParameters()
        turns.append(np.rad2deg(angles[:3]))
        shifts.append(angles[3:])
        progress((i + 1) / len(known))
    return np.stack(moved), MotionTrace(np.array(shifts), np.array(turns))


def _register(reference: sitk.Image, frame: sitk.Image) -> sitk.Euler3DTransform:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 60, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    coarse = [2 if n >= _THIN else 1 for n in reference.GetSize()]
    method.SetShrinkFactorsPerLevel([2, 1] if min(coarse) == 2 else [1, 1])
    method.SetSmoothingSigmasPerLevel([1.0, 0.0])
    size = np.array(reference.GetSize())
    centre = reference.TransformContinuousIndexToPhysicalPoint(((size - 1) / 2).tolist())
    start = sitk.Euler3DTransform(centre, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(reference, frame)
    if isinstance(found, sitk.CompositeTransform):
        found = found.GetNthTransform(0)
    return sitk.Euler3DTransform(found)


def _image(values: Array, voxel_mm: Array) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    image.SetSpacing([float(h) for h in voxel_mm])
    return image


def _array(image: sitk.Image) -> Array:
    return np.asarray(sitk.GetArrayFromImage(image), dtype=np.float64).transpose(2, 1, 0)
