"""What a fit takes from its own current state: kinetic maps freed of the flow, the pH map's error,
the effect of systematic errors.

The kinetic maps say what each voxel's curve says by itself, with all that flows and diffuses
between voxels in it. The tissue's are those with which the model's curves, fitted voxel by voxel,
give the measured ones: a fixed point that the fit follows. None of this is tangled with the steps
of an engine: it is brought up to date between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.dce.models import extended_tofts
from nanopinn.imaging.dce.plasma_curve import InputCurve
from nanopinn.imaging.dce.voxel_fit import fit_kinetics
from nanopinn.inference.model_error import model_error_effects
from nanopinn.inference.observations import DrugObservation
from nanopinn.inference.systematic import SystematicErrors
from nanopinn.inference.tumour_problem import AnyTumourProblem, Fields, TumourProblem
from nanopinn.physics.flow import permeability_from_ktrans
from nanopinn.solvers.forward import FlowSolution, ForwardModel, solve_drug_for_tissues
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.time_nodes import COARSE_STEP_OPTIONS

Array = NDArray[np.float64]

#: Relative residual of linear solves where two of them only tell an effect of some percent by their difference.
EFFECT_TOLERANCE = 1e-5
#: Prior standard deviations (of unknowns, and of the pH map's error) within which a linearisation
#: holds.
LINEARISATION_RADIUS = 0.08
#: The same for the effect of the grid, and unknowns of which it takes no notice. Images hardly know
#: the first two, so that they wander, and a whole prior sd of them changes the effect less than is
#: tolerated of l (by 0.2 and 0.4 of its 4.5, against 1.8); p_e touches no image.
GRID_LINEARISATION_RADIUS = 0.6
GRID_INSENSITIVE = frozenset({"pK_rel", "K_ratio_n", "p_e"})
#: No kinetic map moves by more than this factor between two linearisations.
MAX_MAP_RATIO = 1.25
#: Maps and flow follow each other with a lag that full steps would overshoot.
RELAXATION_FACTOR = 0.6


def update_kinetic_maps(problem: AnyTumourProblem, theta: Array, here: Fields) -> AnyTumourProblem:
    """The problem with kinetic maps freed of the flow at theta, and the pH error that the drug
    images ask for.
    """
    pH_error = _estimate_pH_error(problem, here)
    if problem.errors is not None and _linearisation_is_valid(problem, theta, pH_error):
        return problem
    # without drug images nothing holds the flow against maps that follow it, so they stay as
    # measured
    local = (
        _update_local_kinetics(
            problem, here, share=1.0 if problem.errors is None else RELAXATION_FACTOR
        )
        if problem.drug
        else problem.local_kinetics
    )
    maps = replace(
        problem.setting.maps,
        PS=permeability_from_ktrans(local[0], here.flow.J_v),
        phi=local[1],
        v_p=local[2],
        pH=problem.measured_pH + torch.einsum("k,kxyz->xyz", pH_error, problem.pH_error_basis),
    )
    errors = None if problem.errors is None else replace(problem.errors, pH=pH_error)
    return replace(
        problem, local_kinetics=local, setting=replace(problem.setting, maps=maps), errors=errors
    )


def _linearisation_is_valid(problem: TumourProblem, theta: Array, pH_error: Tensor) -> bool:
    """Whether nothing would change much: then the objective stands still and a descent can end."""
    last = problem.errors
    assert last is not None
    if not np.isfinite(last.grid_theta).all():
        return False
    moved = np.abs(theta - last.theta) / problem.unknowns.prior_sd
    return (
        bool(moved.max() < LINEARISATION_RADIUS)
        and float((pH_error - last.pH).square().mean().sqrt()) < LINEARISATION_RADIUS
    )


def _estimate_pH_error(problem: TumourProblem, fields: Fields) -> Tensor:
    if problem.errors is None or fields.pools is None:
        return problem.pH_error_basis.new_zeros(len(problem.pH_error_basis))
    return problem.errors.drug.conditional_estimate(problem.drug_misfit(fields.pools))[
        : len(problem.pH_error_basis)
    ]


def _update_local_kinetics(problem: TumourProblem, fields: Fields, share: float) -> Tensor:
    """A share of a step to where each voxel's curve, fitted by itself, says what was measured."""
    voxels = problem.contrast.voxels
    curve = InputCurve(problem.aif, problem.frame_times, str(voxels.device))
    fit = fit_kinetics(extended_tofts, fields.contrast[:, voxels].T.contiguous(), curve)
    apparent, measured, old = (
        fit.parameters.T,
        problem.kinetics[:, voxels],
        problem.local_kinetics[:, voxels],
    )
    scale = (measured[:2] / apparent[:2]).clamp(1 / MAX_MAP_RATIO, MAX_MAP_RATIO) ** share
    new = torch.cat(
        [old[:2] * scale, (old[2:] + share * (measured[2:] - apparent[2:])).clamp(0.0, 0.5)]
    )
    new[1] = new[1].clamp(0.05, 0.9)
    local = problem.local_kinetics.clone()
    local[:, voxels] = torch.where(fit.converged & torch.isfinite(new).all(dim=0), new, old)
    return local


