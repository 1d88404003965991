"""Two-compartment uptake model (Sourbron 2009, MRM 62:672): plasma with finite flow, no washout
within the scan.

I(t) = Fp exp(-t/Tp) + Ktrans (1 - exp(-t/Tp)),    Tp = vp/(Fp + PS),    Ktrans = Fp PS/(Fp + PS)
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanopinn.imaging.dce.impulse_response import (
    ImpulseResponse,
    InputCurve,
    ktrans_of_flow_limited_exchange,
    linear_fit,
)

NAME, CAPLEX = "2cum", "M.IC1.007"
NAMES: tuple[str, ...] = ("Fp", "PS", "vp")
LOWER: tuple[float, ...] = (1e-6, 0.0, 1e-3)
UPPER: tuple[float, ...] = (5.0 / 60, 5.0 / 60, 1.0)
DERIVED: tuple[str, ...] = ("Ktrans",)


def impulse_response(parameters: Tensor) -> ImpulseResponse:
    """Response of Fp, PS (1/s) and vp, ``(n, 3)``; the second rate is 0."""
    Fp, PS, vp = parameters.unbind(1)
    zero, one = torch.zeros_like(Fp), torch.ones_like(Fp)
    Ktrans, by_F, by_PS = ktrans_of_flow_limited_exchange(Fp, PS)
    rate = (Fp + PS) / vp
    jacobian = torch.stack(
        [
            torch.stack([zero, zero, zero], dim=1),
            torch.stack([one - by_F, -by_PS, zero], dim=1),
            torch.stack([by_F, by_PS, zero], dim=1),
            torch.stack([1 / vp, 1 / vp, -rate / vp], dim=1),
            torch.stack([zero, zero, zero], dim=1),
        ],
        dim=1,
    )
    return ImpulseResponse(
        zero, torch.stack([Fp - Ktrans, Ktrans], dim=1), torch.stack([rate, zero], dim=1), jacobian
    )


def derived(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Ktrans, 1/s."""
    Ktrans, by_F, by_PS = ktrans_of_flow_limited_exchange(parameters[:, 0], parameters[:, 1])
    return Ktrans[:, None], torch.stack([by_F, by_PS, torch.zeros_like(by_F)], dim=1)[:, None]


def initial_guesses(C: Tensor, curve: InputCurve) -> tuple[Tensor, ...]:
    """Linear least squares, ``C = -int(C)/Tp + Ktrans/Tp int int(Cp) + Fp int(Cp)`` (Flouri 2016,
    MRM 76:998), and two typical tissues.
    """
    solution = linear_fit(
        C, [-curve.integral(C), curve.plasma_double_integral, curve.plasma_integral]
    )
    Fp = solution[:, 2].clamp(1e-5, UPPER[0])
    rate = solution[:, 0].clamp_min(1e-4)
    Ktrans = (solution[:, 1] / rate).clamp_min(0.0).minimum(0.95 * Fp)
    PS = Fp * Ktrans / (Fp - Ktrans)
    linear = torch.stack([Fp, PS, (Fp + PS) / rate], dim=1)
    return linear, *(
        C.new_tensor([F, P, v]).expand(len(C), 3).clone()
        for F, P, v in ((0.01, 2e-4, 0.05), (0.002, 1e-4, 0.1))
    )
