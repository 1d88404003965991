"""The ratio of an agent's two contrasts, and what the noise of the spectra makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.cest.contrast import AgentContrast, Water, agent_contrast, water_shift
from nanopinn.imaging.cest.lorentz import amide_heights
from nanopinn.imaging.cest.ratio import Contrast
from nanopinn.imaging.cest.spectrum import Smoother

Array = NDArray[np.float64]

#: Both contrasts must stand this many standard deviations out of the noise: the usual limit of detection (Currie 1995,
#: Pure Appl Chem 67:1699). At 2.5 eleven of 200 tubes that show nothing at 1 uT were given a pH, at 3 eight.
DETECTION = 3.0


@dataclass(frozen=True)
class NoisySpectra:
    """Spectra ``(n, o)``, how they are smoothed, and the standard deviation of a value of each ``(n,)``."""

    Z: Array
    smoother: Smoother
    noise: Array


@dataclass(frozen=True)
class MeasuredRatio:
    """Of every spectrum ``(n,)``: first contrast over second, the variance of its logarithm, whether both stand out, and water (ppm)."""

    ratio: Array
    log_variance: Array
    seen: NDArray[np.bool_]
    water_ppm: Array


def measured_ratio(
    series: Sequence[NoisySpectra],
    before: NoisySpectra | None,
    water_ppm: Array | None,
    kind: Contrast,
    ratio_ppm: tuple[float, ...],
) -> MeasuredRatio:
    """Two frequencies of one series, or one frequency of two.

    The variance follows the noise through the smoothing, through where water is found, and through what both contrasts share:

        var ln(c1/c2) = sd^2 |d ln c1/dZ - d ln c2/dZ|^2, summed over the series

    Args:
        before: the series before injection, reference of both contrasts. water_ppm: where water is, if it was mapped.
    """
    first, last = series[0], series[-1]
    places = [_water(s, water_ppm) for s in series]
    if kind == "lorentz":
        return _of_heights(first, places[0].ppm, ratio_ppm)
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
        seen = _stands_out(one, first, before) & _stands_out(two, last, before)
        return MeasuredRatio(one.value / two.value, log_variance, seen, places[0].ppm)


def _water(spectra: NoisySpectra, given: Array | None) -> Water:
    return (
        water_shift(spectra.Z, spectra.smoother)
        if given is None
        else Water(given, np.zeros_like(spectra.Z))
    )


def _stands_out(
    contrast: AgentContrast, own: NoisySpectra, before: NoisySpectra | None
) -> NDArray[np.bool_]:
    variance = own.noise**2 * _square(contrast.slope)
    if before is not None:
        variance = variance + before.noise**2 * _square(contrast.slope_before)
    return np.asarray(contrast.value > DETECTION * np.sqrt(variance))


def _of_heights(
    spectra: NoisySpectra, water_ppm: Array, ratio_ppm: tuple[float, ...]
) -> MeasuredRatio:
    """Of Lorentzian dips, whose fit has an error of its own."""
    heights, variances = amide_heights(
        spectra.smoother.ppm, spectra.Z, water_ppm, (ratio_ppm[0], ratio_ppm[-1])
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = np.asarray((heights > DETECTION * np.sqrt(variances)).all(axis=1))
        return MeasuredRatio(
            heights[:, 0] / heights[:, 1], (variances / heights**2).sum(axis=1), seen, water_ppm
        )


def _square(slopes: Array) -> Array:
    return np.asarray((slopes**2).sum(axis=1))
