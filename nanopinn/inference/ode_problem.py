"""What was measured of a system over time: numbers linear in its states.

Inverse problems of ordinary equations, and of equations on a line that were cut into cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.inference.problem import Prediction, Problem
from nanopinn.solvers.ode import ErrorTolerance, OdeSolution, OdeSystem, integrate_ode

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TimeSeries:
    """Measured numbers ``weights y(t) + noise``.

    Attributes:
        name: what it is called for the reader.
        times: ``(n,)`` s, increasing.
        measured: ``(n, k)``; NaN where nothing was measured.
        seen: which states, ``(k,)`` integers, or weights of all states, ``(k, states)``.
        noise_sd: of every number, or one per number ``(n, k)``; None when it is to be estimated
            from the misfit.

    Raises:
        InputError: times that do not increase, numbers that are infinite or missing altogether, a
            noise that is not positive.
    """

    name: str
    times: Array
    measured: Array
    observed_states: NDArray[np.int64] | Array
    noise_sd: float | Array | None

    def __post_init__(self) -> None:
        self._validate_times()
        if self.measured.shape != (len(self.times), len(self.observed_states)):
            raise InputError(
                "numbers do not match their times and states",
                field=self.name,
                found=f"shape {self.measured.shape}",
                expected=(
                    f"({len(self.times)}, {len(self.observed_states)}): a row per time, a column"
                    " per state seen"
                ),
            )
        if np.isinf(self.measured).any() or not np.isfinite(self.measured).any():
            raise InputError(
                (
                    "a series holds infinite numbers"
                    if np.isinf(self.measured).any()
                    else "a series holds no numbers"
                ),
                field=self.name,
                expected="finite numbers, NaN where nothing was measured",
            )
        if self.noise_sd is not None and not (
            np.isfinite(self.noise_sd).all() and (np.asarray(self.noise_sd) > 0).all()
        ):
            raise InputError(
                "noise must be positive: data without noise would fix unknowns exactly",
                field=f"{self.name}: noise_sd",
                found=np.min(self.noise_sd),
                remedy="Give its standard deviation, or None to have it estimated.",
            )

    def _validate_times(self) -> None:
        if (
            self.times.ndim != 1
            or not np.isfinite(self.times).all()
            or (np.diff(self.times) <= 0).any()
        ):
            raise InputError("times must be finite and increase", field=self.name, found=self.times)

    @classmethod
    def of(
        cls,
        name: str,
        times: Array,
        measured: Array,
        *,
        state: int = 0,
        noise_sd: float | Array | None = None,
    ) -> TimeSeries:
        """One number per time, ``(n,)``: a single state."""
        sd = (
            noise_sd
            if noise_sd is None or np.ndim(noise_sd) == 0
            else np.asarray(noise_sd, dtype=np.float64)[:, None]
        )
        return cls(
            name,
            np.asarray(times, dtype=np.float64),
            np.asarray(measured, dtype=np.float64)[:, None],
            np.array([state]),
            sd,
        )

    @property
    def is_measured(self) -> NDArray[np.bool_]:
        """Where something was measured, ``(n, k)``."""
        return np.isfinite(self.measured)

    @property
    def count(self) -> int:
        """Numbers measured."""
        return int(self.is_measured.sum())

    def predict_from_states(self, states: Array) -> Array:
        """What would be measured of states ``(n, states, ...)``: ``(n, k, ...)``."""
        if self.observed_states.ndim == 1:
            return np.asarray(states[:, self.observed_states])
        return np.einsum("ks,ns...->nk...", self.observed_states, states)

    def whiten_states(self, states: Array, sd: float | Array) -> Array:
        """What would be measured, over its noise, where something was: ``(count, ...)``."""
        over = np.broadcast_to(np.asarray(sd, dtype=np.float64), self.measured.shape)
        seen = self.predict_from_states(states)
        return seen[self.is_measured] / over[self.is_measured].reshape(-1, *(1,) * (seen.ndim - 2))


Scalars = Mapping[str, Tensor]

#: A noise that is estimated is never below this share of the largest number: models are not exact
#: beyond.
MIN_RELATIVE_NOISE = 1e-6
#: An estimated noise is kept while it changes by less.
NOISE_TOLERANCE = 0.02


class SystemSolver:
    """Solves the states as accurately as it is told."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def solve(self, problem: SystemProblem, theta: Array, *, tangents: bool) -> OdeSolution:
        """States at every time of any series."""
        th = problem.tensor(theta)
        y0, d_y0 = problem.start_values(th)
        system = OdeSystem(problem.rate_at, th, len(y0), problem.band)
        accuracy = ErrorTolerance(self.tolerance, problem.sizes)
        return integrate_ode(
            system,
            problem.start,
            y0,
            d_y0,
            problem.times,
            accuracy,
            tangents=tangents,
            events=problem.events,
        )


