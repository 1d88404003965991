"""Intervals of proportions of covered values."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from nanopinn.cohort.coverage import wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (9, 10), (54, 60), (60, 60)])
def test_wilson_interval_equals_that_of_scipy(successes: int, trials: int) -> None:
    known = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, trials, z=1.959964) == pytest.approx(
        (known.low, known.high), abs=1e-6
    )


def test_no_trials_leave_the_proportion_open() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
