"""Where water is and what an agent adds at a frequency, each with its derivative by every value of the spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.cest.ratio import Contrast, compute_contrast
from nanopinn.imaging.cest.spectrum import SplineSmoother

Array = NDArray[np.float64]

#: Water is sought within this of 0, ppm.
B0_WINDOW_PPM = 1.2
_WATER_STEP, _STEP = 0.01, 0.02


@dataclass(frozen=True)
class WaterOffset:
    """Where water is, ppm, ``(n,)``, NaN where it was not found; ``slope``: its derivative by the spectrum, ``(n, o)``, 0 if given."""

    ppm: Array
    slope: Array


@dataclass(frozen=True)
class AgentContrast:
    """A contrast ``(n,)``, and its derivatives by the spectra it was made of and by those of the series before injection, ``(n, o)``."""

    value: Array
    slope: Array
    slope_before: Array


def estimate_water_offset(Z: Array, smoother: SplineSmoother) -> WaterOffset:
    """Minimum of the smoothed spectra near 0 ppm; NaN where the lowest place is at the edge of the window."""
    grid = np.arange(-B0_WINDOW_PPM, B0_WINDOW_PPM + _WATER_STEP / 2, _WATER_STEP)
    rows = smoother.interpolation_matrix(grid)
    curves = Z @ rows.T
    i = curves.argmin(axis=1)
    inner = np.clip(i, 1, len(grid) - 2)
    n = np.arange(len(Z))
    left, middle, right = curves[n, inner - 1], curves[n, inner], curves[n, inner + 1]
    bend = left - 2 * middle + right
    sharp = np.where(bend > 0, bend, 1.0)
    shift = grid[inner] + _WATER_STEP / 2 * (left - right) / sharp
    slope = _WATER_STEP / 2 * (rows[inner - 1] - rows[inner + 1]) / sharp[:, None]
    return WaterOffset(np.where((i > 0) & (i < len(grid) - 1) & (bend > 0), shift, np.nan), slope)


def agent_contrast(
    Z: Array,
    smoother: SplineSmoother,
    ppm: float,
    kind: Contrast,
    water: WaterOffset,
    before: Array | None,
) -> AgentContrast:
    """Contrast at a frequency against the mirrored one, or against the series before injection ``(n, o)``."""
    at, weights, rise = _interpolate_spectrum(Z, smoother, water.ppm + ppm)
    other = Z if before is None else before
    reference, weights_ref, rise_ref = _interpolate_spectrum(
        other, smoother, water.ppm + (-ppm if before is None else ppm)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        by_at, by_ref = (
            (-(at**-2), reference**-2) if kind == "rex" else (-np.ones_like(at), np.ones_like(at))
        )
    moved = (by_at * rise + by_ref * rise_ref)[:, None] * water.slope
    own, others = by_at[:, None] * weights + moved, by_ref[:, None] * weights_ref
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
    """Smoothed value at a place of its own in every spectrum, its weights of the spectrum's values, and its rise per ppm."""
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
