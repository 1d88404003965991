"""Adaptive integration of pools: events, batches, given steps."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nanopinn.physics.drug_pools import FULL_POOLS, drug_pools
from nanopinn.physics.formulation_library import FREE
from nanopinn.physics.plasma import Dose
from nanopinn.physics.pools import PoolAssembler
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval, PoolOperator
from nanopinn.verification.case import small_tissue

HOUR = 3600.0
GRID = Grid((2, 2, 2), (1e-3, 1e-3, 1e-3))
STILL = tuple(torch.zeros(s, dtype=torch.float64) for s in ((3, 2, 2), (2, 3, 2), (2, 2, 3)))


def drug(release: float, q: float = 6e-4) -> Interval:
    setting, _, _ = small_tissue()
    none = torch.zeros(0, dtype=torch.float64)
    forward = ForwardModel(setting, lambda _: {"q": torch.tensor(q, dtype=torch.float64)})
    flow = forward.solve_flow(none)
    pools = drug_pools(forward.model(none), flow.J_v, flow.J_L, FULL_POOLS, release + 0 * flow.J_v)
    return Interval.from_pools(
        0.0,
        6 * HOUR,
        pools,
        flow.flows,
        setting.grid,
        lambda t: torch.tensor([2e-2, 3e-4], dtype=torch.float64),
    )


def test_a_batch_of_parameter_sets_equals_each_alone() -> None:
    sets = [(1e-4, 6e-4), (1e-3, 6e-4), (1e-4, 2e-4)]
    alone = [drug(*s) for s in sets]
    together = replace(
        alone[0],
        capacity=torch.stack([i.capacity for i in alone]),
        operator=PoolOperator.stack([i.operator for i in alone]),
    )
    exact = Tolerance(residual=1e-12)
    batch = integrate_adaptive(
        [together], torch.zeros_like(together.capacity), [6 * HOUR], tolerance=exact
    )
    nodes = [s.end for s in batch.steps]
    for i, interval in enumerate(alone):
        one = integrate_adaptive(
            [interval],
            torch.zeros_like(interval.capacity),
            [6 * HOUR],
            nodes=nodes,
            tolerance=exact,
        )
        torch.testing.assert_close(batch.U[-1, i], one.U[-1], rtol=1e-7, atol=1e-13)
    assert float((batch.U[-1, 0] - batch.U[-1, 1]).abs().max()) > 1e-4


def test_steps_land_on_doses_within_a_run() -> None:
    """Two boluses into one closed compartment that loses drug: the sum of two exponentials, none of
    it smeared.
    """
    one = torch.ones(GRID.shape, dtype=torch.float64)
    system = PoolAssembler(("one",), one)
    system.add_loss("one", 1e-3)
    system.add_plasma_source("one", 0, 1e-3 * one)
    pools = system.coefficients()
    free = FREE.plasma([Dose(0.0, 9e-5), Dose(1800.0, 9e-5)]).free
    ends = [0.0, 1800.0, HOUR]

    def curve(start: float):  # type: ignore[no-untyped-def]
        smooth = free.smooth_piece_from(start)
        return lambda t: smooth(torch.tensor([t], dtype=torch.float64))

    intervals = [
        Interval.from_pools(a, b, pools, STILL, GRID, curve(a)) for a, b in itertools.pairwise(ends)
    ]
    run = integrate_adaptive(
        intervals, 0 * one[None], [1800.0, HOUR], tolerance=Tolerance(step=1e-6)
    )

    def rate(t: float, u: np.ndarray) -> np.ndarray:
        return 1e-3 * (free(torch.tensor([t], dtype=torch.float64)).numpy() - u)

    exact, at = [], np.zeros(1)
    for a, b in itertools.pairwise(ends):
        at = solve_ivp(rate, (a, b - 1e-9), at, method="LSODA", rtol=1e-10, atol=1e-15).y[:, -1]
        exact.append(float(at[0]))
    assert run.U[:, 0, 0, 0, 0].tolist() == pytest.approx(
        exact, rel=1e-4
    )  # 1e-6 a step, some forty steps
    assert {1800.0, HOUR} <= {s.end for s in run.steps}


def test_the_error_falls_with_the_tolerance() -> None:
    interval = drug(1e-3)
    start = torch.zeros_like(interval.capacity)
    exact = integrate_adaptive([interval], start, [6 * HOUR], tolerance=Tolerance(step=1e-6)).U[-1]
    errors = []
    for step in (1e-2, 1e-3, 1e-4):
        found = integrate_adaptive([interval], start, [6 * HOUR], tolerance=Tolerance(step=step)).U[
            -1
        ]
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2e-4


def test_a_result_prints_its_cost_and_mass_balance() -> None:
    interval = drug(1e-4)
    run = integrate_adaptive([interval], torch.zeros_like(interval.capacity), [HOUR, 6 * HOUR])
    assert "Newton" in str(run)
    assert "mass-balance error" in str(run)
    table = run.balance.table(FULL_POOLS.pools)
    assert all(name in table for name in FULL_POOLS.pools)
