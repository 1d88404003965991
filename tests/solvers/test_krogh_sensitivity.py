"""Derivatives of pools around vessels: Taylor remainders of second order, and forward equal to
backward, all on direct solves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from nanopinn.parameters import default_scalars
from nanopinn.physics.drug_pools import FULL_POOLS, drug_pools
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers import implicit_stage as stage
from nanopinn.solvers.derivatives import propagate_tangent, solve_adjoint
from nanopinn.solvers.implicit_stage import BlockTridiagonalStageSolver
from nanopinn.solvers.krogh import krogh_operator
from nanopinn.solvers.krogh_geometry import KroghCylinders
from nanopinn.solvers.nonlinear_pools import EvolutionResult, Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval

HOUR, CLUSTERS = 3600.0, 4
SAVED = [0.3 * HOUR, HOUR, 3 * HOUR]
#: Change of the logarithms of release, permeability to carriers, what a saturable transporter takes
#: up, and diffusion.
DIRECTION = torch.tensor([0.5, -0.7, 0.4, 0.6], dtype=torch.float64)


def plasma(t: float) -> Tensor:
    """Each cluster has its own."""
    share = torch.linspace(0.5, 1.5, CLUSTERS, dtype=torch.float64)
    return torch.stack(
        [2e-2 * np.exp(-t / 5000) * share, 3e-4 * np.exp(-t / 3000) * share.flip(0)]
    )[:, :, None, None]


def coefficients(theta: Tensor, hot: bool) -> tuple[tuple[Tensor, ...], Interval]:
    """All that moves with theta in an interval of uneven clusters, and the interval."""
    g = torch.Generator().manual_seed(4)

    def rough(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((CLUSTERS, 1, 1), generator=g, dtype=torch.float64)

    one = torch.ones(CLUSTERS, 1, 1, dtype=torch.float64)
    maps = TissueMaps(one, rough(5e-4, 3e-3), rough(0.15, 0.4), rough(0.01, 0.05), rough(6.5, 7.2))
    release, carrier, uptake, diffusion = torch.exp(theta)
    model = TumourModel.from_maps(maps, {"PS_l": default_scalars()["PS_l"] * carrier})
    rate = (0.02 if hot else 2e-5) * release * one
    pools = drug_pools(model, 0 * one, 0 * one, FULL_POOLS, rate, 0.1 * rate)
    pools = replace(
        pools,
        diffusion=diffusion * pools.diffusion,
        transfers=tuple(replace(k, uptake=uptake * k.uptake) for k in pools.transfers),
    )
    cylinders = KroghCylinders.from_blood_volume(
        maps.v_p.flatten() / 0.58, 1e-5, 0.3, classes=2, cells=6
    )
    operator, capacity, transfers = krogh_operator(pools, cylinders)
    interval = Interval(
        0.0 if hot else HOUR, HOUR if hot else SAVED[-1], operator, capacity, plasma, transfers
    )
    return (*operator.tensors(), *(k.uptake for k in transfers)), interval


def change(hot: bool) -> Interval:
    """The change of an interval's coefficients along the direction."""
    zero = torch.zeros_like(DIRECTION)
    _, interval = coefficients(zero, hot)
    moved = torch.func.jvp(lambda theta: coefficients(theta, hot)[0], (zero,), (DIRECTION,))[1]
    n = len(interval.operator.tensors())
    transfers = tuple(
        replace(k, uptake=d, efflux=0.0) for k, d in zip(interval.transfers, moved[n:], strict=True)
    )
    return replace(
        interval, operator=interval.operator.with_tensors(moved[:n]), transfers=transfers
    )


def run(e: float, nodes: list[float] | None = None) -> EvolutionResult:
    intervals = [coefficients(e * DIRECTION, hot)[1] for hot in (True, False)]
    exact = Tolerance(step=5e-2, residual=1e-14)
    start = torch.zeros_like(intervals[0].capacity)
    return integrate_adaptive(
        intervals,
        start,
        SAVED,
        tolerance=exact,
        stage_factory=BlockTridiagonalStageSolver,
        keep_stages=nodes is None,
        nodes=nodes,
    )


@pytest.fixture(scope="module")
def case() -> tuple[EvolutionResult, list[Interval], Callable[[float], Tensor], Tensor]:
    """A run, the change of its coefficients, the run some way along it with the same steps, and
    weights of a scalar.
    """
    base = run(0.0)
    taken = [s.end for s in base.steps]
    weights = torch.randn(
        base.U.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    return base, [change(True), change(False)], lambda e: run(e, taken).U, weights


def test_around_vessels_the_tangent_leaves_a_remainder_of_second_order(case) -> None:  # type: ignore[no-untyped-def]
    base, changes, moved, _ = case
    V = propagate_tangent(base, changes)
    assert torch.all(V.abs().amax(dim=(0, 1, 3, 4)) > 1e-3 * V.abs().max())  # every cluster answers
    remainders = [float((moved(e) - base.U - e * V).norm()) for e in (0.1, 0.05, 0.025)]
    rates = np.log2(np.array(remainders[:-1]) / remainders[1:])
    assert rates == pytest.approx([2.0, 2.0], abs=0.1)


def test_around_vessels_adjoint_and_tangent_agree_to_ten_digits(case, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    base, changes, _, weights = case

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a line is solved directly")

    monkeypatch.setattr(stage, "bicgstab", refuse)
    forward = float((weights * propagate_tangent(base, changes)).sum())
    gradients, of_start = solve_adjoint(base, weights)
    assert sum(g.dot(c) for g, c in zip(gradients, changes, strict=True)) == pytest.approx(
        forward, rel=1e-10
    )
    still = [
        replace(
            c, operator=c.operator.with_tensors([0 * t for t in c.operator.tensors()]), transfers=()
        )
        for c in changes
    ]
    begun = torch.randn(
        of_start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    assert float((of_start * begun).sum()) == pytest.approx(
        float((weights * propagate_tangent(base, still, begun)).sum()), rel=1e-10
    )
