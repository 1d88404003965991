"""The inverse PINN: networks for the sensitivities of every field, parameters moved through them.

Training a state network and the parameters in one loss ends in the stiff valley between the two. Here the
fields are a local solution operator ``u(x, t; theta)`` around the current theta: anchored there to one
finite-volume solution without tangents, and carried away from it by networks for the linearised
finite-volume residual of every cell. The parameters take a Gauss-Newton step through the networks, and the
anchor follows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.contract import EngineFit, Prediction
from nanopinn.inference.gauss_newton import OptimiserState, QuadraticModel, minimise
from nanopinn.inference.pinn.fields import TangentSolver
from nanopinn.inference.pinn.network import KrylovSolver
from nanopinn.inference.problem import Fields, InverseProblem
from nanopinn.inference.result import EngineRun
from nanopinn.inference.resume import CheckpointStore, EngineState
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.linear import SolverError

Array = NDArray[np.float64]

STAGE = "pinn: networks and Gauss-Newton"


@dataclass(frozen=True)
class KrylovSettings:
    """Size and effort of the networks.

    Attributes:
        rank: functions of time per pool system. rates: random rates that they are made of, per plasma curve.
        layers: of every network.
        ensemble: networks from other seeds that tell the error of these, two functions of time smaller.
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
    """Fit the unknowns with the inverse PINN; Laplace posterior from the networks' sensitivities, and their own error added.

    Args:
        start: coordinates to start from; the prior means if None, never the answer of another engine.
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
            lambda optimiser_state: checkpoint_store.save_state(
                engine.engine_state(optimiser_state)
            )
        )
        if checkpoint_store
        else None,
    )
    assert engine.last is not None
    own = engine.tangent_error_covariance(descent.quadratic)
    covariance = descent.quadratic.covariance + own
    share = np.sqrt(np.diag(own) / np.diag(covariance))
    names = problem.unknowns.names
    message = (
        f"{descent.iterations} anchors; relative residuals at the last: {engine.format_residuals()}; "
        f"the networks' own error is at most {share.max():.2f} posterior sd ({names[int(share.argmax())]}), and in the posterior"
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
        """The objective; infinite where the fields cannot be solved, so that a smaller step follows."""
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

        Networks of other hidden features, smaller by two functions of time, would step from the same anchor to other
        places; the mean square of what lies between these and the engine's own stands for its error, and errs to
        the large side because they are smaller.
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
        """Show a network that is done; the misfit and the parameters beside it are those of the anchor before."""
        self.progress_numbers |= {f"residual {name}": residual}
        done = self.step + len(self.tangent_solver.residuals) / 5
        self.progress(STAGE, done / self.settings.iterations, self.progress_numbers)

    def format_residuals(self) -> str:
        return ", ".join(f"{name} {r:.0e}" for name, r in self.tangent_solver.residuals.items())
