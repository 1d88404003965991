"""What the drug of a study needs around a fit: limits of the treatment, the scale of images in
arbitrary units, and saturable uptake where free drug exceeds the linear range.
"""

from __future__ import annotations

from dataclasses import replace

from nanopinn.errors import InputError
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.fv_check import LINEAR_LIMIT, uptake_saturation
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.problem import EngineFit
from nanopinn.inference.uncertainty.identifiability import predict_drug_at_prior
from nanopinn.progress import Progress
from nanopinn.settings import FitSettings

#: Assumption of a fit whose free drug saturates its uptake.
SATURABLE_REFIT = (
    "Free drug in the tumour exceeds the range in which uptake by cells is linear: the fit was"
    " continued with saturable uptake."
)


def needs_saturable_uptake(fitted: EngineFit[InverseProblem]) -> bool:
    """Whether free drug of a fit with linear uptake exceeds its range (:data:`LINEAR_LIMIT`)."""
    problem, pools = fitted.problem, fitted.prediction.fields.pools
    course = problem.course
    if pools is None or course is None or course.options.saturable or problem.model_error:
        return False
    if any(f.kind == "neural" for f in problem.unknowns.functions):
        return False
    free = pools[:, course.options.pools.index("free")][:, problem.contrast.voxels]
    return uptake_saturation(free, problem.drug_times) > LINEAR_LIMIT


def refit_with_saturable_uptake(
    fitted: EngineFit[InverseProblem], progress: Progress
) -> EngineFit[InverseProblem]:
    """Continue a fit with saturable uptake by cells.

    Args:
        fitted: with linear uptake.
        progress: called with the state of the work.
    """
    assert fitted.problem.course is not None
    problem = replace(fitted.problem, course=fitted.problem.course.with_saturable_uptake())
    again = fit_fv(problem, fitted.theta, progress=progress)
    return replace(again, run=replace(again.run, seconds=fitted.run.seconds + again.run.seconds))


def validate_course(problem: InverseProblem, settings: FitSettings) -> None:
    """Refuse unknown functions that the treatment of the study does not allow.

    Raises:
        InputError: a model error or a neural field with heat, radiation or free drug.
    """
    course = problem.course
    if course is None or not problem.drug or (course.linear and course.carrier is not None):
        return
    neural = any(f.kind == "neural" for f in problem.unknowns.functions)
    if settings.model_error or neural:
        raise InputError(
            "this treatment is fitted without a model error and without neural fields",
            field="model_error" if settings.model_error else "field",
            found="heat, radiation or free drug",
            expected="a carrier at body temperature",
            remedy="Leave the option out; fields of radial basis functions serve every treatment.",
        )


def calibrate_relative_images(problem: InverseProblem) -> InverseProblem:
    """Scale the prediction of images in arbitrary units to them at the prior mean.

    All images of one quantity get one scale, by least squares; it is the median of its prior.

    Args:
        problem: before its fit.
    """
    relative = {d.quantity for d in problem.drug if d.relative}
    if not relative:
        return problem
    predicted = predict_drug_at_prior(problem)
    pairs = list(zip(problem.drug, predicted, strict=True))
    scales = {}
    for quantity in relative:
        rows = [
            (p[d.voxels] / d.noise_sd[d.voxels], d.measured[d.voxels] / d.noise_sd[d.voxels])
            for d, p in pairs
            if d.quantity == quantity and d.relative
        ]
        inner = sum(float((p * m).sum()) for p, m in rows)
        norm = sum(float((p * p).sum()) for p, _ in rows)
        if inner <= 0:
            raise InputError(
                "an image in arbitrary units has no signal in the tumour",
                field="drug",
                found=quantity,
                remedy="Check the sign and the baseline of the image.",
            )
        scales[quantity] = inner / norm
    drug = tuple(
        replace(d, scale=scales[d.quantity], base_scale=scales[d.quantity]) if d.relative else d
        for d in problem.drug
    )
    return replace(problem, drug=drug)
