"""The convolution against adaptive quadrature, automatic differentiation and invariances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from nanopinn.imaging.dce.convolution import (
    ExponentialTable,
    convolve_exponential,
    convolve_exponential_with_derivative,
)

pytestmark = pytest.mark.dce

TIMES = torch.tensor([2.0, 3.0, 3.5, 9.0, 9.25, 30.0, 31.0, 80.0], dtype=torch.float64)
VALUES = torch.tensor([0.5, 4.0, 6.0, 1.0, 1.5, 0.7, 0.9, 0.2], dtype=torch.float64)
AT = torch.tensor([0.0, 2.0, 2.5, 3.5, 12.0, 30.5, 79.0, 80.0, 95.0], dtype=torch.float64)


def curve(s: float) -> float:
    """Zero before the first time, straight between times, held after the last."""
    return 0.0 if s < TIMES[0] else float(np.interp(s, TIMES, VALUES))


@pytest.mark.parametrize("rate", [0.0, 1e-9, 1e-4, 0.02, 0.3, 4.0, 60.0])
def test_convolution_equals_adaptive_quadrature(rate: float) -> None:
    found = convolve_exponential(TIMES, VALUES, torch.tensor(rate, dtype=torch.float64), AT)
    for t, y in zip(AT.tolist(), found.tolist(), strict=True):
        edges = [s for s in TIMES.tolist() if s < t] + [t]
        pieces = (
            quad(
                lambda s, t=t: curve(s) * np.exp(-rate * (t - s)),
                a,
                b,
                epsabs=1e-14,
                epsrel=1e-13,
                limit=200,
            )[0]
            for a, b in itertools.pairwise(edges)
        )
        # quad's own tolerance
        assert y == pytest.approx(sum(pieces), rel=1e-10, abs=1e-12)


def test_without_decay_the_convolution_is_the_area_under_the_curve() -> None:
    found = convolve_exponential(TIMES, VALUES, torch.zeros((), dtype=torch.float64), TIMES[-1:])
    assert found.item() == pytest.approx(np.trapezoid(VALUES, TIMES), rel=1e-14)


def test_the_convolution_is_zero_before_the_curve_begins() -> None:
    rates = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert (convolve_exponential(TIMES, VALUES, rates, torch.tensor([-5.0, 0.0, 2.0])) == 0).all()


def test_times_may_come_in_any_order() -> None:
    rates = torch.tensor([0.1, 1.0], dtype=torch.float64)
    order = torch.randperm(len(AT), generator=torch.Generator().manual_seed(0))
    shuffled = convolve_exponential(TIMES, VALUES, rates, AT[order])
    assert torch.equal(shuffled, convolve_exponential(TIMES, VALUES, rates, AT)[:, order])


def test_more_nodes_on_the_same_lines_change_nothing() -> None:
    fine = torch.cat([TIMES, torch.linspace(2.0, 80.0, 777, dtype=torch.float64)]).unique()
    values = torch.as_tensor(np.interp(fine, TIMES, VALUES))
    rates = torch.logspace(-5, 1.5, 40, dtype=torch.float64)
    coarse = convolve_exponential(TIMES, VALUES, rates, AT)
    # round-off of 800 steps
    assert torch.allclose(
        convolve_exponential(fine, values, rates, AT), coarse, rtol=1e-11, atol=1e-13
    )


def test_slope_equals_automatic_differentiation_from_zero_rate_to_instant_washout() -> None:
    rates = torch.tensor(
        [0.0, 1e-7, 1e-3, 0.0119, 0.06, 0.5, 3.0, 50.0], dtype=torch.float64, requires_grad=True
    )
    y, slope = convolve_exponential_with_derivative(TIMES, VALUES, rates, AT)
    for j in range(len(AT)):
        (derivative,) = torch.autograd.grad(y[:, j].sum(), rates, retain_graph=True)
        # two independent routes through the same weights, cancellation at small k h included
        torch.testing.assert_close(slope[:, j], derivative, rtol=1e-9, atol=1e-10)


def test_slope_equals_central_differences() -> None:
    rates = torch.tensor([1e-3, 0.05, 0.4], dtype=torch.float64)
    _, slope = convolve_exponential_with_derivative(TIMES, VALUES, rates, AT)
    step = 1e-5 * rates
    above, below = (convolve_exponential(TIMES, VALUES, rates + s, AT) for s in (step, -step))
    # central differences: step squared times the third derivative, plus round-off over the step
    torch.testing.assert_close(slope, (above - below) / (2 * step[:, None]), rtol=1e-7, atol=1e-7)


def test_table_is_exact_to_1e_8_of_the_curve_between_its_nodes() -> None:
    table = ExponentialTable.from_curve(TIMES, VALUES, AT)
    low, high = np.log(table.lowest), np.log(table.highest)
    rates = torch.as_tensor(np.exp(np.random.default_rng(0).uniform(low, high, 3000)))
    exact, exact_slope = convolve_exponential_with_derivative(TIMES, VALUES, rates, AT)
    found, slope = table(rates)
    size = exact.abs().amax(dim=1, keepdim=True)
    assert ((found - exact).abs() / size).max() < 1e-8
    # Hermite slopes are one order worse than values
    assert ((slope - exact_slope).abs() * rates[:, None] / size).max() < 1e-6
