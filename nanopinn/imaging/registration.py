"""Bringing one scan over another by their intensities, where the affines alone are not to be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

Array = NDArray[np.float64]


def align(image: Array, affine: Array, target: Array, target_affine: Array) -> tuple[Array, float, float]:
    """The affine that puts an image where a target shows the same tissue: rigid, by mutual information.

    The places that are compared are those of ``image``, so it may be a thin slab or a single slice.

    Args:
        image, target: ``(x, y, z)``, of any two contrasts. affine, target_affine: ``(4, 4)`` RAS mm.

    Returns:
        The new affine of ``image``, how far its centre moved (mm), and by how much it turned (degrees).
    """
    fixed, moving = _image(image, affine), _image(target, target_affine)
    centre = affine[:3, :3] @ ((np.array(image.shape) - 1) / 2) + affine[:3, 3]
    start = sitk.Euler3DTransform(centre.tolist(), 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
    found = rigid(fixed, moving, start, first_step_mm=2.0, smooth_mm=2.0, coarse=min(image.shape) >= 8)
    turn = np.array(found.GetMatrix()).reshape(3, 3)
    world = np.eye(4)
    world[:3, :3] = turn
    world[:3, 3] = np.array(found.GetTranslation()) + centre - turn @ centre
    angle = float(np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
    return world @ affine, float(np.linalg.norm(found.GetTranslation())), angle


def rigid(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform, *, first_step_mm: float, smooth_mm: float, coarse: bool,
    free: Sequence[float] = (1.0,) * 6,
) -> sitk.Euler3DTransform:  # fmt: skip
    """The rigid transform from places of ``fixed`` to places of ``moving`` with the most mutual information (Mattes 2003).

    Args:
        smooth_mm: width of the Gaussian of a first level; 0 for none. coarse: thin the grid out there.
        free: 0 holds a rotation about x, y, z or a translation along them where it starts.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(first_step_mm, 1e-4, 200, relaxationFactor=0.7, gradientMagnitudeTolerance=1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetOptimizerWeights(list(free))
    # a second descent from where the first ended would only shake it
    levels = [(2 if coarse else 1, smooth_mm), (1, 0.0)] if smooth_mm > 0 else [(1, 0.0)]
    method.SetShrinkFactorsPerLevel([shrink for shrink, _ in levels])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in levels])
    method.SetInitialTransform(sitk.Euler3DTransform(start), inPlace=False)
    found = method.Execute(fixed, moving)
    return sitk.Euler3DTransform(found.GetNthTransform(0) if isinstance(found, sitk.CompositeTransform) else found)


def _image(values: Array, affine: Array) -> sitk.Image:
    """An image in world millimetres."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.nan_to_num(values).transpose(2, 1, 0)))
    size = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(size.tolist())
    image.SetDirection((affine[:3, :3] / size).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image
