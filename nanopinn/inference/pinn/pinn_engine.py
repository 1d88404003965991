"""The inverse PINN for systems: a network for the states and the unknowns, moved together by
Levenberg-Marquardt.

    min over w, theta of  sum ((C y - d)/sd)^2 + sum_i integral (dy_i/dt - f_i(t, y; theta))^2 dt /
    q_i^2 + priors

The residual is the problem's own rate, on every cell at every collocation time. The weights are
variances: ``q_i`` is white noise of the model that lets a state drift by ``drift`` of its size over
the whole span. Training starts with a model of large error, which the data fill in, and the error
is brought down to what the residual itself shows: with a strict model from the start the network
finds a state that obeys some other unknowns, and stays there.
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
from nanopinn.inference.ode_problem import SystemProblem
from nanopinn.inference.pinn.networks import StateNetwork, StateValues
from nanopinn.inference.problem import EngineFit, describe_unaffected
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results.fit_result import EngineRun
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.ode import OdeSolution, OdeSystem

Array = NDArray[np.float64]

#: Prior sd of a weight: inputs and outputs are of size one.
WEIGHT_SD = 10.0
#: Model error to start from (nearly none of the physics), and the share of the residual's own size
#: that the next is set to.
INITIAL_MODEL_ERROR, ANNEALING_FACTOR = 10.0, 0.6
#: Model error below which states are held by the model rather than by few numbers.
STRICT_MODEL_ERROR = 1e-3
#: Standard deviations of chi2/N beyond which a misfit loosens the model again.
MISFIT_TOLERANCE_SD = 2.0
#: A variance follows the residual by no more than these factors in one iteration.
MIN_SCALE_RATIO, MAX_SCALE_RATIO = 0.5, 1.5
#: Prior standard deviations that no step needs to resolve.
STEP_RESOLUTION = 1e-3
#: Noise to start from where it is to be estimated, as a share of the largest number measured: of
#: many numbers, and of so few that the network could draw through every one of them.
INITIAL_NOISE, INITIAL_NOISE_SPARSE_DATA = 1e-3, 0.1


@dataclass(frozen=True)
class PinnSettings:
    """Size and effort.

    Attributes:
        hidden: units of each hidden layer. spread: of the first layer's random turns.
        times: collocation times; observations at more times than these are thinned out evenly.
        drift: the least model error, as a share of a state's size over the span.
        iterations: at most so many. tolerance: posterior standard deviations of the last step.
    """

    hidden: tuple[int, ...] = (40,)
    weight_scale: float = 4.0
    times: int = 32
    drift: float = 1e-5
    iterations: int = 60
    tolerance: float = 0.1


@dataclass(frozen=True)
class _TermScales:
    """Standard deviations that weigh the terms: noise of every series, and drift of the model."""

    noise: tuple[float | Array, ...]
    drift: float


@dataclass(frozen=True)
class _NormalEquations:
    """The objective at a point, its parts, and (with tangents) its normal equations over weights
    and unknowns.
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
    """Fit unknowns and states together; Laplace posterior with the network's weights and the
    model's error integrated out.

    Args:
        start: coordinates to start from; the prior means if None.
        seed: of the initial weights.

    Raises:
        InputError: the rate jumps at events, which a smooth network cannot follow.
    """
    began = time.perf_counter()
    if problem.events:
        raise InputError(
            "a smooth network cannot follow a rate that jumps",
            field="events",
            found=problem.events,
            remedy="Use engine fv.",
        )
    engine = _PinnEngine(problem, settings or PinnSettings(), seed)
    theta = problem.unknowns.prior_mean if start is None else np.asarray(start, dtype=np.float64)
    history, converged = engine.optimise(theta, progress)
    covariance = engine.covariance()
    message = (
        f"{'converged' if converged else 'stopped'} after {len(history)} Levenberg-Marquardt steps;"
        f" model error {engine.sizes.drift:.1e} of a state over the span; {engine.count} of"
        f" {problem.observations} numbers used"
    )
    scalars = problem.unknowns.estimates(engine.theta, covariance)
    run = EngineRun(
        engine="pinn",
        scalars=scalars,
        covariance=covariance,
        objective=tuple(history),
        chi2=sum(engine.normal.chi2),
        observations=engine.count,
        seconds=time.perf_counter() - began,
        converged=converged,
        message=message + describe_unaffected(scalars),
        stats={
            "iterations": len(history),
            "weights": engine.net.perceptron.count,
            "seed": seed,
            "model error": engine.sizes.drift,
        },
    )
    fitted = replace(problem, noise=tuple(float(np.mean(s)) for s in engine.sizes.noise))
    return EngineFit(run, engine.theta, fitted, fitted.compare(engine.solution()))


