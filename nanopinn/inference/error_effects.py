"""Effects of the systematic errors on the observations, linearised at an estimate.

The errors are those of the pH map, of the scale of each drug image, of processes that the model
omits, of the grid, of the equations where they are not taken as exact, and of every parameter that
a fit considers without estimating it: plasma kinetics of the population, samples of a measured
plasma curve, and constants of tissue and cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.model_error import model_error_effects
from nanopinn.inference.observations import DrugObservation, nearest_nodes
from nanopinn.inference.systematic import SystematicErrors
from nanopinn.inference.tumour_problem import AnyTumourProblem, Fields, TumourProblem
from nanopinn.parameters import SCALARS, ParameterDistribution
from nanopinn.solvers.drug_forward import solve_drug_for_tissues
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.integrate import COARSE_STEP_OPTIONS

Array = NDArray[np.float64]

#: Relative residual of linear solves whose difference gives an effect of some per cent.
EFFECT_TOLERANCE = 1e-5
#: Change of the unknowns, in prior standard deviations, up to which the effects of the grid are
#: kept, and those of the considered parameters, which act almost as some unknowns do.
GRID_LINEARISATION_RADIUS, PARAMETER_LINEARISATION_RADIUS = 0.6, 0.25
#: Deviate of a considered parameter for the finite difference of its effect.
PARAMETER_STEP = 0.5


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
    # expensive effects change slowly: they are left out in the first iteration, and then kept near
    # the point of their last evaluation
    last = problem.errors
    again = last is not None and not _is_near(problem, theta, last.grid_theta)
    moved = last is not None and (again or not _keeps_parameter_effects(problem, theta, last))
    images = _perturbed_drug_images(problem, theta, fields.flow, with_parameters=moved)
    problem = replace(problem, drug=_with_prediction_variance(problem, fields, images))
    none = fields.contrast.new_zeros((0, 0))
    curves = fields.contrast.new_zeros((problem.contrast.measured.numel(), 0))
    count = sum(d.count for d in problem.drug)
    on_images = fields.contrast.new_zeros((count, 0))
    if last is None:
        grid_theta, grid = np.full_like(theta, np.inf), (curves, on_images)
    elif again:
        grid_theta = theta.copy()
        grid = _discretisation_error_effect(problem, theta, fields, images.get("unchanged"))
    else:
        grid_theta, grid = last.grid_theta, (last.grid_on_contrast, last.grid_on_drug)
    if last is None:
        parameter_theta, parameters = np.full_like(theta, np.inf), (curves, on_images)
    elif moved:
        parameter_theta = theta.copy()
        parameters = (
            _parameters_on_contrast(problem, theta, fields)
            if again
            else last.parameters_on_contrast,
            _parameters_on_drug(problem, images),
        )
    else:
        parameter_theta = last.parameter_theta
        parameters = (last.parameters_on_contrast, last.parameters_on_drug)
    model = (
        (None, None)
        if problem.model_error is None
        else _model_error_effect(problem, theta, fields, grid_theta)
    )
    scale = scale_error_effects(problem, fields) if problem.drug else none
    errors = SystematicErrors(
        theta=theta.copy(),
        grid_theta=grid_theta,
        grid_on_contrast=grid[0],
        grid_on_drug=grid[1],
        closure_on_drug=(
            torch.block_diag(*closure_error_effects(problem, fields)) if problem.drug else none
        ),
        pH_on_drug=_pH_error_effect(problem, images) if problem.drug else none,
        pH=(
            problem.pH_error_basis.new_zeros(len(problem.pH_error_basis))
            if last is None
            else last.pH
        ),
        scale_on_drug=scale,
        scale=scale.new_zeros(scale.shape[1]) if last is None else last.scale,
        parameter_theta=parameter_theta,
        parameters_on_contrast=parameters[0],
        parameters_on_drug=parameters[1],
        contrast_parameters=_kept(last, parameters[0], "contrast_parameters"),
        drug_parameters=_kept(last, parameters[1], "drug_parameters"),
        model_on_contrast=model[0],
        model_on_drug=model[1],
    )
    return replace(problem, errors=errors)


def _keeps_parameter_effects(problem: TumourProblem, theta: Array, last: SystematicErrors) -> bool:
    """Whether the effects of the considered parameters still hold."""
    change = np.abs(theta - last.parameter_theta) / problem.unknowns.prior_sd
    return bool(change.max() < PARAMETER_LINEARISATION_RADIUS)


def _kept(last: SystematicErrors | None, effect: Tensor, name: str) -> Tensor:
    """Deviates that predictions include; zero until the effects are known."""
    known = effect.new_zeros(0) if last is None else getattr(last, name)
    return known if len(known) == effect.shape[1] else effect.new_zeros(effect.shape[1])


def _is_near(problem: TumourProblem, theta: Array, at: Array) -> bool:
    """Whether effects that were evaluated at a point still hold."""
    change = np.abs(theta - at) / problem.unknowns.prior_sd
    return all(
        c < GRID_LINEARISATION_RADIUS or not _affects_grid_error(name)
        for c, name in zip(change, problem.unknowns.names, strict=True)
    )


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


def _stepped(
    problem: TumourProblem, symbol: str, distribution: ParameterDistribution
) -> dict[str, float]:
    """The parameter :data:`PARAMETER_STEP` deviates above its current value."""
    at = problem.deviates.get(symbol, 0.0)
    return {symbol: distribution.value_after_step(at, PARAMETER_STEP)}


def _perturbed_drug_images(
    problem: TumourProblem, theta: Array, flow: FlowSolution, *, with_parameters: bool
) -> dict[str, list[Tensor]]:
    """Every drug image with unchanged maps, with more porosity, with more pH, and with each
    considered parameter stepped, for fixed flow and with few time nodes.
    """
    if not problem.drug:
        return {}
    maps = problem.setting.maps
    variants = {
        "unchanged": maps,
        "porosity": replace(maps, phi=maps.phi * (1 + POROSITY_STEP)),
        "pH": replace(maps, pH=maps.pH + PH_STEP),
    }
    forwards = {
        name: replace(problem, setting=replace(problem.setting, maps=changed)).forward()
        for name, changed in variants.items()
    }
    if with_parameters:
        for symbol, distribution in problem.considered_on_drug.items():
            forwards[symbol] = problem.forward(values=_stepped(problem, symbol, distribution))
    images = _predict_drug_images(problem, theta, list(forwards.values()), flow)
    return dict(zip(forwards, images, strict=True))


def _predict_drug_images(
    problem: TumourProblem, theta: Array, forwards: Sequence[ForwardModel], flow: FlowSolution
) -> list[list[Tensor]]:
    """Every drug image of each tissue with few time nodes; the discretisation error cancels in
    differences of these images.
    """
    nodes = problem.drug_nodes([d.time_s for d in problem.drug], **COARSE_STEP_OPTIONS)
    pools = solve_drug_for_tissues(
        forwards, problem.tensor(theta), flow, nodes, tol=EFFECT_TOLERANCE
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
) -> tuple[Tensor, Tensor]:
    """Change of the whitened curves and drug images when the cells are halved.

    This is one standard deviation of the error that comes from the grid and from tissue that is
    known only as voxel means. The estimate is centred on the finer grid
    (:class:`~nanopinn.inference.systematic.SystematicErrors`).
    """
    setting = problem.setting.refined(2)
    finer = replace(
        problem,
        setting=replace(setting, flow_refine=-(-problem.setting.flow_refine // 2)),
        course=problem.course and problem.course.refined(2),
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
        return curves, curves.new_zeros((0, 0))
    finer_images = _predict_drug_images(finer, theta, [forward], flow)[0]
    columns = [
        d.whiten(average_subcells(finer_image, 2) - image)[:, None]
        for d, finer_image, image in zip(problem.drug, finer_images, images, strict=True)
    ]
    return curves, torch.block_diag(*columns)


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


def scale_error_effects(problem: TumourProblem, fields: Fields) -> Tensor:
    """Derivative of all whitened drug images by the errors of their scales, ``(n, k)``.

    The first columns are the scales that all images of one quantity share, in the order of
    :func:`scaled_quantities`; the others are those of each image.

    Args:
        problem: problem with drug images.
        fields: fields of the problem.
    """
    assert fields.pools is not None
    whitened = [
        d.whiten(
            d.predict(
                fields.pools[problem.node_index(d)],
                problem.setting.maps,
                problem.plasma_at(d.time_s),
            )
        )
        for d in problem.drug
    ]
    pairs = list(zip(problem.drug, whitened, strict=True))
    shared = [
        torch.cat([w * (d.shared_scale_sd * (d.quantity == q)) for d, w in pairs])
        for q in scaled_quantities(problem.drug)
    ]
    own = torch.block_diag(*(w[:, None] * d.own_scale_sd for d, w in pairs))
    return torch.cat([torch.stack(shared, dim=1), own], dim=1)


def scaled_quantities(images: Sequence[DrugObservation]) -> tuple[str, ...]:
    """Quantities of the drug images, each of which has a shared scale."""
    return tuple(sorted({d.quantity for d in images}))


def with_scales(images: Sequence[DrugObservation], errors: Tensor) -> tuple[DrugObservation, ...]:
    """The drug images with the scales that belong to errors of unit variance.

    Args:
        images: all drug images.
        errors: in the order of :func:`scale_error_effects`, ``(k,)``.
    """
    quantities = scaled_quantities(images)
    found = []
    for i, d in enumerate(images):
        shared = float(errors[quantities.index(d.quantity)])
        logarithm = d.shared_scale_sd * shared + d.own_scale_sd * float(errors[len(quantities) + i])
        found.append(replace(d, scale=d.base_scale * float(np.exp(logarithm))))
    return tuple(found)


def _parameters_on_drug(problem: TumourProblem, images: Mapping[str, list[Tensor]]) -> Tensor:
    """Derivative of all whitened drug images by the considered parameters, ``(n, k)``.

    The vascular part of an image follows the plasma curve of the same parameter.
    """
    columns = []
    for symbol, distribution in problem.considered_on_drug.items():
        values = _stepped(problem, symbol, distribution)
        changes = [
            (moved - image) / PARAMETER_STEP + _vascular_change(problem, d, values)
            for d, moved, image in zip(
                problem.drug, images[symbol], images["unchanged"], strict=True
            )
        ]
        columns.append(torch.cat([d.whiten(c) for d, c in zip(problem.drug, changes, strict=True)]))
    count = sum(d.count for d in problem.drug)
    phi = problem.setting.maps.phi
    return torch.stack(columns, dim=1) if columns else phi.new_zeros((count, 0))


def _vascular_change(
    problem: TumourProblem, d: DrugObservation, values: Mapping[str, float]
) -> Tensor:
    """Derivative of encapsulated drug in the vessels of an image, ``(x, y, z)``."""
    maps = problem.setting.maps
    nothing = maps.phi.new_zeros((len(d.pools), *maps.phi.shape))
    here, moved = (d.predict(nothing, maps, problem.plasma_at(d.time_s, v)) for v in (None, values))
    return (moved - here) / PARAMETER_STEP


def _parameters_on_contrast(problem: TumourProblem, theta: Array, fields: Fields) -> Tensor:
    """Derivative of the whitened curves by the considered parameters, ``(n, k)``."""
    columns = []
    flow = fields.flow_without_tangents
    for symbol, distribution in problem.considered_on_contrast.items():
        forward = problem.forward(values=_stepped(problem, symbol, distribution))
        moved, *_ = forward.solve_contrast(
            problem.tensor(theta), flow, problem.aif, problem.frame_times, tol=EFFECT_TOLERANCE
        )
        change = problem.contrast.whiten(moved - fields.contrast) / PARAMETER_STEP
        columns.append(change.reshape(-1))
    count = problem.contrast.measured.numel()
    return torch.stack(columns, dim=1) if columns else fields.contrast.new_zeros((count, 0))
