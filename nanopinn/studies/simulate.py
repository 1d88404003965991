"""Forward simulation of a treatment in a tumour: tissue, temperature, flow, and pools in time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nanopinn.errors import InputError
from nanopinn.imaging.imaging_data import ImagingMaps
from nanopinn.inference.device import choose_device
from nanopinn.io.tables import hash_files
from nanopinn.parameters import MM
from nanopinn.physics.treatment import Treatment
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import FitResult, Simulation
from nanopinn.settings import PhantomSettings, SimulationSettings
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.solvers.treatment_timeline import TreatmentTimeline
from nanopinn.studies.schedule import read_schedule
from nanopinn.studies.simulation_outputs import (
    TumourRecorder,
    build_flow_simulation,
    build_simulation,
)
from nanopinn.studies.simulation_parameters import read_stated_values
from nanopinn.studies.temperature import temperature_course
from nanopinn.studies.tissue_source import (
    MapFiles,
    SimulatedTissue,
    tissue_from_files,
    tissue_from_phantom,
    tissue_from_result,
    tissue_from_result_folder,
)

if TYPE_CHECKING:
    from nanopinn.studies.arms.arm_specs import Arm
    from nanopinn.studies.arms.patient import Patient


def run_simulation(
    schedule: str | Path | Treatment,
    *,
    folder: str | Path | None = None,
    phantom: PhantomSettings | None = None,
    maps: MapFiles | None = None,
    result: FitResult | ImagingMaps | None = None,
    settings: SimulationSettings | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Simulate a treatment in a tumour: every drug pool over time.

    Exactly one of ``folder``, ``phantom``, ``maps`` and ``result`` gives the tumour.

    Args:
        schedule: a schedule file, or the treatment.
        folder: result folder of a fit or of imaging maps.
        phantom: settings of the digital phantom.
        maps: maps as files or arrays.
        result: a fit or imaging maps in memory.
        settings: of the simulation; the default settings if absent.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.

    Raises:
        InputError: not exactly one tumour is given, or an input cannot be used.
    """
    settings, show, began = (
        settings or SimulationSettings(),
        progress or ignore_progress,
        time.perf_counter(),
    )
    treatment = schedule if isinstance(schedule, Treatment) else read_schedule(Path(schedule))
    read = () if isinstance(schedule, Treatment) else (Path(schedule),)
    show("tissue", 0.0, {})
    tissue = _load_tissue(folder, phantom, maps, result, settings)
    rim = None if settings.rim_mm is None else settings.rim_mm * MM
    setting = TissueSetting(tissue.maps, tissue.grid, settings.refine, rim)
    stated = read_stated_values(settings.values, (treatment,))
    tissue = replace(
        tissue,
        scalars={**tissue.scalars, **stated.scalars},
        assumptions=(*tissue.assumptions, *stated.assumptions),
    )
    return _simulate_treatment(
        treatment,
        tissue,
        setting,
        settings,
        show,
        read,
        time.perf_counter() - began,
        stated.values,
    )


def run_arm(
    patient: Patient,
    arm: Arm,
    settings: SimulationSettings | None = None,
    *,
    values: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Simulate one arm in a patient's tumour at the medians of all inputs, on the grids of the fit.

    Args:
        patient: tissue and posterior.
        arm: the treatment.
        settings: numerical choices; ``refine`` and ``rim_mm`` are those of the fit instead.
        values: of parameters by symbol, in place of the table's.
        progress: called with the stage and the fraction that is done.

    Raises:
        InputError: an input cannot be used.
    """
    tissue = replace(patient.tissue, scalars=patient.scalars_for(arm.treatment.carrier))
    setting = TissueSetting(tissue.maps, tissue.grid, patient.flow_refine, patient.rim)
    return _simulate_treatment(
        arm.treatment,
        tissue,
        setting,
        settings or SimulationSettings(),
        progress or ignore_progress,
        values=values,
    )


def _simulate_treatment(
    treatment: Treatment,
    tissue: SimulatedTissue,
    setting: TissueSetting,
    settings: SimulationSettings,
    show: Progress,
    read: tuple[Path, ...] = (),
    reading_s: float = 0.0,
    values: Mapping[str, float] | None = None,
) -> Simulation:
    """Simulate a treatment of a tissue; ``read`` are the files that were read before."""
    began = time.perf_counter()
    temperature, notes, more = temperature_course(treatment, tissue)
    # hashed here, because the files may be gone at the end
    inputs = hash_files((*read, *tissue.files, *treatment.files, *more))
    seconds = {"tissue": reading_s + time.perf_counter() - began}
    course = TreatmentTimeline(
        setting,
        tissue.scalars,
        treatment,
        temperature,
        advection=settings.advection,
        values=values,
    )
    if not treatment.doses:
        return build_flow_simulation(course, tissue, notes, seconds, inputs, show)
    on_step = TumourRecorder(course)
    save = sorted({*(treatment.images_s or (treatment.end_s,)), treatment.end_s})
    show("pressure and pools", 0.0, {})
    run = integrate_adaptive(
        course.intervals(),
        course.zero_pools(),
        save,
        tolerance=Tolerance(step=settings.tolerance),
        progress=show,
        on_step=on_step,
    )
    seconds["pools"] = reading_s + time.perf_counter() - began - seconds["tissue"]
    return build_simulation(course, tissue, run, on_step, notes, seconds, inputs)


def _load_tissue(
    folder: str | Path | None,
    phantom: PhantomSettings | None,
    maps: MapFiles | None,
    result: FitResult | ImagingMaps | None,
    settings: SimulationSettings,
) -> SimulatedTissue:
    sources = {"folder": folder, "phantom": phantom, "maps": maps, "result": result}
    given = [name for name, source in sources.items() if source is not None]
    if len(given) != 1:
        raise InputError(
            "a simulation needs one tumour",
            field=", ".join(given) or "folder",
            found=f"{len(given)} sources",
            expected="a result folder, the phantom, or maps of Ktrans, ve, vp, pH and the mask",
            remedy="Give one of `folder`, `phantom` and `maps`.",
        )
    device = choose_device(settings.device)
    if folder is not None:
        return tissue_from_result_folder(Path(folder), settings.assume_ph, device)
    if maps is not None:
        return tissue_from_files(maps, settings.assume_ph, device)
    if result is not None:
        return tissue_from_result(result, settings.assume_ph, device)
    assert phantom is not None
    return tissue_from_phantom(phantom, device)
