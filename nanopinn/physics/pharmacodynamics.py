"""Three laws of cell kill by doxorubicin; surviving fractions are relative to untreated cells, so that growth cancels.

    peak:  S = 1/(1 + (C_peak/EC50)^m)                        C: drug in cells, kg per 1e5 cells
    rate:  S = exp(-integral f_max C/(EC50 + C) dt)
    area:  S = exp(-integral k_kill F dt)                     F: free drug in the interstitium, kg/m3

Quiescent cells resist by a factor r: their EC50 in the first law is r times as high, their kill rates in the others r times lower.

Source: El-Kareh and Secomb 2003 (peak), Eliaz 2004 (rate), Harashima 1999 (area).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanopinn.physics.values import Number


def peak_survival(C_peak: Tensor, EC50: Number, m: Number) -> Tensor:
    """Surviving fraction by the largest drug in cells, ``1/(1 + (C_peak/EC50)^m)``."""
    return 1 / (1 + (C_peak.clamp_min(0.0) / EC50) ** m)


def kill_rate(C: Tensor, EC50: Number, f_max: Number) -> Tensor:
    """Rate at which drug in cells kills, ``f_max C/(EC50 + C)``, 1/s."""
    C = C.clamp_min(0.0)
    return f_max * C / (EC50 + C)


def kill_rate_of_free(F: Tensor, k_kill: Number) -> Tensor:
    """Rate at which free drug kills, ``k_kill F``, 1/s."""
    return k_kill * F.clamp_min(0.0)


def survival_of_hazard(hazard: Tensor) -> Tensor:
    """Surviving fraction after an integrated kill rate."""
    return torch.exp(-hazard)
