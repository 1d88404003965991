"""The Gauss-Newton driver of every engine that eliminates the states, and the engine ``fv``.

:func:`fit_gauss_newton` fits any :class:`~nanopinn.inference.problem.Problem`. How the tangents of
the states are obtained is a :class:`TangentMethod`, the only part that an engine supplies. Engine
``fv`` solves the states together with exact tangents, which are further right-hand sides of the
same matrices. The states are the pressure and the pools of voxels, or a system of ordinary
differential equations.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.device import on_device
from nanopinn.inference.gauss_newton import (
    LARGEST_STEP_PRIOR_SD,
    OptimiserState,
    PreviousStep,
    minimise,
    step_below,
)
from nanopinn.inference.inverse_problem import SERIALISABLE_PARTS, InverseProblem
from nanopinn.inference.multistart import fit_from_several_starts
from nanopinn.inference.problem import (
    AnyProblem,
    EngineFit,
    Prediction,
    QuadraticModel,
    Solver,
    States,
    describe_unaffected,
)
from nanopinn.inference.tumour_problem import Fields
from nanopinn.io.checkpoint_store import CheckpointStore
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import EngineRun
from nanopinn.solvers.forward import FlowSolution
from nanopinn.solvers.linear import SolverError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EngineState:
    """The state of an engine before an iteration, complete for a restart.

    Attributes:
        engine: its name.
        optimiser_state: of the minimisation.
        problem: with the kinetic maps and systematic errors of the last linearisation.
        pressure: start of the next pressure solution, on the flow grid.
        fields: at the current point, where they are at hand.
        events: of the run so far.
    """

    engine: str
    optimiser_state: OptimiserState
    problem: InverseProblem
    pressure: Tensor | None
    fields: Fields | None
    events: tuple[str, ...] = ()


#: Every class that the file of an engine state may hold.
ENGINE_STATE_CLASSES: tuple[type, ...] = (
    *SERIALISABLE_PARTS,
    EngineState,
    Fields,
    FlowSolution,
    OptimiserState,
    PreviousStep,
)


def save_engine_state(store: CheckpointStore, state: EngineState) -> None:
    """Replace the stored state of an engine."""
    store.put(state.engine, state, ENGINE_STATE_CLASSES)


def read_engine_state(store: CheckpointStore, engine: str) -> EngineState | None:
    """The stored state of an engine on the device of the run; None where there is none.

    Raises:
        InputError: the file is damaged.
    """
    state = store.get(engine, EngineState, ENGINE_STATE_CLASSES)
    return None if state is None else on_device(state, store.device)


@dataclass(frozen=True)
class IterationLog:
    """Where a tangent method reports.

    Attributes:
        event: called with an error from which the method recovered.
        report: called with the completed share of the iteration and numbers by name.
    """

    event: Callable[[str], None]
    report: Callable[[float, Mapping[str, float]], None]


class TangentMethod(ABC, Generic[Solver, States]):
    """How an engine obtains the states and their tangents: its part of the Gauss-Newton driver."""

    #: Name of the engine, and of its progress.
    engine: ClassVar[str]
    stage: ClassVar[str]

    @abstractmethod
    def solve(
        self, problem: Any, theta: Array, solver: Solver, states: States | None, log: IterationLog
    ) -> States:
        """The states with their tangents at a point.

        Args:
            problem: linearised at ``theta``.
            theta: coordinates, ``(m,)``.
            solver: of the states of ``problem``.
            states: at ``theta`` without tangents; None where the problem changed since.
            log: for events and progress.
        """

    def error_covariance(
        self, problem: Any, prediction: Prediction[Any], quadratic: QuadraticModel
    ) -> Array:
        """What the method's own error adds to the posterior covariance, ``(m, m)``."""
        return np.zeros_like(quadratic.hessian)

    def numbers(self) -> dict[str, float]:
        """Numbers of the last iteration for progress."""
        return {}

    def statistics(self, names: tuple[str, ...], error_share: Array) -> dict[str, Any]:
        """Numbers of the run.

        Args:
            names: of the unknowns.
            error_share: sd of :meth:`error_covariance` over posterior sd, ``(m,)``.
        """
        return {}

    def describe_accuracy(self, names: tuple[str, ...], error_share: Array) -> str:
        """A clause on the accuracy of the tangents; arguments as for :meth:`statistics`."""
        return ""


