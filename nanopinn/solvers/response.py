"""Response of linear pools to many given sources at once: one march, one matrix, many right-hand
sides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nanopinn.solvers.implicit_stage import KrylovStageSolver
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.runge_kutta import TR_BDF2, Scheme


def solve_responses(
    operator: PoolOperator,
    capacity: Tensor,
    source: Callable[[float], Tensor],
    times: Sequence[float],
    keep: Sequence[int],
    *,
    scheme: Scheme = TR_BDF2,
    tol: float = 3e-6,
) -> Tensor:
    """Pools of ``capacity dV/dt = source(t) - A V`` from zero at ``times[0]``, at the nodes kept,
    ``(n, m, pool, x, y, z)``.

    Args:
        operator: A, its own inflow left out. capacity: ``(pool, x, y, z)``.
        source: of each of m responses, ``(m, pool, x, y, z)``. times: nodes, s. keep: indices of
            those wanted.
        tol: relative residual of each solve.
    """
    s = source(times[0])
    V, rate = torch.zeros_like(s), s / capacity
    found = {0: V} if 0 in keep else {}
    stage, w = None, 0.0
    for number, (t, end) in enumerate(itertools.pairwise(times), start=1):
        dt = end - t
        if stage is None or abs(scheme.gamma * dt - w) > 1e-9 * w:
            w = scheme.gamma * dt
            stage = KrylovStageSolver(operator, capacity, w)
        rates = [rate]
        for row, c in zip(scheme.a[1:], scheme.nodes[1:], strict=True):
            known = V + dt * sum(a * k for a, k in zip(row, rates, strict=False))
            U, _ = stage.solve(
                torch.addcmul(w * source(t + c * dt), capacity, known),
                known + w * rates[-1],
                tol=tol,
                overwrite=True,
            )
            rates.append((U - known) / w)
        V, rate = U, rates[-1]
        if number in keep:
            found[number] = V
    return torch.stack([found[i] for i in keep])
