"""Engine ``krylov``: Gauss-Newton with tangents by Krylov methods in a reduced time basis.

The states at each iterate are solved by finite volumes without tangents. Each tangent solves the
linearised finite-volume equations, with the fluxes of the solvers, in a basis of responses to the
plasma curves (:mod:`~nanopinn.inference.krylov.time_basis`), by conjugate gradients for the
pressure and ORTHOMIN(4) for the pools (:mod:`~nanopinn.inference.krylov.orthomin`). No data and no
finite-volume tangents enter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.engine_driver import IterationLog, TangentMethod, fit_gauss_newton
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
from nanopinn.inference.problem import EngineFit, Prediction, QuadraticModel
from nanopinn.inference.tumour_problem import Fields
from nanopinn.io.checkpoint_store import CheckpointStore
from nanopinn.progress import Progress, ignore_progress
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
        assert self.problem.course is not None
        curves = self.problem.course.bolus_curves()
        basis = self.basis("drug", nodes, nodes[:1], [response_to_exponentials(c) for c in curves])
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


Array = NDArray[np.float64]

#: Linear systems per Gauss-Newton iteration, for progress: pressure, contrast agent, carrier and
#: released drug, and the states.
_PARTS_PER_ITERATION = 5


@dataclass(frozen=True)
class KrylovSettings:
    """Size of the time basis and effort of the solution.

    Attributes:
        rank: dimension of the time basis of each pool system.
        rates: number of random rate constants per plasma curve from which the basis is formed.
        solver: of the linear systems.
        ensemble: number of further time bases, of other seeds and a dimension smaller by two, by
            which the error of the basis is estimated.
        iterations: largest number of Gauss-Newton iterations.
        tolerance: the fit ends when a full step is below this many posterior sd.
    """

    rank: int = 12
    rates: int = 24
    solver: KrylovSolver = field(default_factory=lambda: KrylovSolver(max_iterations=400))
    ensemble: int = 3
    iterations: int = 10
    tolerance: float = 0.1


def fit_krylov(
    problem: InverseProblem,
    start: Array | None = None,
    *,
    settings: KrylovSettings | None = None,
    seed: int = 0,
    checkpoint_store: CheckpointStore | None = None,
    progress: Progress = ignore_progress,
) -> EngineFit[InverseProblem]:
    """Fit the unknowns of a voxel problem with tangents in a reduced time basis.

    The posterior is the Laplace approximation with the estimated error of the time basis added.

    Args:
        problem: unknowns, tissue and observations.
        start: coordinates, ``(m,)``; the prior means if None.
        settings: size of the time basis and effort of the solution.
        seed: of the rate constants of the time basis.
        checkpoint_store: of the state before every iteration; an interrupted fit continues from it.
        progress: called with the state of the work.
    """
    settings = settings or KrylovSettings()
    return fit_gauss_newton(
        problem,
        ReducedBasisTangents(settings, seed, progress),
        start,
        iterations=settings.iterations,
        tolerance=settings.tolerance,
        checkpoint_store=checkpoint_store,
        progress=progress,
    )


@dataclass(frozen=True)
class _Base:
    """The point of the last tangents, with what computes further ones."""

    theta: Array
    solver: ForwardModel
    log: IterationLog


class ReducedBasisTangents(TangentMethod[ForwardModel, Fields]):
    """Tangents by Krylov methods in a reduced time basis."""

    engine = "krylov"
    stage = "krylov: tangents and Gauss-Newton"

    def __init__(
        self, settings: KrylovSettings, seed: int, progress: Progress = ignore_progress
    ) -> None:
        self.settings, self.seed, self.progress = settings, seed, progress
        self.base: _Base
        self.tangent_solver: TangentSolver

    def solve(
        self,
        problem: InverseProblem,
        theta: Array,
        solver: ForwardModel,
        states: Fields | None,
        log: IterationLog,
    ) -> Fields:
        here = problem.solve(theta, solver) if states is None else states
        self.base = _Base(theta.copy(), solver, log)

        def on_solved(name: str, residual: float) -> None:
            share = len(self.tangent_solver.residuals) / _PARTS_PER_ITERATION
            log.report(share, {f"residual {name}": residual})

        self.tangent_solver = replace(
            self.build_tangent_solver(problem, self.seed, self.settings.rank), on_solved=on_solved
        )
        return self.tangent_solver.tangents(problem.tensor(theta), here)

    def build_tangent_solver(self, problem: InverseProblem, seed: int, rank: int) -> TangentSolver:
        """A solver of the tangents at the base point.

        Args:
            problem: linearised there.
            seed: of the rate constants.
            rank: dimension of the time basis.
        """
        s = self.settings
        return TangentSolver(
            problem, self.base.solver, rank, s.rates, seed, s.solver, self.base.log.event
        )

    def error_covariance(
        self, problem: InverseProblem, prediction: Prediction[Any], quadratic: QuadraticModel
    ) -> Array:
        """The error of the time basis in the unknowns, as a covariance, ``(m, m)``.

        Further bases of other rate constants, smaller by two functions, give other full steps from
        the same point. The mean square difference from the engine's own full step is the estimate;
        it errs to the large side because these bases are smaller.
        """
        m, theta, fields = len(quadratic.gradient), self.base.theta, prediction.fields
        bare = replace(fields, flow=fields.flow_without_tangents, d_contrast=None, d_pools=None)
        total, own_step = np.zeros((m, m)), quadratic.full_step
        for k in range(self.settings.ensemble):
            self.progress("krylov: error of the time basis", k / self.settings.ensemble, {})
            member = self.build_tangent_solver(problem, self.seed + 1 + k, self.settings.rank - 2)
            other = problem.compare(member.tangents(problem.tensor(theta), bare))
            difference = problem.quadratic(theta, other).full_step - own_step
            total += np.outer(difference, difference)
        return total / max(self.settings.ensemble, 1)

    def numbers(self) -> dict[str, float]:
        return {f"residual {name}": r for name, r in self.tangent_solver.residuals.items()}

    def statistics(self, names: tuple[str, ...], error_share: Array) -> dict[str, Any]:
        solver = self.tangent_solver
        return {
            "coefficients": solver.coefficients,
            "seed": self.seed,
            "ensemble": self.settings.ensemble,
            **{f"residual of {name}": r for name, r in solver.residuals.items()},
            **{f"iterations of {name}": n for name, n in solver.iterations.items()},
            **{
                f"error of the reduced time basis, {name}, posterior sd": float(s)
                for name, s in zip(names, error_share, strict=True)
            },
        }

    def describe_accuracy(self, names: tuple[str, ...], error_share: Array) -> str:
        residuals = ", ".join(f"{n} {r:.0e}" for n, r in self.tangent_solver.residuals.items())
        return (
            f"; relative residual of the tangent systems: {residuals}; error of the reduced time"
            f" basis at most {error_share.max():.2f} posterior sd"
            f" ({names[int(error_share.argmax())]}), included in the posterior"
        )
