"""Bringing one scan over another by their intensities, where the affines alone are not to be
trusted.

Where scans other than the DCE scan lie on it: by their affines, or by what they show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy.ndimage import shift

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import voxel_coordinates
from nanopinn.io.array_volume import VolumeSource

Array = NDArray[np.float64]
TransformKind = Literal["rigid", "affine"]
TransformT = TypeVar("TransformT", sitk.Euler3DTransform, sitk.AffineTransform)

#: Along an axis with fewer voxels than this a scale, or in a series a motion, is not determined,
#: and is not looked for.
MIN_VOXELS_PER_AXIS = 8


@dataclass(frozen=True)
class RegistrationResult:
    """Where a scan was found to lie.

    Attributes:
        affine: ``(4, 4)`` RAS mm, to replace the scan's own.
        shift_mm: how far its centre moved. rotation_angle_deg: by how much it turned. stretch:
            largest relative change of a length, 0 if rigid.
        information: mutual information (nats) at the affines as they were, and as found.
    """

    affine: Array
    shift_mm: float
    rotation_angle_deg: float
    max_strain: float
    mutual_information: tuple[float, float]


def register_images(
    image: Array, affine: Array, target: Array, target_affine: Array, kind: TransformKind = "rigid"
) -> RegistrationResult:
    """The affine that puts an image where a target shows the same tissue, by mutual information.

    The places compared are those of ``image``, so it may be a thin slab or a single slice; the
    target is averaged over the image's voxels first, which for a thick slice is what the slice
    shows. ``affine`` adds scales and shears to the rigid motion, along the image's own axes, but
    none along an axis on which either scan has fewer than 8 voxels: they are not determined there
    and are held. Nor is motion out of a target of one slice.

    Args:
        image, target: ``(x, y, z)``, of any two contrasts. affine, target_affine: ``(4, 4)`` RAS
            mm.

    Raises:
        RuntimeError: the two do not overlap on the way (of SimpleITK).
    """
    frame = _frame(affine, image.shape)
    seen = _average_over_voxels(target, target_affine, affine)
    fixed, moving = to_sitk_image(image, frame @ affine), to_sitk_image(seen, frame @ target_affine)
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
        # the stretch comes first, along the scan's own axes, so that what is held of it stays held
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
    """The transform from places of ``fixed`` to places of ``moving`` with the most mutual
    information (Mattes 2003).

    Args:
        start: of the kind that is sought. smooth_mm: width of the Gaussian of a first level; 0 for
            none. coarse: thin the grid there.
        free: 0 holds a parameter of ``start`` where it is. then: applied after it, as it is.
        fine: interpolate by cubic splines, for what turns on a tenth of a voxel.
    """
    # a second descent from where the first ended would only shake it
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
    # linear interpolation blurs between voxels, which mutual information takes for 1 % of scale; so
    # do wide bins
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
    """From world to millimetres along the scan's own axes, about its centre."""
    u, _, v = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    frame = np.eye(4)
    frame[:3, :3], frame[:3, 3] = (u @ v).T, -(u @ v).T @ centre
    return frame


def _average_over_voxels(target: Array, target_affine: Array, affine: Array) -> Array:
    """The target averaged over voxels as large as the scan's, where those are larger than its own."""
    steps = np.linalg.inv(target_affine[:3, :3]) @ affine[:3, :3]
    seen = np.nan_to_num(target)
    for step in steps.T:
        count = round(float(np.linalg.norm(step)))
        if count > 1:
            parts = [
                shift(seen, -((i + 0.5) / count - 0.5) * step, order=1, mode="nearest")
                for i in range(count)
            ]
            seen = np.mean(parts, axis=0)
    return np.asarray(seen)


def _depths(image: Array, target: Array, target_affine: Array) -> tuple[list[int], list[int]]:
    """Voxels of both scans along each axis of the first."""
    along = np.abs(target_affine[:3, :3] / np.linalg.norm(target_affine[:3, :3], axis=0)).argmax(
        axis=1
    )
    return list(image.shape), [target.shape[a] for a in along]


def rigid_parameter_weights(held: Sequence[bool]) -> list[float]:
    """Which parameters of a rigid transform are free: 1 free, 0 fixed.

    Args:
        held: axes ``(3,)`` along which nothing moves.

    Returns:
        Rotations about x, y and z, then translations.
    """
    turns = [0.0 if any(held[b] for b in range(3) if b != a) else 1.0 for a in range(3)]
    return [*turns, *(0.0 if h else 1.0 for h in held)]


