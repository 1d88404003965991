"""The use cases around one study: imaging alone, a fit with its check, and the check of a result.

Functions take inputs by path or by array and return results; :func:`write_fit` writes a folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nanopinn.errors import InputError
from nanopinn.imaging.dce.models import extended_tofts
from nanopinn.imaging.imaging_data import ImagingInputs, ImagingMaps
from nanopinn.imaging.pipeline import make_maps
from nanopinn.inference.derived_maps import (
    derive_curves,
    derive_drug_fields,
    derive_maps,
    derive_vectors,
)
from nanopinn.inference.device import choose_device, on_device, run_with_cpu_fallback
from nanopinn.inference.drug_fit import (
    SATURABLE_REFIT,
    calibrate_relative_images,
    needs_saturable_uptake,
    refit_with_saturable_uptake,
    validate_course,
)
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.fv_check import check_fit
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.krylov.krylov_engine import KrylovSettings, fit_krylov
from nanopinn.inference.neural_field import fit_neural
from nanopinn.inference.nuisance_scales import AIF_SCALE
from nanopinn.inference.pose import (
    FinalEstimate,
    PosedProblem,
    final_estimate,
    refit_with_estimated_noise,
    validate_settings,
)
from nanopinn.inference.problem import EngineFit
from nanopinn.inference.saved_fit import load_fitted_problem
from nanopinn.inference.uncertainty.identifiability import (
    describe_limits,
    linearise_at_prior,
    validate_problem,
)
from nanopinn.inference.uncertainty.laplace_check import (
    LAPLACE_CHECK_STAGE,
    CheckedPosterior,
    check_laplace_approximation,
)
from nanopinn.inference.uncertainty.prior_conflict import compare_with_priors
from nanopinn.inference.uncertainty.profile import profile_unknown
from nanopinn.inference.unknown_fields import without_unknown_functions
from nanopinn.io.checkpoint_store import CheckpointStore, ResumeMode, run_identity
from nanopinn.io.tables import check_files_unchanged, hash_files
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import CheckResult, FitResult
from nanopinn.settings import FitSettings
from nanopinn.studies.pose_study import (
    KRYLOV_NEEDS_ONE_BOLUS,
    inputs_of_study,
    krylov_serves,
    list_study_files,
    pose_study,
)
from nanopinn.studies.treatment_source import settings_to_write

#: Message of a fit where the engine "pinn" is requested for voxels.
PINN_ON_VOXELS = (
    "Engine pinn fits systems of ordinary differential equations. For voxels the engine krylov was"
    " used: tangents by Krylov methods in a reduced time basis."
)


@dataclass(frozen=True)
class FittedStudy:
    """The fit of one study with its inputs.

    Attributes:
        imaging: maps that were fitted.
        fit: the result.
        inputs: of the imaging.
        settings: of the fit.
        file_hashes: SHA-256 of every file that was read, by name.
    """

    imaging: ImagingMaps
    fit: FitResult
    inputs: ImagingInputs
    settings: FitSettings
    file_hashes: Mapping[str, str] = field(default_factory=dict)


def run_fit(
    inputs: ImagingInputs,
    settings: FitSettings,
    *,
    progress: Progress | None = None,
    report_limits: Callable[[str], None] | None = None,
    checkpoint_folder: Path | None = None,
    resume: ResumeMode = False,
) -> FittedStudy:
    """Fit one study.

    Args:
        inputs: images and settings of the imaging.
        settings: of the fit.
        progress: called with the state of the work.
        report_limits: called before the engines start with what the images cannot identify.
        checkpoint_folder: for the state of the engines, from which an interrupted fit continues.
        resume: continue the fit whose state is in that folder; ``"if available"``: start from the
            beginning where it does not belong to the same inputs and settings.

    Raises:
        InputError: an input cannot be used. Nothing has been written then.
    """
    progress = progress or ignore_progress
    if inputs.model != extended_tofts.NAME:
        raise InputError(
            "the fit needs maps of the extended Tofts model, its tissue model without flow",
            field="model",
            found=inputs.model,
            expected=extended_tofts.NAME,
            remedy="For other kinetic models compute the maps alone.",
        )
    inputs = inputs_of_study(inputs, settings)
    device = choose_device(settings.device)
    study = _fit_identity(inputs, settings, device)
    checkpoint_store = (
        CheckpointStore.from_interrupted_run(checkpoint_folder, study, device, resume)
        if checkpoint_folder
        else None
    )
    began = time.perf_counter()
    progress("imaging", 0.0, {})
    imaging = make_maps(inputs)
    read = list_study_files(inputs, settings)
    file_hashes = hash_files(read)
    posed = pose_study(imaging, inputs, settings, device)
    check_files_unchanged(file_hashes, read)
    posed, limits = _identifiability_statements(posed, settings, progress)
    if settings.engine == "pinn":
        limits = (PINN_ON_VOXELS, *limits)
    if settings.engine in ("krylov", "pinn") and not krylov_serves(posed.problem):
        limits = (KRYLOV_NEEDS_ONE_BOLUS, *limits)
        settings = settings.model_copy(update={"engine": "fv"})
    if report_limits is not None:
        report_limits("\n".join(limits))
    posed = replace(posed, assumptions=(*posed.assumptions, *limits))
    seconds = {"imaging": time.perf_counter() - began}
    if checkpoint_folder and checkpoint_store is None:
        checkpoint_store = CheckpointStore.create_empty(checkpoint_folder, study, device)
    found = _infer_with_cpu_fallback(imaging, posed, settings, progress, seconds, checkpoint_store)
    return FittedStudy(imaging, found, inputs, settings, {**imaging.file_hashes, **file_hashes})


def write_fit(out: str | Path, study: FittedStudy, *, overwrite: bool = False) -> Path:
    """Write the result folder of a study, whole or not at all.

    Args:
        out: the folder.
        study: from :func:`run_fit`.
        overwrite: replace a folder that exists.

    Raises:
        OutputError: the folder exists and ``overwrite`` is false, or it cannot be written.
    """
    from nanopinn.report.result_folder import render_report, write_result

    dump = settings_to_write(study.settings) | {"drug": [Path(d).name for d in study.settings.drug]}
    return write_result(
        Path(out),
        imaging=study.imaging,
        fit=study.fit,
        config={"fit": dump, **study.inputs.to_config()},
        inputs=study.file_hashes,
        report=render_report(study.imaging, study.fit),
        overwrite=overwrite,
    )


def _identifiability_statements(
    posed: PosedProblem, settings: FitSettings, progress: Progress
) -> tuple[PosedProblem, tuple[str, ...]]:
    """Sentences on what the observations cannot identify, and the problem with images in arbitrary
    units at the scale of the prior's prediction.

    Raises:
        InputError: the problem cannot be fitted, or a profile of something that is no unknown is
            asked for.
    """
    problem = posed.problem
    validate_problem(problem)
    validate_settings(settings)
    validate_course(problem, settings)
    for name in settings.profile:
        known = (*problem.unknowns.names, *((AIF_SCALE,) if settings.aif_sd else ()))
        if name not in known:
            raise InputError(
                "no such unknown to profile",
                field="profile",
                found=name,
                expected=", ".join(known),
            )
    progress("identifiability analysis", 0.0, {})
    problem = calibrate_relative_images(problem)
    return replace(posed, problem=problem), describe_limits(problem, linearise_at_prior(problem))


def _infer_with_cpu_fallback(
    imaging: ImagingMaps,
    posed: PosedProblem,
    settings: FitSettings,
    progress: Progress,
    seconds: dict[str, float],
    checkpoint_store: CheckpointStore | None,
) -> FitResult:
    """:func:`run_inference`, continued on the CPU where the memory of the GPU is exhausted."""

    def run() -> FitResult:
        return run_inference(imaging, posed, settings, progress, seconds, checkpoint_store)

    def run_on_cpu() -> FitResult:
        on_cpu = checkpoint_store and replace(checkpoint_store, resumed=True, device="cpu")
        return run_inference(imaging, on_device(posed, "cpu"), settings, progress, seconds, on_cpu)

    device = posed.problem.setting.maps.phi.device.type
    found, on_cpu = run_with_cpu_fallback(run, run_on_cpu, device)
    if not on_cpu:
        return found
    words = "the GPU's memory was exhausted: the fit continued on the CPU"
    return replace(
        found,
        runs={name: replace(run, events=(*run.events, words)) for name, run in found.runs.items()},
    )


def run_inference(
    imaging: ImagingMaps,
    posed: PosedProblem,
    settings: FitSettings,
    progress: Progress,
    seconds: dict[str, float],
    checkpoint_store: CheckpointStore | None = None,
) -> FitResult:
    """Run the engines on a posed problem, check the estimate and collect the result.

    Engine ``fv`` runs always. Engine ``krylov`` runs before it where it is asked for; ``fv`` then
    continues from its estimate, and their distance is part of the result.
    """
    fits: dict[str, EngineFit[InverseProblem]] = {}
    problem, start = posed.problem, None
    unknowns = problem.unknowns
    if settings.engine in ("krylov", "pinn"):
        scalars = without_unknown_functions(problem)
        fits["krylov"] = fit_krylov(
            scalars,
            settings=_krylov_settings(settings.preset),
            seed=settings.seed,
            checkpoint_store=checkpoint_store,
            progress=progress,
        )
        start = unknowns.prior_mean
        start[: len(scalars.unknowns)] = fits["krylov"].theta
        if len(scalars.unknowns) == len(unknowns):
            # maps and systematic errors as they were linearised last
            problem = fits["krylov"].problem
    if any(f.kind == "neural" for f in unknowns.functions):
        fits["fv"] = fit_neural(problem, start, seed=settings.seed, progress=progress)
    else:
        fits["fv"] = fit_fv(
            problem,
            start,
            starts=settings.starts,
            seed=settings.seed,
            checkpoint_store=checkpoint_store,
            progress=progress,
        )
    noted: tuple[str, ...] = ()
    if needs_saturable_uptake(fits["fv"]):
        fits["fv"] = refit_with_saturable_uptake(fits["fv"], progress)
        noted = (SATURABLE_REFIT,)
    if settings.noise == "estimated":
        fits["fv"], estimated = refit_with_estimated_noise(
            _with_course_of(posed.problem, fits["fv"]), fits["fv"], progress
        )
        noted = (*noted, *estimated)
    end = final_estimate(fits["fv"], settings, progress)
    last = end.fitted
    posterior = _check_posterior(end, settings, seconds, progress)
    check = check_fit(last.problem, last.theta, last.prediction, progress=progress)
    conflict = compare_with_priors(last.problem, last.theta, last.prediction)
    at_estimate = replace(end.fitted_problem, considered=conflict.considered)
    seconds = {
        **seconds,
        **{name: f.run.seconds for name, f in fits.items()},
        "check": check.seconds,
    }
    profiles = {
        name: profile_unknown(
            end.fitted_problem.full_problem,
            end.fitted_problem.full_theta,
            name,
            expansion=end.fitted_problem.tangents,
            progress=progress,
        )
        for name in settings.profile
    }
    return FitResult(
        scalars=posterior.scalars,
        covariance=posterior.covariance,
        runs={name: f.run for name, f in fits.items()},
        engine_distance=_engine_distance(fits),
        check=check,
        maps=derive_maps(imaging, posed, last),
        fields=derive_drug_fields(posed, last),
        curves=derive_curves(last),
        assumptions=(
            *imaging.assumptions,
            *posed.assumptions,
            *noted,
            *end.notes,
            *posterior.notes,
        ),
        affine=np.asarray(imaging.affine),
        mask=imaging.mask,
        seconds=seconds,
        profiles=profiles,
        fitted_problem=at_estimate,
        prior_shifts=conflict.shifts,
        vectors=derive_vectors(posed, last),
    )


def _with_course_of(problem: InverseProblem, fitted: EngineFit[InverseProblem]) -> InverseProblem:
    """A problem with the pools that a fit solved."""
    return replace(problem, course=fitted.problem.course)


def _check_posterior(
    end: FinalEstimate, settings: FitSettings, seconds: dict[str, float], progress: Progress
) -> CheckedPosterior:
    """The posterior after the check of its Laplace approximation by profile likelihood.

    The check is left out for the preset "fast" and for unknown functions.
    """
    if settings.preset == "fast" or end.fitted_problem.problem.unknowns.functions:
        reason = "preset fast" if settings.preset == "fast" else "unknown functions"
        note = (
            "Intervals are those of the Laplace approximation, which was not checked by profile"
            f" likelihood ({reason})."
        )
        return CheckedPosterior(end.scalars, end.covariance, (note,))
    began, at = time.perf_counter(), end.fitted_problem
    checked = check_laplace_approximation(
        at.full_problem,
        at.full_theta,
        end.scalars,
        end.covariance,
        expansion=at.tangents,
        progress=progress,
    )
    seconds[LAPLACE_CHECK_STAGE] = time.perf_counter() - began
    return checked


def _fit_identity(inputs: ImagingInputs, settings: FitSettings, device: str) -> dict[str, str]:
    """Inputs and settings by name: choices by value, files by hash."""
    choices = {
        "fit": settings_to_write(settings) | {"drug": [Path(d).name for d in settings.drug]},
        **inputs.to_config(),
    }
    files = [*inputs.files(), *list_study_files(inputs, settings)]
    return run_identity(choices, hash_files(files)) | {"device": device}


def _krylov_settings(preset: str) -> KrylovSettings:
    """Size and effort of the engine ``krylov``."""
    return {
        "fast": KrylovSettings(rank=10, iterations=6),
        "accurate": KrylovSettings(rank=16, iterations=15),
    }.get(preset, KrylovSettings())


def _engine_distance(fits: dict[str, EngineFit[InverseProblem]]) -> dict[str, float]:
    """Distance from the estimate of ``krylov`` to the next exact Gauss-Newton iterate of ``fv``.

    ``fv`` starts at the estimate of ``krylov`` and takes no step below its tolerance, so that its
    estimate alone would hide that step.

    Returns:
        Posterior standard deviations by unknown; empty where one engine ran.
    """
    if "krylov" not in fits:
        return {}
    krylov, fv = fits["krylov"], fits["fv"]
    n, names = len(krylov.theta), krylov.problem.unknowns.names
    best = fv.theta + fv.problem.quadratic(fv.theta, fv.prediction).full_step
    distance = np.abs(krylov.theta - best[:n]) / np.sqrt(np.diag(fv.run.covariance))[:n]
    return dict(zip(names, (float(d) for d in distance), strict=True))


def run_check(
    folder: str | Path, *, refine: int = 2, progress: Progress | None = None
) -> CheckResult:
    """Solve the fields of a fit on a finer grid by another time scheme, and compare.

    Args:
        folder: result folder of a fit.
        refine: refinement of the fit's grid, 2 or more.
        progress: called with the state of the work.

    Raises:
        InputError: the folder is no result of a fit, or ``refine`` is below 2.
    """
    if refine < 2:
        raise InputError(
            "the check needs a finer grid than the fit's",
            field="refine",
            found=refine,
            expected="2 or more",
        )
    saved = load_fitted_problem(folder)
    show = progress or ignore_progress
    show("check: the fit's own fields", 0.0, {})
    fitted = saved.problem.predict(saved.theta, saved.problem.forward(), tangents=True)
    return check_fit(saved.problem, saved.theta, fitted, refine=refine, progress=show)


def run_maps(
    inputs: ImagingInputs, *, device: str = "auto", progress: Progress = ignore_progress
) -> ImagingMaps:
    """Kinetic maps of one study, and its pH map where one is given.

    Args:
        inputs: images and settings of the imaging.
        device: auto, cpu or cuda[:N], where the kinetic model is fitted.
        progress: called with the state of the work.

    Raises:
        InputError: an input cannot be used.
    """
    return make_maps(inputs, device=choose_device(device), progress=progress, require_ph=False)
