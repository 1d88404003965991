"""Advection schemes: bounds and order of accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanopinn.physics.pools import PoolAssembler
from nanopinn.solvers.fluxes import Advection
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval

SPEED, LENGTH, END = 1e-6, 1e-2, 2e3


def carried(
    shape_of: str, cells: int, advection: Advection, step: float = 1e-4
) -> tuple[torch.Tensor, torch.Tensor]:
    """A profile taken 2 mm along a 10 mm line by a steady flow, and where it should be."""
    grid = Grid((cells, 2, 2), (LENGTH / cells, 1e-3, 1e-3))
    x = (torch.arange(cells, dtype=torch.float64) + 0.5) * LENGTH / cells
    one = torch.ones(grid.shape, dtype=torch.float64)
    pools = PoolAssembler(("one",), one)
    pools.add_transport("one", 1.0, 0 * one)
    flows = tuple(
        torch.zeros(s, dtype=torch.float64)
        for s in ((cells + 1, 2, 2), (cells, 3, 2), (cells, 2, 3))
    )
    flows[0].fill_(SPEED * grid.face_area(0))

    def profile(at: torch.Tensor) -> torch.Tensor:
        if shape_of == "step":
            return (at < 4e-3).double() * (at > 2e-3)
        return torch.exp(-(((at - 3.5e-3) / 6e-4) ** 2))

    interval = Interval.from_pools(
        0.0,
        END,
        pools.coefficients(),
        flows,
        grid,
        lambda t: torch.zeros(1, dtype=torch.float64),
        advection,
    )
    tolerance = Tolerance(step=step, residual=1e-10, max_step=1.0 * float(LENGTH / cells / SPEED))
    start = profile(x)[None, :, None, None].expand(1, *grid.shape)
    return integrate_adaptive([interval], start, [END], tolerance=tolerance).U[
        -1, 0, :, 0, 0
    ], profile(x - SPEED * END)


@pytest.mark.parametrize("advection", ["fitted", "upwind", "limited"])
def test_a_bounded_scheme_makes_no_new_extremum_and_stays_positive(advection: Advection) -> None:
    found, _ = carried("step", 100, advection)
    assert float(found.min()) > -1e-4  # the error of a time step
    assert float(found.max()) < 1 + 1e-4


def test_the_central_scheme_overshoots() -> None:
    """The claim above can fail."""
    found, _ = carried("step", 100, "central")
    assert float(found.min()) < -0.05


def test_the_limited_scheme_has_second_order_where_upwind_has_first() -> None:
    order = {}
    for advection in ("limited", "upwind"):
        errors = []
        for cells in (100, 200, 400):
            found, exact = carried("bump", cells, advection, step=2e-6)
            errors.append(float((found - exact).abs().mean()))
        order[advection] = np.log2(errors[1] / errors[2])
    assert order["limited"] > 1.8
    assert 0.7 < order["upwind"] < 1.1
