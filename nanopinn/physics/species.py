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
#: Smallest and largest volume of distribution of a carrier, in plasma volumes of the subject.
#: Carriers of more than a few nanometres stay near one; a unit wrong by a factor of 1,000, or the
#: volume of another species, lies outside.
CARRIER_VOLUME_RANGE = (1 / 3, 100.0)
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
        dose: dose of doxorubicin over body weight, kg/kg, with the range of doses that are given.
        arterial_input: name of the population curve of the contrast agent for the species.
    """

    name: str
    free_drug: FreeDrugKinetics
    weight: str
    surface: str
    haematocrit: str
    plasma_volume: str
    dose: str
    arterial_input: str


#: Every species by its name. Kinetics of rodents are measured per body weight.
SPECIES: dict[str, Species] = {
    s.name: s
    for s in (
        Species(
            "human",
            HUMAN_FREE_DRUG,
            weight="weight_human",
            surface="Meeh_human",
            haematocrit="Hct",
            plasma_volume="Vp_body_human",
            dose="dose_dox_human",
            arterial_input="parker",
        ),
        Species(
            "mouse",
            FreeDrugKinetics(
                ("A_dox_mouse", "B_dox_mouse"),
                ("alpha_dox_mouse", "beta_dox_mouse", "gamma_dox_mouse"),
                "CL_dox_mouse",
                per_kg=True,
            ),
            weight="weight_mouse",
            surface="Meeh_mouse",
            haematocrit="Hct_mouse",
            plasma_volume="Vp_body_mouse",
            dose="dose_dox_mouse",
            arterial_input="preclinical",
        ),
        Species(
            "rat",
            FreeDrugKinetics(
                ("A_dox_rat",),
                ("alpha_dox_rat", "gamma_dox_rat"),
                "CL_dox_rat",
                per_kg=True,
            ),
            weight="weight_rat",
            surface="Meeh_rat",
            haematocrit="Hct_rat",
            plasma_volume="Vp_body_rat",
            dose="dose_dox_rat",
            arterial_input="preclinical",
        ),
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

    @property
    def plasma_volume_m3(self) -> float:
        """Typical plasma volume at the body weight, m3."""
        return value(self.species.plasma_volume) * self.weight_kg


def validate_carrier_volume(volume_m3: float, subject: Subject, path: Path | None = None) -> None:
    """Check that a carrier's volume of distribution is possible in a subject.

    Args:
        volume_m3: volume of distribution, m3.
        subject: of the study.
        path: file that states the volume, in errors.

    Raises:
        InputError: the volume is far from the plasma volume of the subject.
    """
    low, high = (f * subject.plasma_volume_m3 for f in CARRIER_VOLUME_RANGE)
    if not low <= volume_m3 <= high:
        name, weight = subject.species.name, subject.weight_kg
        raise InputError(
            f"the carrier's volume of distribution is not possible in a {name} of {weight:.3g} kg",
            file=path,
            field="circulation.volume",
            found=f"{volume_m3:.3g} m3",
            expected=f"{low:.2g} to {high:.2g} m3; the plasma volume is about "
            f"{subject.plasma_volume_m3:.2g} m3",
            remedy="Check the unit and the species, or give the volume in m**3/kg.",
        )


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
    weight, name = subject.weight_kg, subject.species.name
    low, high = row.low * weight, row.high * weight
    least, most = low / DOSE_RANGE_FACTOR, high * DOSE_RANGE_FACTOR
    if not least <= amount_kg <= most:
        raise InputError(
            f"the dose of doxorubicin is not plausible for a {name}",
            file=path,
            field=field,
            found=f"{found}, {amount_kg / weight / MG:.3g} mg/kg for {weight:.3g} kg",
            expected=f"{low / MG:.3g} to {high / MG:.3g} mg are usual, {least / MG:.3g} to"
            f" {most / MG:.3g} mg are accepted",
            remedy="Check the unit, which is mg, the species and the body weight.",
        )
    return amount_kg
