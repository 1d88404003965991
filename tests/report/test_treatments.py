"""Text and serialised entries of simulations and comparisons of treatment arms."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from nanopinn.report.treatment_folder import _radiation_entries
from nanopinn.report.treatment_summary import (
    describe_radiation_comparison,
    format_mass_balance,
    mass_balance_rows,
)
from nanopinn.results import MassBalance, OutcomeChange, RadiationComparison

EFFECT = RadiationComparison(
    "tsl", 24.0, (OutcomeChange("interstitial pressure", "mmHg", (0.9, 0.8, 1.1), 0.25),)
)


def test_radiation_entries_keep_the_keys_of_version_0_1() -> None:
    assert _radiation_entries(SimpleNamespace(radiation=None)) is None  # type: ignore[arg-type]
    assert _radiation_entries(SimpleNamespace(radiation=EFFECT)) == {  # type: ignore[arg-type]
        "arm": "tsl",
        "at_h": 24.0,
        "rows": [
            {
                "words": "interstitial pressure",
                "unit": "mmHg",
                "ratio": [0.9, 0.8, 1.1],
                "likelier": 0.25,
            }
        ],
    }


def test_radiation_effect_is_described_with_its_interval_and_probability() -> None:
    text = describe_radiation_comparison(EFFECT)
    assert "interstitial pressure x0.90 (0.80 to 1.10), higher in 25% of the draws" in text


def test_last_row_of_a_mass_balance_is_the_sum() -> None:
    one, two = np.array([1.0, 2.0]), np.array([0.5, 0.25])
    balance = MassBalance(("free", "bound"), one, two, two, one - 2 * two, 1e-9)
    assert mass_balance_rows(balance)[-1] == ("all", 3.0, 0.75, 0.75, 1.5)
    assert format_mass_balance(balance).endswith("Relative mass-balance error: 1.0e-09")
