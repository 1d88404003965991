"""Doses of a subject: amounts from doses per body weight or surface, and what is assumed where the
subject is not fully described.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.parameters import MG, value
from nanopinn.physics.measured_plasma import (
    check_measured_plasma,
    check_plasma_quantities,
    read_plasma,
)
from nanopinn.physics.species import SPECIES, Subject, describe_subject, validate_dose
from nanopinn.physics.treatment import GivenDose, Treatment
from nanopinn.settings import DoseAmount


def build_subject(
    species: str | None,
    weight_kg: float | None,
    surface_m2: float | None,
    *,
    path: Path | None = None,
) -> Subject:
    """The subject of a study, a human where no species is stated.

    Args:
        species: by name.
        weight_kg: body weight, kg.
        surface_m2: body surface, m2.
        path: schedule file of the values; None for parameters.

    Raises:
        InputError: the species is unknown, or a weight or surface is not plausible for it.
    """
    try:
        return describe_subject(species or "human", weight_kg, surface_m2)
    except InputError as error:
        raise InputError(
            error.problem,
            file=path,
            field=error.field if path is None else f"subject.{error.field}",
            found=error.found,
            expected=error.expected,
            remedy=error.remedy,
        ) from error


def describe_subject_assumptions(
    subject: Subject, species_is_stated: bool, dose_is_per_surface: Sequence[bool]
) -> tuple[str, ...]:
    """Sentences on what is assumed of a subject that is given doses.

    Args:
        subject: of the study.
        species_is_stated: whether the species was given.
        dose_is_per_surface: of every dose.
    """
    if not dose_is_per_surface:
        return ()
    found, name = list[str](), subject.species.name
    if not species_is_stated:
        found.append("The species is not stated. Plasma kinetics are those of humans.")
    if any(dose_is_per_surface) and not subject.surface_is_stated:
        found.append(
            f"Body surface: {subject.surface_m2:.3g} m2, that of a {name} of"
            f" {subject.weight_kg:g} kg (assumed)."
        )
    elif not subject.weight_is_stated and name != "human":
        found.append(f"Body weight: {subject.weight_kg:g} kg, typical of a {name} (assumed).")
    return tuple(found)


def dose_amount_kg(
    dose: DoseAmount,
    subject: Subject,
    *,
    species_is_stated: bool,
    field: str,
    path: Path | None = None,
) -> float:
    """Amount of a dose for a subject, kg.

    Args:
        dose: absolute, per body surface or per body weight.
        subject: who is given the dose.
        species_is_stated: whether the species was given.
        field: of the dose, in errors.
        path: schedule file of the dose; None for parameters.

    Raises:
        InputError: the dose is not one amount, is per body weight without a species or, in humans,
            without the weight, or is not plausible.
    """
    stated = [n for n, amount in dose.model_dump().items() if amount is not None]
    if len(stated) != 1:
        raise InputError(
            "a dose needs one amount",
            file=path,
            field=field,
            found=str(dose),
            expected="either amount_mg, mg_per_kg or mg_per_m2",
        )
    _require_known_size(dose, subject, species_is_stated, field, path)
    per_kg, per_m2 = dose.mg_per_kg or 0.0, dose.mg_per_m2 or 0.0
    amount_mg = per_kg * subject.weight_kg + per_m2 * subject.surface_m2 + (dose.amount_mg or 0.0)
    return validate_dose(amount_mg * MG, subject, field, str(dose), path)


def _require_known_size(
    dose: DoseAmount, subject: Subject, species_is_stated: bool, field: str, path: Path | None
) -> None:
    """Refuse a dose per body weight or surface where these are unknown.

    Plasma kinetics of rodents are per body weight, so that their weight cancels. The surface of a
    species is better known than the weight of a human.
    """
    if dose.amount_mg is not None or (dose.mg_per_m2 is not None and subject.surface_is_stated):
        return
    if not species_is_stated:
        missing, words = "species", "species"
    elif dose.mg_per_kg and subject.species.name == "human" and not subject.weight_is_stated:
        missing, words = "body_weight_kg", "weight of the human"
    else:
        return
    raise InputError(
        f"a dose per body {'weight' if dose.mg_per_kg else 'surface'} needs the {words}",
        file=path,
        field=missing if path is None else f"subject.{missing}",
        found=f"nothing, with a dose of {dose}",
        expected=", ".join(SPECIES) if missing == "species" else "kg",
        remedy=(
            f"Give `{missing}`, or `{field}` in mg."
            if path is None
            else f"Write {missing} into the [subject] table, or give amount_mg."
        ),
    )


def require_single_carrier(doses: Sequence[GivenDose], path: Path | None) -> None:
    """Refuse doses of two carriers, whose pools the model does not have.

    Args:
        doses: of one treatment.
        path: schedule file, in errors.

    Raises:
        InputError: there are two carriers.
    """
    carriers = sorted({g.formulation.name for g in doses if g.formulation.circulation})
    if len(carriers) > 1:
        raise InputError(
            "a treatment has more than one carrier",
            file=path,
            field="dose.formulation",
            found=" and ".join(carriers),
            remedy="Write one schedule for each carrier, and study them one by one.",
        )


def with_measured_plasma(
    treatment: Treatment, path: Path | None, first_image_s: float | None = None
) -> Treatment:
    """The treatment with drug in plasma as it was measured, in place of the population's curve.

    Args:
        treatment: with the doses.
        path: of the measured concentrations; None: the treatment is unchanged.
        first_image_s: time of the first drug image after the first dose, s; None without images.

    Raises:
        InputError: the file cannot be read, does not suit the formulation, is not plausible for
            the dose, or begins after the first image.
    """
    if path is None:
        return treatment
    if not treatment.doses:
        raise InputError(
            "drug in plasma is measured, but none is given",
            file=path,
            field="plasma",
            remedy="Add a dose, or leave out `plasma`.",
        )
    subject, doses = treatment.subject, [g.dose for g in treatment.doses]
    measured = read_plasma(path, value(subject.species.haematocrit))
    check_plasma_quantities(measured, tuple(g.formulation for g in treatment.doses))
    carrier = treatment.carrier
    known = (
        carrier is None
        or not carrier.circulations
        or subject.species.name in dict(carrier.circulations)
    )
    population = treatment.plasma() if known else None
    check_measured_plasma(measured, doses, subject, population, first_image_s)
    return replace(
        treatment,
        measured_plasma=measured,
        assumptions=(*treatment.assumptions, *measured.describe(doses)),
    )
