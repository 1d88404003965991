"""Contrasts of a CEST agent, and calibrations from the ratio of two contrasts to pH.

The water resonance and the contrasts are estimated with their derivatives by every value of the
spectrum, for the propagation of noise. A calibration is a Bloch-McConnell curve for the scan, or a
published linear calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.cest.agent import CestAgent
from nanopinn.imaging.cest.bloch import Saturation, simulate_z_spectra
from nanopinn.imaging.cest.z_spectra import SplineSmoother
from nanopinn.parameters import value

Array = NDArray[np.float64]

#: Range around 0 in which the water resonance is searched, ppm.
B0_WINDOW_PPM = 1.2
_WATER_STEP, _STEP = 0.01, 0.02


@dataclass(frozen=True)
class WaterOffset:
    """Water resonance offset (B0 shift) of every spectrum.

    Attributes:
        ppm: ``(n,)``, NaN where it was not found.
        slope: derivative by the values of the spectrum, ``(n, o)``; 0 where a B0 map gave it.
    """

    ppm: Array
    slope: Array


@dataclass(frozen=True)
class AgentContrast:
    """Contrast of every spectrum at one frequency.

    Attributes:
        value: ``(n,)``.
        slope: derivative by the values of the spectrum, ``(n, o)``.
        slope_before: derivative by the values of the series before injection, ``(n, o)``.
    """

    value: Array
    slope: Array
    slope_before: Array


def estimate_water_offset(Z: Array, smoother: SplineSmoother) -> WaterOffset:
    """Estimate the water resonance offset by the minimum of the smoothed spectra near 0 ppm.

    Args:
        Z: spectra ``(n, o)``.
        smoother: smoothing spline of the series.

    Returns:
        The offset, NaN where the lowest value is at the edge of the search range.
    """
    grid = np.arange(-B0_WINDOW_PPM, B0_WINDOW_PPM + _WATER_STEP / 2, _WATER_STEP)
    rows = smoother.interpolation_matrix(grid)
    curves = Z @ rows.T
    i = curves.argmin(axis=1)
    inner = np.clip(i, 1, len(grid) - 2)
    n = np.arange(len(Z))
    left, middle, right = curves[n, inner - 1], curves[n, inner], curves[n, inner + 1]
    curvature = left - 2 * middle + right
    divisor = np.where(curvature > 0, curvature, 1.0)
    shift = grid[inner] + _WATER_STEP / 2 * (left - right) / divisor
    slope = _WATER_STEP / 2 * (rows[inner - 1] - rows[inner + 1]) / divisor[:, None]
    is_minimum = (i > 0) & (i < len(grid) - 1) & (curvature > 0)
    return WaterOffset(np.where(is_minimum, shift, np.nan), slope)


def agent_contrast(
    Z: Array,
    smoother: SplineSmoother,
    ppm: float,
    kind: Contrast,
    water: WaterOffset,
    before: Array | None,
) -> AgentContrast:
    """Estimate the contrast at one frequency.

    Args:
        Z: spectra ``(n, o)``.
        smoother: smoothing spline of the series.
        ppm: the frequency, from water.
        kind: ``rex`` or ``st``, as in :func:`compute_contrast`.
        water: water resonance offset.
        before: spectra before injection ``(n, o)``, the reference; if absent, the mirrored
            frequency is.
    """
    at, weights, rise = _interpolate_spectrum(Z, smoother, water.ppm + ppm)
    other = Z if before is None else before
    reference, weights_ref, rise_ref = _interpolate_spectrum(
        other, smoother, water.ppm + (-ppm if before is None else ppm)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        by_at, by_ref = (
            (-(at**-2), reference**-2) if kind == "rex" else (-np.ones_like(at), np.ones_like(at))
        )
    by_water = (by_at * rise + by_ref * rise_ref)[:, None] * water.slope
    own, others = by_at[:, None] * weights + by_water, by_ref[:, None] * weights_ref
    nothing = np.zeros_like(others)
    value = compute_contrast(at, reference, kind)
    return (
        AgentContrast(value, own + others, nothing)
        if before is None
        else AgentContrast(value, own, others)
    )


def _interpolate_spectrum(
    Z: Array, smoother: SplineSmoother, at_ppm: Array
) -> tuple[Array, Array, Array]:
    """Smoothed value of every spectrum at its own offset, its weights and its slope per ppm."""
    low, high = np.nanmin(at_ppm, initial=0.0), np.nanmax(at_ppm, initial=0.0)
    grid = np.arange(low - _STEP, high + 2 * _STEP, _STEP)
    rows = smoother.interpolation_matrix(grid)
    position = np.clip(np.nan_to_num((at_ppm - grid[0]) / _STEP), 0, len(grid) - 2)
    i = position.astype(int)
    u = (position - i)[:, None]
    weights = (1 - u) * rows[i] + u * rows[i + 1]
    outside = ~np.isfinite(at_ppm) | (at_ppm < smoother.ppm[0]) | (at_ppm > smoother.ppm[-1])
    return (
        np.where(outside, np.nan, (weights * Z).sum(axis=1)),
        weights,
        ((rows[i + 1] - rows[i]) * Z).sum(axis=1) / _STEP,
    )


Contrast = Literal["rex", "st", "lorentz"]

#: Relative difference of field, amplitude or duration up to which a calibration applies to a scan.
_PROTOCOL_TOLERANCE = 0.1
#: Units of the protocol of a calibration, by the sidecar's key.
PROTOCOL_UNITS = {"MagneticFieldStrength": "T", "SaturationB1uT": "uT", "SaturationTimeS": "s"}
#: Relative amplitudes B1 between which the curves are interpolated.
_RELATIVE_B1 = np.arange(0.5, 1.51, 0.1)


def compute_contrast(Z_agent: Array, Z_reference: Array, kind: Contrast) -> Array:
    """Compute the contrast of an agent from the signals at its frequency and at the reference.

    ``rex`` is 1/Z - 1/Z_ref, which is free of direct saturation (Zaiss 2014, NMR Biomed 27:240).
    ``st`` is Z_ref - Z, which is MTRasym where the reference is the mirrored frequency.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 / Z_agent - 1 / Z_reference if kind == "rex" else Z_reference - Z_agent)


