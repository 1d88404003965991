"""Extracellular pH on the grid of the DCE scan, measured or assumed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import read_sidecar_number
from nanopinn.imaging.cest.ph_map import Validity
from nanopinn.imaging.cest.ph_scan import CestOptions, measure_ph
from nanopinn.imaging.dce.t1 import B1Map
from nanopinn.imaging.geometry import resample
from nanopinn.imaging.registration import Coregistration
from nanopinn.io.array_volume import VolumeSource
from nanopinn.io.nifti import Orientation
from nanopinn.io.volumes import read_sidecar, read_volume, sidecar_path
from nanopinn.parameters import value

Array = NDArray[np.float64]

#: Extracellular pH of living tissue.
LOWEST_PH, HIGHEST_PH = 5.0, 8.5
#: Least share of the tumour that the CEST scan has to cover.
MIN_OVERLAP = 0.3


@dataclass(frozen=True)
class PhMap:
    """pH on the DCE grid.

    Attributes:
        measured: pH ``(x, y, z)``, NaN where not measured.
        std: its standard deviation ``(x, y, z)``, NaN where not measured.
        filled: pH ``(x, y, z)`` for the physics, with values where none was measured.
        fill_value: pH of tumour voxels without a measurement.
        common_std: standard deviation of the calibration, which all voxels share; part of ``std``.
        coverage: measured share of the tumour.
        validity: ``(x, y, z)``, bits of :class:`Validity`: why a voxel has no pH.
        assumptions: sentences for the report.
    """

    measured: Array
    std: Array
    filled: Array
    fill_value: float
    common_std: float
    coverage: float
    validity: NDArray[np.int32]
    assumptions: tuple[str, ...]

    @classmethod
    def without_measurement(cls, filled: Array, fill_value: float, note: str) -> PhMap:
        """pH for the physics where none was measured.

        Args:
            filled: pH ``(x, y, z)``.
            fill_value: pH of the tumour.
            note: sentence for the report.
        """
        nothing = np.full(filled.shape, np.nan)
        return cls(
            nothing,
            nothing,
            filled,
            fill_value,
            0.0,
            0.0,
            np.full(filled.shape, int(Validity.OUTSIDE), dtype=np.int32),
            (note,),
        )


@dataclass(frozen=True)
class PhScan:
    """pH on the grid of its own scan.

    Attributes:
        pH: ``(x, y, z)``, NaN where not measured.
        std: its standard deviation.
        anatomy: image for registration, ``(x, y, z)``.
        affine: ``(4, 4)`` to RAS mm.
        common_std: standard deviation of the calibration, which all voxels share.
        validity: ``(x, y, z)``, bits of :class:`Validity`.
        assumptions: sentences for the report.
    """

    pH: Array
    std: Array
    anatomy: Array
    affine: Array
    common_std: float
    validity: NDArray[np.int32]
    assumptions: tuple[str, ...]


def assumed_ph(pH: float, mask: NDArray[np.bool_]) -> PhMap:
    """One assumed pH throughout the tumour, and normal pH outside.

    Args:
        pH: value in the tumour.
        mask: tumour, ``(x, y, z)``.

    Raises:
        InputError: the value is not a pH of living tissue.
    """
    if not LOWEST_PH <= pH <= HIGHEST_PH:
        raise InputError(
            "not an extracellular pH",
            field="assume_ph",
            found=pH,
            expected=f"{LOWEST_PH} to {HIGHEST_PH}",
            remedy="Give the pH itself, e.g. 6.9.",
        )
    note = (
        f"pH was not measured: {pH:g} is assumed throughout the tumour, so release is not informed"
        " by a pH map."
    )
    return PhMap.without_measurement(np.where(mask, pH, value("pHe_n")), pH, note)


def load_ph(
    path: VolumeSource,
    affine: Array,
    mask: NDArray[np.bool_],
    *,
    options: CestOptions | None = None,
    B1: B1Map | None = None,
    orientation: Orientation | None = None,
    coregistration: Coregistration | None = None,
) -> PhMap:
    """Read a pH map (3-D) or estimate pH from Z-spectra (4-D), and resample it to the DCE grid.

    pH is computed on the grid of its own scan and resampled last. B0 and B1 maps are aligned with
    the CEST scan by their affines, and registered together with it.

    Args:
        path: pH map or series of Z-spectra.
        affine: of the DCE grid, ``(4, 4)`` to RAS mm.
        mask: tumour on the DCE grid, ``(x, y, z)``.
        options: other files and choices of the CEST scan.
        B1: map of true over nominal saturation amplitude.
        orientation: affine to use where sform and qform disagree.
        coregistration: registration of scans to the DCE scan; None uses the affines.

    Returns:
        pH on the DCE grid.

    Raises:
        InputError: the volume is neither of the two, covers less than 30 % of the tumour, or has no
            pH in the tumour.
    """
    own = read_ph_scan(path, options or CestOptions(), B1, orientation)
    return place_ph(own, path, affine, mask, coregistration)


def place_ph(
    own: PhScan,
    path: VolumeSource,
    affine: Array,
    mask: NDArray[np.bool_],
    coregistration: Coregistration | None = None,
) -> PhMap:
    """Resample pH to the grid of a tumour mask, and fill the voxels without a measurement.

    Args:
        own: pH on the grid of its scan.
        path: of the scan, in errors.
        affine: of the mask, ``(4, 4)`` to RAS mm.
        mask: tumour, ``(x, y, z)``.
        coregistration: registration of scans to the DCE scan; None uses the affines.

    Raises:
        InputError: the scan covers less than 30 % of the tumour, or has no pH in the tumour.
    """
    placed, moved = (
        (own.affine, [])
        if coregistration is None
        else coregistration.register_scan("CEST scan", own.anatomy, own.affine, path)
    )
    notes = [*own.assumptions, *moved]
    shape = (mask.shape[0], mask.shape[1], mask.shape[2])
    inside = np.isfinite(resample(np.zeros(own.pH.shape), placed, shape, affine))
    overlap = float(inside[mask].mean())
    if overlap < MIN_OVERLAP:
        raise InputError(
            "the pH scan does not overlap the tumour",
            file=path,
            field="affine",
            found=f"{overlap:.0%} of the tumour inside it",
            expected=f"at least {MIN_OVERLAP:.0%}",
            remedy="Check both affines, or register the scans: `register` 'rigid'.",
        )
    on_dce, std = (resample(m, placed, shape, affine) for m in (own.pH, own.std))
    coverage = float(np.isfinite(on_dce[mask]).mean())
    if coverage == 0:
        raise InputError(
            "no voxel of the tumour has a pH",
            file=path,
            field="values",
            found=f"0 of {int(mask.sum())} tumour voxels",
            expected="agent in the tumour, and a ratio within the calibrated range",
            remedy="Compute the pH maps alone without a mask: their validity map says why.",
        )
    fill = float(np.mean(on_dce[mask & np.isfinite(on_dce)]))
    filled = np.where(np.isfinite(on_dce), on_dce, np.where(mask, fill, value("pHe_n")))
    notes.insert(
        0,
        f"pH was measured in {coverage:.0%} of the tumour ({overlap:.0%} of it lies inside the"
        " scan).",
    )
    if coverage < 1:
        notes.append(f"Tumour voxels where pH was not measured have the measured mean, {fill:.2f}.")
    notes.append(f"Outside the tumour, unmeasured tissue has pH {value('pHe_n'):g}.")
    codes = resample(own.validity.astype(np.float64), placed, shape, affine, order=0)
    validity = np.where(np.isfinite(codes), np.nan_to_num(codes), int(Validity.OUTSIDE)).astype(
        np.int32
    )
    return PhMap(
        on_dce,
        np.where(np.isfinite(on_dce), std, np.nan),
        filled,
        fill,
        own.common_std,
        coverage,
        validity,
        tuple(notes),
    )


def read_ph_scan(
    path: VolumeSource, options: CestOptions, B1: B1Map | None, orientation: Orientation | None
) -> PhScan:
    """Read a pH map (3-D), or estimate pH from Z-spectra (4-D), on the grid of its scan.

    Args:
        path: pH map or series of Z-spectra.
        options: other files and choices of the CEST scan.
        B1: map of true over nominal saturation amplitude.
        orientation: affine to use where sform and qform disagree.

    Raises:
        InputError: the volume is neither of the two, or does not hold pH.
    """
    volume = read_volume(path, orientation=orientation)
    if volume.ndim == 4:
        found = measure_ph(path, options, B1=B1, orientation=orientation)
        return PhScan(
            found.image.pH,
            found.image.std,
            found.anatomy,
            found.affine,
            found.calibration_std,
            found.image.validity,
            found.assumptions,
        )
    side = read_sidecar(path)
    if "SaturationOffsetsPPM" in side or "SaturationOffsetsHz" in side:
        raise InputError(
            "a Z-spectrum must have four dimensions",
            file=path,
            field="dimensions",
            found="x".join(map(str, volume.shape)),
            expected="(x, y, z, offset)",
            remedy="Give the whole series, or remove the offsets from the sidecar of a pH map.",
        )
    values, notes = _mask_implausible_ph(np.asarray(volume.numpy(), dtype=np.float64), path)
    noise, noise_note = _noise(path)
    std = np.where(np.isfinite(values), noise, np.nan)
    validity = np.where(np.isfinite(values), 0, int(Validity.NO_SPECTRUM)).astype(np.int32)
    affine = np.asarray(volume.affine, dtype=np.float64)
    return PhScan(values, std, np.nan_to_num(values), affine, 0.0, validity, (*notes, *noise_note))


def _mask_implausible_ph(values: Array, path: VolumeSource) -> tuple[Array, list[str]]:
    """pH, NaN where it is missing (0, -1, not finite) or impossible; and notes on the latter."""
    known = np.isfinite(values) & (values != 0) & (values != -1)
    if not known.any():
        raise InputError(
            "the pH map holds no value",
            file=path,
            field="values",
            found="only 0, -1 and NaN, which mark missing values",
            expected=f"{LOWEST_PH} to {HIGHEST_PH}",
            remedy="Export the map again.",
        )
    low, high = (float(q) for q in np.percentile(values[known], [2, 98]))
    clipped = [
        f"{v:.2f}"
        for v in (float(values[known].min()), float(values[known].max()))
        if (values[known] == v).mean() > 0.05
    ]
    if not (low >= LOWEST_PH and high <= HIGHEST_PH):
        raise InputError(
            "these are not pH values",
            file=path,
            field="values",
            found=f"{low:.3g} to {high:.3g}",
            expected=f"{LOWEST_PH} to {HIGHEST_PH}",
            remedy="Give a pH map, not a ratio or a contrast map.",
        )
    good = known & (values >= LOWEST_PH) & (values <= HIGHEST_PH)
    lost = int((known & ~good).sum())
    notes = (
        [f"{lost} voxels of the pH map outside {LOWEST_PH} to {HIGHEST_PH} count as not measured."]
        if lost
        else []
    )
    if clipped and np.unique(values[good]).size > 20:
        notes.append(
            f"The pH map appears to be clipped at {' and '.join(clipped)}: true values may lie"
            " beyond."
        )
    return np.where(good, values, np.nan), notes


def _noise(path: VolumeSource) -> tuple[float, list[str]]:
    """Standard deviation of a voxel's pH, and what was assumed for it."""
    side = read_sidecar(path)
    if "pHStd" in side:
        name = sidecar_path(path)
        return read_sidecar_number(side, "pHStd", name, 1e-6, 2.0, "standard deviation of pH"), []
    noise = value("sd_pHe")
    return noise, [f"The noise of the pH map is taken as {noise:g} (no pHStd in its sidecar)."]
