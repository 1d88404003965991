"""Unknowns that are functions of time, constant in each stretch between events."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.inference.unknowns import Unknown
from nanopinn.physics.model import release_multiplier_name


@dataclass(frozen=True)
class PiecewiseConstantFunction:
    """Something that is constant in each stretch of time between events, and jumps at them; one scalar for each stretch.

        infusion = PiecewiseConstantFunction("infusion", (3600.0, 7200.0))
        unknowns = UnknownSet((*infusion.unknowns(1e-9, 1.0), Unknown.of("clearance", 1e-6, 1.0)))
        problem = SystemProblem(
            unknowns, lambda t, y, s: (infusion.at(t, s) - s["clearance"] * y) / volume, initial, series, events=infusion.jumps
        )

    Attributes:
        name: of the function. jumps: s, increasing.

    Raises:
        InputError: there is one stretch only, or the jumps do not increase.
    """

    name: str
    jumps: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.jumps:
            raise InputError(
                "a function of time with one stretch is a number",
                field=self.name,
                expected="at least one time at which it jumps",
                remedy="Give the times of events, or make it a scalar.",
            )
        if not all(a < b for a, b in itertools.pairwise(self.jumps)):
            raise InputError(
                "times at which a function jumps do not increase", field=self.name, found=self.jumps
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scalars, one for each stretch."""
        return tuple(f"{self.name}[{k}]" for k in range(len(self.jumps) + 1))

    def unknowns(self, median: float, sd: float, *, unit: str = "1") -> tuple[Unknown, ...]:
        """The scalars with one log-normal prior each; ``sd`` is that of the logarithm."""
        return tuple(Unknown.of(name, median, sd, unit=unit) for name in self.names)

    def at(self, t: Tensor, scalars: Mapping[str, Tensor]) -> Tensor:
        """The function at a time (s); at a jump it still has the value before."""
        first, *later = (scalars[name] for name in self.names)
        for jump, value in zip(self.jumps, later, strict=True):
            first = torch.where(t > jump, value, first)
        return first


#: Prior standard deviation of the logarithm of what a later stretch multiplies the release rate by (an assumption).
RELEASE_SD = 0.5


def release_rate_unknowns(
    jumps_s: tuple[float, ...], *, sd: float = RELEASE_SD
) -> tuple[Unknown, ...]:
    """What the carrier's release rate is multiplied by in every stretch but the first, to which the release law itself belongs.

    The first stretch has no multiplier of its own: it would be one ridge with the rate of the law.

    Args:
        jumps_s: s after the dose, increasing.

    Raises:
        InputError: there are none, they do not increase, or one is not after the dose.
    """
    at = tuple(t / 3600 for t in jumps_s)
    function = PiecewiseConstantFunction("hours at which release jumps", at)
    if at[0] <= 0:
        raise InputError(
            "the release rate jumps before anything is there",
            field=function.name,
            found=at[0],
            expected="above 0",
        )
    hours = [f"{h:g}" for h in at]
    spans = [*(f"{a} to {b} h" for a, b in itertools.pairwise(hours)), f"from {hours[-1]} h"]
    return tuple(
        Unknown(release_multiplier_name(k), f"release {span} over first", "1", 1.0, "log", 1.0, sd)
        for k, span in enumerate(spans, start=1)
    )
