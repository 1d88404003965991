"""Neural fields: unknown fields of space whose basis functions are outputs of a network, trained by
adjoint gradients.

    ln multiplier(x) = sum_k w_k s_k(x),   s_k = c (f_k(z(x); h)/|f(z(x); h)| - its mean over the
    tumour),   w_k ~ N(0, 1)

The inputs z are the position relative to the correlation length, and the tissue maps. The factor c
gives the stated prior variance, on average over the tumour, for any hidden weights h. The weights w
of the last layer are coordinates of the fit (Gauss-Newton, Laplace approximation). Between two such
fits, h takes L-BFGS steps on the exact gradient of the objective, which costs one forward and one
adjoint solve for any number of weights. At the best w the total derivative of the objective by h
equals its partial derivative (variable projection). The posterior is that of w for the final h.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from nanopinn.inference.basis import centre_shapes
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.problem import EngineFit
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.adjoint import ContrastAdjoint, DrugAdjoint, gradient_by_adjoint
from nanopinn.solvers.tissue_setting import TissueSetting

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ObjectiveGradient:
    """The objective ``(chi2 + prior)/2`` and its gradient.

    Attributes:
        objective: value of the objective.
        theta: gradient with respect to the coordinates, ``(m,)``.
        shapes: gradient with respect to the basis functions of each field, ``(k, x, y, z)``.
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
    """The objective and its exact gradient by the adjoint method, for fixed systematic errors.

    Args:
        problem: problem with its systematic errors.
        theta: coordinates, ``(m,)``.
        shapes: basis functions of fields that replace those of the maps and with respect to which
            the gradient is computed, ``(k, x, y, z)`` each.
        pressure: initial guess of the pressure solve, on the flow grid, Pa.

    Returns:
        Objective and gradient.
    """
    leaves = {name: s.detach().requires_grad_() for name, s in (shapes or {}).items()}
    maps = replace(problem.setting.maps, shapes={**problem.setting.maps.shapes, **leaves})
    forward = replace(problem, setting=replace(problem.setting, maps=maps)).forward(pressure)
    th = problem.tensor(theta)
    with torch.no_grad():
        flow = forward.solve_flow(th)
        contrast = ContrastAdjoint(forward, th, flow, problem.aif, problem.frame_times)
        drug = DrugAdjoint(forward, th, flow, problem.drug_times) if problem.drug else None
    fields = [contrast.C.detach().requires_grad_()] + (
        [drug.U.detach().requires_grad_()] if drug else []
    )
    residual = problem.residual(fields[0], fields[1] if drug else None)
    chi2 = residual @ residual
    field_gradients = torch.autograd.grad(chi2 / 2, fields)
    with torch.no_grad():
        operator_gradients = {"contrast": contrast.operator_gradients(field_gradients[0])}
        if drug:
            operator_gradients["drug"] = drug.operator_gradients(field_gradients[1])
    grad_theta, grad_shapes = gradient_by_adjoint(
        forward,
        th,
        flow,
        operator_gradients,
        list(leaves.values()),
        drug.segments if drug else (),
    )
    prior = problem.prior_residual(theta)
    objective = 0.5 * (float(chi2.detach()) + float(prior @ prior))
    return ObjectiveGradient(
        objective,
        grad_theta.cpu().numpy() + prior / problem.unknowns.prior_sd,
        dict(zip(leaves, grad_shapes, strict=True)),
    )


#: Outputs of the network, units of its hidden layer, and L-BFGS steps between two fits of the last
#: layer.
FEATURES, WIDTH, STEPS = 12, 24, 6


