"""The treatment of a study from its settings, one schedule file, or the sidecars of drug images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError
from nanopinn.imaging.drug_image import DRUG_UNITS
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.io.safe_open import is_number
from nanopinn.parameters import MG, MINUTE, value
from nanopinn.physics.heat import HeatEffects
from nanopinn.physics.plasma import Dose
from nanopinn.physics.species import Species, Subject, find_species
from nanopinn.physics.treatment import GivenDose, RadiationCourse, Treatment
from nanopinn.settings import EXAMPLE_STUDY, DoseAmount, StudySettings, parse_dose
from nanopinn.studies.dosing import (
    build_subject,
    describe_subject_assumptions,
    dose_amount_kg,
    with_measured_plasma,
)
from nanopinn.studies.schedule import find_formulation, read_schedule, read_schedule_tables

#: Setting that each key of a drug image's sidecar states; ``BodyWeight`` is in kg, ``BodySurface``
#: in m2, ``Infusion`` in min, and ``DrugDose`` a text such as "5 mg/kg".
TREATMENT_KEYS = {
    "Formulation": "formulation",
    "DrugDose": "drug_dose",
    "Species": "species",
    "BodyWeight": "body_weight_kg",
    "BodySurface": "body_surface_m2",
    "Infusion": "infusion_min",
}
_TEXTS = ("formulation", "drug_dose", "species")
_RELATIVE_DIFFERENCE = 1e-3
#: Largest number of a sidecar: an infusion of two years, min.
_LARGEST = 1_051_200.0


@dataclass(frozen=True)
class _Fact:
    """One stated value with the setting or sidecar that states it."""

    content: Any
    source: str


def study_treatment(
    settings: StudySettings, facts: Sequence[Mapping[str, Any]], last_image_s: float
) -> Treatment | None:
    """The treatment of a study, from its settings, a schedule, or the sidecars of its drug images.

    Times of drug images count from the first dose. The treatment ends at the last image or later.

    Args:
        settings: of the study.
        facts: sidecar of every drug image; none where images are planned or simulated.
        last_image_s: time of the last drug image after the first dose, s.

    Returns:
        The treatment, with what is assumed; None where nothing is given and there is no drug image.

    Raises:
        InputError: a dose or formulation is missing, the sidecars and settings contradict each
            other, a value cannot be used, or a schedule is given beside other settings.
    """
    stated = _collect_facts(settings, facts)
    times = [float(t) for side in facts if is_number(t := side.get("TimeAfterDose"))]
    first_image_s = min(times, default=None)
    if settings.schedule is not None:
        found = read_schedule(
            settings.schedule, plasma=settings.plasma, first_image_s=first_image_s
        )
        return _scheduled_treatment(found, settings.schedule, stated, last_image_s)
    if not facts and not stated:
        return None
    uncalibrated = bool(facts) and all(str(side.get("Units")) not in DRUG_UNITS for side in facts)
    formulation = find_formulation(
        str(_require(stated, "formulation").content), field="formulation"
    )
    species, weight, surface = (
        f.content if (f := stated.get(n)) else None
        for n in ("species", "body_weight_kg", "body_surface_m2")
    )
    subject = build_subject(species, weight, surface)
    assumptions: tuple[str, ...] = ()
    if "drug_dose" not in stated and uncalibrated:
        amount = value(subject.species.dose) * subject.weight_kg
        assumptions = (
            f"The dose is not stated. The images are in arbitrary units, and {amount / MG:.3g} mg"
            " stand for it.",
        )
    else:
        amount = _amount_kg(_require(stated, "drug_dose").content, subject, species is not None)
    per_surface = "drug_dose" in stated and stated["drug_dose"].content.mg_per_m2 is not None
    infusion = stated["infusion_min"].content if "infusion_min" in stated else 0.0
    dose = Dose(0.0, amount, infusion * MINUTE)
    known = formulation.in_subject(subject, plasma_is_measured=settings.plasma is not None)
    treatment = Treatment(
        doses=(GivenDose(known, dose),),
        heatings=(),
        radiation=RadiationCourse(),
        images_s=(),
        end_s=max(dose.end_s, last_image_s),
        heat_effects=HeatEffects(),
        subject=subject,
        assumptions=(
            *assumptions,
            *describe_subject_assumptions(subject, species is not None, [per_surface]),
        ),
    )
    return with_measured_plasma(treatment, settings.plasma, first_image_s)


def example_settings(settings: StudySettings) -> StudySettings:
    """The settings of the treatment, those of the example where nothing of it is given.

    Args:
        settings: of a plan or a phantom, which no one is given a drug for.
    """
    given = {name: getattr(settings, name) for name in StudySettings.model_fields}
    chosen = StudySettings(**given)
    return EXAMPLE_STUDY if chosen == StudySettings() else chosen


def stated_species(
    settings: StudySettings, facts: Sequence[Mapping[str, Any]] = ()
) -> Species | None:
    """The species of the subject, before its treatment is read; None where it is not stated.

    Args:
        settings: of the study.
        facts: sidecar of every drug image.

    Raises:
        InputError: the species is unknown, or the schedule cannot be read.
    """
    named: object = settings.species
    if named is None and settings.schedule is not None:
        subject = read_schedule_tables(settings.schedule).get("subject")
        named = subject.get("species") if isinstance(subject, dict) else None
    if named is None:
        named = next((side["Species"] for side in facts if side.get("Species")), None)
    return find_species(named) if isinstance(named, str) else None


def inputs_of_species(inputs: ImagingInputs, species: Species | None) -> ImagingInputs:
    """The inputs with the arterial input and the haematocrit of a species where none are given.

    Args:
        inputs: of the imaging.
        species: of the subject; None: the inputs are unchanged.
    """
    if species is None:
        return inputs
    return replace(
        inputs,
        aif=species.arterial_input if inputs.aif is None else inputs.aif,
        default_hematocrit=inputs.default_hematocrit or value(species.haematocrit),
    )


def treatment_files(settings: StudySettings) -> tuple[Path, ...]:
    """Files that state the treatment, those that its schedule names included.

    Args:
        settings: of the study.

    Raises:
        InputError: the schedule cannot be used.
    """
    formulation = (settings.formulation or "").strip()
    found = [Path(formulation)] if formulation.endswith(".toml") else []
    if settings.schedule is not None:
        scheduled = read_schedule(settings.schedule, plasma=settings.plasma)
        heated = [h.file for h in scheduled.heatings if h.file is not None]
        return tuple(dict.fromkeys([settings.schedule, *scheduled.files, *heated]))
    return (*found, *([] if settings.plasma is None else [settings.plasma]))


def settings_to_write(settings: StudySettings) -> dict[str, Any]:
    """The settings as a result folder records them: files by name, whose hashes are beside them.

    Args:
        settings: of a fit, plan or phantom.
    """
    dump = settings.model_dump()
    names = {n: dump[n].name for n in ("schedule", "plasma") if dump[n] is not None}
    formulation = settings.formulation
    if formulation is not None and formulation.strip().endswith(".toml"):
        names["formulation"] = Path(formulation.strip()).name
    return dump | names


def _collect_facts(settings: StudySettings, facts: Sequence[Mapping[str, Any]]) -> dict[str, _Fact]:
    """Every stated value of the treatment, by setting.

    Raises:
        InputError: a value of a sidecar cannot be read, two sources contradict each other, or
            settings are given beside a schedule.
    """
    found = {
        name: _Fact(content, "`" + name + "`")
        for name in TREATMENT_KEYS.values()
        if (content := getattr(settings, name)) is not None
    }
    if settings.schedule is not None and found:
        raise InputError(
            "the treatment is given twice",
            field=", ".join(found),
            found=f"values beside the schedule {settings.schedule.name}",
            expected="one of them",
            remedy="Write them into the schedule, or leave out `schedule`.",
        )
    for i, side in enumerate(facts):
        for key, name in TREATMENT_KEYS.items():
            if side.get(key) is None:
                continue
            fact = _Fact(_read_fact(side[key], key, name), f"{key} of drug image {i + 1}")
            known = found.setdefault(name, fact)
            if not _agree(name, known.content, fact.content):
                raise InputError(
                    "two statements on the treatment contradict each other",
                    field=name,
                    found=f"{known.content} ({known.source}) and {fact.content} ({fact.source})",
                    expected="one value",
                    remedy="Correct the wrong one, or leave it out.",
                )
    return found


def _read_fact(content: Any, key: str, name: str) -> Any:
    """A value of a sidecar as its setting."""
    if name in _TEXTS and isinstance(content, str):
        return parse_dose(content, key) if name == "drug_dose" else content
    smallest_allowed = 0.0 if name == "infusion_min" else 1e-9
    if name not in _TEXTS and is_number(content) and smallest_allowed <= content <= _LARGEST:
        return float(content)
    raise InputError(
        "a value of the drug image cannot be used",
        field=key,
        found=content,
        expected=(
            'a text with its unit, such as "5 mg/kg"'
            if name == "drug_dose"
            else "a text"
            if name in _TEXTS
            else "a positive number"
        ),
        remedy="Correct the sidecar.",
    )


def _agree(name: str, one: Any, other: Any) -> bool:
    """Whether two stated values are the same."""
    if name == "formulation":
        return one == other or _formulation_name(one) == _formulation_name(other)
    if name == "species":
        return str(one).strip().lower() == str(other).strip().lower()
    if name == "drug_dose":
        return bool(one == other)
    return abs(float(one) - float(other)) <= _RELATIVE_DIFFERENCE * max(float(one), float(other))


def _formulation_name(given: str) -> str:
    return find_formulation(given).name


def _require(stated: Mapping[str, _Fact], name: str) -> _Fact:
    """A value that drug images need.

    Raises:
        InputError: it is missing.
    """
    if name in stated:
        return stated[name]
    key = next(k for k, v in TREATMENT_KEYS.items() if v == name)
    examples = {
        "formulation": "free, pld, tsl, ph, or a TOML file",
        "drug_dose": '"5mg/kg", "50mg/m2" or "0.1mg"',
    }
    raise InputError(
        f"the {name.replace('_', ' ')} of the drug images is not stated",
        field=name,
        found="nothing",
        expected=examples[name],
        remedy=(
            f"Give `{name}`, or `schedule`, or write {key} into the sidecars of the drug images;"
            " there is no default."
        ),
    )


def _amount_kg(dose: DoseAmount, subject: Subject, species_is_stated: bool) -> float:
    return dose_amount_kg(dose, subject, species_is_stated=species_is_stated, field="drug_dose")


def _scheduled_treatment(
    found: Treatment, path: Path, stated: Mapping[str, _Fact], last_image_s: float
) -> Treatment:
    """The treatment of a schedule file, which sidecars of drug images must not contradict."""
    if not found.doses:
        raise InputError(
            "the schedule has no dose",
            file=path,
            field="dose",
            remedy="Add a [[dose]] table: times of drug images count from the first dose.",
        )
    _require_agreement_with_sidecars(path, found, stated)
    first = min(g.dose.start_s for g in found.doses)
    return replace(found, end_s=max(found.end_s, first + last_image_s))


def _require_agreement_with_sidecars(
    path: Path, treatment: Treatment, stated: Mapping[str, _Fact]
) -> None:
    subject = treatment.subject
    doses = [g.dose for g in treatment.doses]
    given: dict[str, tuple[str, bool]] = {}
    if (fact := stated.get("formulation")) is not None:
        names = {g.formulation.name for g in treatment.doses}
        given["formulation"] = (", ".join(sorted(names)), _formulation_name(fact.content) in names)
    if (fact := stated.get("species")) is not None:
        same = _agree("species", fact.content, subject.species.name)
        given["species"] = (subject.species.name, same)
    if (fact := stated.get("drug_dose")) is not None:
        amount = _amount_kg(fact.content, subject, True)
        amounts = [d.amount_kg for d in doses]
        same = any(abs(a - amount) <= 1e-2 * amount for a in (*amounts, sum(amounts)))
        given["drug_dose"] = (", ".join(f"{a / MG:g} mg" for a in amounts), same)
    for name, (words, same) in given.items():
        if not same:
            raise InputError(
                "the schedule and the sidecar of a drug image contradict each other",
                file=path,
                field=name,
                found=f"{words} and {stated[name].content} ({stated[name].source})",
                expected="one value",
                remedy="Correct the wrong one.",
            )
