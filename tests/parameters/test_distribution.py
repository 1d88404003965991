"""Distribution of a parameter: its prior where one is stated, else its range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from nanopinn.parameters import PARAMETERS, Z95, ParameterDistribution, Prior

Z = norm.ppf((np.arange(20_000) + 0.5) / 20_000)


@pytest.mark.parametrize("symbol", ["k_TSL", "T_m", "fb", "p_L", "tau_c", "p_O2_hyp"])
def test_a_range_is_the_95_percent_interval_and_truncates_the_distribution(
    symbol: str,
) -> None:
    p = PARAMETERS[symbol]
    spread = p.distribution()
    assert spread is not None
    assert p.low is not None
    assert p.high is not None
    drawn = spread.values_at_deviates(Z)
    assert spread.values_at_deviates(np.zeros(1)) == pytest.approx([p.value])
    assert p.low <= drawn.min() <= drawn.max() <= p.high
    assert np.all(np.diff(drawn) >= 0)
    # of the uncut distribution the ends are the 95 % interval
    uncut = replace(spread, truncation_z=np.inf).values_at_deviates(np.array([-Z95, Z95]))
    assert uncut == pytest.approx([p.low, p.high], rel=1e-12)


def test_temperatures_and_fractions_are_normal_and_rates_log_normal() -> None:
    spreads = {
        s: PARAMETERS[s].distribution()
        for s in ("T_m", "fb", "sigma_f", "g_pH", "krel_TSL_hot", "M_O2")
    }
    assert not any(spreads[s].logarithmic for s in ("T_m", "fb", "sigma_f", "g_pH"))  # type: ignore[union-attr]
    assert all(spreads[s].logarithmic for s in ("krel_TSL_hot", "M_O2"))  # type: ignore[union-attr]


def test_a_stated_prior_takes_precedence_over_the_range() -> None:
    p = PARAMETERS["p_e"]
    assert p.prior == Prior("lognormal", 0.35)
    spread = p.distribution()
    assert spread is not None
    assert np.log(spread.values_at_deviates(Z) / p.value).std() == pytest.approx(0.35, rel=1e-3)
    assert spread.values_at_deviates(Z).min() < (p.low or 0)


def test_a_row_without_prior_and_range_has_no_distribution() -> None:
    assert PARAMETERS["A_dox"].distribution() is None


def test_a_step_of_a_symmetric_distribution_is_a_change_of_its_deviate() -> None:
    known = ParameterDistribution(2.0, 0.4, 0.4, logarithmic=True)
    expected = float(known.values_at_deviates(np.array(1.5)))
    assert known.value_after_step(1.0, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize(("below", "above"), [(0.85, 0.06), (0.06, 0.85)])
def test_a_step_from_the_median_sees_the_spread_on_both_sides(below: float, above: float) -> None:
    skewed = ParameterDistribution(2.0, below, above, logarithmic=True)
    slope = np.log(skewed.value_after_step(0.0, 0.5) / 2.0) / 0.5
    # least squares over a standard normal deviate weighs both half-lines alike
    assert slope == pytest.approx((below + above) / 2)
    far = np.log(skewed.value_after_step(2.0, 0.5) / skewed.values_at_deviates(np.array(2.0)))
    assert far == pytest.approx(0.5 * above)
