"""How long work tells those who wait for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

#: Called as ``progress(stage, fraction done in 0..1, numbers worth showing)``.
Progress = Callable[[str, float, Mapping[str, float]], None]


def silent(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
    """Progress that nobody watches."""
