"""Krogh cylinders compared with closed solutions, an independent discretisation and the well-
mixed voxel, and their mass balance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.physics import analytic
from nanopinn.physics.drug_pools import DrugPoolOptions, drug_pools
from nanopinn.physics.pools import PoolAssembler, PoolCoefficients
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.fluxes import TransportOperator
from nanopinn.solvers.implicit_stage import BlockTridiagonalStageSolver
from nanopinn.solvers.krogh import (
    KroghSolution,
    add_filtration_loss,
    krogh_interval,
    krogh_operator,
    solve_cylinders,
    vessel_pools,
)
from nanopinn.solvers.krogh_geometry import KroghCylinders
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval, PoolOperator

ONE = torch.ones(1, 1, 1, dtype=torch.float64)


def cylinder(R_t: float, cells: int = 32, R_c: float = 1e-5) -> KroghCylinders:
    return KroghCylinders(
        R_c, torch.tensor([[R_t]], dtype=torch.float64), torch.ones(1, dtype=torch.float64), cells
    )


def clusters(n: int, detail: DrugPoolOptions) -> tuple[PoolCoefficients, Tensor]:
    """Pools of uneven clusters without filtration, and their blood volumes."""
    g = torch.Generator().manual_seed(4)

    def rough(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((n, 1, 1), generator=g, dtype=torch.float64)

    one = torch.ones(n, 1, 1, dtype=torch.float64)
    maps = TissueMaps(one, rough(5e-4, 3e-3), rough(0.15, 0.4), rough(0.01, 0.05), rough(6.5, 7.2))
    return drug_pools(
        TumourModel.from_maps(maps), 0 * one, 0 * one, detail
    ), maps.v_p.flatten() / 0.58


def plasma(t: float) -> Tensor:
    """A carrier that stays and free drug that comes and goes, kg/m3."""
    return torch.tensor([1e-2, 1e-3 * np.exp(-t / 600) + 1e-6], dtype=torch.float64)


def voxels(pools: PoolCoefficients, times: list[float]) -> Tensor:
    """The same pools well mixed, ``(time, pool, cluster)``."""
    m = pools.capacity.shape[1]
    none = tuple(
        torch.zeros(s, dtype=torch.float64) for s in ((0, m + 1, 1, 1), (0, m, 2, 1), (0, m, 1, 2))
    )
    operator = PoolOperator(
        len(pools.names), (), TransportOperator(none, none), pools.reaction, pools.inflow
    )
    mixed = Interval(0.0, times[-1], operator, pools.capacity, plasma, pools.transfers)
    run = integrate_adaptive(
        [mixed], torch.zeros_like(pools.capacity), times, tolerance=Tolerance(1e-5)
    )
    return run.U[..., 0, 0]


def around(pools: PoolCoefficients, cylinders: KroghCylinders, times: list[float]) -> KroghSolution:
    interval = krogh_interval(0.0, times[-1], pools, cylinders, plasma)
    return solve_cylinders(
        [interval], pools.names, vessel_pools(pools), cylinders, times, tolerance=Tolerance(1e-4)
    )


def faster(pools: PoolCoefficients, factor: float) -> PoolCoefficients:
    return replace(pools, diffusion=factor * pools.diffusion)


@pytest.mark.parametrize("vessels", [False, True])
def test_with_fast_diffusion_a_cylinder_is_the_voxel(vessels: bool) -> None:
    """Two-way with vessels: their plasma too must be the voxel's. 1e4 times the diffusion leaves
    1e-4 of a gradient.
    """
    pools, v_b = clusters(4, DrugPoolOptions(bound=True, saturable=True, vessels=vessels))
    times = [600.0, 3600.0, 14400.0]
    found = around(
        faster(pools, 1e4), KroghCylinders.from_blood_volume(v_b, 1e-5, 0.0, classes=1), times
    )
    torch.testing.assert_close(found.mean, voxels(pools, times), rtol=2e-3, atol=1e-12)
    assert found.mass_balance_error < 1e-10


def test_a_cylinder_takes_up_less_than_the_well_mixed_voxel_at_first() -> None:
    """Drug that accumulates at the wall slows further uptake; less so if diffusion is faster."""
    pools, v_b = clusters(4, DrugPoolOptions(bound=True, saturable=True))
    mixed = voxels(pools, [1200.0])[0, 1:].sum(0)
    slow, fast = (
        around(
            faster(pools, f), KroghCylinders.from_blood_volume(v_b, 1e-5, 0.0, classes=1), [1200.0]
        )
        for f in (1.0, 10.0)
    )
    assert torch.all(slow.pool("intracellular")[0, :, 0].diff(dim=-1) < 0)
    assert torch.all(slow.mean[0, 1:].sum(0) < fast.mean[0, 1:].sum(0))
    assert torch.all(fast.mean[0, 1:].sum(0) < mixed)


def test_vessel_depletion_equals_the_steady_uptake_of_the_tissue() -> None:
    """Plasma passes at flow Q: C_v = Q C_in / (Q + G), G the cylinder's uptake per plasma
    concentration in closed form.
    """
    phi_D, k, P, Q = 4.68e-11, 0.02, 2.67e-6, 5e-3
    cylinders = cylinder(1e-4, 128)
    pools = PoolAssembler(("drug", "vessel"), ONE)
    pools.add_transport("drug", 0.0, phi_D * ONE)
    pools.add_loss("drug", k * ONE)
    pools.set_capacity("vessel", 0.03 * ONE)
    PS = P * cylinders.surface_density[:, None, None]
    pools.add_wall_exchange("drug", 0, PS, PS, "vessel")
    pools.add_plasma_source("vessel", 0, Q * ONE)
    pools.add_loss("vessel", Q * ONE)
    operator, capacity, _ = krogh_operator(pools.coefficients(), cylinders)
    C, _ = BlockTridiagonalStageSolver(operator, 1e-300 * capacity, 1.0).solve(
        operator.plasma_source(torch.ones(1, dtype=torch.float64))
    )
    wall = float(analytic.krogh_first_order(np.array([1e-5]), 1e-5, 1e-4, phi_D, k, P)[0])
    G = float(PS) * (1 - wall)
    assert float(C[1, 0, 0, 0]) == pytest.approx(Q / (Q + G), rel=1e-4)
    np.testing.assert_allclose(
        C[0, 0, 0] / C[1, 0, 0, 0],
        analytic.krogh_first_order(cylinders.r[0, 0].numpy(), 1e-5, 1e-4, phi_D, k, P),
        rtol=1e-3,
    )


def test_free_and_cellular_drug_around_a_vessel_are_scipys() -> None:
    """Saturable uptake against finite differences in r (not in ln r, not conservative) and scipy's
    BDF; 300 points.
    """
    pools, _ = clusters(1, DrugPoolOptions(carrier=False, saturable=True))
    R_c, R_t, end, n = 1e-5, 9e-5, 1200.0, 300
    cylinders = cylinder(R_t, 64)
    found = around(pools, cylinders, [end])
    k, phi, D = pools.transfers[0], float(pools.capacity[0]), float(pools.diffusion[0])
    r, h = np.linspace(R_c, R_t, n, retstep=True)
    P = float(pools.walls[0].influx / cylinders.surface_density)
    on, off = float(-pools.reaction[2, 1]), float(-pools.reaction[1, 2])

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        F, cells, nucleus = y.reshape(3, n)
        ghost = F[1] + 2 * h * P / D * (plasma(t)[1].item() - F[0])
        ext = np.concatenate([[ghost], F, [F[-2]]])
        spread = (ext[2:] - 2 * F + ext[:-2]) / h**2 + (ext[2:] - ext[:-2]) / (2 * h * r)
        z = float(k.uptake) * F / (1 + F / k.K_out) - float(k.efflux) * cells / (1 + cells / k.K_in)
        bound = on * cells - off * nucleus
        return np.concatenate([(D * spread - z) / phi, z - bound, bound])

    exact = (
        solve_ivp(rate, (0, end), np.zeros(3 * n), method="BDF", rtol=1e-7, atol=1e-14)
        .y[:, -1]
        .reshape(3, n)
    )
    at = cylinders.r[0, 0].numpy()
    for p in range(3):
        np.testing.assert_allclose(
            found.U[0, p, 0, 0], np.interp(at, r, exact[p]), rtol=1e-2, atol=2e-3 * exact[p].max()
        )


def test_classes_keep_blood_volume_surface_and_tissue() -> None:
    v_b = torch.tensor([0.01, 0.04, 0.08], dtype=torch.float64)
    c = KroghCylinders.from_blood_volume(v_b, 1e-5, 0.3, classes=5)
    torch.testing.assert_close(1e-10 / (c.vessels * c.R_t**2).sum(-1), v_b)
    torch.testing.assert_close(
        (c.tissue_fractions * c.relative_vessel_density).sum(-1), torch.ones_like(v_b)
    )
    torch.testing.assert_close(
        (c.vessels * 2e-5).sum(-1) / (c.vessels * c.ring_area).sum(-1), c.surface_density
    )
    torch.testing.assert_close(c.tissue_mean(torch.ones_like(c.r)), torch.ones_like(v_b))
    log_R = (c.vessels * c.R_t.log()).sum(-1, keepdim=True)
    torch.testing.assert_close(
        (c.vessels * (c.R_t.log() - log_R) ** 2).sum(-1).sqrt(), 0.3 + 0 * v_b
    )


def test_the_mean_converges_with_the_number_of_classes() -> None:
    """Gauss-Hermite: 3 classes are within 2 % of 7 for what is in cells at 20 min."""
    pools, v_b = clusters(2, DrugPoolOptions(bound=True, saturable=True))
    few, many = (
        around(pools, KroghCylinders.from_blood_volume(v_b, 1e-5, 0.25, classes=n), [1200.0]).mean[
            0, 3
        ]
        for n in (3, 7)
    )
    torch.testing.assert_close(few, many, rtol=0.02, atol=0.0)


def test_tissue_thinner_than_its_vessel_is_refused() -> None:
    with pytest.raises(InputError, match="as wide as the tissue"):
        KroghCylinders.from_blood_volume(
            torch.tensor([0.5], dtype=torch.float64), 1e-5, 0.5, classes=5
        )


def test_drained_tissue_ends_at_the_plasma_concentration() -> None:
    """Without reflection the fluid that enters has plasma's concentration; so has, in the end, a
    drained tissue.
    """
    J_v, PS = 1e-3 * ONE, 1e-4 * ONE
    pools = PoolAssembler(("tracer",), ONE)
    pools.add_transport("tracer", 1.0, 1e-6 * ONE)
    pools.add_wall_exchange("tracer", 0, PS + J_v, PS)
    for coefficients, expected in (
        (add_filtration_loss(pools.coefficients(), J_v), 1.0),
        (pools.coefficients(), 11.0),
    ):
        operator, capacity, _ = krogh_operator(coefficients, cylinder(5e-5))
        C, _ = BlockTridiagonalStageSolver(operator, 1e-300 * capacity, 1.0).solve(
            operator.plasma_source(torch.ones(1, dtype=torch.float64))
        )
        torch.testing.assert_close(C, torch.full_like(C, expected), rtol=1e-3, atol=0.0)


def test_every_vessel_gives_the_same_and_the_cluster_receives_what_its_voxel_does() -> None:
    """Before anything comes back: uptake per vessel is one, per tissue volume ``influx C_v`` over
    the cluster.
    """
    v_b = torch.tensor([0.02, 0.05], dtype=torch.float64)
    cylinders = KroghCylinders.from_blood_volume(v_b, 1e-5, 0.35, classes=4)
    PS = torch.tensor([1e-6, 3e-6], dtype=torch.float64)[:, None, None]
    pools = PoolAssembler(("tracer",), torch.ones_like(PS))
    pools.add_transport("tracer", 0.0, 1e-6 * torch.ones_like(PS))
    pools.add_wall_exchange("tracer", 0, PS, PS)
    operator, _, _ = krogh_operator(pools.coefficients(), cylinders)
    received = operator.inflow[0, 0].sum(-1)
    per_vessel = received * cylinders.ring_area
    torch.testing.assert_close(
        per_vessel, per_vessel[:, :1].expand_as(per_vessel), rtol=1e-4, atol=0.0
    )
    torch.testing.assert_close(
        (received * cylinders.tissue_fractions).sum(-1), PS[:, 0, 0], rtol=1e-4, atol=0.0
    )


def test_each_cluster_has_its_own_plasma_and_an_event_changes_what_follows() -> None:
    """Twice the plasma is twice the drug where everything is linear; after an event that stops
    decay nothing is lost.
    """
    two = torch.ones(2, 1, 1, dtype=torch.float64)
    cylinders = KroghCylinders.from_blood_volume(
        torch.full((2,), 0.03, dtype=torch.float64), 1e-5, 0.3
    )

    def pools(decay: float) -> PoolCoefficients:
        system = PoolAssembler(("free",), two)
        system.add_transport("free", 0.0, 1e-10 * two)
        system.add_wall_exchange("free", 0, 1e-4 * two, 0 * two)
        system.add_loss("free", decay * two)
        return system.coefficients()

    dose = torch.tensor([1.0, 2.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    intervals = [
        krogh_interval(0.0, 1000.0, pools(1e-3), cylinders, lambda t: dose),
        krogh_interval(1000.0, 2000.0, pools(0.0), cylinders, lambda t: dose),
    ]
    found = solve_cylinders(
        intervals, ("free",), (), cylinders, [1000.0, 2000.0], tolerance=Tolerance(1e-5)
    ).mean[:, 0]
    torch.testing.assert_close(found[:, 1], 2 * found[:, 0], rtol=1e-9, atol=0.0)
    exact = 0.1 * (1 - np.exp(-1.0))
    torch.testing.assert_close(
        found[:, 0], torch.tensor([exact, exact + 0.1], dtype=torch.float64), rtol=1e-4, atol=0.0
    )
