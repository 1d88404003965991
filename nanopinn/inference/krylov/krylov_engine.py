"""The inverse PINN: networks for the sensitivities of every field, parameters moved through them.

Training a state network and the parameters in one loss ends in the stiff valley between the two.
Here the fields are a local solution operator ``u(x, t; theta)`` around the current theta: anchored
there to one finite-volume solution without tangents, and carried away from it by networks for the
linearised finite-volume residual of every cell. The parameters take a Gauss-Newton step through the
networks, and the anchor follows.

Tangents of every field at an anchor, by the networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.checkpoint import CheckpointStore, EngineState
from nanopinn.inference.gauss_newton import OptimiserState, QuadraticModel, minimise
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
from nanopinn.inference.problem import EngineFit, Prediction
from nanopinn.inference.tumour_problem import Fields
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results.fit_result import EngineRun
from nanopinn.solvers.cell_elimination import add_matrix_product, select_block
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.pressure import pressure_forcing, pressure_operator

Array = NDArray[np.float64]

STAGE = "pinn: networks and Gauss-Newton"


@dataclass(frozen=True)
class KrylovSettings:
    """Size and effort of the networks.

    Attributes:
        rank: functions of time per pool system. rates: random rates that they are made of, per
            plasma curve.
        layers: of every network.
        ensemble: networks from other seeds that tell the error of these, two functions of time
            smaller.
        anchors: at most so many. tolerance: posterior standard deviations of the last step.
    """

    rank: int = 12
    rates: int = 24
    layers: KrylovSolver = field(default_factory=lambda: KrylovSolver(max_iterations=400))
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
    """Fit the unknowns with the inverse PINN; Laplace posterior from the networks' sensitivities,
    and their own error added.

    Args:
        start: coordinates to start from; the prior means if None, never the answer of another
            engine.
        seed: of the networks' hidden features.
        keeper: of the descent's state, from which an interrupted one goes on.
    """
    began = time.perf_counter()
    settings = settings or KrylovSettings()
    engine = _KrylovEngine(problem, settings, seed, progress)
    theta = problem.unknowns.prior_mean if start is None else np.asarray(start, dtype=np.float64)
    initial_state = (
        engine.restore(checkpoint_store.engine_state("pinn")) if checkpoint_store else None
    )
    descent = minimise(
        engine.expand,
        engine.value_at,
        theta,
        problem.unknowns.prior_sd,
        iterations=settings.iterations,
        tolerance=settings.tolerance,
        on_step=engine.report_progress,
        initial_state=initial_state,
        save_state=(
            (
                lambda optimiser_state: checkpoint_store.save_state(
                    engine.engine_state(optimiser_state)
                )
            )
            if checkpoint_store
            else None
        ),
    )
    assert engine.last is not None
    own = engine.tangent_error_covariance(descent.quadratic)
    covariance = descent.quadratic.covariance + own
    share = np.sqrt(np.diag(own) / np.diag(covariance))
    names = problem.unknowns.names
    message = (
        f"{descent.iterations} anchors; relative residuals at the last:"
        f" {engine.format_residuals()}; the networks' own error is at most"
        f" {share.max():.2f} posterior sd ({names[int(share.argmax())]}), and in the posterior"
    )
    tangent_solver = engine.tangent_solver
    run = EngineRun(
        engine="pinn",
        scalars=problem.unknowns.estimates(descent.theta, covariance),
        covariance=covariance,
        objective=descent.history,
        chi2=descent.quadratic.chi2,
        observations=problem.observations,
        seconds=time.perf_counter() - began,
        converged=descent.converged,
        message=message,
        stats={
            "anchors": descent.iterations,
            "weights": tangent_solver.weights,
            "seed": seed,
            "ensemble": settings.ensemble,
            **{f"residual of {k}": r for k, r in tangent_solver.residuals.items()},
            **{f"layers of {k}": n for k, n in tangent_solver.depth.items()},
            **{
                f"own error of {n}, posterior sd": float(s)
                for n, s in zip(names, share, strict=True)
            },
        },
        events=tuple(dict.fromkeys(engine.events)),
    )
    return EngineFit(run, descent.theta, engine.problem, engine.last)


class _KrylovEngine:
    def __init__(
        self, problem: InverseProblem, settings: KrylovSettings, seed: int, progress: Progress
    ) -> None:
        self.problem, self.settings, self.seed, self.progress = problem, settings, seed, progress
        self.forward = problem.forward()
        self.last: Prediction[Fields] | None = None
        self.last_evaluation: tuple[Array, Fields] | None = None
        self.events: list[str] = []
        self.step = 0
        self.base_theta = problem.unknowns.prior_mean
        self.tangent_solver = self.build_tangent_solver(seed, settings.rank)
        self.progress_numbers: dict[str, float] = {}

    def restore(self, state: EngineState | None) -> OptimiserState | None:
        """Go on from where an earlier descent stood."""
        if state is None:
            return None
        self.problem, self.events = state.problem, state.restore()
        self.forward = self.problem.forward(state.pressure)
        self.last_evaluation = (
            None if state.fields is None else (state.optimiser_state.theta, state.fields)
        )
        self.step = state.optimiser_state.iteration
        return state.optimiser_state

    def engine_state(self, optimiser_state: OptimiserState) -> EngineState:
        """Where the descent stands, with all that its next iteration depends on."""
        fields = (
            self.last_evaluation[1]
            if self.last_evaluation
            and np.array_equal(self.last_evaluation[0], optimiser_state.theta)
            else None
        )
        return EngineState(
            "pinn",
            optimiser_state,
            self.problem,
            self.forward.last_pressure,
            fields,
            tuple(self.events),
        )

    def build_tangent_solver(self, seed: int, rank: int) -> TangentSolver:
        s = self.settings
        return TangentSolver(
            self.problem, self.forward, rank, s.rates, seed, s.layers, self.record_event
        )

    def record_event(self, words: str) -> None:
        self.events.append(f"anchor {self.step + 1}, {words}")

    def expand(self, theta: Array) -> QuadraticModel:
        """Anchor at theta, grow the networks there, and form the normal equations through them."""
        before, here = self.problem, self.fields_at(theta)
        self.problem = before.update_linearisation(theta, here)
        if self.problem is not before:
            self.forward = self.problem.forward(here.flow.p)
            here = self.problem.solve(theta, self.forward)
            self.problem = self.problem.with_systematic_errors(theta, here)
            self.last_evaluation = theta.copy(), here
        self.tangent_solver = replace(
            self.build_tangent_solver(self.seed, self.settings.rank), on_solved=self.on_solved
        )
        self.last = self.problem.compare(
            self.tangent_solver.tangents(self.problem.tensor(theta), here)
        )
        return self.problem.quadratic(theta, self.last)

    def fields_at(self, theta: Array) -> Fields:
        """Fields without tangents; those of the step just taken are at hand."""
        if self.last_evaluation is None or not np.array_equal(self.last_evaluation[0], theta):
            self.last_evaluation = theta.copy(), self.problem.solve(theta, self.forward)
        return self.last_evaluation[1]

    def value_at(self, theta: Array) -> float:
        """The objective; infinite where the fields cannot be solved, so that a smaller step
        follows.
        """
        try:
            value = self.problem.objective(theta, self.problem.compare(self.fields_at(theta)))
        except SolverError as error:
            self.record_event(f"a step was refused: {error}")
            return float("inf")
        if not np.isfinite(value):
            self.record_event("a step was refused: its fields are not finite")
        return value if np.isfinite(value) else float("inf")

    def tangent_error_covariance(self, quadratic: QuadraticModel) -> Array:
        """What the networks' imperfection adds to the covariance of the scalars, ``(m, m)``.

        Networks of other hidden features, smaller by two functions of time, would step from the
        same anchor to other places; the mean square of what lies between these and the engine's own
        stands for its error, and errs to the large side because they are smaller.
        """
        m = len(self.problem.unknowns)
        assert self.last is not None
        fields, theta = self.last.fields, self.base_theta
        bare = replace(fields, flow=fields.flow_without_tangents, d_contrast=None, d_pools=None)
        total, own = np.zeros((m, m)), quadratic.step(0.0, np.full(m, np.inf))
        for k in range(self.settings.ensemble):
            self.progress("pinn: its own error", k / self.settings.ensemble, {})
            member = self.build_tangent_solver(self.seed + 1 + k, self.settings.rank - 2)
            other = self.problem.compare(member.tangents(self.problem.tensor(theta), bare))
            apart = self.problem.quadratic(theta, other).step(0.0, np.full(m, np.inf)) - own
            total += np.outer(apart, apart)
        return total / max(self.settings.ensemble, 1)

    def report_progress(self, k: int, theta: Array, quadratic: QuadraticModel) -> None:
        self.base_theta, self.step = theta.copy(), k + 1
        self.progress_numbers = {
            **quadratic.terms(self.problem.observations),
            **self.problem.scalars(theta),
        }
        self.progress_numbers |= {
            f"residual {name}": r for name, r in self.tangent_solver.residuals.items()
        }
        self.progress(STAGE, (k + 1) / self.settings.iterations, self.progress_numbers)

    def on_solved(self, name: str, residual: float) -> None:
        """Show a network that is done; the misfit and the parameters beside it are those of the
        anchor before.
        """
        self.progress_numbers |= {f"residual {name}": residual}
        done = self.step + len(self.tangent_solver.residuals) / 5
        self.progress(STAGE, done / self.settings.iterations, self.progress_numbers)

    def format_residuals(self) -> str:
        return ", ".join(f"{name} {r:.0e}" for name, r in self.tangent_solver.residuals.items())


#: The fastest cells that a basis holds, 1/s: above 3/min no tissue's Ktrans/ve lies; in drug, what
#: is faster follows plasma within the first step of the march.
MAX_RATE = {"contrast": 0.05, "drug": 0.01}


@dataclass
class TangentSolver:
    """The networks of one problem.

    Attributes:
        forward: the solver whose flux code makes the residuals.
        rank: functions of time per pool system. rates: drawn for each plasma curve. seed: of the
            rates.
        layers: of every network.
        recovered: told in words of what a network recovered from. grown: told of a network that is
            done, with its residual.
        residuals, depth: of every network as last learned.
    """

    problem: InverseProblem
    forward: ForwardModel
    rank: int
    rates: int
    seed: int
    layers: KrylovSolver
    on_recovery: Callable[[str], None]
    on_solved: Callable[[str, float], None] = lambda name, residual: None
    residuals: dict[str, float] = field(default_factory=dict)
    depth: dict[str, int] = field(default_factory=dict)
    weights: int = 0

    def tangents(self, theta: Tensor, base_state: Fields) -> Fields:
        """The anchor's fields with tangents."""
        flow = replace(base_state.flow, dp=self.pressure(theta, base_state.flow))
        fields = replace(base_state, flow=flow, d_contrast=self.contrast(theta, flow, base_state))
        return (
            fields
            if base_state.pools is None
            else replace(fields, d_pools=self.drug(theta, flow, base_state.pools))
        )

    def solve(self, name: str, system: LinearSystem) -> Tensor:
        """Solve a standing problem by the network of that name."""
        learned = solve_in_batches(
            self.layers, system, lambda words: self.on_recovery(f"{name}: {words}")
        )
        self.residuals[name], self.depth[name] = learned.residual, learned.layers
        self.on_solved(name, learned.residual)
        self.weights += learned.layers * system.rhs.shape[0]
        return learned.v

    def pressure(self, theta: Tensor, flow: FlowSolution) -> Tensor:
        """Tangents of the pressure on the flow grid, ``(m, X, Y, Z)``.

        That p is proportional to p_e at given l and q is known exactly and not left to a network:
        it learns the tangents of p/p_e.
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
        coefficients, operator, tangents = self.forward.operators("contrast", theta, flow)
        forcing = _forcing_coefficients(tangents, basis, U)
        v = self.solve(
            "contrast", PoolTangentSystem.build(operator, coefficients.capacity, basis, forcing)
        )
        return maps.phi * _scatter_tangents(basis.histories(v), tangents, len(theta))[:, :, 0]

    def drug(self, theta: Tensor, flow: FlowSolution, pools: Tensor) -> Tensor:
        """Tangents of the drug pools at the drug images, ``(m, image, pool, x, y, z)`` kg/m3.

        The carriers come first, by a network of their own; what they release drives a second one.
        """
        nodes = self.problem.tensor(self.problem.drug_times)
        basis = self.basis(
            "drug", nodes, nodes[:1], [response_to_exponentials(c) for c in self.problem.plasma]
        )
        coefficients, operator, tangents = self.forward.operators("drug", theta, flow)
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
        """Functions of time for one system of pools, the same for the same seed."""
        generator = torch.Generator().manual_seed(self.seed)
        rates = draw_rates(MAX_RATE[kind], float(nodes[-1] - nodes[0]), self.rates, generator).to(
            nodes
        )
        return TimeBasis.build(nodes, plasma, breakpoints, rates, self.rank)


def _scatter_tangents(histories: Tensor, tangents: dict[int, PoolOperator], m: int) -> Tensor:
    """Histories of the parameters that move an operator among those of all, ``(m, n, pool, x, y,
    z)``.
    """
    out = histories.new_zeros((m, *histories.shape[1:]))
    out[list(tangents)] = histories
    return out


def _forcing_coefficients(tangents: dict[int, PoolOperator], basis: TimeBasis, U: Tensor) -> Tensor:
    """Coefficients ``(m, r, pool, x, y, z)`` of ``d(inflow) area - dA (integral of U)``, for
    histories ``U`` ``(n, pool, ...)``.
    """
    u = basis.coefficients(U)
    rows = []
    for dA in tangents.values():
        entered = torch.stack([dA.plasma_source(c) for c in basis.input_integral])
        rows.append(entered - torch.einsum("rs,spxyz->rpxyz", basis.integral, dA(u)))
    return torch.stack(rows)
