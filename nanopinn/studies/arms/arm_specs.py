"""Arms of a comparison: one dose, heat and radiation for all, and what each gives the drug in.

Dose, heat and radiation as the command line writes them, read into the tables of a schedule file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError
from nanopinn.io.safe_open import is_file, parse_number_list
from nanopinn.io.volumes import read_sidecar, sidecar_path
from nanopinn.parameters.units import HOUR, MG, MINUTE
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.treatment import GivenDose, Treatment
from nanopinn.studies.schedule import (
    find_formulation,
    read_schedule_tables,
    treatment_from_tables,
)

#: Of people, m2: the mean adult's, assumed where none is given.
BODY_SURFACE_M2 = 1.8
DOSE = "50mg/m2"
IMAGING_H = (1.0, 4.0, 24.0, 48.0, 72.0)


@dataclass(frozen=True)
class Arm:
    """One treatment to compare; ``name`` is "free", "pld", "ph", "tsl" or that of a user's
    formulation.
    """

    name: str
    treatment: Treatment


def build_arms(
    names: Sequence[str],
    *,
    dose: str = DOSE,
    infusion_min: float = 0.0,
    heat: Sequence[str] = (),
    radiation: Sequence[str] = (),
    end_h: float = 72.0,
    imaging_h: Sequence[float] = IMAGING_H,
    schedule: Path | None = None,
    heat_all: bool = False,
    body_surface_m2: float = BODY_SURFACE_M2,
    heat_effects: bool = True,
) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """Arms that differ in what the drug is given in, and heat for those that answer to it; what was
    assumed, in words.

    Args:
        names: formulations by name or alias, or TOML files (see docs/formulations).
        dose: "50mg/m2" or "90mg", the same in every arm. infusion_min: 0 for a bolus.
        heat: "42:60" (degrees C:minutes), with "@H" to begin after hours and "~MIN" for ramps; or a
            thermometry file, with "@H".
        radiation: "5@24" (Gy@hours).
        end_h, imaging_h: of the run, and when fields are wanted.
        schedule: a file whose doses, heat, radiation, images and end hold in place of all of these.
        heat_all: heat also arms that do not answer to it.
        heat_effects: of heating on pressure and walls, beside release.

    Raises:
        InputError: no arm or the same twice, an unknown formulation, an option that cannot be read,
            no arm that answers to the heat, what is both in the options and in a schedule, or as
            :func:`nanopinn.studies.schedule.read_schedule`.
    """
    formulations = _formulations(names)
    if schedule is None:
        times = _default_imaging_times(imaging_h, end_h)
        tables = _build_schedule_tables(
            dose, body_surface_m2, infusion_min, heat, radiation, end_h, times, heat_effects
        )
        said = [_describe_body_surface(body_surface_m2)] if "mg_per_m2" in tables["dose"][0] else []
    else:
        _refuse_options_beside_schedule(dose, infusion_min, heat, radiation)
        tables = _disable_heat_effects(read_schedule_tables(schedule), heat_effects)
        said = [
            f"Doses, heat and radiation are those of {schedule.name}; what it gives them in is"
            " replaced by that of each arm."
        ]
    arms = tuple(Arm(f.short_name, _treatment(tables, schedule, f, heat_all)) for f in formulations)
    _require_heat_sensitive_arm(formulations, bool(tables.get("heat")), heat_all)
    return arms, (
        *_describe_dose(arms[0].treatment),
        *said,
        *_describe_heating(arms, heat_all),
        *_describe_user_formulations(formulations),
    )


def _formulations(names: Sequence[str]) -> tuple[Formulation, ...]:
    found = tuple(find_formulation(n, field="--arms") for n in names)
    if not found:
        raise InputError(
            "there is no arm", field="--arms", expected="formulations, such as free,pld,tsl"
        )
    for i, f in enumerate(found):
        if any(f.short_name.casefold() == other.short_name.casefold() for other in found[:i]):
            raise InputError(
                "an arm is there twice",
                field="--arms",
                found=names[i],
                remedy="Arms differ in what the drug is given in.",
            )
    return found


def _default_imaging_times(imaging_h: Sequence[float], end_h: float) -> tuple[float, ...]:
    """The usual times as far as the run goes; times that were asked for stay, so that one after the
    end is refused.
    """
    if tuple(imaging_h) != IMAGING_H:
        return tuple(float(t) for t in imaging_h)
    return tuple(t for t in IMAGING_H if t <= end_h) or (end_h,)


def _build_schedule_tables(
    dose: str,
    surface: float,
    infusion_min: float,
    heat: Sequence[str],
    radiation: Sequence[str],
    end_h: float,
    imaging_h: Sequence[float],
    heat_effects: bool,
) -> dict[str, Any]:
    """The tables of a schedule file that says the same."""
    return {
        "patient": {"body_surface_m2": surface},
        "dose": [
            {
                "formulation": "free",
                "start_h": 0.0,
                "infusion_min": infusion_min,
                **parse_dose(dose),
            }
        ],
        "heat": [parse_heating(h) for h in heat],
        "radiation": [parse_fraction(r) for r in radiation],
        "imaging": {"times_h": tuple(imaging_h)},
        "run": {"end_h": end_h, "heat_effects": heat_effects},
    }


def _refuse_options_beside_schedule(
    dose: str, infusion_min: float, heat: Sequence[str], radiation: Sequence[str]
) -> None:
    options = {
        "--dose": dose != DOSE,
        "--infusion": infusion_min != 0,
        "--heat": bool(heat),
        "--radiation": bool(radiation),
    }
    if twice := [name for name, given in options.items() if given]:
        raise InputError(
            "the treatment is given twice",
            field=", ".join(twice),
            found="options beside a schedule file",
            expected="one of them",
            remedy="Write it into the schedule, or leave the schedule out.",
        )


def _disable_heat_effects(tables: dict[str, Any], heat_effects: bool) -> dict[str, Any]:
    """The tables, without effects of heat where they are not wanted."""
    if heat_effects or not isinstance(tables.get("run"), dict):
        return tables
    return {**tables, "run": {**tables["run"], "heat_effects": False}}


def _treatment(
    tables: Mapping[str, Any], path: Path | None, formulation: Formulation, heat_all: bool
) -> Treatment:
    """Heat is left out of an arm that does not answer to it only after it was read, so that its
    mistakes are named in every case.
    """
    heated = treatment_from_tables(tables, path, formulation)
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
            "no arm answers to the heat",
            field="--heat",
            found=", ".join(f.short_name for f in formulations),
            expected="an arm that heat opens, such as tsl",
            remedy="Add it, leave the heat out, or heat every arm (--heat-all).",
        )


def _describe_dose(t: Treatment) -> list[str]:
    def words(g: GivenDose) -> str:
        over = (
            f"infused over {g.dose.infusion_s / MINUTE:g} min"
            if g.dose.infusion_s
            else "as a bolus"
        )
        return f"{g.dose.amount_kg / MG:g} mg at {g.dose.start_s / HOUR:g} h {over}"

    return [f"Every arm is given the same doxorubicin: {', '.join(map(words, t.doses))}."]


def _describe_body_surface(m2: float) -> str:
    return f"Body surface: {m2:g} m2" + (
        " (assumed, a mean adult)." if m2 == BODY_SURFACE_M2 else "."
    )


def _describe_heating(arms: Sequence[Arm], heat_all: bool) -> list[str]:
    warm = [a for a in arms if a.treatment.heatings]
    if not warm:
        return []
    names, cold = (
        ", ".join(a.name for a in warm),
        [a.name for a in arms if not a.treatment.heatings],
    )
    who = (
        f"Heat is given to {names} alone, whose release answers to it; not to {', '.join(cold)}."
        if cold
        else f"Heat is given to {names}."
    )
    return [who, *warm[0].treatment.heat_assumptions()]


def _describe_user_formulations(formulations: Sequence[Formulation]) -> list[str]:
    return [
        f"{f.short_name} is as {f.file.name} says: {f.description}; {len(f.own_parameters)} numbers"
        " of its own."
        for f in formulations
        if f.file
    ]


_NUMBER = r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"
_DOSE = re.compile(rf"{_NUMBER}\s*(mg/m2|mg/m\^2|mg)")
_HEAT = re.compile(rf"{_NUMBER}:{_NUMBER}(?:@{_NUMBER})?(?:~{_NUMBER})?")
_FILE = re.compile(rf"(.+\.nii(?:\.gz)?)(?:@{_NUMBER})?")
_RADIATION = re.compile(rf"{_NUMBER}@{_NUMBER}")


def parse_dose(text: str) -> dict[str, float]:
    """``mg_per_m2`` of "50mg/m2", or ``amount_mg`` of "90mg".

    Raises:
        InputError: it is neither.
    """
    found = _DOSE.fullmatch(text.strip())
    if found is None:
        raise InputError(
            "the dose cannot be read",
            field="--dose",
            found=text,
            expected='"50mg/m2" or "90mg"',
            remedy="Amounts are in mg: usual doses of doxorubicin are 20 to 60 mg/m2.",
        )
    return {"amount_mg" if found[2] == "mg" else "mg_per_m2": float(found[1])}


def parse_heating(text: str) -> dict[str, Any]:
    """A heating of "42:60", "42:60@0.5~5" (degrees C:minutes@hours~ramp in minutes), or of a
    thermometry file, "T.nii.gz@0.5".

    Raises:
        InputError: it is none of these, or the file has no times.
    """
    if (file := _FILE.fullmatch(text.strip())) is not None:
        return {
            "file": file[1],
            "minutes": _thermometry_duration_min(Path(file[1])),
            "start_h": float(file[2] or 0),
        }
    found = _HEAT.fullmatch(text.strip())
    if found is None:
        raise InputError(
            "the heat cannot be read",
            field="--heat",
            found=text,
            expected='"42:60", "42:60@0.5~5" or a thermometry file',
            remedy=(
                "Write degrees C:minutes, then @ and the hour it begins, then ~ and the minutes of"
                " its ramps."
            ),
        )
    T, minutes, start, ramp = (float(v or 0) for v in found.groups())
    return {"temperature_C": T, "minutes": minutes, "start_h": start, "ramp_min": ramp}


def _thermometry_duration_min(path: Path) -> float:
    """How long a thermometry lasts, by its sidecar."""
    if not is_file(path):
        raise InputError(
            "there is no such thermometry",
            file=path,
            field="--heat",
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


def parse_fraction(text: str) -> dict[str, float]:
    """A fraction of "5@24", Gy@hours.

    Raises:
        InputError: it is something else.
    """
    found = _RADIATION.fullmatch(text.strip())
    if found is None:
        raise InputError(
            "the radiation cannot be read",
            field="--radiation",
            found=text,
            expected='"5@24", Gy@hours',
        )
    return {"dose_Gy": float(found[1]), "time_h": float(found[2])}
