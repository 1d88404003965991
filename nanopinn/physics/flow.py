"""Interstitial flow: Starling filtration through the vessel wall, lymphatic drainage, Darcy's law.

    u = -K grad p,    div u = J_v - J_L
    J_v = Lp S/V (p_e - p),    J_L = LpL SL/V (p - p_L)

Source: Baxter and Jain, Microvasc. Res. 37:77 (1989). ``p_e = p_v - sigma_T (pi_v - pi_i)``.
Images see these only through the length ``l = sqrt(K / (Lp S/V))`` and the rate ``q = Lp S/V p_e``:
the scaling (K, Lp, p_e) -> (a K, a Lp, p_e/a) leaves every flux unchanged.

Solute exchange through the vessel wall by diffusion and solvent drag.

    Phi = PS/V (C_v - C) Pe/(e^Pe - 1) + J_v+ (1 - sigma) C_v - J_v- (1 - sigma) C,
    Pe = |J_v| (1 - sigma) / (PS/V)

Source: Patlak, Goldstein and Hoffman, J. Theor. Biol. 5:426 (1963). The formula is written so that
it is linear in both concentrations and holds for filtration (J_v > 0) and for reabsorption (J_v <
0): with a signed Pe the factor Pe/(e^Pe - 1) would already hold the reabsorbed flux, and count it
twice.
"""

from __future__ import annotations

import torch
from torch import Tensor


def filtration_rate(LpSV: Tensor, p_e: Tensor, p: Tensor) -> Tensor:
    """Fluid that leaves the vessels, ``J_v = Lp S/V (p_e - p)``, 1/s (LpSV in 1/(Pa s), pressures
    in Pa).
    """
    return LpSV * (p_e - p)


def lymphatic_drainage(LpLSL: Tensor, p: Tensor, p_L: float) -> Tensor:
    """Fluid that the lymphatics take, ``J_L = LpL SL/V (p - p_L)``, 1/s; zero where there are none."""
    return LpLSL * (p - p_L)


def hydraulic_length(K: Tensor, LpSV: Tensor) -> Tensor:
    """Thickness of the rim that drains the tumour, ``l = sqrt(K / (Lp S/V))``, m."""
    return (K / LpSV) ** 0.5


def bernoulli(x: Tensor) -> Tensor:
    """``x / (e^x - 1)``, smooth through 0 (value 1) and free of overflow for large x (value 0)."""
    small = x.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(x), x.clamp(-700.0, 700.0))
    return torch.where(small, 1.0 - x / 2 + x * x / 12, safe / torch.expm1(safe))


def exchange_coefficients(PS: Tensor, J_v: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
    """Coefficients of the wall flux ``Phi = a C_v - b C``.

    Args:
        PS: permeability times surface per tissue volume, 1/s; zero means an impermeable wall.
        J_v: filtration, 1/s, of either sign.
        sigma: reflection coefficient, 0 to 1.

    Returns:
        ``a`` and ``b``, 1/s.
    """
    drag = J_v.abs() * (1.0 - sigma)
    floor = torch.finfo(PS.dtype).tiny ** 0.5
    diffusive = PS * bernoulli(drag / PS.clamp_min(floor))
    return diffusive + torch.where(J_v > 0, drag, 0.0), diffusive + torch.where(J_v < 0, drag, 0.0)


def permeability_from_ktrans(Ktrans: Tensor, J_v: Tensor) -> Tensor:
    """PS of a small solute whose measured transfer constant already holds its solvent drag.

    With sigma = 0, influx per plasma concentration is ``Ktrans = PS Pe/(e^Pe - 1) + J_v`` and a
    Tofts fit cannot tell its two parts. Solved for PS: ``PS = J_v / -ln(1 - J_v / Ktrans)``.

    Args:
        Ktrans: measured volume transfer constant, 1/s.
        J_v: filtration, 1/s; at most the whole of Ktrans is taken to be drag.

    Returns:
        PS/V, 1/s.
    """
    share = (J_v / Ktrans).clamp(0.0, 0.999)
    small = share < 1e-6
    safe = torch.where(small, torch.full_like(share, 0.5), share)
    return Ktrans * torch.where(small, 1.0 - share / 2, safe / -torch.log1p(-safe))
