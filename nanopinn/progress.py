"""Progress of a run: the callback that reports it, and the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

#: Called as ``progress(stage, fraction, numbers)``: name of the stage, fraction done in 0..1, and
#: numbers to show by name.
Progress = Callable[[str, float, Mapping[str, float]], None]


def ignore_progress(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
    """A progress callback that does nothing."""


class RemainingTimeEstimator:
    """Estimates the remaining time of each stage from its first and latest report."""

    def __init__(self) -> None:
        self._began: dict[str, tuple[float, float]] = {}

    def estimate_remaining_s(self, stage: str, fraction: float) -> float | None:
        """Extrapolate the remaining time of a stage linearly.

        Args:
            stage: its name.
            fraction: done, 0..1.

        Returns:
            Seconds; None within the first second, and before and after the stage.
        """
        now = time.monotonic()
        then, since = self._began.setdefault(stage, (now, fraction))
        if fraction <= since or fraction >= 1 or now - then < 1:
            return None
        return (now - then) * (1 - fraction) / (fraction - since)
