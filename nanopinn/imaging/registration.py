"""Registration of scans by mutual information, and of every other scan to the DCE scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy.ndimage import shift

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import repeat_edge_slices, voxel_coordinates
from nanopinn.io.array_volume import VolumeSource

Array = NDArray[np.float64]
TransformKind = Literal["rigid", "affine"]
TransformT = TypeVar("TransformT", sitk.Euler3DTransform, sitk.AffineTransform)

#: Along an axis with fewer voxels than this a scale, or in a series a motion, is not determined
#: and is not estimated.
MIN_VOXELS_PER_AXIS = 8


@dataclass(frozen=True)
class RegistrationResult:
    """Result of a registration.

    Attributes:
        affine: ``(4, 4)`` RAS mm, replaces that of the scan.
        shift_mm: displacement of the centre of the scan, mm.
        rotation_angle_deg: degrees.
        max_strain: largest relative change of a length, 0 if rigid.
        mutual_information: before and after, nats.
    """

    affine: Array
    shift_mm: float
    rotation_angle_deg: float
    max_strain: float
    mutual_information: tuple[float, float]


def register_images(
    image: Array, affine: Array, target: Array, target_affine: Array, kind: TransformKind = "rigid"
) -> RegistrationResult:
    """Register an image to a target by mutual information (Mattes 2003, IEEE TMI 22:120).

    The metric is evaluated at the voxels of the image, which may be a thin slab or a single slice;
    the target is averaged over voxels of that size first. ``affine`` adds scales and shears along
    the axes of the image. Scales along an axis on which either scan has fewer than 8 voxels are
    fixed, and so is motion out of a target of one slice, because they are not determined.

    Args:
        image: ``(x, y, z)``.
        affine: ``(4, 4)`` of the image, RAS mm.
        target: ``(x, y, z)``, of any contrast.
        target_affine: ``(4, 4)`` of the target, RAS mm.
        kind: ``rigid`` or ``affine``.

    Raises:
        RuntimeError: the two do not overlap during the optimisation (by SimpleITK).
    """
    frame = _frame(affine, image.shape)
    averaged = _average_over_voxels(target, target_affine, affine)
    fixed, moving = (
        to_sitk_image(image, frame @ affine),
        to_sitk_image(*repeat_edge_slices(averaged, frame @ target_affine)),
    )
    depth = _depths(image, target, frame @ target_affine)
    still = sitk.Euler3DTransform()
    coarse = min(image.shape) >= MIN_VOXELS_PER_AXIS
    parameter_weights = rigid_parameter_weights([d == 1 for d in depth[1]])
    turned = optimise_transform(
        fixed,
        moving,
        still,
        first_step_mm=2.0,
        smooth_mm=2.0,
        coarse=coarse,
        parameter_weights=parameter_weights,
    )
    move = _matrix(turned)
    if kind == "affine":
        # strains come first, along the axes of the scan, so that fixed ones stay fixed
        parameter_weights = [
            *_strain_weights([min(d) < MIN_VOXELS_PER_AXIS for d in zip(*depth, strict=True)]),
            *parameter_weights[3:],
        ]
        stretched = optimise_transform(
            fixed,
            moving,
            sitk.AffineTransform(3),
            first_step_mm=0.5,
            smooth_mm=0.0,
            coarse=False,
            parameter_weights=parameter_weights,
            following_transform=turned,
            fine=True,
        )
        move = move @ _matrix(stretched)
    before, after = (_information(fixed, moving, m, kind == "affine") for m in (np.eye(4), move))
    return _alignment(move, frame, affine, (before, after))


def optimise_transform(
    fixed: sitk.Image,
    moving: sitk.Image,
    start: TransformT,
    *,
    first_step_mm: float,
    smooth_mm: float,
    coarse: bool,
    parameter_weights: Sequence[float],
    following_transform: sitk.Transform | None = None,
    fine: bool = False,
) -> TransformT:
    """The transform from points of ``fixed`` to points of ``moving`` of largest mutual information.

    Args:
        fixed: image whose voxels are compared.
        moving: image that is interpolated.
        start: initial transform, of the kind that is estimated.
        first_step_mm: first step of the gradient descent, mm.
        smooth_mm: width of the Gaussian of a first level, mm; 0: no such level.
        coarse: subsample the grid at the first level.
        parameter_weights: 0 fixes a parameter of ``start``.
        following_transform: applied after it and not estimated.
        fine: interpolate by cubic splines, for differences of a tenth of a voxel.
    """
    # a second level without smoothing at the start would only repeat the first
    levels = [(2 if coarse else 1, smooth_mm), (1, 0.0)] if smooth_mm > 0 else [(1, 0.0)]
    for shrink, sigma in levels:
        method = _method(fine)
        method.SetOptimizerAsRegularStepGradientDescent(
            first_step_mm, 1e-4, 200, relaxationFactor=0.7, gradientMagnitudeTolerance=1e-8
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetOptimizerWeights(list(parameter_weights))
        method.SetShrinkFactorsPerLevel([shrink])
        method.SetSmoothingSigmasPerLevel([0.0])
        start = type(start)(start)
        method.SetInitialTransform(start, inPlace=True)
        if following_transform is not None:
            method.SetMovingInitialTransform(following_transform)
        method.Execute(_smooth(fixed, sigma), _smooth(moving, sigma))
    return start


def _method(fine: bool) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    # the blur of linear interpolation and of wide bins biases the scale by 1 %
    method.SetMetricAsMattesMutualInformation(64 if fine else 32)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkBSpline if fine else sitk.sitkLinear)
    return method


def _information(fixed: sitk.Image, moving: sitk.Image, move: Array, fine: bool) -> float:
    method, transform = _method(fine), sitk.AffineTransform(3)
    transform.SetMatrix(move[:3, :3].ravel().tolist())
    transform.SetTranslation(move[:3, 3].tolist())
    method.SetInitialTransform(transform)
    return -float(method.MetricEvaluate(fixed, moving))


def _smooth(image: sitk.Image, sigma_mm: float) -> sitk.Image:
    # the recursive filter of the registration itself fails on fewer than four slices
    return sitk.DiscreteGaussian(image, [sigma_mm**2] * 3, 64) if sigma_mm > 0 else image


def _frame(affine: Array, shape: tuple[int, ...]) -> Array:
    """From world coordinates to millimetres along the axes of a scan, about its centre."""
    u, _, v = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    frame = np.eye(4)
    frame[:3, :3], frame[:3, 3] = (u @ v).T, -(u @ v).T @ centre
    return frame


def _average_over_voxels(target: Array, target_affine: Array, affine: Array) -> Array:
    """The target averaged over voxels of the size of the scan's, where these are larger."""
    steps = np.linalg.inv(target_affine[:3, :3]) @ affine[:3, :3]
    averaged = np.nan_to_num(target)
    for step in steps.T:
        count = round(float(np.linalg.norm(step)))
        if count > 1:
            parts = [
                shift(averaged, -((i + 0.5) / count - 0.5) * step, order=1, mode="nearest")
                for i in range(count)
            ]
            averaged = np.mean(parts, axis=0)
    return np.asarray(averaged)