@dataclass(frozen=True)
class CalibrationModel:
    """Noise-free spectra under the assumptions of a calibration.

    Attributes:
        spectra: function of series (0, or 1 for the second contrast), offsets from water
            ``(n, o)`` in ppm, pH ``(n,)`` and presence of the agent to Z ``(n, o)``.
        log_ratio: ln of the ratio of the calibration at nominal amplitude, as a function of pH.
    """

    spectra: Callable[[int, Array, Array, bool], Array]
    log_ratio: Callable[[Array], Array]


@dataclass(frozen=True)
class PhCalibration:
    """A calibration from the ratio of two contrasts to pH.

    Attributes:
        invert: ``(ratio, relative B1)`` to pH and d pH / d ln ratio; NaN outside its range.
        lowest: lower limit of pH.
        highest: upper limit of pH.
        source: description for the report.
        contrast: definition of the contrasts.
        std: standard deviation of the calibration itself, pH.
        ratio_ppm: frequencies of the contrasts, ppm from water.
        model: spectra of the calibration; None for a published one.
        scan: protocol with which a published calibration was measured, by the sidecar's key.
    """

    invert: Callable[[Array, Array], tuple[Array, Array]]
    lowest: float
    highest: float
    source: str
    contrast: Contrast
    std: float
    ratio_ppm: tuple[float, ...]
    model: CalibrationModel | None = None
    scan: Mapping[str, float] = field(default_factory=dict)

    def describe_protocol_mismatch(self, side: Mapping[str, Any]) -> str | None:
        """A warning if the protocol in a sidecar differs by more than 10 %; None otherwise."""
        stated = {
            k: side[k]
            for k in self.scan
            if isinstance(side.get(k), (int, float)) and not isinstance(side[k], bool)
        }
        wrong = [
            k
            for k, v in stated.items()
            if abs(v - self.scan[k]) > _PROTOCOL_TOLERANCE * self.scan[k] * (1 + 1e-9)
        ]
        if not wrong:
            return None
        measured_with = ", ".join(
            f"{k} {self.scan[k]:g} {PROTOCOL_UNITS[k]} (here {stated[k]:g})" for k in wrong
        )
        return (
            f"Warning: the calibration was measured with {measured_with}: the error of pH may be"
            " larger than stated."
        )


