"""Moving between a grid and its refinement."""

from __future__ import annotations

import pytest
import torch

from nanopinn.solvers.grid import average_subcells, repeat_cells, subdivide_with_slopes


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_refined_maps_keep_cell_means_and_make_no_new_extremum(factor: int) -> None:
    values = torch.rand(5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fine = subdivide_with_slopes(values, factor)
    torch.testing.assert_close(average_subcells(fine, factor), values, rtol=1e-13, atol=1e-14)
    assert fine.min() >= values.min()
    assert fine.max() <= values.max()


def test_a_linear_map_stays_linear() -> None:
    x = torch.arange(6, dtype=torch.float64)
    fine = subdivide_with_slopes(x[:, None, None].expand(6, 4, 4), 2)[:, 0, 0]
    torch.testing.assert_close(fine[2:-2], (torch.arange(12, dtype=torch.float64) - 0.5)[2:-2] / 2)


def test_a_step_stays_a_step() -> None:
    step = torch.tensor([0.0, 0, 0, 1, 1, 1], dtype=torch.float64)[:, None, None].expand(6, 2, 2)
    torch.testing.assert_close(subdivide_with_slopes(step, 3), repeat_cells(step, 3))
