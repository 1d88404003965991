"""From a protocol, or a finished fit, to what it would tell and which image to add."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from nanopinn.errors import InputError
from nanopinn.inference.checkpoint import load_fitted_problem
from nanopinn.inference.design import ExperimentDesign, design
from nanopinn.inference.observations import DrugObservation
from nanopinn.inference.plan import Plan
from nanopinn.inference.problem import InverseProblem
from nanopinn.inference.unknowns import Unknown
from nanopinn.progress import Progress, ignore_progress
from nanopinn.workflows.device import choose_device
from nanopinn.workflows.plan.images import (
    PlannedImage,
    default_candidates,
    parse_planned_image,
    expected_observations,
)
from nanopinn.workflows.plan.scan import simulate_planned_scan
from nanopinn.workflows.problem import pose_problem_from_images
from nanopinn.workflows.settings import FitSettings, PlanSettings

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _DesignSource:
    """Where problems come from, and the points at which they are judged.

    Attributes:
        problem: the problem of a draw, by its number; its last drug images are the ``fresh`` ones.
        centre, spread: of the points, ``(m,)`` and ``(m, m)``; None: the posterior that the first draw finds.
        fresh: drug images whose noise follows from what they would show. candidates: the last of them.
        where: what the centre is. said: the protocol, in sentences.
    """

    problem: Callable[[int], InverseProblem]
    centre: Array
    spread: Array | None
    planned_images: tuple[PlannedImage, ...]
    candidates: tuple[PlannedImage, ...]
    where: str
    protocol_text: tuple[str, ...]


def plan_protocol(
    settings: PlanSettings | None = None,
    *,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Which unknowns a protocol would inform, and what each further image would add, from the Fisher information.

    Args:
        settings: of the protocol. With ``folder`` only candidates, their noise, draws and seed are used.
        folder: the ``--out`` of a fit: plan for this patient, at the estimate and at draws from its posterior.

    Raises:
        InputError: the protocol cannot be, or the folder is no result of a fit.
    """
    settings, show, began = (
        settings or PlanSettings(),
        progress or ignore_progress,
        time.perf_counter(),
    )
    source = (
        _source_from_protocol(settings) if folder is None else _source_from_fit(settings, folder)
    )
    designs, unknowns = list[ExperimentDesign](), tuple[Unknown, ...]()
    for k in range(settings.draws):
        show("plan: information", k / settings.draws, {})
        problem, theta = source.problem(k), source.centre
        unknowns = problem.unknowns.items
        if k > 0:
            spread = designs[0].covariance() if source.spread is None else source.spread
            theta = np.random.default_rng((settings.seed, k, 1)).multivariate_normal(
                theta, spread, method="cholesky"
            )
        designs.append(_evaluate_design(problem, theta, source))
    return _build_plan(designs, unknowns, source, time.perf_counter() - began)


def _build_plan(
    designs: Sequence[ExperimentDesign],
    unknowns: tuple[Unknown, ...],
    source: _DesignSource,
    seconds: float,
) -> Plan:
    gain = np.stack([d.gains() for d in designs])
    best = int(gain.mean(axis=0).argmax())
    return Plan(
        protocol=source.protocol_text,
        unknowns=unknowns,
        candidates=tuple(c.name for c in source.candidates),
        where=source.where,
        sd=np.stack([_sd(d.covariance()) for d in designs]),
        sd_with=np.stack(
            [[_sd(d.covariance((i,))) for i in range(len(d.candidates))] for d in designs]
        ),
        gain=gain,
        gain_after_best=np.stack([d.gains((best,)) for d in designs]),
        seconds=seconds,
    )


def _sd(covariance: Array) -> Array:
    return np.asarray(np.sqrt(np.diag(covariance)))


def _evaluate_design(
    problem: InverseProblem, theta: Array, source: _DesignSource
) -> ExperimentDesign:
    fields = problem.solve(theta, problem.forward(), tangents=True)
    problem = replace(problem, drug=expected_observations(problem, fields, source.planned_images))
    return design(problem, theta, fields, len(source.candidates))


