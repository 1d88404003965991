"""Steady state: ``I(t) = vp delta(t)``, tissue with plasma alone."""

from __future__ import annotations

import torch
from torch import Tensor

from nanopinn.imaging.dce.impulse_response import (
    ImpulseResponse,
    InputCurve,
    linear_fit,
    no_derived_quantities,
)

NAME, CAPLEX = "steady", "M.IC1.999"
NAMES: tuple[str, ...] = ("vp",)
LOWER: tuple[float, ...] = (0.0,)
UPPER: tuple[float, ...] = (1.0,)
DERIVED: tuple[str, ...] = ()
derived = no_derived_quantities


def impulse_response(parameters: Tensor) -> ImpulseResponse:
    """vp, ``(n, 1)``."""
    vp = parameters[:, 0]
    none = parameters.new_zeros((len(vp), 0))
    return ImpulseResponse(vp, none, none, torch.ones_like(parameters)[:, None])


def initial_guesses(C: Tensor, curve: InputCurve) -> tuple[Tensor, ...]:
    """The model is linear: ``C = vp Cp``."""
    return (linear_fit(C, [curve.plasma]),)
