"""pH of every voxel of a Z-spectral image, with its standard deviation, and why a voxel has none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.cest.measured_ratio import ContrastRatio, NoisySpectra, compute_contrast_ratio
from nanopinn.imaging.cest.offset_sampling import SamplingError, tabulate_sampling_error
from nanopinn.imaging.cest.ratiometric import PhCalibration, estimate_water_offset
from nanopinn.imaging.cest.z_spectra import FLANK_PPM, SplineSmoother, ZSpectra, flank_noise

Array = NDArray[np.float64]

#: A pH less certain than this says nothing that the prior does not.
MAX_PH_STD = 0.35
#: Spectra at once, and spectra that the smoothing learns from.
_BATCH, _SAMPLE = 4096, 400


class Validity(IntFlag):
    """Why a voxel has no pH; 0 is a voxel without complaint."""

    OK = 0
    NO_SPECTRUM = 1
    """Air, or a value that is not finite."""
    NO_WATER = 2
    """No minimum near 0 ppm: B0 is unknown."""
    BELOW_DETECTION = 4
    """A contrast does not stand out of the noise: too little agent."""
    OUT_OF_RANGE = 8
    """The ratio lies outside the range on which it tells pH."""
    UNCERTAIN = 16
    """Noise and sampling leave pH uncertain by more than 0.35."""
    OUTSIDE = 32
    """The scan did not reach here."""
    NO_FIT = 64
    """A fit of the spectrum did not converge, or ended at a bound."""


VALIDITY_TEXTS = {
    Validity.NO_SPECTRUM: "no spectrum",
    Validity.NO_WATER: "no water peak near 0 ppm",
    Validity.BELOW_DETECTION: "agent below detection",
    Validity.OUT_OF_RANGE: "ratio outside the calibrated range",
    Validity.UNCERTAIN: "pH too uncertain",
    Validity.OUTSIDE: "outside the scan",
    Validity.NO_FIT: "no fit of the spectrum",
}


@dataclass(frozen=True)
class PhImage:
    """pH on the grid of the CEST scan, ``(x, y, z)``, NaN where not measured.

    Attributes:
        std: of noise and calibration. b0_ppm: where water is. validity: bits of :class:`Validity`.
    """

    pH: Array
    std: Array
    b0_ppm: Array
    validity: NDArray[np.int32]


def ph_image(
    spectra: ZSpectra,
    calibration: PhCalibration,
    *,
    B1: Array | None = None,
    b0_ppm: Array | None = None,
    before: ZSpectra | None = None,
    second: ZSpectra | None = None,
    calibration_std: float | None = None,
) -> PhImage:
    """The ratio of two contrasts, inverted, voxel by voxel.

    Args:
        calibration: says whose contrasts it takes, and where.
        B1: true over nominal amplitude ``(x, y, z)``. b0_ppm: where water is, if it was mapped.
        before: spectra of the same grid before injection, the reference in place of the mirrored
            frequency.
        second: spectra of the same grid at another power, for the second contrast of an agent with
            one frequency.
        calibration_std: of the calibration, added to that of the noise; its own if absent.
    """
    parts = [s for s in (spectra, second, before) if s is not None]
    flat = [s.Z.reshape(-1, len(s.offsets_ppm)) for s in parts]
    known = np.logical_and.reduce([np.isfinite(f).all(axis=1) for f in flat])
    where = np.flatnonzero(known)
    out = {n: np.full(len(known), np.nan) for n in ("pH", "std", "b0")}
    validity = np.where(known, 0, int(Validity.NO_SPECTRUM)).astype(np.int32)
    if len(where):
        scans = [
            _build_noisy_spectra(s.offsets_ppm, f[where], calibration)
            for s, f in zip(parts, flat, strict=True)
        ]
        scan = _CestScan(
            scans[:-1] if before is not None else scans,
            scans[-1] if before is not None else None,
            calibration,
        )
        b0, amplitude = (None if m is None else m.reshape(-1)[where] for m in (b0_ppm, B1))
        error = scan.tabulate_sampling_error(b0)
        own = calibration.std if calibration_std is None else calibration_std
        for i in range(0, len(where), _BATCH):
            rows = slice(i, i + _BATCH)
            found = _compute_ph_batch(
                scan,
                rows,
                None if b0 is None else b0[rows],
                None if amplitude is None else amplitude[rows],
                error,
                own,
            )
            (
                out["pH"][where[rows]],
                out["std"][where[rows]],
                out["b0"][where[rows]],
                validity[where[rows]],
            ) = found
    shape = spectra.Z.shape[:3]
    return PhImage(
        out["pH"].reshape(shape),
        out["std"].reshape(shape),
        out["b0"].reshape(shape),
        validity.reshape(shape),
    )


@dataclass(frozen=True)
class _CestScan:
    """The series of the contrasts, the one before injection, and whose ratio is asked for."""

    series: list[NoisySpectra]
    before: NoisySpectra | None
    calibration: PhCalibration

    def ratio(self, rows: slice, b0_ppm: Array | None) -> ContrastRatio:
        """Of some of the spectra."""
        before = None if self.before is None else _select_rows(self.before, rows)
        kind, places = self.calibration.contrast, self.calibration.ratio_ppm
        return compute_contrast_ratio(
            [_select_rows(s, rows) for s in self.series], before, b0_ppm, kind, places
        )

    def tabulate_sampling_error(self, b0_ppm: Array | None) -> SamplingError:
        """What the offsets and the smoothing do to noise-free spectra of the calibration, treated
        as these are.
        """

        def log_ratio(with_agent: list[Array], without: list[Array], water: Array) -> Array:
            series = [
                _build_noise_free_spectra(Z, s)
                for Z, s in zip(with_agent, self.series, strict=True)
            ]
            before = (
                None if self.before is None else _build_noise_free_spectra(without[0], self.before)
            )
            found = _CestScan(series, before, self.calibration).ratio(
                slice(None), None if b0_ppm is None else water
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray(np.log(found.ratio))

        first = self.series[0]
        few = slice(None, None, max(1, len(first.Z) // _SAMPLE))
        shifts = (
            estimate_water_offset(first.Z[few], first.smoother).ppm
            if b0_ppm is None
            else b0_ppm[few]
        )
        offsets = [s.smoother.ppm for s in self.series]
        return tabulate_sampling_error(
            self.calibration.model,
            offsets,
            shifts,
            log_ratio,
            (self.calibration.lowest, self.calibration.highest),
        )


def _build_noisy_spectra(ppm: Array, Z: Array, calibration: PhCalibration) -> NoisySpectra:
    # a fit of dips has a noise of its own
    noise = (
        np.zeros(len(Z))
        if calibration.contrast == "lorentz"
        else flank_noise(ppm, Z, calibration.ratio_ppm[0])
    )
    return NoisySpectra(
        Z, SplineSmoother(ppm, Z[:: max(1, len(Z) // _SAMPLE)], np.abs(ppm) > FLANK_PPM), noise
    )


def _select_rows(spectra: NoisySpectra, rows: slice) -> NoisySpectra:
    return NoisySpectra(spectra.Z[rows], spectra.smoother, spectra.noise[rows])


def _build_noise_free_spectra(Z: Array, like: NoisySpectra) -> NoisySpectra:
    return NoisySpectra(Z, like.smoother, np.zeros(len(Z)))


def _compute_ph_batch(
    scan: _CestScan,
    rows: slice,
    b0: Array | None,
    B1: Array | None,
    error: SamplingError,
    calibration_std: float,
) -> tuple[Array, Array, Array, NDArray[np.int32]]:
    found = scan.ratio(rows, b0)
    amplitude = np.ones_like(found.ratio) if B1 is None else B1
    pH, slope = scan.calibration.invert(found.ratio, amplitude)
    bend, spread = error(found.water_ppm, pH)
    pH, slope = scan.calibration.invert(found.ratio * np.exp(-bend), amplitude)
    own = np.abs(slope) * np.sqrt(found.log_variance + spread**2)
    measured = np.isfinite(found.water_ppm)
    validity = np.zeros(len(pH), dtype=np.int32)
    for bit, wrong in (
        (Validity.NO_WATER, ~measured),
        (Validity.BELOW_DETECTION, measured & ~found.detected),
        (Validity.OUT_OF_RANGE, found.detected & ~np.isfinite(pH)),
        (Validity.UNCERTAIN, found.detected & np.isfinite(pH) & ~(own <= MAX_PH_STD)),
    ):
        validity[wrong] |= int(bit)
    bad, std = validity != 0, np.sqrt(own**2 + calibration_std**2)
    return np.where(bad, np.nan, pH), np.where(bad, np.nan, std), found.water_ppm, validity
