"""The complete inverse problem of the voxel engines, relinearised between their steps.

Updated at each estimate are the kinetic maps, the pH error and the effect of the systematic errors.
The measured kinetic maps describe the curve of each voxel by itself, including transport between
voxels. The maps of the tissue are those for which the curves of the model, fitted voxel by voxel,
reproduce the measured maps: the fixed point of an under-relaxed iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.dce.impulse_response import InputCurve, PlasmaCurve
from nanopinn.imaging.dce.models import extended_tofts
from nanopinn.imaging.dce.voxel_fit import fit_kinetics
from nanopinn.inference.basis import FunctionUnknown
from nanopinn.inference.model_error import model_error_effects
from nanopinn.inference.observations import ContrastObservation, DrugObservation, nearest_nodes
from nanopinn.inference.systematic import ModelError, SystematicErrors
from nanopinn.inference.tumour_problem import AnyTumourProblem, Fields, TumourProblem
from nanopinn.inference.unknowns import Unknown, UnknownSet
from nanopinn.parameters import SCALARS
from nanopinn.physics.flow import permeability_from_ktrans
from nanopinn.physics.plasma import SumOfExponentials
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.solvers.forward import FlowSolution, ForwardModel, solve_drug_for_tissues
from nanopinn.solvers.grid import Grid, average_subcells
from nanopinn.solvers.integrate import COARSE_STEP_OPTIONS
from nanopinn.solvers.tissue_setting import TissueSetting

Array = NDArray[np.float64]

#: Relative residual of linear solves whose difference gives an effect of some per cent.
EFFECT_TOLERANCE = 1e-5
#: Change of the unknowns and of the pH error, in prior standard deviations, up to which a
#: linearisation is kept.
LINEARISATION_RADIUS = 0.08
#: The same for the discretisation effect.
GRID_LINEARISATION_RADIUS = 0.6
#: Largest factor by which a kinetic map changes between two linearisations.
MAX_MAP_RATIO = 1.25
#: Under-relaxation factor of the kinetic maps; full steps of the fixed-point iteration would
#: overshoot.
RELAXATION_FACTOR = 0.6


def update_kinetic_maps(
    problem: AnyTumourProblem, theta: Array, fields: Fields
) -> AnyTumourProblem:
    """Update the kinetic maps by a fixed-point correction for flow, and the pH error from the drug
    images.

    Args:
        problem: problem before the update.
        theta: coordinates, ``(m,)``.
        fields: fields of the problem at ``theta``.

    Returns:
        The updated problem; the same problem if its linearisation is still valid.
    """
    pH_error = _estimate_pH_error(problem, fields)
    if problem.errors is not None and _linearisation_is_valid(problem, theta, pH_error):
        return problem
    # without drug images the flow is not determined independently of the maps, so the maps stay as
    # measured
    local = problem.local_kinetics
    if problem.drug:
        relaxation = 1.0 if problem.errors is None else RELAXATION_FACTOR
        local = _update_local_kinetics(problem, fields, relaxation)
    maps = replace(
        problem.setting.maps,
        PS=permeability_from_ktrans(local[0], fields.flow.J_v),
        phi=local[1],
        v_p=local[2],
        pH=problem.measured_pH + torch.einsum("k,kxyz->xyz", pH_error, problem.pH_error_basis),
    )
    errors = None if problem.errors is None else replace(problem.errors, pH=pH_error)
    return replace(
        problem, local_kinetics=local, setting=replace(problem.setting, maps=maps), errors=errors
    )


def _linearisation_is_valid(problem: TumourProblem, theta: Array, pH_error: Tensor) -> bool:
    """Whether the changes are so small that the objective can stay fixed."""
    last = problem.errors
    assert last is not None
    if not np.isfinite(last.grid_theta).all():
        return False
    change = np.abs(theta - last.theta) / problem.unknowns.prior_sd
    return (
        bool(change.max() < LINEARISATION_RADIUS)
        and float((pH_error - last.pH).square().mean().sqrt()) < LINEARISATION_RADIUS
    )


def _estimate_pH_error(problem: TumourProblem, fields: Fields) -> Tensor:
    """Conditional estimate of the pH error, ``(k,)``."""
    if problem.errors is None or fields.pools is None:
        return problem.pH_error_basis.new_zeros(len(problem.pH_error_basis))
    return problem.errors.drug.conditional_estimate(problem.drug_misfit(fields.pools))[
        : len(problem.pH_error_basis)
    ]


def _update_local_kinetics(problem: TumourProblem, fields: Fields, relaxation: float) -> Tensor:
    """Relaxed step towards maps for which the model's curves, fitted voxel by voxel, give the
    measured maps.
    """
    voxels = problem.contrast.voxels
    curve = InputCurve(problem.aif, problem.frame_times, str(voxels.device))
    fit = fit_kinetics(extended_tofts, fields.contrast[:, voxels].T.contiguous(), curve)
    apparent, measured, old = (
        fit.parameters.T,
        problem.kinetics[:, voxels],
        problem.local_kinetics[:, voxels],
    )
    scale = (measured[:2] / apparent[:2]).clamp(1 / MAX_MAP_RATIO, MAX_MAP_RATIO) ** relaxation
    new = torch.cat(
        [old[:2] * scale, (old[2:] + relaxation * (measured[2:] - apparent[2:])).clamp(0.0, 0.5)]
    )
    new[1] = new[1].clamp(0.05, 0.9)
    local = problem.local_kinetics.clone()
    local[:, voxels] = torch.where(fit.converged & torch.isfinite(new).all(dim=0), new, old)
    return local


def systematic_error_effects(
    problem: AnyTumourProblem, theta: Array, fields: Fields
) -> AnyTumourProblem:
    """Compute the effect of the systematic errors on the observations.

    Args:
        problem: problem before the update.
        theta: coordinates, ``(m,)``.
        fields: fields of the problem at ``theta``.

    Returns:
        The problem with its systematic errors.
    """
    images = _perturbed_drug_images(problem, theta, fields.flow)
    problem = replace(problem, drug=_with_prediction_variance(problem, fields, images))
    grid_theta, on_contrast, on_drug = _discretisation_error_effect(
        problem, theta, fields, images.get("unchanged")
    )
    none = fields.contrast.new_zeros((0, 0))
    on_curves, on_images = (
        (None, None)
        if problem.model_error is None
        else _model_error_effect(problem, theta, fields, grid_theta)
    )
    errors = SystematicErrors(
        theta=theta.copy(),
        grid_theta=grid_theta,
        grid_on_contrast=on_contrast,
        grid_on_drug=on_drug,
        closure_on_drug=(
            torch.block_diag(*closure_error_effects(problem, fields)) if problem.drug else none
        ),
        pH_on_drug=_pH_error_effect(problem, images) if problem.drug else none,
        pH=(
            problem.pH_error_basis.new_zeros(len(problem.pH_error_basis))
            if problem.errors is None
            else problem.errors.pH
        ),
        model_on_contrast=on_curves,
        model_on_drug=on_images,
    )
    return replace(problem, errors=errors)


def _model_error_effect(
    problem: TumourProblem, theta: Array, fields: Fields, grid_theta: Array
) -> tuple[Tensor | None, Tensor | None]:
    """Effect of the model error, kept as long as that of the grid because it varies as slowly."""
    last = problem.errors
    if (
        last is not None
        and last.model_on_contrast is not None
        and np.array_equal(grid_theta, last.grid_theta)
    ):
        return last.model_on_contrast, last.model_on_drug
    return model_error_effects(problem, theta, fields)


#: Steps of the finite differences by a whole map, because each voxel of an image depends mainly on
#: its own value: relative step of the porosity, and step of the pH.
POROSITY_STEP, PH_STEP = 0.02, 0.02


def _perturbed_drug_images(
    problem: TumourProblem, theta: Array, flow: FlowSolution
) -> dict[str, list[Tensor]]:
    """Every drug image with unchanged maps, with more porosity and with more pH, for fixed flow and
    with few time nodes.
    """
    if not problem.drug:
        return {}
    maps = problem.setting.maps
    variants = {
        "unchanged": maps,
        "porosity": replace(maps, phi=maps.phi * (1 + POROSITY_STEP)),
        "pH": replace(maps, pH=maps.pH + PH_STEP),
    }
    forwards = [
        ForwardModel(replace(problem.setting, maps=changed), problem.unknowns.scalars)
        for changed in variants.values()
    ]
    return dict(zip(variants, _predict_drug_images(problem, theta, forwards, flow), strict=True))


def _predict_drug_images(
    problem: TumourProblem, theta: Array, forwards: Sequence[ForwardModel], flow: FlowSolution
) -> list[list[Tensor]]:
    """Every drug image of each tissue with few time nodes; the discretisation error cancels in
    differences of these images.
    """
    nodes = problem.setting.drug_nodes([d.time_s for d in problem.drug], **COARSE_STEP_OPTIONS)
    pools = solve_drug_for_tissues(
        forwards, problem.tensor(theta), flow, problem.plasma, nodes, tol=EFFECT_TOLERANCE
    )
    at_images = nearest_nodes(nodes, [d.time_s for d in problem.drug])
    return [
        [
            d.linear(pools[i, tissue], forward.setting.maps)
            for i, d in zip(at_images, problem.drug, strict=True)
        ]
        for tissue, forward in enumerate(forwards)
    ]


def _with_prediction_variance(
    problem: TumourProblem, fields: Fields, images: dict[str, list[Tensor]]
) -> tuple[DrugObservation, ...]:
    """The drug images with the sd of noise combined with the errors of Ktrans and ve."""
    images_with_sd = []
    for i, d in enumerate(problem.drug):
        assert fields.pools is not None
        by_porosity = (images["porosity"][i] - images["unchanged"][i]) / POROSITY_STEP
        # drug enters a voxel in proportion to its Ktrans, and nearly all of it stays there
        by_ktrans = d.linear(fields.pools[problem.node_index(d)], problem.setting.maps)
        g = torch.stack([by_ktrans, by_porosity])
        variance = torch.einsum("ixyz,ijxyz,jxyz->xyz", g, problem.kinetic_covariance, g)
        images_with_sd.append(replace(d, sd=(d.noise_sd.square() + variance).sqrt()))
    return tuple(images_with_sd)


def _discretisation_error_effect(
    problem: TumourProblem, theta: Array, fields: Fields, images: list[Tensor] | None
) -> tuple[Array, Tensor, Tensor]:
    """Change of the whitened curves and drug images when the cells are halved, and its
    linearisation point.

    This is one standard deviation of the error that comes from the grid and from tissue that is
    known only as voxel means. The estimate is centred on the finer grid
    (:class:`~nanopinn.inference.systematic.SystematicErrors`). The effect changes slowly and is
    expensive, so it is omitted in the first iteration and kept near the point of its last
    evaluation.
    """
    last = problem.errors
    count = sum(d.count for d in problem.drug)
    if last is None:
        start = np.full_like(theta, np.inf)
        return (
            start,
            fields.contrast.new_zeros((problem.contrast.measured.numel(), 0)),
            fields.contrast.new_zeros((count, 0)),
        )
    change = np.abs(theta - last.grid_theta) / problem.unknowns.prior_sd
    if all(
        c < GRID_LINEARISATION_RADIUS or not _affects_grid_error(name)
        for c, name in zip(change, problem.unknowns.names, strict=True)
    ):
        return last.grid_theta, last.grid_on_contrast, last.grid_on_drug
    setting = problem.setting.refined(2)
    finer = replace(
        problem, setting=replace(setting, flow_refine=-(-problem.setting.flow_refine // 2))
    )
    same_flow_grid = finer.setting.flow_setting.grid == problem.setting.flow_setting.grid
    forward = finer.forward(fields.flow.p if same_flow_grid else None)
    flow = forward.solve_flow(finer.tensor(theta))
    finer_contrast, *_ = forward.solve_contrast(
        finer.tensor(theta), flow, finer.aif, finer.frame_times, tol=EFFECT_TOLERANCE
    )
    finer_residual = problem.contrast.residual(average_subcells(finer_contrast, 2))
    curves = (finer_residual - problem.contrast.residual(fields.contrast)).reshape(-1, 1)
    if images is None:
        return theta.copy(), curves, curves.new_zeros((0, 0))
    finer_images = _predict_drug_images(finer, theta, [forward], flow)[0]
    columns = [
        d.whiten(average_subcells(finer_image, 2) - image)[:, None]
        for d, finer_image, image in zip(problem.drug, finer_images, images, strict=True)
    ]
    return theta.copy(), curves, torch.block_diag(*columns)


def _affects_grid_error(name: str) -> bool:
    """Whether the discretisation effect depends on an unknown."""
    return name not in SCALARS or SCALARS[name].affects_grid_error


def closure_error_effects(problem: TumourProblem, fields: Fields) -> list[Tensor]:
    """Derivative of each whitened drug image by the weights of its closure error, which no two
    images share.

    Args:
        problem: problem with drug images.
        fields: fields of the problem.

    Returns:
        Effect on each image, ``(n, k)``.
    """
    assert fields.pools is not None
    images = [
        d.linear(fields.pools[problem.node_index(d)], problem.setting.maps) for d in problem.drug
    ]
    return [
        d.whiten(i * problem.closure_basis).T for d, i in zip(problem.drug, images, strict=True)
    ]


def _pH_error_effect(problem: TumourProblem, images: dict[str, list[Tensor]]) -> Tensor:
    """Derivative of all whitened drug images by the weights of the pH error, ``(n, k)``."""
    slopes = [
        (shifted - image) / PH_STEP
        for shifted, image in zip(images["pH"], images["unchanged"], strict=True)
    ]
    return torch.cat(
        [d.whiten(s * problem.pH_error_basis).T for d, s in zip(problem.drug, slopes, strict=True)]
    )


@dataclass(frozen=True)
class InverseProblem(TumourProblem):
    """The voxel problem with kinetic maps and systematic errors that follow the estimate."""

    def update_linearisation(self, theta: Array, fields: Fields) -> InverseProblem:
        """The problem with kinetic maps and pH error updated from the fields at theta.

        Args:
            theta: coordinates, ``(m,)``.
            fields: fields at theta.

        Returns:
            A new problem, or this one where the update would not change the result.
        """
        return update_kinetic_maps(self, theta, fields)

    def with_systematic_errors(self, theta: Array, fields: Fields) -> InverseProblem:
        """The problem with the effect of systematic errors on its observations at theta.

        Args:
            theta: coordinates, ``(m,)``.
            fields: at theta, of this problem's maps.
        """
        return systematic_error_effects(self, theta, fields)


#: Every class of which a problem consists, for its file.
SERIALISABLE_PARTS: tuple[type, ...] = (
    ContrastObservation,
    DrugObservation,
    FunctionUnknown,
    Grid,
    InverseProblem,
    ModelError,
    PlasmaCurve,
    TissueSetting,
    SumOfExponentials,
    SystematicErrors,
    TissueMaps,
    Unknown,
    UnknownSet,
)
