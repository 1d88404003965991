"""Temperature: ramps and jumps in time, and Pennes' equation against its closed solutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nanopinn.errors import InputError
from nanopinn.parameters import value
from nanopinn.physics.heat import (
    TemperatureCourse,
    bioheat_coefficients,
    imposed_temperature,
    perfusion_heat_loss,
    scheduled_temperature,
    steady_heating_power,
)
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.linear_pools import solve_bioheat

BODY = 310.15


def tumour_half() -> torch.Tensor:
    mask = torch.zeros((2, 2, 2), dtype=torch.float64)
    mask[0] = 1.0
    return mask


def test_a_scheduled_heating_has_a_ramp_a_plateau_and_a_fall_in_the_tumour_only() -> None:
    course = scheduled_temperature(tumour_half(), 315.15, 600.0, 4200.0, 300.0)
    assert course.events() == (600.0, 900.0, 4200.0, 4500.0)
    found = {
        t: float(course(t)[0, 0, 0])
        for t in (0.0, 600.0, 750.0, 900.0, 3000.0, 4200.0, 4350.0, 4500.0, 9e3)
    }
    expected = [BODY, BODY, BODY + 2.5, BODY + 5, BODY + 5, BODY + 5, BODY + 2.5, BODY, BODY]
    assert list(found.values()) == pytest.approx(expected, abs=1e-10)
    assert all(float(course(t)[1, 0, 0]) == pytest.approx(BODY) for t in found)


def test_a_step_that_ends_at_a_jump_uses_the_temperature_before_it() -> None:
    course = scheduled_temperature(tumour_half(), 315.15, 600.0, 4200.0)
    assert float(course(600.0)[0, 0, 0]) == pytest.approx(BODY + 5)
    assert float(course.smooth_piece_from(0.0)(600.0)[0, 0, 0]) == pytest.approx(BODY)
    assert float(course.smooth_piece_from(3000.0)(4200.0)[0, 0, 0]) == pytest.approx(BODY + 5)
    assert float(course(4200.0)[0, 0, 0]) == pytest.approx(BODY)


def test_imposed_temperature_is_linear_between_its_maps() -> None:
    maps = torch.tensor([311.0, 315.0, 314.0], dtype=torch.float64)[:, None, None, None].expand(
        3, 2, 2, 2
    )
    course = imposed_temperature([10.0, 20.0, 40.0], maps)
    found = [float(course(t).mean()) for t in (0.0, 10.0, 12.5, 20.0, 30.0, 39.999999, 41.0)]
    assert found == pytest.approx([BODY, 311.0, 312.0, 315.0, 314.5, 314.0, BODY], abs=1e-6)


def test_consecutive_heatings_join_and_overlapping_heatings_are_refused() -> None:
    first, second = (
        scheduled_temperature(tumour_half(), T, a, a + 100, 10.0)
        for T, a in ((315.0, 0.0), (314.0, 300.0))
    )
    both = first.merge(second)
    assert isinstance(both, TemperatureCourse)
    assert [float(both(t)[0, 0, 0]) for t in (50.0, 200.0, 350.0)] == pytest.approx(
        [315.0, BODY, 314.0]
    )
    with pytest.raises(InputError, match="overlap"):
        first.merge(scheduled_temperature(tumour_half(), 314.0, 105.0, 200.0))


def test_a_temperature_map_that_is_not_finite_is_refused() -> None:
    maps = torch.full((2, 2, 2, 2), 312.0, dtype=torch.float64)
    maps[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite everywhere"):
        imposed_temperature([0.0, 1.0], maps)


def test_uniform_heating_is_steady_where_blood_removes_all_power() -> None:
    tumour, Q = torch.ones((3, 2, 2), dtype=torch.float64), 4e4
    course = solve_bioheat(
        tumour, Grid((3, 2, 2), (1e-3,) * 3), lambda t: Q * tumour, list(np.linspace(0, 8000, 81))
    )
    cooling = value("w_b_t") * value("rho_b") * value("c_b")
    assert float(course.smooth_piece_from(7900.0)(8000.0).mean()) - BODY == pytest.approx(
        Q / cooling, rel=1e-6
    )


def test_uniform_heating_rises_as_the_ordinary_differential_equation() -> None:
    tumour, Q = torch.ones((2, 2, 2), dtype=torch.float64), 4e4
    rho_c, cooling = value("rho_t") * value("c_t"), float(perfusion_heat_loss(value("w_b_t")))
    course = solve_bioheat(
        tumour, Grid((2, 2, 2), (1e-3,) * 3), lambda t: Q * tumour, list(np.linspace(0, 300, 121))
    )
    exact = solve_ivp(
        lambda t, T: (Q - cooling * T) / rho_c, (0, 300), [0.0], rtol=1e-10, atol=1e-12
    ).y[0, -1]
    assert float(course.smooth_piece_from(299.0)(300.0).mean()) - BODY == pytest.approx(
        exact, rel=1e-5
    )


def test_conducted_heat_falls_by_a_factor_e_per_decay_length() -> None:
    """A row of tissue heated in one half: beyond the edge T - T_a = T_0/2 exp(-x/l)."""
    n, h = 320, 0.25e-3
    tumour = torch.ones((n, 2, 2), dtype=torch.float64)
    power = (
        float(steady_heating_power(BODY + 5, value("w_b_t")))
        * (torch.arange(n) < n // 2).double()[:, None, None]
        * tumour
    )
    times = [0.0, *np.geomspace(5.0, 2e4, 40)]
    course = solve_bioheat(tumour, Grid((n, 2, 2), (h, h, h)), lambda t: power, times)
    excess = course.smooth_piece_from(times[-2])(times[-1])[:, 0, 0] - BODY
    x, length = (
        (torch.arange(n // 2, dtype=torch.float64) + 0.5) * h,
        (0.5 / (0.004 * 1050 * 3600)) ** 0.5,  # sqrt(k / (w_b rho_b c_b))
    )
    near = x < 3 * length
    torch.testing.assert_close(
        excess[n // 2 :][near], (2.5 * torch.exp(-x / length))[near], rtol=2e-3, atol=0
    )
    assert float(excess[0]) == pytest.approx(
        5.0, rel=2e-3
    )  # seven lengths inside, nothing is conducted away


def test_perfusion_of_the_bioheat_pool_follows_the_tissue() -> None:
    pool = bioheat_coefficients(tumour_half())
    assert float(pool.reaction[0, 0][0, 0, 0]) == pytest.approx(0.004 * 1050 * 3600)
    assert float(pool.reaction[0, 0][1, 0, 0]) == pytest.approx(0.002 * 1050 * 3600)