def systematic_error_effects(
    problem: AnyTumourProblem, theta: Array, fields: Fields
) -> AnyTumourProblem:
    """The problem with the effect that systematic errors have on its observations at theta.

    Args:
        fields: at theta, of this problem's maps.
    """
    images = _perturbed_drug_images(problem, theta, fields.flow)
    problem = replace(problem, drug=_with_prediction_variance(problem, fields, images))
    grid_theta, on_contrast, on_drug = _discretisation_error_effect(
        problem, theta, fields, images.get("as they are")
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
    """Effect of the model's own error; it changes as slowly as that of the grid, and is kept as
    long.
    """
    last = problem.errors
    if (
        last is not None
        and last.model_on_contrast is not None
        and np.array_equal(grid_theta, last.grid_theta)
    ):
        return last.model_on_contrast, last.model_on_drug
    return model_error_effects(problem, theta, fields)


#: Changes of a map that tell the slope of every drug image by it: a voxel answers to its own value.
POROSITY_STEP, PH_STEP = 0.02, 0.02


def _perturbed_drug_images(
    problem: TumourProblem, theta: Array, flow: FlowSolution
) -> dict[str, list[Tensor]]:
    """Every drug image as the maps are, with more porosity and with more pH, at the flow that
    stands, on few nodes.
    """
    if not problem.drug:
        return {}
    maps = problem.setting.maps
    variants = {
        "as they are": maps,
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
    """Every drug image of each tissue, from a march of few nodes: what is compared with it shares
    its error.
    """
    nodes = problem.setting.drug_nodes([d.time_s for d in problem.drug], **COARSE_STEP_OPTIONS)
    pools = solve_drug_for_tissues(
        forwards, problem.tensor(theta), flow, problem.plasma, nodes, tol=EFFECT_TOLERANCE
    )
    at = [int(np.argmin(np.abs(nodes - d.time_s))) for d in problem.drug]
    return [
        [
            d.linear(pools[i, tissue], forward.setting.maps)
            for i, d in zip(at, problem.drug, strict=True)
        ]
        for tissue, forward in enumerate(forwards)
    ]


def _with_prediction_variance(
    problem: TumourProblem, fields: Fields, images: dict[str, list[Tensor]]
) -> tuple[DrugObservation, ...]:
    """The drug images, each with the sd that noise and the errors of Ktrans and ve together leave."""
    weighed = []
    for i, d in enumerate(problem.drug):
        assert fields.pools is not None
        of_phi = (images["porosity"][i] - images["as they are"][i]) / POROSITY_STEP
        # what enters a voxel is in proportion to its wall, and nearly all of it stays
        g = torch.stack(
            [d.linear(fields.pools[problem.node_index(d)], problem.setting.maps), of_phi]
        )
        variance = torch.einsum("ixyz,ijxyz,jxyz->xyz", g, problem.kinetic_covariance, g)
        weighed.append(replace(d, sd=(d.noise_sd.square() + variance).sqrt()))
    return tuple(weighed)


def _discretisation_error_effect(
    problem: TumourProblem, theta: Array, fields: Fields, images: list[Tensor] | None
) -> tuple[Array, Tensor, Tensor]:
    """Change of the whitened curves and of every whitened drug image when cells are halved, and
    where.

    One standard deviation of the error of the grid, and of knowing tissue only as voxel means; the
    estimate is centred on the finer grid (:class:`SharedError`, ``at``). It changes slowly and
    costs the most: where a descent starts it is left out, and near where it was last worked out it
    is kept.
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
    strides = np.abs(theta - last.grid_theta) / problem.unknowns.prior_sd
    if all(
        s < GRID_LINEARISATION_RADIUS or name in GRID_INSENSITIVE
        for s, name in zip(strides, problem.unknowns.names, strict=True)
    ):
        return last.grid_theta, last.grid_on_contrast, last.grid_on_drug
    setting = problem.setting.refined(2)
    finer = replace(
        problem, setting=replace(setting, flow_refine=-(-problem.setting.flow_refine // 2))
    )
    same = finer.setting.flow_setting.grid == problem.setting.flow_setting.grid
    forward = finer.forward(fields.flow.p if same else None)
    flow = forward.flow(finer.tensor(theta))
    there = average_subcells(
        forward.contrast(
            finer.tensor(theta), flow, finer.aif, finer.frame_times, tol=EFFECT_TOLERANCE
        )[0],
        2,
    )
    curves = (
        problem.contrast.residual(there) - problem.contrast.residual(fields.contrast)
    ).reshape(-1, 1)
    if images is None:
        return theta.copy(), curves, curves.new_zeros((0, 0))
    halved = [
        average_subcells(i, 2) for i in _predict_drug_images(finer, theta, [forward], flow)[0]
    ]
    columns = [
        d.whiten(h - i)[:, None] for d, h, i in zip(problem.drug, halved, images, strict=True)
    ]
    return theta.copy(), curves, torch.block_diag(*columns)


def closure_error_effects(problem: TumourProblem, fields: Fields) -> list[Tensor]:
    """Change of each whitened drug image ``(n, k)`` by each bump of the closure error, which no two
    images share.
    """
    assert fields.pools is not None
    images = [
        d.linear(fields.pools[problem.node_index(d)], problem.setting.maps) for d in problem.drug
    ]
    return [
        d.whiten(i * problem.closure_basis).T for d, i in zip(problem.drug, images, strict=True)
    ]


def _pH_error_effect(problem: TumourProblem, images: dict[str, list[Tensor]]) -> Tensor:
    """Change of every whitened drug image by each bump of the pH error, ``(n, k)``."""
    slopes = [
        (up - here) / PH_STEP for up, here in zip(images["pH"], images["as they are"], strict=True)
    ]
    return torch.cat(
        [d.whiten(s * problem.pH_error_basis).T for d, s in zip(problem.drug, slopes, strict=True)]
    )
