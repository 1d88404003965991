"""Signal of the spoiled gradient echo and its exact inversion to concentration, with the noise of
every voxel and the errors that its frames share.

S = M0 sin a (1 - E1) / (1 - E1 cos a),    E1 = exp(-TR R1),    R1 = 1/T1 + r1 C
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.acquisition import DceAcquisition
from nanopinn.imaging.dce.bolus import baseline_frames

Array = NDArray[np.float64]


def spgr_signal(
    M0: Array | float, T1: Array | float, TR_s: float, flip_deg: float | Array
) -> Array:
    """Steady-state signal ``M0 sin a (1 - E1) / (1 - E1 cos a)``.

    Args:
        M0: signal at full relaxation and 90 degrees.
        T1: s.
        TR_s: excitation TR, s.
        flip_deg: true flip angle, degrees.
    """
    a = np.deg2rad(flip_deg)
    E1 = np.exp(-TR_s / np.asarray(T1, dtype=np.float64))
    return np.asarray(M0 * np.sin(a) * (1 - E1) / (1 - E1 * np.cos(a)))


def signal_from_concentration(
    C_mM: Array,
    baseline: Array,
    T1_s: Array,
    TR_s: float,
    flip_deg: float | Array,
    relaxivity: float,
) -> Array:
    """Signal of tissue with contrast agent; shapes broadcast.

    Args:
        C_mM: concentration, mM.
        baseline: signal without agent.
        T1_s: native T1, s.
        TR_s: excitation TR, s.
        flip_deg: true flip angle, degrees.
        relaxivity: r1, 1/(s mM).
    """
    R1 = 1 / T1_s + relaxivity * C_mM
    return np.asarray(
        baseline * spgr_signal(1.0, 1 / R1, TR_s, flip_deg) / spgr_signal(1.0, T1_s, TR_s, flip_deg)
    )


def concentration_from_signal(
    S: Array, baseline: Array, T1_s: Array, TR_s: float, flip_deg: float | Array, relaxivity: float
) -> Array:
    """Concentration by exact inversion of the signal equation.

    Args:
        S: signal.
        baseline: signal without agent.
        T1_s: native T1, s.
        TR_s: excitation TR, s.
        flip_deg: true flip angle, degrees.
        relaxivity: r1, 1/(s mM).

    Returns:
        mM; NaN where the signal exceeds that of any T1 (saturation).
    """
    a = np.deg2rad(flip_deg)
    E10 = np.exp(-TR_s / T1_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = S / baseline * (1 - E10) / (1 - E10 * np.cos(a))  # = (1 - E1)/(1 - E1 cos a)
        E1 = (1 - ratio) / (1 - ratio * np.cos(a))
        # beyond saturation E1 is negative, and beyond 1 / cos(a) it exceeds 1
        possible = (ratio < 1) & (E1 > 0)
        R1 = np.where(possible, -np.log(np.where(possible, E1, 1.0)) / TR_s, np.nan)
        return np.asarray((R1 - 1 / T1_s) / relaxivity)


Relation = Literal["spgr", "linear"]

#: Rounding of a stored signal (float32 or scaled integers of 16 bits at best), as a share of it.
_RELATIVE_ROUNDING_ERROR = 1e-6


class EnhancementModel(Protocol):
    """Relation of concentration to signal over baseline, with the native T1 of every voxel."""

    @property
    def T1_s(self) -> Array:
        """Native T1, s, ``(x, y, z)``."""
        ...

    def concentration(self, ratio: Array) -> Array:
        """mM; NaN where no concentration gives the ratio."""
        ...

    def relative_signal(self, C_mM: Array) -> Array:
        """Signal over baseline."""
        ...


@dataclass(frozen=True)
class SpoiledGradientEcho:
    """The exact relation of the spoiled gradient echo.

    Attributes:
        T1_s: native T1, ``(x, y, z)``, s.
        TR_s: excitation TR, s.
        flip_deg: true flip angle, degrees, one or ``(x, y, z)``.
        relaxivity: r1, 1/(s mM).
    """

    T1_s: Array
    TR_s: float
    flip_deg: float | Array
    relaxivity: float

    def concentration(self, ratio: Array) -> Array:
        return concentration_from_signal(
            ratio, np.ones_like(self.T1_s), self.T1_s, self.TR_s, self.flip_deg, self.relaxivity
        )

    def relative_signal(self, C_mM: Array) -> Array:
        return signal_from_concentration(
            C_mM, np.ones_like(self.T1_s), self.T1_s, self.TR_s, self.flip_deg, self.relaxivity
        )


@dataclass(frozen=True)
class LinearEnhancement:
    """``S/S0 - 1 = r1 T1 C``, for small concentrations and scans without a known flip angle.

    Attributes:
        T1_s: native T1, ``(x, y, z)``, s.
        relaxivity: r1, 1/(s mM).
    """

    T1_s: Array
    relaxivity: float

    def concentration(self, ratio: Array) -> Array:
        return np.asarray((ratio - 1) / (self.relaxivity * self.T1_s))

    def relative_signal(self, C_mM: Array) -> Array:
        return np.asarray(1 + self.relaxivity * self.T1_s * C_mM)


def select_enhancement_model(
    T1_s: Array,
    acquisition: DceAcquisition,
    *,
    relation: Relation = "spgr",
    B1: Array | float = 1.0,
) -> EnhancementModel:
    """Relation of signal and concentration of a series.

    Args:
        T1_s: native T1, ``(x, y, z)``, s.
        acquisition: of the series.
        relation: ``spgr`` (exact) or ``linear``.
        B1: true over nominal flip angle, ``(x, y, z)`` or 1.
    """
    if relation == "linear":
        return LinearEnhancement(T1_s, acquisition.relaxivity)
    return SpoiledGradientEcho(
        T1_s, acquisition.repetition_time_s, acquisition.flip_angle_deg * B1, acquisition.relaxivity
    )


@dataclass(frozen=True)
class Concentration:
    """Contrast agent in tissue.

    Attributes:
        mM: ``(t, x, y, z)``, NaN where the signal has no solution.
        noise_sd_mM: of one frame at the mean concentration of the voxel, ``(x, y, z)``, mM.
        shared_error_mM: effect of one standard deviation of each error that all frames share,
            ``(k, t, x, y, z)``, mM: of the baseline, and of native T1 where its error is known.
        baseline: first frame before contrast, and the frame after the last.
        saturated: where a finite signal exceeds that of any T1, ``(x, y, z)``.
        t1_unknown: ``(x, y, z)``.
    """

    mM: Array
    noise_sd_mM: Array
    shared_error_mM: Array
    baseline: tuple[int, int]
    saturated: NDArray[np.bool_]
    t1_unknown: NDArray[np.bool_]


def estimate_concentration(
    series: Array,
    enhancement_model: EnhancementModel,
    acquisition: DceAcquisition,
    T1_std: Array | None = None,
) -> Concentration:
    """Concentration of every voxel by inversion of the signal equation.

    Args:
        series: signal, ``(t, x, y, z)``.
        enhancement_model: relation with native T1 ``(x, y, z)``, NaN where unknown.
        acquisition: of the series.
        T1_std: standard deviation of T1, ``(x, y, z)``, s; None where unknown.

    Raises:
        InputError: fewer than two frames are before contrast.
    """
    first, after = baseline_frames(series, acquisition)
    base = series[first:after].mean(axis=0)
    base = np.where(np.isfinite(base) & (base > 0), base, np.nan)
    ratio = series / base
    C = enhancement_model.concentration(ratio)
    t1_unknown = ~np.isfinite(enhancement_model.T1_s)
    saturated = (
        (np.isfinite(series) & ~np.isfinite(C)).any(axis=0) & np.isfinite(base) & ~t1_unknown
    )
    noise = _noise(series[first:after], base) / base
    # C depends on S / S0, so an error of S0 acts as one of S scaled by -S / S0
    errors = [
        noise
        / np.sqrt(after - first)
        * _concentration_per_relative_signal(enhancement_model, C)
        * -ratio
    ]
    if T1_std is not None:
        errors.append(T1_std * _concentration_per_t1(enhancement_model, ratio))
    return Concentration(
        C,
        noise * np.abs(_concentration_per_relative_signal(enhancement_model, _mean(C))),
        np.stack(errors),
        (first, after),
        saturated,
        t1_unknown,
    )


def wrap_measured_concentration(series: Array, acquisition: DceAcquisition) -> Concentration:
    """A series of concentrations with its noise; its baseline is not subtracted.

    Args:
        series: ``(t, x, y, z)``, mM.
        acquisition: of the series.

    Raises:
        InputError: fewer than two frames are before contrast.
    """
    first, after = baseline_frames(series, acquisition)
    nothing = np.zeros(series.shape[1:], dtype=bool)
    noise = _noise(series[first:after], np.zeros(series.shape[1:]))
    return Concentration(
        series, noise, np.zeros((0, *series.shape)), (first, after), nothing, nothing
    )


def baseline_sensitivity(curves_mM: Array, enhancement_model: EnhancementModel) -> Array:
    """Change of curves per relative error of the baseline signal, mM.

    Args:
        curves_mM: smooth curves, ``(t, x, y, z)``, mM.
        enhancement_model: relation of signal and concentration.

    Returns:
        ``(t, x, y, z)``, mM.
    """
    return np.asarray(
        -enhancement_model.relative_signal(curves_mM)
        * _concentration_per_relative_signal(enhancement_model, curves_mM)
    )


def _concentration_per_relative_signal(enhancement_model: EnhancementModel, C_mM: Array) -> Array:
    """Derivative of concentration by signal over baseline, mM, which propagates noise."""
    step = 1e-4
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(
            2
            * step
            / (
                enhancement_model.relative_signal(C_mM + step)
                - enhancement_model.relative_signal(C_mM - step)
            )
        )


def _concentration_per_t1(enhancement_model: EnhancementModel, ratio: Array) -> Array:
    """Derivative of concentration by native T1 at the measured signal, mM/s."""
    step = 1e-4 * enhancement_model.T1_s
    above, below = (
        replace(enhancement_model, T1_s=enhancement_model.T1_s + s).concentration(ratio)  # type: ignore[type-var]
        for s in (step, -step)
    )
    return np.asarray((above - below) / (2 * step))


def _noise(before: Array, level: Array) -> Array:
    """Standard deviation of a baseline frame, ``(x, y, z)``.

    A variance from few frames is uncertain, so that of each voxel is averaged with the typical one.
    """
    frame_sd = before.std(axis=0, ddof=1)
    usable = np.isfinite(level) & np.isfinite(frame_sd)
    typical = np.median(frame_sd[usable]) if usable.any() else np.nan
    return np.asarray(
        np.sqrt((frame_sd**2 + typical**2) / 2 + (_RELATIVE_ROUNDING_ERROR * level) ** 2)
    )


def _mean(C: Array) -> Array:
    """Mean over the frames that are finite; 0 where none is."""
    known = np.isfinite(C)
    return np.asarray(np.where(known, C, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
