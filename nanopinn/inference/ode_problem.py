"""Inverse problems of systems of ordinary differential equations, and of partial differential
equations on a line that are discretised into cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.inference.observations import TimeSeries
from nanopinn.inference.problem import Prediction, Problem
from nanopinn.solvers.ode import ErrorTolerance, OdeSolution, OdeSystem, integrate_ode

Array = NDArray[np.float64]
Scalars = Mapping[str, Tensor]

#: Lower limit of an estimated noise relative to the largest measured value, because a model is not
#: more exact than that.
MIN_RELATIVE_NOISE = 1e-6
#: Relative change of an estimated noise below which the previous estimate is kept.
NOISE_TOLERANCE = 0.02


class SystemSolver:
    """Implicit solver of the states with adaptive time steps.

    Args:
        tolerance: relative error of a time step.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def solve(self, problem: SystemProblem, theta: Array, *, tangents: bool) -> OdeSolution:
        """Integrate the states over every observation time of any series.

        Args:
            problem: system with its initial states.
            theta: coordinates of the unknowns, ``(m,)``.
            tangents: whether to integrate the derivatives by the coordinates too.

        Returns:
            States at :attr:`SystemProblem.times`.
        """
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
    """Inverse problem of a system ``dy/dt = rate(t, y, scalars)`` observed linearly in ``y``.

    A partial differential equation on a line is such a system once it is discretised into cells,
    with the states in the order ``y[fields * cell + field]``.

    Attributes:
        rate: time derivative of the states by torch functions in double precision, from the time
            (scalar), the states ``(states,)`` and the scalars.
        initial: initial states from the scalars, at ``start``.
        series: measured time series.
        start: initial time, s.
        events: times at which the rate jumps, for example the end of an infusion, s.
        positions: positions of the cells of a line, ``(cells,)``; None for compartments.
        stencil_radius: number of neighbours on either side that a cell of a line is coupled to.
        size: typical size of the states, one number or ``(states,)``, to which their errors are
            relative; the largest value of each initial field if None.
        tolerance: relative error of a time step.
        noise: estimated noise of every series; None before :meth:`update_linearisation`.

    Raises:
        InputError: a series begins before the start, the rate has not the shape of the states or is
            not finite, all states are of size zero, or cells are coupled beyond
            ``stencil_radius``.
    """

    rate: Callable[[Tensor, Tensor, Scalars], Tensor]
    initial: Callable[[Scalars], Tensor]
    series: tuple[TimeSeries, ...]
    start: float = 0.0
    events: tuple[float, ...] = ()
    positions: Array | None = None
    stencil_radius: int = 1
    size: float | Array | None = None
    tolerance: float = 1e-6
    noise: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.series:
            raise InputError(
                "there are no measured series", field="series", remedy="Give at least one series."
            )
        for s in self.series:
            if s.times[0] < self.start:
                raise InputError(
                    "a series begins before the initial time",
                    field=s.name,
                    found=f"{s.times[0]:g} s",
                    expected=f"{self.start:g} s or later",
                    remedy="Give an earlier `start`, or remove these times.",
                )
        self._validate_rate()

    def _validate_rate(self) -> None:
        """Evaluate the rate once and refuse what does not fit the states and series."""
        theta = self.tensor(self.unknowns.prior_mean)
        y = self.initial(self.unknowns.scalars(theta)).to(torch.float64)
        found = self.rate_at(torch.tensor(self.start, dtype=torch.float64), y, theta)
        if (
            found.shape != y.shape
            or found.dtype != torch.float64
            or not bool(torch.isfinite(found).all())
        ):
            raise InputError(
                "the rate is not one finite double-precision value for each state",
                field="rate",
                found=f"{tuple(found.shape)} {found.dtype}",
                expected=f"{tuple(y.shape)} torch.float64, finite at the initial time",
            )
        for s in self.series:
            required = (
                s.observed_states.shape[1]
                if s.observed_states.ndim == 2
                else int(s.observed_states.max()) + 1
            )
            if required > len(y) or (s.observed_states.ndim == 2 and required != len(y)):
                raise InputError(
                    "a series observes states that do not exist",
                    field=s.name,
                    found=f"{required} states",
                    expected=f"{len(y)} states",
                )
        if (self.sizes <= 0).any():
            raise InputError(
                "the size of the states is unknown, because a field starts at zero",
                field="size",
                remedy="Give `size`, the largest value that each state, or all of them, will have.",
            )
        self._validate_band(y, theta)

    def _validate_band(self, y: Tensor, theta: Tensor) -> None:
        """Refuse cells that are coupled beyond the stencil."""
        if self.positions is None:
            return
        if len(y) % len(self.positions):
            raise InputError(
                "the number of cells does not divide the number of states",
                field="positions",
                found=f"{len(self.positions)} cells",
                expected=f"a divisor of {len(y)}",
            )
        system = OdeSystem(self.rate_at, theta, len(y), self.band)
        # an arbitrary state and direction, for which no coupling cancels
        at = y.numpy() + self.sizes * (1 + np.arange(len(y)) % 7) / 10
        direction = np.cos(np.arange(len(y)) ** 2.0)
        entries = system.derivatives(self.start, at, by_theta=False)[0]
        banded = system.jacobian_product(entries, direction[:, None])[:, 0]
        start = torch.tensor(self.start, dtype=torch.float64)
        full = torch.autograd.functional.jvp(
            lambda u: self.rate_at(start, u, theta),
            torch.from_numpy(at),
            torch.from_numpy(direction),
        )[1].numpy()
        if np.abs(full - banded).max() > 1e-9 * np.abs(full).max():
            raise InputError(
                "cells are coupled beyond their neighbours",
                field="stencil_radius",
                found=self.stencil_radius,
                remedy=(
                    "Order the states by cell, y[fields * cell + field], and give"
                    " `stencil_radius`, the number of neighbours on either side of a cell."
                ),
            )

    @property
    def observations(self) -> int:
        """Number of measured values."""
        return sum(s.count for s in self.series)

    @property
    def times(self) -> Array:
        """Every time at which any series was measured, s."""
        return np.unique(np.concatenate([s.times for s in self.series]))

    @property
    def fields(self) -> int:
        """Number of states in each cell of a line; all states for compartments."""
        states = len(self.initial(self.unknowns.scalars(self.tensor(self.unknowns.prior_mean))))
        return states if self.positions is None else states // len(self.positions)

    @property
    def band(self) -> int | None:
        """Half-bandwidth of the Jacobian of the rate; None for compartments."""
        return None if self.positions is None else (self.stencil_radius + 1) * self.fields - 1

    @property
    def sizes(self) -> Array:
        """Typical size of every state, ``(states,)``."""
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
        """The rate as a function of the coordinates instead of the scalars.

        Args:
            t: time, s.
            y: states, ``(states,)``.
            theta: coordinates of the unknowns, ``(m,)``.
        """
        return self.rate(t, y, self.unknowns.scalars(theta))

    def start_values(self, theta: Tensor) -> tuple[Array, Array]:
        """Initial states and their derivatives by the coordinates.

        Args:
            theta: coordinates of the unknowns, ``(m,)``.

        Returns:
            Initial states, ``(n,)``, and their tangents, ``(n, m)``.
        """
        th = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            y = self.initial(self.unknowns.scalars(th)).to(torch.float64)
        tangents = np.zeros((len(y), len(th)))
        for i in range(len(y) if y.requires_grad else 0):
            tangents[i] = torch.autograd.grad(y[i], th, retain_graph=True)[0].numpy()
        return y.detach().numpy().copy(), tangents

    def solver(self, before: SystemSolver | None = None) -> SystemSolver:
        """The solver of the states.

        Args:
            before: solver of a similar problem, which is returned if it is given.
        """
        return before or SystemSolver(self.tolerance)

    def solve(self, theta: Array, solver: SystemSolver, *, tangents: bool = False) -> OdeSolution:
        """States at all observation times.

        Args:
            theta: coordinates of the unknowns, ``(m,)``.
            solver: solver of the states.
            tangents: whether to integrate the derivatives by the coordinates too.
        """
        return solver.solve(self, theta, tangents=tangents)

    def update_linearisation(self, theta: Array, states: OdeSolution) -> SystemProblem:
        """Estimate the noise of series without given noise from the misfit.

        Args:
            theta: coordinates of the unknowns, ``(m,)``.
            states: states at ``theta``.
        """
        return (
            self
            if all(s.noise_sd is not None for s in self.series)
            else self.with_noise_from_residual(states)
        )

    def with_noise_from_residual(self, solution: OdeSolution) -> SystemProblem:
        """Estimate the noise of every series from the residual of a solution.

        Args:
            solution: states at :attr:`times`.

        Returns:
            The problem with estimated noise; the same problem if no estimate changes by more than
            ``NOISE_TOLERANCE``.
        """
        # each unknown takes one degree of freedom from the residual
        fraction = max(1 - len(self.unknowns) / self.observations, 1 / self.observations)
        noise = []
        for s in self.series:
            predicted = s.predict_from_states(self._at(s, solution.states))
            residual = (predicted - s.measured)[s.is_measured]
            minimum = MIN_RELATIVE_NOISE * float(np.nanmax(np.abs(s.measured)))
            noise.append(max(float(np.sqrt(np.mean(residual**2) / fraction)), minimum))
        if self.noise is not None and np.allclose(noise, self.noise, rtol=NOISE_TOLERANCE, atol=0):
            return self
        return replace(self, noise=tuple(noise))

    def noise_sd_of(self, index: int) -> float | Array:
        """Noise of a series, given or estimated.

        Args:
            index: index of the series.

        Returns:
            Standard deviation of all values, or of each value, ``(n, k)``.

        Raises:
            ValueError: it was not given and has not been estimated yet.
        """
        given = self.series[index].noise_sd
        if given is None and self.noise is None:
            raise ValueError("the noise has not been estimated yet")
        return given if given is not None else self.noise[index]  # type: ignore[index]

    def compare(self, solution: OdeSolution) -> Prediction[OdeSolution]:
        """Compare states at :attr:`times` with every series.

        Args:
            solution: states, with tangents for a Jacobian.

        Returns:
            Whitened residual and Jacobian.
        """
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
        """States at the times of one series."""
        return states[np.searchsorted(self.times, series.times)]
