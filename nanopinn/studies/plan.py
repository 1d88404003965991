"""Planning: which unknowns a protocol would inform, and what further drug images would add."""

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
from nanopinn.inference.device import choose_device
from nanopinn.inference.drug_setup import OWN_SCALE_SD, SHARED_SCALE_SD, set_up_drug
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.observations import DrugObservation
from nanopinn.inference.pose import pose_problem
from nanopinn.inference.saved_fit import load_fitted_problem
from nanopinn.inference.tumour_problem import Fields
from nanopinn.inference.uncertainty.design import ExperimentDesign, build_experiment_design
from nanopinn.inference.unknowns import Unknown
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import CandidateGain, ExpectedEstimate, Plan
from nanopinn.settings import EXAMPLE_STUDY, FitSettings, PlanSettings, StudySettings
from nanopinn.studies.planned_image import (
    PlannedImage,
    default_candidates,
    parse_planned_image,
)
from nanopinn.studies.planned_scan import simulate_planned_scan
from nanopinn.studies.treatment_source import example_settings, study_treatment

Array = NDArray[np.float64]


def expected_observations(
    problem: InverseProblem, fields: Fields, images: Sequence[PlannedImage]
) -> tuple[DrugObservation, ...]:
    """The drug images of a problem, the planned ones with expected values and noise.

    Args:
        problem: whose last drug images are planned.
        fields: at the point of interest.
        images: the planned images.
    """
    assert fields.pools is not None
    taken = len(problem.drug) - len(images)
    expected = list(problem.drug[:taken])
    for d, planned in zip(problem.drug[taken:], images, strict=True):
        image = d.predict(
            fields.pools[problem.node_index(d)], problem.setting.maps, problem.plasma_at(d.time_s)
        )
        noise = torch.full_like(image, planned.noise_sd(image[problem.setting.maps.tumour > 0.5]))
        expected.append(replace(d, measured=image, noise_sd=noise, sd=noise))
    return tuple(expected)


