"""Refinement of the rim: against assembly by hand, full refinement, and invariants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.physics.flow import FlowCoefficients
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.grid import Grid, RimGrid, average_subcells, near_edge
from nanopinn.solvers.pressure import (
    pressure_gradient,
    pressure_operator,
    pressure_residual,
    pressure_tangents,
    solve_pressure,
)
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.verification.case import small_tissue

NONE = torch.zeros(0, dtype=torch.float64)
THETA = torch.tensor([np.log(0.4e-3), np.log(700.0)], dtype=torch.float64)


def forward_of(refine: int, rim: float | None, a: float = 1.0) -> ForwardModel:
    """A heterogeneous ball; conductivity and filtration times ``a``, pressures over it."""
    setting, _, _ = small_tissue()

    def scalars(theta: Tensor) -> dict[str, Tensor]:
        length, p_e = torch.exp(THETA if len(theta) == 0 else theta)
        return {"l": length, "p_e": p_e / a}

    return ForwardModel(replace(setting, flow_refine=refine, rim=rim), scalars)


def by_hand(flow: FlowCoefficients, grid: RimGrid) -> np.ndarray:
    """Pressure of the parts from a dense matrix filled face by face, with half a cell's resistance
    on each side of a face.
    """
    number, K, S = (
        grid.cell_index.numpy(),
        flow.K.numpy(),
        (flow.LpSV + flow.LpLSL).numpy() * grid.cell_volume,
    )
    made = (flow.LpSV * flow.p_e + flow.LpLSL * flow.p_L).numpy() * grid.cell_volume
    A, b = np.zeros((grid.cells, grid.cells)), np.zeros(grid.cells)
    for i in np.ndindex(*grid.shape):
        A[number[i], number[i]] += S[i]
        b[number[i]] += made[i]
        for axis in range(3):
            half = grid.spacing[axis] / 2
            for step in (-1, 1):
                j = tuple(k + step * (a == axis) for a, k in enumerate(i))
                mine = half * int(grid.width[i]) / K[i]
                if not 0 <= j[axis] < grid.shape[axis]:
                    A[number[i], number[i]] += grid.face_area(axis) / mine
                elif number[i] != number[j]:
                    G = grid.face_area(axis) / (mine + half * int(grid.width[j]) / K[j])
                    A[number[i], number[i]] += G
                    A[number[i], number[j]] -= G
    return np.linalg.solve(A, b)[number]


@pytest.mark.parametrize("factor", [2, 3])
def test_pressure_equals_that_of_a_matrix_assembled_face_by_face(factor: int) -> None:
    g = torch.Generator().manual_seed(factor)
    tumour = torch.zeros((7, 6, 5), dtype=torch.float64)
    tumour[1:3, 1:3, 1:3] = 1
    grid = RimGrid.from_tumour_edge(tumour, Grid((7, 6, 5), (4e-4, 5e-4, 9e-4)), factor, 0.0)
    assert set(grid.width.unique().tolist()) == {1, factor}

    def rough(size: float) -> Tensor:
        return size * (0.5 + torch.rand(grid.shape, dtype=torch.float64, generator=g))

    K = grid.average_within_cells(rough(3e-14))
    flow = FlowCoefficients(
        K=K, LpSV=rough(4e-7), p_e=rough(1500.0), LpLSL=rough(1e-7), p_L=-100.0, p_inf=0.0
    )
    np.testing.assert_allclose(
        solve_pressure(flow, grid).x.numpy(), by_hand(flow, grid), rtol=1e-10
    )


def test_a_rim_as_deep_as_the_box_is_full_refinement() -> None:
    everywhere, rim = forward_of(2, None).solve_flow(NONE), forward_of(2, 1.0).solve_flow(NONE)
    torch.testing.assert_close(rim.p, everywhere.p, rtol=1e-11, atol=0.0)


@pytest.mark.parametrize(("rim", "share", "cells"), [(0.0, 0.05, 0.4), (0.5e-3, 1e-4, 0.8)])
def test_refining_the_edge_alone_approaches_full_refinement(
    rim: float, share: float, cells: float
) -> None:
    """Filtration in the tumour, l = 0.4 mm, voxels of 0.5 mm: 3 % and 1e-6 of the step from whole
    voxels to cut ones.
    """
    few, coarse, every = forward_of(3, rim), forward_of(1, None), forward_of(3, None)
    inside = coarse.setting.maps.tumour > 0.5
    found, before, after = (f.solve_flow(NONE).J_v[inside] for f in (few, coarse, every))
    assert float((found - after).norm()) < share * float((before - after).norm())
    grid = few.setting.flow_setting.grid
    assert isinstance(grid, RimGrid)
    assert grid.cells < cells * np.prod(grid.shape)


@pytest.mark.parametrize("refine", [2, 3, 4])
def test_the_fluid_balance_of_every_voxel_is_exact(refine: int) -> None:
    forward = forward_of(refine, 0.0)
    flow = forward.solve_flow(NONE)
    leaving = sum(f.diff(dim=axis) for axis, f in enumerate(flow.flows))
    lost = leaving / forward.setting.grid.cell_volume - flow.J_v + flow.J_L
    assert float(lost.abs().max()) < 1e-11 * float(flow.J_v.abs().max())


def test_parts_of_an_unrefined_voxel_have_one_pressure() -> None:
    forward = forward_of(2, 0.0)
    p, maps = forward.solve_flow(NONE).p, forward.setting.maps
    spread = average_subcells(p.square(), 2) - average_subcells(p, 2).square()
    cut = near_edge(maps.tumour, forward.setting.grid, 0.0)
    assert (
        float(spread[~cut].abs().max()) < 1e-12 * float(p.square().max()) < float(spread[cut].max())
    )


def test_flows_do_not_change_when_conductivity_and_pressure_scale_inversely() -> None:
    """(K, Lp, p_e) -> (a K, a Lp, p_e/a), with nothing else that sets a pressure."""
    one, other = (forward_of(2, 0.0, a).solve_flow(NONE) for a in (1.0, 7.0))
    for f, g in zip((one.J_v, *one.flows), (other.J_v, *other.flows), strict=True):
        torch.testing.assert_close(g, f, rtol=1e-9, atol=1e-11 * float(f.abs().max()))


def test_the_pressure_operator_is_the_linear_part_of_the_residual() -> None:
    g = torch.Generator().manual_seed(1)
    for rim in (None, 0.0):
        forward = forward_of(2, rim)
        flow, grid = forward.flow_coefficients(NONE), forward.setting.flow_setting.grid
        p = grid.average_within_cells(
            torch.randn(grid.shape, dtype=torch.float64, generator=g) * 1e3
        )
        expected = pressure_residual(flow, p, grid) - pressure_residual(flow, 0 * p, grid)
        torch.testing.assert_close(
            pressure_operator(flow, grid)(p),
            expected,
            rtol=1e-11,
            atol=1e-13 * float(expected.abs().max()),
        )


def test_pressure_tangents_leave_taylor_remainders_of_second_order() -> None:
    forward = forward_of(2, 0.0)
    step = torch.tensor([0.7, -0.4], dtype=torch.float64)
    base = forward.solve_flow(THETA, tangents=True)
    assert base.dp is not None
    slope = torch.einsum("m,mxyz->xyz", step, base.dp)
    remainders = []
    for e in (4e-2, 2e-2, 1e-2):
        moved: FlowSolution = forward.solve_flow(THETA + e * step)
        remainders.append(float((moved.p - base.p - e * slope).norm()))
    orders = np.log2(np.array(remainders[:-1]) / remainders[1:])
    assert orders == pytest.approx([2.0, 2.0], abs=0.1)


def test_the_pressure_gradient_equals_the_tangents() -> None:
    forward = forward_of(3, 0.0)
    grid, of = forward.setting.flow_setting.grid, forward.flow_coefficients
    p = solve_pressure(of(THETA), grid).x
    weights = torch.randn(p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    forwards = (pressure_tangents(of, THETA, p, grid) * weights).sum(dim=(1, 2, 3))
    torch.testing.assert_close(
        pressure_gradient(of, THETA, p, weights, grid)[0], forwards, rtol=1e-10, atol=0.0
    )


@pytest.mark.parametrize(("distance", "voxels"), [(0.0, 1), (0.9e-3, 1), (1.0e-3, 2), (2.5e-3, 3)])
def test_the_rim_holds_the_voxels_within_its_depth(distance: float, voxels: int) -> None:
    tumour = torch.zeros((14, 4, 4), dtype=torch.float64)
    tumour[7:] = 1
    cut = near_edge(tumour, Grid((14, 4, 4), (1e-3, 1e-3, 1e-3)), distance)[:, 0, 0]
    assert cut.nonzero()[:, 0].tolist() == list(range(7 - voxels, 7 + voxels))


@pytest.mark.parametrize("rim", [-1e-3, float("nan"), float("inf")])
def test_an_invalid_rim_depth_is_refused(rim: float) -> None:
    setting, _, _ = small_tissue()
    with pytest.raises(InputError, match="rim"):
        TissueSetting(setting.maps, setting.grid, 2, rim)
