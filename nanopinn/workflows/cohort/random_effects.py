"""Averages over subjects whose values are each known with their own error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RandomEffects:
    """Typical value, its standard error and 95 % interval; variance between subjects."""

    mean: float
    se: float
    low: float
    high: float
    between_variance: float


def random_effects(y: Array, variance: Array) -> RandomEffects:
    """Restricted maximum likelihood in ``y_i = mu + b_i + e_i``, ``b_i ~ N(0, tau2)``, ``e_i ~ N(0, v_i)``.

    With ``w_i = 1/(v_i + tau2)``, ``mu = sum(w y)/sum(w)``, the fixed point
    ``tau2 = sum(w^2 ((y - mu)^2 - v))/sum(w^2) + 1/sum(w)``, cut at 0. The interval is Hartung
    and Knapp's, its variance never below ``1/sum(w)``.

    Args:
        y, variance: estimates and their error variances, ``(n,)``; n is 2 or more.

    Source: Veroniki et al. 2016, Research Synthesis Methods 7, 55 (REML); Hartung and Knapp 2001, Stat. Med. 20, 3875; Rover et al. 2015,
    BMC Med. Res. Methodol. 15, 99 (the floor).
    """
    tau2 = max(0.0, float(np.var(y, ddof=1) - variance.mean()))
    for _ in range(10_000):
        w, before = 1 / (variance + tau2), tau2
        mean = (w * y).sum() / w.sum()
        tau2 = max(
            0.0, float((w**2 * ((y - mean) ** 2 - variance)).sum() / (w**2).sum() + 1 / w.sum())
        )
        if abs(tau2 - before) <= 1e-12 + 1e-10 * tau2:
            break
    w = 1 / (variance + tau2)
    mean = float((w * y).sum() / w.sum())
    spread = float((w * (y - mean) ** 2).sum() / (len(y) - 1))
    se = float(np.sqrt(max(1.0, spread) / w.sum()))
    half_width = float(student.ppf(0.975, len(y) - 1)) * se
    return RandomEffects(mean, se, mean - half_width, mean + half_width, tau2)


def remove_prior(y: float, s: float, prior_y: float, prior_s: float) -> tuple[float, float]:
    """Estimate and standard deviation by the data alone, from a normal posterior and its prior.

    ``1/s_data^2 = 1/s^2 - 1/s_prior^2``, ``y_data = s_data^2 (y/s^2 - y_prior/s_prior^2)``: averaged over n studies as they
    stand, posteriors would count the prior n times.

    Args:
        s: below ``prior_s``.
    """
    precision = 1 / s**2 - 1 / prior_s**2
    return (y / s**2 - prior_y / prior_s**2) / precision, float(precision**-0.5)


def robust_z(y: Array, variance: Array) -> Array:
    """Distance of each subject from the median, over the spread between subjects and its own error.

    ``z_i = (y_i - med)/sqrt(tau2 + v_i)``, ``tau2 = max(0, (1.4826 MAD)^2 - median(v))``: one subject far off does not hide itself.

    Source: Iglewicz and Hoaglin 1993 (modified z by the MAD, threshold 3.5), with the error of each subject beside it.
    """
    centre = np.median(y)
    tau2 = max(0.0, float((1.4826 * np.median(np.abs(y - centre))) ** 2 - np.median(variance)))
    return np.asarray((y - centre) / np.sqrt(tau2 + variance))
