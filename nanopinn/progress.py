"""How long work tells those who wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

#: Called as ``progress(stage, fraction done in 0..1, numbers worth showing)``.
Progress = Callable[[str, float, Mapping[str, float]], None]


def ignore_progress(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
    """Progress that nobody watches."""


class RemainingTimeEstimator:
    """How long each stage takes yet."""

    def __init__(self) -> None:
        self._began: dict[str, tuple[float, float]] = {}

    def estimate_remaining_s(self, stage: str, fraction: float) -> float | None:
        """Seconds until a stage ends if it goes on as it did, to its last step (it may end sooner);
        None while nobody knows.
        """
        now = time.monotonic()
        then, since = self._began.setdefault(stage, (now, fraction))
        if fraction <= since or fraction >= 1 or now - then < 1:
            return None
        return (now - then) * (1 - fraction) / (fraction - since)
