"""Extended Tofts model (Tofts 1997, JMRI 7:91).

I(t) = vp delta(t) + Ktrans exp(-Ktrans/ve t)
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanopinn.imaging.dce.impulse_response import (
    ImpulseResponse,
    InputCurve,
    linear_fit,
    no_derived_quantities,
)

NAME, CAPLEX = "etofts", "M.IC1.005"
NAMES: tuple[str, ...] = ("Ktrans", "ve", "vp")
LOWER: tuple[float, ...] = (0.0, 1e-3, 0.0)
UPPER: tuple[float, ...] = (5.0 / 60, 1.0, 1.0)
DERIVED: tuple[str, ...] = ()
derived = no_derived_quantities


def impulse_response(parameters: Tensor) -> ImpulseResponse:
    """Ktrans (1/s), ve and vp, ``(n, 3)``."""
    K, ve, vp = parameters.unbind(1)
    k, zero, one = K / ve, torch.zeros_like(K), torch.ones_like(K)
    jacobian = torch.stack(
        [
            torch.stack([zero, zero, one], dim=1),
            torch.stack([one, zero, zero], dim=1),
            torch.stack([1 / ve, -k / ve, zero], dim=1),
        ],
        dim=1,
    )
    return ImpulseResponse(vp, K[:, None], k[:, None], jacobian)


def initial_guesses(C: Tensor, curve: InputCurve) -> tuple[Tensor, ...]:
    """Linear least squares (Murase 2004, MRM 51:858): ``C = (Ktrans + kep vp) int(Cp) - kep int(C)
    + vp Cp``.
    """
    solution = linear_fit(C, [curve.plasma_integral, -curve.integral(C), curve.plasma])
    kep, vp = solution[:, 1].clamp_min(1e-5), solution[:, 2].clamp(0.0, 0.5)
    K = solution[:, 0] - kep * vp
    return (torch.stack([K, K / kep, vp], dim=-1),)
