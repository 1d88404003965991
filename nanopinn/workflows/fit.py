"""From input files to a checked answer: imaging, inference by both engines, check, maps."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nanopinn.errors import InputError
from nanopinn.imaging.inputs import ImagingInputs
from nanopinn.imaging.kinetics.models import extended_tofts
from nanopinn.imaging.maps import ImagingMaps, make_maps
from nanopinn.inference.check import check_fit
from nanopinn.inference.checkpoint import Checkpoint
from nanopinn.inference.fv import Fitted, fit_fv
from nanopinn.inference.pinn import fit_pinn
from nanopinn.inference.pinn.engine import PinnSettings
from nanopinn.inference.problem import InverseProblem
from nanopinn.inference.result import FitResult
from nanopinn.inference.resume import Keeper
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


def run_fit(
    inputs: ImagingInputs, settings: FitSettings, *, progress: Progress | None = None, partial: Path | None = None, resume: bool = False
) -> Study:
    """Fit one study.

    Args:
        partial: a folder for the state of the engines, from which a fit that is killed can go on.
        resume: go on with the fit that left its state there.

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
    study = _study(inputs, settings, device)
    keeper = Keeper.continued(partial, study, device) if partial and resume else None
    began = time.perf_counter()
    progress("imaging", 0.0, {})
    imaging = make_maps(inputs)
    posed = pose_problem(imaging, settings, device)
    seconds = {"imaging": time.perf_counter() - began}
    if partial and not resume:
        keeper = Keeper.begun(partial, study, device)
    result, last = infer(imaging, posed, settings, progress, seconds, keeper)
    return Study(imaging, result, inputs, settings, Checkpoint(last.problem, last.theta))


def infer(
    imaging: ImagingMaps, posed: Posed, settings: FitSettings, progress: Progress, seconds: dict[str, float], keeper: Keeper | None = None
) -> tuple[FitResult, Fitted]:
    """Run the engines on a posed problem, check the answer and collect it; with where the last engine ended."""
    fits: dict[str, Fitted] = {}
    problem, start = posed.problem, None
    if settings.engine in ("auto", "pinn"):
        fits["pinn"] = fit_pinn(
            posed.problem,
            settings=_pinn_settings(settings.preset),
            seed=settings.seed,
            keeper=keeper,
            progress=progress,
        )
        problem, start = fits["pinn"].problem, fits["pinn"].theta  # maps and errors followed so far are polished too
    if settings.engine in ("auto", "fv"):
        fits["fv"] = fit_fv(problem, start, keeper=keeper, progress=progress)
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


def _study(inputs: ImagingInputs, settings: FitSettings, device: str) -> dict[str, str]:
    """All that was given, each by name: choices by value, files by hash."""
    options = {"fit": settings.model_dump(mode="json") | {"drug": [Path(d).name for d in settings.drug]}, **inputs.choices()}
    study = {f"{table}.{k}": json.dumps(v, default=str) for table, entries in options.items() for k, v in entries.items()}
    files = [*inputs.files(), *(Path(d) for d in settings.drug)]
    study |= {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}
    return study | {"nanopinn": version("nanopinn"), "device": device}


def _pinn_settings(preset: str) -> PinnSettings:
    """Effort of the networks."""
    return {"fast": PinnSettings(rank=10, anchors=6), "accurate": PinnSettings(rank=16, anchors=15)}.get(preset, PinnSettings())


def _distance(fits: dict[str, Fitted], problem: InverseProblem) -> dict[str, float]:
    if len(fits) < 2:
        return {}
    sd = np.sqrt(np.diag(fits["fv"].run.covariance))
    gap = np.abs(fits["pinn"].theta - fits["fv"].theta) / sd
    return dict(zip(problem.unknowns.names, (float(g) for g in gap), strict=True))
