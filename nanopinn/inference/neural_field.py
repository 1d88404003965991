"""The objective of a fit and its exact gradient, by one march forward and one back, however many
unknowns there are.

Neural fields: a network over place and tissue whose last layer is Gaussian, trained through the
adjoint.

    ln multiplier(x) = sum_k w_k s_k(x),   s_k = c (f_k(z(x); h)/|f(z(x); h)| - its mean over the
    tumour),   w_k ~ N(0, 1)

z: place over the length of the field, and the maps. c makes the prior variance that stated, on
average over the tumour, whatever the hidden weights h; w are coordinates of the fit like any others
(Gauss-Newton, Laplace), and between two such fits h takes steps of L-BFGS on the exact gradient of
the objective. At the best w the objective's derivative by h is its partial one, so this is variable
projection. The posterior is that of w at the h found.
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
from nanopinn.inference.fv_engine import fit_fv
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.problem import EngineFit
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.adjoint import ContrastAdjoint, DrugAdjoint, gradient
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.tissue_setting import Setting

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ObjectiveGradient:
    """The objective, ``(chi2 + prior)/2``, and its gradient.

    Attributes:
        theta: with respect to the coordinates, ``(m,)``. shapes: to the shapes of fields, by name,
            ``(k, x, y, z)``.
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
        shapes: of fields, in place of those in the maps; the gradient is taken with respect to
            them.
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


#: Functions that the last layer weighs, hidden units, and steps of L-BFGS between two fits of the
#: last layer.
FEATURES, WIDTH, STEPS = 12, 24, 6


class FeatureNetwork(torch.nn.Module):
    """Features of place and tissue, two hidden layers.

    Args:
        inputs: ``(n, c)``, of the voxels of the tumour.
        generator: of the first weights, which are the mean of their own prior, of unit variance
            over each layer's fan-in.
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
        """Features of every voxel, of unit norm, ``(n, k)``."""
        z = torch.sin(self.inputs @ self.weights[0] + self.biases[0])
        f = torch.tanh(2 * z @ self.weights[1] + self.biases[1])
        return f / f.norm(dim=1, keepdim=True)

    def penalty(self) -> Tensor:
        """Half the squared distance of the weights from their first values, each over its prior's
        sd.
        """
        fan_in = [w.shape[0] for w in self.weights] + [1] * len(self.biases)
        pairs = zip(self.parameters(), self.start, fan_in, strict=True)
        return 0.5 * sum(
            ((p - s).square().sum() * n for p, s, n in pairs),
            torch.zeros((), dtype=self.inputs.dtype),
        )


def network_inputs(setting: Setting, length_m: float) -> Tensor:
    """What a network sees of every voxel of the tumour: place over the length, depth, and the maps,
    ``(n, 7)``.
    """
    m = setting.maps
    inside = m.tumour > 0.5
    place = torch.nonzero(inside).to(m.phi.dtype) * torch.tensor(
        setting.grid.spacing, dtype=m.phi.dtype, device=m.phi.device
    )
    depth = torch.as_tensor(
        distance_transform_edt(inside.cpu().numpy(), setting.grid.spacing),
        dtype=m.phi.dtype,
        device=m.phi.device,
    )
    columns = [torch.log(m.PS)[inside], m.phi[inside], m.pH[inside], depth[inside]]
    tissue = torch.stack([(c - c.mean()) / c.std().clamp_min(1e-12) for c in columns], dim=1)
    # sines of unit rate over 2.5 lengths: correlated over about one
    return torch.cat([(place - place.mean(dim=0)) / (length_m / 2.5), tissue], dim=1)


def evaluate_shapes(network: FeatureNetwork, setting: Setting, prior_sd: float) -> Tensor:
    """Features times the prior's sd as shapes of a field, ``(k, x, y, z)``."""
    inside = setting.maps.tumour > 0.5
    features = network()
    shapes = torch.zeros(
        (features.shape[1], *inside.shape), dtype=features.dtype, device=features.device
    )
    shapes[:, inside] = features.T
    return centre_shapes(shapes, inside, prior_sd)


def field_network(setting: Setting, length_m: float, seed: int = 0) -> FeatureNetwork:
    """The untrained network of a field; the same for the same setting and seed."""
    return FeatureNetwork(network_inputs(setting, length_m), torch.Generator().manual_seed(seed))


@dataclass
class _Trainer:
    """Networks of every neural field of a problem."""

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
        return {
            f.name: evaluate_shapes(self.networks[f.name], self.problem.setting, f.prior_sd)
            for f in self.fields
        }

    def train(self, fit: EngineFit, count: int) -> InverseProblem:
        """Steps of L-BFGS on the hidden weights, all else held; the problem with the shapes found."""
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
            found = objective_gradient(problem, fit.theta, shapes, pressure)
            penalty = sum(
                (n.penalty() for n in self.networks.values()), torch.zeros((), dtype=pressure.dtype)
            )
            through = sum(((shapes[name] * g).sum() for name, g in found.shapes.items()), penalty)
            through.backward()
            return found.objective + float(penalty.detach())

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
    """Fit every unknown and the hidden weights of neural fields, in turn.

    Args:
        problem: its neural fields carry the shapes of their untrained networks.
        rounds: of training; each ends with a fit of all coordinates. iterations, tolerance: of each
            such fit.
        seed: of the networks' first weights, with which the shapes were made.
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
    message = f"{fit.run.message}, after {rounds} rounds of training {hidden} hidden weights"
    run = replace(
        fit.run,
        objective=tuple(objectives),
        seconds=time.perf_counter() - began,
        message=message,
        stats=stats,
    )
    return replace(fit, run=run)
