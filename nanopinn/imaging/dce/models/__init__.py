"""Kinetic models, one module each; :data:`MODELS` finds them by name."""

from __future__ import annotations

from nanopinn.imaging.dce.impulse_response import KineticModel
from nanopinn.imaging.dce.models import (
    extended_tofts,
    patlak,
    steady_state,
    tofts,
    two_compartment_exchange,
    two_compartment_uptake,
)

#: From the plainest to the richest.
MODELS: dict[str, KineticModel] = {
    m.NAME: m
    for m in (
        steady_state,
        patlak,
        tofts,
        extended_tofts,
        two_compartment_uptake,
        two_compartment_exchange,
    )
}
