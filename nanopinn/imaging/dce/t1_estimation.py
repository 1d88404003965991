"""Native T1 from a variable-flip-angle set or from inversion recovery, voxel by voxel.

Variable flip angles: ``S = M0 sin a (1 - E1) / (1 - E1 cos a)`` with ``E1 = exp(-TR/T1)``. In the
linear form, S/sin a against S/tan a has the slope E1 (Gupta 1977; Deoni 2003); the non-linear fit
starts there, because the linear form weights the noise wrongly.

Inversion recovery: ``S(TI) = |a + b exp(-TI/T1)|`` (Barral 2010, MRM 64:1057). With three free
parameters neither a perfect inversion nor a long TR is assumed. Magnitude images have lost their
sign, so every position of the zero crossing is tried, and the best is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor

from nanopinn.imaging.least_squares import (
    Bounds,
    CurveFunction,
    LeastSquaresFit,
    fit_levenberg_marquardt,
    invert_normal_matrix,
)

Array = NDArray[np.float64]
T1FitMethod = Literal["nonlinear", "linear"]

#: No tissue or tube in an MR scanner is outside, s.
MIN_T1_S, MAX_T1_S = 0.01, 10.0
#: T1 of the grid search of inversion recovery, s.
_GRID = np.geomspace(0.03, 8.0, 160)
#: Voxels of one batch of inversion recovery.
_BATCH_SIZE = 4096
#: Largest number of Levenberg-Marquardt steps.
_ITERATIONS = 60
#: Weight of the typical voxel's variance against one degree of freedom of a voxel's own.
_TYPICAL_WEIGHT = 3


@dataclass(frozen=True)
class T1Fit:
    """T1 of every voxel, NaN where none fits.

    Attributes:
        T1: s, ``(...)``.
        T1_std: its standard deviation, s; NaN where the set leaves no residual.
        M0: signal at full relaxation and 90 degrees, unit of the signal.
    """

    T1: Array
    T1_std: Array
    M0: Array


def fit_variable_flip_angles_linear(
    signals: Array, flips_deg: Array, TR_s: float
) -> tuple[Array, Array]:
    """T1 and M0 by the linear form.

    Args:
        signals: ``(..., flip)``.
        flips_deg: true flip angles, degrees, ``(flip,)`` or ``(..., flip)``.
        TR_s: excitation TR, s.

    Returns:
        T1 (s), NaN where the slope is not between 0 and 1, and M0, ``(...)`` each.
    """
    a = np.deg2rad(flips_deg)
    y, x = signals / np.sin(a), signals / np.tan(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        E1, intercept = _regress(x, y)
        M0 = intercept / (1 - E1)
        T1 = np.where((E1 > 0) & (E1 < 1), -TR_s / np.log(np.clip(E1, 1e-300, None)), np.nan)
    return T1, M0


def fit_variable_flip_angles(
    signals: Array, flips_deg: Array, TR_s: float, *, method: T1FitMethod = "nonlinear"
) -> T1Fit:
    """T1 and M0 of every voxel by least squares.

    Args:
        signals: ``(..., flip)``, at least two flip angles.
        flips_deg: true flip angles (nominal times B1), degrees, ``(flip,)`` or ``(..., flip)``.
        TR_s: excitation TR common to all, s.
        method: ``nonlinear``, or ``linear`` for the linear form alone.
    """
    S = np.asarray(signals, dtype=np.float64)
    T1, M0 = fit_variable_flip_angles_linear(S, flips_deg, TR_s)
    usable = np.isfinite(S).all(-1) & (S > 0).all(-1) & np.isfinite(np.asarray(flips_deg)).all(-1)
    if method == "linear":
        usable &= np.isfinite(T1)
    T1 = np.where(np.isfinite(T1), np.clip(T1, MIN_T1_S, MAX_T1_S), 1.0)
    M0 = np.where(M0 > 0, M0, np.abs(S).max(-1) * 10 + 1e-300)
    # logarithms keep both positive and make the fit independent of the unit of the signal
    start = torch.as_tensor(np.stack([np.log(T1), np.log(M0)], axis=-1).reshape(-1, 2))
    # wider than the range of valid T1, so that a fit that leaves it is recognised
    limits = (
        torch.tensor([np.log(MIN_T1_S) - 1.0, -300.0]),
        torch.tensor([np.log(MAX_T1_S) + 1.0, 300.0]),
    )
    end = _fit_curves(
        _spoiled_gradient_echo(np.broadcast_to(flips_deg, S.shape), TR_s),
        S.reshape(-1, S.shape[-1]),
        start,
        Bounds(*(v.to(torch.float64) for v in limits)),
        usable.reshape(-1),
        _ITERATIONS if method == "nonlinear" else 0,
    )
    log_T1, log_M0 = (end.theta[:, i].numpy().reshape(S.shape[:-1]) for i in (0, 1))
    T1 = np.exp(log_T1)
    valid = usable & (T1 > MIN_T1_S) & (T1 < MAX_T1_S)
    rss = end.cost.numpy().reshape(T1.shape)
    noise = np.sqrt(pooled_variance(rss, S.shape[-1] - 2, valid))
    sd = T1 * noise * _sd_of_log_t1(end).reshape(T1.shape)
    return T1Fit(*(np.where(valid, v, np.nan) for v in (T1, sd, np.exp(log_M0))))


def fit_inversion_recovery(signals: Array, inversion_times_s: Array) -> T1Fit:
    """T1 of every voxel by least squares, from the best point of a grid search.

    Args:
        signals: magnitudes ``(..., TI)``, at least four inversion times.
        inversion_times_s: ``(TI,)``, s.
    """
    S = np.asarray(signals, dtype=np.float64)
    TI = np.asarray(inversion_times_s, dtype=np.float64)
    order = np.argsort(TI)
    flat, TI = S.reshape(-1, S.shape[-1])[:, order], TI[order]
    batches = range(0, len(flat), _BATCH_SIZE)
    parts = [_fit_inversion_batch(flat[i : i + _BATCH_SIZE], TI) for i in batches]
    T1, sd, M0, rss = (np.concatenate(p) for p in zip(*parts, strict=True))
    valid = np.isfinite(flat).all(1) & (flat.max(1) > 0) & (_GRID[0] < T1) & (_GRID[-1] > T1)
    noise = np.sqrt(pooled_variance(rss, len(TI) - 3, valid))
    return T1Fit(*(np.where(valid, v, np.nan).reshape(S.shape[:-1]) for v in (T1, sd * noise, M0)))


def pooled_variance(rss: Array, freedom: int, valid: NDArray[np.bool_]) -> Array:
    """Noise variance from the residuals of a few images, shrunk to the typical voxel's.

    With one or two degrees of freedom a voxel's own residual is often near zero by chance.

    Args:
        rss: sum of squared residuals, ``(...)``.
        freedom: degrees of freedom of each.
        valid: voxels that define the typical one, ``(...)``.

    Returns:
        ``(...)``; NaN without any degree of freedom.
    """
    if freedom < 1 or not valid.any():
        return np.full(rss.shape, np.nan)
    typical = float(np.median(rss[valid])) / float(chi2.median(freedom))
    return np.asarray((rss + _TYPICAL_WEIGHT * typical) / (freedom + _TYPICAL_WEIGHT))


def _regress(x: Array, y: Array) -> tuple[Array, Array]:
    """Slope and intercept of the regression of y on x over the last axis."""
    xm, ym = x.mean(-1, keepdims=True), y.mean(-1, keepdims=True)
    slope = ((x - xm) * (y - ym)).sum(-1) / ((x - xm) ** 2).sum(-1)
    return slope, ym[..., 0] - slope * xm[..., 0]


def _fit_curves(
    curves: CurveFunction,
    data: Array,
    start: Tensor,
    bounds: Bounds,
    usable: NDArray[np.bool_],
    iterations: int,
) -> LeastSquaresFit:
    return fit_levenberg_marquardt(
        curves, torch.as_tensor(data), start, bounds, torch.as_tensor(usable), None, iterations
    )


def _sd_of_log_t1(end: LeastSquaresFit) -> Array:
    """Standard deviation of log T1, the first parameter, per unit of noise, ``(n,)``."""
    J = torch.nan_to_num(end.J)
    return np.asarray(invert_normal_matrix(J @ J.transpose(1, 2))[:, 0, 0].sqrt().numpy())


def _spoiled_gradient_echo(flips_deg: Array, TR_s: float) -> CurveFunction:
    """Signal of log T1 and log M0 at the flip angles ``(..., flip)`` of every voxel."""
    angle = torch.as_tensor(np.deg2rad(flips_deg).reshape(-1, flips_deg.shape[-1]))

    def curves(theta: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        a, T1, M0 = angle[which], theta[:, :1].exp(), theta[:, 1:].exp()
        E1 = torch.exp(-TR_s / T1)
        bottom = 1 - E1 * a.cos()
        f = M0 * a.sin() * (1 - E1) / bottom
        by_log_T1 = M0 * a.sin() * (a.cos() - 1) / bottom**2 * E1 * TR_s / T1
        return f, torch.stack([by_log_T1, f], dim=1)

    return curves


def _inversion_recovery(TI: Tensor) -> CurveFunction:
    """``a + b exp(-TI/T1)`` of log T1, a and b."""

    def curves(theta: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        T1, b = theta[:, :1].exp(), theta[:, 2:]
        decay = torch.exp(-TI / T1)
        by_log_T1 = b * decay * TI / T1
        return theta[:, 1:2] + b * decay, torch.stack(
            [by_log_T1, torch.ones_like(decay), decay], dim=1
        )

    return curves


def _fit_inversion_batch(S: Array, TI: Array) -> tuple[Array, Array, Array, Array]:
    """T1, its standard deviation per unit of noise, M0 and the residual sum of squares."""
    S = np.nan_to_num(S)
    largest = np.abs(S).max(axis=1)
    unit = np.where(largest > 0, largest, 1.0)
    signed, T1 = _search_grid(S / unit[:, None], TI)
    x = np.exp(-TI / T1[:, None])
    b, a = _regress(x, signed)
    log_grid = np.log(_GRID[[0, -1]])
    end = _fit_curves(
        _inversion_recovery(torch.as_tensor(TI)),
        signed,
        torch.as_tensor(np.stack([np.log(T1), a, b], axis=1)),
        Bounds(
            *(
                torch.tensor([t, s, s], dtype=torch.float64)
                for t, s in zip(log_grid, (-1e6, 1e6), strict=True)
            )
        ),
        largest > 0,
        _ITERATIONS,
    )
    T1 = np.exp(end.theta[:, 0].numpy())
    M0 = end.theta[:, 1].abs().numpy() * unit
    return T1, T1 * _sd_of_log_t1(end) / unit, M0, end.cost.numpy() * unit**2


def _search_grid(S: Array, TI: Array) -> tuple[Array, Array]:
    """Signals with the signs, and T1 of the grid, of the smallest residual."""
    best = np.full(len(S), np.inf)
    which, sign = np.zeros(len(S), dtype=int), np.zeros(len(S), dtype=int)
    signs = np.where(np.arange(len(TI))[None] < np.arange(len(TI) + 1)[:, None], -1.0, 1.0)
    for k, s in enumerate(signs):
        costs = np.stack([_residual(S * s, np.exp(-TI / T1)) for T1 in _GRID])
        i = costs.argmin(axis=0)
        cost = costs[i, np.arange(len(S))]
        better = cost < best
        best = np.where(better, cost, best)
        which, sign = np.where(better, i, which), np.where(better, k, sign)
    return S * signs[sign], _GRID[which]


def _residual(S: Array, x: Array) -> Array:
    """Sum of squares that the best line through ``(x, S)`` leaves, ``(n,)``."""
    b, a = _regress(np.broadcast_to(x, S.shape), S)
    return np.asarray(((S - a[:, None] - b[:, None] * x) ** 2).sum(-1))
