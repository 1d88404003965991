"""Value of post-dose images for an outcome of a treatment: the same tumour is fitted without any,
with the images of the first time, of the first two, and so on.

The draws of all other inputs are the same every time, so that only the posterior of the tumour
differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.drug_image import DrugImage
from nanopinn.imaging.imaging_data import ImagingInputs, ImagingMaps
from nanopinn.imaging.pipeline import make_maps
from nanopinn.inference.device import choose_device
from nanopinn.inference.drug_fit import calibrate_relative_images
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.pose import load_drug_images
from nanopinn.inference.saved_fit import FittedProblem
from nanopinn.inference.uncertainty.identifiability import validate_problem
from nanopinn.parameters import HOUR, MG
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import ImagingStage, MinimalImaging
from nanopinn.settings import ComparisonSettings, DoseAmount, FitSettings
from nanopinn.studies.arms.comparison_inputs import with_imaged_subject
from nanopinn.studies.arms.draws import InputDraws, draw_inputs
from nanopinn.studies.arms.patient import Patient
from nanopinn.studies.pose_study import inputs_of_study, pose_study, treatment_of_study

if TYPE_CHECKING:
    from nanopinn.studies.arms.arm_specs import Arm

Array = NDArray[np.float64]

#: A positive number for every draw, ``(draw,)``, of a patient.
OutcomeFunction = Callable[[Patient, InputDraws], Array]


def outcome_uncertainty_by_images(
    inputs: ImagingInputs,
    settings: FitSettings,
    arms: Sequence[Arm],
    outcome: OutcomeFunction,
    *,
    name: str,
    unit: str = "1",
    draws: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> MinimalImaging:
    """Fit a tumour with none, one and more of its post-dose images, and compute the uncertainty of
    an outcome each time.

    Images of one time belong to one session. Fits are by the engine ``fv``.

    Args:
        inputs: of the imaging.
        settings: of the fits; ``drug`` holds the post-dose images.
        arms: treatments that the outcome depends on.
        outcome: positive function of a patient and draws.
        name: of the outcome.
        unit: of the outcome.
        draws: number of draws, 10 or more.
        seed: of the draws.
        progress: called with the stage and the fraction that is done.

    Raises:
        InputError: there is no post-dose image, an input cannot be used, or there are too few
            draws.
    """
    if draws < 10:
        raise InputError(
            "too few draws for an uncertainty", field="draws", found=draws, expected="10 or more"
        )
    if not (settings.drug or inputs.drug):
        raise InputError(
            "there is no post-dose image",
            field="drug",
            expected="one or more, at one or more times",
        )
    if any(f.endswith(":neural") for f in settings.field):
        raise InputError(
            "neural fields are not fitted here",
            field="field",
            found=", ".join(settings.field),
            expected="bumps",
        )
    show = progress or ignore_progress
    inputs = inputs_of_study(inputs, settings)
    imaging = make_maps(inputs, progress=show)
    by_time = _group_by_time(load_drug_images(imaging, settings, inputs.drug))
    patients = fit_sequentially(imaging, inputs, by_time, settings, show)
    imaging_stages = [
        _evaluate_stage(
            "prior", 0, patients[0].with_prior_uncertainty(), (), arms, outcome, draws, seed
        )
    ]
    for k, patient in enumerate(patients):
        hours = " + ".join(f"{s[0].time_s / HOUR:g} h" for s in by_time[:k])
        label = f"before the dose, and {hours} after" if k else "before the dose alone"
        imaging_stages.append(
            _evaluate_stage(label, k, patient, _informed(patient), arms, outcome, draws, seed)
        )
    known = replace(patients[-1], covariance=np.zeros_like(patients[-1].covariance))
    remaining = _evaluate_stage(
        "if all unknowns of the fit were known",
        len(by_time),
        known,
        known.names,
        arms,
        outcome,
        draws,
        seed,
    )
    remaining = replace(remaining, informed=())
    notes = (
        (
            "Images of one time belong to one session. Each fit starts from the one before it; its"
            " posterior is a Laplace approximation."
        ),
        (
            f"The same {draws} draws of all other inputs are used in every row, so that rows differ"
            " only in the posterior of the tumour."
        ),
    )
    return MinimalImaging(name, unit, tuple(imaging_stages), remaining, draws, notes)


def arm_settings_of_study(
    settings: ComparisonSettings, inputs: ImagingInputs, fits: FitSettings
) -> tuple[ComparisonSettings, tuple[str, ...]]:
    """Settings of arms in the subject of a study, with its dose where they state none.

    Args:
        settings: of the arms.
        inputs: with drug images in memory.
        fits: settings of the fits, which state the treatment or name the drug images that do.

    Returns:
        The settings, and what is assumed.

    Raises:
        InputError: the treatment of the study is not stated or cannot be used.
    """
    treatment = treatment_of_study(inputs, fits)
    if treatment is None:
        return settings, ()
    settings, notes = with_imaged_subject(settings, None, treatment)
    if settings.dose is None:
        amount_mg = sum(g.dose.amount_kg for g in treatment.doses) / MG
        settings = settings.model_copy(update={"dose": DoseAmount(amount_mg=amount_mg)})
    return settings, notes


def fit_sequentially(
    imaging: ImagingMaps,
    inputs: ImagingInputs,
    by_time: Sequence[Sequence[DrugImage]],
    settings: FitSettings,
    show: Progress,
) -> list[Patient]:
    """Fit a tumour without post-dose images, with those of the first time, of the first two, and so
    on; each fit starts from the one before it.

    Args:
        imaging: maps of the scan.
        inputs: with drug images in memory, whose sidecars may state the treatment.
        by_time: post-dose images of each time.
        settings: of the fits.
        show: progress.

    Returns:
        The patient after each fit.
    """
    device, start = choose_device(settings.device), None
    patients = []
    for k in range(len(by_time) + 1):
        images = [image for session in by_time[:k] for image in session]
        posed = pose_study(imaging, inputs, settings, device, images=images)
        validate_problem(posed.problem)
        fitted = fit_fv(
            calibrate_relative_images(posed.problem),
            start,
            starts=settings.starts,
            seed=settings.seed,
            progress=show,
        )
        start = fitted.theta
        patients.append(
            Patient.from_fitted_problem(
                FittedProblem.from_fit(fitted),
                fitted.run.covariance,
                imaging.mask,
                np.asarray(imaging.affine),
            )
        )
    return patients


def _group_by_time(images: Sequence[DrugImage]) -> list[list[DrugImage]]:
    times = sorted({i.time_s for i in images})
    return [[i for i in images if i.time_s == t] for t in times]


def _informed(patient: Patient) -> tuple[str, ...]:
    theta_sd = np.sqrt(np.diag(patient.covariance))
    return tuple(
        s.name for s in patient.unknowns.estimates(patient.mean, np.diag(theta_sd**2)) if s.informed
    )


def _evaluate_stage(
    name: str,
    images: int,
    patient: Patient,
    informed: tuple[str, ...],
    arms: Sequence[Arm],
    outcome: OutcomeFunction,
    n: int,
    seed: int,
) -> ImagingStage:
    found = np.asarray(outcome(patient, draw_inputs(patient, arms, n, seed)), dtype=np.float64)
    if found.shape != (n + 1,) or not (np.isfinite(found) & (found > 0)).all():
        raise InputError(
            "the outcome is not a positive number for every draw",
            field=name,
            found=f"{int((~(found > 0)).sum())} of {found.size} are not",
            expected=f"{n + 1} positive numbers",
            remedy="Take an outcome that is never 0, such as a concentration or an AUC.",
        )
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return ImagingStage(
        name,
        images,
        float(found[0]),
        float(low),
        float(high),
        float(np.log(found[1:]).std(ddof=1)),
        informed,
    )
