"""Extended Tofts model: ``C(t) = vp Cp + Ktrans (Cp * exp(-Ktrans/ve t))`` (Tofts 1997)."""

from __future__ import annotations

import torch
from torch import Tensor

from nanopinn.imaging.kinetics import InputCurve

NAMES: tuple[str, ...] = ("Ktrans", "ve", "vp")
LOWER: tuple[float, ...] = (0.0, 1e-3, 0.0)
UPPER: tuple[float, ...] = (5.0 / 60, 1.0, 1.0)


def evaluate(parameters: Tensor, curve: InputCurve) -> tuple[Tensor, Tensor]:
    """Tissue concentration ``(n, t)`` and its Jacobian ``(n, t, 3)``; Ktrans in 1/s."""
    K, ve, vp = parameters[:, 0:1], parameters[:, 1:2], parameters[:, 2:3]
    y, dy = curve.table((K / ve)[:, 0])
    plasma = curve.plasma.expand_as(y)
    return K * y + vp * plasma, torch.stack([y + K / ve * dy, -((K / ve) ** 2) * dy, plasma], dim=-1)


def linear_start(C: Tensor, curve: InputCurve) -> Tensor:
    """Linear least squares (Murase 2004): ``C = (Ktrans + kep vp) int(Cp) - kep int(C) + vp Cp``, ``(n, 3)``."""
    solution = curve.linear_fit(C, with_plasma=True)
    kep, vp = solution[:, 1].clamp_min(1e-5), solution[:, 2].clamp(0.0, 0.5)
    K = solution[:, 0] - kep * vp
    return torch.stack([K, K / kep, vp], dim=-1)