def _strain_weights(held: Sequence[bool]) -> list[float]:
    """Which entries of the matrix of an affine transform are free, row by row: 1 free, 0 fixed."""
    return [0.0 if held[row] or held[column] else 1.0 for row in range(3) for column in range(3)]


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
#: A search that ends with less of the scan over the DCE scan than this share of what the affines
#: said has left it.
_MIN_OVERLAP_RATIO = 0.5
#: Scanners stretch by a few per cent; beyond this an affine search has collapsed onto a part of the
#: image.
_MAX_STRAIN = 0.15
#: Headers hold the scanner's orientation, and a subject that is held turns by less; a round or
#: empty image turns freely.
_MAX_ROTATION_DEG = 20.0
_REMEDY = (
    "Align the scans by hand and correct its affine, or go by the affines as they are (--register"
    " none)."
)


@dataclass(frozen=True)
class Coregistration:
    """The image that other scans are moved onto, and how.

    Attributes:
        anatomy: ``(x, y, z)``, the DCE series averaged over time. affine: ``(4, 4)`` RAS mm, of it.
        method: ``none`` (world coordinates), ``rigid`` or ``affine``.
    """

    anatomy: Array
    affine: Array
    method: RegistrationMethod = "none"

    def register_scan(
        self, what: str, image: Array, affine: Array, file: VolumeSource
    ) -> tuple[Array, list[str]]:
        """The affine under which a scan lies on the DCE scan, and what is to be said of how it got
        there.

        Args:
            what: its name, for the sentence. image: ``(x, y, z)``, anatomy of the scan. affine:
                ``(4, 4)``, as its header has it.

        Raises:
            InputError: it cannot be moved, or the search left its field of view or found less
                mutual information than there was.
        """
        if self.method == "none":
            return affine, []
        found = self._estimate_alignment(image, affine, file)
        gain = found.mutual_information[1] - found.mutual_information[0]
        if gain <= 0 and self._max_displacement_mm(image.shape, affine, found) < float(
            np.linalg.norm(affine[:3, :3], axis=0).min()
        ):
            # interpolation blurs, so a scan that lies right already shows less information anywhere
            # but there
            return affine, [
                f"The {what} lies on the DCE scan as its affine says: mutual information was"
                " highest there."
            ]
        self._check(image.shape, affine, found, gain, file)
        stretched = (
            f", and its lengths changed by at most {found.max_strain:.1%},"
            if self.method == "affine"
            else ""
        )
        return found.affine, [
            f"The {what} was moved by {found.shift_mm:.1f} mm and"
            f" {found.rotation_angle_deg:.1f} degrees{stretched} onto the DCE scan, by mutual"
            f" information ({found.mutual_information[0]:.3f} before,"
            f" {found.mutual_information[1]:.3f} after)."
        ]

    def _estimate_alignment(
        self, image: Array, affine: Array, file: VolumeSource
    ) -> RegistrationResult:
        for name, shown in (("the scan", image), ("the DCE scan", self.anatomy)):
            if np.ptp(np.nan_to_num(shown)) == 0:
                raise _registration_error(
                    f"{name} shows nothing to register by", file, "one value everywhere", "anatomy"
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
                "registration turns the scan",
                file,
                f"{found.rotation_angle_deg:.0f} degrees",
                f"at most {_MAX_ROTATION_DEG:.0f} degrees",
            )
        if found.max_strain > _MAX_STRAIN:
            raise _registration_error(
                "registration distorts the scan",
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
        """Share of a scan's voxels that lie in the DCE scan."""
        at = voxel_coordinates((shape[0], shape[1], shape[2]), affine, self.affine)
        size = np.array(self.anatomy.shape)[:, None, None, None]
        return float(((at >= -0.5) & (at <= size - 0.5)).all(axis=0).mean())

    def _max_displacement_mm(
        self, shape: tuple[int, ...], affine: Array, found: RegistrationResult
    ) -> float:
        """How far the farthest corner of a scan was moved, mm."""
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
        problem, file=file, field="--register", found=found, expected=expected, remedy=_REMEDY
    )
