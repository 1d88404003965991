"""T1 from inversion recovery: ``S(TI) = |a + b exp(-TI/T1)|`` (Barral 2010, MRM 64:1057).

Three free numbers, so neither a perfect inversion nor a long TR is assumed. Magnitude images have lost their sign:
every place of the zero crossing is tried, and the best is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.t1.vfa import T1Fit, pooled_variance

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
