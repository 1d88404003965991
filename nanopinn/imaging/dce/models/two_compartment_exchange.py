"""Two-compartment exchange model (Brix 2004, MRM 52:420; Sourbron 2011, MRM 66:735).

vp dCc/dt = Fp (Cp - Cc) - PS (Cc - Ce),    ve dCe/dt = PS (Cc - Ce),    C = vp Cc + ve Ce

    I(t) = a1 exp(-k1 t) + a2 exp(-k2 t),    a1 + a2 = Fp,    a1/k1 + a2/k2 = vp + ve

with k1 >= k2 the roots of k^2 - s k + d = 0, s = (Fp + PS)/vp + PS/ve, d = Fp PS/(vp ve).
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

NAME, CAPLEX = "2cxm", "M.IC1.009"
NAMES: tuple[str, ...] = ("Fp", "PS", "ve", "vp")
LOWER: tuple[float, ...] = (1e-6, 1e-7, 1e-3, 1e-3)
UPPER: tuple[float, ...] = (5.0 / 60, 5.0 / 60, 1.0, 1.0)
DERIVED: tuple[str, ...] = ("Ktrans",)


def impulse_response(parameters: Tensor) -> ImpulseResponse:
    """Fp, PS (1/s), ve and vp, ``(n, 4)``."""
    Fp, PS, ve, vp = parameters.unbind(1)
    zero, one = torch.zeros_like(Fp), torch.ones_like(Fp)
    s, d = (Fp + PS) / vp + PS / ve, Fp * PS / (vp * ve)
    # s^2 > 4 d always; written as a sum of squares it cannot round to below zero
    gap = (((Fp + PS) / vp - PS / ve) ** 2 + 4 * PS**2 / (vp * ve)).sqrt().clamp_min(1e-12)
    k1 = (s + gap) / 2
    k2 = d / k1  # not (s - gap)/2, which cancels
    a1 = k1 * (Fp - k2 * (vp + ve)) / gap
    ds = torch.stack([1 / vp, 1 / vp + 1 / ve, -PS / ve**2, -(Fp + PS) / vp**2], dim=1)
    dd = torch.stack([PS / (vp * ve), Fp / (vp * ve), -d / ve, -d / vp], dim=1)
    dgap = (s[:, None] * ds - 2 * dd) / gap[:, None]
    dk1 = (ds + dgap) / 2
    dk2 = ds - dk1
    dF, dv = torch.stack([one, zero, zero, zero], dim=1), torch.stack([zero, zero, one, one], dim=1)
    inner = dF - dk2 * (vp + ve)[:, None] - k2[:, None] * dv
    da1 = a1[:, None] * (dk1 / k1[:, None] - dgap / gap[:, None]) + (k1 / gap)[:, None] * inner
    jacobian = torch.stack([torch.zeros_like(dF), da1, dF - da1, dk1, dk2], dim=1)
    return ImpulseResponse(
        zero, torch.stack([a1, Fp - a1], dim=1), torch.stack([k1, k2], dim=1), jacobian
    )


def derived(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Ktrans, 1/s."""
    Ktrans, by_F, by_PS = ktrans_of_flow_limited_exchange(parameters[:, 0], parameters[:, 1])
    zero = torch.zeros_like(by_F)
    return Ktrans[:, None], torch.stack([by_F, by_PS, zero, zero], dim=1)[:, None]


def initial_guesses(C: Tensor, curve: InputCurve) -> tuple[Tensor, ...]:
    """Linear least squares of the second-order equation integrated twice (Flouri 2016, MRM 76:998),
    and two typical tissues.

    ``C = -s int(C) - d int int(C) + d (vp + ve) int int(Cp) + Fp int(Cp)``
    """
    first = curve.integral(C)
    solution = linear_fit(
        C, [-first, -curve.integral(first), curve.plasma_double_integral, curve.plasma_integral]
    )
    s, d, Fp = (
        solution[:, 0].clamp_min(1e-4),
        solution[:, 1].clamp_min(1e-9),
        solution[:, 3].clamp(1e-5, UPPER[0]),
    )
    v = (solution[:, 2] / d).clamp(2e-3, 1.5)
    # s = Fp/vp + PS (1/vp + 1/ve) and d = Fp PS/(vp ve) give vp = Fp/(s - d v/Fp)
    vp = torch.minimum((Fp / (s - d * v / Fp).clamp_min(1e-4)).clamp_min(1e-3), 0.9 * v)
    ve = v - vp
    linear = torch.stack([Fp, d * vp * ve / Fp, ve, vp], dim=1)
    return linear, *(
        C.new_tensor(t).expand(len(C), 4).clone()
        for t in ((0.005, 1e-3, 0.2, 0.05), (0.001, 5e-4, 0.2, 0.1))
    )
