"""A treatment as a course of intervals: time is cut wherever anything jumps, and where coefficients drift into short parts.

Within a part every coefficient has its value at the middle of the part, which is second order in its length. Plasma curves are
not cut: they are exact at any time.
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
from nanopinn.physics.drug import DrugDetail
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.model import TumourModel
from nanopinn.physics.pools import PoolCoefficients
from nanopinn.physics.temperature import TemperatureCourse
from nanopinn.physics.values import Number, Values
from nanopinn.solvers.advection import Advection
from nanopinn.solvers.forward import Flow, Forward, Setting
from nanopinn.solvers.interval import Interval
from nanopinn.workflows.treatment import Treatment

Array = NDArray[np.float64]

#: The release rate changes by at most this share of its largest value from one end of a part to the other.
RELEASE_SHARE = 0.05
#: No part that heat cuts is shorter, s.
SHORTEST_S = 0.5
#: While radiation or heat changes the tissue, its coefficients are taken anew for every stretch of at most this long, s ...
FACTORS_S = 4 * 3600.0
#: ... in which no factor changes by more than this in logarithm: half of it, squared, is the error of taking its middle ...
FACTOR_SHARE = 0.2
#: ... and stretches over which none changes by more than this are one.
FACTORS_REST = 1e-3
#: Factors that change the flow; the others change walls alone.
OF_FLOW = frozenset({"p_e", "Lp", "K", "SV"})


@dataclass(frozen=True)
class Part:
    """Time within which coefficients are held.

    Attributes:
        flow_at, heat_at: when its flow and its release are taken, s.
    """

    start: float
    end: float
    flow_at: float
    heat_at: float


class Course:
    """Tissue under a treatment.

    Args:
        setting: the tissue. scalars: of the model, SI, and weights ``(k,)`` of functions.
        temperature: the body's throughout if None.
        values: of parameters by symbol, in place of the table's.
        release_share, factor_share: see :data:`RELEASE_SHARE`, :data:`FACTOR_SHARE`.
    """

    def __init__(
        self,
        setting: Setting,
        scalars: Mapping[str, float | Array],
        treatment: Treatment,
        temperature: TemperatureCourse | None = None,
        *,
        advection: Advection = "fitted",
        release_share: float = RELEASE_SHARE,
        factor_share: float = FACTOR_SHARE,
        values: Values | None = None,
    ) -> None:
        self.setting, self.temperature, self.advection = setting, temperature, advection
        self.release_share, self.factor_share = release_share, factor_share
        self.treatment = treatment.under(values or {})
        phi = setting.maps.phi
        tensors: Values = {
            k: torch.as_tensor(v, dtype=phi.dtype, device=phi.device) for k, v in scalars.items()
        }
        self.values: Values = values or {}
        if self.carrier is not None:
            tensors, self.values = self.carrier.in_tissue(tensors, values)
        self.scalars = {
            k: torch.as_tensor(v, dtype=phi.dtype, device=phi.device) for k, v in tensors.items()
        }
        self.detail = detail_of(treatment.carrier)
        self.flows_solved = 0
        self._pressure: Tensor | None = None
        self._flow: tuple[Mapping[str, Number], Flow] | None = None
        self._model: tuple[Mapping[str, Number], TumourModel] | None = None
        self._built: tuple[Flow, TumourModel, Tensor | None, Interval] | None = None

    @property
    def carrier(self) -> Formulation | None:
        """What is given encapsulated, if anything is."""
        return self.treatment.carrier

    @property
    def hot(self) -> TemperatureCourse | None:
        """The temperature, if anything answers to it."""
        return (
            self.temperature if self.carrier is not None and self.carrier.heat is not None else None
        )

    def parts(self) -> list[Part]:
        """Every part of the run, in order."""
        end, t = self.treatment.end_s, self.treatment
        events = (*t.events(), *(self.hot.events() if self.hot else ()))
        marks = sorted({0.0, end, *(e for e in events if 0 < e < end)})
        parts = []
        for a, b in itertools.pairwise(marks):
            for c, d in self._while_tissue_changes(a, b):
                for e, f in self._while_heated(c, d):
                    parts.append(Part(e, f, (c + d) / 2, (e + f) / 2))
        return parts

    def intervals(self) -> Iterator[Interval]:
        """The intervals of the run, each built when it is asked for."""
        p = self.treatment.plasma(self.values)
        curves = (
            (p.releasable(), p.unbound(), p.retained())
            if self.detail.retained
            else (p.releasable(), p.unbound())
        )
        for part in self.parts():
            plasma = self._inputs([c.during(part.start) for c in curves])
            yield replace(
                self._interval(part, plasma), start=part.start, end=part.end, plasma=plasma
            )

    def flow(self, t: float) -> tuple[Flow, TumourModel]:
        """Flow and model at a time; the flow is solved only if radiation or heat has changed it since it was last asked for."""
        factors = self.treatment.factors(t)
        if self._flow is not None and self._model is not None and self._model[0] == factors:
            return self._flow[1], self._model[1]
        forward = Forward(
            self.setting, lambda _: self.scalars, self._pressure, factors, self.values
        )
        none, of_flow = (
            self.setting.maps.phi.new_zeros(0),
            {k: f for k, f in factors.items() if k in OF_FLOW},
        )
        if self._flow is None or self._flow[0] != of_flow:
            self._flow = (of_flow, forward.flow(none))
            self._pressure, self.flows_solved = forward.last_pressure, self.flows_solved + 1
        self._model = (factors, forward.model(none))
        return self._flow[1], self._model[1]

    def empty(self) -> Tensor:
        """No drug anywhere, ``(pool, x, y, z)``."""
        return self.setting.maps.phi.new_zeros((len(self.detail.pools), *self.setting.grid.shape))

    def _interval(self, part: Part, plasma: Callable[[float], Tensor]) -> Interval:
        """The interval's coefficients; those of the last part if they are the same."""
        flow, model = self.flow(part.flow_at)
        T = None if self.hot is None else self.hot(part.heat_at)
        if (
            self._built is not None
            and self._built[0] is flow
            and self._built[1] is model
            and _same(self._built[2], T)
        ):
            return self._built[3]
        pools = self._pools(model, flow, T)
        built = Interval.of(
            part.start, part.end, pools, flow.flows, self.setting.grid, plasma, self.advection
        )
        self._built = (flow, model, T, built)
        return built

    def _pools(self, model: TumourModel, flow: Flow, T: Tensor | None) -> PoolCoefficients:
        if self.carrier is None:
            return model.drug(flow.J_v, flow.J_L, self.detail)
        release = model.release_of(
            self.carrier, torch.full_like(model.maps.pH, value("T_body")) if T is None else T
        )
        excess = (
            None if T is None else self.carrier.heat_excess(T, {**self.values, **model.scalars})
        )
        return model.drug(flow.J_v, flow.J_L, self.detail, release, excess)

    def _inputs(self, smooth: list[Callable[[Tensor], Tensor]]) -> Callable[[float], Tensor]:
        like = self.setting.maps.phi

        def plasma(t: float) -> Tensor:
            at = torch.tensor(t, dtype=torch.float64)
            return torch.stack([c(at) for c in smooth]).to(like)

        return plasma

    def _while_tissue_changes(self, a: float, b: float) -> list[tuple[float, float]]:
        """Stretches short enough for what radiation and heat do to the tissue; those over which nothing moves are one."""
        if not self.treatment.changes_tissue:
            return [(a, b)]
        parts = [p for c, d in _equal(a, b, FACTORS_S) for p in self._halved(c, d)]
        merged = parts[:1]
        for c, d in parts[1:]:
            first = merged[-1][0]
            still = (
                self._change(first, d) <= FACTORS_REST
                and self._change(first, (first + d) / 2) <= FACTORS_REST
            )
            merged = [*merged[:-1], (first, d)] if still else [*merged, (c, d)]
        return merged

    def _halved(self, a: float, b: float) -> list[tuple[float, float]]:
        if b - a <= 2 * SHORTEST_S or self._change(a, b) <= self.factor_share:
            return [(a, b)]
        middle = (a + b) / 2
        return [*self._halved(a, middle), *self._halved(middle, b)]

    def _change(self, a: float, b: float) -> float:
        """Largest change of a factor's logarithm between two times, looked at from between them: at both there may be a jump."""
        inwards = 1e-6 * (b - a)
        first, last = (self.treatment.factors(t) for t in (a + inwards, b - inwards))
        return max(abs(math.log(float(last[name]) / float(f))) for name, f in first.items())

    def _while_heated(self, a: float, b: float) -> list[tuple[float, float]]:
        """Halves of halves, until the release changes little in each."""
        if self.hot is None or self.carrier is None:
            return [(a, b)]
        during = self.hot.during(a)
        first, last = (self.carrier.heat_excess(during(t), self.values) for t in (a, b))
        if (
            b - a <= 2 * SHORTEST_S
            or float((last - first).abs().max()) <= self.release_share * self._fastest
        ):
            return [(a, b)]
        middle = (a + b) / 2
        return [*self._while_heated(a, middle), *self._while_heated(middle, b)]

    @cached_property
    def _fastest(self) -> float:
        """The largest release rate that heat causes in the run, 1/s."""
        assert self.hot is not None
        assert self.carrier is not None
        return max(
            float(self.carrier.heat_excess(T, self.values).max())
            for s in self.hot.stretches
            for T in (s.first, s.last)
        )


def detail_of(carrier: Formulation | None) -> DrugDetail:
    """Every pool that there is: with saturable uptake, albumin and microvessels."""
    retained = carrier is not None and carrier.releasable_share < 1
    return DrugDetail(
        carrier=carrier is not None, retained=retained, bound=True, saturable=True, vessels=True
    )


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _equal(a: float, b: float, longest: float) -> list[tuple[float, float]]:
    n = max(1, math.ceil((b - a) / longest - 1e-9))
    marks = [a + (b - a) * i / n for i in range(n)] + [b]
    return list(itertools.pairwise(marks))