def _candidates(settings: PlanSettings, taken: Sequence[PlannedImage]) -> tuple[PlannedImage, ...]:
    given = tuple(
        parse_planned_image(c, settings.image_noise, "--candidate")
        for c in dict.fromkeys(settings.candidates)
    )
    return given or default_candidates(taken, settings.image_noise)


def _source_from_protocol(settings: PlanSettings) -> _DesignSource:
    taken = tuple(parse_planned_image(d, settings.image_noise, "--drug") for d in settings.drug)
    candidates = _candidates(settings, taken)
    device = choose_device(settings.device)
    every = (*taken, *candidates)
    first = _build_problem(settings, every, device, 0)
    return _DesignSource(
        problem=lambda k: first if k == 0 else _build_problem(settings, every, device, k),
        centre=first.unknowns.prior_mean,
        spread=np.diag(first.unknowns.prior_sd**2),
        planned_images=every,
        candidates=candidates,
        where="prior medians",
        protocol_text=_describe_protocol(
            settings, taken, int((first.setting.maps.tumour > 0.5).sum())
        ),
    )


def _build_problem(
    settings: PlanSettings, images: Sequence[PlannedImage], device: str, k: int
) -> InverseProblem:
    """The problem of the ``k``-th tumour."""
    imaging = simulate_planned_scan(settings, np.random.default_rng((settings.seed, k)))
    return pose_problem_from_images(
        imaging,
        [i.to_blank_image(imaging.mask.shape) for i in images],
        FitSettings(preset=settings.preset),
        device,
    ).problem


def _describe_protocol(
    s: PlanSettings, taken: Sequence[PlannedImage], voxels: int
) -> tuple[str, ...]:
    def by(v: tuple[float, ...]) -> str:
        return " x ".join(f"{x:g}" for x in v)

    calibration = f", calibration {s.ph_shared_noise:g}" if s.ph_shared_noise else ""
    pH = f"pH map with noise {s.ph_noise:g}{calibration}" if s.ph else "no pH map"
    return (
        f"Tumour {by(s.tumour_mm)} mm, about {voxels} voxels of {by(s.voxel_mm)} mm (the phantom's anatomy); seed {s.seed}",
        f"DCE: {s.frames} frames every {s.frame_spacing_s:g} s, signal to noise {s.snr:g}, arterial input {s.aif}; {pH}",
        f"Drug images: {', '.join(_noisy_name(i) for i in taken) if taken else 'none'}",
    )


def _noisy_name(image: PlannedImage) -> str:
    noise = (
        f"{image.noise:.0%} of its largest value"
        if image.relative
        else f"{image.noise * 1e3:g} ug/mL"
    )
    return f"{image.name} (noise {noise})"


def _source_from_fit(settings: PlanSettings, folder: str | Path) -> _DesignSource:
    """The problem of a finished fit with candidates beside its images, at the estimate and around it."""
    if settings.drug:
        raise InputError(
            "the drug images of a fit are those it was made with",
            field="--drug",
            found=", ".join(settings.drug),
            expected="none with --from",
            remedy="Give images that could be added as --candidate.",
        )
    saved = load_fitted_problem(folder)
    measured = [PlannedImage(d.quantity, d.time_s, 1.0) for d in saved.problem.drug]
    candidates = _candidates(settings, measured)
    problem = replace(
        saved.problem,
        drug=(
            *saved.problem.drug,
            *(_unmeasured_observation(c, saved.problem) for c in candidates),
        ),
    )
    protocol_text = (
        f"{Path(folder).name}: DCE and {', '.join(i.name for i in measured) or 'no drug image'}, as fitted",
    )
    return _DesignSource(
        lambda k: problem, saved.theta, None, candidates, candidates, "the estimate", protocol_text
    )


def _unmeasured_observation(image: PlannedImage, problem: InverseProblem) -> DrugObservation:
    """A planned image in the voxels that a drug image of this patient counts in, without noise yet."""
    tumour = problem.setting.maps.tumour
    one = torch.ones_like(tumour)
    core = torch.as_tensor(binary_erosion((tumour > 0.5).cpu().numpy()), device=tumour.device)
    voxels = problem.drug[0].voxels if problem.drug else core
    return DrugObservation(image.time_s, image.quantity, 0 * one, one, one, voxels)
