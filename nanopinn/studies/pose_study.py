"""The inverse problem of a study from its images and the treatment that was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nanopinn.imaging.drug_image import DrugImage
from nanopinn.imaging.imaging_data import ImagingInputs, ImagingMaps
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.pose import PosedProblem, load_drug_images, pose_problem
from nanopinn.io.array_volume import ArrayVolume, as_file
from nanopinn.io.volumes import read_sidecar
from nanopinn.settings import FitSettings
from nanopinn.studies.simulate import temperature_course
from nanopinn.studies.tissue_source import SimulatedTissue
from nanopinn.studies.treatment_source import study_treatment

#: Message of a fit whose treatment the engine "krylov" cannot solve.
KRYLOV_NEEDS_ONE_BOLUS = (
    "Engine krylov solves one bolus of a carrier without heat and with linear uptake. For this"
    " treatment the engine fv was used."
)


def pose_study(
    imaging: ImagingMaps,
    inputs: ImagingInputs,
    settings: FitSettings,
    device: str,
    *,
    images: Sequence[DrugImage] | None = None,
) -> PosedProblem:
    """The inverse problem of a study with the treatment that its settings or sidecars state.

    Args:
        imaging: kinetic maps, pH and curves.
        inputs: with drug images in memory.
        settings: of the fit.
        device: of torch.
        images: a part of the drug images, on the grid of the scan; None: all of them.

    Raises:
        InputError: a drug image or the treatment cannot be used.
    """
    if images is None:
        images = load_drug_images(imaging, settings, inputs.drug)
    sidecars = [read_sidecar(d) for d in list_drug_images(inputs, settings)]
    last = max((image.time_s for image in images), default=0.0)
    treatment = study_treatment(settings, sidecars, last)
    posed = pose_problem(imaging, images, settings, device, treatment)
    course = posed.problem.course
    if course is None or not course.treatment.heatings:
        return posed
    maps, grid = posed.problem.setting.maps, posed.problem.setting.grid
    tissue = SimulatedTissue(
        maps, grid, posed.domain, {}, np.asarray(imaging.affine), imaging.mask, ()
    )
    temperature, notes, _ = temperature_course(course.treatment, tissue)
    problem = replace(posed.problem, course=replace(course, temperature=temperature))
    return replace(posed, problem=problem, assumptions=(*posed.assumptions, *notes))


def krylov_serves(problem: InverseProblem) -> bool:
    """Whether the engine ``krylov`` can solve the drug of a problem."""
    course = problem.course
    if course is None:
        return True
    return course.carrier is not None and course.linear and course.is_single_bolus


def list_drug_images(inputs: ImagingInputs, settings: FitSettings) -> list[Path | ArrayVolume]:
    """Post-dose images that are read, and those in memory."""
    return [*(Path(d) for d in settings.drug), *(as_file(d) for d in inputs.drug)]
