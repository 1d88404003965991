"""The ratio of an agent's two contrasts, and its variance by the noise of the spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.cest.lorentz import amide_heights
from nanopinn.imaging.cest.ratiometric import (
    AgentContrast,
    Contrast,
    WaterOffset,
    agent_contrast,
    estimate_water_offset,
)
from nanopinn.imaging.cest.z_spectra import SplineSmoother

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
