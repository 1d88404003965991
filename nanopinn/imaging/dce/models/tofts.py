"""Tofts model (Tofts and Kermode 1991, MRM 17:357): ``I(t) = Ktrans exp(-Ktrans/ve t)``."""

from __future__ import annotations

import torch
from torch import Tensor

from nanopinn.imaging.dce.impulse_response import (
    ImpulseResponse,
    InputCurve,
    linear_fit,
    no_derived_quantities,
)

NAME, CAPLEX = "tofts", "M.IC1.004"
NAMES: tuple[str, ...] = ("Ktrans", "ve")
LOWER: tuple[float, ...] = (0.0, 1e-3)
UPPER: tuple[float, ...] = (5.0 / 60, 1.0)
DERIVED: tuple[str, ...] = ()
derived = no_derived_quantities


def impulse_response(parameters: Tensor) -> ImpulseResponse:
    """Ktrans (1/s) and ve, ``(n, 2)``."""
    K, ve = parameters.unbind(1)
    k, zero, one = K / ve, torch.zeros_like(K), torch.ones_like(K)
    jacobian = torch.stack(
        [
            torch.stack([zero, zero], dim=1),
            torch.stack([one, zero], dim=1),
            torch.stack([1 / ve, -k / ve], dim=1),
        ],
        dim=1,
    )
    return ImpulseResponse(zero, K[:, None], k[:, None], jacobian)


def initial_guesses(C: Tensor, curve: InputCurve) -> tuple[Tensor, ...]:
    """Linear least squares (Murase 2004, MRM 51:858): ``C = Ktrans int(Cp) - kep int(C)``."""
    solution = linear_fit(C, [curve.plasma_integral, -curve.integral(C)])
    K, kep = solution[:, 0], solution[:, 1].clamp_min(1e-5)
    return (torch.stack([K, K / kep], dim=-1),)
