"""pH of every voxel of a Z-spectral image by the ratio of two contrasts.

The variance of the ratio follows from the noise of the spectra, and that of pH from the ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.cest.lorentz import amide_heights
from nanopinn.imaging.cest.offset_sampling import SamplingError, tabulate_sampling_error
from nanopinn.imaging.cest.ratiometric import (
    AgentContrast,
    Contrast,
    PhCalibration,
    WaterOffset,
    agent_contrast,
    estimate_water_offset,
)
from nanopinn.imaging.cest.z_spectra import FLANK_PPM, SplineSmoother, ZSpectra, flank_noise

Array = NDArray[np.float64]

#: Both contrasts must exceed this many standard deviations of their noise: the usual limit of
#: detection (Currie 1995, Pure Appl Chem 67:1699). Of 200 tubes without visible contrast at 1 uT,
#: eleven get a pH with a limit of 2.5 and eight with 3.
DETECTION_LIMIT = 3.0


@dataclass(frozen=True)
class NoisySpectra:
    """Spectra of one series with their smoothing and noise.

    Attributes:
        Z: ``(n, o)``.
        smoother: smoothing spline of the series.
        noise: standard deviation of one value of each spectrum, ``(n,)``.
    """

    Z: Array
    smoother: SplineSmoother
    noise: Array


@dataclass(frozen=True)
class ContrastRatio:
    """Ratio of two contrasts of every spectrum, ``(n,)``.

    Attributes:
        ratio: first contrast over second.
        log_variance: variance of ln of the ratio.
        detected: whether both contrasts exceed the detection limit.
        water_ppm: water resonance offset (B0 shift), ppm.
    """

    ratio: Array
    log_variance: Array
    detected: NDArray[np.bool_]
    water_ppm: Array


def compute_contrast_ratio(
    series: Sequence[NoisySpectra],
    before: NoisySpectra | None,
    water_ppm: Array | None,
    kind: Contrast,
    ratio_ppm: tuple[float, ...],
) -> ContrastRatio:
    """Ratio of the contrasts at two frequencies of one series, or at one frequency of two series.

    The variance is propagated from the noise of the spectra, through the smoothing and the estimate
    of the water resonance, with the correlation of the two contrasts:

        var ln(c1/c2) = sd^2 |d ln c1/dZ - d ln c2/dZ|^2, summed over the series

    Args:
        series: one series, or one for each contrast.
        before: series before injection, the reference of both contrasts.
        water_ppm: water resonance offset ``(n,)``, ppm; estimated from the spectra if absent.
        kind: definition of the contrast.
        ratio_ppm: frequencies of the contrasts, ppm from water.
    """
    first, last = series[0], series[-1]
    places = [_water(s, water_ppm) for s in series]
    if kind == "lorentz":
        return _ratio_of_amide_peaks(first, places[0].ppm, ratio_ppm)
    earlier = None if before is None else before.Z
    ends = ((first, places[0], ratio_ppm[0]), (last, places[-1], ratio_ppm[-1]))
    one, two = (
        agent_contrast(s.Z, s.smoother, ppm, kind, water, earlier) for s, water, ppm in ends
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (c.slope / c.value[:, None] for c in (one, two))
        shared = len(series) == 1
        log_variance = (
            first.noise**2 * _square(a - b)
            if shared
            else first.noise**2 * _square(a) + last.noise**2 * _square(b)
        )
        if before is not None:
            log_variance += before.noise**2 * _square(
                one.slope_before / one.value[:, None] - two.slope_before / two.value[:, None]
            )
        detected = _is_detected(one, first, before) & _is_detected(two, last, before)
        return ContrastRatio(one.value / two.value, log_variance, detected, places[0].ppm)


def _water(spectra: NoisySpectra, given: Array | None) -> WaterOffset:
    return (
        estimate_water_offset(spectra.Z, spectra.smoother)
        if given is None
        else WaterOffset(given, np.zeros_like(spectra.Z))
    )


def _is_detected(
    contrast: AgentContrast, own: NoisySpectra, before: NoisySpectra | None
) -> NDArray[np.bool_]:
    variance = own.noise**2 * _square(contrast.slope)
    if before is not None:
        variance = variance + before.noise**2 * _square(contrast.slope_before)
    return np.asarray(contrast.value > DETECTION_LIMIT * np.sqrt(variance))


def _ratio_of_amide_peaks(
    spectra: NoisySpectra, water_ppm: Array, ratio_ppm: tuple[float, ...]
) -> ContrastRatio:
    """Ratio of the heights of two Lorentzian peaks, with the variance of their fit."""
    heights, variances = amide_heights(
        spectra.smoother.ppm, spectra.Z, water_ppm, (ratio_ppm[0], ratio_ppm[-1])
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        detected = np.asarray((heights > DETECTION_LIMIT * np.sqrt(variances)).all(axis=1))
        return ContrastRatio(
            heights[:, 0] / heights[:, 1], (variances / heights**2).sum(axis=1), detected, water_ppm
        )


def _square(slopes: Array) -> Array:
    return np.asarray((slopes**2).sum(axis=1))


#: A pH with a larger standard deviation than this adds nothing to the prior.
MAX_PH_STD = 0.35
#: Spectra computed at once, and spectra by which the smoothing is chosen.
_BATCH, _SAMPLE = 4096, 400


class Validity(IntFlag):
    """Why a voxel has no pH, as bits; 0 where the estimate is valid."""

    OK = 0
    NO_SPECTRUM = 1
    """Air, or a value that is not finite."""
    NO_WATER = 2
    """No minimum near 0 ppm: B0 is unknown."""
    BELOW_DETECTION = 4
    """A contrast does not exceed the detection limit: too little agent."""
    OUT_OF_RANGE = 8
    """The ratio lies outside the range of the calibration."""
    UNCERTAIN = 16
    """Noise and sampling leave pH uncertain by more than 0.35."""
    OUTSIDE = 32
    """The voxel lies outside the scan."""
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
        pH: estimate.
        std: standard deviation of noise and calibration together.
        b0_ppm: water resonance offset (B0 shift), ppm.
        validity: bits of :class:`Validity`.
    """

    pH: Array
    std: Array
    b0_ppm: Array
    validity: NDArray[np.int32]


