"""A tanh network for states over time and place, with its derivative by time and both by every weight, exact.

Second-order steps need the whole Jacobian. For a network this small a page of backpropagation by hand is several times faster
than any general tool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outputs:
    """At points ``p`` for outputs ``q``: values and their time derivatives ``(p, q)``; both by all weights ``(p, q, w)``."""

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
        """Weights to start from: the first layer's turns spread over inputs in -1..1, the last layer silent."""
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
