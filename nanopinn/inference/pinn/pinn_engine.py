"""Inverse physics-informed neural network for systems of equations: a network for the states and
the unknowns, optimised together by the Levenberg-Marquardt method.

    min over w, theta of  sum ((C y - d)/sd)^2 + sum_i integral (dy_i/dt - f_i(t, y; theta))^2 dt /
    q_i^2 + priors

The residual is the rate of the problem at every collocation time and in every cell. The weights are
variances: ``q_i`` is white noise of the model by which a state deviates by ``model_error`` times
its size over the whole time span. The optimisation starts with a large model error, so that the
network first represents the data, and the error is annealed to the size of the equation residual.
With a small model error from the start, the network converges to states that satisfy the equations
for other unknowns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse import csr_array

from nanopinn.errors import InputError
from nanopinn.inference.gauss_newton import (
    LARGEST_STEP_PRIOR_SD,
    DampingControl,
    OptimisationRun,
    minimise,
)
from nanopinn.inference.ode_problem import SystemProblem
from nanopinn.inference.pinn.networks import StateNetwork, StateValues
from nanopinn.inference.problem import EngineFit, QuadraticModel, describe_unaffected
from nanopinn.inference.systematic import marginal_precision
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import EngineRun
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.ode import OdeSolution, OdeSystem

Array = NDArray[np.float64]

#: Prior standard deviation of a weight; inputs and outputs are of size one.
WEIGHT_SD = 10.0
#: Model error at the start, which nearly removes the equations, and the next model error as a
#: fraction of the current size of the equation residual.
INITIAL_MODEL_ERROR, ANNEALING_FACTOR = 10.0, 0.6
#: Model error below which the equations, rather than sparse data, determine the states.
STRICT_MODEL_ERROR = 1e-3
#: The model error is increased again if chi2/N exceeds 1 by more than so many of its standard
#: deviations.
MISFIT_TOLERANCE_SD = 2.0
#: Limits of the factor by which a standard deviation changes in one iteration.
MIN_SCALE_RATIO, MAX_SCALE_RATIO = 0.5, 1.5
#: Steps below this fraction of the prior standard deviation count as zero.
STEP_RESOLUTION = 1e-3
#: Failed iterations in a row after which the fit ends.
MAX_REJECTIONS = 3
#: The objective changes with the variances, so that steps are not compared with earlier ones.
DAMPING = DampingControl(
    increase=4.0, attempts=8, failures=MAX_REJECTIONS + 1, floor=1e-12, limit_reversals=False
)
#: Noise at the start where it is estimated, as a fraction of the largest measured value: for many
#: values, and for fewer values than weights, which the network could interpolate.
INITIAL_NOISE, INITIAL_NOISE_SPARSE_DATA = 1e-3, 0.1


@dataclass(frozen=True)
class PinnSettings:
    """Size of the network and effort of the optimisation.

    Attributes:
        hidden: number of units in each hidden layer.
        weight_scale: scale of the first layer's initial weights and biases.
        times: number of collocation times; observations at more times are thinned out evenly.
        min_model_error: smallest model error, as a fraction of a state's size over the time span.
        iterations: maximum number of iterations.
        tolerance: size of the last step at which the optimisation ends, posterior standard
            deviations.
    """

    hidden: tuple[int, ...] = (40,)
    weight_scale: float = 4.0
    times: int = 32
    min_model_error: float = 1e-5
    iterations: int = 60
    tolerance: float = 0.1


@dataclass(frozen=True)
class _TermScales:
    """Standard deviations of the terms of the objective: noise of every series, and model error as
    a fraction of a state's size over the time span.
    """

    noise: tuple[float | Array, ...]
    model_error: float


@dataclass(frozen=True)
class _NormalEquations:
    """The objective at a point, its parts, and its Hessian ``H`` and gradient ``G`` with respect to
    weights and unknowns, which are empty without tangents.
    """

    objective: float
    chi2: tuple[float, ...]
    physics: float
    H: Array
    G: Array


def fit_pinn(
    problem: SystemProblem,
    start: Array | None = None,
    *,
    settings: PinnSettings | None = None,
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> EngineFit[SystemProblem]:
    """Fit unknowns and states together by a physics-informed neural network.

    The posterior is a Laplace approximation with the network's weights and the model error
    integrated out.

    Args:
        problem: system, unknowns and observations.
        start: coordinates at the start, ``(m,)``; the prior means if None.
        settings: size of the network and effort; the defaults if None.
        seed: seed of the initial weights.
        progress: receives the state of the optimisation.

    Returns:
        The run, the estimate, and the problem and prediction there.

    Raises:
        InputError: the rate jumps at events, which a smooth network cannot represent.
    """
    began = time.perf_counter()
    if not isinstance(problem, SystemProblem):
        raise InputError(
            "engine pinn fits systems of ordinary differential equations",
            field="problem",
            found=type(problem).__name__,
            expected="SystemProblem",
            remedy="Use `fit_krylov` or `fit_fv` for voxels.",
        )
    if problem.events:
        raise InputError(
            "a smooth network cannot represent a rate that jumps",
            field="events",
            found=problem.events,
            remedy="Use `fit_fv`.",
        )
    engine = _PinnEngine(problem, settings or PinnSettings(), seed)
    theta = problem.unknowns.prior_mean if start is None else np.asarray(start, dtype=np.float64)
    found = engine.optimise(theta, progress)
    history, converged = found.history[1:], found.converged
    covariance = engine.covariance()
    message = (
        f"{'converged' if converged else 'stopped'} after {len(history)} Levenberg-Marquardt steps;"
        f" model error {engine.scales.model_error:.1e} of a state; {engine.count} of"
        f" {problem.observations} measured values used"
    )
    scalars = problem.unknowns.estimates(engine.theta, covariance)
    run = EngineRun(
        engine="pinn",
        scalars=scalars,
        covariance=covariance,
        objective=history,
        chi2=sum(engine.normal.chi2),
        observations=engine.count,
        seconds=time.perf_counter() - began,
        converged=converged,
        message=message + describe_unaffected(scalars),
        stats={
            "iterations": len(history),
            "weights": engine.net.perceptron.count,
            "seed": seed,
            "model error": engine.scales.model_error,
        },
    )
    fitted = replace(problem, noise=tuple(float(np.mean(s)) for s in engine.scales.noise))
    return EngineFit(run, engine.theta, fitted, fitted.compare(engine.solution()))


class _PinnEngine:
    """State of the optimisation: weights, unknowns, and standard deviations of all terms."""

    def __init__(self, problem: SystemProblem, settings: PinnSettings, seed: int) -> None:
        self.problem, self.settings = problem, settings
        self.net = StateNetwork.from_problem(problem, settings.hidden)
        self.weights = self.net.perceptron.draw_weights(
            np.random.default_rng(seed), settings.weight_scale
        )
        self.theta = problem.unknowns.prior_mean
        self.nodes = _collocation_times(problem.times, self.net, settings.times)
        self.quadrature = _trapezoid_weights(self.nodes)
        self.rows = [np.searchsorted(s.times, self.nodes) for s in problem.series]
        self.counts = [
            sum(int(s.is_measured[i].sum()) for _, i in self._measured_nodes(k))
            for k, s in enumerate(problem.series)
        ]
        self.sparse_data = self.count < self.net.perceptron.count
        relative_noise = INITIAL_NOISE_SPARSE_DATA if self.sparse_data else INITIAL_NOISE
        initial_noise = (
            (
                s.noise_sd
                if s.noise_sd is not None
                else relative_noise * float(np.nanmax(np.abs(s.measured)))
            )
            for s in problem.series
        )
        self.scales = _TermScales(tuple(initial_noise), INITIAL_MODEL_ERROR)
        self.normal: _NormalEquations
        self.started = False
        self.trial: _NormalEquations | None = None
        self.variances_converged, self.rejections = False, 0

    @property
    def count(self) -> int:
        """Number of measured values at the collocation times."""
        return sum(self.counts)

    def _measured_nodes(self, k: int) -> Iterator[tuple[int, int]]:
        """Collocation times at which a series was measured, each with the row of the series."""
        times = self.problem.series[k].times
        for node, row in enumerate(self.rows[k]):
            if row < len(times) and times[row] == self.nodes[node]:
                yield node, int(row)

    def optimise(self, theta: Array, progress: Progress) -> OptimisationRun:
        """Minimise over weights and unknowns; the variances are annealed between the steps."""
        iterations = self.settings.iterations + 1

        def report(k: int, point: Array, quadratic: QuadraticModel) -> None:
            if k:
                share = k / self.settings.iterations
                progress("pinn: network and unknowns", share, self._progress_numbers())

        unlimited = np.full(len(self.weights), np.inf)
        return minimise(
            self._expand_at,
            self._value_at,
            np.concatenate([self.weights, theta]),
            np.concatenate([unlimited, LARGEST_STEP_PRIOR_SD * self.problem.unknowns.prior_sd]),
            iterations=iterations,
            converged=lambda _: self._has_converged(),
            on_step=report,
            control=DAMPING,
        )

    def _expand_at(self, point: Array) -> QuadraticModel:
        """Normal equations at a point, after the variances followed the last step."""
        W = len(self.weights)
        if self.started:
            accepted = not np.array_equal(point, np.concatenate([self.weights, self.theta]))
            self.rejections = 0 if accepted else self.rejections + 1
            self.variances_converged = self._anneal_variances(
                self.trial if accepted and self.trial is not None else self.normal,
                self._is_stationary(1.0),
            )
        self.started = True
        self.weights, self.theta = point[:W], point[W:]
        self.normal = self.expand(self.weights, self.theta, tangents=True)
        n = self.normal
        return QuadraticModel(n.objective, sum(n.chi2), n.G, n.H)

    def _value_at(self, point: Array) -> float:
        """The objective; infinite where the rate is not finite."""
        W = len(self.weights)
        try:
            self.trial = self.expand(point[:W], point[W:], tangents=False)
        except SolverError:
            return float("inf")
        return self.trial.objective if np.isfinite(self.trial.objective) else float("inf")

    def _has_converged(self) -> bool:
        """Whether the variances and the unknowns are stationary."""
        return (
            self.variances_converged
            and self.rejections < MAX_REJECTIONS
            and self._is_stationary(self.settings.tolerance)
        )

    def _anneal_variances(self, now: _NormalEquations, stationary: bool) -> bool:
        """Adapt the variances to the residuals, and return whether they have converged.

        Where the noise is given, the model error decreases only after the unknowns have converged
        for its current value. Where the noise is estimated, both decrease together; otherwise the
        term whose variance decreases first would force the other to explain all residuals.
        """
        old = self.scales
        ratio = ANNEALING_FACTOR * float(
            np.sqrt(now.physics / (len(self.nodes) * len(self.net.size)))
        )
        misfits = [(chi2 / max(n, 1)) ** 0.5 for chi2, n in zip(now.chi2, self.counts, strict=True)]
        given = [s.noise_sd is not None for s in self.problem.series]
        if any(
            f**2 > 1 + MISFIT_TOLERANCE_SD * (2 / max(n, 1)) ** 0.5
            for f, n in zip(misfits, self.counts, strict=True)
        ):
            # states that satisfy the equations but not the data belong to other unknowns, so the
            # equations get less weight again
            ratio = MAX_SCALE_RATIO
        elif (self.sparse_data or all(given)) and not stationary:
            ratio = max(ratio, 1.0)
        model_error = old.model_error * _limit_ratio(ratio)
        model_error = min(INITIAL_MODEL_ERROR, max(self.settings.min_model_error, model_error))
        # each unknown takes one degree of freedom from the residual
        expected = max(1 - len(self.theta) / self.count, 1 / self.count) ** 0.5
        # a network can interpolate few values, so that their misfit contains information about the
        # noise only after the equations constrain the states
        noise_fixed = self.sparse_data and model_error > STRICT_MODEL_ERROR
        noise = tuple(
            sd if g or noise_fixed else float(sd) * _limit_ratio(f / expected)
            for sd, g, f in zip(old.noise, given, misfits, strict=True)
        )
        ratios = [
            model_error / old.model_error,
            *(1.0 if g else b / float(a) for g, a, b in zip(given, old.noise, noise, strict=True)),
        ]
        variances_converged = (
            model_error < INITIAL_MODEL_ERROR
            and not noise_fixed
            and all(0.8 < ratio < 1.25 for ratio in ratios)
        )
        self.scales = _TermScales(noise, model_error)
        return variances_converged

    def _is_stationary(self, within: float) -> bool:
        """Whether a full step changes no unknown by more than so many posterior standard
        deviations.
        """
        W = len(self.weights)
        try:
            step = cho_solve(cho_factor(self.normal.H), self.normal.G)[W:]
        except LinAlgError:
            return False
        near = (
            within * np.sqrt(np.diag(self.covariance()))
            + STEP_RESOLUTION * self.problem.unknowns.prior_sd
        )
        return bool((np.abs(step) < near).all())

    def covariance(self) -> Array:
        """Posterior covariance of the unknowns with the weights integrated out, ``(m, m)``."""
        precision = marginal_precision(self.normal.H, np.arange(len(self.weights)))
        return np.asarray(np.linalg.inv(precision), dtype=np.float64)

    def _progress_numbers(self) -> dict[str, float]:
        """Quantities reported to the progress function."""
        chi2 = sum(self.normal.chi2) / self.count
        return {
            "chi2/N": chi2,
            "model error": self.scales.model_error,
            **self.problem.scalars(self.theta),
        }

    def solution(self) -> OdeSolution:
        """States of the network at every observation time of any series."""
        y0, _ = self.problem.start_values(self.problem.tensor(self.theta))
        states = np.stack(
            [self.net.values_at(self.weights, y0, t, jacobian=False).y for t in self.problem.times]
        )
        return OdeSolution(self.problem.times, states, None, self.nodes, 0)

    def expand(self, weights: Array, theta: Array, *, tangents: bool) -> _NormalEquations:
        """The objective at a point with its normal equations.

        Raises:
            SolverError: the rate is not finite there.
        """
        problem, unknowns, W = self.problem, self.problem.unknowns, len(weights)
        th = problem.tensor(theta)
        y0, d_y0 = problem.start_values(th)
        system = OdeSystem(problem.rate_at, th, len(y0), problem.band)
        prior = np.concatenate([weights / WEIGHT_SD, problem.prior_residual(theta)])
        sd = np.concatenate([np.full(W, WEIGHT_SD), unknowns.prior_sd])
        H, G = (np.diag(sd**-2.0), prior / sd) if tangents else (np.zeros((0, 0)), np.zeros(0))
        physics, chi2 = 0.0, [0.0] * len(problem.series)
        measured: dict[int, list[tuple[int, int]]] = {node: [] for node in range(len(self.nodes))}
        for k in range(len(problem.series)):
            for node, row in self._measured_nodes(k):
                measured[node].append((k, row))
        for node, t in enumerate(self.nodes):
            at = self.net.values_at(weights, y0, float(t), jacobian=tangents)
            residual, A = self._physics(system, float(t), self.quadrature[node], at, d_y0)
            physics += float(residual @ residual)
            blocks = [(residual, A)]
            for k, row in measured[node]:
                blocks.append(self._misfit(k, row, at, d_y0))
                chi2[k] += float(blocks[-1][0] @ blocks[-1][0])
            for r, J in blocks if tangents else ():
                H += J.T @ J
                G += J.T @ r
        return _NormalEquations(
            0.5 * (float(prior @ prior) + physics + sum(chi2)), tuple(chi2), physics, H, G
        )

    def _physics(
        self, system: OdeSystem, t: float, weight: float, at: StateValues, d_y0: Array
    ) -> tuple[Array, Array]:
        """Whitened equation residual at a time, and its derivative by weights and unknowns."""
        whitening = np.sqrt(weight * self.net.span) / (self.scales.model_error * self.net.size)
        residual = whitening * (at.rate - system(t, at.y))
        if at.y_jacobian is None or at.rate_jacobian is None:
            return residual, np.zeros((0, 0))
        entries, by_theta = system.derivatives(t, at.y, by_theta=True)
        J = csr_array((entries, system.jacobian_indices), shape=(len(at.y), len(at.y)))
        A = np.concatenate([at.rate_jacobian - J @ at.y_jacobian, -by_theta - J @ d_y0], axis=1)
        return residual, whitening[:, None] * A

    def _misfit(self, k: int, row: int, at: StateValues, d_y0: Array) -> tuple[Array, Array]:
        """Whitened misfit of one series at a time, and its derivative by weights and unknowns."""
        series, present = self.problem.series[k], self.problem.series[k].is_measured[row]
        sd = np.broadcast_to(self.scales.noise[k], series.measured.shape)[row][present]
        residual = (series.predict_from_states(at.y[None])[0] - series.measured[row])[present] / sd
        if at.y_jacobian is None:
            return residual, np.zeros((0, 0))
        by_all = np.concatenate([at.y_jacobian, d_y0], axis=1)
        return residual, series.predict_from_states(by_all[None])[0][present] / sd[:, None]


def _limit_ratio(ratio: float) -> float:
    """A change of a standard deviation within the limits of one iteration."""
    return min(MAX_SCALE_RATIO, max(MIN_SCALE_RATIO, ratio))


def _collocation_times(times: Array, net: StateNetwork, count: int) -> Array:
    """Observation times, thinned out if they are many, with further times if they are few."""
    if len(times) >= count:
        kept = np.unique(np.linspace(0, len(times) - 1, count).round().astype(int))
        return np.asarray(times[kept])
    return np.unique(np.concatenate([times, net.times(count)]))


def _trapezoid_weights(t: Array) -> Array:
    """Weights of the trapezoidal rule at the times ``t``."""
    w = np.zeros_like(t)
    w[1:] += np.diff(t) / 2
    w[:-1] += np.diff(t) / 2
    return w
