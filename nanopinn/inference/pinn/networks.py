"""States of a system of equations as a tanh network of time and position, with exact derivatives.

A second-order optimiser needs the whole Jacobian of the outputs and of their time derivatives with
respect to the weights. For networks of this size, backpropagation written out by hand is several
times faster than general automatic differentiation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.ode_problem import SystemProblem

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outputs:
    """Outputs of a perceptron at ``p`` points with ``q`` outputs and ``w`` weights.

    Attributes:
        value: outputs, ``(p, q)``.
        rate: their time derivatives, ``(p, q)``.
        value_jacobian: derivative of the outputs with respect to the weights, ``(p, q, w)``, or
            None.
        rate_jacobian: the same of the time derivatives, or None.
    """

    value: Array
    rate: Array
    value_jacobian: Array | None
    rate_jacobian: Array | None


@dataclass(frozen=True)
class Perceptron:
    """Multilayer perceptron ``N(z) = W_L tanh(... tanh(W_1 z + b_1) ...) + b_L`` whose weights and
    biases are one vector.

    Attributes:
        sizes: number of inputs, of units in each hidden layer, and of outputs.
    """

    sizes: tuple[int, ...]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shape of the weight matrix of every layer, outputs by inputs."""
        return list(zip(self.sizes[1:], self.sizes[:-1], strict=True))

    @property
    def count(self) -> int:
        """Number of weights and biases."""
        return sum(o * i + o for o, i in self.shapes)

    def draw_weights(self, rng: np.random.Generator, weight_scale: float) -> Array:
        """Draw initial weights. The transition regions of the first layer's units are distributed
        over inputs in -1..1, and the last layer is zero.

        Args:
            rng: generator of random numbers.
            weight_scale: standard deviation of the first layer's weights times sqrt(inputs), and
                largest size of its biases.

        Returns:
            Weight vector, ``(w,)``.
        """
        parts = []
        for k, (o, i) in enumerate(self.shapes):
            last, first = k == len(self.shapes) - 1, k == 0
            scale = 0.0 if last else weight_scale / np.sqrt(i) if first else 1.0 / np.sqrt(i)
            bias_scale = 0.0 if last else weight_scale if first else 0.3
            parts += [scale * rng.standard_normal(o * i), bias_scale * rng.uniform(-1, 1, o)]
        return np.concatenate(parts)

    def layers(self, weights: Array) -> list[tuple[Array, Array]]:
        """Weight matrix and bias of every layer, as views of the weight vector.

        Args:
            weights: weight vector, ``(w,)``.
        """
        out, at = [], 0
        for o, i in self.shapes:
            out.append(
                (weights[at : at + o * i].reshape(o, i), weights[at + o * i : at + o * i + o])
            )
            at += o * i + o
        return out

    def __call__(self, weights: Array, z: Array, dz: Array, *, jacobian: bool) -> Outputs:
        """Evaluate the network and the time derivative of its outputs.

        Args:
            weights: weight vector, ``(w,)``.
            z: inputs, ``(p, i)``.
            dz: time derivatives of the inputs, ``(p, i)``.
            jacobian: whether to compute the derivatives with respect to the weights.

        Returns:
            Outputs at every point.
        """
        layers = self.layers(weights)
        cache: list[tuple[Array, ...]] = []
        a, da = z, dz
        for W, b in layers[:-1]:
            s_dot = da @ W.T
            layer_input = (a, da)
            a = np.tanh(a @ W.T + b)
            slope = 1 - a**2
            da = slope * s_dot
            cache.append((*layer_input, slope, -2 * a * slope * s_dot))
        W, b = layers[-1]
        value, rate = a @ W.T + b, da @ W.T
        if not jacobian:
            return Outputs(value, rate, None, None)
        return Outputs(value, rate, *self._weight_jacobians(layers, cache, a, da))

    def _weight_jacobians(
        self, layers: list[tuple[Array, Array]], cache: list[tuple[Array, ...]], a: Array, da: Array
    ) -> tuple[Array, Array]:
        """Backpropagation per output; ``d`` carries the value and ``e`` the time derivative."""
        points, outputs = len(a), self.sizes[-1]
        by_value, by_rate = (np.zeros((points, outputs, self.count)) for _ in range(2))
        last, _ = layers[-1]
        offsets = np.cumsum([0, *(o * i + o for o, i in self.shapes)])
        for q in range(outputs):
            at, width = offsets[-2], last.shape[1]
            by_value[:, q, at + q * width : at + (q + 1) * width] = a
            by_rate[:, q, at + q * width : at + (q + 1) * width] = da
            by_value[:, q, at + last.size + q] = 1.0
            d, e = np.broadcast_to(last[q], a.shape), np.zeros_like(a)
            for k in range(len(layers) - 2, -1, -1):
                inputs, input_rates, slope, slope_rate = cache[k]
                d, e = d * slope, e * slope + d * slope_rate
                (W, _), at = layers[k], offsets[k]
                block = slice(at, at + W.size)
                by_value[:, q, block] = (d[:, :, None] * inputs[:, None]).reshape(points, -1)
                by_rate[:, q, block] = (
                    e[:, :, None] * inputs[:, None] + d[:, :, None] * input_rates[:, None]
                ).reshape(points, -1)
                by_value[:, q, at + W.size : at + W.size + len(W)] = d
                by_rate[:, q, at + W.size : at + W.size + len(W)] = e
                d, e = d @ W, e @ W
        return by_value, by_rate


