"""Results of planning a protocol: expected posteriors, and the information of further images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.results.fit_result import ScalarEstimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ExpectedEstimate:
    """Prior sd of one unknown, and its posterior sd as expected before the scan.

    Every sd is in natural-log units where ``scale`` is "log" and in ``unit`` where it is "linear".

    Attributes:
        name: key of the unknown.
        label: its name in tables.
        unit: customary unit.
        scale: "log" or "linear".
        prior_sd: of the prior.
        sd: mean posterior sd over the draws.
        low: smallest posterior sd of the draws.
        high: largest posterior sd of the draws.
    """

    name: str
    label: str
    unit: str
    scale: str
    prior_sd: float
    sd: float
    low: float
    high: float

    @property
    def contraction(self) -> float:
        """Expected ``1 - sd_post / sd_prior``."""
        return 1.0 - self.sd / self.prior_sd

    @property
    def informed(self) -> bool:
        """Whether the images rather than the prior would determine the value."""
        return self.contraction >= ScalarEstimate.INFORMED_FROM


@dataclass(frozen=True)
class CandidateGain:
    """What one more image would add.

    Attributes:
        name: of the image.
        gain: expected information, nats, mean over the draws.
        low: smallest expected information of the draws.
        high: largest expected information of the draws.
        gain_after_best: expected information, nats, once the best candidate is part of the
            protocol.
        unknowns: as expected with this image.
    """

    name: str
    gain: float
    low: float
    high: float
    gain_after_best: float
    unknowns: tuple[ExpectedEstimate, ...]


@dataclass(frozen=True, repr=False)
class Plan:
    """Expected posterior under a protocol, and the information of every candidate image.

    Attributes:
        protocol: what would be measured, and where the tumour comes from: sentences.
        expected: every unknown under the protocol as it is.
        additions: every candidate, the one with the largest gain first.
        centre: what the first draw is ("prior medians", "the estimate"); the others are drawn
            around it.
        sd: expected posterior sd in the coordinates of the unknowns, ``(draws, m)``.
        gain: expected information of each candidate in the order given, nats, ``(draws, c)``.
        seconds: duration.
    """

    protocol: tuple[str, ...]
    expected: tuple[ExpectedEstimate, ...]
    additions: tuple[CandidateGain, ...]
    centre: str
    sd: Array
    gain: Array
    seconds: float

    def __repr__(self) -> str:
        best, informed = self.additions[0], sum(e.informed for e in self.expected)
        return (
            f"Plan({informed} of {len(self.expected)} unknowns informed; best addition:"
            f" {best.name}, +{best.gain:.2f} nats)"
        )

    def __getitem__(self, name: str) -> ExpectedEstimate:
        return next(e for e in self.expected if e.name == name)


@dataclass(frozen=True)
class ImagingStage:
    """An outcome with the posterior of the tumour after some of the images.

    Attributes:
        name: images that were fitted.
        images: number of times with post-dose images.
        median: outcome with all inputs at their medians.
        low: lower end of the central 95 % of the draws.
        high: upper end of the central 95 % of the draws.
        sd: standard deviation of the outcome's natural logarithm over the draws.
        informed: unknowns that the images informed.
    """

    name: str
    images: int
    median: float
    low: float
    high: float
    sd: float
    informed: tuple[str, ...] = ()


@dataclass(frozen=True)
class MinimalImaging:
    """Uncertainty of an outcome from the prior to no, one and more post-dose images, and if all
    unknowns of the tumour were known.

    Attributes:
        outcome: name of the outcome.
        unit: of the outcome.
        stages: the prior first.
        remaining: with all unknowns of the tumour at their estimates.
        draws: number of draws.
        assumptions: one sentence each.
    """

    outcome: str
    unit: str
    stages: tuple[ImagingStage, ...]
    remaining: ImagingStage
    draws: int
    assumptions: tuple[str, ...]
