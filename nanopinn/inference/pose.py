"""The inverse problem of a study: tissue, unknowns and observations from maps and drug images.

After the engines, the noise of the observations and the scale of the arterial input may be
estimated as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.dce.impulse_response import InputCurve, evaluate
from nanopinn.imaging.dce.models import extended_tofts
from nanopinn.imaging.drug_image import DrugImage, load_drug_image
from nanopinn.imaging.imaging_data import ImagingMaps
from nanopinn.inference.basis import gaussian_radial_basis
from nanopinn.inference.drug_setup import drug_observation, set_up_drug
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.nuisance_scales import (
    describe_noise_scale,
    estimate_noise_scales,
    fit_aif_scale,
    scale_noise,
)
from nanopinn.inference.observations import ContrastObservation
from nanopinn.inference.problem import EngineFit
from nanopinn.inference.saved_fit import FittedProblem
from nanopinn.inference.unknown_fields import add_unknown_functions, truncating_faces
from nanopinn.io.array_volume import VolumeSource
from nanopinn.parameters import MINUTE
from nanopinn.physics.tissue_maps import (
    MARGIN_M,
    PH_SMOOTHING_VOXELS,
    TissueMaps,
    cut_tissue_box,
    describe_cut_faces,
    fill_kinetic_maps,
    shrink_to_tumour_mean,
    smooth_pH,
)
from nanopinn.physics.treatment import Treatment
from nanopinn.progress import Progress
from nanopinn.results import ScalarEstimate
from nanopinn.settings import FitSettings
from nanopinn.solvers.grid import Domain, Grid
from nanopinn.solvers.tissue_setting import TissueSetting

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FinalEstimate:
    """The final estimate of a study.

    Attributes:
        fitted: from which maps and fields are derived.
        scalars: estimates of all unknowns.
        covariance: of their posterior, ``(m, m)``.
        fitted_problem: the problem at the estimate.
        notes: sentences.
    """

    fitted: EngineFit
    scalars: tuple[ScalarEstimate, ...]
    covariance: Array
    fitted_problem: FittedProblem
    notes: tuple[str, ...] = ()


def validate_settings(settings: FitSettings) -> None:
    """Refuse a combination of settings that no engine fits.

    Raises:
        InputError: unknown functions beside the scale of the arterial input.
    """
    if settings.aif_sd and (settings.field or settings.inflow or settings.release_law):
        raise InputError(
            "unknown functions are not fitted together with the scale of the arterial input",
            field="aif_sd",
            found=settings.aif_sd,
            expected="0 beside `field`, `inflow` and `release_law`",
            remedy="Leave one of them out.",
        )


def refit_with_estimated_noise(
    problem: InverseProblem, fitted: EngineFit, progress: Progress
) -> tuple[EngineFit, tuple[str, ...]]:
    """Fit again with the noise estimated from the residuals of a fit.

    Args:
        problem: as it was posed.
        fitted: the first fit.
        progress: called with the state of the work.

    Returns:
        The second fit, and a sentence per kind of observation.
    """
    scales = estimate_noise_scales(fitted.problem, fitted.prediction.fields)
    again = fit_fv(
        scale_noise(problem, {s.kind: s.scale for s in scales}), fitted.theta, progress=progress
    )
    run = replace(
        again.run, seconds=fitted.run.seconds + again.run.seconds, starts=fitted.run.starts
    )
    return replace(again, run=run), tuple(describe_noise_scale(s) for s in scales)


def final_estimate(fitted: EngineFit, settings: FitSettings, progress: Progress) -> FinalEstimate:
    """The final estimate, with the scale of the arterial input if its ``aif_sd`` is above 0."""
    if not settings.aif_sd:
        return FinalEstimate(
            fitted, fitted.run.scalars, fitted.run.covariance, FittedProblem.from_fit(fitted)
        )
    found = fit_aif_scale(fitted, settings.aif_sd, progress=progress)
    end = found.fitted
    words = (
        f"The scale of the arterial input is an unknown with a prior sd of {settings.aif_sd:.0%}."
        " Contrast agent depends only on its product with q. Maps of Ktrans, ve and vp are those of"
        f" the stated input; the tissue of the fit has 1/{np.exp(found.log_scale):.3f} of them."
    )
    at_estimate = FittedProblem(end.problem, end.theta, settings.aif_sd, found.log_scale)
    return FinalEstimate(end, found.scalars, found.covariance, at_estimate, (words,))


#: Cells of the flow grid per voxel edge, and the distance from the tumour's edge, m, within which
#: voxels are divided (None: everywhere).
FLOW_REFINE = {"fast": (1, None), "default": (2, None), "accurate": (3, 0.5e-3)}


@dataclass(frozen=True)
class PosedProblem:
    """An inverse problem with the box in which it is solved.

    Attributes:
        problem: unknowns, tissue and observations.
        domain: box around the tumour.
        assumptions: sentences.
    """

    problem: InverseProblem
    domain: Domain
    assumptions: tuple[str, ...]


def pose_problem(
    imaging: ImagingMaps,
    images: Sequence[DrugImage],
    settings: FitSettings,
    device: str,
    treatment: Treatment | None = None,
) -> PosedProblem:
    """The inverse problem of maps and drug images.

    A box around the tumour is cut out, and voxels without a measurement are filled.

    Args:
        imaging: kinetic maps, pH and curves.
        images: post-dose images on the grid of the scan.
        settings: of the fit.
        device: of torch.
        treatment: what the subject was given; needed with drug images.

    Raises:
        InputError: drug images are given without their treatment.
    """
    spacing = tuple(float(h) for h in imaging.voxel_size_m)
    cut = truncating_faces(imaging.mask, settings)
    domain = Domain.from_mask(imaging.mask, spacing, MARGIN_M, cut)
    tissue, covariance, notes = _build_tissue_maps(imaging, domain, device)
    tissue = replace(tissue, cut=cut)
    grid = Grid(domain.shape, (spacing[0], spacing[1], spacing[2]))
    if not settings.inflow:
        notes += describe_cut_faces(imaging.mask, cut)
    notes += [n for image in images for n in image.notes]
    setup = set_up_drug(treatment, with_images=bool(images))
    if images and setup.course is None:
        raise InputError(
            "drug images need the treatment that they show",
            field="formulation",
            expected="`formulation` and `drug_dose`, or `schedule`",
            remedy="State what the subject was given.",
        )
    drug = tuple(
        drug_observation(image, imaging.mask, domain, device, setup.course)
        for image in images
        if setup.course is not None
    )
    notes += [*setup.notes, *(_DRUG_ASSUMPTIONS if drug else ())]
    problem = InverseProblem(
        unknowns=setup.unknowns,
        setting=TissueSetting(tissue, grid, *FLOW_REFINE[settings.preset]),
        kinetics=torch.stack([tissue.PS, tissue.phi, tissue.v_p]),
        local_kinetics=torch.stack([tissue.PS, tissue.phi, tissue.v_p]),
        aif=imaging.aif,
        frame_times=np.asarray(imaging.frame_times_s, dtype=np.float64),
        contrast=_contrast_observation(imaging, domain, tissue),
        drug=drug,
        course=setup.course,
        considered=setup.considered,
        pH_error_basis=_pH_error_basis(imaging, domain, device),
        closure_basis=_closure_error_basis(imaging, domain, device),
        kinetic_covariance=covariance,
    )
    problem, function_notes = add_unknown_functions(problem, settings)
    return PosedProblem(problem, domain, tuple(notes + function_notes))


def _build_tissue_maps(
    imaging: ImagingMaps, domain: Domain, device: str
) -> tuple[TissueMaps, torch.Tensor, list[str]]:
    """Filled maps of the box, covariance of ln Ktrans and ln ve ``(2, 2, x, y, z)``, and notes.

    PS of the maps is the measured Ktrans.
    """
    inside = imaging.mask
    ve, ve_std, data_weight = shrink_to_tumour_mean(imaging.ve, imaging.ve_std, inside)
    vp, _, _ = shrink_to_tumour_mean(imaging.vp, imaging.vp_std, inside)
    Ktrans, phi, v_p = fill_kinetic_maps(imaging.ktrans_per_min / MINUTE, ve, vp, inside)
    pH = smooth_pH(imaging.ph_filled, inside)

    def box(values: Array, beyond: float) -> torch.Tensor:
        return torch.as_tensor(domain.crop(values, beyond), dtype=torch.float64, device=device)

    tissue = cut_tissue_box(Ktrans, phi, v_p, pH, inside, domain.crop, device)
    relative = np.zeros((2, 2, *inside.shape))
    relative[0, 0] = _bounded(imaging.ktrans_std / MINUTE / Ktrans) ** 2
    relative[1, 1] = _bounded(ve_std / phi) ** 2
    relative[0, 1] = relative[1, 0] = np.nan_to_num(
        imaging.kinetics.covariance[..., 0, 1] / MINUTE / Ktrans * data_weight / phi
    )
    most = 0.99 * np.sqrt(relative[0, 0] * relative[1, 1])
    relative[0, 1] = relative[1, 0] = np.clip(relative[0, 1], -most, most)
    covariance = torch.stack(
        [torch.stack([box(relative[i, j] * inside, 0.0) for j in range(2)]) for i in range(2)]
    )
    holes = int((inside & ~np.isfinite(imaging.ktrans_per_min)).sum())
    notes = [
        (
            "The permeability of the vessel wall is Ktrans less its solvent drag. Inside the tumour"
            " filtration and liposome permeability are proportional to its map (an assumption)."
        ),
        (
            "Porosity is the ve map, shrunk towards the tumour's mean according to the uncertainty"
            f" of each voxel (on average by {1 - float(data_weight[inside].mean()):.0%})."
            f" {holes} tumour voxels without a valid fit have the median of the tumour."
        ),
        (
            "The pH map is smoothed (local paraboloids, Gaussian of"
            f" {PH_SMOOTHING_VOXELS:g} voxels) before it enters the release rate."
        ),
        (
            f"The solution includes {MARGIN_M * 1e3:g} mm of normal tissue around the tumour, with"
            " tabulated flow properties relative to those of the tumour and p = p_inf at the edge."
        ),
    ]
    return tissue, covariance, notes


def _bounded(relative_sd: Array) -> Array:
    """Relative errors limited to one, which is also the value of unknown errors."""
    return np.clip(np.nan_to_num(relative_sd, nan=1.0), 0.0, 1.0)


#: Error of the smoothed pH map as a share of the voxel noise, and its correlation length.
PH_RESIDUAL_NOISE_SHARE, PH_ERROR_LENGTH_M = 0.5, 0.7e-3
#: Error that all voxels of a pH map share (calibration), and an error of the same size and a larger
#: correlation length, because coarse voxels flatten a core or a rim.
PH_COMMON_ERROR, PH_COMMON_ERROR_LENGTH_M = 0.03, 2.0e-3
#: Model error of a drug image (sub-voxel tissue), relative to the image, and its correlation length
#: (an assumption).
CLOSURE_ERROR, CLOSURE_LENGTH_M = 0.03, 1.5e-3
_DRUG_ASSUMPTIONS = (
    "Ktrans, ve and vp are corrected for flow and diffusion between voxels.",
    "Drug images are used inside the border layer of the tumour only. Their error includes the"
    " effect of the noise of the Ktrans and ve maps on the prediction.",
)
#: Error of an assumed pH, the same in all voxels.
PH_ASSUMED_ERROR = 0.25


def _pH_error_basis(imaging: ImagingMaps, domain: Domain, device: str) -> torch.Tensor:
    """Basis of the error of the pH map inside the tumour, ``(k, x, y, z)``.

    The error is their sum with weights of unit variance.
    """
    inside = domain.crop(imaging.mask.astype(float), 0.0) > 0.5
    if imaging.ph_coverage == 0:
        return torch.as_tensor(PH_ASSUMED_ERROR * inside[None].astype(float), device=device)
    own = np.sqrt(np.clip(imaging.ph_std**2 - imaging.ph_common_std**2, 0, None))
    sd = PH_RESIDUAL_NOISE_SHARE * np.nan_to_num(
        domain.crop(own, np.nan), nan=PH_ASSUMED_ERROR / PH_RESIDUAL_NOISE_SHARE
    )
    fine = sd * gaussian_radial_basis(inside, imaging.voxel_size_m, PH_ERROR_LENGTH_M)
    coarse = PH_COMMON_ERROR * gaussian_radial_basis(
        inside, imaging.voxel_size_m, PH_COMMON_ERROR_LENGTH_M
    )
    common = max(PH_COMMON_ERROR, imaging.ph_common_std) * inside[None]
    return torch.as_tensor(np.concatenate([fine, coarse, common]), device=device)


def _closure_error_basis(imaging: ImagingMaps, domain: Domain, device: str) -> torch.Tensor:
    """Basis of the model error of a drug image relative to it."""
    inside = domain.crop(imaging.mask.astype(float), 0.0) > 0.5
    bumps = gaussian_radial_basis(inside, imaging.voxel_size_m, CLOSURE_LENGTH_M)
    return torch.as_tensor(CLOSURE_ERROR * bumps, device=device)


def _contrast_observation(
    imaging: ImagingMaps, domain: Domain, tissue: TissueMaps
) -> ContrastObservation:
    """Concentration in tumour voxels with a valid kinetic fit and a finite curve."""
    curves = np.moveaxis(imaging.concentration_mM, 0, -1)
    usable = imaging.mask & np.isfinite(imaging.ktrans_per_min) & np.isfinite(curves).all(axis=-1)
    usable &= np.isfinite(imaging.concentration_sd_mM) & (imaging.concentration_sd_mM > 0)
    device = tissue.phi.device
    voxels = torch.as_tensor(domain.crop(usable.astype(float), 0.0) > 0.5, device=device)
    box = torch.as_tensor(domain.crop(imaging.concentration_mM, 0.0), device=device)
    noise = torch.as_tensor(domain.crop(imaging.concentration_sd_mM, 1.0), device=device)[voxels]
    kinetics = tissue.PS[voxels], tissue.phi[voxels], tissue.v_p[voxels]
    local, mixed = _local_sensitivities(imaging, *kinetics), _curvature(imaging, *kinetics)
    baseline = torch.as_tensor(domain.crop(imaging.baseline_sensitivity_mM, 0.0), device=device)[
        :, voxels
    ].T
    explained = torch.cat([local, baseline[..., None], mixed[..., None]], dim=-1)
    explained = explained / explained.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return ContrastObservation(box[:, voxels], noise, voxels, torch.linalg.qr(explained)[0])


def _local_sensitivities(
    imaging: ImagingMaps, Ktrans: torch.Tensor, ve: torch.Tensor, vp: torch.Tensor
) -> torch.Tensor:
    """Derivatives of the Tofts curve of each voxel by Ktrans, ve, vp and delay, ``(n, t, 4)``."""
    curve = InputCurve(imaging.aif, imaging.frame_times_s, str(Ktrans.device))
    parameters = torch.stack([Ktrans, ve, vp, torch.zeros_like(vp)], dim=1)
    return evaluate(extended_tofts, parameters, curve, with_delay=True)[1].transpose(1, 2)


def _curvature(
    imaging: ImagingMaps,
    Ktrans: torch.Tensor,
    ve: torch.Tensor,
    vp: torch.Tensor,
    step: float = 0.05,
) -> torch.Tensor:
    """Second derivative of the Tofts curve of each voxel by ln ve, ``(n, t)``.

    The curve of a voxel in which Ktrans/ve varies is that of its mean plus half of the variance of
    ln(Ktrans/ve) times this derivative.
    """
    curve = InputCurve(imaging.aif, imaging.frame_times_s, str(Ktrans.device))
    here, up, down = (
        evaluate(
            extended_tofts,
            torch.stack([Ktrans, v, vp, torch.zeros_like(vp)], dim=1),
            curve,
            with_delay=True,
        )[0]
        for v in (ve, ve * (1 + step), ve * (1 - step))
    )
    return (up + down - 2 * here) / step**2


def load_drug_images(
    imaging: ImagingMaps, settings: FitSettings, drug: Sequence[VolumeSource] = ()
) -> tuple[DrugImage, ...]:
    """Every post-dose image on the grid of the scan, those of the settings first.

    Raises:
        InputError: one cannot be used.
    """
    shape, affine, mask, coregistration = (
        imaging.mask.shape,
        imaging.affine,
        imaging.mask,
        imaging.coregistration,
    )
    return tuple(
        load_drug_image(
            p, (shape[0], shape[1], shape[2]), affine, mask, coregistration=coregistration
        )
        for p in (*map(Path, settings.drug), *drug)
    )
