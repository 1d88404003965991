"""Bringing one scan over another by their intensities, where the affines alone are not to be trusted."""

from __future__ import annotations

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
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-4, 300, relaxationFactor=0.7, gradientMagnitudeTolerance=1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    flat = min(image.shape) < 8
    method.SetShrinkFactorsPerLevel([1, 1] if flat else [2, 1])
    method.SetSmoothingSigmasPerLevel([2.0, 0.0])
    centre = affine[:3, :3] @ ((np.array(image.shape) - 1) / 2) + affine[:3, 3]
    method.SetInitialTransform(sitk.Euler3DTransform(centre.tolist(), 0.0, 0.0, 0.0, (0.0, 0.0, 0.0)), inPlace=False)
    found = method.Execute(fixed, moving)
    if isinstance(found, sitk.CompositeTransform):
        found = found.GetNthTransform(0)
    rigid = sitk.Euler3DTransform(found)
    turn = np.array(rigid.GetMatrix()).reshape(3, 3)
    world = np.eye(4)
    world[:3, :3] = turn
    world[:3, 3] = np.array(rigid.GetTranslation()) + centre - turn @ centre
    angle = float(np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
    return world @ affine, float(np.linalg.norm(rigid.GetTranslation())), angle


def _image(values: Array, affine: Array) -> sitk.Image:
    """An image in world millimetres."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.nan_to_num(values).transpose(2, 1, 0)))
    size = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(size.tolist())
    image.SetDirection((affine[:3, :3] / size).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image
