"""Interstitial flow (Darcy and Starling) and solute exchange through the vessel wall.

Flow::

    u = -K grad p,    div u = J_v - J_L
    J_v = Lp S/V (p_e - p),    J_L = LpL SL/V (p - p_L),    p_e = p_v - sigma_T (pi_v - pi_i)

Images identify these only through the hydraulic length ``l = sqrt(K / (Lp S/V))`` and the maximum
filtration rate ``q = Lp S/V p_e``: the scaling (K, Lp, p_e) -> (a K, a Lp, p_e/a) leaves every flux
unchanged.

Exchange by diffusion and solvent drag::

    Phi = PS/V (C_v - C) Pe/(e^Pe - 1) + J_v+ (1 - sigma) C_v - J_v- (1 - sigma) C
    Pe = |J_v| (1 - sigma) / (PS/V)

The formula is linear in both concentrations and holds for filtration (J_v > 0) and for reabsorption
(J_v < 0). With a signed Pe the factor Pe/(e^Pe - 1) would already contain the reabsorbed flux, and
it would be counted twice.

References:
    Baxter and Jain, Microvasc. Res. 37:77 (1989): flow.
    Patlak, Goldstein and Hoffman, J. Theor. Biol. 5:426 (1963): exchange.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.errors import InputError


@dataclass(frozen=True)
class FlowCoefficients:
    """Coefficients of ``-div(K grad p) = LpSV (p_e - p) - LpLSL (p - p_L)``, tensors ``(x, y, z)``.

    Attributes:
        K: hydraulic conductivity, m2/(Pa s).
        LpSV: hydraulic conductivity of the vessel wall times S/V, 1/(Pa s).
        p_e: driving pressure, Pa.
        LpLSL: hydraulic conductivity of the lymphatics times SL/V, 1/(Pa s).
        p_L: pressure in the lymphatics, Pa.
        p_inf: pressure on the boundary of the box, except on its faces ``cut``, Pa.
        cut: faces of the box that cut the tumour, as (axis, side) with side 0 or 1.
        inflow: velocity of the fluid into the box through its cut faces, m/s, read at the cells
            there; 0 if None.
    """

    K: Tensor
    LpSV: Tensor
    p_e: Tensor
    LpLSL: Tensor
    p_L: float
    p_inf: float
    cut: tuple[tuple[int, int], ...] = ()
    inflow: Tensor | None = None

    def validate(self) -> FlowCoefficients:
        """Return self after validation.

        Raises:
            InputError: a coefficient is not finite, the conductivity is not positive or a
                filtration coefficient is negative.
        """
        for name in ("K", "LpSV", "p_e", "LpLSL"):
            values: Tensor = getattr(self, name)
            if not bool(torch.isfinite(values).all()):
                raise InputError(
                    "a coefficient of the flow is not finite",
                    field=name,
                    remedy="Look for NaN in the maps.",
                )
            low = float(values.min())
            if name != "p_e" and (low < 0 or (name == "K" and low == 0)):
                raise InputError(
                    "a coefficient of the flow has the wrong sign",
                    field=name,
                    found=low,
                    expected="above 0",
                )
        return self


def filtration_rate(LpSV: Tensor, p_e: Tensor, p: Tensor) -> Tensor:
    """Filtration out of the vessels, ``J_v = Lp S/V (p_e - p)``, 1/s.

    Args:
        LpSV: hydraulic conductivity of the vessel wall times S/V, 1/(Pa s).
        p_e: driving pressure, Pa.
        p: interstitial pressure, Pa.
    """
    return LpSV * (p_e - p)


def lymphatic_drainage(LpLSL: Tensor, p: Tensor, p_L: float) -> Tensor:
    """Drainage by the lymphatics, ``J_L = LpL SL/V (p - p_L)``, 1/s.

    Args:
        LpLSL: hydraulic conductivity of the lymphatics times SL/V, 1/(Pa s); 0 where there are
            none.
        p: interstitial pressure, Pa.
        p_L: pressure in the lymphatics, Pa.
    """
    return LpLSL * (p - p_L)


def bernoulli(x: Tensor) -> Tensor:
    """Bernoulli function ``x / (e^x - 1)``, smooth through 0 and without overflow.

    Args:
        x: any shape.

    Returns:
        1 at 0, and 0 in the limit of large x.
    """
    small = x.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(x), x.clamp(-700.0, 700.0))
    return torch.where(small, 1.0 - x / 2 + x * x / 12, safe / torch.expm1(safe))


def exchange_coefficients(PS: Tensor, J_v: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
    """Coefficients of the flux through the vessel wall, ``Phi = a C_v - b C``.

    Args:
        PS: permeability times surface per tissue volume, 1/s; 0 for an impermeable wall.
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
    """PS/V of a small solute whose measured transfer constant includes solvent drag, 1/s.

        PS = J_v / -ln(1 - J_v / Ktrans)

    This solves ``Ktrans = PS Pe/(e^Pe - 1) + J_v`` with sigma = 0. A Tofts fit cannot separate the
    two terms.

    Args:
        Ktrans: measured volume transfer constant, 1/s.
        J_v: filtration, 1/s; at most 99.9 % of Ktrans counts as drag.
    """
    share = (J_v / Ktrans).clamp(0.0, 0.999)
    small = share < 1e-6
    safe = torch.where(small, torch.full_like(share, 0.5), share)
    return Ktrans * torch.where(small, 1.0 - share / 2, safe / -torch.log1p(-safe))
