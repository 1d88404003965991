"""Convolution of a piecewise-linear curve with a decaying exponential, exact on any time grid.

y(k, t) = integral_0^t c(s) exp(-k (t - s)) ds
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Below this k h the closed forms of the step weights lose digits and their series are used.
_SMALL = 0.3


def convolve_exponential(
    curve_times: Tensor, curve_values: Tensor, rate: Tensor, at_times: Tensor
) -> Tensor:
    """Exact ``y`` for every rate and time; the curve is zero before its first time and holds its
    last value.

    Args:
        curve_times: ``(n,)`` s, increasing.
        curve_values: ``(n,)``.
        rate: ``(...)`` 1/s, not negative.
        at_times: ``(m,)`` s, in any order.

    Returns:
        ``(..., m)``, unit of the curve times s.
    """
    return _integrate_over_segments(curve_times, curve_values, rate, at_times, slope=False)[0]


def convolve_exponential_with_derivative(
    curve_times: Tensor, curve_values: Tensor, rate: Tensor, at_times: Tensor
) -> tuple[Tensor, Tensor]:
    """``y`` and ``dy/dk``, both ``(..., m)``; arguments as in :func:`convolve_exponential`."""
    y, dy = _integrate_over_segments(curve_times, curve_values, rate, at_times, slope=True)
    assert dy is not None
    return y, dy


def _integrate_over_segments(
    t: Tensor, c: Tensor, rate: Tensor, at: Tensor, *, slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Exact steps from node to node of the curve, and from a node to every time after it."""
    t, c, at = t.to(torch.float64), c.to(torch.float64), at.to(t.device, torch.float64)
    k = rate.to(torch.float64)
    step = _ExponentialStep(k, slope)
    before = (torch.searchsorted(t, at, right=True) - 1).tolist()
    asked = {i: [j for j, b in enumerate(before) if b == i] for i in set(before)}
    times, values, ends = t.tolist(), c.tolist(), at.tolist()
    zero = torch.zeros_like(k)
    state, out = (zero, zero), [(zero, zero)] * len(ends)
    for i in range(max(before) + 1):
        if i > 0:
            state = step(state, times[i] - times[i - 1], values[i - 1], values[i])
        for j in asked.get(i, ()):
            h = ends[j] - times[i]
            out[j] = (
                step(state, h, values[i], _interpolate_curve(h, i, times, values))
                if h > 0
                else state
            )
    slopes = torch.stack([dy for _, dy in out], dim=-1) if slope else None
    return torch.stack([y for y, _ in out], dim=-1), slopes


def _interpolate_curve(h: float, i: int, times: list[float], values: list[float]) -> float:
    """The curve a time ``h`` after node ``i``."""
    if i + 1 == len(times):
        return values[i]
    return values[i] + h / (times[i + 1] - times[i]) * (values[i + 1] - values[i])


class _ExponentialStep:
    """One exact step of ``y`` and ``dy/dk`` over a linear segment of the curve.

    Over a length h with x = k h, u in 0..1: ``p0 = int e^{-x(1-u)} du`` and ``p1 = int u
    e^{-x(1-u)} du`` weigh the ends of the piece; ``q0, q1`` are minus their derivatives by x.
    Weights are cached by step length, because the grids of curves are piecewise uniform.
    """

    def __init__(self, k: Tensor, slope: bool, max_cached: int = 16) -> None:
        self.k, self.slope, self.max_cached = k, slope, max_cached
        self.weights: dict[float, tuple[Tensor, ...]] = {}

    def __call__(
        self, state: tuple[Tensor, Tensor], h: Any, c0: Any, c1: Any, *, reuse: bool = True
    ) -> tuple[Tensor, Tensor]:
        """``y`` and ``dy/dk`` after a step of length ``h`` from curve value ``c0`` to ``c1``, which
        are numbers, or tensors without ``reuse``.
        """
        y, dy = state
        decay, w0, w1, d0, d1 = self._cached(round(h, 12)) if reuse else self._weights(h)
        if self.slope:
            dy = decay * (dy - h * y) + d0 * c0 + d1 * c1
        return decay * y + w0 * c0 + w1 * c1, dy

    def _cached(self, h: float) -> tuple[Tensor, ...]:
        if h not in self.weights:
            if len(self.weights) == self.max_cached:
                self.weights.clear()
            self.weights[h] = self._weights(h)
        return self.weights[h]

    def _weights(self, h: Any) -> tuple[Tensor, ...]:
        x = self.k * h
        p0, p1 = _weight(x, _p0, lambda n: n + 1), _weight(x, _p1, lambda n: (n + 1) * (n + 2))
        if not self.slope:
            return torch.exp(-x), h * (p0 - p1), h * p1, x, x
        q0, q1 = _weight(x, _q0, lambda n: n + 2), _weight(x, _q1, lambda n: (n + 2) * (n + 3))
        return torch.exp(-x), h * (p0 - p1), h * p1, -h * h * (q0 - q1), -h * h * q1


