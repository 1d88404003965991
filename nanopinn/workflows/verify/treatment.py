"""What is given: plasma against published brackets, and release on the way through heated vessels (V6, PK)."""

from __future__ import annotations

import math

import torch

from nanopinn.physics.formulation import FREE, PEGYLATED, THERMOSENSITIVE
from nanopinn.physics.plasma import Dose
from nanopinn.physics.release import released_per_pass
from nanopinn.workflows.verify.case import VerificationCase

HOUR = 3600.0
#: 50 mg/m2 of 1.8 m2, as a bolus.
DOSE = (Dose(0.0, 90e-6),)
DRUMMOND = "Gabizon 1994 as tabulated in Drummond 1999"


def _in_bracket(name: str, quantity: str, observed: float, low: float, high: float) -> VerificationCase:
    """A value against a published bracket: its middle, within half its width."""
    bracket = f"{quantity}, bracket {low:g} to {high:g}"
    return VerificationCase("PK", name, bracket, observed, (low + high) / 2, (high - low) / 2, DRUMMOND)


def plasma_brackets() -> list[VerificationCase]:
    """PK: half-life, area and clearance of PLD, area of free drug, at 50 mg/m2 (90 mg)."""
    per_kg = 1e3 / HOUR  # kg s/m3 in mg h/L
    encapsulated, free = PEGYLATED.plasma(DOSE).encapsulated, FREE.plasma(DOSE).free
    late = torch.tensor([100.0, 200.0], dtype=torch.float64) * HOUR
    C = encapsulated(late)
    half_life = float(100.0 * math.log(2) / torch.log(C[0] / C[1]))
    area = encapsulated.area() * per_kg
    return [
        _in_bracket("PLD in plasma", "terminal half-life, h", half_life, 29, 74),
        _in_bracket("PLD in plasma", "area, mg h/L (published mean 902)", area, 335, 2497),
        _in_bracket("PLD in plasma", "clearance, L/h", 90 / area, 0.03, 0.24),
        _in_bracket("free drug in plasma", "area, mg h/L (published mean 3.5)", free.area() * per_kg, 2.6, 6.0),
    ]


def hot_release() -> list[VerificationCase]:
    """V6: what a thermosensitive liposome releases at 42 C, in 20 s and per pass through the tumour's vessels."""
    pH = torch.tensor(7.0, dtype=torch.float64)
    k = float(THERMOSENSITIVE.release_rate(pH, torch.tensor(315.15, dtype=torch.float64)))
    found = [VerificationCase("V6", "LTSL at 42 C", "released in 20 s", -math.expm1(-20 * k), 0.600, 5e-4, "Needham 2013: 60 % in 20 s")]
    for tau, share in ((5.0, 0.19), (10.0, 0.31)):
        observed = float(released_per_pass(k, tau))
        quantity = f"released per pass, transit time {tau:g} s"
        found.append(
            VerificationCase("V6", "LTSL at 42 C", quantity, observed, share, 5e-3, "k tau/(1 + k tau) at the rate of Needham 2013")
        )
    return found
