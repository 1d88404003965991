"""Arms of treatment through one tumour, side by side: on the voxel grid at the medians, under the voxel for every draw."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.fingerprints import fingerprints, unchanged
from nanopinn.inference.checkpoint import saved_at
from nanopinn.inference.radiation_effect import RadiationEffect
from nanopinn.inference.resume import Keeper, Resume
from nanopinn.progress import Progress, silent
from nanopinn.report.compared import (
    LAWS,
    ComparedArm,
    Comparison,
    Group,
    HeatingTimes,
    Influence,
    majority,
    spread,
)
from nanopinn.report.simulated import Simulation
from nanopinn.solvers.clusters import group_mean
from nanopinn.solvers.exposure import Exposure
from nanopinn.workflows.device import choose_device
from nanopinn.workflows.settings import ComparisonSettings, PhantomSettings, SimulationSettings
from nanopinn.workflows.simulate.run import run_arm
from nanopinn.workflows.simulate.sources import tissue_of_folder
from nanopinn.workflows.therapy.answer import answer
from nanopinn.workflows.therapy.arms import Arm, arms_of
from nanopinn.workflows.therapy.draws import Draws, draw_inputs
from nanopinn.workflows.therapy.exposed import Exposed
from nanopinn.workflows.therapy.irradiated import effect_of_radiation
from nanopinn.workflows.therapy.irradiation_gain import radiation_gain
from nanopinn.workflows.therapy.kept import files_of, identity
from nanopinn.workflows.therapy.minimal_imaging import OutcomeOf
from nanopinn.workflows.therapy.outcomes import (
    curves_of,
    group_peaks_of,
    maps_of,
    outcomes_of,
    over_tumour,
)
from nanopinn.workflows.therapy.patient import Patient
from nanopinn.workflows.therapy.ranking import influences_of

Array = NDArray[np.float64]
PER_MIN = 60.0


def compare_arms(
    settings: ComparisonSettings,
    *,
    folder: str | Path | None = None,
    phantom: PhantomSettings | None = None,
    schedule: Path | None = None,
    progress: Progress | None = None,
    kept: Path | None = None,
    resume: Resume = False,
) -> Comparison:
    """Take arms of treatment through a tumour, with the uncertainty of all that is not known.

    Args:
        folder: the ``--out`` of a fit. phantom: the digital phantom instead. Exactly one of the two.
        schedule: a schedule file whose formulation each arm replaces, in place of ``settings``' dose, heat and radiation.
        kept: a folder for what is done, from which a run that is killed can go on. resume: go on with what is kept there;
            ``"if kept"``: start anew where nothing of the same inputs and settings is.

    Raises:
        InputError: something given cannot be used.
    """
    device, given = (
        choose_device(settings.device),
        (settings, folder, phantom, schedule, progress or silent, kept),
    )
    try:
        return _compared(*given, resume, device)
    except torch.OutOfMemoryError:
        if device == "cpu":
            raise
    # outside of the handler: its traceback holds what filled the memory
    found = _compared(*given, "if kept", "cpu")
    return replace(
        found,
        assumptions=(
            *found.assumptions,
            "The GPU's memory ran out: the arms were worked out on the CPU from there.",
        ),
    )


def _compared(
    settings: ComparisonSettings,
    folder: str | Path | None,
    phantom: PhantomSettings | None,
    schedule: Path | None,
    show: Progress,
    kept: Path | None,
    resume: Resume,
    device: str,
) -> Comparison:
    began = time.perf_counter()
    show("tumour and draws", 0.0, {})
    arms, notes = given_arms(settings, schedule)
    patient = _patient(folder, phantom, settings, device)
    files = files_of(patient, arms, schedule, settings)
    read = fingerprints(files)
    keeper = _keeper(kept, resume, identity(settings, read, phantom), device)
    effect = _measured_effect(settings.radiation_from, folder, arms)
    exposed = Exposed.of(
        patient,
        draw_inputs(patient, arms, settings.draws, settings.seed, radiation=effect),
        settings,
        keeper,
        show,
    )
    seconds = {"tumour and draws": time.perf_counter() - began}
    numerical = SimulationSettings(
        tolerance=settings.tolerance, refine=settings.refine, device=device
    )
    simulations = {}
    for arm in arms:
        at = time.perf_counter()
        median = Arm(
            arm.name,
            arm.treatment.under(
                {symbol: float(v[0]) for symbol, v in exposed.draws.values.items()}
            ),
        )
        simulations[arm.name] = run_arm(
            patient, median, numerical, progress=_as(show, f"{arm.name}: voxels")
        )
        seconds[f"{arm.name}: voxels"] = time.perf_counter() - at
    exposures = {}
    for arm in arms:
        at = time.perf_counter()
        exposures[arm.name] = exposed.to(arm)
        seconds[f"{arm.name}: under the voxel"] = time.perf_counter() - at
    asked = asked_about(arms)
    at = time.perf_counter()
    heating = _heating_times(asked, exposed, exposures[asked.name], settings)
    influences, not_ranked = _influences(asked, exposed, settings)
    gain = radiation_gain(asked, exposed, exposures[asked.name], settings.lethal)
    seconds["heating times, influences, radiation"] = time.perf_counter() - at
    outcomes = outcomes_of(exposures, exposed.voxels, settings.lethal)
    groups = _groups(exposed, exposures)
    labels = exposed.on_image
    compared = {
        a.name: ComparedArm(
            a.name,
            simulations[a.name],
            curves_of(e, exposed.voxels),
            maps_of(e, labels),
            e.balance_error,
            group_peaks_of(e),
        )
        for a, e in zip(arms, exposures.values(), strict=True)
    }
    show("arms compared", 1.0, {})
    of_influences = f"Of the share of cells beyond {settings.limit_um:g} um that {asked.name} kills by the peak law."
    unchanged(read, files)  # a thermometry is read with every arm
    assumed = (*_assumptions(patient, notes, exposed, simulations, exposures), *not_ranked)
    said = answer(
        asked.name, outcomes, groups, heating, influences, settings.limit_um, settings.lethal
    )
    return Comparison(
        (*said, *((gain.in_words(),) if gain else ())),
        compared,
        outcomes,
        groups,
        heating,
        influences,
        of_influences,
        settings.limit_um,
        settings.lethal,
        settings.draws,
        assumed,
        patient.tissue.affine,
        patient.tissue.mask,
        labels,
        seconds,
        read,
        gain,
    )


def given_arms(
    settings: ComparisonSettings, schedule: Path | None = None
) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """The arms that settings describe, and what was assumed."""
    return arms_of(
        settings.arms,
        dose=settings.dose,
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


def outcome_of(arm: Arm, name: str, settings: ComparisonSettings) -> OutcomeOf:
    """An outcome of an arm by its name in the table, as a function of a patient and draws.

    Raises:
        InputError: there is no such outcome.
    """

    def found(patient: Patient, draws: Draws) -> Array:
        exposed = Exposed.of(patient, draws, settings)
        rows = {
            o.name: o
            for o in outcomes_of({arm.name: exposed.to(arm)}, exposed.voxels, settings.lethal)
        }
        if name not in rows:
            raise InputError(
                "no such outcome", field="--outcome", found=name, expected=", ".join(rows)
            )
        return rows[name].values[arm.name]

    return found


def asked_about(arms: Sequence[Arm]) -> Arm:
    """The arm that the question is about: the first that heat opens and that is heated, else that acid opens, else the last."""
    carriers = [(a, a.treatment.carrier) for a in arms]
    hot = [a for a, c in carriers if c is not None and c.heat is not None and a.treatment.heatings]
    sour = [a for a, c in carriers if c is not None and c.acid is not None]
    return [*hot, *sour, arms[-1]][0]


def heated_for(arm: Arm, minutes: float) -> Arm:
    """The same arm with its one heating this long."""
    heating = arm.treatment.heatings[0]
    ramp = min(heating.ramp_s, minutes * PER_MIN)
    longer = replace(heating, end_s=heating.start_s + minutes * PER_MIN, ramp_s=ramp)
    return Arm(f"{arm.name}_{minutes:g}min", replace(arm.treatment, heatings=(longer,)))


def _patient(
    folder: str | Path | None,
    phantom: PhantomSettings | None,
    settings: ComparisonSettings,
    device: str,
) -> Patient:
    if (folder is None) == (phantom is None):
        raise InputError(
            "arms need one tumour",
            field="--from",
            found="both" if folder else "none",
            expected="--from RESULT, or --phantom",
            remedy="Run `nanopinn fit` first; its --out is what --from takes.",
        )
    if folder is None:
        return Patient.of_phantom(phantom or PhantomSettings(), device)
    if settings.draws == 0 and not saved_at(folder).is_file():
        return Patient(tissue_of_folder(Path(folder), None, device), flow_refine=settings.refine)
    return Patient.of_folder(folder, device)


def _measured_effect(
    text: str | None, before: str | Path | None, arms: Sequence[Arm]
) -> RadiationEffect | None:
    """Radiation's effect from a second scan, ``RESULT@HOURS``.

    Raises:
        InputError: it is written otherwise, or there is no first scan or no radiation.
    """
    if text is None:
        return None
    fractions = arms[0].treatment.radiation.fractions
    after, _, hours = text.rpartition("@")
    if before is None or not fractions:
        raise InputError(
            "an effect of radiation needs a scan before it, and the radiation",
            field="--radiation-from",
            found=text,
            expected="--from BEFORE and --radiation Gy@HOURS",
        )
    try:
        scan_h = float(hours)
    except ValueError:
        raise InputError(
            "the second scan has no time",
            field="--radiation-from",
            found=text,
            expected="RESULT@HOURS, after the beginning",
        ) from None
    return effect_of_radiation(before, after, scan_h=scan_h, fractions=fractions)


def _keeper(kept: Path | None, resume: Resume, study: dict[str, str], device: str) -> Keeper | None:
    if kept is None:
        return None
    return Keeper.of_interrupted(kept, study, device, resume) or Keeper.begun(kept, study, device)


def _heating_times(
    asked: Arm, exposed: Exposed, given: Exposure, settings: ComparisonSettings
) -> HeatingTimes | None:
    """The question's arm heated for other times; None where it is not heated once by a schedule."""
    heatings = asked.treatment.heatings
    if not settings.heating_min or len(heatings) != 1 or heatings[0].file is not None:
        return None
    own = (heatings[0].end_s - heatings[0].start_s) / PER_MIN
    minutes = sorted({*settings.heating_min, own})
    found = [given if m == own else exposed.to(heated_for(asked, m)) for m in minutes]
    shares = {
        law: [
            over_tumour(e.killed[law]["beyond"], exposed.voxels, e.shares["beyond"]) for e in found
        ]
        for law in LAWS
    }
    return HeatingTimes(
        asked.name,
        np.array(minutes),
        {law: np.stack([spread(v) for v in values], axis=1) for law, values in shares.items()},
        {law: np.array([majority(v) for v in values]) for law, values in shares.items()},
    )


