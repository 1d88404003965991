"""Comparison of treatment arms in one tumour: on the voxel grid at the medians of all inputs, and
in the sub-voxel model for every draw.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.device import choose_device, run_with_cpu_fallback
from nanopinn.io.checkpoint_store import CheckpointStore, ResumeMode
from nanopinn.io.tables import check_files_unchanged, hash_files
from nanopinn.parameters import HOUR, MINUTE, UG_PER_ML
from nanopinn.physics.cell_kill import KILL_MODELS
from nanopinn.progress import Progress, ignore_progress
from nanopinn.report.treatment_summary import describe_radiation_comparison
from nanopinn.results import (
    ComparedArm,
    Comparison,
    HeatingDurationSweep,
    InputSensitivity,
    Simulation,
    VoxelCluster,
    median_and_interval,
    probability_of_majority,
)
from nanopinn.settings import ComparisonSettings, PhantomSettings, SimulationSettings
from nanopinn.solvers.clusters import cluster_mean
from nanopinn.solvers.krogh_exposure import Exposure
from nanopinn.studies.arms.arm_specs import Arm
from nanopinn.studies.arms.comparison_inputs import (
    radiation_effect_of_scans,
    read_comparison_inputs,
)
from nanopinn.studies.arms.draws import InputDraws, draw_inputs
from nanopinn.studies.arms.influences import rank_influences
from nanopinn.studies.arms.microscale import ExposureModel
from nanopinn.studies.arms.outcomes import (
    comparison_identity,
    compute_outcomes,
    exposure_maps,
    group_peak_quantiles,
    list_comparison_files,
    penetration_curves,
    summarise_comparison,
    tumour_mean,
)
from nanopinn.studies.arms.patient import Patient
from nanopinn.studies.arms.radiotherapy import compare_without_radiation
from nanopinn.studies.minimal_imaging import OutcomeFunction
from nanopinn.studies.simulate import run_arm
from nanopinn.studies.simulation_parameters import StatedValues
from nanopinn.studies.tissue_source import MapFiles

Array = NDArray[np.float64]


def compare_arms(
    settings: ComparisonSettings,
    *,
    folder: str | Path | None = None,
    phantom: PhantomSettings | None = None,
    maps: MapFiles | None = None,
    schedule: Path | None = None,
    progress: Progress | None = None,
    checkpoint_folder: Path | None = None,
    resume: ResumeMode = False,
) -> Comparison:
    """Compare treatment arms in a tumour, with the uncertainty of all inputs.

    Args:
        settings: arms, draws and numerical choices.
        folder: result folder of a fit or of imaging maps. Exactly one of this, ``phantom`` and
            ``maps`` is given. Without a fit every scalar of the model is drawn from its prior.
        phantom: settings of the digital phantom.
        maps: maps as files or arrays.
        schedule: a schedule file, in place of the dose, heat and radiation of the settings; each
            arm replaces its formulation.
        progress: called with the stage and the fraction that is done.
        checkpoint_folder: for intermediate results, from which an interrupted run can continue.
        resume: continue from the intermediate results; ``"if available"``: only where there are
            some of the same inputs and settings.

    Returns:
        The comparison.

    Raises:
        InputError: an input cannot be used.
    """
    show = progress or ignore_progress

    def run(device: str, resume: ResumeMode) -> Comparison:
        return _run_comparison(
            settings, folder, phantom, maps, schedule, show, checkpoint_folder, resume, device
        )

    device = choose_device(settings.device)
    found, on_cpu = run_with_cpu_fallback(
        lambda: run(device, resume), lambda: run("cpu", "if available"), device
    )
    if not on_cpu:
        return found
    return replace(
        found,
        assumptions=(
            *found.assumptions,
            "The GPU's memory was exhausted: the comparison continued on the CPU.",
        ),
    )


def _run_comparison(
    settings: ComparisonSettings,
    folder: str | Path | None,
    phantom: PhantomSettings | None,
    maps: MapFiles | None,
    schedule: Path | None,
    show: Progress,
    checkpoint_folder: Path | None,
    resume: ResumeMode,
    device: str,
) -> Comparison:
    began = time.perf_counter()
    show("tumour and draws", 0.0, {})
    patient, arms, stated, notes = read_comparison_inputs(
        settings, schedule, device, folder=folder, phantom=phantom, maps=maps
    )
    files = list_comparison_files(patient, arms, schedule, settings)
    read = hash_files(files)
    checkpoint_store = _open_checkpoint_store(
        checkpoint_folder, resume, comparison_identity(settings, read, phantom), device
    )
    effect = radiation_effect_of_scans(settings.radiation_from, folder, arms)
    exposure_model = ExposureModel.from_draws(
        patient,
        draw_inputs(patient, arms, settings.draws, settings.seed, radiation=effect, stated=stated),
        settings,
        checkpoint_store,
        show,
    )
    seconds = {"tumour and draws": time.perf_counter() - began}
    numerical = SimulationSettings(
        tolerance=settings.tolerance, refine=settings.refine, device=device
    )
    medians = {symbol: float(v[0]) for symbol, v in exposure_model.draws.values.items()}
    simulations = {}
    for arm in arms:
        at = time.perf_counter()
        simulations[arm.name] = run_arm(
            patient,
            arm,
            numerical,
            values=medians,
            progress=_rename_progress_stage(show, f"{arm.name}: voxels"),
        )
        seconds[f"{arm.name}: voxels"] = time.perf_counter() - at
    exposures = {}
    for arm in arms:
        at = time.perf_counter()
        exposures[arm.name] = exposure_model.expose(arm)
        seconds[f"{arm.name}: sub-voxel model"] = time.perf_counter() - at
    primary_arm = select_primary_arm(arms)
    at = time.perf_counter()
    heating = _heating_times(primary_arm, exposure_model, exposures[primary_arm.name], settings)
    influences, not_ranked = _influences(primary_arm, exposure_model, settings, stated)
    gain = compare_without_radiation(primary_arm, exposure_model, exposures[primary_arm.name])
    seconds["heating times, influences, radiation"] = time.perf_counter() - at
    outcomes = compute_outcomes(exposures, exposure_model.voxels)
    groups = _summarise_groups(exposure_model, exposures)
    labels = exposure_model.labels_on_image
    compared = {
        a.name: ComparedArm(
            a.name,
            simulations[a.name],
            penetration_curves(e, exposure_model.voxels),
            exposure_maps(e, labels),
            e.mass_balance_error,
            group_peak_quantiles(e),
        )
        for a, e in zip(arms, exposures.values(), strict=True)
    }
    show("arms compared", 1.0, {})
    influence_text = (
        f"Fraction of the cells beyond {settings.limit_um:g} um that {primary_arm.name} kills, by"
        f" the {KILL_MODELS['peak'].name}."
    )
    check_files_unchanged(read, files)  # a thermometry is read with every arm
    assumed = (*_assumptions(patient, notes, exposure_model, simulations, exposures), *not_ranked)
    sentences = summarise_comparison(
        primary_arm.name, outcomes, groups, heating, influences, settings.limit_um, settings.lethal
    )
    return Comparison(
        (*sentences, *((describe_radiation_comparison(gain),) if gain else ())),
        compared,
        outcomes,
        groups,
        heating,
        influences,
        influence_text,
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
        prior_only=settings.draws > 0 and not patient.names,
    )


def outcome_function(arm: Arm, name: str, settings: ComparisonSettings) -> OutcomeFunction:
    """An outcome of an arm as a function of a patient and draws.

    Args:
        arm: the treatment.
        name: of the outcome, as :func:`compute_outcomes` names it.
        settings: of the sub-voxel model.

    Returns:
        The function; it raises an InputError if there is no such outcome.
    """

    def evaluate(patient: Patient, draws: InputDraws) -> Array:
        exposure_model = ExposureModel.from_draws(patient, draws, settings)
        rows = {
            o.name: o
            for o in compute_outcomes({arm.name: exposure_model.expose(arm)}, exposure_model.voxels)
        }
        if name not in rows:
            raise InputError(
                "there is no such outcome", field="outcome", found=name, expected=", ".join(rows)
            )
        return rows[name].values[arm.name]

    return evaluate


def select_primary_arm(arms: Sequence[Arm]) -> Arm:
    """Select the arm that the conclusions are about: the first heated arm with heat-triggered
    release, else the first with acid-triggered release, else the last.
    """
    carriers = [(a, a.treatment.carrier) for a in arms]
    hot = [a for a, c in carriers if c is not None and c.responds_to_heat and a.treatment.heatings]
    acid_sensitive = [a for a, c in carriers if c is not None and c.responds_to_acid]
    return [*hot, *acid_sensitive, arms[-1]][0]


def with_heating_duration(arm: Arm, minutes: float) -> Arm:
    """The same arm with another duration of its one heating, min."""
    heating = arm.treatment.heatings[0]
    ramp = min(heating.ramp_s, minutes * MINUTE)
    longer = replace(heating, end_s=heating.start_s + minutes * MINUTE, ramp_s=ramp)
    return Arm(f"{arm.name}_{minutes:g}min", replace(arm.treatment, heatings=(longer,)))


def _open_checkpoint_store(
    checkpoint_folder: Path | None, resume: ResumeMode, study: dict[str, str], device: str
) -> CheckpointStore | None:
    if checkpoint_folder is None:
        return None
    return CheckpointStore.from_interrupted_run(
        checkpoint_folder, study, device, resume
    ) or CheckpointStore.create_empty(checkpoint_folder, study, device)


def _heating_times(
    primary_arm: Arm, exposure_model: ExposureModel, given: Exposure, settings: ComparisonSettings
) -> HeatingDurationSweep | None:
    """Effect of the heating duration; None unless the arm is heated once to a temperature."""
    heatings = primary_arm.treatment.heatings
    if not settings.heating_min or len(heatings) != 1 or heatings[0].file is not None:
        return None
    own = (heatings[0].end_s - heatings[0].start_s) / MINUTE
    minutes = sorted({*settings.heating_min, own})
    found = [
        given if m == own else exposure_model.expose(with_heating_duration(primary_arm, m))
        for m in minutes
    ]
    shares = {
        law: [
            tumour_mean(e.killed[law]["beyond"], exposure_model.voxels, e.shares["beyond"])
            for e in found
        ]
        for law in KILL_MODELS
    }
    return HeatingDurationSweep(
        primary_arm.name,
        np.array(minutes),
        {
            law: np.stack([median_and_interval(v) for v in values], axis=1)
            for law, values in shares.items()
        },
        {
            law: np.array([probability_of_majority(v) for v in values])
            for law, values in shares.items()
        },
    )


def _influences(
    primary_arm: Arm,
    exposure_model: ExposureModel,
    settings: ComparisonSettings,
    stated: StatedValues,
) -> tuple[tuple[InputSensitivity, ...], tuple[str, ...]]:
    """Ranking of the inputs, or the reason why there is none, as a sentence."""
    if not settings.sensitivity:
        return (), ()
    exposure_model.progress("sensitivity analysis", 0.0, {})
    filtration = float(np.average(exposure_model.filtration, weights=exposure_model.voxels))
    try:
        return (
            rank_influences(
                exposure_model.patient,
                primary_arm.treatment,
                filtration,
                counted=exposure_model.counted,
                seed=settings.seed,
                medians={s: float(v[0]) for s, v in exposure_model.draws.values.items()},
                stated={*stated.scalars, *stated.values},
            ),
            (),
        )
    except InputError as error:
        return (), (f"Inputs are not ranked: {error}",)


def _summarise_groups(
    exposure_model: ExposureModel, exposures: dict[str, Exposure]
) -> tuple[VoxelCluster, ...]:
    maps = exposure_model.patient.tissue.maps
    shown = {
        "Ktrans, 1/min": maps.PS * MINUTE,
        "vp": maps.v_p,
        "ve": maps.phi,
        "pH": maps.pH,
    }
    means = {
        name: cluster_mean(v, exposure_model.labels)[:, 0, 0].cpu().numpy()
        for name, v in shown.items()
    }
    means["Jv, 1/h"] = exposure_model.filtration * HOUR
    shares = {
        arm: median_and_interval(e.killed["peak"]["beyond"].cpu().numpy())
        for arm, e in exposures.items()
    }
    found = []
    for i, n in enumerate(exposure_model.voxels):
        lethal = {
            arm: (float(s[0, i]), float(s[1, i]), float(s[2, i])) for arm, s in shares.items()
        }
        found.append(VoxelCluster(int(n), {k: float(v[i]) for k, v in means.items()}, lethal))
    return tuple(found)


def _assumptions(
    patient: Patient,
    notes: Sequence[str],
    exposure_model: ExposureModel,
    simulations: Mapping[str, Simulation],
    exposures: Mapping[str, Exposure],
) -> tuple[str, ...]:
    """Every assumption once, with the ratio of the two models of a voxel."""
    simulation_assumptions = [a for s in simulations.values() for a in s.assumptions]
    ratios = "; ".join(
        f"{arm} {_ratio_to_voxel_model(simulations[arm], e, exposure_model.voxels)}"
        for arm, e in exposures.items()
    )
    comparison_of_models = (
        "Intracellular drug of the sub-voxel model over that of well-mixed voxels, tumour means at"
        f" the medians: {ratios}. Well-mixed voxels exchange too fast; in the sub-voxel model"
        " filtered fluid does not flow to neighbouring voxels."
    )
    return tuple(
        dict.fromkeys(
            [
                *notes,
                *patient.tissue.assumptions,
                *exposure_model.draws.assumptions,
                *simulation_assumptions,
                comparison_of_models,
            ]
        )
    )


def _ratio_to_voxel_model(s: Simulation, e: Exposure, voxels: Array) -> str:
    """Intracellular drug of the cylinders over that of the voxels, at the first and last time."""
    resolved = tumour_mean(e.means["intracellular"][:1].movedim(1, -1), voxels)[0] / UG_PER_ML
    mixed = np.interp(e.times_s, s.fields["intracellular"].times_s, s.means("intracellular"))
    ratio = resolved / np.where(mixed > 0, mixed, np.nan)
    return (
        f"{ratio[0]:.2f} at {e.times_s[0] / HOUR:g} h, {ratio[-1]:.2f} at"
        f" {e.times_s[-1] / HOUR:g} h"
    )


def _rename_progress_stage(show: Progress, name: str) -> Progress:
    """Progress whose stages are shown under one name."""
    return lambda _, fraction, numbers: show(name, fraction, numbers)
