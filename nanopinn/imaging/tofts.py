"""Tofts model: ``C(t) = Ktrans (Cp * exp(-Ktrans/ve t))`` (Tofts and Kermode 1991)."""

from __future__ import annotations

import torch
from torch import Tensor

from nanopinn.imaging.kinetics import InputCurve

NAMES: tuple[str, ...] = ("Ktrans", "ve")
LOWER: tuple[float, ...] = (0.0, 1e-3)
UPPER: tuple[float, ...] = (5.0 / 60, 1.0)


def evaluate(parameters: Tensor, curve: InputCurve) -> tuple[Tensor, Tensor]:
    """Tissue concentration ``(n, t)`` and its Jacobian ``(n, t, 2)``; Ktrans in 1/s."""
    K, ve = parameters[:, 0:1], parameters[:, 1:2]
    y, dy = curve.table((K / ve)[:, 0])
    return K * y, torch.stack([y + K / ve * dy, -((K / ve) ** 2) * dy], dim=-1)


def linear_start(C: Tensor, curve: InputCurve) -> Tensor:
    """Linear least squares (Murase 2004): ``C = Ktrans int(Cp) - kep int(C)``, ``(n, 2)``."""
    solution = curve.linear_fit(C, with_plasma=False)
    K, kep = solution[:, 0], solution[:, 1].clamp_min(1e-5)
    return torch.stack([K, K / kep], dim=-1)
