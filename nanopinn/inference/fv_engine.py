"""Engine ``fv``: Gauss-Newton through the implicit solver of the states.

The state is eliminated: every iteration solves it with exact tangents (extra right-hand sides of
the same matrices), be it the pressure and the pools of voxels or a system of ordinary equations. It
is the yardstick of every claim for the network.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.checkpoint import CheckpointStore, EngineState
from nanopinn.inference.gauss_newton import OptimiserState, QuadraticModel, minimise
from nanopinn.inference.multistart import fit_from_several_starts
from nanopinn.inference.problem import AnyProblem, EngineFit, Prediction, describe_unaffected
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results.fit_result import EngineRun
from nanopinn.solvers.linear import SolverError

Array = NDArray[np.float64]


def fit_fv(
    problem: AnyProblem,
    start: Array | None = None,
    *,
    iterations: int = 12,
    tolerance: float = 0.1,
    starts: int = 1,
    seed: int = 0,
    checkpoint_store: CheckpointStore | None = None,
    progress: Progress = ignore_progress,
) -> EngineFit[AnyProblem]:
    """Fit the unknowns by Gauss-Newton; Laplace posterior.

    Between iterations the problem takes up the current state
    (:meth:`Problem.update_linearisation`).

    Args:
        start: coordinates to start from; the prior means if None.
        iterations: at most so many.
        tolerance: stop when a full step is below this many posterior standard deviations.
        starts: descents, the others from draws of the prior; the best is returned, with all of them
            in its run.
        seed: of these draws.
        keeper: of the state of a descent through voxels, from which an interrupted one goes on;
            several starts keep none.
    """
    theta = problem.unknowns.prior_mean if start is None else np.asarray(start, dtype=np.float64)
    if starts > 1:
        descend = partial(
            fit_fv, problem, iterations=iterations, tolerance=tolerance, progress=progress
        )
        return fit_from_several_starts(descend, problem.unknowns, theta, starts, seed)
    began = time.perf_counter()
    engine = _FiniteVolumeEngine(problem, progress, iterations)
    initial_state = (
        engine.restore(checkpoint_store.engine_state("fv")) if checkpoint_store else None
    )
    descent = minimise(
        engine.expand,
        engine.value_at,
        theta,
        problem.unknowns.prior_sd,
        iterations=iterations,
        tolerance=tolerance,
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
    covariance = descent.quadratic.covariance
    message = (
        f"converged in {descent.iterations} Gauss-Newton iterations"
        if descent.converged
        else (
            f"stopped after {descent.iterations} iterations short of its tolerance; try --preset"
            " accurate"
        )
    )
    scalars = problem.unknowns.estimates(descent.theta, covariance)
    run = EngineRun(
        engine="fv",
        scalars=scalars,
        covariance=covariance,
        objective=descent.history,
        chi2=descent.quadratic.chi2,
        observations=problem.observations,
        seconds=time.perf_counter() - began,
        converged=descent.converged,
        message=message + describe_unaffected(scalars),
        stats={"iterations": descent.iterations},
        events=tuple(dict.fromkeys(engine.events)),
    )
    return EngineFit(run, descent.theta, engine.problem, engine.last)


class _FiniteVolumeEngine(Generic[AnyProblem]):
    def __init__(self, problem: AnyProblem, progress: Progress, iterations: int) -> None:
        self.problem, self.progress, self.iterations = problem, progress, iterations
        self.solver = problem.solver()
        self.last: Prediction[Any] | None = None
        self.last_evaluation: tuple[Array, Any] | None = None
        self.events: list[str] = []

    def restore(self, state: EngineState | None) -> OptimiserState | None:
        """Go on from where an earlier descent stood."""
        if state is None:
            return None
        self.problem, self.events = state.problem, state.restore()  # type: ignore[assignment]
        self.solver = state.problem.forward(state.pressure)
        self.last_evaluation = (
            None if state.fields is None else (state.optimiser_state.theta, state.fields)
        )
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
            "fv",
            optimiser_state,
            self.problem,  # type: ignore[arg-type]
            self.solver.last_pressure,
            fields,
            tuple(self.events),
        )

    def expand(self, theta: Array) -> QuadraticModel:
        """Normal equations, after the problem was linearised there."""
        before = self.problem
        self.problem = before.update_linearisation(theta, self.states_at(theta))
        self.solver = self.problem.solver(self.solver)
        states = self.problem.solve(theta, self.solver, tangents=True)
        if self.problem is not before:
            self.problem = self.problem.with_systematic_errors(theta, states)
        self.last = self.problem.compare(states)
        return self.problem.quadratic(theta, self.last)

    def states_at(self, theta: Array) -> Any:
        """States without tangents; those of the step just taken are at hand."""
        if self.last_evaluation is None or not np.array_equal(self.last_evaluation[0], theta):
            self.last_evaluation = theta.copy(), self.problem.solve(theta, self.solver)
        return self.last_evaluation[1]

    def value_at(self, theta: Array) -> float:
        """The objective; infinite where the states cannot be solved, so that a smaller step
        follows.
        """
        try:
            value = self.problem.objective(theta, self.problem.compare(self.states_at(theta)))
        except SolverError as error:
            self.events.append(f"a step was refused: {error}")
            return float("inf")
        if not np.isfinite(value):
            self.events.append("a step was refused: its states are not finite")
        return value if np.isfinite(value) else float("inf")

    def report_progress(self, k: int, theta: Array, quadratic: QuadraticModel) -> None:
        numbers = {**quadratic.terms(self.problem.observations), **self.problem.scalars(theta)}
        self.progress("fv: Gauss-Newton", (k + 1) / self.iterations, numbers)