def fit_gauss_newton(
    problem: AnyProblem,
    method: TangentMethod[Any, Any],
    start: Array | None = None,
    *,
    iterations: int,
    tolerance: float,
    checkpoint_store: CheckpointStore | None = None,
    progress: Progress = ignore_progress,
) -> EngineFit[AnyProblem]:
    """Fit the unknowns of a problem; the posterior is the Laplace approximation.

    Args:
        problem: unknowns, states and observations.
        method: how the tangents are obtained.
        start: coordinates, ``(m,)``; the prior means if None.
        iterations: largest number of Gauss-Newton iterations.
        tolerance: the fit ends when a full step is below this many posterior sd.
        checkpoint_store: of the state before every iteration, for voxel problems; an interrupted
            fit continues from it.
        progress: called with the state of the work.
    """
    began, names = time.perf_counter(), problem.unknowns.names
    driver = _Driver(problem, method, iterations, progress)
    state = None if checkpoint_store is None else read_engine_state(checkpoint_store, method.engine)

    def save(optimiser_state: OptimiserState) -> None:
        if checkpoint_store is not None:
            save_engine_state(checkpoint_store, driver.engine_state(optimiser_state))

    run = minimise(
        driver.expand,
        driver.value_at,
        problem.unknowns.prior_mean if start is None else np.asarray(start, dtype=np.float64),
        LARGEST_STEP_PRIOR_SD * problem.unknowns.prior_sd,
        iterations=iterations,
        converged=step_below(tolerance),
        on_step=driver.report_iteration,
        initial_state=None if state is None else driver.restore(state),
        save_state=save,
    )
    assert driver.last is not None
    error = method.error_covariance(driver.problem, driver.last, run.quadratic)
    covariance = run.quadratic.covariance + error
    error_share = np.sqrt(np.diag(error) / np.diag(covariance))
    scalars = problem.unknowns.estimates(run.theta, covariance)
    ending = (
        f"converged in {run.iterations} Gauss-Newton iterations"
        if run.converged
        else (
            f"stopped after {run.iterations} Gauss-Newton iterations above the tolerance; try the"
            " `preset` accurate"
        )
    )
    return EngineFit(
        EngineRun(
            engine=method.engine,
            scalars=scalars,
            covariance=covariance,
            objective=run.history,
            chi2=run.quadratic.chi2,
            observations=problem.observations,
            seconds=time.perf_counter() - began,
            converged=run.converged,
            message=ending
            + method.describe_accuracy(names, error_share)
            + describe_unaffected(scalars),
            stats={"iterations": run.iterations, **method.statistics(names, error_share)},
            events=tuple(dict.fromkeys(driver.events)),
        ),
        run.theta,
        driver.problem,
        driver.last,
    )