class FeatureNetwork(torch.nn.Module):
    """Network with two hidden layers whose outputs are the basis functions of a field.

    Args:
        inputs: position and tissue of the voxels of the tumour, ``(n, c)``.
        generator: generator of the initial weights. These have variance 1/fan-in and are the means
            of the weights' prior.
    """

    def __init__(self, inputs: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.inputs = inputs
        sizes = (inputs.shape[1], WIDTH, FEATURES)
        self.weights = torch.nn.ParameterList(
            torch.randn(a, b, dtype=inputs.dtype, generator=generator).to(inputs.device) / a**0.5
            for a, b in itertools.pairwise(sizes)
        )
        self.biases = torch.nn.ParameterList(
            torch.randn(b, dtype=inputs.dtype, generator=generator).to(inputs.device)
            for b in sizes[1:]
        )
        self.start = [p.detach().clone() for p in self.parameters()]

    def forward(self) -> Tensor:
        """Features of every voxel, normalised to unit norm, ``(n, k)``."""
        z = torch.sin(self.inputs @ self.weights[0] + self.biases[0])
        f = torch.tanh(2 * z @ self.weights[1] + self.biases[1])
        return f / f.norm(dim=1, keepdim=True)

    def penalty(self) -> Tensor:
        """Half the squared distance of all weights from their initial values in prior standard
        deviations.
        """
        fan_in = [w.shape[0] for w in self.weights] + [1] * len(self.biases)
        pairs = zip(self.parameters(), self.start, fan_in, strict=True)
        return 0.5 * sum(
            ((p - s).square().sum() * n for p, s, n in pairs),
            torch.zeros((), dtype=self.inputs.dtype),
        )


def network_inputs(setting: TissueSetting, length_m: float) -> Tensor:
    """Inputs of the network for every voxel of the tumour: position relative to the correlation
    length, standardised ln PS, porosity, pH, and depth below the tumour surface.

    Args:
        setting: grid and tissue maps.
        length_m: correlation length, m.

    Returns:
        Inputs, ``(n, 7)``.
    """
    m = setting.maps
    inside = m.tumour > 0.5
    position = torch.nonzero(inside).to(m.phi.dtype) * torch.tensor(
        setting.grid.spacing, dtype=m.phi.dtype, device=m.phi.device
    )
    depth = torch.as_tensor(
        distance_transform_edt(inside.cpu().numpy(), setting.grid.spacing),
        dtype=m.phi.dtype,
        device=m.phi.device,
    )
    columns = [torch.log(m.PS)[inside], m.phi[inside], m.pH[inside], depth[inside]]
    tissue = torch.stack([(c - c.mean()) / c.std().clamp_min(1e-12) for c in columns], dim=1)
    # sines of unit wavenumber in length_m / 2.5 are correlated over about length_m
    return torch.cat([(position - position.mean(dim=0)) / (length_m / 2.5), tissue], dim=1)


def evaluate_shapes(network: FeatureNetwork, setting: TissueSetting, prior_sd: float) -> Tensor:
    """Basis functions of a field from the features of its network.

    Args:
        network: network with its current weights.
        setting: grid and tissue maps.
        prior_sd: prior standard deviation of the field.

    Returns:
        Basis functions, ``(k, x, y, z)``.
    """
    inside = setting.maps.tumour > 0.5
    features = network()
    shapes = torch.zeros(
        (features.shape[1], *inside.shape), dtype=features.dtype, device=features.device
    )
    shapes[:, inside] = features.T
    return centre_shapes(shapes, inside, prior_sd)


def field_network(setting: TissueSetting, length_m: float, seed: int = 0) -> FeatureNetwork:
    """The untrained network of a field, which is determined by setting and seed.

    Args:
        setting: grid and tissue maps.
        length_m: correlation length, m.
        seed: seed of the initial weights.
    """
    return FeatureNetwork(network_inputs(setting, length_m), torch.Generator().manual_seed(seed))


@dataclass
class _Trainer:
    """Networks of all neural fields of a problem.

    Attributes:
        problem: problem before the fit.
        seed: seed of the initial weights.
    """

    problem: InverseProblem
    seed: int

    def __post_init__(self) -> None:
        setting = self.problem.setting
        self.fields = [f for f in self.problem.unknowns.functions if f.kind == "neural"]
        self.networks = {
            f.name: field_network(setting, f.length_m, self.seed + i)
            for i, f in enumerate(self.fields)
        }

    def shapes(self) -> dict[str, Tensor]:
        """Basis functions of every field from the current weights."""
        return {
            f.name: evaluate_shapes(self.networks[f.name], self.problem.setting, f.prior_sd)
            for f in self.fields
        }

    def train(self, fit: EngineFit, count: int) -> InverseProblem:
        """L-BFGS steps on the hidden weights with all else fixed; the problem with the new basis
        functions.
        """
        problem, weights = fit.problem, [p for n in self.networks.values() for p in n.parameters()]
        pressure = fit.prediction.fields.flow.p
        optimiser = torch.optim.LBFGS(
            weights,
            lr=1.0,
            max_iter=count,
            max_eval=2 * count,
            history_size=count,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            optimiser.zero_grad()
            shapes = self.shapes()
            at = objective_gradient(problem, fit.theta, shapes, pressure)
            penalty = sum(
                (n.penalty() for n in self.networks.values()), torch.zeros((), dtype=pressure.dtype)
            )
            surrogate = sum(((shapes[name] * g).sum() for name, g in at.shapes.items()), penalty)
            surrogate.backward()  # has the gradient of the objective by the hidden weights
            return at.objective + float(penalty.detach())

        optimiser.step(closure)
        maps = problem.setting.maps
        shapes = {**maps.shapes, **{name: s.detach() for name, s in self.shapes().items()}}
        return replace(problem, setting=replace(problem.setting, maps=replace(maps, shapes=shapes)))


def fit_neural(
    problem: InverseProblem,
    start: Array | None = None,
    *,
    rounds: int = 2,
    iterations: int = 12,
    tolerance: float = 0.1,
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> EngineFit:
    """Fit all unknowns and the hidden weights of neural fields in alternation.

    Args:
        problem: problem whose neural fields have the basis functions of their untrained networks.
        start: coordinates at the start, ``(m,)``; the prior means if None.
        rounds: number of training rounds, each followed by a fit of all coordinates.
        iterations: maximum number of iterations of each fit.
        tolerance: size of the last step at which a fit ends, posterior standard deviations.
        seed: seed of the untrained networks.
        progress: receives the state of the optimisation.

    Returns:
        The last fit, with the objectives of all fits.
    """
    began = time.perf_counter()
    trainer = _Trainer(problem, seed)
    fit = fit_fv(problem, start, iterations=iterations, tolerance=tolerance, progress=progress)
    objectives = list(fit.run.objective)
    for k in range(rounds):
        progress(
            "hidden weights of neural fields", k / rounds, {"objective": fit.run.objective[-1]}
        )
        fit = fit_fv(
            trainer.train(fit, STEPS),
            fit.theta,
            iterations=iterations,
            tolerance=tolerance,
            progress=progress,
        )
        objectives += fit.run.objective
    hidden = sum(p.numel() for n in trainer.networks.values() for p in n.parameters())
    stats = {**fit.run.stats, "hidden weights": hidden, "rounds": rounds, "seed": seed}
    message = f"{fit.run.message}, after {rounds} training rounds of {hidden} hidden weights"
    run = replace(
        fit.run,
        objective=tuple(objectives),
        seconds=time.perf_counter() - began,
        message=message,
        stats=stats,
    )
    return replace(fit, run=run)
