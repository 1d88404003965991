"""From a dynamic series to concentration, with the noise of every voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.acquisition import DceAcquisition
from nanopinn.imaging.bolus import baseline_frames
from nanopinn.imaging.spgr import concentration_from_signal, concentration_per_signal, signal_from_concentration

Array = NDArray[np.float64]

#: Rounding of a stored signal (float32 or scaled integers of 16 bits at best), as a share of it.
_STORED = 1e-6


@dataclass(frozen=True)
class Concentration:
    """Contrast agent in tissue.

    Attributes:
        mM: ``(t, x, y, z)``, NaN where the signal gives none.
        noise_sd_mM: ``(x, y, z)``, of one frame, at the voxel's mean concentration.
        baseline_error_mM: ``(t, x, y, z)``, what one standard deviation of the baseline's error does to the
            whole curve: all frames are divided by the same few.
        baseline: first frame before contrast, and the frame after the last.
        saturated: ``(x, y, z)``, where a finite signal exceeds what any T1 gives.
    """

    mM: Array
    noise_sd_mM: Array
    baseline_error_mM: Array
    baseline: tuple[int, int]
    saturated: NDArray[np.bool_]


def concentration_of(series: Array, T1_s: Array, acquisition: DceAcquisition) -> Concentration:
    """Invert the signal equation in every voxel.

    Args:
        series: signal ``(t, x, y, z)``.
        T1_s: native T1 ``(x, y, z)``, NaN where unknown.

    Raises:
        InputError: fewer than two frames are before contrast.
    """
    first, after = baseline_frames(series, acquisition)
    base = series[first:after].mean(axis=0)
    base = np.where(np.isfinite(base) & (base > 0), base, np.nan)
    sequence = (acquisition.repetition_time_s, acquisition.flip_angle_deg, acquisition.relaxivity)
    C = concentration_from_signal(series, base, T1_s, *sequence)
    saturated = (np.isfinite(series) & ~np.isfinite(C)).any(axis=0) & np.isfinite(base) & np.isfinite(T1_s)
    noise = _signal_noise(series[first:after], base)
    slope = np.abs(concentration_per_signal(_mean(C), base, T1_s, *sequence))
    # C depends on S / S0, so an error of S0 acts as one of S scaled by -S / S0
    of_base = noise / np.sqrt(after - first) * concentration_per_signal(C, base, T1_s, *sequence) * -series / base
    return Concentration(C, noise * slope, of_base, (first, after), saturated)


def baseline_effect(curves_mM: Array, T1_s: Array, acquisition: DceAcquisition) -> Array:
    """Change of curves ``(t, x, y, z)`` per relative error of the signal before contrast, mM; smooth as they are."""
    sequence = (acquisition.repetition_time_s, acquisition.flip_angle_deg, acquisition.relaxivity)
    one = np.ones_like(T1_s)
    S = signal_from_concentration(curves_mM, one, T1_s, *sequence)
    return np.asarray(-S * concentration_per_signal(curves_mM, one, T1_s, *sequence))


def _signal_noise(before: Array, base: Array) -> Array:
    """Standard deviation of the signal before contrast, ``(x, y, z)``.

    A variance from a handful of frames is rough: each voxel's is averaged with the typical one.
    """
    spread = before.std(axis=0, ddof=1)
    usable = np.isfinite(base) & np.isfinite(spread)
    typical = np.median(spread[usable]) if usable.any() else np.nan
    return np.asarray(np.sqrt((spread**2 + typical**2) / 2 + (_STORED * base) ** 2))


def _mean(C: Array) -> Array:
    """Mean over the frames that are finite; 0 where none is."""
    known = np.isfinite(C)
    return np.asarray(np.where(known, C, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