def _influences(
    asked: Arm, exposed: Exposed, settings: ComparisonSettings
) -> tuple[tuple[Influence, ...], tuple[str, ...]]:
    """The ranking of inputs; or why there is none, in words."""
    if not settings.sensitivity:
        return (), ()
    exposed.progress("what decides", 0.0, {})
    filtration = float(np.average(exposed.filtration, weights=exposed.voxels))
    try:
        return influences_of(
            exposed.patient,
            asked.treatment,
            filtration,
            counted=exposed.counted,
            seed=settings.seed,
        ), ()
    except InputError as error:
        return (), (f"Inputs are not ranked: {error}",)


def _groups(exposed: Exposed, exposures: dict[str, Exposure]) -> tuple[Group, ...]:
    maps = exposed.patient.tissue.maps
    shown = {"Ktrans, 1/min": maps.PS * PER_MIN, "vp": maps.v_p, "ve": maps.phi, "pH": maps.pH}
    means = {
        name: group_mean(v, exposed.labels)[:, 0, 0].cpu().numpy() for name, v in shown.items()
    }
    means["Jv, 1/h"] = exposed.filtration * 3600
    shares = {arm: spread(e.killed["peak"]["beyond"].cpu().numpy()) for arm, e in exposures.items()}
    found = []
    for i, n in enumerate(exposed.voxels):
        lethal = {
            arm: (float(s[0, i]), float(s[1, i]), float(s[2, i])) for arm, s in shares.items()
        }
        found.append(Group(int(n), {k: float(v[i]) for k, v in means.items()}, lethal))
    return tuple(found)


