"""The objective of a fit and its exact gradient, by one march forward and one back, however many unknowns there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.problem import InverseProblem
from nanopinn.solvers.adjoint import ContrastAdjoint, DrugAdjoint, gradient
from nanopinn.solvers.forward import ForwardModel

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ObjectiveGradient:
    """The objective, ``(chi2 + prior)/2``, and its gradient.

    Attributes:
        theta: with respect to the coordinates, ``(m,)``. shapes: to the shapes of fields, by name, ``(k, x, y, z)``.
    """

    objective: float
    theta: Array
    shapes: Mapping[str, Tensor]


def objective_gradient(
    problem: InverseProblem,
    theta: Array,
    shapes: Mapping[str, Tensor] | None = None,
    pressure: Tensor | None = None,
) -> ObjectiveGradient:
    """The objective at theta, the linearisation of systematic errors held.

    Args:
        shapes: of fields, in place of those in the maps; the gradient is taken with respect to them.
        pressure: to start the pressure's solve from.
    """
    leaves = {name: s.detach().requires_grad_() for name, s in (shapes or {}).items()}
    maps = replace(problem.setting.maps, shapes={**problem.setting.maps.shapes, **leaves})
    forward = ForwardModel(replace(problem.setting, maps=maps), problem.unknowns.scalars, pressure)
    th = problem.tensor(theta)
    with torch.no_grad():
        flow = forward.flow(th)
        contrast = ContrastAdjoint(forward, th, flow, problem.aif, problem.frame_times)
        drug = (
            DrugAdjoint(forward, th, flow, problem.plasma, problem.drug_times)
            if problem.drug
            else None
        )
    seen = [contrast.C.detach().requires_grad_()] + (
        [drug.U.detach().requires_grad_()] if drug else []
    )
    residual = problem.residual(seen[0], seen[1] if drug else None)
    chi2 = residual @ residual
    of_seen = torch.autograd.grad(chi2 / 2, seen)
    with torch.no_grad():
        operator_gradients = {"contrast": contrast.operator_gradients(of_seen[0])}
        if drug:
            operator_gradients["drug"] = drug.operator_gradients(of_seen[1])
    grad_theta, of_leaves = gradient(forward, th, flow, operator_gradients, list(leaves.values()))
    prior = problem.prior_residual(theta)
    objective = 0.5 * (float(chi2.detach()) + float(prior @ prior))
    return ObjectiveGradient(
        objective,
        grad_theta.cpu().numpy() + prior / problem.unknowns.prior_sd,
        dict(zip(leaves, of_leaves, strict=True)),
    )