def _depths(image: Array, target: Array, target_affine: Array) -> tuple[list[int], list[int]]:
    """Number of voxels of both scans along each axis of the first."""
    along = np.abs(target_affine[:3, :3] / np.linalg.norm(target_affine[:3, :3], axis=0)).argmax(
        axis=1
    )
    return list(image.shape), [target.shape[a] for a in along]


def rigid_parameter_weights(fixed_axes: Sequence[bool]) -> list[float]:
    """Which parameters of a rigid transform are free: 1 free, 0 fixed.

    Args:
        fixed_axes: axes ``(3,)`` along which nothing moves.

    Returns:
        Rotations about x, y and z, then translations.
    """
    turns = [0.0 if any(fixed_axes[b] for b in range(3) if b != a) else 1.0 for a in range(3)]
    return [*turns, *(0.0 if h else 1.0 for h in fixed_axes)]


def _strain_weights(fixed_axes: Sequence[bool]) -> list[float]:
    """Which entries of the matrix of an affine transform are free, row by row: 1 free, 0 fixed."""
    return [
        0.0 if fixed_axes[row] or fixed_axes[column] else 1.0
        for row in range(3)
        for column in range(3)
    ]


def _matrix(transform: sitk.Euler3DTransform | sitk.AffineTransform) -> Array:
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = (
        np.array(transform.GetMatrix()).reshape(3, 3),
        transform.GetTranslation(),
    )
    return move


