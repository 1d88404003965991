"""Plasma kinetics by species against published half-lives, areas and clearances (PK)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from nanopinn.parameters import HOUR, MG
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_library import FREE, PEGYLATED
from nanopinn.physics.plasma import SumOfExponentials
from nanopinn.physics.species import describe_subject
from nanopinn.verification.case import VerificationCase

DRUMMOND = "Gabizon 1994 as tabulated in Drummond 1999"
DOXORUBICIN_LABEL = "label of doxorubicin (Pfizer)"
DOXIL_LABEL = "label of Doxil: AIDS-related Kaposi's sarcoma, mean and standard error"
SOUNDARARAJAN = "Soundararajan 2009: range of tumour-bearing mice and rats"
ANDERS = "Anders 2013: PLD and free drug in nude mice, 6 mg/kg each"
WANG = "Wang 2023: Sprague-Dawley rats, mean and standard deviation of 10"
#: Body surface of the patients, m2, of whom the tables state doses per surface.
SURFACE = 1.8


def plasma_cases() -> list[VerificationCase]:
    """PK: plasma of PLD and of free doxorubicin in humans, mice and rats."""
    return [*_human_cases(), *_mouse_cases(), *_rat_cases()]


def _human_cases() -> list[VerificationCase]:
    pld, free = _curve(PEGYLATED, "human", 1 * MG), _curve(FREE, "human", 1 * MG)
    per_mg = _area(pld)
    clearance = 1 / _area(free)
    half_life = _terminal_half_life(free)
    low, high = (round(60e-3 * SURFACE * mL_per_min) for mL_per_min in (324, 809))
    auc_25, auc_50, auc_20 = (dose * SURFACE * per_mg for dose in (25, 50, 20))
    return [
        _case("PLD, human", "AUC at 25 mg/m2, mg h/L", auc_25, 609, 0.15 * 609, DRUMMOND),
        _range("PLD, human", "AUC at 50 mg/m2, mg h/L (mean 902)", auc_50, 335, 2497, DRUMMOND),
        _range(
            "PLD, human", "terminal half-life, h", _terminal_half_life(pld), 20.8, 59.1, DRUMMOND
        ),
        _range("PLD, human", "clearance, L/h", 1 / per_mg, 0.05, 0.21, DRUMMOND),
        _range("free drug, human", "AUC at 50 mg/m2, mg h/L", 90 / clearance, 2.6, 6.0, DRUMMOND),
        _range("free drug, human", "clearance at 50 mg/m2, L/h", clearance, 13.3, 35.2, DRUMMOND),
        _range("free drug, human", "terminal half-life, h", half_life, 20, 48, DOXORUBICIN_LABEL),
        # other patients: the labels' areas and clearances are not those of Gabizon 1994
        _bracket(
            _case("PLD, human", "AUC at 20 mg/m2, mg h/L", auc_20, 590, 2 * 58.7, DOXIL_LABEL)
        ),
        _bracket(
            _range("free drug, human", "clearance, L/h", clearance, low, high, DOXORUBICIN_LABEL)
        ),
    ]


def _mouse_cases() -> list[VerificationCase]:
    pld, free = (_curve(f, "mouse", 6 * MG * 0.022) for f in (PEGYLATED, FREE))
    ratio = _area(pld) / _area(free)
    return [
        _range(
            "PLD, mouse", "terminal half-life, h", _terminal_half_life(pld), 20, 30, SOUNDARARAJAN
        ),
        # the authors say "approximately"
        _case("PLD over free drug, mouse", "ratio of AUCs", ratio, 1500, 300, ANDERS),
    ]


def _rat_cases() -> list[VerificationCase]:
    pld = _curve(PEGYLATED, "rat", 10 * MG * 0.25)
    day = float(pld.integral(torch.tensor(24 * HOUR, dtype=torch.float64))) * 1e3 / HOUR
    largest = sum(pld.amplitudes) * 1e3
    return [
        _case("PLD, rat", "AUC at 10 mg/kg, mg h/L", _area(pld), 2082, 860, WANG),
        _case("PLD, rat", "AUC to 24 h at 10 mg/kg, mg h/L", day, 1217, 193, WANG),
        _case("PLD, rat", "largest concentration at 10 mg/kg, mg/L", largest, 118.5, 26.2, WANG),
        _case("PLD, rat", "terminal half-life, h", _terminal_half_life(pld), 19.3, 10.3, WANG),
    ]


def _curve(formulation: Formulation, species: str, dose_kg: float) -> SumOfExponentials:
    """Drug in plasma after a bolus in the typical subject of a species, kg/m3."""
    given = formulation.in_subject(describe_subject(species))
    response = given.encapsulated_impulse_response() if given.circulation else None
    return (response or given.free_impulse_response()).scaled(dose_kg)


def _area(curve: SumOfExponentials) -> float:
    """Area under a curve, mg h/L."""
    return curve.area() * 1e3 / HOUR


def _terminal_half_life(curve: SumOfExponentials) -> float:
    """Half-life between 150 and 200 h, h."""
    late = torch.tensor([150.0, 200.0], dtype=torch.float64) * HOUR
    C = curve(late)
    return float(50.0 * math.log(2) / torch.log(C[0] / C[1]))


def _case(
    name: str, quantity: str, observed: float, reference: float, tolerance: float, source: str
) -> VerificationCase:
    """A value that must lie within the spread of a published mean."""
    return VerificationCase("PK", name, quantity, observed, reference, tolerance, source)


def _range(
    name: str, quantity: str, observed: float, low: float, high: float, source: str
) -> VerificationCase:
    """A value that must lie in a published range."""
    return _case(
        name,
        f"{quantity}, range {low:g} to {high:g}",
        observed,
        (low + high) / 2,
        (high - low) / 2,
        source,
    )


def _bracket(case: VerificationCase) -> VerificationCase:
    """The same case, which cannot fail."""
    return replace(case, kind="bracket")
