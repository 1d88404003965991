"""Engine ``fv``: Gauss-Newton through the implicit finite-volume solver.

The state is eliminated: every iteration solves the pressure and marches the pools with exact tangents
(extra right-hand sides of the same matrices). It is the yardstick of every claim for the network.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.gauss_newton import Place, Quadratic, minimise
from nanopinn.inference.problem import Fields, InverseProblem, Prediction
from nanopinn.inference.result import EngineRun
from nanopinn.inference.resume import Keeper, Stand
from nanopinn.progress import Progress, silent
from nanopinn.solvers.linear import SolverError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """Where an engine ended: its run, and the problem and prediction at its estimate."""

    run: EngineRun
    theta: Array
    problem: InverseProblem
    prediction: Prediction


def fit_fv(
    problem: InverseProblem, start: Array | None = None, *, iterations: int = 12, tolerance: float = 0.1,
    keeper: Keeper | None = None, progress: Progress = silent,
) -> Fitted:  # fmt: skip
    """Fit the unknowns by Gauss-Newton; Laplace posterior.

    Between iterations the problem takes up the current flow (:meth:`InverseProblem.linearised_at`).

    Args:
        start: coordinates to start from; the prior means if None.
        iterations: at most so many.
        tolerance: stop when a full step is below this many posterior standard deviations.
        keeper: of the descent's state, from which an interrupted one goes on.
    """
    began = time.perf_counter()
    engine = _Engine(problem, progress, iterations)
    theta = problem.unknowns.prior_mean if start is None else np.asarray(start, dtype=np.float64)
    begin = engine.taken_up(keeper.stand("fv")) if keeper else None
    descent = minimise(
        engine.expand, engine.value_at, theta, problem.unknowns.prior_sd, iterations=iterations,
        tolerance=tolerance, on_step=engine.tell, begin=begin,
        keep=(lambda place: keeper.keep(engine.stand(place))) if keeper else None,
    )  # fmt: skip
    assert engine.last is not None
    covariance = descent.quadratic.covariance
    message = (
        f"converged in {descent.iterations} Gauss-Newton iterations"
        if descent.converged
        else f"stopped after {descent.iterations} iterations short of its tolerance; try --preset accurate"
    )
    run = EngineRun(
        engine="fv", scalars=problem.unknowns.estimates(descent.theta, covariance), covariance=covariance,
        objective=descent.history, chi2=descent.quadratic.chi2, observations=problem.observations,
        seconds=time.perf_counter() - began, converged=descent.converged, message=message,
        stats={"iterations": descent.iterations}, events=tuple(dict.fromkeys(engine.events)),
    )  # fmt: skip
    return Fitted(run, descent.theta, engine.problem, engine.last)


class _Engine:
    def __init__(self, problem: InverseProblem, progress: Progress, iterations: int) -> None:
        self.problem, self.progress, self.iterations = problem, progress, iterations
        self.forward = problem.forward()
        self.last: Prediction | None = None
        self.tried: tuple[Array, Fields] | None = None
        self.events: list[str] = []

    def taken_up(self, stand: Stand | None) -> Place | None:
        """Go on from where an earlier descent stood."""
        if stand is None:
            return None
        self.problem, self.events = stand.problem, list(stand.events)
        self.forward = self.problem.forward(stand.pressure)
        self.tried = None if stand.fields is None else (stand.place.theta, stand.fields)
        return stand.place

    def stand(self, place: Place) -> Stand:
        """Where the descent stands, with all that its next iteration depends on."""
        fields = self.tried[1] if self.tried and np.array_equal(self.tried[0], place.theta) else None
        return Stand("fv", place, self.problem, self.forward.last_pressure, fields, tuple(self.events))

    def expand(self, theta: Array) -> Quadratic:
        """Normal equations, after the problem was linearised there."""
        before, here = self.problem, self.fields_at(theta)
        self.problem = before.linearised_at(theta, here)
        self.forward = self.problem.forward(here.flow.p)
        fields = self.problem.solve(theta, self.forward, tangents=True)
        if self.problem is not before:
            self.problem = self.problem.with_errors(theta, fields)
        self.last = self.problem.compare(fields)
        return self.problem.quadratic(theta, self.last)

    def fields_at(self, theta: Array) -> Fields:
        """Fields without tangents; those of the step just taken are at hand."""
        if self.tried is None or not np.array_equal(self.tried[0], theta):
            self.tried = theta.copy(), self.problem.solve(theta, self.forward)
        return self.tried[1]

    def value_at(self, theta: Array) -> float:
        """The objective; infinite where the fields cannot be solved, so that a smaller step follows."""
        try:
            value = self.problem.objective(theta, self.problem.compare(self.fields_at(theta)))
        except SolverError as error:
            self.events.append(f"a step was refused: {error}")
            return float("inf")
        if not np.isfinite(value):
            self.events.append("a step was refused: its fields are not finite")
        return value if np.isfinite(value) else float("inf")

    def tell(self, k: int, theta: Array, quadratic: Quadratic) -> None:
        numbers = {"chi2/N": quadratic.chi2 / self.problem.observations, **self.problem.scalars(theta)}
        self.progress("fv: Gauss-Newton", (k + 1) / self.iterations, numbers)
