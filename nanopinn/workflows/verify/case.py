"""One observed value beside what is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class VerificationCase:
    """One observed value beside its reference; ``tolerance`` is absolute.

    Attributes:
        kind: ``value`` where the package must give the reference: an analytic value, a published formula, an invariant. ``bracket``
            where it is a measurement, or another model, of another tumour in another animal under another treatment: it is shown
            beside the observed value, inside its tolerance or not, and cannot fail.
    """

    id: str
    name: str
    quantity: str
    observed: float
    reference: float
    tolerance: float
    source: str
    kind: Literal["value", "bracket"] = "value"

    @property
    def passed(self) -> bool:
        """Whether the observed value lies within the tolerance."""
        return bool(abs(self.observed - self.reference) <= self.tolerance)

    @property
    def failed(self) -> bool:
        """Whether something is wrong with the package."""
        return self.kind == "value" and not self.passed
