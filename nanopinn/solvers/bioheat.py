"""Pennes' bioheat equation on the grid of the maps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.physics.heat import TemperatureCourse, TemperatureSegment, bioheat_coefficients
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.march import integrate_fixed_steps
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.runge_kutta import TR_BDF2, Scheme


def solve_bioheat(
    tumour: Tensor,
    grid: Grid,
    power: Callable[[float], Tensor],
    times_s: Sequence[float],
    scheme: Scheme = TR_BDF2,
) -> TemperatureCourse:
    """Temperature under a heating power, from the body's at ``times_s[0]`` on; no heat crosses the
    box's boundary.

    Args:
        tumour: 1 in the tumour, 0 in normal tissue, ``(x, y, z)``.
        grid: of the maps.
        power: Q at a time, W/m3, ``(x, y, z)``.
        times_s: nodes of the march; the course is linear between them.
    """
    pool = bioheat_coefficients(tumour)
    operator = PoolOperator.of(pool, _zero_face_flows(tumour), grid)
    run = integrate_fixed_steps(
        operator,
        pool.capacity,
        lambda t: (operator.plasma_source(power(t)[None]), None),
        list(times_s),
        scheme=scheme,
    )
    maps = value("T_body") + run.U[:, 0]
    pairs = itertools.pairwise(zip(times_s, maps, strict=True))
    return TemperatureCourse(
        torch.full_like(tumour, value("T_body")),
        tuple(TemperatureSegment(t0, t1, a, b) for (t0, a), (t1, b) in pairs),
    )


def _zero_face_flows(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Face flows of a fluid at rest: perfusion carries heat in Pennes' equation, interstitial fluid
    does not.
    """
    nx, ny, nz = like.shape
    return (
        like.new_zeros((nx + 1, ny, nz)),
        like.new_zeros((nx, ny + 1, nz)),
        like.new_zeros((nx, ny, nz + 1)),
    )
