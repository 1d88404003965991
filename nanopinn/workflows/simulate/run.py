"""A forward run: tissue, treatment, pools in time, and what is shown of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from nanopinn.errors import InputError
from nanopinn.imaging.fingerprints import fingerprints
from nanopinn.progress import Progress, silent
from nanopinn.report.simulated import Simulation
from nanopinn.solvers.evolve import Tolerance, evolve
from nanopinn.solvers.forward import Setting
from nanopinn.workflows.device import choose_device
from nanopinn.workflows.schedule import read_schedule
from nanopinn.workflows.settings import PhantomSettings, SimulationSettings
from nanopinn.workflows.simulate.course import Course
from nanopinn.workflows.simulate.heating import temperature_course
from nanopinn.workflows.simulate.shown import Watch, simulation_of
from nanopinn.workflows.simulate.sources import (
    MapFiles,
    SimulatedTissue,
    tissue_of_files,
    tissue_of_folder,
    tissue_of_phantom,
)
from nanopinn.workflows.treatment import Treatment

if TYPE_CHECKING:
    from nanopinn.workflows.therapy.arms import Arm
    from nanopinn.workflows.therapy.patient import Patient


def run_simulation(
    schedule: str | Path | Treatment,
    *,
    folder: str | Path | None = None,
    phantom: PhantomSettings | None = None,
    maps: MapFiles | None = None,
    settings: SimulationSettings | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Take a treatment through a tumour: every pool in time, without any image of the drug.

    Args:
        schedule: a schedule file, or the treatment itself.
        folder: the ``--out`` of ``nanopinn fit`` or ``nanopinn maps``. phantom: the digital phantom instead. maps: or maps in files.
            Exactly one of the three.

    Raises:
        InputError: something given cannot be used.
    """
    settings, show, began = (
        settings or SimulationSettings(),
        progress or silent,
        time.perf_counter(),
    )
    treatment = schedule if isinstance(schedule, Treatment) else read_schedule(Path(schedule))
    read = () if isinstance(schedule, Treatment) else (Path(schedule),)
    show("tissue", 0.0, {})
    tissue = _tissue(folder, phantom, maps, settings)
    rim = None if settings.rim_mm is None else settings.rim_mm * 1e-3
    setting = Setting(tissue.maps, tissue.grid, settings.refine, rim)
    return _through(treatment, tissue, setting, settings, show, (time.perf_counter() - began, read))


def run_arm(
    patient: Patient,
    arm: Arm,
    settings: SimulationSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Simulation:
    """Take one arm through a patient's tumour at the median of all that is uncertain, on the fit's own grids.

    Args:
        settings: its ``refine`` and ``rim_mm`` are the fit's here, whatever they say.

    Raises:
        InputError: something given cannot be used.
    """
    tissue = patient.tissue
    setting = Setting(tissue.maps, tissue.grid, patient.flow_refine, patient.rim)
    return _through(
        arm.treatment,
        tissue,
        setting,
        settings or SimulationSettings(),
        progress or silent,
        (0.0, ()),
    )


def _through(
    treatment: Treatment,
    tissue: SimulatedTissue,
    setting: Setting,
    settings: SimulationSettings,
    show: Progress,
    before: tuple[float, tuple[Path, ...]],
) -> Simulation:
    """A treatment through a tissue; ``before`` are the seconds that reading took, and what was read."""
    began, (reading, read) = time.perf_counter(), before
    temperature, notes, more = temperature_course(treatment, tissue)
    inputs = fingerprints(
        (*read, *tissue.files, *treatment.files, *more)
    )  # now: they need not be there at the end
    seconds = {"tissue": reading + time.perf_counter() - began}
    course = Course(setting, tissue.scalars, treatment, temperature, advection=settings.advection)
    watch = Watch(course)
    save = sorted({*(treatment.images_s or (treatment.end_s,)), treatment.end_s})
    show("pressure and pools", 0.0, {})
    run = evolve(
        course.intervals(),
        course.empty(),
        save,
        tolerance=Tolerance(step=settings.tolerance),
        progress=show,
        watch=watch,
    )
    seconds["pools"] = reading + time.perf_counter() - began - seconds["tissue"]
    return simulation_of(course, tissue, run, watch, notes, seconds, inputs)


def _tissue(
    folder: str | Path | None,
    phantom: PhantomSettings | None,
    maps: MapFiles | None,
    settings: SimulationSettings,
) -> SimulatedTissue:
    given = [
        name
        for name, g in (("--from", folder), ("--phantom", phantom), ("--ktrans", maps))
        if g is not None
    ]
    if len(given) != 1:
        raise InputError(
            "a simulation needs one tumour",
            field=", ".join(given) or "--from",
            found=f"{len(given)} sources",
            expected="one of --from DIR, --phantom, or --ktrans --ve --vp --ph --mask",
        )
    device = choose_device(settings.device)
    if folder is not None:
        return tissue_of_folder(Path(folder), settings.assume_ph, device)
    if maps is not None:
        return tissue_of_files(maps, settings.assume_ph, device)
    assert phantom is not None
    return tissue_of_phantom(phantom, device)
