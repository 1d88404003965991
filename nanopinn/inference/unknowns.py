"""Unknowns of a fit with their priors, and the map from coordinates to scalars of the model.

The tumour's unknowns are those of :mod:`nanopinn.parameters.unknown_registry`. A function of time
that is constant between events has one unknown per time segment.
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
from nanopinn.parameters import (
    HOUR,
    Parameter,
    release_multiplier_name,
    scalars_of_formulation,
)
from nanopinn.physics.formulation import Formulation
from nanopinn.results import ScalarEstimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Unknown:
    """A scalar with its prior.

    Attributes:
        name: key among the scalars of the model.
        label: name in tables and figures.
        unit: customary unit.
        per_unit: customary value = SI value times this.
        scale: the coordinate of the fit is the natural logarithm of the SI value ("log") or the
            value ("linear").
        prior_median: SI.
        prior_sd: of the coordinate.

    Raises:
        InputError: the prior sd is not positive, or the median of a logarithm is not.
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
                "a prior needs a positive standard deviation", field=self.name, found=self.prior_sd
            )
        if not np.isfinite(self.prior_median) or (self.scale == "log" and self.prior_median <= 0):
            expected = (
                "a positive number, because its logarithm is estimated"
                if self.scale == "log"
                else "a finite number"
            )
            raise InputError(
                "the median of a prior is invalid",
                field=self.name,
                found=self.prior_median,
                expected=expected,
            )

    @classmethod
    def with_prior(
        cls,
        name: str,
        median: float,
        sd: float,
        *,
        scale: Literal["log", "linear"] = "log",
        unit: str = "1",
    ) -> Unknown:
        """A scalar of a model of your own.

        Args:
            name: key among the scalars.
            median: of the prior, in the unit of the model.
            sd: of the prior, of the logarithm for scale "log".
            scale: "log" or "linear".
            unit: for tables.
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
        """Prior and posterior in customary units.

        Args:
            coordinate: of the estimate.
            sd: of the coordinate.
        """
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


def scalar_unknowns(
    formulation: Formulation | None = None, priors: Mapping[str, Parameter] | None = None
) -> tuple[Unknown, ...]:
    """Every scalar on which a study with a formulation depends, with its prior.

    The driving pressure p_e is among them although no image depends on it, so that its prior is
    shown.

    Args:
        formulation: that is given; without one, the scalars of a carrier that acid triggers.
        priors: parameters whose value and distribution replace those of the registry, by name of
            the scalar.
    """
    carrier = formulation is None or formulation.circulation is not None
    acid = formulation is None or formulation.responds_to_acid
    found = []
    for s in scalars_of_formulation(carrier=carrier, acid=acid):
        median, sd = s.default, s.prior.sd
        own = None if priors is None else priors.get(s.name)
        if own is not None:
            median = own.value
            distribution = own.distribution()
            if distribution is not None and distribution.logarithmic == (s.scale == "log"):
                sd = max(distribution.sd_below, distribution.sd_above)
        found.append(Unknown(s.name, s.label, s.unit, s.per_unit, s.scale, median, sd))
    return tuple(found)


@dataclass(frozen=True)
class UnknownSet:
    """Unknowns in the order of their coordinates: scalars, then the weights of functions.

    Attributes:
        items: scalars.
        functions: functions of space or pH.
    """

    items: tuple[Unknown, ...]
    functions: tuple[FunctionUnknown, ...] = ()

    def __len__(self) -> int:
        return len(self.items) + sum(f.count for f in self.functions)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every coordinate."""
        return (*(u.name for u in self.items), *(name for f in self.functions for name in f.names))

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of every coordinate."""
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

    def prior_residual(self, theta: Array) -> Array:
        """Distance from the prior means in prior standard deviations, ``(m,)``."""
        return np.asarray((theta - self.prior_mean) / self.prior_sd)

    def where(self, name: str) -> slice:
        """Coordinates of the weights of a function.

        Raises:
            KeyError: there is no such function.
        """
        at = len(self.items)
        for f in self.functions:
            if f.name == name:
                return slice(at, at + f.count)
            at += f.count
        raise KeyError(name)

    def scalars(self, theta: Tensor) -> dict[str, Tensor]:
        """Scalars of the model (SI) and weights of functions at coordinates ``(m,)``."""
        values = {u.name: u.value(theta[j]) for j, u in enumerate(self.items)}
        return values | {f.name: theta[self.where(f.name)] for f in self.functions}

    def estimates(self, theta: Array, covariance: Array) -> tuple[ScalarEstimate, ...]:
        """Estimates of the scalars in customary units."""
        sds = np.sqrt(np.diag(covariance))
        return tuple(
            u.estimate(float(t), float(s)) for u, t, s in zip(self.items, theta, sds, strict=False)
        )

    def without(self, names: Sequence[str] | frozenset[str]) -> UnknownSet:
        """The set without some of its unknowns."""
        kept = tuple(f for f in self.functions if f.name not in names)
        return UnknownSet(tuple(u for u in self.items if u.name not in names), kept)


@dataclass(frozen=True)
class PiecewiseConstantFunction:
    """A function of time that is constant between events, with one scalar per time segment.

        infusion = PiecewiseConstantFunction("infusion", (3600.0, 7200.0))
        clearance = Unknown.with_prior("clearance", 1e-6, 1.0)
        unknowns = UnknownSet((*infusion.unknowns(1e-9, 1.0), clearance))
        problem = SystemProblem(
            unknowns,
            lambda t, y, s: (infusion.value_at(t, s) - s["clearance"] * y) / volume,
            initial,
            series, events=infusion.jumps
        )

    Attributes:
        name: of the function.
        jumps: times of the events, s, increasing.

    Raises:
        InputError: there is no event, or the times do not increase.
    """

    name: str
    jumps: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.jumps:
            raise InputError(
                "a function of time needs at least two segments",
                field=self.name,
                expected="at least one time at which it changes",
                remedy="Give the times of events, or use a scalar.",
            )
        if not all(a < b for a, b in itertools.pairwise(self.jumps)):
            raise InputError(
                "the times at which a function changes do not increase",
                field=self.name,
                found=self.jumps,
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scalars, one per segment."""
        return tuple(f"{self.name}[{k}]" for k in range(len(self.jumps) + 1))

    def unknowns(self, median: float, sd: float, *, unit: str = "1") -> tuple[Unknown, ...]:
        """The scalars with log-normal priors.

        Args:
            median: of every segment.
            sd: of the logarithm.
            unit: for tables.
        """
        return tuple(Unknown.with_prior(name, median, sd, unit=unit) for name in self.names)

    def value_at(self, t: Tensor, scalars: Mapping[str, Tensor]) -> Tensor:
        """The function at a time (s); at an event it has the value before it."""
        first, *later = (scalars[name] for name in self.names)
        for jump, value in zip(self.jumps, later, strict=True):
            first = torch.where(t > jump, value, first)
        return first


#: Prior sd of the logarithm of the release multiplier of a time segment (an assumption).
RELEASE_SD = 0.5


def release_rate_unknowns(
    jumps_s: tuple[float, ...], *, sd: float = RELEASE_SD
) -> tuple[Unknown, ...]:
    """Multipliers of the release rate in every time segment but the first.

    The first segment has no multiplier, which would be exactly correlated with the release rate.

    Args:
        jumps_s: times at which the rate changes, s after the dose, increasing.
        sd: of the logarithm of each multiplier.

    Raises:
        InputError: there is no time, the times do not increase, or one is not after the dose.
    """
    at = tuple(t / HOUR for t in jumps_s)
    function = PiecewiseConstantFunction("release_in_time", at)
    if at[0] <= 0:
        raise InputError(
            "the release rate changes before the dose",
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