def bloch_calibration(
    agent: CestAgent,
    saturation: Saturation,
    kind: Contrast,
    *,
    second: Saturation | None = None,
    molar: float = 0.03,
    T1_s: float = 2.0,
    T2_s: float = 0.3,
) -> PhCalibration:
    """Compute a calibration by the Bloch-McConnell equations, where the ratio increases with pH.

    A ratio of ``rex`` contrasts is insensitive to concentration and relaxation (to 0.02 pH, by a
    test); it depends on the amplitude.

    Args:
        agent: the contrast agent.
        saturation: of the scan.
        kind: ``rex`` or ``st``.
        second: saturation of the second contrast, for agents with one frequency whose ratio is that
            of two powers (Longo 2014, JACS 136:14333).
        molar: concentration of the agent, M.
        T1_s: longitudinal relaxation time of water, s.
        T2_s: transverse relaxation time of water, s.

    Raises:
        InputError: the ratio does not increase with pH.
    """
    pH = np.arange(5.2, 8.401, 0.025)
    table = np.stack(
        [
            _ratios(agent, (saturation, second or saturation), kind, pH, b, (molar, T1_s, T2_s))
            for b in _RELATIVE_B1
        ]
    )
    whole = table[int(np.argmin(np.abs(_RELATIVE_B1 - 1)))]
    first, last = _find_rising_range(whole)
    if last - first < 4:
        raise InputError(
            "the ratio does not increase with pH under this saturation",
            field="SaturationB1uT, agent",
            found=f"{saturation.B1_uT:g} uT",
            expected="a saturation whose ratio increases with pH",
            remedy="With two powers, give the series of the higher one as `cest`.",
        )
    # the curve of every amplitude has to increase where it is inverted
    logs = np.log(
        np.maximum.accumulate(np.maximum(table[:, first : last + 1], 1e-6), axis=1)
        + 1e-12 * np.arange(last + 1 - first)
    )
    grid = pH[first : last + 1]

    def invert(ratio: Array, B1: Array) -> tuple[Array, Array]:
        """pH and its slope, interpolated between the curves of the two nearest amplitudes."""
        with np.errstate(divide="ignore", invalid="ignore"):
            wanted = np.log(np.where(ratio > 0, ratio, np.nan)).ravel()
        position = np.clip(
            (np.nan_to_num(B1, nan=1.0).ravel() - _RELATIVE_B1[0]) / 0.1,
            0,
            len(_RELATIVE_B1) - 1 - 1e-9,
        )
        i, u = position.astype(int), position - position.astype(int)
        ends = np.stack(
            [
                np.stack(_interpolate_inverse(wanted, logs[j], grid))
                for j in range(len(_RELATIVE_B1))
            ]
        )
        take = np.arange(len(wanted))
        both = (1 - u) * ends[i, :, take].T + u * ends[i + 1, :, take].T
        return both[0].reshape(ratio.shape), both[1].reshape(ratio.shape)

    def spectra(series: int, offsets: Array, pH: Array, with_agent: bool) -> Array:
        one, block = (
            torch.ones(len(pH), dtype=torch.float64),
            (saturation, second or saturation)[series],
        )
        tissue = {"molar": molar * with_agent * one, "T1_s": T1_s * one, "T2_s": T2_s * one}
        return np.asarray(
            simulate_z_spectra(
                agent, block, torch.as_tensor(offsets), pH=torch.as_tensor(pH), **tissue
            ).numpy()
        )

    model = CalibrationModel(
        spectra,
        lambda wanted: np.interp(wanted, grid, logs[int(np.argmin(np.abs(_RELATIVE_B1 - 1)))]),
    )
    powers = f"{saturation.B1_uT:g}" + (f"/{second.B1_uT:g}" if second else "")
    description = (
        f"Bloch-McConnell curve of {agent.name} at {saturation.field_T:g} T, {powers} uT,"
        f" {saturation.seconds:g} s ({kind}, {'/'.join(f'{p:g}' for p in agent.ratio_ppm)} ppm), pH"
        f" {grid[0]:.2f} to {grid[-1]:.2f}"
    )
    return PhCalibration(
        invert,
        float(grid[0]),
        float(grid[-1]),
        description,
        kind,
        value("sd_pHe_calibration"),
        agent.ratio_ppm,
        model,
    )


