"""Tangents of every field at an anchor, by the networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from nanopinn.inference.pinn.network import Layers, learn_in_memory
from nanopinn.inference.pinn.tangents import PoolTangents, PressureTangents, Standing
from nanopinn.inference.pinn.timebasis import (
    PlasmaResponse,
    TimeBasis,
    random_rates,
    response_to_exponentials,
    response_to_samples,
)
from nanopinn.inference.problem import Fields, InverseProblem
from nanopinn.solvers.forward import Flow, Forward
from nanopinn.solvers.local import add_products, block
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.pressure import pressure_forcing, pressure_operator

#: The fastest cells that a basis holds, 1/s: above 3/min no tissue's Ktrans/ve lies; in drug, what is faster follows plasma
#: within the first step of the march.
FASTEST = {"contrast": 0.05, "drug": 0.01}


@dataclass
class FieldNetworks:
    """The networks of one problem.

    Attributes:
        forward: the solver whose flux code makes the residuals.
        rank: functions of time per pool system. rates: drawn for each plasma curve. seed: of the rates.
        layers: of every network.
        recovered: told in words of what a network recovered from. grown: told of a network that is done, with its residual.
        residuals, depth: of every network as last learned.
    """

    problem: InverseProblem
    forward: Forward
    rank: int
    rates: int
    seed: int
    layers: Layers
    recovered: Callable[[str], None]
    grown: Callable[[str, float], None] = lambda name, residual: None
    residuals: dict[str, float] = field(default_factory=dict)
    depth: dict[str, int] = field(default_factory=dict)
    weights: int = 0

    def tangents(self, theta: Tensor, anchor: Fields) -> Fields:
        """The anchor's fields with tangents."""
        flow = replace(anchor.flow, dp=self.pressure(theta, anchor.flow))
        fields = replace(anchor, flow=flow, d_contrast=self.contrast(theta, flow, anchor))
        return (
            fields
            if anchor.pools is None
            else replace(fields, d_pools=self.drug(theta, flow, anchor.pools))
        )

    def learn(self, name: str, standing: Standing) -> Tensor:
        """Solve a standing problem by the network of that name."""
        learned = learn_in_memory(
            self.layers, standing, lambda words: self.recovered(f"{name}: {words}")
        )
        self.residuals[name], self.depth[name] = learned.residual, learned.layers
        self.grown(name, learned.residual)
        self.weights += learned.layers * standing.right.shape[0]
        return learned.v

    def pressure(self, theta: Tensor, flow: Flow) -> Tensor:
        """Tangents of the pressure on the flow grid, ``(m, X, Y, Z)``.

        That p is proportional to p_e at given l and q is known exactly and not left to a network: it learns
        the tangents of p/p_e.
        """
        grid = self.problem.setting.flow_setting.grid
        coefficients = self.forward.flow_coefficients(theta)
        known = torch.func.jacrev(lambda th: torch.log(self.forward.model(th).scalars["p_e"]))(
            theta
        )
        dp = known[:, None, None, None] * flow.p
        forcing = pressure_forcing(
            self.forward.flow_coefficients, theta, flow.p, grid
        ) - pressure_operator(coefficients, grid)(dp)
        size = forcing.abs().amax(dim=(1, 2, 3))
        moved = torch.nonzero(size > 1e-8 * (coefficients.LpSV * coefficients.p_e).max())[:, 0]
        dp[moved] += self.learn("pressure", PressureTangents(coefficients, grid, forcing[moved]))
        return dp

    def contrast(self, theta: Tensor, flow: Flow, anchor: Fields) -> Tensor:
        """Tangents of the tissue concentration, ``(m, t, x, y, z)`` mM."""
        problem, maps, aif = self.problem, self.problem.setting.maps, self.problem.aif
        frames = problem.tensor(problem.frame_times)
        basis = self.basis(
            "contrast", frames, problem.tensor(aif.times_s), [response_to_samples(aif)]
        )
        plasma = problem.tensor(
            np.interp(problem.frame_times, aif.times_s, aif.plasma_mM, left=0.0)
        )
        U = ((anchor.contrast - maps.v_p * plasma[:, None, None, None]) / maps.phi)[:, None]
        coefficients, operator, tangents = self.forward.operators("contrast", theta, flow)
        forcing = _forcings(tangents, basis, U)
        v = self.learn("contrast", PoolTangents.of(operator, coefficients.capacity, basis, forcing))
        return maps.phi * _every(basis.histories(v), tangents, len(theta))[:, :, 0]

    def drug(self, theta: Tensor, flow: Flow, pools: Tensor) -> Tensor:
        """Tangents of the drug pools at the drug images, ``(m, image, pool, x, y, z)`` kg/m3.

        The carriers come first, by a network of their own; what they release drives a second one.
        """
        nodes = self.problem.tensor(self.problem.drug_times)
        basis = self.basis(
            "drug", nodes, nodes[:1], [response_to_exponentials(c) for c in self.problem.plasma]
        )
        coefficients, operator, tangents = self.forward.operators("drug", theta, flow)
        forcing = _forcings(tangents, basis, pools)
        first, rest = [0], list(range(1, operator.pools))
        carriers = PoolTangents.of(
            operator.only(first), coefficients.capacity[first], basis, forcing[:, :, first]
        )
        v_l = self.learn("encapsulated", carriers)
        carried = torch.einsum("rs,mspxyz->mrpxyz", basis.integral, v_l)
        driven = add_products(
            forcing[:, :, rest], block(operator.reaction, rest, first), carried, -1.0
        )
        released = PoolTangents.of(operator.only(rest), coefficients.capacity[rest], basis, driven)
        v = torch.cat([v_l, self.learn("released", released)], dim=2)
        return _every(
            basis.histories(v, [self.problem.node_of(d) for d in self.problem.drug]),
            tangents,
            len(theta),
        )

    def basis(
        self, kind: str, nodes: Tensor, kinks: Tensor, plasma: list[PlasmaResponse]
    ) -> TimeBasis:
        """Functions of time for one system of pools, the same for the same seed."""
        generator = torch.Generator().manual_seed(self.seed)
        rates = random_rates(FASTEST[kind], float(nodes[-1] - nodes[0]), self.rates, generator).to(
            nodes
        )
        return TimeBasis.of(nodes, plasma, kinks, rates, self.rank)


def _every(histories: Tensor, tangents: dict[int, PoolOperator], m: int) -> Tensor:
    """Histories of the parameters that move an operator among those of all, ``(m, n, pool, x, y, z)``."""
    out = histories.new_zeros((m, *histories.shape[1:]))
    out[list(tangents)] = histories
    return out


def _forcings(tangents: dict[int, PoolOperator], basis: TimeBasis, U: Tensor) -> Tensor:
    """Coefficients ``(m, r, pool, x, y, z)`` of ``d(inflow) area - dA (integral of U)``, for histories ``U`` ``(n, pool, ...)``."""
    u = basis.coefficients(U)
    rows = []
    for dA in tangents.values():
        entered = torch.stack([dA.inflow_of(c) for c in basis.area])
        rows.append(entered - torch.einsum("rs,spxyz->rpxyz", basis.integral, dA(u)))
    return torch.stack(rows)
