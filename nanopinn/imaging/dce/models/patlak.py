"""Patlak model (Patlak 1983, JCBFM 3:1): ``I(t) = vp delta(t) + Ktrans``; nothing comes back during
the scan.
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

NAME, CAPLEX = "patlak", "M.IC1.006"
NAMES: tuple[str, ...] = ("Ktrans", "vp")
LOWER: tuple[float, ...] = (0.0, 0.0)
UPPER: tuple[float, ...] = (5.0 / 60, 1.0)
DERIVED: tuple[str, ...] = ()
derived = no_derived_quantities


def impulse_response(parameters: Tensor) -> ImpulseResponse:
    """Ktrans (1/s) and vp, ``(n, 2)``."""
    K, vp = parameters.unbind(1)
    zero, one = torch.zeros_like(K), torch.ones_like(K)
    jacobian = torch.stack(
        [
            torch.stack([zero, one], dim=1),
            torch.stack([one, zero], dim=1),
            torch.stack([zero, zero], dim=1),
        ],
        dim=1,
    )
    return ImpulseResponse(vp, K[:, None], zero[:, None], jacobian)


def initial_guesses(C: Tensor, curve: InputCurve) -> tuple[Tensor, ...]:
    """The model is linear: ``C = Ktrans int(Cp) + vp Cp``."""
    return (linear_fit(C, [curve.plasma_integral, curve.plasma]),)