def _assumptions(
    patient: Patient,
    notes: Sequence[str],
    exposed: Exposed,
    simulations: Mapping[str, Simulation],
    exposures: Mapping[str, Exposure],
) -> tuple[str, ...]:
    """Every assumption once, with how far the two descriptions of a voxel are apart."""
    of_runs = [a for s in simulations.values() for a in s.assumptions]
    apart = "; ".join(
        f"{arm} {_apart(simulations[arm], e, exposed.voxels)}" for arm, e in exposures.items()
    )
    said = (
        f"Drug in cells around vessels over that of mixed voxels, tumour means at the medians: {apart}. A mixed voxel takes up and gives "
        "back too fast; around a vessel what filters in goes to no neighbour."
    )
    return tuple(
        dict.fromkeys(
            [*notes, *patient.tissue.assumptions, *exposed.draws.assumptions, *of_runs, said]
        )
    )


def _apart(s: Simulation, e: Exposure, voxels: Array) -> str:
    """Intracellular drug of the cylinders over that of the voxels, at the first and the last time."""
    under = over_tumour(e.means["intracellular"][:1].movedim(1, -1), voxels)[0] * 1e3
    mixed = np.interp(e.times_s, s.fields["intracellular"].times_s, s.means("intracellular"))
    ratio = under / np.where(mixed > 0, mixed, np.nan)
    return f"{ratio[0]:.2f} at {e.times_s[0] / 3600:g} h, {ratio[-1]:.2f} at {e.times_s[-1] / 3600:g} h"


def _as(show: Progress, name: str) -> Progress:
    """Progress of a part under a name of its own."""
    return lambda _, fraction, numbers: show(name, fraction, numbers)
