"""Exposure and cell kill in Krogh cylinders compared with closed forms and scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.physics.cell_kill import CELLS_PER_UNIT
from nanopinn.physics.oxygen import OxygenSupply
from nanopinn.physics.pools import PoolAssembler, PoolCoefficients
from nanopinn.solvers.krogh import KroghSolution, krogh_interval
from nanopinn.solvers.krogh_exposure import (
    ExposureAccumulator,
    KillCriteria,
    compute_exposure,
    simulate_exposure,
)
from nanopinn.solvers.krogh_geometry import KroghCylinders
from nanopinn.solvers.nonlinear_pools import Tolerance

R_C, NAMES = 1e-5, ("free", "intracellular")
ONE = torch.ones(1, 1, 1, dtype=torch.float64)
PER_UNIT = CELLS_PER_UNIT / value("rho_c")


def cylinder(R_t: list[float], cells: int = 24) -> KroghCylinders:
    shares = torch.full((len(R_t),), 1 / len(R_t), dtype=torch.float64)
    return KroghCylinders(R_C, torch.tensor([R_t], dtype=torch.float64), shares, cells)


def pools(
    influx: float, loss: float, phi: float = 1.0, uptake: float = 0.0, efflux: float = 0.0
) -> PoolCoefficients:
    """Free drug that diffuses at once and leaves for good; cells that take it up and saturate."""
    system = PoolAssembler(NAMES, ONE)
    system.set_capacity("free", phi * ONE)
    system.add_transport("free", 0.0, 1e-7 * ONE)
    system.add_wall_exchange("free", 0, influx * ONE, 0 * ONE)
    system.add_loss("free", loss)
    system.add_saturable_transfer(
        "free",
        "intracellular",
        uptake * ONE,
        efflux,
        value("K_e"),
        value("K_i") * value("rho_c") / CELLS_PER_UNIT,
    )
    return system.coefficients()


def decaying(C: float, rate: float) -> Callable[[float], Tensor]:
    return lambda t: C * torch.exp(torch.tensor([-rate * t], dtype=torch.float64))


def test_area_and_peak_are_those_of_batemans_curve() -> None:
    """Free drug fed by a plasma that decays: ``U = a C/(k - l) (e^-lt - e^-kt)``; cells take up
    1e-4 of it and give nothing back.
    """
    a, k, lam, C, u, end = 1e-3, 2e-3, 3e-4, 5e-3, 1e-7, 6 * 3600.0
    cylinders = cylinder([5e-5])
    interval = krogh_interval(0.0, end, pools(a, k, uptake=u), cylinders, decaying(C, lam))
    found = simulate_exposure([interval], NAMES, (), cylinders, 1, [end], tolerance=Tolerance(1e-5))

    def free(t: float) -> float:
        return a * C / (k - lam) * (np.exp(-lam * t) - np.exp(-k * t))

    area = a * C / (k - lam) * ((1 - np.exp(-lam * end)) / lam - (1 - np.exp(-k * end)) / k)
    inside = torch.isfinite(found.auc_free[0, 0])
    torch.testing.assert_close(
        found.auc_free[0, 0, inside],
        torch.full_like(found.auc_free[0, 0, inside], area),
        rtol=1e-3,
        atol=0.0,
    )
    # cells only gather: their peak is the saturable uptake over the run
    taken = quad(lambda t: u * free(t) / (1 + free(t) / value("K_e")), 0, end)[0] * PER_UNIT
    torch.testing.assert_close(
        found.peak_intracellular[0, 0, inside],
        torch.full_like(found.peak_intracellular[0, 0, inside], taken),
        rtol=1e-3,
        atol=0.0,
    )
    assert found.mass_balance_error < 1e-10


def test_with_fast_diffusion_cell_kill_equals_that_of_a_scipy_voxel() -> None:
    """Every pool, peak and area of a well-mixed voxel by scipy's BDF, with the default tolerance of
    the march.
    """
    a, k, phi, uptake, efflux, lam, end = 2e-4, 1e-5, 0.3, 0.05, 3e-3, 4e-4, 24 * 3600.0
    cylinders = cylinder([5e-5, 8e-5])
    coefficients = pools(a, k, phi, uptake, efflux)
    interval = krogh_interval(0.0, end, coefficients, cylinders, decaying(5e-3, lam))
    found = simulate_exposure([interval], NAMES, (), cylinders, 1, [end])
    K_in, f_max, EC50 = (
        value("K_i") * value("rho_c") / CELLS_PER_UNIT,
        value("f_max"),
        value("EC50_i"),
    )

    def of(t: float, y: np.ndarray, surface: float) -> list[float]:
        F, cells = y[:2]
        z = uptake * F / (1 + F / value("K_e")) - efflux * cells / (1 + cells / K_in)
        C = cells * PER_UNIT
        return [
            (surface * a * 5e-3 * np.exp(-lam * t) - k * F - z) / phi,
            z,
            F,
            f_max * C / (EC50 + C),
        ]

    share = cylinders.tissue_fractions[0]
    killed = {"peak": 0.0, "rate": 0.0, "area": 0.0}
    for i, surface in enumerate(cylinders.relative_vessel_density[0].tolist()):
        run = solve_ivp(
            of,
            (0, end),
            np.zeros(4),
            args=(surface,),
            method="BDF",
            rtol=1e-8,
            atol=1e-16,
            max_step=600.0,
        )
        peak, area, hazard = run.y[1].max() * PER_UNIT, run.y[2, -1], run.y[3, -1]
        killed["peak"] += float(share[i]) / (1 + (peak / EC50) ** value("m_hill"))
        killed["rate"] += float(share[i]) * np.exp(-hazard)
        killed["area"] += float(share[i]) * np.exp(-value("k_kill_H") * area)
    for law, expected in killed.items():
        assert float(found.mean_survival[law]["proliferating"]) == pytest.approx(
            expected, rel=0.01
        ), law


def by_hand(
    cylinders: KroghCylinders, profile: Tensor
) -> tuple[KroghSolution, ExposureAccumulator]:
    """A march whose drug in cells was this profile (kg per 1e5 cells) at its end and before."""
    U = torch.stack([0 * profile, profile / PER_UNIT])[None]
    gathered = ExposureAccumulator(NAMES)
    gathered(0.0, U[0])
    return KroghSolution((0.0,), NAMES, cylinders, U, cylinders.tissue_mean(U), 0.0, 1), gathered


def test_radii_and_shares_are_those_of_a_known_profile() -> None:
    """``C = 4 EC50 e^(-x/L)``: half at L ln 2, lethal (by peak) up to L ln 4; quiescent cells up to
    L ln(4/3).
    """
    cylinders, EC50, L = cylinder([15e-5], 96), value("EC50_i"), 4e-5
    x = cylinders.r - R_C
    found = compute_exposure(
        *by_hand(cylinders, 4 * EC50 * torch.exp(-x / L)), 1, KillCriteria(50e-6, 0.5)
    )
    assert float(found.half_distance) == pytest.approx(L * np.log(2), rel=5e-3)
    assert float(found.lethal_radius["peak"]) == pytest.approx(L * np.log(4), rel=5e-3)
    zones = OxygenSupply.from_values().zones(cylinders.R_t, R_C)
    r_h, r_n = float(zones.r_hypoxia), float(zones.r_necrosis)
    lethal = R_C + L * np.log(4)
    assert r_h < lethal < r_n  # some of the killed would be quiescent

    def area(a: float, b: float) -> float:
        return max(0.0, b**2 - a**2)

    quiescent_lethal = R_C + L * np.log(4 / value("res_q"))
    expected = {
        "all": (area(R_C, min(r_h, lethal)) + area(r_h, quiescent_lethal)) / area(R_C, r_n),
        "proliferating": area(R_C, min(r_h, lethal)) / area(R_C, r_h),
        "quiescent": area(r_h, quiescent_lethal) / area(r_h, r_n),
        "beyond": area(60e-6, min(r_h, lethal)) / area(60e-6, r_n),
    }
    for kind, share in expected.items():
        assert float(found.killed["peak"][kind]) == pytest.approx(share, abs=0.01), kind
    whole = area(R_C, 15e-5)
    assert float(found.shares["beyond"]) == pytest.approx(area(60e-6, r_n) / whole, abs=0.01)
    assert float(found.shares["quiescent"]) == pytest.approx(area(r_h, r_n) / whole, abs=0.01)
    at = int(torch.argmin((found.distances_m - 30e-6).abs()))
    assert float(found.survival["peak"][0, 0, at]) == pytest.approx(
        1 / (1 + (4 * np.exp(-0.75)) ** value("m_hill")), rel=5e-3
    )


def test_distances_without_tissue_are_nan() -> None:
    """A vessel of 40 um has no tissue beyond 50 um, and none without oxygen."""
    cylinders = cylinder([4e-5])
    found = compute_exposure(*by_hand(cylinders, torch.ones_like(cylinders.r)), 1, KillCriteria())
    assert torch.isnan(found.killed["peak"]["beyond"]).all()
    assert torch.isnan(found.killed["peak"]["quiescent"]).all()
    assert float(found.killed["peak"]["all"]) == 1.0
    assert float(found.shares["beyond"]) == 0.0
    assert torch.isnan(found.peak_intracellular[0, 0, found.distances_m > 30.1e-6]).all()
    # lethal as far as the tissue goes
    assert float(found.lethal_radius["peak"]) == pytest.approx(30e-6)
    nothing = compute_exposure(*by_hand(cylinders, 0 * cylinders.r), 1, KillCriteria())
    assert float(nothing.lethal_radius["peak"]) == 0.0
    assert float(nothing.killed["peak"]["all"]) == 0.0