def estimate_ph_image(
    spectra: ZSpectra,
    calibration: PhCalibration,
    *,
    B1: Array | None = None,
    b0_ppm: Array | None = None,
    before: ZSpectra | None = None,
    second: ZSpectra | None = None,
    calibration_std: float | None = None,
) -> PhImage:
    """Estimate pH in every voxel from the ratio of two contrasts.

    Args:
        spectra: the scan.
        calibration: inverts the ratio, and states its contrasts and frequencies.
        B1: true over nominal saturation amplitude ``(x, y, z)``.
        b0_ppm: water resonance offset ``(x, y, z)``, ppm; estimated from the spectra if absent.
        before: spectra of the same grid before injection, the reference in place of the mirrored
            frequency.
        second: spectra of the same grid at another power, for the second contrast of an agent with
            one frequency.
        calibration_std: pH, added to the noise in quadrature; the calibration's own if absent.

    Returns:
        pH on the grid of the scan.
    """
    parts = [s for s in (spectra, second, before) if s is not None]
    flat = [s.Z.reshape(-1, len(s.offsets_ppm)) for s in parts]
    known = np.logical_and.reduce([np.isfinite(f).all(axis=1) for f in flat])
    shape = spectra.Z.shape[:3]
    found = [(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int32))]
    if known.any():
        scans = [
            _build_noisy_spectra(s.offsets_ppm, f[known], calibration)
            for s, f in zip(parts, flat, strict=True)
        ]
        scan = _CestScan(
            scans[:-1] if before is not None else scans,
            scans[-1] if before is not None else None,
            calibration,
        )
        b0, amplitude = (None if m is None else m.reshape(-1)[known] for m in (b0_ppm, B1))
        error = scan.tabulate_sampling_error(b0)
        own = calibration.std if calibration_std is None else calibration_std
        for i in range(0, int(known.sum()), _BATCH):
            rows = slice(i, i + _BATCH)
            found.append(
                _compute_ph_batch(
                    scan,
                    rows,
                    None if b0 is None else b0[rows],
                    None if amplitude is None else amplitude[rows],
                    error,
                    own,
                )
            )
    pH, std, b0_found, validity = (np.concatenate(part) for part in zip(*found, strict=True))
    return assemble_ph_image(shape, known, pH, std, b0_found, validity)