class _PinnEngine:
    """A network, unknowns, and the variances that weigh their terms."""

    def __init__(self, problem: SystemProblem, settings: PinnSettings, seed: int) -> None:
        self.problem, self.settings = problem, settings
        self.net = StateNetwork.from_problem(problem, settings.hidden)
        self.weights = self.net.perceptron.draw_weights(
            np.random.default_rng(seed), settings.weight_scale
        )
        self.theta = problem.unknowns.prior_mean
        self.nodes = _nodes(problem.times, self.net, settings.times)
        self.quadrature = _trapezoid(self.nodes)
        self.rows = [np.searchsorted(s.times, self.nodes) for s in problem.series]
        self.counts = [
            sum(int(s.is_measured[i].sum()) for _, i in self._measured_nodes(k))
            for k, s in enumerate(problem.series)
        ]
        self.sparse_data = self.count < self.net.perceptron.count
        guess = INITIAL_NOISE_SPARSE_DATA if self.sparse_data else INITIAL_NOISE
        start = (
            s.noise_sd if s.noise_sd is not None else guess * float(np.nanmax(np.abs(s.measured)))
            for s in problem.series
        )
        self.sizes = _TermScales(tuple(start), INITIAL_MODEL_ERROR)
        self.normal: _NormalEquations

    @property
    def count(self) -> int:
        """Numbers measured at the times used."""
        return sum(self.counts)

    def _measured_nodes(self, k: int) -> Iterator[tuple[int, int]]:
        """Nodes at which a series was measured, with its rows."""
        times = self.problem.series[k].times
        for node, row in enumerate(self.rows[k]):
            if row < len(times) and times[row] == self.nodes[node]:
                yield node, int(row)

    def optimise(self, theta: Array, progress: Progress) -> tuple[list[float], bool]:
        """Levenberg-Marquardt, variances brought down on the way; objectives, and whether it
        converged.
        """
        self.theta, damping, history, stalled = theta, 1e-3, [], 0
        self.normal = self.expand(self.weights, self.theta, tangents=True)
        for k in range(self.settings.iterations):
            stationary = self._is_stationary(1.0)
            damping, moved = self._step(damping)
            stalled = 0 if moved else stalled + 1
            variances_converged = self._anneal_variances(stationary)
            self.normal = self.expand(self.weights, self.theta, tangents=True)
            history.append(self.normal.objective)
            progress(
                "pinn: network and unknowns",
                (k + 1) / self.settings.iterations,
                self._progress_numbers(),
            )
            if stalled == 3 or (
                variances_converged and self._is_stationary(self.settings.tolerance)
            ):
                return history, variances_converged and stalled < 3
        return history, False

    def _step(self, damping: float) -> tuple[float, bool]:
        """One accepted step, if any damping gives one; the damping to go on with."""
        H, W = self.normal.H, len(self.weights)
        diagonal = np.diag(H)
        largest = 1.5 * self.problem.unknowns.prior_sd
        for _ in range(8):
            try:
                step = -cho_solve(
                    cho_factor(H + damping * np.diag(diagonal + 1e-12 * diagonal.max())),
                    self.normal.G,
                )
                step /= max(1.0, float(np.max(np.abs(step[W:]) / largest)))
                trial = self.weights + step[:W], self.theta + step[W:]
                there = self.expand(*trial, tangents=False)
                if there.objective < self.normal.objective:
                    (self.weights, self.theta), self.normal = (
                        trial,
                        replace(there, H=H, G=self.normal.G),
                    )
                    return damping / 5, True
            except (SolverError, LinAlgError):
                # a state the rate cannot take, or a matrix that is not definite: a shorter step
                pass
            damping *= 4
        return damping, False

    def _anneal_variances(self, stationary: bool) -> bool:
        """Variances follow the residuals; whether they stand still.

        Where noise is given, the model becomes stricter only once the unknowns have arrived where
        the present one sends them. Where it is estimated both fall together: left to itself,
        whichever falls first would have the other explain everything.
        """
        now = self.normal
        size = ANNEALING_FACTOR * float(
            np.sqrt(now.physics / (len(self.nodes) * len(self.net.size)))
        )
        found = [(chi2 / max(n, 1)) ** 0.5 for chi2, n in zip(now.chi2, self.counts, strict=True)]
        given = [s.noise_sd is not None for s in self.problem.series]
        if any(
            f**2 > 1 + MISFIT_TOLERANCE_SD * (2 / max(n, 1)) ** 0.5
            for f, n in zip(found, self.counts, strict=True)
        ):
            # states that obey the rate but not the data belong to other unknowns: let them go
            size = MAX_SCALE_RATIO
        elif (self.sparse_data or all(given)) and not stationary:
            size = max(size, 1.0)
        drift = min(
            INITIAL_MODEL_ERROR,
            max(
                self.settings.drift,
                self.sizes.drift * min(MAX_SCALE_RATIO, max(MIN_SCALE_RATIO, size)),
            ),
        )
        share = max(1 - len(self.theta) / self.count, 1 / self.count) ** 0.5
        # a network can draw through few numbers: their misfit says something of noise only once the
        # model holds it
        noise_fixed = self.sparse_data and drift > STRICT_MODEL_ERROR
        noise = tuple(
            (
                sd
                if g or noise_fixed
                else float(sd) * min(MAX_SCALE_RATIO, max(MIN_SCALE_RATIO, f / share))
            )
            for sd, g, f in zip(self.sizes.noise, given, found, strict=True)
        )
        ratios = [
            drift / self.sizes.drift,
            *(
                1.0 if g else b / float(a)
                for g, a, b in zip(given, self.sizes.noise, noise, strict=True)
            ),
        ]
        variances_converged = (
            drift < INITIAL_MODEL_ERROR
            and not noise_fixed
            and all(0.8 < ratio < 1.25 for ratio in ratios)
        )
        self.sizes = _TermScales(noise, drift)
        return variances_converged

    def _is_stationary(self, within: float) -> bool:
        """Whether a full step would leave the unknowns where they are, within so many posterior
        standard deviations.
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
        """Of the unknowns, the weights integrated out: Schur's complement, inverted."""
        H, W = self.normal.H, len(self.weights)
        inner = np.linalg.solve(H[:W, :W], H[:W, W:])
        return np.asarray(np.linalg.inv(H[W:, W:] - H[W:, :W] @ inner), dtype=np.float64)

    def _progress_numbers(self) -> dict[str, float]:
        chi2 = sum(self.normal.chi2) / self.count
        return {"chi2/N": chi2, "model error": self.sizes.drift, **self.problem.scalars(self.theta)}

    def solution(self) -> OdeSolution:
        """The network's states at every time of any series."""
        y0, _ = self.problem.start_values(self.problem.tensor(self.theta))
        states = np.stack(
            [self.net.at(self.weights, y0, t, jacobian=False).y for t in self.problem.times]
        )
        return OdeSolution(self.problem.times, states, None, self.nodes, 0)

    def expand(self, weights: Array, theta: Array, *, tangents: bool) -> _NormalEquations:
        """The objective at a point, and its normal equations.

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
        measured = {node: [] for node in range(len(self.nodes))}  # type: dict[int, list[tuple[int, int]]]
        for k in range(len(problem.series)):
            for node, row in self._measured_nodes(k):
                measured[node].append((k, row))
        for node, t in enumerate(self.nodes):
            at = self.net.at(weights, y0, float(t), jacobian=tangents)
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
        """Whitened residual of the rate at a time, and its derivative by weights and unknowns."""
        over = np.sqrt(weight * self.net.span) / (self.sizes.drift * self.net.size)
        residual = over * (at.rate - system(t, at.y))
        if at.y_jacobian is None or at.rate_jacobian is None:
            return residual, np.zeros((0, 0))
        entries, by_theta = system.derivatives(t, at.y, by_theta=True)
        J = csr_array((entries, system.jacobian_indices), shape=(len(at.y), len(at.y)))
        A = np.concatenate([at.rate_jacobian - J @ at.y_jacobian, -by_theta - J @ d_y0], axis=1)
        return residual, over[:, None] * A

    def _misfit(self, k: int, row: int, at: StateValues, d_y0: Array) -> tuple[Array, Array]:
        """Whitened misfit of what a series measured at a time, and its derivative by weights and
        unknowns.
        """
        series, known = self.problem.series[k], self.problem.series[k].is_measured[row]
        sd = np.broadcast_to(self.sizes.noise[k], series.measured.shape)[row][known]
        residual = (series.predict_from_states(at.y[None])[0] - series.measured[row])[known] / sd
        if at.y_jacobian is None:
            return residual, np.zeros((0, 0))
        by_all = np.concatenate([at.y_jacobian, d_y0], axis=1)
        return residual, series.predict_from_states(by_all[None])[0][known] / sd[:, None]


def _nodes(times: Array, net: StateNetwork, most: int) -> Array:
    """Collocation times: those of the observations, thinned out where they are many, filled in
    where they are few.
    """
    if len(times) >= most:
        return np.asarray(
            times[np.unique(np.linspace(0, len(times) - 1, most).round().astype(int))]
        )
    return np.unique(np.concatenate([times, net.times(most)]))


def _trapezoid(t: Array) -> Array:
    w = np.zeros_like(t)
    w[1:] += np.diff(t) / 2
    w[:-1] += np.diff(t) / 2
    return w
