"""One observed value beside what is known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VerificationCase:
    """One observed value beside its reference; ``tolerance`` is absolute."""

    id: str
    name: str
    quantity: str
    observed: float
    reference: float
    tolerance: float
    source: str

    @property
    def passed(self) -> bool:
        return bool(abs(self.observed - self.reference) <= self.tolerance)