def assemble_ph_image(
    shape: tuple[int, ...],
    known: NDArray[np.bool_],
    pH: Array,
    std: Array,
    b0_ppm: Array,
    validity: NDArray[np.int32],
) -> PhImage:
    """Put the estimates of the voxels that have a spectrum into an image.

    Args:
        shape: of the image, ``(x, y, z)``.
        known: which voxels have a spectrum, flat.
        pH: of these voxels, ``(n,)``.
        std: standard deviation of pH, ``(n,)``.
        b0_ppm: water resonance offset, ppm, ``(n,)``.
        validity: bits of :class:`Validity`, ``(n,)``; pH and its error are NaN where it is not 0.

    Returns:
        The image, NaN and :attr:`Validity.NO_SPECTRUM` in the other voxels.
    """
    bits = np.full(len(known), int(Validity.NO_SPECTRUM), dtype=np.int32)
    bits[known] = validity
    images = []
    for values, valid in ((pH, validity == 0), (std, validity == 0), (b0_ppm, True)):
        image = np.full(len(known), np.nan)
        image[known] = np.where(valid, values, np.nan)
        images.append(image.reshape(shape))
    return PhImage(images[0], images[1], images[2], bits.reshape(shape))


@dataclass(frozen=True)
class _CestScan:
    """Series of the contrasts, series before injection, and the calibration of their ratio."""

    series: list[NoisySpectra]
    before: NoisySpectra | None
    calibration: PhCalibration

    def ratio(self, rows: slice, b0_ppm: Array | None) -> ContrastRatio:
        """Contrast ratio of some of the spectra."""
        before = None if self.before is None else _select_rows(self.before, rows)
        kind, places = self.calibration.contrast, self.calibration.ratio_ppm
        return compute_contrast_ratio(
            [_select_rows(s, rows) for s in self.series], before, b0_ppm, kind, places
        )

    def tabulate_sampling_error(self, b0_ppm: Array | None) -> SamplingError:
        """Error that offsets and smoothing leave, from noise-free spectra of the calibration."""

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
    # the fit of Lorentzian peaks estimates the noise itself
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
    """pH, standard deviation, B0 shift and validity of some of the spectra."""
    found = scan.ratio(rows, b0)
    amplitude = np.ones_like(found.ratio) if B1 is None else B1
    pH, slope = scan.calibration.invert(found.ratio, amplitude)
    bias, sampling_std = error(found.water_ppm, pH)
    pH, slope = scan.calibration.invert(found.ratio * np.exp(-bias), amplitude)
    own = np.abs(slope) * np.sqrt(found.log_variance + sampling_std**2)
    measured = np.isfinite(found.water_ppm)
    validity = np.zeros(len(pH), dtype=np.int32)
    for bit, wrong in (
        (Validity.NO_WATER, ~measured),
        (Validity.BELOW_DETECTION, measured & ~found.detected),
        (Validity.OUT_OF_RANGE, found.detected & ~np.isfinite(pH)),
        (Validity.UNCERTAIN, found.detected & np.isfinite(pH) & ~(own <= MAX_PH_STD)),
    ):
        validity[wrong] |= int(bit)
    return pH, np.sqrt(own**2 + calibration_std**2), found.water_ppm, validity