@dataclass(frozen=True)
class StateValues:
    """States of a system at one time.

    Attributes:
        y: states, ``(n,)``.
        rate: their time derivatives, ``(n,)``.
        y_jacobian: derivative of the states with respect to the network's weights, ``(n, w)``, or
            None.
        rate_jacobian: the same of the time derivatives, or None.
    """

    y: Array
    rate: Array
    y_jacobian: Array | None
    rate_jacobian: Array | None


@dataclass(frozen=True)
class StateNetwork:
    """States ``y(t) = y_0 + g(t) size N(x, t)`` that satisfy the initial condition exactly, because
    ``g`` is zero at the start.

    The network has two inputs of time, linear time and
    ``g = log(1 + (t - start)/first) / log(1 + span/first)``, because the rates of a system may lie
    decades apart. For states on a line, the position and the initial state are further inputs.

    Attributes:
        perceptron: the network N.
        start: start of time, s.
        first: time from the start to the first observation, s.
        span: time from the start to the last observation, s.
        static_inputs: inputs that do not change with time, ``(cells, k)``, each scaled to -1..1.
        size: typical size of every state, ``(n,)``.
    """

    perceptron: Perceptron
    start: float
    first: float
    span: float
    static_inputs: Array
    size: Array

    @classmethod
    def from_problem(cls, problem: SystemProblem, hidden: tuple[int, ...]) -> StateNetwork:
        """Build a network for the states of a problem.

        Args:
            problem: system, its observations and its initial state.
            hidden: number of units in each hidden layer.

        Returns:
            The network, without weights.
        """
        sizes, fields = problem.sizes, problem.fields
        cells = len(sizes) // fields
        later = problem.times[problem.times > problem.start] - problem.start
        static_inputs = np.zeros((cells, 0))
        if problem.positions is not None:
            initial = problem.start_values(problem.tensor(problem.unknowns.prior_mean))[0].reshape(
                cells, fields
            )
            static_inputs = np.concatenate(
                [
                    _scale_to_unit_interval(problem.positions[:, None]),
                    np.unique(_scale_to_unit_interval(initial), axis=1),
                ],
                axis=1,
            )
        perceptron = Perceptron((2 + static_inputs.shape[1], *hidden, fields))
        return cls(
            perceptron, problem.start, float(later[0]), float(later[-1]), static_inputs, sizes
        )

    def times(self, count: int) -> Array:
        """Times that are equally spaced in ``g``, including the start and the end.

        Args:
            count: number of times.

        Returns:
            Times, ``(count,)``, s.
        """
        return self.start + self.first * np.expm1(
            np.linspace(0.0, np.log1p(self.span / self.first), count)
        )

    def values_at(self, weights: Array, y0: Array, t: float, *, jacobian: bool) -> StateValues:
        """States and their rates at one time.

        Args:
            weights: weight vector, ``(w,)``.
            y0: initial state, ``(n,)``.
            t: time, s.
            jacobian: whether to compute the derivatives with respect to the weights.

        Returns:
            States, rates and their derivatives.
        """
        z, dz, g, dg = self._inputs(t)
        out = self.perceptron(weights, z, dz, jacobian=jacobian)
        y, rate = (
            y0 + self.size * g * out.value.ravel(),
            self.size * (dg * out.value + g * out.rate).ravel(),
        )
        if out.value_jacobian is None or out.rate_jacobian is None:
            return StateValues(y, rate, None, None)
        d_value, d_rate = (v.reshape(len(y), -1) for v in (out.value_jacobian, out.rate_jacobian))
        size = self.size[:, None]
        return StateValues(y, rate, size * g * d_value, size * (dg * d_value + g * d_rate))

    def _inputs(self, t: float) -> tuple[Array, Array, float, float]:
        """Inputs of the network, their time derivatives, ``g`` and ``dg/dt`` at a time."""
        elapsed, scale = t - self.start, np.log1p(self.span / self.first)
        g, dg = (
            float(np.log1p(elapsed / self.first) / scale),
            float(1 / ((self.first + elapsed) * scale)),
        )
        cells = len(self.static_inputs)
        z = np.concatenate(
            [self.static_inputs, np.tile([2 * elapsed / self.span - 1, 2 * g - 1], (cells, 1))],
            axis=1,
        )
        dz = np.concatenate(
            [0 * self.static_inputs, np.tile([2 / self.span, 2 * dg], (cells, 1))], axis=1
        )
        return z, dz, g, dg


def _scale_to_unit_interval(values: Array) -> Array:
    """Columns ``(cells, k)`` scaled to -1..1; columns that do not vary are left out."""
    low, high = values.min(axis=0), values.max(axis=0)
    varies = high > low
    return np.asarray(2 * (values[:, varies] - low[varies]) / (high - low)[varies] - 1)