def _weight(x: Tensor, closed: Callable[[Tensor], Tensor], divisor: Callable[[int], int]) -> Tensor:
    """The closed form, or for small x its series ``sum_n (-x)^n / (n! divisor(n))``."""
    small = x < _SMALL
    # the unused branch must stay finite, or its derivative would be NaN
    exact = closed(torch.where(small, torch.ones_like(x), x))
    z, series = torch.where(small, x, torch.zeros_like(x)), torch.zeros_like(x)
    for n in reversed(range(11)):
        series = series * -z + 1 / (math.factorial(n) * divisor(n))
    return torch.where(small, series, exact)


def _p0(x: Tensor) -> Tensor:
    return -torch.expm1(-x) / x


def _p1(x: Tensor) -> Tensor:
    return (x + torch.expm1(-x)) / x**2


def _q0(x: Tensor) -> Tensor:
    return (1 - torch.exp(-x) * (1 + x)) / x**2


def _q1(x: Tensor) -> Tensor:
    return (x - 2 + torch.exp(-x) * (x + 2)) / x**3


class ExponentialTable:
    """``y`` and ``dy/dk`` at fixed times for any rate, by Hermite interpolation in log k.

    One exact integration fills the table; a batch of voxels then costs two look-ups per time point.
    Its error is below 1e-8 of the curve, which a test verifies.

    Attributes:
        lowest: least rate, 1/s, below which there is no washout within a scan; lower rates are
            clipped to it.
        highest: largest rate of the models within their bounds, 1/s; higher rates are clipped.
        nodes: number of rates.
    """

    lowest, highest, nodes = 1e-9, 200.0, 990

    def __init__(
        self, convolve_rates: Callable[[Tensor], tuple[Tensor, Tensor]], device: torch.device
    ) -> None:
        self.log = torch.linspace(
            math.log(self.lowest),
            math.log(self.highest),
            self.nodes,
            dtype=torch.float64,
            device=device,
        )
        k = torch.exp(self.log)
        y, dy = convolve_rates(k)
        self.step = float(self.log[1] - self.log[0])
        self.y, self.slope = y, dy * k[:, None] * self.step  # slope per node of the log grid

    @classmethod
    def from_curve(
        cls, curve_times: Tensor, curve_values: Tensor, at_times: Tensor
    ) -> ExponentialTable:
        """The table of a curve at the times ``(m,)``."""
        return cls(
            lambda k: convolve_exponential_with_derivative(curve_times, curve_values, k, at_times),
            curve_times.device,
        )

    def __call__(self, rate: Tensor) -> tuple[Tensor, Tensor]:
        """``y`` and ``dy/dk`` for rates ``(n,)``: ``(n, m)`` each."""
        k = rate.clamp(self.lowest, self.highest)
        i, u = self.locate_rate(k)
        u = u[:, None]
        return self.interpolate_hermite(
            u, k[:, None], self.y[i], self.y[i + 1], self.slope[i], self.slope[i + 1]
        )

    def locate_rate(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Node before each rate, and the fraction of the interval past it."""
        position = (torch.log(k) - self.log[0]) / self.step
        i = position.floor().long().clamp(0, self.nodes - 2)
        return i, position - i

    def interpolate_hermite(
        self, u: Tensor, k: Tensor, y0: Tensor, y1: Tensor, s0: Tensor, s1: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hermite interpolation of ``y`` and its derivative by k."""
        rise = y1 - y0
        b, c = 3 * rise - 2 * s0 - s1, s0 + s1 - 2 * rise
        return y0 + u * (s0 + u * (b + u * c)), (s0 + u * (2 * b + 3 * u * c)) / (self.step * k)


class DelayTable:
    """``y`` and ``dy/dk`` of every voxel at its own times: a table at the nodes of the curve, then
    one exact step.
    """

    def __init__(self, curve_times: Tensor, curve_values: Tensor) -> None:
        self.times, self.values = curve_times, curve_values
        self.table = ExponentialTable.from_curve(curve_times, curve_values, curve_times)
        self.steep = torch.cat(
            [curve_values.diff() / curve_times.diff(), curve_values.new_zeros(1)]
        )

    def table_at(self, times: Tensor) -> ExponentialTable:
        """The table at times ``(t,)`` that all voxels share, without another integration."""

        def convolve_rates(k: Tensor) -> tuple[Tensor, Tensor]:
            y, dy = self(k[:, None], times[None])
            return y[:, 0], dy[:, 0]

        return ExponentialTable(convolve_rates, self.times.device)

    def __call__(self, rates: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """``(n, m, t)`` each, for rates ``(n, m)`` and times ``(n or 1, t)``; zero before the curve
        begins.
        """
        table = self.table
        k = rates.clamp(table.lowest, table.highest)
        i, u = (a[..., None] for a in table.locate_rate(k))
        j = (torch.searchsorted(self.times, at.contiguous(), right=True) - 1)[:, None]
        begun, j = j >= 0, j.clamp_min(0)
        corners = (table.y[i, j], table.y[i + 1, j], table.slope[i, j], table.slope[i + 1, j])
        y, dy = table.interpolate_hermite(u, k[..., None], *corners)
        h = at[:, None] - self.times[j]
        step = _ExponentialStep(k[..., None], slope=True)
        y, dy = step((y, dy), h, self.values[j], self.values[j] + self.steep[j] * h, reuse=False)
        return torch.where(begun, y, 0.0), torch.where(begun, dy, 0.0)