def _alignment(
    move: Array, frame: Array, affine: Array, mutual_information: tuple[float, float]
) -> RegistrationResult:
    u, lengths, v = np.linalg.svd(move[:3, :3])
    angle = float(np.rad2deg(np.arccos(np.clip((np.trace(u @ v) - 1) / 2, -1, 1))))
    there = np.linalg.inv(frame) @ move @ frame @ affine
    return RegistrationResult(
        there,
        float(np.linalg.norm(move[:3, 3])),
        angle,
        float(np.abs(lengths - 1).max()),
        mutual_information,
    )


def to_sitk_image(values: Array, affine: Array) -> sitk.Image:
    """A SimpleITK image of ``(x, y, z)`` in the millimetres of an affine; NaN becomes 0."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.nan_to_num(values).transpose(2, 1, 0)))
    size = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(size.tolist())
    image.SetDirection((affine[:3, :3] / size).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


RegistrationMethod = Literal["none", "rigid", "affine"]

REGISTRATION_METHODS = ("none", "rigid", "affine")
#: Least overlap with the DCE scan after registration, over that before.
_MIN_OVERLAP_RATIO = 0.5
#: Scanners distort by a few per cent; a larger strain is that of a registration that collapsed onto
#: a part of the image.
_MAX_STRAIN = 0.15
#: Headers hold the orientation of the scanner, and a fixed subject rotates by less; the rotation of
#: a round or empty image is arbitrary.
_MAX_ROTATION_DEG = 20.0
_REMEDY = (
    "Align the scans by hand and correct the affine, or give `register` as 'none' to use the"
    " affines."
)


@dataclass(frozen=True)
class Coregistration:
    """Registration of other scans to the DCE scan.

    Attributes:
        anatomy: the DCE series averaged over time, ``(x, y, z)``.
        affine: ``(4, 4)`` of the DCE scan, RAS mm.
        method: ``none`` (by the affines), ``rigid`` or ``affine``.
    """

    anatomy: Array
    affine: Array
    method: RegistrationMethod = "none"

    def register_scan(
        self, what: str, image: Array, affine: Array, file: VolumeSource
    ) -> tuple[Array, list[str]]:
        """The affine that aligns a scan with the DCE scan.

        Args:
            what: name of the scan, for the note.
            image: anatomical image of the scan, ``(x, y, z)``.
            affine: ``(4, 4)`` of its header, RAS mm.
            file: scan that a refusal names.

        Returns:
            The affine, and notes for the report.

        Raises:
            InputError: the scan has no contrast or no overlap, or the registration left the field
                of view or lowered the mutual information.
        """
        if self.method == "none":
            return affine, []
        found = self._estimate_alignment(image, affine, file)
        gain = found.mutual_information[1] - found.mutual_information[0]
        if gain <= 0 and self._max_displacement_mm(image.shape, affine, found) < float(
            np.linalg.norm(affine[:3, :3], axis=0).min()
        ):
            # interpolation blurs, so an aligned scan has the largest mutual information without it
            return affine, [
                f"The {what} is aligned with the DCE scan by its affine, where the mutual"
                " information is largest."
            ]
        self._check(image.shape, affine, found, gain, file)
        strain = (
            f" with strains of at most {found.max_strain:.1%}" if self.method == "affine" else ""
        )
        return found.affine, [
            f"The {what} was registered to the DCE scan by a shift of {found.shift_mm:.1f} mm and a"
            f" rotation of {found.rotation_angle_deg:.1f} degrees{strain} (mutual information"
            f" {found.mutual_information[0]:.3f} before, {found.mutual_information[1]:.3f} after)."
        ]

    def _estimate_alignment(
        self, image: Array, affine: Array, file: VolumeSource
    ) -> RegistrationResult:
        for name, shown in (("the scan", image), ("the DCE scan", self.anatomy)):
            if np.ptp(np.nan_to_num(shown)) == 0:
                raise _registration_error(
                    f"{name} has no contrast to register by",
                    file,
                    "one value everywhere",
                    "anatomy",
                )
        if self._inside(image.shape, affine) == 0:
            raise _registration_error(
                "the scan cannot be registered, for its affine puts it outside the DCE scan",
                file,
                "no overlap",
                "some overlap",
            )
        assert self.method != "none"
        try:
            return register_images(image, affine, self.anatomy, self.affine, self.method)
        except RuntimeError as error:
            raise _registration_error(
                "the scan could not be registered",
                file,
                str(error).strip().splitlines()[-1],
                "two scans alike",
            ) from error

    def _check(
        self,
        shape: tuple[int, ...],
        affine: Array,
        found: RegistrationResult,
        gain: float,
        file: VolumeSource,
    ) -> None:
        before, after = self._inside(shape, affine), self._inside(shape, found.affine)
        width = sorted(np.array(shape) * np.linalg.norm(affine[:3, :3], axis=0))[1]
        if found.shift_mm > width / 2 or after < _MIN_OVERLAP_RATIO * before:
            moved = (
                f"a shift of {found.shift_mm:.1f} mm that leaves {after:.0%} of it over the DCE"
                f" scan ({before:.0%} by the affines)"
            )
            raise _registration_error(
                "registration moves the scan out of its field of view",
                file,
                moved,
                f"at most {width / 2:.1f} mm",
            )
        if found.rotation_angle_deg > _MAX_ROTATION_DEG:
            raise _registration_error(
                "registration rotates the scan too far",
                file,
                f"{found.rotation_angle_deg:.0f} degrees",
                f"at most {_MAX_ROTATION_DEG:.0f} degrees",
            )
        if found.max_strain > _MAX_STRAIN:
            raise _registration_error(
                "registration distorts the scan too much",
                file,
                f"{found.max_strain:.0%}",
                f"at most {_MAX_STRAIN:.0%}",
            )
        if gain <= 0:
            numbers = (
                f"{found.mutual_information[0]:.3f} before, {found.mutual_information[1]:.3f} after"
            )
            raise _registration_error(
                "registration lowers the mutual information", file, numbers, "a gain"
            )

    def _inside(self, shape: tuple[int, ...], affine: Array) -> float:
        """Share of the voxels of a scan within the DCE scan."""
        at = voxel_coordinates((shape[0], shape[1], shape[2]), affine, self.affine)
        size = np.array(self.anatomy.shape)[:, None, None, None]
        return float(((at >= -0.5) & (at <= size - 0.5)).all(axis=0).mean())

    def _max_displacement_mm(
        self, shape: tuple[int, ...], affine: Array, found: RegistrationResult
    ) -> float:
        """Largest displacement of a corner of a scan, mm."""
        corners = np.array(
            [
                [i, j, k, 1]
                for i in (0, shape[0] - 1)
                for j in (0, shape[1] - 1)
                for k in (0, shape[2] - 1)
            ]
        ).T
        return float(np.linalg.norm(((found.affine - affine) @ corners)[:3], axis=0).max())


def _registration_error(problem: str, file: VolumeSource, found: str, expected: str) -> InputError:
    return InputError(
        problem, file=file, field="register", found=found, expected=expected, remedy=_REMEDY
    )
