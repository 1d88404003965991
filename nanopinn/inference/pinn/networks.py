"""A tanh network for states over time and place, with its derivative by time and both by every
weight, exact.

Second-order steps need the whole Jacobian. For a network this small a page of backpropagation by
hand is several times faster than any general tool.

States of a system as a network of time and place, with the initial state built in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.ode_problem import SystemProblem

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outputs:
    """At points ``p`` for outputs ``q``: values and their time derivatives ``(p, q)``; both by all
    weights ``(p, q, w)``.
    """

    value: Array
    rate: Array
    value_jacobian: Array | None
    rate_jacobian: Array | None


@dataclass(frozen=True)
class Perceptron:
    """``N(z) = W_L tanh(... tanh(W_1 z + b_1) ...) + b_L``; weights live in one vector.

    Attributes:
        sizes: inputs, hidden layers, outputs.
    """

    sizes: tuple[int, ...]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return list(zip(self.sizes[1:], self.sizes[:-1], strict=True))

    @property
    def count(self) -> int:
        """Weights and offsets."""
        return sum(o * i + o for o, i in self.shapes)

    def draw_weights(self, rng: np.random.Generator, weight_scale: float) -> Array:
        """Weights to start from: the first layer's turns spread over inputs in -1..1, the last
        layer silent.
        """
        parts = []
        for k, (o, i) in enumerate(self.shapes):
            last, first = k == len(self.shapes) - 1, k == 0
            scale = 0.0 if last else weight_scale / np.sqrt(i) if first else 1.0 / np.sqrt(i)
            parts += [
                scale * rng.standard_normal(o * i),
                (0.0 if last else weight_scale if first else 0.3) * rng.uniform(-1, 1, o),
            ]
        return np.concatenate(parts)

    def layers(self, weights: Array) -> list[tuple[Array, Array]]:
        """Matrices and offsets as views of the vector."""
        out, at = [], 0
        for o, i in self.shapes:
            out.append(
                (weights[at : at + o * i].reshape(o, i), weights[at + o * i : at + o * i + o])
            )
            at += o * i + o
        return out

    def __call__(self, weights: Array, z: Array, dz: Array, *, jacobian: bool) -> Outputs:
        """Outputs at inputs ``z`` ``(p, i)``, whose time derivatives are ``dz``."""
        layers = self.layers(weights)
        cache: list[tuple[Array, ...]] = []
        a, da = z, dz
        for W, b in layers[:-1]:
            s_dot = da @ W.T
            before = (a, da)
            a = np.tanh(a @ W.T + b)
            slope = 1 - a**2
            da = slope * s_dot
            cache.append((*before, slope, -2 * a * slope * s_dot))
        W, b = layers[-1]
        value, rate = a @ W.T + b, da @ W.T
        if not jacobian:
            return Outputs(value, rate, None, None)
        return Outputs(value, rate, *self._weight_jacobians(layers, cache, a, da))

    def _weight_jacobians(
        self, layers: list[tuple[Array, Array]], cache: list[tuple[Array, ...]], a: Array, da: Array
    ) -> tuple[Array, Array]:
        """One sweep back per output carries the value (``d``) and its rate (``e``)."""
        points, outputs = len(a), self.sizes[-1]
        by_value, by_rate = (np.zeros((points, outputs, self.count)) for _ in range(2))
        last, _ = layers[-1]
        begins = np.cumsum([0, *(o * i + o for o, i in self.shapes)])
        for q in range(outputs):
            at, width = begins[-2], last.shape[1]
            by_value[:, q, at + q * width : at + (q + 1) * width] = a
            by_rate[:, q, at + q * width : at + (q + 1) * width] = da
            by_value[:, q, at + last.size + q] = 1.0
            d, e = np.broadcast_to(last[q], a.shape), np.zeros_like(a)
            for k in range(len(layers) - 2, -1, -1):
                below, below_dot, slope, bend = cache[k]
                d, e = d * slope, e * slope + d * bend
                (W, _), at = layers[k], begins[k]
                block = slice(at, at + W.size)
                by_value[:, q, block] = (d[:, :, None] * below[:, None]).reshape(points, -1)
                by_rate[:, q, block] = (
                    e[:, :, None] * below[:, None] + d[:, :, None] * below_dot[:, None]
                ).reshape(points, -1)
                by_value[:, q, at + W.size : at + W.size + len(W)] = d
                by_rate[:, q, at + W.size : at + W.size + len(W)] = e
                d, e = d @ W, e @ W
        return by_value, by_rate


@dataclass(frozen=True)
class StateValues:
    """States ``y`` and ``dy/dt`` ``(n,)`` at one time, and both by the network's weights ``(n, w)``
    (None if not asked for).
    """

    y: Array
    rate: Array
    y_jacobian: Array | None
    rate_jacobian: Array | None


@dataclass(frozen=True)
class StateNetwork:
    """``y(t) = y_0 + g(t) size N(x, t)``; ``g`` is zero at the start.

    The network sees time twice, as it runs and as ``g = log(1 + (t - start)/first) / log(1 +
    span/first)``, because rates of a system may lie decades apart; and where states lie on a line,
    their place and what was there at the start.

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
