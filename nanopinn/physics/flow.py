"""Interstitial flow: Starling filtration through the vessel wall, lymphatic drainage, Darcy's law.

    u = -K grad p,    div u = J_v - J_L
    J_v = Lp S/V (p_e - p),    J_L = LpL SL/V (p - p_L)

Source: Baxter and Jain, Microvasc. Res. 37:77 (1989). ``p_e = p_v - sigma_T (pi_v - pi_i)``.
Images see these only through the length ``l = sqrt(K / (Lp S/V))`` and the rate ``q = Lp S/V p_e``:
the scaling (K, Lp, p_e) -> (a K, a Lp, p_e/a) leaves every flux unchanged.
"""

from __future__ import annotations

from torch import Tensor


def filtration_rate(LpSV: Tensor, p_e: Tensor, p: Tensor) -> Tensor:
    """Fluid that leaves the vessels, ``J_v = Lp S/V (p_e - p)``, 1/s (LpSV in 1/(Pa s), pressures in Pa)."""
    return LpSV * (p_e - p)


def lymphatic_drainage(LpLSL: Tensor, p: Tensor, p_L: float) -> Tensor:
    """Fluid that the lymphatics take, ``J_L = LpL SL/V (p - p_L)``, 1/s; zero where there are none."""
    return LpLSL * (p - p_L)


def hydraulic_length(K: Tensor, LpSV: Tensor) -> Tensor:
    """Thickness of the rim that drains the tumour, ``l = sqrt(K / (Lp S/V))``, m."""
    return (K / LpSV) ** 0.5
