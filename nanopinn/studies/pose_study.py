"""The inverse problem of a study from its images and the treatment that was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.imaging.drug_image import DrugImage
from nanopinn.imaging.imaging_data import ImagingInputs, ImagingMaps
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.pose import PosedProblem, load_drug_images, pose_problem
from nanopinn.io.array_volume import ArrayVolume, as_file
from nanopinn.io.volumes import read_sidecar
from nanopinn.physics.treatment import Treatment
from nanopinn.settings import FitSettings
from nanopinn.studies.temperature import temperature_course
from nanopinn.studies.tissue_source import SimulatedTissue
from nanopinn.studies.treatment_source import (
    inputs_of_species,
    stated_species,
    study_treatment,
    treatment_files,
)

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
    treatment = _read_treatment(settings, sidecars, last)
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


def _read_treatment(
    settings: FitSettings, sidecars: Sequence[Mapping[str, Any]], last_image_s: float
) -> Treatment | None:
    """The treatment of a study; None where there is no drug image and it is not stated in full."""
    stated = settings.schedule is not None or (settings.formulation and settings.drug_dose)
    return study_treatment(settings, sidecars, last_image_s) if sidecars or stated else None


def treatment_of_study(inputs: ImagingInputs, settings: FitSettings) -> Treatment | None:
    """The treatment that the settings or the sidecars of the drug images state.

    Args:
        inputs: with drug images in memory.
        settings: of the fit.

    Raises:
        InputError: a sidecar or the treatment cannot be used.
    """
    sidecars = [read_sidecar(d) for d in list_drug_images(inputs, settings)]
    return _read_treatment(settings, sidecars, 0.0)


def inputs_of_study(inputs: ImagingInputs, settings: FitSettings) -> ImagingInputs:
    """The inputs with the arterial input and haematocrit of the species where none are given.

    A treatment that is not stated or cannot be used is refused here, before anything is computed.

    Args:
        inputs: images and settings of the imaging.
        settings: of the fit.

    Raises:
        InputError: a sidecar or the treatment cannot be used.
    """
    sidecars = [read_sidecar(d) for d in list_drug_images(inputs, settings)]
    _read_treatment(settings, sidecars, 0.0)
    return inputs_of_species(inputs, stated_species(settings, sidecars))


def list_study_files(inputs: ImagingInputs, settings: FitSettings) -> list[Path | ArrayVolume]:
    """Files of the fit besides those of the imaging: drug images and those of the treatment."""
    return [*list_drug_images(inputs, settings), *treatment_files(settings)]


def krylov_serves(problem: InverseProblem) -> bool:
    """Whether the engine ``krylov`` can solve the drug of a problem."""
    course = problem.course
    if course is None:
        return True
    return course.carrier is not None and course.linear and course.is_single_bolus


def list_drug_images(inputs: ImagingInputs, settings: FitSettings) -> list[Path | ArrayVolume]:
    """Post-dose images that are read, and those in memory."""
    return [*(Path(d) for d in settings.drug), *(as_file(d) for d in inputs.drug)]
