"""T1 from a set of spoiled gradient echoes with several flip angles.

Linear: S/sin a is linear in S/tan a with slope E1 (Gupta 1977; Deoni 2003). Non-linear: Gauss-Newton on the signal
itself from there, because the linear form weights the noise wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

Array = NDArray[np.float64]
T1FitMethod = Literal["nonlinear", "linear"]

#: No tissue or tube in an MR scanner is outside, s.
MIN_T1_S, MAX_T1_S = 0.01, 10.0


@dataclass(frozen=True)
class T1Fit:
    """T1 (s) and M0, ``(...)``, NaN where no T1 fits; the standard deviation of T1, NaN where the set leaves no residual."""

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
        np.where(valid, T1 * noise * _log_sd(J), np.nan),
        np.where(valid, np.exp(theta[..., 1]), np.nan),
    )


def pooled_variance(rss: Array, freedom: int, valid: NDArray[np.bool_]) -> Array:
    """Noise variance from the residuals of a few images, each voxel's averaged with the typical one, ``(...)``.

    With one or two degrees of freedom a voxel's own residual is often near zero by chance. NaN without any.
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


def _log_sd(J: Array) -> Array:
    """Standard deviation of log T1 per unit of noise."""
    a, b, c = _normal(J)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(np.sqrt(c / (a * c - b * b)))
