"""Oxygen around a vessel compared with a boundary-value solver, and its invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_bvp
from scipy.special import lambertw

from nanopinn.physics.oxygen import (
    oxygen_pressure,
    oxygen_zones,
    radius_at_pressure,
    supplied_radius,
)

D, M, P0, RC = 2e-9, 15 * 133.322, 40 * 133.322, 1e-5
TISSUE = (RC, D, M, P0)


def radii(*um: float) -> torch.Tensor:
    return torch.tensor(um, dtype=torch.float64) * 1e-6


@pytest.mark.parametrize("R_t", [30e-6, 55e-6, 78e-6])
def test_oxygen_is_the_solution_of_the_boundary_value_problem(R_t: float) -> None:
    """In units of p0 and R_c. The zero-order sink needs no regularisation while p is positive."""
    m, edge = M * RC**2 / (D * P0), R_t / RC

    def rate(r: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.vstack([y[1], m - y[1] / r])

    mesh = np.linspace(1, edge, 50)
    exact = solve_bvp(
        rate, lambda a, b: np.array([a[0] - 1, b[1]]), mesh, np.ones((2, 50)), tol=1e-9
    )
    found = oxygen_pressure(torch.as_tensor(mesh * RC), radii(R_t * 1e6), *TISSUE) / P0
    np.testing.assert_allclose(found.numpy(), exact.sol(mesh)[0], rtol=1e-6, atol=1e-7)


def test_pressure_and_slope_vanish_at_the_free_boundary() -> None:
    """x ln x - x + 1 = s has the root exp(1 + W((s - 1)/e)) by Lambert's function."""
    s = 4 * D * P0 / (M * RC**2)
    exact = RC * math.sqrt(math.exp(1 + lambertw((s - 1) / math.e).real))
    r_a = supplied_radius(radii(90, 140), *TISSUE)
    torch.testing.assert_close(r_a, torch.full_like(r_a, exact), rtol=1e-12, atol=0.0)
    near = oxygen_pressure(r_a * (1 - 1e-4), radii(90, 140), *TISSUE)
    assert torch.all(near > 0)
    assert torch.all(near < 1e-6 * P0)
    assert torch.all(oxygen_pressure(r_a * 1.001, radii(90, 140), *TISSUE) == 0)


def test_oxygen_is_continuous_where_the_anoxic_core_appears() -> None:
    r_a = float(supplied_radius(radii(200), *TISSUE))
    R_t = torch.tensor([r_a * (1 - 1e-9), r_a * (1 + 1e-9)], dtype=torch.float64)
    r = torch.full_like(R_t, r_a / 2)
    p = oxygen_pressure(r, R_t, *TISSUE)
    assert float((p[0] - p[1]).abs()) < 1e-5
    torch.testing.assert_close(
        supplied_radius(R_t, *TISSUE), torch.full_like(R_t, r_a), rtol=3e-9, atol=0.0
    )


def test_zones_are_the_areas_within_the_thresholds() -> None:
    R_t = radii(40, 60, 75, 100, 160)
    zones = oxygen_zones(R_t, *TISSUE, 1333.22, 66.66)
    n = 200_000
    area = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    r = (RC**2 + area * (R_t**2 - RC**2)).sqrt()
    p = oxygen_pressure(r, R_t, *TISSUE)
    torch.testing.assert_close(
        zones.proliferating, (p >= 1333.22).double().mean(0), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(zones.necrotic, (p < 66.66).double().mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        zones.proliferating + zones.quiescent + zones.necrotic, torch.ones(5, dtype=torch.float64)
    )


def test_nothing_proliferates_if_the_threshold_exceeds_the_vessel_pressure() -> None:
    zones = oxygen_zones(radii(40, 120), *TISSUE, 2 * P0, 0.0)
    assert float(zones.proliferating.abs().max()) < 1e-12
    assert float(radius_at_pressure(0.0, radii(40), *TISSUE)) == pytest.approx(40e-6)
