"""Linear pools in a reduced basis of Krylov fields, exact in time, for a few elliptic solves.

    capacity dU/dt = inflow c(t) - A U,    c piecewise linear,    U(0) = 0
    U(x, t) = sum_j V_j(x) y_j(t),    dy/dt = -T y + c(t) |V_1> ,    T = (H^-1 - 1)/gamma

V spans the Krylov space of ``(capacity + gamma A)^-1 capacity`` from ``capacity^-1 inflow``
(shift and invert). The response of tissue to a bolus has a temporal rank of about ten.

References:
    van den Eshof and Hochbruck, SIAM J. Sci. Comput. 27:1438 (2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import expm
from torch import Tensor

from nanopinn.solvers.implicit_stage import KrylovStageSolver
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.operator import PoolOperator

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LowRankSolution:
    """``U(x, t) = sum_j fields[j](x) curves[t, j]``.

    Attributes:
        fields: ``(rank, pool, x, y, z)``, orthonormal.
        curves: ``(t, rank)``.
        change: relative change by the last two fields; the error is smaller.
        iterations: Krylov iterations of all solves.
    """

    fields: Tensor
    curves: Tensor
    change: float
    iterations: int

    def evaluate(self) -> Tensor:
        """The pools ``(t, pool, x, y, z)``."""
        return torch.tensordot(self.curves, self.fields, dims=1)


def low_rank_response(
    operator: PoolOperator,
    capacity: Tensor,
    curve_times: Array,
    curve: Array,
    at_times: Array,
    *,
    tolerance: float = 1e-5,
    max_rank: int = 40,
) -> LowRankSolution:
    """Response of linear pools to one plasma curve.

    Args:
        operator: with one input.
        capacity: ``(pool, x, y, z)``.
        curve_times: nodes of the plasma curve, increasing, s.
        curve: its values; zero before the first node, its last value after the last.
        at_times: at which the pools are computed, increasing, s.
        tolerance: change by the last two fields, over the largest pools.
        max_rank: largest number of fields.

    Raises:
        SolverError: the tolerance was not reached with ``max_rank`` fields.
    """
    gamma = float(at_times[-1] - curve_times[0]) / 12
    stage = KrylovStageSolver(operator, capacity, gamma)
    start = operator.plasma_source(capacity.new_ones(1)) / capacity
    size = float(start.norm())
    fields, H, iterations = [start / size], np.zeros((max_rank + 1, max_rank)), 0
    before, change = np.zeros((len(at_times), 0)), float("inf")
    for m in range(1, max_rank + 1):
        image, used = stage.solve(capacity * fields[-1], fields[-1], tol=1e-2 * tolerance)
        iterations += used
        for _ in range(2):  # the second pass removes rounding errors
            for i, v in enumerate(fields):
                along = float((v * image).sum())
                H[i, m - 1] += along
                image = image - along * v
        H[m, m - 1] = float(image.norm())
        closed = H[m, m - 1] < 1e-10 * abs(
            H[m - 1, m - 1]
        )  # the space is invariant, and the solution lies in it
        if m % 2 == 0 or closed:
            T = (np.linalg.inv(H[:m, :m]) - np.eye(m)) / gamma
            now = size * _curves(T, curve_times, curve, at_times)
            change = float(
                np.abs(now - np.pad(before, ((0, 0), (0, m - before.shape[1])))).max()
                / np.abs(now).max()
            )
            if change < tolerance or closed:
                return LowRankSolution(
                    torch.stack(fields),
                    torch.as_tensor(now).to(capacity),
                    0.0 if closed else change,
                    iterations,
                )
            before = now
        fields.append(image / H[m, m - 1])
    raise SolverError(
        f"{max_rank} fields leave a change of {change:.1e}; use time integration instead"
    )


def _curves(T: Array, times: Array, curve: Array, at: Array) -> Array:
    """The exact solution of ``dy/dt = -T y + e1 c(t)`` at times, ``(t, rank)``."""
    n = len(T)
    nodes = np.unique(np.concatenate([times, at[at > times[0]]]))
    c = np.interp(nodes, times, curve)
    steps: dict[float, tuple[Array, Array, Array]] = {}
    y, out = np.zeros(n), {float(nodes[0]): np.zeros(n)}
    for a, b, c0, c1 in zip(nodes[:-1], nodes[1:], c[:-1], c[1:], strict=True):
        h = round(float(b - a), 9)
        if h not in steps:
            # exp of the augmented matrix holds the integrals of the exponential against 1 and
            # against time
            big = np.zeros((n + 2, n + 2))
            big[:n, :n], big[0, n], big[n, n + 1] = -h * T, h, 1.0
            e = expm(big)
            steps[h] = (e[:n, :n], e[:n, n], e[:n, n + 1])
        decay, held, rising = steps[h]
        y = decay @ y + held * c0 + rising * (c1 - c0)
        out[float(b)] = y
    return np.stack([out.get(float(t), np.zeros(n)) for t in at])
