"""Division of a treatment into time segments with constant coefficients.

Time is divided at every event (dose, heating, fraction of radiation) and, between events, where the
factors on the tissue's properties or the release rate change. Within a segment every coefficient
has its value at the middle of the segment, which is of second order in the segment's length.
Plasma curves need no division: they are exact at any time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.parameters import HOUR, Number, Values
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.heat import TemperatureCourse
from nanopinn.physics.treatment import Treatment

Array = NDArray[np.float64]
#: Change of a quantity from one time (s) to another, 0 or positive.
ChangeMeasure = Callable[[float, float], float]
#: Factors on the tissue's properties at a time (s), by the name that
#: :class:`nanopinn.physics.tumour.TumourModel` gives the property; one or ``(draw,)`` each.
FactorCourse = Callable[[float], Mapping[str, Array | Number]]
#: Factors that change the flow; the others change the permeability of walls only.
FLOW_FACTORS = frozenset({"p_e", "Lp", "K", "SV"})


@dataclass(frozen=True)
class PartitionLimits:
    """Largest changes within one time segment.

    Attributes:
        release_change: of the release rate, as a share of its largest value in the run.
        log_factor_change: of the logarithm of any factor on the tissue's properties. Half of it,
            squared, is the error of taking the value in the middle.
        negligible_log_factor_change: segments within which no factor changes by more are merged.
        reused_log_factor_change: a segment reuses the flow and the factors of the one before it
            where none has changed by more.
        min_segment_s: segments up to twice as long are not divided further, s.
        max_segment_s: longest segment while factors change, s.
    """

    release_change: float
    log_factor_change: float
    negligible_log_factor_change: float
    reused_log_factor_change: float
    min_segment_s: float
    max_segment_s: float = 4 * HOUR


#: Limits on the voxel grid, and in the sub-voxel (Krogh cylinder) model of many draws.
VOXEL_LIMITS = PartitionLimits(0.05, 0.2, 1e-3, 0.0, 0.5)
MICROSCALE_LIMITS = PartitionLimits(0.2, 0.3, 1e-2, 1e-2, 2.0)


@dataclass(frozen=True)
class CoefficientSegment:
    """Time segment with constant coefficients.

    Attributes:
        start, end: s.
        flow_time_s: time at which flow and factors are evaluated, s.
        temperature_time_s: time at which temperature and release are evaluated, s.
        starts_at_event: whether anything may jump at the start.
    """

    start: float
    end: float
    flow_time_s: float
    temperature_time_s: float
    starts_at_event: bool


def partition_treatment(
    treatment: Treatment,
    limits: PartitionLimits,
    factors: FactorCourse | None = None,
    release: tuple[Formulation, TemperatureCourse, Values] | None = None,
) -> list[CoefficientSegment]:
    """Divide a treatment into time segments with constant coefficients.

    Args:
        treatment: its events and its end.
        limits: largest changes within a segment.
        factors: on the tissue's properties; None where they are constant.
        release: carrier, temperature and parameter values where heat releases the drug.

    Returns:
        The segments from 0 to the end of the treatment, in order.
    """
    events = (*treatment.events(), *(release[1].events() if release else ()))
    marks = sorted({0.0, treatment.end_s, *(e for e in events if 0 < e < treatment.end_s)})
    return partition_time(
        marks,
        limits,
        None if factors is None else log_factor_change(factors),
        None if release is None else relative_release_change(*release),
    )


def partition_time(
    marks: list[float],
    limits: PartitionLimits,
    factor_change: ChangeMeasure | None = None,
    release_change: ChangeMeasure | None = None,
) -> list[CoefficientSegment]:
    """Divide time at marks, and between them where coefficients change.

    Args:
        marks: increasing times, s; the first and the last are the ends of the run.
        limits: largest changes within a segment.
        factor_change: largest change of a factor's logarithm; None where factors are constant.
        release_change: change of the release rate over its largest; None where it is constant.

    Returns:
        The segments in order.
    """
    found: list[CoefficientSegment] = []
    for a, b in itertools.pairwise(marks):
        for c, d in _split_by_factor_change(a, b, limits, factor_change):
            flow_time_s = (c + d) / 2
            if found and (
                factor_change is None
                or factor_change(found[-1].flow_time_s, flow_time_s)
                <= limits.reused_log_factor_change
            ):
                flow_time_s = found[-1].flow_time_s
            parts = (
                [(c, d)]
                if release_change is None
                else _bisect(c, d, release_change, limits.release_change, limits.min_segment_s)
            )
            found += [CoefficientSegment(e, f, flow_time_s, (e + f) / 2, e == a) for e, f in parts]
    return found


def log_factor_change(factors: FactorCourse) -> ChangeMeasure:
    """Measure of the largest change of any factor's logarithm, for any draw."""

    def change(a: float, b: float) -> float:
        first, last = (
            {n: torch.as_tensor(f, dtype=torch.float64) for n, f in factors(t).items()}
            for t in (a, b)
        )
        return max((float((last[n] / f).log().abs().max()) for n, f in first.items()), default=0.0)

    return change


def relative_release_change(
    carrier: Formulation, temperature: TemperatureCourse, values: Values
) -> ChangeMeasure:
    """Measure of the largest change, in any cell, of the release rate that heat causes, over the
    largest rate of the run.
    """
    largest = max(
        (
            float(carrier.heat_release_excess(T, values).max())
            for s in temperature.segments
            for T in (s.first, s.last)
        ),
        default=0.0,
    )

    def change(a: float, b: float) -> float:
        # at b there may be a jump, which belongs to the next segment
        during = temperature.smooth_piece_from(a)
        first, last = (carrier.heat_release_excess(during(t), values) for t in (a, b))
        return float((last - first).abs().max()) / largest if largest > 0 else 0.0

    return change


def _split_by_factor_change(
    a: float, b: float, limits: PartitionLimits, change: ChangeMeasure | None
) -> list[tuple[float, float]]:
    """Intervals within which factors change little; those within which none changes are merged."""
    if change is None:
        return [(a, b)]

    def change_inside(c: float, d: float) -> float:
        # evaluated inside, because there may be a jump at both ends
        inwards = 1e-6 * (d - c)
        return change(c + inwards, d - inwards)

    parts = [
        p
        for c, d in _split_evenly(a, b, limits.max_segment_s)
        for p in _bisect(c, d, change_inside, limits.log_factor_change, limits.min_segment_s)
    ]
    merged = parts[:1]
    for c, d in parts[1:]:
        first = merged[-1][0]
        constant = all(
            change_inside(first, t) <= limits.negligible_log_factor_change
            for t in (d, (first + d) / 2)
        )
        merged = [*merged[:-1], (first, d)] if constant else [*merged, (c, d)]
    return merged


def _bisect(
    a: float, b: float, change: ChangeMeasure, largest: float, shortest: float
) -> list[tuple[float, float]]:
    """Halve an interval until the change within each part is small enough."""
    if b - a <= 2 * shortest or change(a, b) <= largest:
        return [(a, b)]
    middle = (a + b) / 2
    return [
        *_bisect(a, middle, change, largest, shortest),
        *_bisect(middle, b, change, largest, shortest),
    ]


def _split_evenly(a: float, b: float, longest: float) -> list[tuple[float, float]]:
    n = max(1, math.ceil((b - a) / longest - 1e-9))
    marks = [a + (b - a) * i / n for i in range(n)] + [b]
    return list(itertools.pairwise(marks))


def equal_or_both_none(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors are equal, or neither exists."""
    return a is b or (a is not None and b is not None and torch.equal(a, b))
