"""From input files to a checked answer: imaging, inference by both engines, check, maps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from nanopinn.errors import InputError
from nanopinn.imaging.inputs import ImagingInputs
from nanopinn.imaging.kinetics.models import extended_tofts
from nanopinn.imaging.maps import ImagingMaps, make_maps
from nanopinn.inference.check import check_fit
from nanopinn.inference.checkpoint import Checkpoint
from nanopinn.inference.contract import Fitted
from nanopinn.inference.fv import fit_fv
from nanopinn.inference.neural import fit_neural
from nanopinn.inference.pinn import fit_pinn
from nanopinn.inference.pinn.engine import PinnSettings
from nanopinn.inference.problem import InverseProblem
from nanopinn.inference.result import FitResult
from nanopinn.progress import Progress, silent
from nanopinn.workflows.device import choose_device
from nanopinn.workflows.problem import Posed, pose_problem
from nanopinn.workflows.products import curves, fields, maps
from nanopinn.workflows.settings import FitSettings


@dataclass(frozen=True)
class Study:
    """One study, from its inputs to its answer."""

    imaging: ImagingMaps
    fit: FitResult
    inputs: ImagingInputs
    settings: FitSettings
    checkpoint: Checkpoint


def run_fit(inputs: ImagingInputs, settings: FitSettings, *, progress: Progress | None = None) -> Study:
    """Fit one study.

    Raises:
        InputError: something given cannot be used; nothing has been written then.
    """
    progress = progress or silent
    if inputs.model != extended_tofts.NAME:
        raise InputError(
            "the tissue model is extended Tofts where nothing flows, so its maps must be too", field="--model", found=inputs.model,
            expected=extended_tofts.NAME, remedy="For other kinetic models run `nanopinn maps`.",
        )  # fmt: skip
    device = choose_device(settings.device)
    began = time.perf_counter()
    progress("imaging", 0.0, {})
    imaging = make_maps(inputs)
    posed = pose_problem(imaging, settings, device)
    seconds = {"imaging": time.perf_counter() - began}
    result, last = infer(imaging, posed, settings, progress, seconds)
    return Study(imaging, result, inputs, settings, Checkpoint(last.problem, last.theta))


def infer(
    imaging: ImagingMaps, posed: Posed, settings: FitSettings, progress: Progress, seconds: dict[str, float]
) -> tuple[FitResult, Fitted[InverseProblem]]:  # fmt: skip
    """Run the engines on a posed problem, check the answer and collect it; with where the last engine ended."""
    fits: dict[str, Fitted[InverseProblem]] = {}
    start = None
    unknowns = posed.problem.unknowns
    if unknowns.functions and settings.engine == "pinn":
        raise InputError(
            "the networks' engine moves scalars alone", field="--engine", found="pinn", expected="fv, or auto",
            remedy="With --field or --release-law, auto starts with the scalars by pinn and goes on with everything by fv.",
        )  # fmt: skip
    if settings.engine in ("auto", "pinn"):
        fits["pinn"] = fit_pinn(
            replace(posed.problem, unknowns=replace(unknowns, functions=())),
            settings=_pinn_settings(settings.preset, polished=settings.engine == "auto"),
            seed=settings.seed,
            progress=progress,
        )
        start = unknowns.prior_mean
        start[: len(unknowns.items)] = fits["pinn"].theta
    if settings.engine in ("auto", "fv"):
        neural = any(f.kind == "neural" for f in unknowns.functions)
        if neural:
            fits["fv"] = fit_neural(posed.problem, start, seed=settings.seed, progress=progress)
        else:
            fits["fv"] = fit_fv(posed.problem, start, progress=progress)
    last = fits["fv"] if "fv" in fits else fits["pinn"]
    check = check_fit(last.problem, last.theta, last.prediction, progress=progress)
    seconds = {**seconds, **{name: f.run.seconds for name, f in fits.items()}, "check": check.seconds}
    result = FitResult(
        scalars=last.run.scalars,
        covariance=last.run.covariance,
        runs={name: f.run for name, f in fits.items()},
        engine_distance=_distance(fits, last.problem),
        check=check,
        maps=maps(imaging, posed, last),
        fields=fields(posed, last),
        curves=curves(imaging, posed, last),
        assumptions=(*imaging.assumptions, *posed.assumptions),
        affine=np.asarray(imaging.affine),
        mask=imaging.mask,
        seconds=seconds,
    )
    return result, last


def _pinn_settings(preset: str, *, polished: bool) -> PinnSettings:
    """Effort of the networks; with ``fv`` to polish, a few anchors are near enough."""
    settings = {"fast": PinnSettings(width=12, anchors=6), "accurate": PinnSettings(width=28, anchors=15)}.get(preset, PinnSettings())
    return replace(settings, anchors=3) if polished and preset != "accurate" else settings


def _distance(fits: dict[str, Fitted[InverseProblem]], problem: InverseProblem) -> dict[str, float]:
    if len(fits) < 2:
        return {}
    n = len(fits["pinn"].theta)
    sd = np.sqrt(np.diag(fits["fv"].run.covariance))[:n]
    gap = np.abs(fits["pinn"].theta - fits["fv"].theta[:n]) / sd
    return dict(zip(problem.unknowns.names[:n], (float(g) for g in gap), strict=True))
