"""Arms of a comparison: the same dose, heating and radiation in every arm, given in different
formulations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError
from nanopinn.io.safe_open import is_file, parse_number_list
from nanopinn.io.volumes import read_sidecar, sidecar_path
from nanopinn.parameters import HOUR, MG, MINUTE
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.piecewise_plasma import group_doses, is_superposed
from nanopinn.physics.species import find_species
from nanopinn.physics.treatment import GivenDose, Treatment
from nanopinn.report.treatment_summary import heat_assumptions
from nanopinn.settings import ComparisonSettings, DoseAmount, FractionSpec, HeatingSpec
from nanopinn.studies.schedule import find_formulation, read_schedule_tables, treatment_from_tables

_DEFAULTS = ComparisonSettings()
#: Dose of humans where none is given.
HUMAN_DOSE = DoseAmount(mg_per_m2=50.0)


@dataclass(frozen=True)
class Arm:
    """One treatment of a comparison.

    Attributes:
        name: "free", "pld", "ph", "tsl" or the name of a user's formulation.
        treatment: what is given.
    """

    name: str
    treatment: Treatment


def build_arms(
    names: Sequence[str],
    *,
    dose: DoseAmount | None = None,
    infusion_min: float = _DEFAULTS.infusion_min,
    heat: Sequence[HeatingSpec] = (),
    radiation: Sequence[FractionSpec] = (),
    end_h: float = _DEFAULTS.end_h,
    imaging_h: Sequence[float] = _DEFAULTS.imaging_h,
    schedule: Path | None = None,
    heat_all: bool = False,
    species: str | None = None,
    body_weight_kg: float | None = None,
    body_surface_m2: float | None = None,
    heat_effects: bool = True,
) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """Build arms that differ in the formulation, and heat those whose release responds to heat.

    Args:
        names: formulations by name or alias, or TOML files (see docs/formulations).
        dose: the same in every arm; None: 50 mg/m2 in humans.
        infusion_min: duration of the infusion, min; 0 for a bolus.
        heat: heatings of the tumour.
        radiation: fractions.
        end_h: end of the run, h.
        imaging_h: times at which fields are saved, h.
        schedule: a file whose doses, heatings, radiation, imaging times and end replace all of
            these.
        heat_all: heat every arm.
        species: of the subject; human if None.
        body_weight_kg: body weight, kg; None: the typical weight of the species.
        body_surface_m2: body surface, m2; None: follows from the body weight.
        heat_effects: effects of heating on pressure and vessel walls, besides release.

    Returns:
        The arms, and the assumptions as sentences.

    Raises:
        InputError: there is no arm or one is given twice, a formulation is unknown, no arm responds
            to the heat, another species than humans has no dose, the treatment is given both here
            and in a schedule, or as :func:`nanopinn.studies.schedule.read_schedule`.
    """
    formulations = _formulations(names)
    if schedule is None:
        tables: dict[str, Any] = {
            "subject": {
                "species": species or "human",
                "body_weight_kg": body_weight_kg,
                "body_surface_m2": body_surface_m2,
            },
            "dose": [
                {
                    "formulation": "free",
                    "start_h": 0.0,
                    "infusion_min": infusion_min,
                    **_dose_of_species(dose, species).model_dump(exclude_none=True),
                }
            ],
            "heat": [_heating_table(h) for h in heat],
            "radiation": [r.model_dump() for r in radiation],
            "imaging": {"times_h": _default_imaging_times(imaging_h, end_h)},
            "run": {"end_h": end_h, "heat_effects": heat_effects},
        }
        notes = []
    else:
        _refuse_treatment_beside_schedule(
            {
                "dose": dose is not None,
                "infusion_min": infusion_min != _DEFAULTS.infusion_min,
                "heat": bool(heat),
                "radiation": bool(radiation),
                "species": species is not None,
                "body_weight_kg": body_weight_kg is not None,
                "body_surface_m2": body_surface_m2 is not None,
            }
        )
        tables = _disable_heat_effects(read_schedule_tables(schedule), heat_effects)
        notes = [
            f"Doses, heating and radiation are those of {schedule.name}; its formulation is"
            " replaced by that of each arm."
        ]
        subject = tables.get("subject")
        if isinstance(subject, dict) and "plasma" in subject:
            notes.append(
                "Drug in plasma that was measured is not used, because it is that of another"
                " formulation."
            )
    arms = tuple(Arm(f.short_name, _treatment(tables, schedule, f, heat_all)) for f in formulations)
    _require_heat_sensitive_arm(formulations, bool(tables.get("heat")), heat_all)
    return arms, (
        *_describe_dose(arms[0].treatment),
        *arms[0].treatment.assumptions,
        *notes,
        *_describe_heating(arms),
        *_describe_user_formulations(formulations),
    )


def arms_from_settings(
    settings: ComparisonSettings, schedule: Path | None = None
) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """Build the arms that settings describe; see :func:`build_arms`."""
    return build_arms(
        settings.arms,
        dose=settings.dose,
        species=settings.species,
        body_weight_kg=settings.body_weight_kg,
        body_surface_m2=settings.body_surface_m2,
        infusion_min=settings.infusion_min,
        heat=settings.heat,
        radiation=settings.radiation,
        end_h=settings.end_h,
        imaging_h=settings.imaging_h,
        schedule=schedule,
        heat_all=settings.heat_all,
        heat_effects=settings.heat_effects,
    )


def arms_with_measured_plasma(
    arms: Sequence[Arm], imaged: Treatment | None
) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """Arms with the plasma curve that was measured in the subject, where it is that of the arm.

    It holds for the formulation that was imaged in the same species. Other doses of it give the
    same curve in proportion to their amount, if its samples belong to one dose.

    Args:
        arms: treatments.
        imaged: treatment that the drug images of the fit showed; None without drug images.

    Returns:
        The arms, and the assumptions as sentences; none where plasma was not measured.
    """
    if imaged is None or imaged.measured_plasma is None:
        return tuple(arms), ()
    found = tuple(Arm(a.name, _with_measured_plasma(a.treatment, imaged)) for a in arms)
    measured = [a.name for a in found if a.treatment.measured_plasma is not None]
    others = [a.name for a in found if a.treatment.measured_plasma is None]
    scaled = [
        a.name for a in found if a.treatment.measured_plasma not in (None, imaged.measured_plasma)
    ]
    notes = []
    if measured:
        by = ", scaled by the dose" if scaled else ""
        notes.append(f"{', '.join(measured)}: drug in plasma is that measured in the fit{by}.")
        notes += imaged.measured_plasma.describe([g.dose for g in arms[0].treatment.doses])
    if others:
        notes.append(
            f"{', '.join(others)}: plasma was not measured for this formulation and schedule; its"
            " kinetics are those of the population."
        )
    return found, tuple(notes)


def _with_measured_plasma(treatment: Treatment, imaged: Treatment) -> Treatment:
    measured = imaged.measured_plasma
    names = [{g.formulation.name for g in t.doses} for t in (treatment, imaged)]
    if (
        measured is None
        or names[0] != names[1]
        or treatment.subject.species != imaged.subject.species
    ):
        return treatment
    mine, theirs = (group_doses([g.dose for g in t.doses]) for t in (treatment, imaged))
    start = theirs[0].start_s - mine[0].start_s
    if [replace(d, start_s=d.start_s + start) for d in mine] == theirs:
        return replace(treatment, measured_plasma=measured)
    of_one_dose = len(theirs) == 1 or is_superposed(measured.times_s, theirs)
    next_dose = mine[1].start_s - mine[0].start_s if len(mine) > 1 else math.inf
    if (
        not of_one_dose
        or mine[0].infusion_s != theirs[0].infusion_s
        or measured.times_s[-1] > next_dose
    ):
        return treatment
    factor = mine[0].amount_kg / theirs[0].amount_kg
    samples = tuple(
        replace(s, concentrations=tuple(c * factor for c in s.concentrations))
        for s in measured.samples
    )
    return replace(treatment, measured_plasma=replace(measured, samples=samples))


def _dose_of_species(dose: DoseAmount | None, species: str | None) -> DoseAmount:
    """The dose, or that of humans where none is given."""
    if dose is not None:
        return dose
    if (name := find_species(species or "human").name) != "human":
        raise InputError(
            f"the dose of the arms is not stated for a {name}",
            field="dose",
            found="nothing",
            expected='such as "5mg/kg"; only humans have a default, 50 mg/m2',
            remedy="Give `dose`.",
        )
    return HUMAN_DOSE


def _formulations(names: Sequence[str]) -> tuple[Formulation, ...]:
    found = tuple(find_formulation(n, field="arms") for n in names)
    if not found:
        raise InputError(
            "there is no arm", field="arms", expected="formulations, such as free, pld and tsl"
        )
    for i, f in enumerate(found):
        if any(f.short_name.casefold() == other.short_name.casefold() for other in found[:i]):
            raise InputError(
                "an arm is given twice",
                field="arms",
                found=names[i],
                remedy="Arms must differ in the formulation.",
            )
    return found


def _default_imaging_times(imaging_h: Sequence[float], end_h: float) -> tuple[float, ...]:
    """The default times within the run; times that the user gave stay, so that one after
    the end is refused.
    """
    if tuple(imaging_h) != _DEFAULTS.imaging_h:
        return tuple(float(t) for t in imaging_h)
    return tuple(t for t in imaging_h if t <= end_h) or (end_h,)


def _heating_table(heating: HeatingSpec) -> dict[str, Any]:
    """The table of a schedule file that describes the same heating."""
    given = heating.model_dump(exclude_none=True)
    if heating.file is not None and heating.minutes is None:
        given["minutes"] = _thermometry_duration_min(heating.file)
    return given


def _refuse_treatment_beside_schedule(given: Mapping[str, bool]) -> None:
    if twice := [name for name, there in given.items() if there]:
        raise InputError(
            "the treatment is given twice",
            field=", ".join(twice),
            found="values beside a schedule file",
            expected="one of them",
            remedy="Write it into the schedule, or leave out `schedule`.",
        )


def _disable_heat_effects(tables: dict[str, Any], heat_effects: bool) -> dict[str, Any]:
    """The tables, without effects of heat where they are not wanted."""
    if heat_effects or not isinstance(tables.get("run"), dict):
        return tables
    return {**tables, "run": {**tables["run"], "heat_effects": False}}


def _treatment(
    tables: Mapping[str, Any], path: Path | None, formulation: Formulation, heat_all: bool
) -> Treatment:
    """The treatment of one arm; heat is left out of an arm that does not respond to it only after
    it was read, so that errors in it are found in every case.
    """
    heated = treatment_from_tables(tables, path, formulation)
    if not heated.doses:
        raise InputError(
            "the schedule has no dose",
            file=path,
            field="dose",
            remedy="Add a [[dose]] table: arms differ in the formulation of the dose.",
        )
    if heat_all or formulation.responds_to_heat or not heated.heatings:
        return heated
    return treatment_from_tables(
        {k: v for k, v in tables.items() if k != "heat"}, path, formulation
    )


def _require_heat_sensitive_arm(
    formulations: Sequence[Formulation], heat: bool, heat_all: bool
) -> None:
    if heat and not heat_all and not any(f.responds_to_heat for f in formulations):
        raise InputError(
            "no arm responds to the heat",
            field="heat",
            found=", ".join(f.short_name for f in formulations),
            expected="an arm with heat-triggered release, such as tsl",
            remedy="Add one, leave out `heat`, or heat every arm with `heat_all`.",
        )


def _describe_dose(t: Treatment) -> list[str]:
    def words(g: GivenDose) -> str:
        over = (
            f"infused over {g.dose.infusion_s / MINUTE:g} min"
            if g.dose.infusion_s
            else "as a bolus"
        )
        return f"{g.dose.amount_kg / MG:.3g} mg at {g.dose.start_s / HOUR:g} h {over}"

    return [f"Every arm is given the same doxorubicin: {', '.join(map(words, t.doses))}."]


def _describe_heating(arms: Sequence[Arm]) -> list[str]:
    warm = [a for a in arms if a.treatment.heatings]
    if not warm:
        return []
    names = ", ".join(a.name for a in warm)
    cold = ", ".join(a.name for a in arms if not a.treatment.heatings)
    who = (
        f"Heat is given to {names} only, whose release responds to it, and not to {cold}."
        if cold
        else f"Heat is given to {names}."
    )
    return [who, *heat_assumptions(warm[0].treatment)]


def _describe_user_formulations(formulations: Sequence[Formulation]) -> list[str]:
    return [
        f"{f.short_name} is described by {f.file.name}: {f.description}; it has"
        f" {len(f.own_parameters)} parameters of its own."
        for f in formulations
        if f.file
    ]


def _thermometry_duration_min(path: Path) -> float:
    """Duration of a thermometry by its sidecar, min."""
    if not is_file(path):
        raise InputError(
            "the thermometry file does not exist",
            file=path,
            field="heat",
            found=str(path),
            remedy="Check the path.",
        )
    times = read_sidecar(path).get("VolumeTiming")
    listed = parse_number_list(times)
    if listed is None or not listed.size or not listed[-1] > 0:
        raise InputError(
            "the times of the thermometry cannot be used",
            file=sidecar_path(path),
            field="VolumeTiming",
            found=times,
            expected="increasing times, s after the heating's start",
        )
    return float(listed[-1]) / MINUTE
