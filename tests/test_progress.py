"""Remaining time of a stage."""

from __future__ import annotations

import pytest

from nanopinn import progress
from nanopinn.progress import RemainingTimeEstimator


def test_remaining_time_extrapolates_the_stage_linearly(
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