@dataclass(frozen=True)
class _DesignSource:
    """The problems of a plan, and the distribution of the points at which they are evaluated.

    Attributes:
        problem: the problem of a draw by its number, its last drug images the planned ones.
        centre: mean of the points, ``(m,)``.
        covariance: covariance of the points, ``(m, m)``; the posterior of the first draw if None.
        planned_images: drug images without a measurement.
        candidates: the last of them.
        where: what the centre is.
        protocol_text: sentences.
    """

    problem: Callable[[int], InverseProblem]
    centre: Array
    covariance: Array | None
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
    """Expected posterior under a protocol, and the information of further images.

    Both follow from the Fisher information at draws of tumours and unknowns.

    Args:
        settings: of the protocol. With ``folder`` only candidates, their noise, draws and seed are
            used.
        folder: result folder of a fit. The plan is then for this patient, at the estimate and at
            draws from its posterior.
        progress: called with the state of the work.

    Raises:
        InputError: the protocol is impossible, or the folder is no result of a fit.
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
            covariance = designs[0].covariance() if source.covariance is None else source.covariance
            theta = np.random.default_rng((settings.seed, k, 1)).multivariate_normal(
                theta, covariance, method="cholesky"
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
    after_best = np.stack([d.gains((int(gain.mean(axis=0).argmax()),)) for d in designs])
    sd = np.stack([_sd(d.covariance()) for d in designs])
    additions = [
        CandidateGain(
            name=candidate.name,
            gain=float(gain[:, i].mean()),
            low=float(gain[:, i].min()),
            high=float(gain[:, i].max()),
            gain_after_best=float(after_best[:, i].mean()),
            unknowns=_expected_estimates(
                unknowns, np.stack([_sd(d.covariance((i,))) for d in designs])
            ),
        )
        for i, candidate in enumerate(source.candidates)
    ]
    return Plan(
        protocol=source.protocol_text,
        expected=_expected_estimates(unknowns, sd),
        additions=tuple(sorted(additions, key=lambda a: -a.gain)),
        centre=source.where,
        sd=sd,
        gain=gain,
        seconds=seconds,
    )


def _expected_estimates(unknowns: tuple[Unknown, ...], sd: Array) -> tuple[ExpectedEstimate, ...]:
    """Mean and range of the posterior sd ``(draws, m)`` in customary units."""
    found = []
    for unknown, draws in zip(unknowns, sd.T, strict=True):
        factor = unknown.per_unit if unknown.scale == "linear" else 1.0
        found.append(
            ExpectedEstimate(
                unknown.name,
                unknown.label,
                unknown.unit,
                unknown.scale,
                factor * unknown.prior_sd,
                factor * float(draws.mean()),
                factor * float(draws.min()),
                factor * float(draws.max()),
            )
        )
    return tuple(found)


def _sd(covariance: Array) -> Array:
    return np.asarray(np.sqrt(np.diag(covariance)))


def _evaluate_design(
    problem: InverseProblem, theta: Array, source: _DesignSource
) -> ExperimentDesign:
    fields = problem.solve(theta, problem.forward(), tangents=True)
    problem = replace(problem, drug=expected_observations(problem, fields, source.planned_images))
    return build_experiment_design(problem, theta, fields, len(source.candidates))


def _candidates(
    settings: PlanSettings, planned: Sequence[PlannedImage]
) -> tuple[PlannedImage, ...]:
    given = tuple(
        parse_planned_image(c, settings.image_noise, "candidates")
        for c in dict.fromkeys(settings.candidates)
    )
    return given or default_candidates(planned, settings.image_noise)


def _source_from_protocol(settings: PlanSettings) -> _DesignSource:
    taken = tuple(parse_planned_image(d, settings.image_noise, "drug") for d in settings.drug)
    candidates = _candidates(settings, taken)
    device = choose_device(settings.device)
    every = (*taken, *candidates)
    first = _build_problem(settings, every, device, 0)
    return _DesignSource(
        problem=lambda k: first if k == 0 else _build_problem(settings, every, device, k),
        centre=first.unknowns.prior_mean,
        covariance=np.diag(first.unknowns.prior_sd**2),
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
    """The problem of tumour number ``k``."""
    imaging = simulate_planned_scan(settings, np.random.default_rng((settings.seed, k)))
    last = max((i.time_s for i in images), default=0.0)
    return pose_problem(
        imaging,
        [i.to_blank_image(imaging.mask.shape) for i in images],
        FitSettings(preset=settings.preset),
        device,
        study_treatment(example_settings(settings), (), last),
    ).problem


def _describe_protocol(
    s: PlanSettings, planned: Sequence[PlannedImage], voxels: int
) -> tuple[str, ...]:
    def by(v: tuple[float, ...]) -> str:
        return " x ".join(f"{x:g}" for x in v)

    calibration = f", calibration {s.ph_shared_noise:g}" if s.ph_shared_noise else ""
    pH = f"pH map with noise {s.ph_noise:g}{calibration}" if s.ph else "no pH map"
    return (
        (
            f"Tumour {by(s.tumour_mm)} mm, about {voxels} voxels of {by(s.voxel_mm)} mm (the"
            f" phantom's anatomy); seed {s.seed}"
        ),
        (
            f"DCE: {s.frames} frames every {s.frame_spacing_s:g} s, signal to noise {s.snr:g},"
            f" arterial input {s.aif or 'of the species'}; {pH}"
        ),
        f"Drug: {_describe_treatment(s)}",
        f"Drug images: {', '.join(_noisy_name(i) for i in planned) if planned else 'none'}",
    )


def _describe_treatment(settings: PlanSettings) -> str:
    given = example_settings(settings)
    if given.schedule is not None:
        return f"as scheduled in {given.schedule.name}"
    assumed = " (an example, because none was given)" if given == EXAMPLE_STUDY else ""
    name = Path(given.formulation or "").name
    return f"{given.drug_dose} of {name} in a {given.species or 'human'}{assumed}"


def _noisy_name(image: PlannedImage) -> str:
    noise = (
        f"{image.noise:.0%} of its largest value"
        if image.relative
        else f"{image.noise * 1e3:g} ug/mL"
    )
    return f"{image.name} (noise {noise})"


def _source_from_fit(settings: PlanSettings, folder: str | Path) -> _DesignSource:
    """The problem of a fit with candidates added to its images."""
    if settings.drug:
        raise InputError(
            "the drug images of a fit are those that it used",
            field="drug",
            found=", ".join(settings.drug),
            expected="none with `folder`",
            remedy="Give images that could be added as `candidates`.",
        )
    saved = load_fitted_problem(folder)
    measured = [PlannedImage(d.quantity, d.time_s, 1.0) for d in saved.problem.drug]
    candidates = _candidates(settings, measured)
    problem = _with_treatment(saved.problem, settings, max(c.time_s for c in candidates))
    problem = replace(
        problem,
        drug=(*problem.drug, *(_unmeasured_observation(c, problem) for c in candidates)),
    )
    protocol_text = (
        (
            f"{Path(folder).name}: DCE and"
            f" {', '.join(i.name for i in measured) or 'no drug image'}, as fitted"
        ),
    )
    return _DesignSource(
        lambda k: problem, saved.theta, None, candidates, candidates, "the estimate", protocol_text
    )


def _with_treatment(
    problem: InverseProblem, settings: PlanSettings, last_s: float
) -> InverseProblem:
    """The problem of a fit with a treatment: its own, or that of the settings where it has none."""
    given = [n for n in StudySettings.model_fields if getattr(settings, n) is not None]
    if problem.course is not None:
        if given:
            raise InputError(
                "the treatment of a fit is that which it used",
                field=", ".join(given),
                found="a treatment beside a fit with drug images",
                expected="none with `folder`",
                remedy="Leave it out.",
            )
        return problem
    setup = set_up_drug(study_treatment(example_settings(settings), (), last_s), with_images=True)
    if setup.unknowns.names != problem.unknowns.names:
        raise InputError(
            "the fit has other unknowns than this formulation needs",
            field="formulation",
            found=settings.formulation,
            expected="a carrier that acid triggers, for a fit without drug images",
            remedy="Plan without `folder`, or fit the study with this formulation.",
        )
    return replace(problem, course=setup.course, considered=setup.considered)


def _unmeasured_observation(image: PlannedImage, problem: InverseProblem) -> DrugObservation:
    """A planned image without values, in the voxels in which drug images of the patient count."""
    tumour = problem.setting.maps.tumour
    one = torch.ones_like(tumour)
    core = torch.as_tensor(
        binary_erosion((tumour > 0.5).cpu().numpy(), border_value=1), device=tumour.device
    )
    voxels = problem.drug[0].voxels if problem.drug else core
    assert problem.course is not None
    return DrugObservation(
        image.time_s,
        image.quantity,
        0 * one,
        one,
        one,
        voxels,
        problem.course.options.pools,
        shared_scale_sd=SHARED_SCALE_SD,
        own_scale_sd=OWN_SCALE_SD,
    )
