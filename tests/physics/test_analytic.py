"""Closed solutions against independent numerics, also where their terms overflow."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_bvp

from nanopinn.physics.analytic import krogh_first_order, ogata_banks

KROGH = {"R_c": 1e-5, "R_t": 1e-4, "phi_D": 4.68e-11, "k": 0.02, "P": 2.67e-6}


def test_the_krogh_profile_has_its_published_values() -> None:
    found = krogh_first_order(np.array([1e-5, 6e-5, 1e-4]), **KROGH)
    np.testing.assert_allclose(found, [0.51881, 0.11809, 0.08245], atol=5e-6)


@pytest.mark.parametrize("k", [2e-4, 0.02, 2.0])
def test_the_krogh_profile_solves_its_boundary_value_problem(k: float) -> None:
    """In units of the vessel's radius; tolerances of solve_bvp."""
    a, edge = k * 1e-10 / KROGH["phi_D"], 10.0
    P = KROGH["P"] * 1e-5 / KROGH["phi_D"]
    mesh = np.geomspace(1, edge, 200)
    exact = solve_bvp(
        lambda r, y: np.vstack([y[1], a * y[0] - y[1] / r]),
        lambda u, v: np.array([u[1] + P * (1 - u[0]), v[1]]),
        mesh,
        np.ones((2, 200)),
        tol=1e-8,
    )
    found = krogh_first_order(mesh * 1e-5, **{**KROGH, "k": k})
    np.testing.assert_allclose(found, exact.sol(mesh)[0], rtol=1e-5, atol=1e-8)


def test_the_krogh_profile_does_not_overflow_when_the_sink_is_strong() -> None:
    found = krogh_first_order(np.array([1e-5, 2e-5, 1e-4]), **{**KROGH, "k": 2e6})
    m = mpmath.sqrt(2e6 / KROGH["phi_D"])

    def shape(r: float, i: int) -> mpmath.mpf:
        sign = 1 - 2 * i
        edge = m * KROGH["R_t"]
        return mpmath.besseli(i, m * r) * mpmath.besselk(1, edge) + sign * mpmath.besselk(
            i, m * r
        ) * mpmath.besseli(1, edge)

    A = KROGH["P"] / (KROGH["P"] * shape(1e-5, 0) - KROGH["phi_D"] * m * shape(1e-5, 1))
    assert np.all(np.isfinite(found))
    assert found[0] == pytest.approx(float(A * shape(1e-5, 0)), rel=1e-10)
    assert found[1] == pytest.approx(float(A * shape(2e-5, 0)), rel=1e-9)


@pytest.mark.parametrize("v", [0.0, 0.17e-6, 5e-3])
def test_the_front_is_ogata_and_banks_in_many_digits(v: float) -> None:
    """At 5 mm/s exp(v x / D) alone is e^(21000)."""
    x = np.array([0.0, 1e-4, 5e-4, 3.0 * v * 100 + 1e-4])
    found = ogata_banks(x, 100.0, v, 117e-12)
    with mpmath.workdps(60):
        w = 2 * mpmath.sqrt(mpmath.mpf(117e-12) * 100)
        for value, at in zip(found, map(mpmath.mpf, x), strict=True):
            vt = mpmath.mpf(v) * 100
            exact = (
                mpmath.erfc((at - vt) / w)
                + mpmath.exp(v * at / mpmath.mpf(117e-12)) * mpmath.erfc((at + vt) / w)
            ) / 2
            assert value == pytest.approx(float(exact), rel=1e-9, abs=1e-300)
