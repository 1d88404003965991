"""Species of the subject: body size, blood, and plasma kinetics of free doxorubicin.

Every number is a row of the parameter table. Another species is one entry of :data:`SPECIES` and
its rows; formulations state the plasma kinetics of their carrier by the name of the species.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.parameters import MG, PARAMETERS, value
from nanopinn.physics.circulation import HUMAN_FREE_DRUG, FreeDrugKinetics

#: A dose over body weight beyond the range of its species by this factor is refused.
DOSE_RANGE_FACTOR = 10.0
#: A body weight beyond the range of its species by this factor is refused.
WEIGHT_RANGE_FACTOR = 3.0


@dataclass(frozen=True)
class Species:
    """A species, by symbols of the parameter table.

    Attributes:
        name: in options and files.
        free_drug: plasma kinetics of free doxorubicin.
        weight: typical body weight, kg.
        surface: Meeh's constant k of the body surface ``k W^(2/3)``, m2 with W in kg.
        haematocrit: of large vessels.
        plasma_volume: m3 per kg of body weight.
        body_temperature: K.
        dose: dose of doxorubicin over body weight, kg/kg, with the range of doses that are given.
        arterial_input: population curve of the contrast agent that is measured in the species.
    """

    name: str
    free_drug: FreeDrugKinetics
    weight: str
    surface: str
    haematocrit: str
    plasma_volume: str
    body_temperature: str
    dose: str
    arterial_input: str


def _rodent(name: str) -> Species:
    """A species whose kinetics are measured per body weight."""
    free = FreeDrugKinetics(
        (f"A_dox_{name}", f"B_dox_{name}"),
        (f"alpha_dox_{name}", f"beta_dox_{name}", f"gamma_dox_{name}"),
        f"CL_dox_{name}",
        per_kg=True,
    )
    weight, surface, haematocrit, plasma, temperature, dose = (
        f"{s}_{name}" for s in ("weight", "Meeh", "Hct", "Vp_body", "T_body", "dose_dox")
    )
    return Species(name, free, weight, surface, haematocrit, plasma, temperature, dose, "mcgrath")


#: Every species by its name.
SPECIES: dict[str, Species] = {
    s.name: s
    for s in (
        Species(
            "human",
            HUMAN_FREE_DRUG,
            "weight_human",
            "Meeh_human",
            "Hct",
            "Vp_body_human",
            "T_body",
            "dose_dox_human",
            arterial_input="parker",
        ),
        _rodent("mouse"),
        _rodent("rat"),
    )
}


def find_species(name: str, *, field: str = "species") -> Species:
    """Find a species by its name.

    Args:
        name: of the species; upper case is allowed.
        field: in errors.

    Raises:
        InputError: no species has the name.
    """
    known = SPECIES.get(name.strip().lower())
    if known is None:
        raise InputError("unknown species", field=field, found=name, expected=", ".join(SPECIES))
    return known


@dataclass(frozen=True)
class Subject:
    """The subject of a study.

    Attributes:
        species: of the subject.
        weight_kg: body weight, kg.
        surface_m2: body surface, m2.
        weight_is_stated: whether the weight was given; otherwise it is the typical one.
        surface_is_stated: whether the surface was given; otherwise it follows from the weight.
    """

    species: Species
    weight_kg: float
    surface_m2: float
    weight_is_stated: bool = True
    surface_is_stated: bool = False


def describe_subject(
    species: str = "human", weight_kg: float | None = None, surface_m2: float | None = None
) -> Subject:
    """The subject of a study, with the typical weight of the species where none is given.

    Args:
        species: by name.
        weight_kg: body weight, kg.
        surface_m2: body surface, m2; ``k W^(2/3)`` if None.

    Raises:
        InputError: the species is unknown, or the weight or surface is not plausible for it.
    """
    found = find_species(species)
    row, k = PARAMETERS[found.weight], value(found.surface)
    assert row.low is not None
    assert row.high is not None
    low, high = row.low / WEIGHT_RANGE_FACTOR, row.high * WEIGHT_RANGE_FACTOR
    if weight_kg is not None and not low <= weight_kg <= high:
        raise InputError(
            f"the body weight is not that of a {found.name}",
            field="body_weight_kg",
            found=f"{weight_kg:g} kg",
            expected=f"{low:.2g} to {high:.2g} kg",
            remedy="Check the unit, which is kg, and the species.",
        )
    smallest, largest = k * low ** (2 / 3), k * high ** (2 / 3)
    if surface_m2 is not None and not smallest <= surface_m2 <= largest:
        raise InputError(
            f"the body surface is not that of a {found.name}",
            field="body_surface_m2",
            found=f"{surface_m2:g} m2",
            expected=f"{smallest:.2g} to {largest:.2g} m2",
            remedy="Check the unit, which is m2, and the species.",
        )
    weight = row.value if weight_kg is None else weight_kg
    surface = k * weight ** (2 / 3) if surface_m2 is None else surface_m2
    return Subject(found, weight, surface, weight_kg is not None, surface_m2 is not None)


def validate_dose(
    amount_kg: float, subject: Subject, field: str, found: str, path: Path | None = None
) -> float:
    """Check that an amount of doxorubicin is a plausible dose for a subject.

    The dose over body weight may lie outside the range that is given in the species by a factor of
    :data:`DOSE_RANGE_FACTOR`. An error of unit by a factor of 1,000 lies outside.

    Args:
        amount_kg: amount of doxorubicin, kg.
        subject: who is given the dose.
        field: in errors.
        found: the dose as it was stated, in errors.
        path: file that states the dose, in errors.

    Returns:
        The amount, kg.

    Raises:
        InputError: the dose is not plausible in the species.
    """
    row = PARAMETERS[subject.species.dose]
    assert row.low is not None
    assert row.high is not None
    low, high = row.low / DOSE_RANGE_FACTOR, row.high * DOSE_RANGE_FACTOR
    per_weight = amount_kg / subject.weight_kg
    if not low <= per_weight <= high:
        weight = f"a {subject.species.name} of {subject.weight_kg:.3g} kg"
        raise InputError(
            "the dose of doxorubicin is not plausible",
            file=path,
            field=field,
            found=f"{found}, which is {per_weight / MG:.3g} mg/kg for {weight}",
            expected=f"{low / MG:.2g} to {high / MG:.3g} mg/kg; "
            f"{row.low / MG:.2g} to {row.high / MG:.2g} mg/kg are usual",
            remedy="Check the unit of the dose, the species and the body weight.",
        )
    return amount_kg
