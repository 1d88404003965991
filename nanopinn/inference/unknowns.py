"""What a fit infers, in the parameterisation that images can know, each with its prior.

Unknowns that are functions of time, constant in each stretch between events.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.inference.basis import FunctionUnknown
from nanopinn.parameters.unknown_registry import SCALARS, release_multiplier_name
from nanopinn.results.fit_result import ScalarEstimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Unknown:
    """One scalar with its prior.

    The fit works in a coordinate: the natural logarithm of the SI value ("log") or the value
    itself.

    Attributes:
        name: key among the model's scalars.
        label: what it is called for the reader.
        unit: customary unit.
        per_unit: customary value = SI value times this.
        scale: how the coordinate is made.
        prior_median: SI.
        prior_sd: in the coordinate.

    Raises:
        InputError: a prior that contradicts itself: no spread, or a logarithm of what is not
            positive.
    """

    name: str
    label: str
    unit: str
    per_unit: float
    scale: Literal["log", "linear"]
    prior_median: float
    prior_sd: float

    def __post_init__(self) -> None:
        if not 0 < self.prior_sd < np.inf:
            raise InputError(
                "a prior needs a positive spread", field=self.name, found=self.prior_sd
            )
        if not np.isfinite(self.prior_median) or (self.scale == "log" and self.prior_median <= 0):
            expected = (
                "a positive number, for its logarithm is inferred"
                if self.scale == "log"
                else "a finite number"
            )
            raise InputError(
                "a prior has no such median",
                field=self.name,
                found=self.prior_median,
                expected=expected,
            )

    @classmethod
    def of(
        cls,
        name: str,
        median: float,
        sd: float,
        *,
        scale: Literal["log", "linear"] = "log",
        unit: str = "1",
    ) -> Unknown:
        """A scalar of a model of your own, in the unit in which the model works; ``sd`` is that of
        its logarithm by default.
        """
        return cls(name, name, unit, 1.0, scale, median, sd)

    @property
    def prior_mean(self) -> float:
        """Prior mean of the coordinate."""
        return float(np.log(self.prior_median)) if self.scale == "log" else self.prior_median

    def value(self, coordinate: Tensor) -> Tensor:
        """SI value of a coordinate."""
        return torch.exp(coordinate) if self.scale == "log" else coordinate

    def estimate(self, coordinate: float, sd: float) -> ScalarEstimate:
        """The estimate in customary units, prior beside posterior."""
        linear = self.scale == "linear"
        return ScalarEstimate(
            name=self.name,
            label=self.label,
            unit=self.unit,
            scale=self.scale,
            prior_median=self.prior_median * self.per_unit,
            prior_sd=self.prior_sd * (self.per_unit if linear else 1.0),
            median=float(self.value(torch.tensor(coordinate, dtype=torch.float64))) * self.per_unit,
            sd=sd * (self.per_unit if linear else 1.0),
        )


def scalar_unknowns() -> tuple[Unknown, ...]:
    """Every scalar of the registry with its prior.

    The driving pressure p_e is among them although no image depends on it, so that its prior is
    shown.
    """
    return tuple(
        Unknown(s.name, s.label, s.unit, s.per_unit, s.scale, s.default, s.prior.sd)
        for s in SCALARS.values()
    )


@dataclass(frozen=True)
class UnknownSet:
    """Unknowns in order, scalars first, with the map from their coordinates to the model's scalars."""

    items: tuple[Unknown, ...]
    functions: tuple[FunctionUnknown, ...] = ()

    def __len__(self) -> int:
        return len(self.items) + sum(f.count for f in self.functions)

    @property
    def names(self) -> tuple[str, ...]:
        """Of every coordinate."""
        return (*(u.name for u in self.items), *(name for f in self.functions for name in f.names))

    @property
    def labels(self) -> tuple[str, ...]:
        """Of every coordinate, for the reader."""
        return (
            *(u.label for u in self.items),
            *(f"{f.label} ({name})" for f in self.functions for name in f.names),
        )

    @property
    def prior_mean(self) -> Array:
        means = np.zeros(len(self))
        means[: len(self.items)] = [u.prior_mean for u in self.items]
        return means

    @property
    def prior_sd(self) -> Array:
        return np.array(
            [
                *(u.prior_sd for u in self.items),
                *(f.weight_sd for f in self.functions for _ in range(f.count)),
            ]
        )

    def where(self, name: str) -> slice:
        """Coordinates of a function.

        Raises:
            KeyError: it is not among the unknowns.
        """
        at = len(self.items)
        for f in self.functions:
            if f.name == name:
                return slice(at, at + f.count)
            at += f.count
        raise KeyError(name)

    def scalars(self, theta: Tensor) -> dict[str, Tensor]:
        """Model scalars (SI), and weights of functions, at a coordinate vector ``(m,)``."""
        values = {u.name: u.value(theta[j]) for j, u in enumerate(self.items)}
        return values | {f.name: theta[self.where(f.name)] for f in self.functions}

    def estimates(self, theta: Array, covariance: Array) -> tuple[ScalarEstimate, ...]:
        """Estimates of the scalars in customary units."""
        sds = np.sqrt(np.diag(covariance))
        return tuple(
            u.estimate(float(t), float(s)) for u, t, s in zip(self.items, theta, sds, strict=False)
        )

    def without(self, names: Sequence[str] | frozenset[str]) -> UnknownSet:
        """The set less some of its members."""
        kept = tuple(f for f in self.functions if f.name not in names)
        return UnknownSet(tuple(u for u in self.items if u.name not in names), kept)


@dataclass(frozen=True)
class PiecewiseConstantFunction:
    """Something that is constant in each stretch of time between events, and jumps at them; one
    scalar for each stretch.

        infusion = PiecewiseConstantFunction("infusion", (3600.0, 7200.0))
        unknowns = UnknownSet((*infusion.unknowns(1e-9, 1.0), Unknown.of("clearance", 1e-6, 1.0)))
        problem = SystemProblem(
            unknowns, lambda t, y, s: (infusion.at(t, s) - s["clearance"] * y) / volume, initial,
            series, events=infusion.jumps
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


#: Prior standard deviation of the logarithm of what a later stretch multiplies the release rate by
#: (an assumption).
RELEASE_SD = 0.5


def release_rate_unknowns(
    jumps_s: tuple[float, ...], *, sd: float = RELEASE_SD
) -> tuple[Unknown, ...]:
    """What the carrier's release rate is multiplied by in every stretch but the first, to which the
    release law itself belongs.

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
