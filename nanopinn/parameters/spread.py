"""How uncertain a parameter of the table is: what it is drawn from where nothing better is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nanopinn.parameters.table import Parameter

Array = NDArray[np.float64]

#: Standard normal deviate at the ends of a central 95 % interval.
Z95 = 1.959963984540054
#: How a range without a prior is read, for those who read results.
RANGE_INTERPRETATION = (
    "Parameters whose row states no prior are drawn so that the row's value is the median and its low and high are the central 95 % "
    "interval, cut off there: normal for temperatures, shares and what may be 0 or less, log-normal for all others."
)


@dataclass(frozen=True)
class ParameterDistribution:
    """Normal, or normal in the logarithm, about a median, with a spread of its own on either side.

    Attributes:
        median: in the parameter's unit.
        below, above: standard deviations of the coordinate (the value, or its natural logarithm).
        logarithmic: which of the two coordinates.
        cut: standard normal deviate beyond which nothing lies; infinite for a stated prior.
    """

    median: float
    sd_below: float
    sd_above: float
    logarithmic: bool
    truncation_z: float = np.inf

    def values_at_deviates(self, z: Array) -> Array:
        """Values at standard normal deviates ``z``, increasing in z; the median at 0."""
        from scipy.special import ndtr, ndtri

        z = np.asarray(z, dtype=np.float64)
        if np.isfinite(self.truncation_z):
            # the share of the normal within the cut, spread over the deviates within it
            z = ndtri(0.5 + (ndtr(z) - 0.5) * (ndtr(self.truncation_z) - ndtr(-self.truncation_z)))
        moved = z * np.where(z < 0, self.sd_below, self.sd_above)
        return np.asarray(self.median * np.exp(moved) if self.logarithmic else self.median + moved)


def parameter_distribution(p: Parameter) -> ParameterDistribution | None:
    """What a row says of a parameter's uncertainty: its prior, else its range; None where it has neither.

    Without a prior ``low`` and ``high`` are the central 95 % interval and hold every value (:data:`RANGE_INTERPRETATION`).
    """
    if p.prior is not None:
        return ParameterDistribution(p.value, p.prior.sd, p.prior.sd, p.prior.kind == "lognormal")
    if p.low is None or p.high is None:
        return None
    share = p.unit == "1" and p.high <= 1
    if p.unit == "K" or share or p.low <= 0:
        return ParameterDistribution(
            p.value,
            (p.value - p.low) / Z95,
            (p.high - p.value) / Z95,
            logarithmic=False,
            truncation_z=Z95,
        )
    return ParameterDistribution(
        p.value,
        float(np.log(p.value / p.low)) / Z95,
        float(np.log(p.high / p.value)) / Z95,
        logarithmic=True,
        truncation_z=Z95,
    )