def _interpolate_inverse(x: Array, logs: Array, grid: Array) -> tuple[Array, Array]:
    """pH ``grid`` as a function of ln ratio, and its slope; NaN outside the range."""
    inside = (x >= logs[0]) & (x <= logs[-1])
    slope = np.gradient(grid, logs)
    return np.where(inside, np.interp(x, logs, grid), np.nan), np.where(
        inside, np.interp(x, logs, slope), np.nan
    )


def _ratios(
    agent: CestAgent,
    saturations: tuple[Saturation, Saturation],
    kind: Contrast,
    pH: Array,
    B1: float,
    tissue: tuple[float, float, float],
) -> Array:
    """First contrast over second at every pH; ``tissue``: concentration (M), T1 and T2 (s)."""
    one = torch.ones(len(pH), dtype=torch.float64)
    molar, T1_s, T2_s = (v * one for v in tissue)
    contrasts = []
    for saturation, ppm in zip(saturations, (agent.ratio_ppm[0], agent.ratio_ppm[-1]), strict=True):
        offsets = torch.tensor([ppm, -ppm], dtype=torch.float64)
        Z = simulate_z_spectra(
            agent,
            saturation,
            offsets,
            pH=torch.as_tensor(pH),
            molar=molar,
            T1_s=T1_s,
            T2_s=T2_s,
            B1=B1 * one,
        ).numpy()
        contrasts.append(compute_contrast(Z[:, 0], Z[:, 1], kind))
    return np.asarray(contrasts[0] / contrasts[1])


def _find_rising_range(ratio: Array) -> tuple[int, int]:
    """The longest range over which a curve increases by more than 0.5 % a step."""
    up = np.diff(np.log(np.maximum(ratio, 1e-12))) > 0.005
    best, start = (0, 0), None
    for i, u in enumerate([*up, False]):
        if u and start is None:
            start = i
        elif not u and start is not None:
            if i - start > best[1] - best[0]:
                best = (start, i)
            start = None
    return best


def _pagel(ratio: Array, B1: Array) -> tuple[Array, Array]:
    """The linear calibration of Pagel's group, in log10 of the ratio."""
    with np.errstate(divide="ignore", invalid="ignore"):
        pH = 0.7813 * np.log10(np.where(ratio > 0, ratio, np.nan)) + 6.3277
    inside = (pH >= 5.9) & (pH <= 7.0)
    return np.where(inside, pH, np.nan), np.where(inside, 0.7813 / np.log(10), np.nan)


#: Published calibrations, each for the contrast and the protocol with which it was measured; their
#: errors are those on phantoms of another laboratory.
PUBLISHED_CALIBRATIONS = {
    "pagel-7T-3uT": PhCalibration(
        _pagel,
        5.9,
        7.0,
        "Pagel's linear calibration of 30 mM iopamidol, Lorentzian peaks, 7 T, 3 uT, 6 s, 37 C "
        "(pH = 0.7813 log10 r + 6.3277, RMSE 0.074; seven tubes of pH 6.0 to 6.9)",
        "lorentz",
        value("sd_pHe_pagel"),
        (4.2, 5.6),
        scan={"MagneticFieldStrength": 7.0, "SaturationB1uT": 3.0, "SaturationTimeS": 6.0},
    )
}
