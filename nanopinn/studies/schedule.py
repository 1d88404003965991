"""Treatments from schedule files (TOML): validation of doses, formulations by name or file, and
errors that name the entry.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, Strict, ValidationError

from nanopinn.errors import InputError
from nanopinn.io.safe_open import TomlNumber, read_toml
from nanopinn.parameters import HOUR, MINUTE, ZERO_CELSIUS
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_library import (
    FORMULATIONS,
    packaged_formulation,
    parse_formulation,
)
from nanopinn.physics.heat import HeatEffects
from nanopinn.physics.plasma import Dose
from nanopinn.physics.species import Subject
from nanopinn.physics.treatment import Fraction, GivenDose, Heating, RadiationCourse, Treatment
from nanopinn.settings import DoseAmount
from nanopinn.studies.dosing import (
    build_subject,
    describe_subject_assumptions,
    dose_amount_kg,
    require_single_carrier,
    with_measured_plasma,
)


def find_formulation(
    name: str, folder: Path = Path(), *, file: Path | None = None, field: str = "formulation"
) -> Formulation:
    """Find a formulation by its name or alias, or read it from a TOML file.

    Args:
        name: of a packaged formulation, or the path of a .toml file relative to ``folder``.
        folder: of relative paths.
        file: in errors.
        field: in errors.

    Raises:
        InputError: no formulation has the name, or as :func:`read_formulation`.
    """
    if (known := packaged_formulation(name.strip())) is not None:
        return known
    if name.strip().endswith(".toml"):
        return read_formulation(folder / name.strip())
    names = (
        f.name + (f" ({', '.join(f.aliases)})" if f.aliases else "") for f in FORMULATIONS.values()
    )
    raise InputError(
        "unknown formulation",
        file=file,
        field=field,
        found=name,
        expected=f"{', '.join(names)}, or a .toml file",
        remedy="Describe it in a file of your own: see docs/formulations.",
    )


def read_formulation(path: str | Path) -> Formulation:
    """Read a formulation from a TOML file: see docs/formulations.

    Args:
        path: of the file.

    Raises:
        InputError: the file cannot be read, an entry is wrong, or the name is that of a packaged
            formulation.
    """
    path = Path(path)
    found = parse_formulation(read_toml(path, "the formulation"), path)
    taken = next(
        (n for n in (found.name, *found.aliases) if packaged_formulation(n) is not None), None
    )
    if taken is not None:
        raise InputError(
            "the name is that of a packaged formulation",
            file=path,
            field="name",
            found=taken,
            remedy="Choose another.",
        )
    return replace(found, file=path)


#: Longest treatment, h (two years), and largest number of entries of one kind.
MAX_DURATION_H, MAX_ENTRIES = 17520.0, 1000
Hours = Annotated[TomlNumber, Field(ge=0, le=MAX_DURATION_H)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Subject(_Table):
    species: str | None = None
    body_weight_kg: TomlNumber | None = Field(default=None, gt=0)
    body_surface_m2: TomlNumber | None = Field(default=None, gt=0)
    plasma: Path | None = None


class _Dose(_Table):
    formulation: str
    start_h: Hours
    amount_mg: TomlNumber | None = Field(None, gt=0)
    mg_per_m2: TomlNumber | None = Field(None, gt=0)
    mg_per_kg: TomlNumber | None = Field(None, gt=0)
    infusion_min: TomlNumber = Field(0.0, ge=0, le=MAX_DURATION_H * MINUTE)


class _Heat(_Table):
    start_h: Hours
    minutes: TomlNumber = Field(gt=0, le=MAX_DURATION_H * MINUTE)
    temperature_C: TomlNumber | None = Field(None, ge=37, le=60)
    file: Path | None = None
    ramp_min: TomlNumber = Field(0.0, ge=0, le=MAX_DURATION_H * MINUTE)
    mode: Literal["imposed", "pennes"] = "imposed"


class _Radiation(_Table):
    time_h: Hours
    dose_Gy: TomlNumber = Field(gt=0, le=100)


class _Imaging(_Table):
    times_h: tuple[Hours, ...] = Field((), max_length=MAX_ENTRIES)


class _Run(_Table):
    end_h: TomlNumber = Field(gt=0, le=MAX_DURATION_H)
    heat_effects: Annotated[bool, Strict()] = True


class _File(_Table):
    run: _Run
    dose: tuple[_Dose, ...] = Field((), max_length=MAX_ENTRIES)
    heat: tuple[_Heat, ...] = Field((), max_length=MAX_ENTRIES)
    radiation: tuple[_Radiation, ...] = Field((), max_length=MAX_ENTRIES)
    imaging: _Imaging = _Imaging(times_h=())
    # [patient] is the name of this table in files of version 0.1
    subject: _Subject = Field(_Subject(), validation_alias=AliasChoices("subject", "patient"))


def read_schedule(
    path: Path, *, plasma: Path | None = None, first_image_s: float | None = None
) -> Treatment:
    """Read a schedule; files that it names are relative to its folder.

    Args:
        path: of the file.
        plasma: measured drug in plasma, in place of that of the schedule.
        first_image_s: time of the first drug image after the first dose, s, by which a measured
            plasma curve has to begin.

    Raises:
        InputError: the file cannot be read; an entry is unknown, missing or out of range; a
            formulation is unknown or has no known kinetics in the species; a dose is not plausible;
            two heatings overlap; an event is after the end; or nothing is given.
    """
    return treatment_from_tables(
        read_schedule_tables(path), path, plasma=plasma, first_image_s=first_image_s
    )


def read_schedule_tables(path: Path) -> dict[str, Any]:
    """Read the tables of a schedule file without validation.

    Args:
        path: of the file.

    Raises:
        InputError: the file cannot be read.
    """
    return read_toml(path, "the schedule")


def treatment_from_tables(
    tables: Mapping[str, Any],
    path: Path | None,
    formulation: Formulation | None = None,
    *,
    plasma: Path | None = None,
    first_image_s: float | None = None,
) -> Treatment:
    """Build the treatment that the tables of a schedule describe.

    Args:
        tables: of the schedule.
        path: of the file, for errors and relative paths; None for tables without a file.
        formulation: of every dose, in place of those of the tables. Measured drug in plasma is then
            not used, because it is that of another formulation.
        plasma: measured drug in plasma, in place of that of the tables.
        first_image_s: time of the first drug image after the first dose, s.

    Raises:
        InputError: as :func:`read_schedule`.
    """
    try:
        given = _File.model_validate(tables)
    except ValidationError as error:
        first = error.errors()[0]
        missing = first["type"] == "missing"
        raise InputError(
            f"an entry of the schedule {'is missing' if missing else 'cannot be used'}",
            file=path,
            field=_format_location(first["loc"]),
            found=None if missing else first["input"],
            expected=None if missing else first["msg"],
        ) from error
    if not (given.dose or given.heat or given.radiation):
        raise InputError(
            "the schedule has no dose, no heating and no radiation",
            file=path,
            field="dose",
            remedy="Add a [[dose]], a [[heat]] or a [[radiation]] table.",
        )
    stated = given.subject
    subject = build_subject(
        stated.species, stated.body_weight_kg, stated.body_surface_m2, path=path
    )
    if plasma is None and stated.plasma is not None:
        plasma = (Path() if path is None else path.parent) / stated.plasma
    plasma = None if formulation is not None else plasma
    context = _DoseContext(subject, stated.species is not None, plasma is not None, path)
    doses = tuple(_build_dose(d, context, i, formulation) for i, d in enumerate(given.dose))
    require_single_carrier(doses, path)
    treatment = Treatment(
        doses=doses,
        heatings=_sort_heatings(
            tuple(_build_heating(h, i, path) for i, h in enumerate(given.heat)), path
        ),
        radiation=RadiationCourse(
            tuple(Fraction(r.time_h * HOUR, r.dose_Gy) for r in given.radiation)
        ),
        images_s=tuple(sorted({t * HOUR for t in given.imaging.times_h})),
        end_s=given.run.end_h * HOUR,
        heat_effects=HeatEffects() if given.run.heat_effects else None,
        subject=subject,
        assumptions=describe_subject_assumptions(
            subject, stated.species is not None, [d.mg_per_m2 is not None for d in given.dose]
        ),
    )
    _require_events_before_end(treatment, path)
    return with_measured_plasma(treatment, plasma, first_image_s)


def _format_location(location: tuple[int | str, ...]) -> str:
    """``heat 2.start_h`` from ("heat", 1, "start_h")."""
    words = [
        f" {p + 1}" if isinstance(p, int) else ("." if i else "") + p
        for i, p in enumerate(location)
    ]
    return "".join(words)


@dataclass(frozen=True)
class _DoseContext:
    """The subject of the doses, and the file that states them."""

    subject: Subject
    species_is_stated: bool
    plasma_is_measured: bool
    path: Path | None


def _build_dose(
    d: _Dose, context: _DoseContext, index: int, formulation_override: Formulation | None
) -> GivenDose:
    path, field = context.path, f"dose {index + 1}"
    folder = Path() if path is None else path.parent
    what = formulation_override or find_formulation(
        d.formulation, folder, file=path, field=f"{field}.formulation"
    )
    given = DoseAmount(amount_mg=d.amount_mg, mg_per_m2=d.mg_per_m2, mg_per_kg=d.mg_per_kg)
    stated = next(
        (n for n, amount in given.model_dump().items() if amount is not None), "amount_mg"
    )
    amount = dose_amount_kg(
        given,
        context.subject,
        species_is_stated=context.species_is_stated,
        field="dose" if path is None else f"{field}.{stated}",
        path=path,
    )
    return GivenDose(
        what.in_subject(context.subject, plasma_is_measured=context.plasma_is_measured),
        Dose(d.start_h * HOUR, amount, d.infusion_min * MINUTE),
    )


def _build_heating(h: _Heat, index: int, path: Path | None) -> Heating:
    field = f"heat {index + 1}"
    if (h.temperature_C is None) == (h.file is None):
        raise InputError(
            "a heating needs one temperature",
            file=path,
            field=f"{field}.temperature_C",
            expected="either temperature_C or file",
        )
    if h.file is not None and h.mode == "pennes":
        raise InputError(
            "measured temperatures must be imposed",
            file=path,
            field=f"{field}.mode",
            found=h.mode,
            expected="imposed",
            remedy="Write temperature_C to heat by Pennes' equation.",
        )
    if h.ramp_min > h.minutes:
        raise InputError(
            "the ramp is longer than the heating",
            file=path,
            field=f"{field}.ramp_min",
            found=h.ramp_min,
            expected=f"at most {h.minutes:g}",
        )
    start, kelvin = (
        h.start_h * HOUR,
        None if h.temperature_C is None else h.temperature_C + ZERO_CELSIUS,
    )
    where = None if h.file is None else (Path() if path is None else path.parent) / h.file
    return Heating(start, start + h.minutes * MINUTE, h.ramp_min * MINUTE, h.mode, kelvin, where)


def _sort_heatings(heatings: tuple[Heating, ...], path: Path | None) -> tuple[Heating, ...]:
    ordered = tuple(sorted(heatings, key=lambda h: h.start_s))
    for a, b in itertools.pairwise(ordered):
        if b.start_s < a.end_s + a.ramp_s:
            raise InputError(
                "two heatings overlap",
                file=path,
                field="heat.start_h",
                found=b.start_s / HOUR,
                expected=(
                    f"at or after {(a.end_s + a.ramp_s) / HOUR:g}, the end of the ramp before it"
                ),
            )
    return ordered


def _require_events_before_end(treatment: Treatment, path: Path | None) -> None:
    last = max((*treatment.events(), *treatment.images_s), default=0.0)
    if last > treatment.end_s:
        raise InputError(
            "the run ends before its last event",
            file=path,
            field="run.end_h",
            found=treatment.end_s / HOUR,
            expected=f"at least {last / HOUR:g}",
        )
