"""The error of the model itself, ``R(u; theta) = eta``: an unknown field of stated size,
eliminated, mapped and weighed.

In each of three balances eta is a flux of that balance, relative to which it is sized:

    contrast agent:     eta_c = e_c(x) a_c c_p(t)             (what enters through the wall)
    encapsulated drug:  eta_l = e_l(x) a_l c_l(t)             (the same of the carrier)
    free drug:          eta_f = e_f(x) phi k_rel L(x, t)      (what is released)

with e smooth over some millimetres and of a prior standard deviation that is the weight of the
physics: 0 makes the equations exact. The observations answer linearly to e, so it is eliminated
with the other systematic errors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.tumour_problem import AnyTumourProblem, Fields, TumourProblem
from nanopinn.physics.drug_pools import ENCAPSULATED, LINEAR_POOLS
from nanopinn.solvers.forward import LocalResponse
from nanopinn.solvers.linear_pools import solve_responses
from nanopinn.solvers.runge_kutta import TR_BDF2
from nanopinn.solvers.time_nodes import COARSE_STEP_OPTIONS, frame_nodes, stage_times

Array = NDArray[np.float64]

#: The balances that may err, with what each error is measured against.
BALANCES = {
    "contrast": "wall influx of contrast agent",
    "encapsulated": "wall influx of the carrier",
    "free": "release",
}


def model_error_effects(
    problem: TumourProblem, theta: Array, fields: Fields
) -> tuple[Tensor, Tensor]:
    """Change of the whitened curves and drug images by each weight, ``(n, k)`` and ``(n, 2 k)``."""
    assert problem.model_error is not None
    on_contrast = _on_contrast(problem, theta, fields, problem.model_error.basis)
    if not problem.drug:
        return on_contrast, on_contrast.new_zeros((0, 0))
    return on_contrast, _on_drug(problem, theta, fields, problem.model_error.basis)


def _on_contrast(problem: TumourProblem, theta: Array, fields: Fields, basis: Tensor) -> Tensor:
    forward = problem.forward()
    pools, operator, _ = forward.operators(
        "contrast", problem.tensor(theta), fields.flow_without_tangents
    )
    maps, aif = problem.setting.maps, problem.aif
    nodes, at = frame_nodes(problem.frame_times, float(aif.times_s[0]), 1)
    local = LocalResponse(maps, aif, stage_times(nodes, TR_BDF2))
    share = (operator.inflow[0, 0] / maps.PS * basis)[:, None]

    def source(t: float) -> Tensor:
        # the bolus is integrated exactly, cell by cell: the march sees what is left
        # (Forward.contrast)
        U0 = share * local.at(t)
        return maps.PS * U0 - operator(U0)

    V = solve_responses(operator, pools.capacity, source, nodes, at)[:, :, 0]
    V = V + torch.stack([share[:, 0] * local.at(nodes[i]) for i in at])
    return problem.contrast.whiten((maps.phi * V).transpose(0, 1)).flatten(1).T


def _on_drug(problem: TumourProblem, theta: Array, fields: Fields, basis: Tensor) -> Tensor:
    assert fields.pools is not None
    carrier, free = LINEAR_POOLS.pools.index("encapsulated"), LINEAR_POOLS.pools.index("free")
    pools, operator, _ = problem.forward().operators(
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

    nodes = problem.setting.drug_nodes([d.time_s for d in problem.drug], **COARSE_STEP_OPTIONS)
    keep = [int(np.argmin(np.abs(nodes - d.time_s))) for d in problem.drug]
    wanted = sorted(set(keep))
    V = solve_responses(operator, pools.capacity, source, [float(t) for t in nodes], wanted)
    images = [
        d.whiten(d.linear(V[wanted.index(i)], problem.setting.maps))
        for i, d in zip(keep, problem.drug, strict=True)
    ]
    return torch.cat(images, dim=1).T


def _interpolate_in_time(times: Array, values: Tensor, t: float) -> Tensor:
    """Values ``(n, x, y, z)`` at a time between nodes, along a line."""
    i = int(np.clip(np.searchsorted(times, t) - 1, 0, len(times) - 2))
    share = (t - times[i]) / (times[i + 1] - times[i])
    return values[i] * (1 - share) + values[i + 1] * share


@dataclass(frozen=True)
class ModelErrorMap:
    """What the images ask for in one balance: error over its flux, ``(x, y, z)``, and its posterior
    sd at the fitted unknowns.
    """

    balance: str
    relative: Tensor
    sd: Tensor
    size: float
    """Root mean square over the tumour."""


def map_model_error(problem: TumourProblem, fields: Fields) -> tuple[ModelErrorMap, ...]:
    """Where and how large the model's error is; nothing where none was allowed."""
    if problem.model_error is None or problem.errors is None:
        return ()
    k = len(problem.model_error.basis)
    curves = problem.contrast.residual(fields.contrast).reshape(-1)
    found = [
        _map_balance_error(problem, "contrast", *problem.errors.model_weights("contrast", curves))
    ]
    if fields.pools is not None:
        weights, covariance = problem.errors.model_weights(
            "drug", problem.drug_misfit(fields.pools)
        )
        for i, name in enumerate(("encapsulated", "free")):
            at = slice(i * k, (i + 1) * k)
            found.append(_map_balance_error(problem, name, weights[at], covariance[at, at]))
    return tuple(found)


def _map_balance_error(
    problem: TumourProblem, balance: str, weights: Tensor, covariance: Tensor
) -> ModelErrorMap:
    assert problem.model_error is not None
    basis = problem.model_error.basis
    e = torch.einsum("k,kxyz->xyz", weights, basis)
    sd = torch.einsum("kxyz,kl,lxyz->xyz", basis, covariance, basis).clamp_min(0.0).sqrt()
    inside = problem.setting.maps.tumour > 0.5
    return ModelErrorMap(balance, e, sd, float(e[inside].square().mean().sqrt()))


def without_model_error(problem: AnyTumourProblem) -> AnyTumourProblem:
    """The problem with equations that are trusted; its other systematic errors stay."""
    errors = None if problem.errors is None else problem.errors.without_model()
    return replace(problem, model_error=None, errors=errors)
