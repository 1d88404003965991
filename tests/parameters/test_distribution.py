"""Distribution of a parameter: its prior where one is stated, else its range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from nanopinn.parameters import PARAMETERS, Z95, Prior

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
