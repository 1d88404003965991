"""Barriers: equilibria, conductances in series, and active efflux."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import brentq

from nanopinn.physics.barrier import (
    barrier_flux,
    layered_permeability,
    passive_flux,
    series_conductance,
    surface_efflux,
)


def test_unbound_drug_is_equal_on_both_sides_of_a_passive_barrier() -> None:
    assert passive_flux(1e-7, 0.25, 2.0, 0.05, 10.0) == pytest.approx(0.0, abs=1e-20)
    assert passive_flux(1e-7, 0.25, 2.0, 0.05, 0.0) == pytest.approx(0.25 * 2.0 * 1e-7)


@pytest.mark.parametrize("dose", [1e-6, 1e3])
def test_pumps_lower_the_unbound_ratio_until_they_saturate(dose: float) -> None:
    """Kp,uu = P / (P + Vmax/Km) far below Km, and 1 far above."""
    P, fu, fu_t, Vmax, Km = 1e-8, 0.25, 0.1, 9e-10, 0.01
    C = brentq(
        lambda C: float(barrier_flux(P, fu, dose, fu_t, C, Vmax, Km)),
        0.0,
        1e2 * dose,
        xtol=1e-18,
        rtol=1e-12,
    )
    expected = P / (P + Vmax / Km) if dose < Km else 1.0
    assert fu_t * C / (fu * dose) == pytest.approx(expected, rel=1e-3)


def test_efflux_is_half_its_capacity_at_km_and_at_most_its_capacity() -> None:
    C = torch.tensor([0.0, 0.01, 1e9], dtype=torch.float64)
    torch.testing.assert_close(
        surface_efflux(2.0, 0.01, C),
        torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64),
        rtol=1e-10,
        atol=0,
    )


def test_resistances_add_and_one_impermeable_part_stops_the_flux() -> None:
    assert layered_permeability([(1e-5, 6e-10), (2e-5, 3.6e-10)], [1e-6]) == pytest.approx(
        9.3264e-7, rel=1e-5
    )
    assert float(series_conductance(2.0, torch.tensor(2.0), 1.0)) == pytest.approx(0.5)
    g = series_conductance(torch.tensor([0.0, 1.0], dtype=torch.float64), 3.0)
    torch.testing.assert_close(g, torch.tensor([0.0, 0.75], dtype=torch.float64))
