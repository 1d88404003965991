"""Where scans other than the DCE scan lie on it: by their affines, or by what they show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.geometry import voxel_coordinates
from nanopinn.imaging.registration import RegistrationResult, register_images

Array = NDArray[np.float64]
RegistrationMethod = Literal["none", "rigid", "affine"]

REGISTRATION_METHODS = ("none", "rigid", "affine")
#: A search that ends with less of the scan over the DCE scan than this share of what the affines said has left it.
_MIN_OVERLAP_RATIO = 0.5
#: Scanners stretch by a few per cent; beyond this an affine search has collapsed onto a part of the image.
_MAX_STRAIN = 0.15
#: Headers hold the scanner's orientation, and a subject that is held turns by less; a round or empty image turns freely.
_MAX_ROTATION_DEG = 20.0
_REMEDY = "Align the scans by hand and correct its affine, or go by the affines as they are (--register none)."


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
        self, what: str, image: Array, affine: Array, file: str | Path
    ) -> tuple[Array, list[str]]:
        """The affine under which a scan lies on the DCE scan, and what is to be said of how it got there.

        Args:
            what: its name, for the sentence. image: ``(x, y, z)``, anatomy of the scan. affine: ``(4, 4)``, as its header has it.

        Raises:
            InputError: it cannot be moved, or the search left its field of view or found less mutual information than there was.
        """
        if self.method == "none":
            return affine, []
        found = self._estimate_alignment(image, affine, file)
        gain = found.mutual_information[1] - found.mutual_information[0]
        if gain <= 0 and self._max_displacement_mm(image.shape, affine, found) < float(
            np.linalg.norm(affine[:3, :3], axis=0).min()
        ):
            # interpolation blurs, so a scan that lies right already shows less information anywhere but there
            return affine, [
                f"The {what} lies on the DCE scan as its affine says: mutual information was highest there."
            ]
        self._check(image.shape, affine, found, gain, file)
        stretched = (
            f", and its lengths changed by at most {found.max_strain:.1%},"
            if self.method == "affine"
            else ""
        )
        return found.affine, [
            f"The {what} was moved by {found.shift_mm:.1f} mm and {found.rotation_angle_deg:.1f} degrees{stretched} onto the DCE scan, by "
            f"mutual information ({found.mutual_information[0]:.3f} before, {found.mutual_information[1]:.3f} after)."
        ]

    def _estimate_alignment(
        self, image: Array, affine: Array, file: str | Path
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
        file: str | Path,
    ) -> None:
        before, after = self._inside(shape, affine), self._inside(shape, found.affine)
        width = sorted(np.array(shape) * np.linalg.norm(affine[:3, :3], axis=0))[1]
        if found.shift_mm > width / 2 or after < _MIN_OVERLAP_RATIO * before:
            moved = f"a shift of {found.shift_mm:.1f} mm that leaves {after:.0%} of it over the DCE scan ({before:.0%} by the affines)"
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


def _registration_error(problem: str, file: str | Path, found: str, expected: str) -> InputError:
    return InputError(
        problem, file=file, field="--register", found=found, expected=expected, remedy=_REMEDY
    )