class _Driver(Generic[AnyProblem]):
    """The problem, solver and last states of a fit between its iterations."""

    def __init__(
        self,
        problem: AnyProblem,
        method: TangentMethod[Any, Any],
        iterations: int,
        progress: Progress,
    ) -> None:
        self.problem, self.method = problem, method
        self.iterations, self.progress = iterations, progress
        self.solver = problem.solver()
        self.last: Prediction[Any] | None = None
        self.last_evaluation: tuple[Array, Any] | None = None
        self.events: list[str] = []
        self.iteration = 0
        self.numbers: dict[str, float] = {}

    def restore(self, state: EngineState) -> OptimiserState:
        """Continue from a stored state."""
        at = state.optimiser_state
        self.problem = state.problem  # type: ignore[assignment]
        self.solver = state.problem.forward(state.pressure)
        self.last_evaluation = None if state.fields is None else (at.theta, state.fields)
        self.iteration = at.iteration
        self.events = [
            *state.events,
            f"interrupted before iteration {at.iteration + 1}: resumed from the checkpoint",
        ]
        return at

    def engine_state(self, optimiser_state: OptimiserState) -> EngineState:
        """Everything on which the next iteration depends."""
        known = self.last_evaluation
        at_hand = known is not None and np.array_equal(known[0], optimiser_state.theta)
        return EngineState(
            self.method.engine,
            optimiser_state,
            self.problem,  # type: ignore[arg-type]
            self.solver.last_pressure,
            known[1] if known is not None and at_hand else None,
            tuple(self.events),
        )

    def expand(self, theta: Array) -> QuadraticModel:
        """Linearise the problem, solve states and tangents, and form the normal equations."""
        before, states_at_theta = self.problem, self.states_at(theta)
        self.problem = before.update_linearisation(theta, states_at_theta)
        updated = self.problem is not before
        self.solver = self.problem.solver(self.solver)
        log = IterationLog(self.record_event, self.report_share)
        states = self.method.solve(
            self.problem, theta, self.solver, None if updated else states_at_theta, log
        )
        if updated:
            self.problem = self.problem.with_systematic_errors(theta, states)
        self.last = self.problem.compare(states)
        return self.problem.quadratic(theta, self.last)

    def states_at(self, theta: Array) -> Any:
        """States without tangents; those of the last accepted step are stored."""
        if self.last_evaluation is None or not np.array_equal(self.last_evaluation[0], theta):
            self.last_evaluation = theta.copy(), self.problem.solve(theta, self.solver)
        return self.last_evaluation[1]

    def value_at(self, theta: Array) -> float:
        """The objective; infinite where the states cannot be solved."""
        try:
            value = self.problem.objective(theta, self.problem.compare(self.states_at(theta)))
        except SolverError as error:
            self.record_event(f"step rejected: {error}")
            return float("inf")
        if not np.isfinite(value):
            self.record_event("step rejected: its states are not finite")
        return value if np.isfinite(value) else float("inf")

    def record_event(self, text: str) -> None:
        """Note an error from which the run recovered."""
        self.events.append(f"iteration {self.iteration + 1}: {text}")

    def report_iteration(self, k: int, theta: Array, quadratic: QuadraticModel) -> None:
        """Report the objective and the scalars of a completed iteration."""
        self.iteration = k + 1
        self.numbers = {
            **quadratic.terms(self.problem.observations),
            **self.problem.scalars(theta),
            **self.method.numbers(),
        }
        self.progress(self.method.stage, self.iteration / self.iterations, self.numbers)

    def report_share(self, share: float, numbers: Mapping[str, float]) -> None:
        """Report a completed part of an iteration, beside the numbers of the iteration before."""
        self.numbers = {**self.numbers, **numbers}
        self.progress(self.method.stage, (self.iteration + share) / self.iterations, self.numbers)


class ImplicitTangents(TangentMethod[Any, Any]):
    """States and tangents by the implicit solver of the problem."""

    engine = "fv"
    stage = "fv: Gauss-Newton"

    def solve(
        self, problem: Any, theta: Array, solver: Any, states: Any | None, log: IterationLog
    ) -> Any:
        return problem.solve(theta, solver, tangents=True)


def fit_fv(
    problem: AnyProblem,
    start: Array | None = None,
    *,
    iterations: int = 16,
    tolerance: float = 0.1,
    starts: int = 1,
    seed: int = 0,
    checkpoint_store: CheckpointStore | None = None,
    progress: Progress = ignore_progress,
) -> EngineFit[AnyProblem]:
    """Fit the unknowns with exact tangents; the posterior is the Laplace approximation.

    Args:
        problem: unknowns, states and observations.
        start: coordinates, ``(m,)``; the prior means if None.
        iterations: largest number of Gauss-Newton iterations.
        tolerance: the fit ends when a full step is below this many posterior sd.
        starts: number of optimisation runs. All but the first begin at draws from the prior; the
            best is returned, and its run lists all of them.
        seed: of these draws.
        checkpoint_store: of the state before every iteration, for voxel problems; an interrupted
            fit continues from it. Several starts store none.
        progress: called with the state of the work.
    """
    fit = partial(fit_gauss_newton, iterations=iterations, tolerance=tolerance, progress=progress)
    if starts == 1:
        return fit(problem, ImplicitTangents(), start, checkpoint_store=checkpoint_store)
    first = problem.unknowns.prior_mean if start is None else np.asarray(start, dtype=np.float64)
    found: EngineFit[AnyProblem] = fit_from_several_starts(
        lambda theta: fit(problem, ImplicitTangents(), theta),
        problem.unknowns,
        first,
        starts,
        seed,
    )
    return found
