"""A treatment as a course of intervals: time is cut wherever anything jumps, and where coefficients
drift into short parts.

Within a part every coefficient has its value at the middle of the part, which is second order in
its length. Plasma curves are not cut: they are exact at any time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.parameters.table import Number, Values
from nanopinn.physics.drug_pools import DrugPoolOptions, drug_pools
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.heat import TemperatureCourse
from nanopinn.physics.pools import PoolCoefficients
from nanopinn.physics.treatment import Treatment
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.fluxes import Advection
from nanopinn.solvers.forward import FlowSolution, ForwardModel, Setting
from nanopinn.solvers.time_segment import Interval

Array = NDArray[np.float64]

#: The release rate changes by at most this share of its largest value from one end of a part to the
#: other.
MAX_RELEASE_CHANGE = 0.05
#: No part that heat cuts is shorter, s.
MIN_SEGMENT_S = 0.5
#: While radiation or heat changes the tissue, its coefficients are taken anew for every stretch of
#: at most this long, s ...
MAX_SEGMENT_S = 4 * 3600.0
#: ... in which no factor changes by more than this in logarithm: half of it, squared, is the error
#: of taking its middle ...
MAX_LOG_FACTOR_CHANGE = 0.2
#: ... and stretches over which none changes by more than this are one.
NEGLIGIBLE_LOG_FACTOR_CHANGE = 1e-3
#: Factors that change the flow; the others change walls alone.
FLOW_FACTORS = frozenset({"p_e", "Lp", "K", "SV"})


@dataclass(frozen=True)
class CoefficientSegment:
    """Time within which coefficients are held.

    Attributes:
        flow_time_s, temperature_time_s: when its flow and its release are taken, s.
    """

    start: float
    end: float
    flow_time_s: float
    temperature_time_s: float


class TreatmentTimeline:
    """Tissue under a treatment.

    Args:
        setting: the tissue. scalars: of the model, SI, and weights ``(k,)`` of functions.
        temperature: the body's throughout if None.
        values: of parameters by symbol, in place of the table's.
        max_release_change, max_log_factor_change: see :data:`MAX_RELEASE_CHANGE`,
            :data:`MAX_LOG_FACTOR_CHANGE`.
    """

    def __init__(
        self,
        setting: Setting,
        scalars: Mapping[str, float | Array],
        treatment: Treatment,
        temperature: TemperatureCourse | None = None,
        *,
        advection: Advection = "fitted",
        max_release_change: float = MAX_RELEASE_CHANGE,
        max_log_factor_change: float = MAX_LOG_FACTOR_CHANGE,
        values: Values | None = None,
    ) -> None:
        self.setting, self.temperature, self.advection = setting, temperature, advection
        self.max_release_change, self.max_log_factor_change = (
            max_release_change,
            max_log_factor_change,
        )
        self.treatment = treatment.with_values(values or {})
        phi = setting.maps.phi
        tensors: Values = {
            k: torch.as_tensor(v, dtype=phi.dtype, device=phi.device) for k, v in scalars.items()
        }
        self.values: Values = values or {}
        if self.carrier is not None:
            tensors, self.values = self.carrier.tissue_parameters(tensors, values)
        self.scalars = {
            k: torch.as_tensor(v, dtype=phi.dtype, device=phi.device) for k, v in tensors.items()
        }
        self.detail = drug_detail_for(treatment.carrier)
        self.flows_solved = 0
        self._pressure: Tensor | None = None
        self._flow: tuple[Mapping[str, Number], FlowSolution] | None = None
        self._model: tuple[Mapping[str, Number], TumourModel] | None = None
        self._cached_interval: tuple[FlowSolution, TumourModel, Tensor | None, Interval] | None = (
            None
        )

    @property
    def carrier(self) -> Formulation | None:
        """What is given encapsulated, if anything is."""
        return self.treatment.carrier

    @property
    def release_temperature(self) -> TemperatureCourse | None:
        """The temperature, if anything answers to it."""
        return (
            self.temperature if self.carrier is not None and self.carrier.heat is not None else None
        )

    def segments(self) -> list[CoefficientSegment]:
        """Every part of the run, in order."""
        end, t = self.treatment.end_s, self.treatment
        events = (
            *t.events(),
            *(self.release_temperature.events() if self.release_temperature else ()),
        )
        marks = sorted({0.0, end, *(e for e in events if 0 < e < end)})
        parts = []
        for a, b in itertools.pairwise(marks):
            for c, d in self._split_by_factor_change(a, b):
                for e, f in self._bisect_by_release_change(c, d):
                    parts.append(CoefficientSegment(e, f, (c + d) / 2, (e + f) / 2))
        return parts

    def intervals(self) -> Iterator[Interval]:
        """The intervals of the run, each built when it is asked for."""
        p = self.treatment.plasma(self.values)
        curves = (
            (p.releasable(), p.unbound(), p.retained())
            if self.detail.retained
            else (p.releasable(), p.unbound())
        )
        for part in self.segments():
            plasma = self._plasma_input([c.smooth_piece_from(part.start) for c in curves])
            yield replace(
                self._interval(part, plasma), start=part.start, end=part.end, plasma=plasma
            )

    def flow(self, t: float) -> tuple[FlowSolution, TumourModel]:
        """Flow and model at a time; the flow is solved only if radiation or heat has changed it
        since it was last asked for.
        """
        factors = self.treatment.factors(t)
        if self._flow is not None and self._model is not None and self._model[0] == factors:
            return self._flow[1], self._model[1]
        forward = ForwardModel(
            self.setting, lambda _: self.scalars, self._pressure, factors, self.values
        )
        none, flow_factors = (
            self.setting.maps.phi.new_zeros(0),
            {k: f for k, f in factors.items() if k in FLOW_FACTORS},
        )
        if self._flow is None or self._flow[0] != flow_factors:
            self._flow = (flow_factors, forward.flow(none))
            self._pressure, self.flows_solved = forward.last_pressure, self.flows_solved + 1
        self._model = (factors, forward.model(none))
        return self._flow[1], self._model[1]

    def zero_pools(self) -> Tensor:
        """No drug anywhere, ``(pool, x, y, z)``."""
        return self.setting.maps.phi.new_zeros((len(self.detail.pools), *self.setting.grid.shape))

    def _interval(self, part: CoefficientSegment, plasma: Callable[[float], Tensor]) -> Interval:
        """The interval's coefficients; those of the last part if they are the same."""
        flow, model = self.flow(part.flow_time_s)
        T = (
            None
            if self.release_temperature is None
            else self.release_temperature(part.temperature_time_s)
        )
        if (
            self._cached_interval is not None
            and self._cached_interval[0] is flow
            and self._cached_interval[1] is model
            and _equal_tensors(self._cached_interval[2], T)
        ):
            return self._cached_interval[3]
        pools = self._pool_coefficients(model, flow, T)
        built = Interval.of(
            part.start, part.end, pools, flow.flows, self.setting.grid, plasma, self.advection
        )
        self._cached_interval = (flow, model, T, built)
        return built

    def _pool_coefficients(
        self, model: TumourModel, flow: FlowSolution, T: Tensor | None
    ) -> PoolCoefficients:
        if self.carrier is None:
            return drug_pools(model, flow.J_v, flow.J_L, self.detail)
        release = model.carrier_release_rate(
            self.carrier, torch.full_like(model.maps.pH, value("T_body")) if T is None else T
        )
        excess = (
            None
            if T is None
            else self.carrier.heat_release_excess(T, {**self.values, **model.scalars})
        )
        return drug_pools(model, flow.J_v, flow.J_L, self.detail, release, excess)

    def _plasma_input(self, smooth: list[Callable[[Tensor], Tensor]]) -> Callable[[float], Tensor]:
        like = self.setting.maps.phi

        def plasma(t: float) -> Tensor:
            at = torch.tensor(t, dtype=torch.float64)
            return torch.stack([c(at) for c in smooth]).to(like)

        return plasma

    def _split_by_factor_change(self, a: float, b: float) -> list[tuple[float, float]]:
        """Stretches short enough for what radiation and heat do to the tissue; those over which
        nothing moves are one.
        """
        if not self.treatment.changes_tissue:
            return [(a, b)]
        parts = [
            p
            for c, d in _split_evenly(a, b, MAX_SEGMENT_S)
            for p in self._bisect_by_factor_change(c, d)
        ]
        merged = parts[:1]
        for c, d in parts[1:]:
            first = merged[-1][0]
            still = (
                self._max_log_factor_change(first, d) <= NEGLIGIBLE_LOG_FACTOR_CHANGE
                and self._max_log_factor_change(first, (first + d) / 2)
                <= NEGLIGIBLE_LOG_FACTOR_CHANGE
            )
            merged = [*merged[:-1], (first, d)] if still else [*merged, (c, d)]
        return merged

    def _bisect_by_factor_change(self, a: float, b: float) -> list[tuple[float, float]]:
        if (
            b - a <= 2 * MIN_SEGMENT_S
            or self._max_log_factor_change(a, b) <= self.max_log_factor_change
        ):
            return [(a, b)]
        middle = (a + b) / 2
        return [
            *self._bisect_by_factor_change(a, middle),
            *self._bisect_by_factor_change(middle, b),
        ]

    def _max_log_factor_change(self, a: float, b: float) -> float:
        """Largest change of a factor's logarithm between two times, looked at from between them: at
        both there may be a jump.
        """
        inwards = 1e-6 * (b - a)
        first, last = (self.treatment.factors(t) for t in (a + inwards, b - inwards))
        return max(abs(math.log(float(last[name]) / float(f))) for name, f in first.items())

    def _bisect_by_release_change(self, a: float, b: float) -> list[tuple[float, float]]:
        """Halves of halves, until the release changes little in each."""
        if self.release_temperature is None or self.carrier is None:
            return [(a, b)]
        during = self.release_temperature.smooth_piece_from(a)
        first, last = (self.carrier.heat_release_excess(during(t), self.values) for t in (a, b))
        if (
            b - a <= 2 * MIN_SEGMENT_S
            or float((last - first).abs().max())
            <= self.max_release_change * self._max_heat_release_rate
        ):
            return [(a, b)]
        middle = (a + b) / 2
        return [
            *self._bisect_by_release_change(a, middle),
            *self._bisect_by_release_change(middle, b),
        ]

    @cached_property
    def _max_heat_release_rate(self) -> float:
        """The largest release rate that heat causes in the run, 1/s."""
        assert self.release_temperature is not None
        assert self.carrier is not None
        return max(
            float(self.carrier.heat_release_excess(T, self.values).max())
            for s in self.release_temperature.segments
            for T in (s.first, s.last)
        )


def drug_detail_for(carrier: Formulation | None) -> DrugPoolOptions:
    """Every pool that there is: with saturable uptake, albumin and microvessels."""
    retained = carrier is not None and carrier.releasable_share < 1
    return DrugPoolOptions(
        carrier=carrier is not None, retained=retained, bound=True, saturable=True, vessels=True
    )


def _equal_tensors(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _split_evenly(a: float, b: float, longest: float) -> list[tuple[float, float]]:
    n = max(1, math.ceil((b - a) / longest - 1e-9))
    marks = [a + (b - a) * i / n for i in range(n)] + [b]
    return list(itertools.pairwise(marks))
