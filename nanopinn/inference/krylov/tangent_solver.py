"""Tangents of every field at a point by Krylov methods in a reduced time basis.

Each tangent solves the linearised finite-volume equations with the fluxes of the solvers. No data
and no finite-volume tangents enter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.krylov.orthomin import (
    KrylovSolver,
    LinearSystem,
    PoolTangentSystem,
    PressureTangentSystem,
    solve_in_batches,
)
from nanopinn.inference.krylov.time_basis import (
    PlasmaResponse,
    TimeBasis,
    draw_rates,
    response_to_exponentials,
    response_to_samples,
)
from nanopinn.inference.tumour_problem import Fields
from nanopinn.solvers.cell_elimination import add_matrix_product, select_block
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.pressure import pressure_forcing, pressure_operator

#: Largest rate constant of the time basis, 1/s. For contrast agent no tissue has a larger Ktrans/ve
#: than 3/min; a faster drug pool follows plasma within the first time step.
MAX_RATE = {"contrast": 0.05, "drug": 0.01}


@dataclass
class TangentSolver:
    """The tangents of one problem.

    Attributes:
        problem: whose fields are differentiated.
        forward: its solver, whose flux functions give the residuals.
        rank: dimension of the time basis of each pool system.
        rates: number of random rate constants per plasma curve from which the basis is formed.
        seed: of the rate constants.
        solver: of the linear systems.
        on_recovery: called with an error from which a solution recovered.
        on_solved: called with the name of a solved system and its relative residual.
        residuals: relative residual of every system, by name.
        iterations: number of iterations of every system, by name.
        coefficients: number of expansion coefficients of all systems together.
    """

    problem: InverseProblem
    forward: ForwardModel
    rank: int
    rates: int
    seed: int
    solver: KrylovSolver
    on_recovery: Callable[[str], None]
    on_solved: Callable[[str, float], None] = lambda name, residual: None
    residuals: dict[str, float] = field(default_factory=dict)
    iterations: dict[str, int] = field(default_factory=dict)
    coefficients: int = 0

    def tangents(self, theta: Tensor, base_state: Fields) -> Fields:
        """Fields with their tangents.

        Args:
            theta: coordinates, ``(m,)``.
            base_state: fields at theta.
        """
        flow = replace(base_state.flow, dp=self.pressure(theta, base_state.flow))
        fields = replace(base_state, flow=flow, d_contrast=self.contrast(theta, flow, base_state))
        return (
            fields
            if base_state.pools is None
            else replace(fields, d_pools=self.drug(theta, flow, base_state.pools))
        )

    def solve(self, name: str, system: LinearSystem) -> Tensor:
        """Solve a linear system, and note its residual and iterations under a name."""
        found = solve_in_batches(
            self.solver, system, lambda text: self.on_recovery(f"{name}: {text}")
        )
        self.residuals[name], self.iterations[name] = found.residual, found.iterations
        self.on_solved(name, found.residual)
        self.coefficients += found.iterations * system.rhs.shape[0]
        return found.v

    def pressure(self, theta: Tensor, flow: FlowSolution) -> Tensor:
        """Tangents of the pressure on the flow grid, ``(m, X, Y, Z)``.

        At given l and q, p is proportional to p_e. This part of the tangent is exact; the linear
        system is solved for the tangent of p/p_e.
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
        dp[moved] += self.solve(
            "pressure", PressureTangentSystem(coefficients, grid, forcing[moved])
        )
        return dp

    def contrast(self, theta: Tensor, flow: FlowSolution, base_state: Fields) -> Tensor:
        """Tangents of the tissue concentration, ``(m, t, x, y, z)`` mM."""
        problem, maps, aif = self.problem, self.problem.setting.maps, self.problem.aif
        frames = problem.tensor(problem.frame_times)
        basis = self.basis(
            "contrast", frames, problem.tensor(aif.times_s), [response_to_samples(aif)]
        )
        plasma = problem.tensor(
            np.interp(problem.frame_times, aif.times_s, aif.plasma_mM, left=0.0)
        )
        U = ((base_state.contrast - maps.v_p * plasma[:, None, None, None]) / maps.phi)[:, None]
        coefficients, operator, tangents = self.forward.linearise_pools("contrast", theta, flow)
        forcing = _forcing_coefficients(tangents, basis, U)
        v = self.solve(
            "contrast", PoolTangentSystem.build(operator, coefficients.capacity, basis, forcing)
        )
        return maps.phi * _scatter_tangents(basis.histories(v), tangents, len(theta))[:, :, 0]

    def drug(self, theta: Tensor, flow: FlowSolution, pools: Tensor) -> Tensor:
        """Tangents of the drug pools at the drug images, ``(m, image, pool, x, y, z)`` kg/m3.

        The carrier is solved first. The drug that it releases is a source of the other pools.
        """
        nodes = self.problem.tensor(self.problem.drug_times)
        basis = self.basis(
            "drug", nodes, nodes[:1], [response_to_exponentials(c) for c in self.problem.plasma]
        )
        coefficients, operator, tangents = self.forward.linearise_pools("drug", theta, flow)
        forcing = _forcing_coefficients(tangents, basis, pools)
        first, rest = [0], list(range(1, operator.pools))
        carriers = PoolTangentSystem.build(
            operator.restrict_to(first), coefficients.capacity[first], basis, forcing[:, :, first]
        )
        v_l = self.solve("encapsulated", carriers)
        carried = torch.einsum("rs,mspxyz->mrpxyz", basis.integral, v_l)
        driven = add_matrix_product(
            forcing[:, :, rest], select_block(operator.reaction, rest, first), carried, -1.0
        )
        released = PoolTangentSystem.build(
            operator.restrict_to(rest), coefficients.capacity[rest], basis, driven
        )
        v = torch.cat([v_l, self.solve("released", released)], dim=2)
        return _scatter_tangents(
            basis.histories(v, [self.problem.node_index(d) for d in self.problem.drug]),
            tangents,
            len(theta),
        )

    def basis(
        self, kind: str, nodes: Tensor, breakpoints: Tensor, plasma: list[PlasmaResponse]
    ) -> TimeBasis:
        """The time basis of one system of pools, which the seed determines.

        Args:
            kind: "contrast" or "drug".
            nodes: times of the fields, s, ``(n,)``.
            breakpoints: of the plasma curves, s.
            plasma: responses to every plasma curve.
        """
        generator = torch.Generator().manual_seed(self.seed)
        rates = draw_rates(MAX_RATE[kind], float(nodes[-1] - nodes[0]), self.rates, generator).to(
            nodes
        )
        return TimeBasis.build(nodes, plasma, breakpoints, rates, self.rank)


def _scatter_tangents(histories: Tensor, tangents: dict[int, PoolOperator], m: int) -> Tensor:
    """Histories of the unknowns that affect an operator, with zeros for the other unknowns.

    Returns:
        ``(m, n, pool, x, y, z)``.
    """
    out = histories.new_zeros((m, *histories.shape[1:]))
    out[list(tangents)] = histories
    return out


def _forcing_coefficients(tangents: dict[int, PoolOperator], basis: TimeBasis, U: Tensor) -> Tensor:
    """Coefficients ``(m, r, pool, x, y, z)`` of ``d(inflow) area - dA (integral of U)``.

    Args:
        tangents: derivative of the operator by each unknown that affects it.
        basis: of the histories.
        U: histories, ``(n, pool, x, y, z)``.
    """
    u = basis.coefficients(U)
    rows = []
    for dA in tangents.values():
        entered = torch.stack([dA.plasma_source(c) for c in basis.input_integral])
        rows.append(entered - torch.einsum("rs,spxyz->rpxyz", basis.integral, dA(u)))
    return torch.stack(rows)
