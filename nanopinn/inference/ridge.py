"""Which other unknown an unknown is traded against: the valley along which the data are nearly indifferent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StrongestCorrelation:
    """The other unknown that moves most, in its posterior standard deviations, when one is moved.

    Attributes:
        partner: its name.
        strength: posterior sd of the partner per posterior sd of the unknown; by a covariance that is their correlation.
        slope: change of the partner's coordinate per change of the unknown's (logarithm or value), along the valley.
    """

    partner: str
    strength: float
    slope: float


def strongest_correlation(
    names: Sequence[str], covariance: Array, name: str
) -> StrongestCorrelation | None:
    """By a posterior covariance ``(m, m)``; None for an unknown that stands alone."""
    j = names.index(name)
    return correlation_along_profile(names, covariance[:, j], np.sqrt(np.diag(covariance)), j)


def correlation_along_profile(
    names: Sequence[str], moved: Array, sd: Array, j: int
) -> StrongestCorrelation | None:
    """By how far every coordinate went, ``(m,)``, while unknown j was moved.

    Args:
        sd: posterior standard deviations of the coordinates, ``(m,)``.
    """
    share = moved / sd / (moved[j] / sd[j])
    share[j] = 0.0
    i = int(np.argmax(np.abs(share)))
    # round-off is no valley
    return (
        StrongestCorrelation(names[i], float(share[i]), float(moved[i] / moved[j]))
        if abs(share[i]) > 1e-3
        else None
    )
