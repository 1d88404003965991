"""Distances and averages from known radial profiles, and clusters of voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanopinn.physics.analytic import krogh_first_order
from nanopinn.physics.drug_pools import FULL_POOLS, drug_pools
from nanopinn.physics.oxygen import OxygenSupply, oxygen_pressure
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.clusters import cluster_mean, cluster_pools, cluster_voxels
from nanopinn.solvers.krogh import (
    equal_area_radii,
    find_first_below,
    half_distance,
    interpolate_at_distances,
    interpolate_at_radii,
    tissue_average,
)
from nanopinn.solvers.krogh_geometry import KroghCylinders

R_C = 1e-5
CYLINDERS = KroghCylinders(
    R_C,
    torch.tensor([[6e-5, 1e-4], [8e-5, 9e-5]], dtype=torch.float64),
    torch.tensor([0.4, 0.6], dtype=torch.float64),
    48,
)


def test_half_distance_is_where_the_closed_solution_halves() -> None:
    profile = torch.stack(
        [
            torch.as_tensor(krogh_first_order(r.numpy(), R_C, float(R), 4.68e-11, 0.02, 2.67e-6))
            for r, R in zip(CYLINDERS.r.flatten(0, 1), CYLINDERS.R_t.flatten(), strict=True)
        ]
    ).reshape(CYLINDERS.r.shape)
    found = half_distance(profile, CYLINDERS).flatten()
    for distance, R in zip(found, CYLINDERS.R_t.flatten(), strict=True):
        wall, there = krogh_first_order(
            np.array([R_C, R_C + float(distance)]), R_C, float(R), 4.68e-11, 0.02, 2.67e-6
        )
        assert there / wall == pytest.approx(0.5, abs=1e-3)


def test_half_distance_is_unknown_where_a_profile_never_halves_or_is_empty() -> None:
    flat = torch.ones_like(CYLINDERS.r)
    assert torch.isnan(half_distance(flat, CYLINDERS)).all()
    assert torch.isnan(half_distance(0 * flat, CYLINDERS)).all()


def test_points_of_equal_area_sample_the_profile() -> None:
    r = equal_area_radii(CYLINDERS)
    values = interpolate_at_radii(CYLINDERS.r.log(), r, CYLINDERS)
    inner = (r > CYLINDERS.r[..., :1]) & (r < CYLINDERS.r[..., -1:])
    torch.testing.assert_close(values[inner], r.log()[inner], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(
        (r**2).mean(-1), (CYLINDERS.R_t**2 + R_C**2) / 2, rtol=1e-12, atol=0.0
    )


def test_a_share_of_tissue_is_its_area_between_two_radii() -> None:
    """What lies within 40 um of the axis, of all tissue and of that between 30 and 50 um; unknown
    of tissue that is not there.
    """
    r = equal_area_radii(CYLINDERS)
    inside = (r < 4e-5).double()
    exact = (CYLINDERS.tissue_fractions * (16e-10 - 1e-10) / CYLINDERS.ring_area).sum(-1)
    torch.testing.assert_close(
        tissue_average(inside, torch.ones_like(r), CYLINDERS), exact, rtol=0.0, atol=0.005
    )
    between = tissue_average(inside, (r > 3e-5) & (r < 5e-5), CYLINDERS)
    torch.testing.assert_close(between, torch.full_like(between, 7 / 16), rtol=0.0, atol=0.02)
    assert torch.isnan(tissue_average(inside, r > 1.0, CYLINDERS)).all()


def test_a_profile_at_a_distance_is_the_mean_over_the_tissue_there() -> None:
    """Every vessel has as much tissue at one distance: classes weigh by vessels, those whose tissue
    ends before it not at all.
    """
    x = torch.tensor([0.0, 30e-6, 60e-6, 95e-6], dtype=torch.float64)
    profile = CYLINDERS.r.log() + torch.tensor([1.0, 2.0], dtype=torch.float64)[:, None]
    found = interpolate_at_distances(profile, x, CYLINDERS)
    both, r = (R_C + x).log() + 0.4 * 1 + 0.6 * 2, (R_C + x).log()
    torch.testing.assert_close(found[0, :2], both[:2], rtol=1e-9, atol=0.0)
    torch.testing.assert_close(
        found[0, 2], r[2] + 2.0, rtol=1e-9, atol=0.0
    )  # the first class ends at 50 um
    assert torch.isnan(found[:, 3]).all()


def test_a_level_is_first_passed_on_the_line_between_points() -> None:
    x = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    values = torch.tensor([[1.0, 0.6, 0.2], [0.3, 0.9, 0.1], [1.0, 0.9, 0.8]], dtype=torch.float64)
    found = find_first_below(values, x, 0.5)
    torch.testing.assert_close(found[:2], torch.tensor([1.5, 0.0], dtype=torch.float64))
    assert torch.isnan(found[2])


def test_hypoxia_begins_where_xenografts_show_it_and_nearer_for_sparser_vessels() -> None:
    """The table's consumption was set at 115 um from a vessel of a 125 um cylinder (Primeau 2005:
    90 to 140 um).
    """
    supply = OxygenSupply.from_values()
    R_t = torch.tensor([100e-6, 125.5e-6, 200e-6], dtype=torch.float64)
    distance = supply.zones(R_t, R_C).r_hypoxia - R_C
    assert float(distance[0]) == pytest.approx(90e-6)  # all of it has oxygen
    assert 90e-6 < float(distance[1]) < 140e-6
    assert float(distance[2]) < float(distance[1])
    p = oxygen_pressure(distance[1:] + R_C, R_t[1:], R_C, supply.D, supply.M, supply.p_0)
    torch.testing.assert_close(p, torch.full_like(p, supply.p_hypoxia))


def test_clusters_hold_similar_voxels_and_their_mean_coefficients() -> None:
    g = torch.Generator().manual_seed(0)
    shape = (6, 5, 4)
    low = torch.rand(shape, generator=g, dtype=torch.float64) < 0.5
    v_p = torch.where(low, 0.01, 0.05) * (
        1 + 0.01 * torch.rand(shape, generator=g, dtype=torch.float64)
    )
    one = torch.ones(shape, dtype=torch.float64)
    mask = torch.rand(shape, generator=g) < 0.8
    labels = cluster_voxels(v_p.log()[None], mask, 2, np.random.default_rng(0))
    assert torch.all((labels >= 0) == mask)
    assert len(set(labels[mask & low].tolist())) == len(set(labels[mask & ~low].tolist())) == 1
    pools = drug_pools(
        TumourModel.from_maps(TissueMaps(one, 1e-3 * one, 0.3 * one, v_p, 6.8 * one)),
        1e-4 * one,
        0 * one,
        FULL_POOLS,
    )
    grouped = cluster_pools(pools, labels)
    assert grouped.capacity.shape == (7, 2, 1, 1)
    first = int(labels[mask & low][0])
    vessel = pools.names.index("vessel free")
    assert float(grouped.capacity[vessel, first]) == pytest.approx(
        float(v_p[mask & low].mean()), rel=1e-12
    )
    torch.testing.assert_close(grouped.walls[0].influx, cluster_mean(pools.walls[0].influx, labels))
