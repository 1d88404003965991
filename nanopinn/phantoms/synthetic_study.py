"""Synthetic studies: simulated images with their truth, in memory or as files.

The truth is solved on a grid finer than the voxels, by another time scheme than fits use, and
averaged to voxels; only then is noise added.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.dce.aif import load_aif
from nanopinn.inference.drug_setup import set_up_drug
from nanopinn.io.array_volume import as_array_volume
from nanopinn.io.output import atomic_output_folder
from nanopinn.io.volumes import write_bytes, write_json, write_volume
from nanopinn.parameters import HOUR, value
from nanopinn.phantoms.scan_simulation import (
    BOLUS_S,
    ScanSimulation,
    SyntheticStudy,
    voxel_means,
)
from nanopinn.phantoms.truth import (
    draw_anatomy,
    draw_constants,
    draw_fields,
    draw_scalars,
    scalars_of_formulation,
    solve_truth,
)
from nanopinn.progress import Progress, ignore_progress
from nanopinn.settings import EXAMPLE_STUDY, PhantomSettings
from nanopinn.studies.treatment_source import example_settings, study_treatment

Array = NDArray[np.float64]


def simulate_study(
    settings: PhantomSettings, *, progress: Progress = ignore_progress
) -> SyntheticStudy:
    """Draw a tumour, solve its truth and image it; nothing is written.

    Args:
        settings: size, noise and properties of the phantom.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.

    Returns:
        The images with their truth.

    Raises:
        InputError: so few voxels that none lies in the tumour.
    """
    rng = np.random.default_rng(settings.seed)
    fine_mm = tuple(h / settings.refine for h in settings.voxel_mm)
    shape = tuple(n * settings.refine for n in settings.shape)
    progress("drawing the tumour", 0.0, {})
    anatomy = draw_anatomy(shape, fine_mm, rng, settings.tumour_mm)  # type: ignore[arg-type]
    log_sds = {"conductivity": settings.conductivity_sd, "release": settings.release_sd}
    anatomy = draw_fields(anatomy, fine_mm, log_sds, settings.seed)  # type: ignore[arg-type]
    if not (voxel_means(anatomy.tumour.astype(float), settings.refine) > 0.5).any():
        raise InputError(
            "no voxel would lie in the tumour",
            field="shape",
            found=settings.shape,
            expected="3 voxels or more along every axis",
            remedy="Give more voxels.",
        )
    length = None if settings.length_scale_mm is None else settings.length_scale_mm * 1e-3
    times = np.sort(np.array(settings.drug_times_h)) * HOUR
    study = example_settings(settings)
    treatment = study_treatment(study, (), float(times.max()))
    assert treatment is not None
    setup = set_up_drug(treatment, with_images=True)
    assert setup.course is not None
    constants = draw_constants(setup.considered, settings.seed) if settings.draw_constants else {}
    course = replace(setup.course, values={**setup.course.values, **constants})
    species = treatment.subject.species
    drawn = draw_scalars(rng, length)
    scalars = scalars_of_formulation(drawn, setup.unknowns, settings.seed)
    frames: Array = np.arange(settings.frames, dtype=np.float64) * float(settings.frame_spacing_s)
    aif = load_aif(
        species.arterial_input,
        frame_times_s=frames,
        bolus_arrival_s=BOLUS_S,
        hematocrit=value(species.haematocrit),
    ).curve
    progress("solving the truth", 0.1, {})
    spacing = (fine_mm[0] * 1e-3, fine_mm[1] * 1e-3, fine_mm[2] * 1e-3)
    changed = dict(settings.factors)
    truth = solve_truth(
        anatomy,
        spacing,
        scalars,
        aif,
        frames,
        times,
        course,
        settings.pore_error,
        changed,  # type: ignore[arg-type]
        adaptive=study != EXAMPLE_STUDY and not changed,
    )
    if changed:  # a second scan of the same tumour must have independent noise
        rng = np.random.default_rng([settings.seed, 1])
    progress("simulating the images", 0.8, {})
    scan = ScanSimulation(settings, anatomy, truth, frames, rng, treatment, constants)
    return scan.study()


def make_phantom(
    out: Path, settings: PhantomSettings, *, progress: Progress = ignore_progress
) -> Path:
    """Write a complete synthetic study with its truth.

    Args:
        out: a folder that does not exist yet, or is empty.
        settings: size, noise and properties of the phantom.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.

    Returns:
        The folder.

    Raises:
        InputError: so few voxels that none lies in the tumour.
        OutputError: the folder holds something, or cannot be written.
    """
    out = Path(out)
    with atomic_output_folder(out, overwrite=False) as part:
        write_study(part, simulate_study(settings, progress=progress))
        _copy_treatment(part, settings)
    progress("done", 1.0, {})
    return out


def write_study(folder: Path, study: SyntheticStudy) -> None:
    """Write the images of a study into a folder, and its truth into ``truth`` there.

    Args:
        folder: an empty folder.
        study: images and truth.
    """
    named = {**study.images, **{f"truth/{name}": v for name, v in study.truth.items()}}
    for name, volume in named.items():
        array = as_array_volume(volume, name)
        spacing = 0.0 if np.isnan(array.frame_spacing_s) else array.frame_spacing_s
        write_volume(
            folder / f"{name}.nii.gz",
            np.asarray(volume),
            array.affine,
            sidecar=array.sidecar or None,
            frame_spacing_s=spacing,
        )
    write_json(folder / "truth" / "parameters.json", study.parameters)


def _copy_treatment(folder: Path, settings: PhantomSettings) -> None:
    """Copy the schedule, and files that state formulations, beside the images."""
    treatment = study_treatment(example_settings(settings), (), 0.0)
    assert treatment is not None
    if settings.schedule is not None:
        write_bytes(folder / "schedule.toml", settings.schedule.read_bytes())
    for file in treatment.files:
        write_bytes(folder / file.name, file.read_bytes())
