"""Time that a stage takes yet."""

from __future__ import annotations

import pytest

from nanopinn import progress
from nanopinn.progress import RemainingTimeEstimator


def test_the_time_left_is_that_of_a_stage_that_goes_on_as_it_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock = RemainingTimeEstimator()
    assert clock.estimate_remaining_s("a", 0.2) is None  # nothing is known at its beginning
    now[0] += 10
    assert clock.estimate_remaining_s("a", 0.4) == pytest.approx(
        30
    )  # a fifth in 10 s, three fifths left
    assert clock.estimate_remaining_s("b", 0.5) is None
    now[0] += 30
    assert clock.estimate_remaining_s("a", 1.0) is None
