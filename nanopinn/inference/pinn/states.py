"""States of a system as a network of time and place, with the initial state built in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.pinn.perceptron import Perceptron
from nanopinn.inference.systems import SystemProblem

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StateValues:
    """States ``y`` and ``dy/dt`` ``(n,)`` at one time, and both by the network's weights ``(n, w)`` (None if not asked for)."""

    y: Array
    rate: Array
    y_jacobian: Array | None
    rate_jacobian: Array | None


@dataclass(frozen=True)
class StateNetwork:
    """``y(t) = y_0 + g(t) size N(x, t)``; ``g`` is zero at the start.

    The network sees time twice, as it runs and as ``g = log(1 + (t - start)/first) / log(1 + span/first)``, because rates of a
    system may lie decades apart; and where states lie on a line, their place and what was there at the start.

    Attributes:
        start, first, span: of time, to the first observation and to the last, s.
        places: inputs that do not change with time, ``(cells, k)``, each in -1..1.
        size: of every state.
    """

    perceptron: Perceptron
    start: float
    first: float
    span: float
    places: Array
    size: Array

    @classmethod
    def from_problem(cls, problem: SystemProblem, hidden: tuple[int, ...]) -> StateNetwork:
        """One that fits a problem."""
        sizes, fields = problem.sizes, problem.fields
        cells = len(sizes) // fields
        later = problem.times[problem.times > problem.start] - problem.start
        places = np.zeros((cells, 0))
        if problem.positions is not None:
            there = problem.start_values(problem.tensor(problem.unknowns.prior_mean))[0].reshape(
                cells, fields
            )
            places = np.concatenate(
                [
                    _scale_to_unit_interval(problem.positions[:, None]),
                    np.unique(_scale_to_unit_interval(there), axis=1),
                ],
                axis=1,
            )
        perceptron = Perceptron((2 + places.shape[1], *hidden, fields))
        return cls(perceptron, problem.start, float(later[0]), float(later[-1]), places, sizes)

    def times(self, count: int) -> Array:
        """Times spread evenly in ``g``, the start and the end among them, s."""
        return self.start + self.first * np.expm1(
            np.linspace(0.0, np.log1p(self.span / self.first), count)
        )

    def at(self, weights: Array, y0: Array, t: float, *, jacobian: bool) -> StateValues:
        """States at a time from an initial state ``(n,)``."""
        z, dz, g, dg = self._inputs(t)
        out = self.perceptron(weights, z, dz, jacobian=jacobian)
        y, rate = (
            y0 + self.size * g * out.value.ravel(),
            self.size * (dg * out.value + g * out.rate).ravel(),
        )
        if out.value_jacobian is None or out.rate_jacobian is None:
            return StateValues(y, rate, None, None)
        value, of_rate = (v.reshape(len(y), -1) for v in (out.value_jacobian, out.rate_jacobian))
        size = self.size[:, None]
        return StateValues(y, rate, size * g * value, size * (dg * value + g * of_rate))

    def _inputs(self, t: float) -> tuple[Array, Array, float, float]:
        since, scale = t - self.start, np.log1p(self.span / self.first)
        g, dg = (
            float(np.log1p(since / self.first) / scale),
            float(1 / ((self.first + since) * scale)),
        )
        cells = len(self.places)
        z = np.concatenate(
            [self.places, np.tile([2 * since / self.span - 1, 2 * g - 1], (cells, 1))], axis=1
        )
        dz = np.concatenate([0 * self.places, np.tile([2 / self.span, 2 * dg], (cells, 1))], axis=1)
        return z, dz, g, dg


def _scale_to_unit_interval(values: Array) -> Array:
    """Columns ``(cells, k)`` brought to -1..1; those that do not vary are left out."""
    low, high = values.min(axis=0), values.max(axis=0)
    varies = high > low
    return np.asarray(2 * (values[:, varies] - low[varies]) / (high - low)[varies] - 1)
