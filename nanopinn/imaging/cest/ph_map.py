"""pH of every voxel of a Z-spectral image, with its standard deviation, and why a voxel has none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.cest.lorentz import amide_heights
from nanopinn.imaging.cest.ratio import Calibration, Contrast, contrast_of
from nanopinn.imaging.cest.spectrum import Smoother, ZSpectra

Array = NDArray[np.float64]

#: Water is sought within this of 0, ppm.
B0_WINDOW_PPM = 1.2
#: Both contrasts must stand this many standard deviations out of the noise.
DETECTION = 2.5
#: A pH less certain than this says nothing that the prior does not.
LARGEST_STD = 0.35
_BATCH = 4096


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
    """The noise leaves pH uncertain by more than 0.35."""
    OUTSIDE = 32
    """The scan did not reach here."""


WORDS = {
    Validity.NO_SPECTRUM: "no spectrum",
    Validity.NO_WATER: "no water peak near 0 ppm",
    Validity.BELOW_DETECTION: "agent below detection",
    Validity.OUT_OF_RANGE: "ratio outside the calibrated range",
    Validity.UNCERTAIN: "pH too uncertain",
    Validity.OUTSIDE: "outside the scan",
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
    spectra: ZSpectra, calibration: Calibration, *, B1: Array | None = None,
    b0_ppm: Array | None = None, before: ZSpectra | None = None, second: ZSpectra | None = None, calibration_std: float | None = None,
) -> PhImage:  # fmt: skip
    """The ratio of two contrasts, inverted, voxel by voxel.

    Args:
        calibration: says whose contrasts it takes, and where.
        B1: true over nominal amplitude ``(x, y, z)``. b0_ppm: where water is, if it was mapped.
        before: spectra of the same grid before injection, the reference in place of the mirrored frequency.
        second: spectra of the same grid at another power, for the second contrast of an agent with one frequency.
        calibration_std: of the calibration, added to that of the noise; its own if absent.
    """
    shape, parts = spectra.Z.shape[:3], [s for s in (spectra, second) if s is not None]
    flat = [s.Z.reshape(-1, len(s.offsets_ppm)) for s in parts]
    known = np.logical_and.reduce([np.isfinite(f).all(axis=1) for f in flat])
    where = np.flatnonzero(known)
    out = {n: np.full(len(known), np.nan) for n in ("pH", "std", "b0")}
    validity = np.where(known, 0, int(Validity.NO_SPECTRUM)).astype(np.int32)
    sample = where[:: max(1, len(where) // 400)]
    smoothers = [Smoother(s.offsets_ppm, f[sample]) for s, f in zip(parts, flat, strict=True)] if len(where) else []
    for i in range(0, len(where), _BATCH):
        at = where[i : i + _BATCH]
        images = [(f[at], smoother) for f, smoother in zip(flat, smoothers, strict=True)]
        found = _batch(
            images, calibration, None if B1 is None else B1.reshape(-1)[at], None if b0_ppm is None else b0_ppm.reshape(-1)[at],
            None if before is None else before.Z.reshape(-1, len(before.offsets_ppm))[at],
            calibration.std if calibration_std is None else calibration_std,
        )  # fmt: skip
        out["pH"][at], out["std"][at], out["b0"][at], validity[at] = found
    return PhImage(out["pH"].reshape(shape), out["std"].reshape(shape), out["b0"].reshape(shape), validity.reshape(shape))


def water_shift(Z: Array, smoother: Smoother) -> Array:
    """Minimum of the smoothed spectra near 0 ppm, ``(n,)``; NaN where the lowest place is at the edge of the window."""
    grid = np.arange(-B0_WINDOW_PPM, B0_WINDOW_PPM + 0.005, 0.01)
    curves = Z @ smoother.at(grid).T
    i = curves.argmin(axis=1)
    inner = np.clip(i, 1, len(grid) - 2)
    n = np.arange(len(Z))
    left, middle, right = curves[n, inner - 1], curves[n, inner], curves[n, inner + 1]
    bend = left - 2 * middle + right
    shift = grid[inner] + 0.005 * (left - right) / np.where(bend > 0, bend, 1.0)
    return np.where((i > 0) & (i < len(grid) - 1) & (bend > 0), shift, np.nan)


def _batch(
    images: list[tuple[Array, Smoother]], calibration: Calibration, B1: Array | None, b0: Array | None,
    before: Array | None, calibration_std: float,
) -> tuple[Array, Array, Array, NDArray[np.int32]]:  # fmt: skip
    (Z, smoother), ratio_ppm = images[0], calibration.ratio_ppm
    shift = water_shift(Z, smoother) if b0 is None else b0
    if calibration.contrast == "lorentz":
        heights, spread = amide_heights(smoother.ppm, Z, shift, (ratio_ppm[0], ratio_ppm[-1]))
        contrasts, variances = list(heights.T), list(spread.T)
    else:
        # two frequencies of one scan, or one frequency of two
        places = [(images[0], ratio_ppm[0]), (images[-1], ratio_ppm[-1])]
        shifts = [shift, shift if b0 is not None or len(images) == 1 else water_shift(*images[-1])]
        pairs = [_contrast(*image, ppm, calibration.contrast, s, before) for (image, ppm), s in zip(places, shifts, strict=True)]
        contrasts, variances = ([p[k] for p in pairs] for k in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = contrasts[0] / contrasts[1]
        relative = variances[0] / contrasts[0] ** 2 + variances[1] / contrasts[1] ** 2
        seen = (contrasts[0] > DETECTION * np.sqrt(variances[0])) & (contrasts[1] > DETECTION * np.sqrt(variances[1]))
    pH, slope = calibration.invert(ratio, np.ones_like(ratio) if B1 is None else B1)
    std = np.sqrt(slope**2 * relative + calibration_std**2)
    validity = np.zeros(len(Z), dtype=np.int32)
    for bit, wrong in (
        (Validity.NO_WATER, ~np.isfinite(shift)),
        (Validity.BELOW_DETECTION, np.isfinite(shift) & ~seen),
        (Validity.OUT_OF_RANGE, seen & ~np.isfinite(pH)),
        (Validity.UNCERTAIN, seen & np.isfinite(pH) & (slope * np.sqrt(relative) > LARGEST_STD)),
    ):
        validity[wrong] |= int(bit)
    bad = validity != 0
    return np.where(bad, np.nan, pH), np.where(bad, np.nan, std), shift, validity


def _contrast(
    Z: Array, smoother: Smoother, ppm: float, kind: Contrast, shift: Array, before: Array | None
) -> tuple[Array, Array]:  # fmt: skip
    """Contrast at a frequency against its reference, and what the noise makes of it."""
    at, gain = _value(Z, smoother, shift + ppm)
    reference, gain_reference = _value(Z, smoother, shift - ppm) if before is None else _value(before, smoother, shift + ppm)
    slopes = (at**-2, reference**-2) if kind == "rex" else (np.ones_like(at), np.ones_like(at))
    variance = smoother.noise(Z) ** 2 * (gain * slopes[0] ** 2 + gain_reference * slopes[1] ** 2)
    return contrast_of(at, reference, kind), variance


def _value(Z: Array, smoother: Smoother, at_ppm: Array) -> tuple[Array, Array]:
    """Smoothed value at a place of its own in every spectrum, and the share of a value's noise variance it carries."""
    low, high = np.nanmin(at_ppm, initial=0.0), np.nanmax(at_ppm, initial=0.0)
    grid = np.arange(low - 0.02, high + 0.04, 0.02)
    rows = smoother.at(grid)
    position = np.clip(np.nan_to_num((at_ppm - grid[0]) / 0.02), 0, len(grid) - 2)
    i = position.astype(int)
    u = (position - i)[:, None]
    weights = (1 - u) * rows[i] + u * rows[i + 1]
    outside = ~np.isfinite(at_ppm) | (at_ppm < smoother.ppm[0]) | (at_ppm > smoother.ppm[-1])
    return np.where(outside, np.nan, (weights * Z).sum(axis=1)), (weights**2).sum(axis=1)
