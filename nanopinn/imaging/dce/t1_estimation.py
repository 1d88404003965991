"""T1 from inversion recovery: ``S(TI) = |a + b exp(-TI/T1)|`` (Barral 2010, MRM 64:1057).

Three free numbers, so neither a perfect inversion nor a long TR is assumed. Magnitude images have
lost their sign: every place of the zero crossing is tried, and the best is kept.

T1 from a set of spoiled gradient echoes with several flip angles.

Linear: S/sin a is linear in S/tan a with slope E1 (Gupta 1977; Deoni 2003). Non-linear:
Gauss-Newton on the signal itself from there, because the linear form weights the noise wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

Array = NDArray[np.float64]

#: T1 is sought among these, then refined between them, s.
_GRID = np.geomspace(0.03, 8.0, 160)
_BATCH_SIZE = 4096


def fit_inversion_recovery(signals: Array, inversion_times_s: Array) -> T1Fit:
    """T1 of every voxel by separable least squares.

    Args:
        signals: magnitudes ``(..., TI)``, at least four inversion times.
        inversion_times_s: ``(TI,)``.
    """
    S = np.asarray(signals, dtype=np.float64)
    order = np.argsort(inversion_times_s)
    flat, TI = (
        S.reshape(-1, S.shape[-1])[:, order],
        np.asarray(inversion_times_s, dtype=np.float64)[order],
    )
    parts = [_fit(flat[i : i + _BATCH_SIZE], TI) for i in range(0, len(flat), _BATCH_SIZE)]
    T1, sd, M0, rss = (np.concatenate(p) for p in zip(*parts, strict=True))
    valid = np.isfinite(flat).all(1) & (flat.max(1) > 0) & (_GRID[0] < T1) & (_GRID[-1] > T1)
    noise = np.sqrt(pooled_variance(rss, len(TI) - 3, valid))
    shape = S.shape[:-1]
    return T1Fit(*(np.where(valid, a, np.nan).reshape(shape) for a in (T1, sd * noise, M0)))


def _fit(S: Array, TI: Array) -> tuple[Array, Array, Array, Array]:
    S = np.nan_to_num(S)
    best, which, sign = (
        np.full(len(S), np.inf),
        np.zeros(len(S), dtype=int),
        np.zeros(len(S), dtype=int),
    )
    signs = np.where(np.arange(len(TI))[None] < np.arange(len(TI) + 1)[:, None], -1.0, 1.0)
    for k, s in enumerate(signs):
        costs = np.stack([_residual(S * s, TI, T1)[0] for T1 in _GRID])
        i = costs.argmin(axis=0)
        cost = costs[i, np.arange(len(S))]
        better = cost < best
        best, which, sign = (
            np.where(better, cost, best),
            np.where(better, i, which),
            np.where(better, k, sign),
        )
    signed = S * signs[sign]
    T1 = _GRID[which]
    for _ in range(12):
        T1 = np.clip(T1 * np.exp(np.clip(_step(signed, TI, T1), -0.1, 0.1)), _GRID[0], _GRID[-1])
    rss, a, b = _residual(signed, TI, T1[:, None])
    return T1, T1 * _log_sd(TI, T1, b), np.abs(a), rss


def _residual(S: Array, TI: Array, T1: Array | float) -> tuple[Array, Array, Array]:
    """Sum of squares, a and b of the best line through ``(exp(-TI/T1), S)``."""
    x = np.broadcast_to(np.exp(-TI / T1), S.shape)
    xm, ym = x.mean(-1, keepdims=True), S.mean(-1, keepdims=True)
    b = ((x - xm) * (S - ym)).sum(-1) / np.maximum(((x - xm) ** 2).sum(-1), 1e-30)
    a = ym[:, 0] - b * xm[:, 0]
    return ((S - a[:, None] - b[:, None] * x) ** 2).sum(-1), a, b


def _projected_derivative(TI: Array, T1: Array, b: Array) -> Array:
    """Derivative of the signal by log T1, freed of what a and b can do, ``(n, TI)``."""
    x = np.exp(-TI / T1[:, None])
    d = b[:, None] * x * TI / T1[:, None]
    for basis in (np.ones_like(x), x - x.mean(-1, keepdims=True)):
        d = d - basis * ((d * basis).sum(-1) / np.maximum((basis**2).sum(-1), 1e-30))[:, None]
    return np.asarray(d)


def _step(S: Array, TI: Array, T1: Array) -> Array:
    _, a, b = _residual(S, TI, T1[:, None])
    r = S - a[:, None] - b[:, None] * np.exp(-TI / T1[:, None])
    d = _projected_derivative(TI, T1, b)
    return np.asarray((d * r).sum(-1) / np.maximum((d**2).sum(-1), 1e-30))


def _log_sd(TI: Array, T1: Array, b: Array) -> Array:
    return np.asarray(
        1 / np.sqrt(np.maximum((_projected_derivative(TI, T1, b) ** 2).sum(-1), 1e-30))
    )


T1FitMethod = Literal["nonlinear", "linear"]

#: No tissue or tube in an MR scanner is outside, s.
MIN_T1_S, MAX_T1_S = 0.01, 10.0


@dataclass(frozen=True)
class T1Fit:
    """T1 (s) and M0, ``(...)``, NaN where no T1 fits; the standard deviation of T1, NaN where the
    set leaves no residual.
    """

    T1: Array
    T1_std: Array
    M0: Array


def fit_variable_flip_angles_linear(
    signals: Array, flips_deg: Array, TR_s: float
) -> tuple[Array, Array]:
    """T1 and M0 by the linear form; ``signals`` is ``(..., flip)``."""
    a = np.deg2rad(flips_deg)
    y, x = signals / np.sin(a), signals / np.tan(a)
    xm, ym = x.mean(-1, keepdims=True), y.mean(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        E1 = ((x - xm) * (y - ym)).sum(-1) / ((x - xm) ** 2).sum(-1)
        M0 = (ym[..., 0] - E1 * xm[..., 0]) / (1 - E1)
        T1 = np.where((E1 > 0) & (E1 < 1), -TR_s / np.log(np.clip(E1, 1e-300, None)), np.nan)
    return T1, M0


def fit_variable_flip_angles(
    signals: Array,
    flips_deg: Array,
    TR_s: float,
    *,
    method: T1FitMethod = "nonlinear",
    iterations: int = 30,
) -> T1Fit:
    """T1 and M0 of every voxel by least squares.

    Args:
        signals: ``(..., flip)``, at least two flips.
        flips_deg: ``(flip,)`` or ``(..., flip)``, the true ones (nominal times B1).
        TR_s: excitation TR, common to all.
    """
    S = np.asarray(signals, dtype=np.float64)
    T1, M0 = fit_variable_flip_angles_linear(S, flips_deg, TR_s)
    usable = np.isfinite(S).all(-1) & (S > 0).all(-1) & np.isfinite(np.asarray(flips_deg)).all(-1)
    if method == "linear":
        usable &= np.isfinite(T1)
    T1 = np.where(np.isfinite(T1), np.clip(T1, MIN_T1_S, MAX_T1_S), 1.0)
    # scale free: logs keep both positive
    theta = np.stack(
        [np.log(T1), np.log(np.where(M0 > 0, M0, np.abs(S).max(-1) * 10 + 1e-300))], axis=-1
    )
    damping = np.full(T1.shape, 1e-3)
    f, J = _model(theta, flips_deg, TR_s)
    cost = ((S - f) ** 2).sum(-1)
    for _ in range(iterations if method == "nonlinear" else 0):
        step = _damped_step(J, S - f, damping)
        trial = theta + np.clip(step, -1.0, 1.0)
        f_trial, J_trial = _model(trial, flips_deg, TR_s)
        cost_trial = ((S - f_trial) ** 2).sum(-1)
        better = cost_trial <= cost
        theta = np.where(better[..., None], trial, theta)
        f, J = (
            np.where(better[..., None], f_trial, f),
            np.where(better[..., None, None], J_trial, J),
        )
        cost = np.where(better, cost_trial, cost)
        damping = np.where(better, damping / 5, damping * 10)
    T1 = np.exp(theta[..., 0])
    valid = usable & (T1 > MIN_T1_S) & (T1 < MAX_T1_S)
    noise = np.sqrt(pooled_variance(cost, S.shape[-1] - 2, valid))
    return T1Fit(
        np.where(valid, T1, np.nan),
        np.where(valid, T1 * noise * _log_sd_vfa(J), np.nan),
        np.where(valid, np.exp(theta[..., 1]), np.nan),
    )


def pooled_variance(rss: Array, freedom: int, valid: NDArray[np.bool_]) -> Array:
    """Noise variance from the residuals of a few images, each voxel's averaged with the typical
    one, ``(...)``.

    With one or two degrees of freedom a voxel's own residual is often near zero by chance. NaN
    without any.
    """
    if freedom < 1 or not valid.any():
        return np.full(rss.shape, np.nan)
    typical = float(np.median(rss[valid])) / float(chi2.median(freedom))
    return np.asarray((rss + 3 * typical) / (freedom + 3))


def _model(theta: Array, flips_deg: Array, TR_s: float) -> tuple[Array, Array]:
    a = np.deg2rad(flips_deg)
    T1, M0 = np.exp(theta[..., 0, None]), np.exp(np.clip(theta[..., 1, None], -300, 300))
    E1 = np.exp(-TR_s / T1)
    bottom = 1 - E1 * np.cos(a)
    f = M0 * np.sin(a) * (1 - E1) / bottom
    dE1 = E1 * TR_s / T1  # dE1 / dlogT1
    by_T1 = M0 * np.sin(a) * (np.cos(a) - 1) / bottom**2 * dE1
    return f, np.stack([by_T1, f], axis=-1)


def _normal(J: Array) -> tuple[Array, Array, Array]:
    return (J[..., 0] ** 2).sum(-1), (J[..., 0] * J[..., 1]).sum(-1), (J[..., 1] ** 2).sum(-1)


def _damped_step(J: Array, r: Array, damping: Array) -> Array:
    a, b, c = _normal(J)
    g0, g1 = (J[..., 0] * r).sum(-1), (J[..., 1] * r).sum(-1)
    a, c = a * (1 + damping), c * (1 + damping)
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.stack([c * g0 - b * g1, a * g1 - b * g0], axis=-1) / (a * c - b * b)[..., None]
    return np.nan_to_num(step, nan=0.0, posinf=0.0, neginf=0.0)


def _log_sd_vfa(J: Array) -> Array:
    """Standard deviation of log T1 per unit of noise."""
    a, b, c = _normal(J)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(np.sqrt(c / (a * c - b * b)))
