"""The vessel wall and the release law: limits, signs and inversions."""

from __future__ import annotations

import pytest
import torch

from nanopinn.physics.flow import exchange_coefficients, permeability_from_ktrans
from nanopinn.physics.release import acid_release_rate

PS, SIGMA = torch.tensor(2e-3, dtype=torch.float64), 0.2


def exchange(J: float, sigma: float = SIGMA) -> tuple[float, float]:
    a, b = exchange_coefficients(PS, torch.tensor(J, dtype=torch.float64), sigma)
    return float(a), float(b)


def test_exchange_without_flow_is_diffusive() -> None:
    assert exchange(0.0) == pytest.approx((2e-3, 2e-3), rel=1e-12)


@pytest.mark.parametrize("J", [1e3, -1e3])
def test_exchange_with_strong_flow_is_convective(J: float) -> None:
    a, b = exchange(J)
    expected = ((1 - SIGMA) * J, 0.0) if J > 0 else (0.0, -(1 - SIGMA) * J)
    assert (a, b) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("J", [1e-9, 1e-6, 1e-4, 1e-3, 5e-2])
def test_flux_is_the_textbook_form(J: float) -> None:
    Pe = J * (1 - SIGMA) / float(PS)
    p = float(PS) * Pe / torch.expm1(torch.tensor(Pe, dtype=torch.float64)).item()
    # PS (C_p - C) Pe/(e^Pe - 1) + J (1 - sigma) C_p
    assert exchange(J) == pytest.approx((p + J * (1 - SIGMA), p), rel=1e-9)


def test_equal_concentrations_exchange_the_convective_flux() -> None:
    a, b = exchange(1e-3)
    assert a - b == pytest.approx((1 - SIGMA) * 1e-3, rel=1e-12)


def test_the_permeability_is_recovered_from_ktrans() -> None:
    J = torch.tensor([0.0, 1e-5, 5e-4, 2e-3], dtype=torch.float64)
    transfer, _ = exchange_coefficients(PS.expand(4), J, 0.0)
    torch.testing.assert_close(
        permeability_from_ktrans(transfer, J), PS.expand(4), rtol=1e-6, atol=0
    )


def test_release_has_its_reference_rate_and_falls_with_ph() -> None:
    pH = torch.linspace(5.0, 8.0, 301, dtype=torch.float64)
    rate = acid_release_rate(
        pH,
        torch.tensor(5e-5, dtype=torch.float64),
        1e-6,
        torch.tensor(6.3, dtype=torch.float64),
        2.0,
        6.8,
    )
    assert (rate.diff() < 0).all()
    assert float(rate[pH.sub(6.8).abs().argmin()]) == pytest.approx(5e-5, rel=1e-9)
    assert float(rate[-1]) > 1e-6  # the leak of the carrier is left
