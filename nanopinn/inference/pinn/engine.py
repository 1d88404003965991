"""The inverse PINN: networks for the sensitivities of every field, parameters moved through them.

Training a state network and the parameters in one loss ends in the stiff valley between the two. Here the
fields are a local solution operator ``u(x, t; theta)`` around the current theta: anchored there to one
finite-volume solution without tangents, and carried away from it by networks trained on the linearised
finite-volume residual of every cell. The parameters take a Gauss-Newton step through the networks, the
anchor follows, and the networks go on from their weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from nanopinn.imaging.kinetics.convolution import convolve_exponential
from nanopinn.inference.contract import Fitted, Prediction
from nanopinn.inference.gauss_newton import Quadratic, minimise
from nanopinn.inference.pinn.tangents import Learner, PoolTangents, PressureTangents
from nanopinn.inference.pinn.timebasis import TimeBasis, running_integral
from nanopinn.inference.problem import Fields, InverseProblem
from nanopinn.inference.result import EngineRun
from nanopinn.progress import Progress, silent
from nanopinn.solvers.forward import Flow, Forward
from nanopinn.solvers.local import add_products, block
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.pressure import pressure_diagonal, pressure_forcing, pressure_operator

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effort:
    """Of one network: L-BFGS iterations at the first anchor and at later ones, relaxation layers."""

    first: int
    later: int
    relaxations: int


@dataclass(frozen=True)
class PinnSettings:
    """Size and effort of the networks.

    Attributes:
        width: hidden channels. rank: functions of time per pool system.
        anchors: at most so many. tolerance: posterior standard deviations of the last step.
        effort: per network; the pressure is the stiff one.
    """

    width: int = 20
    rank: int = 8
    anchors: int = 10
    tolerance: float = 0.1
    effort: Mapping[str, Effort] = field(
        default_factory=lambda: {
            "pressure": Effort(24, 8, 20),
            "contrast": Effort(8, 3, 3),
            "encapsulated": Effort(8, 3, 4),
            "released": Effort(3, 1, 2),
        }
    )


def fit_pinn(
    problem: InverseProblem, start: Array | None = None, *, settings: PinnSettings | None = None, seed: int = 0,
    progress: Progress = silent,
) -> Fitted[InverseProblem]:  # fmt: skip
    """Fit the unknowns with the inverse PINN; Laplace posterior from the networks' sensitivities.

    Args:
        start: coordinates to start from; the prior means if None, never the answer of another engine.
        seed: of the initial weights.
    """
    began = time.perf_counter()
    settings = settings or PinnSettings()
    engine = _Engine(problem, settings, torch.Generator().manual_seed(seed), progress)
    theta = problem.unknowns.prior_mean if start is None else np.asarray(start, dtype=np.float64)
    descent = minimise(
        engine.expand, engine.value_at, theta, problem.unknowns.prior_sd, iterations=settings.anchors,
        tolerance=settings.tolerance, on_step=engine.tell,
    )  # fmt: skip
    assert engine.last is not None
    covariance = descent.quadratic.covariance
    message = f"{descent.iterations} anchors; relative residuals at the last: {engine.residual_text()}"
    run = EngineRun(
        engine="pinn", scalars=problem.unknowns.estimates(descent.theta, covariance), covariance=covariance,
        objective=descent.history, chi2=descent.quadratic.chi2, observations=problem.observations,
        seconds=time.perf_counter() - began, converged=descent.converged, message=message,
        stats={"anchors": descent.iterations, "weights": engine.weights(), "seed": seed, **engine.residuals},
    )  # fmt: skip
    return Fitted(run, descent.theta, engine.problem, engine.last)


@dataclass
class _Engine:
    problem: InverseProblem
    settings: PinnSettings
    generator: torch.Generator
    progress: Progress
    forward: Forward = field(init=False)
    last: Prediction[Fields] | None = None
    residuals: dict[str, float] = field(default_factory=dict)
    learners: dict[str, Learner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.forward = self.problem.forward()

    def expand(self, theta: Array) -> Quadratic:
        """Anchor at theta, train the networks there, and form the normal equations through them."""
        before, here = self.problem, self.problem.solve(theta, self.forward)
        self.problem = before.linearised_at(theta, here)
        self.forward = self.problem.solver(self.forward)
        anchor = self.problem.solve(theta, self.forward)
        if self.problem is not before:
            self.problem = self.problem.with_errors(theta, anchor)
        th = self.problem.tensor(theta)
        flow = replace(anchor.flow, dp=self.pressure(th, anchor.flow))
        fields = replace(anchor, flow=flow, d_contrast=self.contrast(th, flow, anchor))
        if anchor.pools is not None:
            fields = replace(fields, d_pools=self.drug(th, flow, anchor.pools))
        self.last = self.problem.compare(fields)
        return self.problem.quadratic(theta, self.last)

    def value_at(self, theta: Array) -> float:
        return self.problem.objective(theta, self.problem.predict(theta, self.forward))

    def tell(self, k: int, theta: Array, quadratic: Quadratic) -> None:
        numbers = {"chi2/N": quadratic.chi2 / self.problem.observations, **self.problem.scalars(theta)}
        numbers |= {f"residual {name}": r for name, r in self.residuals.items()}
        self.progress("pinn: networks and Gauss-Newton", (k + 1) / self.settings.anchors, numbers)

    def weights(self) -> int:
        """Trainable weights of all networks."""
        return sum(learner.weights() for learner in self.learners.values())

    def residual_text(self) -> str:
        return ", ".join(f"{name} {r:.1%}" for name, r in self.residuals.items())

    def learn(self, name: str, standing: PressureTangents | PoolTangents, maps: Tensor) -> Tensor:
        """Solve a standing problem with the network of that name, which keeps its weights."""
        effort, first = self.settings.effort[name], name not in self.learners
        learner = self.learners.setdefault(name, Learner(self.generator, self.settings.width, effort.relaxations))
        steps = effort.first if first else effort.later
        v, self.residuals[name] = learner.solve(standing, maps, steps)
        return v

    def maps(self, flow: Flow, theta: Tensor) -> Tensor:
        """What the networks see of the tissue and of the anchor, ``(c, x, y, z)``."""
        setting, m = self.problem.setting, self.problem.setting.maps
        scalars = self.forward.model(theta).scalars
        inside = m.tumour.cpu().numpy() > 0.5
        sampling = setting.grid.spacing
        depth = distance_transform_edt(inside, sampling) - distance_transform_edt(~inside, sampling)
        d = torch.as_tensor(depth, dtype=m.phi.dtype, device=m.phi.device) / scalars["l"]
        drop = flow.J_v / scalars["q"]
        u = flow.velocity(setting.grid).norm(dim=0) / (scalars["q"] * scalars["l"])
        layers = torch.exp(-d.abs())
        return torch.stack([m.tumour, m.vascularity(), m.phi, m.pH, d.clamp(-3, 5), layers, d * layers, drop, drop * d, u])

    def pressure(self, theta: Tensor, flow: Flow) -> Tensor:
        """Network tangents of the pressure on the flow grid, ``(m, X, Y, Z)``.

        That p is proportional to p_e at given l and q is known exactly and not left to a network: it learns
        the tangents of p/p_e.
        """
        setting = self.problem.setting.flow_setting
        coefficients = self.forward.flow_coefficients(theta)
        operator = pressure_operator(coefficients, setting.grid)
        known = torch.func.jacrev(lambda th: torch.log(self.forward.model(th).scalars["p_e"]))(theta)
        scaling = known[:, None, None, None] * flow.p
        forcing = pressure_forcing(self.forward.flow_coefficients, theta, flow.p, setting.grid) - operator(scaling)
        size = forcing.abs().amax(dim=(1, 2, 3))
        moved = torch.nonzero(size > 1e-8 * (coefficients.LpSV * coefficients.p_e).max())[:, 0]
        inverse = 1 / pressure_diagonal(coefficients, setting.grid)
        standing = PressureTangents(operator, forcing[moved], inverse, self.problem.setting.flow_refine)
        dp = scaling.clone()
        dp[moved] += setting.grid.joined(self.learn("pressure", standing, self.maps(flow, theta)))
        return dp

    def contrast(self, theta: Tensor, flow: Flow, anchor: Fields) -> Tensor:
        """Network tangents of the tissue concentration, ``(m, t, x, y, z)`` mM."""
        problem, m, aif = self.problem, self.problem.setting.maps, self.problem.aif
        curve_t, curve_c, frames = (problem.tensor(v) for v in (aif.times_s, aif.plasma_mM, problem.frame_times))
        plasma = problem.tensor(np.interp(problem.frame_times, aif.times_s, aif.plasma_mM, left=0.0))
        U = ((anchor.contrast - m.v_p * plasma[:, None, None, None]) / m.phi)[:, None]
        area = convolve_exponential(curve_t, curve_c, frames.new_zeros(()), frames)[:, None]
        coefficients, operator, tangents = self.forward.operators("contrast", theta, flow)
        basis = TimeBasis.of(frames, _sample(U), self.settings.rank)
        forcing = torch.stack([_forcing(dA, basis, U, area) for dA in tangents.values()])
        standing = PoolTangents.of(operator, coefficients.capacity, basis, forcing)
        v = self.learn("contrast", standing, self.maps(flow, theta))
        return m.phi * _histories(v, basis, list(tangents), len(theta))[:, :, 0]

    def drug(self, theta: Tensor, flow: Flow, pools: Tensor) -> Tensor:
        """Network tangents of the drug pools, ``(m, node, pool, x, y, z)`` kg/m3.

        The carriers come first, by a network of their own; what they release drives a second one.
        """
        nodes = self.problem.tensor(self.problem.drug_times)
        area = torch.stack([c.integral(nodes) for c in self.problem.plasma], dim=1)
        coefficients, operator, tangents = self.forward.operators("drug", theta, flow)
        basis = TimeBasis.of(nodes, _sample(pools), self.settings.rank)
        forcing = torch.stack([_forcing(dA, basis, pools, area) for dA in tangents.values()])
        maps, first, rest = self.maps(flow, theta), [0], list(range(1, operator.pools))
        carriers = PoolTangents.of(operator.only(first), coefficients.capacity[first], basis, forcing[:, :, first])
        v_l = self.learn("encapsulated", carriers, maps)
        carried = torch.einsum("rs,mspxyz->mrpxyz", basis.integral, v_l)
        driven = add_products(forcing[:, :, rest], block(operator.reaction, rest, first), carried, -1.0)
        released = PoolTangents.of(operator.only(rest), coefficients.capacity[rest], basis, driven)
        v = torch.cat([v_l, self.learn("released", released, maps)], dim=2)
        return _histories(v, basis, list(tangents), len(theta))


def _histories(v: Tensor, basis: TimeBasis, moved: list[int], m: int) -> Tensor:
    """Coefficients ``(moved, r, pool, x, y, z)`` as histories ``(m, n, pool, x, y, z)``."""
    out = v.new_zeros((m, len(basis.times), *v.shape[2:]))
    out[moved] = torch.einsum("nr,mrpxyz->mnpxyz", basis.B, v)
    return out


def _sample(U: Tensor, cells: int = 400) -> Tensor:
    """Histories ``(n, cells pool)`` of cells spread evenly over the tissue."""
    flat = U.flatten(2)
    pick = torch.linspace(0, flat.shape[-1] - 1, cells, device=U.device).long()
    return flat[..., pick].flatten(1)


def _forcing(dA: PoolOperator, basis: TimeBasis, U: Tensor, area: Tensor) -> Tensor:
    """Coefficients ``(r, pool, x, y, z)`` of ``d(inflow) area - dA (integral of U)``."""
    integrated = running_integral(basis.times, U)
    entered = torch.stack([dA.inflow_of(c) for c in area])
    return torch.einsum("nr,npxyz->rpxyz", basis.weights[:, None] * basis.B, entered - dA(integrated))