@dataclass(frozen=True)
class SystemProblem(Problem[SystemSolver, OdeSolution]):
    """Unknowns of ``dy/dt = rate(t, y, scalars)``, from numbers linear in ``y``.

    An equation on a line is such a system once its cells are the states: ``y[fields * cell +
    field]``.

        def rate(t, y, s):
            return torch.stack([s["growth"] * y[0] * (1 - y[0] / s["capacity"])])

        unknowns = UnknownSet((Unknown.of("growth", 0.3, 1.0), Unknown.of("capacity", 1000.0, 1.0)))
        problem = SystemProblem(unknowns, rate, lambda s: torch.tensor([50.0]), (Series.of("volume",
        days, mm3),)) print(fit_fv(problem).run["growth"])

    Attributes:
        rate: in torch's functions, double precision; ``t`` a number, ``y`` ``(states,)``.
        initial: states at ``start``; they may depend on unknowns.
        series: what was measured.
        start: s. events: times at which the rate jumps (an infusion ends), s.
        positions: ``(cells,)`` where the states of a line lie; None for compartments.
        reach: how many neighbours on either side a cell of a line is coupled to.
        size: of the states, one number or ``(states,)``; what is far smaller need not be accurate.
            The largest of each initial field if None.
        tolerance: relative error of a time step.
        noise: sd of every series, as :meth:`update_linearisation` found it; None before.

    Raises:
        InputError: a series before the start, a rate that is not of the states' shape or not
            finite, states all of size zero, a line whose cells reach further than ``reach``.
    """

    rate: Callable[[Tensor, Tensor, Scalars], Tensor]
    initial: Callable[[Scalars], Tensor]
    series: tuple[TimeSeries, ...]
    start: float = 0.0
    events: tuple[float, ...] = ()
    positions: Array | None = None
    reach: int = 1
    size: float | Array | None = None
    tolerance: float = 1e-6
    noise: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.series:
            raise InputError(
                "nothing was measured", field="series", remedy="Give at least one series."
            )
        for s in self.series:
            if s.times[0] < self.start:
                raise InputError(
                    "a series begins before the states do",
                    field=s.name,
                    found=f"{s.times[0]:g} s",
                    expected=f"{self.start:g} s or later",
                    remedy="Give an earlier start, or leave these times out.",
                )
        self._validate_rate()

    def _validate_rate(self) -> None:
        """One evaluation tells most mistakes."""
        theta = self.tensor(self.unknowns.prior_mean)
        y = self.initial(self.unknowns.scalars(theta)).to(torch.float64)
        found = self.rate_at(torch.tensor(self.start, dtype=torch.float64), y, theta)
        if (
            found.shape != y.shape
            or found.dtype != torch.float64
            or not bool(torch.isfinite(found).all())
        ):
            raise InputError(
                "the rate is not one finite double per state",
                field="rate",
                found=f"{tuple(found.shape)} {found.dtype}",
                expected=f"{tuple(y.shape)} torch.float64, finite at the start",
            )
        for s in self.series:
            seen = (
                s.observed_states.shape[1]
                if s.observed_states.ndim == 2
                else int(s.observed_states.max()) + 1
            )
            if seen > len(y) or (s.observed_states.ndim == 2 and seen != len(y)):
                raise InputError(
                    "a series sees states that there are not",
                    field=s.name,
                    found=seen,
                    expected=f"{len(y)} states",
                )
        if (self.sizes <= 0).any():
            raise InputError(
                "the size of the states is not known: a field starts at zero",
                field="size",
                remedy="Give the size that each state, or all of them, will reach.",
            )
        self._validate_band(y, theta)

    def _validate_band(self, y: Tensor, theta: Tensor) -> None:
        if self.positions is None:
            return
        if len(y) % len(self.positions):
            raise InputError(
                "cells and states do not match",
                field="positions",
                found=len(self.positions),
                expected=f"a divisor of {len(y)}",
            )
        system = OdeSystem(self.rate_at, theta, len(y), self.band)
        at = y.numpy() + self.sizes * (1 + np.arange(len(y)) % 7) / 10
        anywhere = np.cos(np.arange(len(y)) ** 2.0)[:, None]
        banded = system.times(system.derivatives(self.start, at, by_theta=False)[0], anywhere)[:, 0]
        now, direction = (
            torch.tensor(self.start, dtype=torch.float64),
            torch.from_numpy(anywhere[:, 0]),
        )
        jvp = torch.autograd.functional.jvp
        whole = jvp(lambda u: self.rate_at(now, u, theta), torch.from_numpy(at), direction)[
            1
        ].numpy()
        if np.abs(whole - banded).max() > 1e-9 * np.abs(whole).max():
            raise InputError(
                "cells are coupled beyond their neighbours",
                field="reach",
                found=self.reach,
                remedy=(
                    "Order states by cell, y[fields * cell + field], and give how many neighbours a"
                    " cell reaches."
                ),
            )

    @property
    def observations(self) -> int:
        return sum(s.count for s in self.series)

    @property
    def times(self) -> Array:
        """Every time at which anything was measured, s."""
        return np.unique(np.concatenate([s.times for s in self.series]))

    @property
    def fields(self) -> int:
        """States per cell of a line; all of them where there is no line."""
        states = len(self.initial(self.unknowns.scalars(self.tensor(self.unknowns.prior_mean))))
        return states if self.positions is None else states // len(self.positions)

    @property
    def band(self) -> int | None:
        """How far from its diagonal the rate's Jacobian reaches."""
        return None if self.positions is None else (self.reach + 1) * self.fields - 1

    @property
    def sizes(self) -> Array:
        """Size of every state, ``(states,)``."""
        y = (
            self.initial(self.unknowns.scalars(self.tensor(self.unknowns.prior_mean)))
            .detach()
            .numpy()
            .astype(np.float64)
        )
        if self.size is not None:
            return np.broadcast_to(np.asarray(self.size, dtype=np.float64), y.shape).copy()
        cells = 1 if self.positions is None else len(self.positions)
        return np.tile(
            np.abs(y.reshape(cells, -1)).max(axis=0 if cells > 1 else None), cells
        ) * np.ones_like(y)

    def rate_at(self, t: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        """The rate by coordinates in place of scalars."""
        return self.rate(t, y, self.unknowns.scalars(theta))

    def start_values(self, theta: Tensor) -> tuple[Array, Array]:
        """Initial states ``(n,)`` and their tangents ``(n, m)``."""
        th = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            y = self.initial(self.unknowns.scalars(th)).to(torch.float64)
        tangents = np.zeros((len(y), len(th)))
        for i in range(len(y) if y.requires_grad else 0):
            tangents[i] = torch.autograd.grad(y[i], th, retain_graph=True)[0].numpy()
        return y.detach().numpy().copy(), tangents

    def solver(self, before: SystemSolver | None = None) -> SystemSolver:
        """An implicit solver of the states."""
        return before or SystemSolver(self.tolerance)

    def solve(self, theta: Array, solver: SystemSolver, *, tangents: bool = False) -> OdeSolution:
        return solver.solve(self, theta, tangents=tangents)

    def update_linearisation(self, theta: Array, here: OdeSolution) -> SystemProblem:
        """The problem with the noise of series that came without one, as the misfit there says."""
        return (
            self
            if all(s.noise_sd is not None for s in self.series)
            else self.with_noise_from_residual(here)
        )

    def with_noise_from_residual(self, solution: OdeSolution) -> SystemProblem:
        """The problem with noise as the misfit of a solution says."""
        # each unknown takes one number's worth of misfit away
        share = max(1 - len(self.unknowns) / self.observations, 1 / self.observations)
        found = []
        for s in self.series:
            left = (s.predict_from_states(self._at(s, solution.states)) - s.measured)[s.is_measured]
            least = MIN_RELATIVE_NOISE * float(np.nanmax(np.abs(s.measured)))
            found.append(max(float(np.sqrt(np.mean(left**2) / share)), least))
        if self.noise is not None and np.allclose(found, self.noise, rtol=NOISE_TOLERANCE, atol=0):
            return self
        return replace(self, noise=tuple(found))

    def noise_sd_of(self, index: int) -> float | Array:
        """Noise of a series, given or estimated.

        Raises:
            ValueError: it was not given, and :meth:`update_linearisation` has not yet found it.
        """
        given = self.series[index].noise_sd
        if given is None and self.noise is None:
            raise ValueError("the noise has not been estimated yet")
        return given if given is not None else self.noise[index]  # type: ignore[index]

    def compare(self, solution: OdeSolution) -> Prediction[OdeSolution]:
        """States at :attr:`times` against every series."""
        residuals, jacobians = [], []
        for i, s in enumerate(self.series):
            sd = self.noise_sd_of(i)
            measured = (s.measured / np.broadcast_to(sd, s.measured.shape))[s.is_measured]
            residuals.append(s.whiten_states(self._at(s, solution.states), sd) - measured)
            if solution.tangents is not None:
                jacobians.append(s.whiten_states(self._at(s, solution.tangents), sd))
        jacobian = torch.from_numpy(np.concatenate(jacobians)) if jacobians else None
        return Prediction(solution, torch.from_numpy(np.concatenate(residuals)), jacobian)

    def _at(self, series: TimeSeries, states: Array) -> Array:
        return states[np.searchsorted(self.times, series.times)]
