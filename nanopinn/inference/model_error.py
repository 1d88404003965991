"""Model error ``R(u; theta) = eta``: an unknown field of given prior variance that is added to the
mass balances, eliminated from the misfit and mapped.

In each of three balances, eta is relative to a flux of that balance:

    contrast agent:     eta_c = e_c(x) a_c c_p(t)             (influx through the vessel wall)
    encapsulated drug:  eta_l = e_l(x) a_l c_l(t)             (influx through the vessel wall)
    free drug:          eta_f = e_f(x) phi k_rel L(x, t)      (release)

The field e is smooth over some millimetres, and its prior standard deviation is the weight of the
equations, which are exact for 0. The observations depend linearly on e, so it is eliminated with
the other systematic errors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.basis import field_posterior
from nanopinn.inference.observations import nearest_nodes
from nanopinn.inference.tumour_problem import AnyTumourProblem, Fields, TumourProblem
from nanopinn.physics.drug_pools import ENCAPSULATED
from nanopinn.solvers.forward import LocalResponse
from nanopinn.solvers.integrate import COARSE_STEP_OPTIONS, frame_nodes, stage_times
from nanopinn.solvers.linear_pools import solve_responses
from nanopinn.solvers.runge_kutta import TR_BDF2

Array = NDArray[np.float64]

#: The balances with a model error, and the flux that each error is relative to.
BALANCES = {
    "contrast": "the influx of contrast agent through the vessel wall",
    "encapsulated": "the influx of the carrier through the vessel wall",
    "free": "the release",
}


def model_error_effects(
    problem: TumourProblem, theta: Array, fields: Fields
) -> tuple[Tensor, Tensor]:
    """Derivative of the whitened observations by the weights of the model error.

    Args:
        problem: problem with a model error.
        theta: coordinates, ``(m,)``.
        fields: fields at ``theta``.

    Returns:
        Effect on the curves, ``(n, k)``, and on the drug images, ``(n, 2 k)``.
    """
    assert problem.model_error is not None
    on_contrast = _on_contrast(problem, theta, fields, problem.model_error.basis)
    if not problem.drug:
        return on_contrast, on_contrast.new_zeros((0, 0))
    return on_contrast, _on_drug(problem, theta, fields, problem.model_error.basis)


def _on_contrast(problem: TumourProblem, theta: Array, fields: Fields, basis: Tensor) -> Tensor:
    """Effect of the errors of the contrast-agent balance on the curves, ``(n, k)``."""
    forward = problem.forward()
    pools, operator, _ = forward.linearise_pools(
        "contrast", problem.tensor(theta), fields.flow_without_tangents
    )
    maps, aif = problem.setting.maps, problem.aif
    nodes, at = frame_nodes(problem.frame_times, float(aif.times_s[0]), 1)
    local = LocalResponse(maps, aif, stage_times(nodes, TR_BDF2))
    relative_influx = (operator.inflow[0, 0] / maps.PS * basis)[:, None]

    def source(t: float) -> Tensor:
        # the local response to the bolus is integrated exactly in every cell, so that the time
        # integration solves only for the difference from it (as in ForwardModel.solve_contrast)
        U0 = relative_influx * local.at_time(t)
        return maps.PS * U0 - operator(U0)

    V = solve_responses(operator, pools.capacity, source, nodes, at)[:, :, 0]
    V = V + torch.stack([relative_influx[:, 0] * local.at_time(nodes[i]) for i in at])
    return problem.contrast.whiten((maps.phi * V).transpose(0, 1)).flatten(1).T


def _on_drug(problem: TumourProblem, theta: Array, fields: Fields, basis: Tensor) -> Tensor:
    """Effect of the errors of both drug balances on the drug images, ``(n, 2 k)``."""
    assert fields.pools is not None
    assert problem.course is not None
    names = problem.course.options.pools
    carrier, free = names.index("encapsulated"), names.index("free")
    pools, operator, _ = problem.forward().linearise_pools(
        "drug", problem.tensor(theta), fields.flow_without_tangents
    )
    influx = operator.inflow[carrier, ENCAPSULATED]
    release = -operator.reaction[free, carrier]
    history = fields.pools[:, carrier]
    k = len(basis)

    def source(t: float) -> Tensor:
        s = basis.new_zeros((2 * k, *pools.capacity.shape))
        s[:k, carrier] = basis * influx * problem.plasma_at(t)
        s[k:, free] = basis * release * _interpolate_in_time(problem.drug_times, history, t)
        return s

    nodes = problem.drug_nodes([d.time_s for d in problem.drug], **COARSE_STEP_OPTIONS)
    at_images = nearest_nodes(nodes, [d.time_s for d in problem.drug])
    kept = sorted(set(at_images))
    V = solve_responses(operator, pools.capacity, source, [float(t) for t in nodes], kept)
    images = [
        d.whiten(d.linear(V[kept.index(i)], problem.setting.maps))
        for i, d in zip(at_images, problem.drug, strict=True)
    ]
    return torch.cat(images, dim=1).T


def _interpolate_in_time(times: Array, values: Tensor, t: float) -> Tensor:
    """Values ``(n, x, y, z)`` interpolated linearly to a time between nodes."""
    i = int(np.clip(np.searchsorted(times, t) - 1, 0, len(times) - 2))
    fraction = (t - times[i]) / (times[i + 1] - times[i])
    return values[i] * (1 - fraction) + values[i + 1] * fraction


@dataclass(frozen=True)
class ModelErrorMap:
    """Estimated model error of one mass balance for fixed unknowns.

    Attributes:
        balance: name of the balance.
        relative: error relative to the flux of the balance, ``(x, y, z)``.
        sd: its posterior standard deviation for fixed unknowns, ``(x, y, z)``.
        size: root mean square of ``relative`` over the tumour.
    """

    balance: str
    relative: Tensor
    sd: Tensor
    size: float


def map_model_error(problem: TumourProblem, fields: Fields) -> tuple[ModelErrorMap, ...]:
    """Conditional maximum a posteriori estimate of the model error of each balance.

    Args:
        problem: problem with its systematic errors.
        fields: fields at the estimate.

    Returns:
        One map for each balance; none if the problem has no model error.
    """
    if problem.model_error is None or problem.errors is None:
        return ()
    k = len(problem.model_error.basis)
    curves = problem.contrast.residual(fields.contrast).reshape(-1)
    maps = [
        _map_balance_error(problem, "contrast", *problem.errors.model_weights("contrast", curves))
    ]
    if fields.pools is not None:
        weights, covariance = problem.errors.model_weights(
            "drug", problem.drug_misfit(fields.pools)
        )
        for i, name in enumerate(("encapsulated", "free")):
            at = slice(i * k, (i + 1) * k)
            maps.append(_map_balance_error(problem, name, weights[at], covariance[at, at]))
    return tuple(maps)


def _map_balance_error(
    problem: TumourProblem, balance: str, weights: Tensor, covariance: Tensor
) -> ModelErrorMap:
    """The map of one balance from the weights of its basis functions."""
    assert problem.model_error is not None
    posterior = field_posterior(problem.model_error.basis, weights, covariance)
    inside = problem.setting.maps.tumour > 0.5
    size = float(posterior.mean[inside].square().mean().sqrt())
    return ModelErrorMap(balance, posterior.mean, posterior.sd, size)


def without_model_error(problem: AnyTumourProblem) -> AnyTumourProblem:
    """The problem with exact equations; its other systematic errors remain.

    Args:
        problem: problem with or without a model error.
    """
    errors = None if problem.errors is None else problem.errors.without_model()
    return replace(problem, model_error=None, errors=errors)
