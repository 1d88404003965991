"""What a fit may take as unknown beside the tissue: the noise of its observations and the scale of its arterial input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.aif_scale import fit_aif_scale
from nanopinn.inference.checkpoint import FittedProblem
from nanopinn.inference.contract import EngineFit
from nanopinn.inference.fv import fit_fv
from nanopinn.inference.noise import noise_scales, scale_noise
from nanopinn.inference.problem import InverseProblem
from nanopinn.inference.result import ScalarEstimate
from nanopinn.progress import Progress
from nanopinn.workflows.settings import FitSettings

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FinalEstimate:
    """Where the engines ended: the fit that maps and fields are made of, and the posterior of all unknowns."""

    fitted: EngineFit
    scalars: tuple[ScalarEstimate, ...]
    covariance: Array
    checkpoint: FittedProblem
    notes: tuple[str, ...] = ()


def refuse_without_fv(settings: FitSettings) -> None:
    """Both nuisances go on from the engine ``fv``; the scale of the arterial input, from scalars alone.

    Raises:
        InputError: it does not run, or there are unknown functions beside the scale.
    """
    if settings.aif_sd and (settings.field or settings.inflow or settings.release_law):
        raise InputError(
            "unknown functions are not fitted together with the arterial input's scale",
            field="--aif-sd",
            found=settings.aif_sd,
            expected="0 beside --field, --inflow and --release-law",
            remedy="Leave one of them out.",
        )
    for field, wanted in (
        ("--noise", settings.noise != "given"),
        ("--aif-sd", settings.aif_sd > 0),
        ("--starts", settings.starts > 1),
    ):
        if wanted and settings.engine == "pinn":
            raise InputError(
                "the engine pinn does not serve this",
                field=field,
                remedy="Use --engine fv or auto.",
            )


def refit_with_estimated_noise(
    problem: InverseProblem, fitted: EngineFit, progress: Progress
) -> tuple[EngineFit, tuple[str, ...]]:
    """The fit again with the noise that the first one left over.

    Args:
        problem: as it was posed.
    """
    scales = noise_scales(fitted.problem, fitted.prediction.fields)
    again = fit_fv(
        scale_noise(problem, {s.kind: s.scale for s in scales}), fitted.theta, progress=progress
    )
    run = replace(
        again.run, seconds=fitted.run.seconds + again.run.seconds, starts=fitted.run.starts
    )
    return replace(again, run=run), tuple(s.describe() for s in scales)


def ended(fitted: EngineFit, settings: FitSettings, progress: Progress) -> FinalEstimate:
    """The answer, with the arterial input's scale among the unknowns if it is not trusted."""
    if not settings.aif_sd:
        return FinalEstimate(
            fitted, fitted.run.scalars, fitted.run.covariance, FittedProblem.of(fitted)
        )
    found = fit_aif_scale(fitted, settings.aif_sd, progress=progress)
    end = found.fitted
    words = (
        f"The arterial input's scale is an unknown of {settings.aif_sd:.0%}. Contrast agent sees it only in the product with q; maps of "
        f"Ktrans, ve and vp are those of the input as stated, and the fit's tissue has 1/{np.exp(found.log_scale):.3f} of them."
    )
    checkpoint = FittedProblem(end.problem, end.theta, settings.aif_sd, found.log_scale)
    return FinalEstimate(end, found.scalars, found.covariance, checkpoint, (words,))
