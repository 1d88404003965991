"""Spoiled gradient echo: signal, and its exact inversion to concentration.

S = M0 sin a (1 - E1) / (1 - E1 cos a),    E1 = exp(-TR R1),    R1 = 1/T1 + r1 C
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def signal(M0: Array | float, T1: Array | float, TR_s: float, flip_deg: float | Array) -> Array:
    """Steady-state signal of tissue with T1 (s)."""
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
    """Signal of tissue whose signal without agent is ``baseline``; shapes broadcast."""
    R1 = 1 / T1_s + relaxivity * C_mM
    return np.asarray(
        baseline * signal(1.0, 1 / R1, TR_s, flip_deg) / signal(1.0, T1_s, TR_s, flip_deg)
    )


def concentration_from_signal(
    S: Array, baseline: Array, T1_s: Array, TR_s: float, flip_deg: float | Array, relaxivity: float
) -> Array:
    """Concentration, mM, by exact inversion; NaN where the signal is beyond what any T1 gives (saturation)."""
    a = np.deg2rad(flip_deg)
    E10 = np.exp(-TR_s / T1_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = S / baseline * (1 - E10) / (1 - E10 * np.cos(a))  # = (1 - E1)/(1 - E1 cos a)
        E1 = (1 - ratio) / (1 - ratio * np.cos(a))
        # past saturation E1 turns negative, and past 1 / cos(a) it comes back above 1
        possible = (ratio < 1) & (E1 > 0)
        R1 = np.where(possible, -np.log(np.where(possible, E1, 1.0)) / TR_s, np.nan)
        return np.asarray((R1 - 1 / T1_s) / relaxivity)
