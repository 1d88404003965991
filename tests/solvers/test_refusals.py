"""Invalid input of the solvers is refused by the name of the field."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nanopinn.errors import InputError, NanopinnError
from nanopinn.physics.pools import PoolAssembler, PoolCoefficients
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.verification.case import small_tissue
from tests.variants import for_each

GRID = Grid((3, 3, 3), (1e-3, 1e-3, 1e-3))
ONE = torch.ones(GRID.shape, dtype=torch.float64)
STILL = tuple(torch.zeros(s, dtype=torch.float64) for s in ((4, 3, 3), (3, 4, 3), (3, 3, 4)))


def pools(loss: float = 1e-4) -> PoolCoefficients:
    system = PoolAssembler(("drug",), ONE)
    system.add_transport("drug", 1.0, 1e-10 * ONE)
    system.add_loss("drug", loss)
    system.add_plasma_source("drug", 0, ONE)
    return system.coefficients()


@for_each(
    "field, bad",
    [
        ("capacity", 0.0),
        ("capacity", float("nan")),
        ("diffusion", -1e-10),
        ("reaction", float("nan")),
        ("inflow", float("inf")),
    ],
)
def test_an_invalid_coefficient_is_named_with_its_pool(field: str, bad: float) -> None:
    values = (
        {"drug": getattr(pools(), field)}
        if field in ("capacity", "diffusion")
        else getattr(pools(), field)
    )
    spoilt = {at: v.clone() for at, v in values.items()}
    for v in spoilt.values():
        v.view(-1)[4 % v.numel()] = bad
    changed = spoilt.get("drug", spoilt)
    with pytest.raises(InputError, match=f"drug: {field}"):
        Interval.from_pools(
            0.0,
            1.0,
            replace(pools(), **{field: changed}),
            STILL,
            GRID,
            lambda t: torch.zeros(1, dtype=torch.float64),
        )


@pytest.mark.parametrize(("field", "bad"), [("q", -1e-4), ("l", 0.0), ("p_e", float("nan"))])
def test_an_invalid_flow_coefficient_is_named(field: str, bad: float) -> None:
    setting, _, _ = small_tissue()
    with pytest.raises(InputError, match="flow"):
        ForwardModel(setting, lambda _: {field: torch.tensor(bad, dtype=torch.float64)}).solve_flow(
            torch.zeros(0, dtype=torch.float64)
        )


def test_a_grid_of_one_voxel_is_refused() -> None:
    with pytest.raises(InputError, match="too few cells"):
        Grid((1, 1, 1), (1e-3, 1e-3, 1e-3))


def test_a_tumour_at_the_boundary_of_the_box_is_refused() -> None:
    setting, _, _ = small_tissue()
    with pytest.raises(InputError, match="tumour mask"):
        TissueSetting(
            replace(setting.maps, tumour=torch.ones_like(setting.maps.tumour)), setting.grid
        )


def test_a_plasma_curve_that_is_not_finite_is_an_error_that_names_the_time() -> None:
    interval = Interval.from_pools(
        0.0,
        100.0,
        pools(),
        STILL,
        GRID,
        lambda t: torch.tensor([float("nan") if t > 10 else 1.0], dtype=torch.float64),
    )
    with pytest.raises(SolverError, match="not finite at"):
        integrate_adaptive([interval], 0 * ONE[None], [100.0])


def test_step_size_underflow_names_the_pool() -> None:
    """A plasma curve with a pole inside the interval cannot be followed by any step."""
    curve = lambda t: torch.tensor([abs(50.0 - t) ** -2.0], dtype=torch.float64)  # noqa: E731
    interval = Interval.from_pools(0.0, 100.0, pools(), STILL, GRID, curve)
    with pytest.raises(NanopinnError, match=r"drug|not finite"):
        integrate_adaptive([interval], 0 * ONE[None], [100.0], tolerance=Tolerance(step=1e-6))
