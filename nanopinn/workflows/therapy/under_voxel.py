"""A treatment around the vessels of every cluster of voxels, for every draw of what is not known, in one march.

Time is cut wherever anything jumps, and where release or the factors on the tissue's properties drift into short parts, within which
they have their values at the middle (second order in a part's length). Plasma curves are exact at any time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.physics.drawn_plasma import DrawnCurve
from nanopinn.physics.model import TissueMaps
from nanopinn.physics.pools import PoolCoefficients
from nanopinn.physics.temperature import Stretch, TemperatureCourse
from nanopinn.physics.values import Number, lookup
from nanopinn.progress import Progress, silent
from nanopinn.solvers.clusters import cluster_maps, drawn_model, group_mean, per_cluster
from nanopinn.solvers.evolve import Tolerance
from nanopinn.solvers.exposure import Counted, Exposure, expose_cylinders
from nanopinn.solvers.interval import Interval
from nanopinn.solvers.krogh import drained, krogh_interval
from nanopinn.solvers.penetration import TOLERANCE
from nanopinn.solvers.radial import NARROWEST, Cylinders, possible_spread
from nanopinn.workflows.simulate.course import detail_of
from nanopinn.workflows.treatment import Treatment

Array = NDArray[np.float64]
#: One number for all draws, or one for each; weights of functions ``(draw, k)``.
Drawn = Array | Tensor | float
#: Filtration and lymphatic drainage of every draw and cluster at a time (s), ``(draw, cluster)`` each, 1/s.
Exchange = Callable[[float], tuple[Array | Tensor, Array | Tensor]]
#: Factors on the tissue's properties at a time, by name as :class:`nanopinn.physics.model.TumourModel` takes them, one or ``(draw,)`` each.
Factors = Callable[[float], Mapping[str, Array | Number]]

#: The release rate of no draw and cluster changes by more than this share of the largest from one end of a part to the other.
RELEASE_SHARE = 0.2
#: No part is shorter, s.
SHORTEST_S = 2.0
#: Where factors move a part is at most this long, s, and none moves by more than this in logarithm ...
FACTORS_S, FACTORS_SHARE = 4 * 3600.0, 0.3
#: ... and parts in which none moves by more than this are one.
FACTORS_REST = 1e-2


@dataclass(frozen=True)
class Part:
    """Time within which coefficients are held.

    Attributes:
        flow_at, heat_at: when its flow and factors, and its temperature, are taken, s.
        jumps: whether anything jumps at its start.
    """

    start: float
    end: float
    flow_at: float
    heat_at: float
    jumps: bool


@dataclass(frozen=True)
class UnderVoxel:
    """Clusters of a tumour's voxels, and what is drawn of them.

    Attributes:
        maps: of the voxels. labels: the cluster of each, -1 outside.
        scalars: of the model, ``(draw,)`` (SI; weights of functions ``(draw, k)``).
        values: of parameters by symbol, ``(draw,)``.
        over: what PS, phi and v_p of the maps are divided by, ``(draw,)``.
        given: maps by name (``phi``, ``v_p``, ``pH``) that have one value throughout, ``(draw,)``.
        exchange: fluid, by time. factors: on the tissue's properties, by time; 1 if None.
        temperature: of the voxels; the body's throughout if None.
        classes: of tissue radius. cells: along r.
    """

    maps: TissueMaps
    labels: Tensor
    scalars: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    over: Tensor
    exchange: Exchange
    factors: Factors | None = None
    temperature: TemperatureCourse | None = None
    classes: int = 3
    cells: int = 24
    given: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        maps: TissueMaps,
        labels: Tensor,
        draws: int,
        scalars: Mapping[str, Drawn],
        values: Mapping[str, Drawn],
        exchange: Exchange,
        *,
        over: Drawn = 1.0,
        factors: Factors | None = None,
        temperature: TemperatureCourse | None = None,
        classes: int = 3,
        cells: int = 24,
        given: Mapping[str, Drawn] | None = None,
    ) -> UnderVoxel:
        """The same of arrays, or of one number for all draws."""

        def drawn(v: Drawn) -> Tensor:
            each = torch.as_tensor(v, dtype=maps.phi.dtype, device=maps.phi.device)
            return each if each.dim() else each.expand(draws)

        moved, of_table, one = (
            {n: drawn(v) for n, v in of.items()} for of in (scalars, values, given or {})
        )
        return cls(
            maps,
            labels,
            moved,
            of_table,
            drawn(over),
            exchange,
            factors,
            temperature,
            classes,
            cells,
            one,
        )

    @property
    def clusters(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def draws(self) -> int:
        return len(self.over)

    @property
    def on_grid(self) -> dict[str, Tensor]:
        """The drawn values, ``(draw * cluster, 1, 1)``."""
        return {n: per_cluster(v, self.clusters) for n, v in self.values.items()}

    def rows(self, first: int, last: int) -> UnderVoxel:
        """Some of the draws alone: what is done in batches goes on where it stopped."""
        part = slice(first, last)
        exchange, factors = self.exchange, self.factors
        return replace(
            self,
            scalars={n: v[part] for n, v in self.scalars.items()},
            values={n: v[part] for n, v in self.values.items()},
            given={n: v[part] for n, v in self.given.items()},
            over=self.over[part],
            exchange=lambda t: (exchange(t)[0][part], exchange(t)[1][part]),
            factors=None
            if factors is None
            else lambda t: {n: _some(f, part) for n, f in factors(t).items()},
        )

    def cylinders(self) -> Cylinders:
        """Tissue around the vessels of every cluster under every draw.

        Vessels fill at most what leaves tissue around them, and radii are spread no further than their narrowest class allows.
        """
        v = lookup({n: x[:, 0, 0] for n, x in self.on_grid.items()})
        plasma = (
            cluster_maps(self.maps, self.labels, self.over, self.given).v_p[:, 0, 0].clamp_min(1e-3)
        )
        v_b = (plasma / (1 - v("Hct"))).clamp_max(0.99 / NARROWEST**2)
        spread = possible_spread(
            v_b,
            torch.as_tensor(v("spread_Rt"), dtype=v_b.dtype, device=v_b.device).expand_as(v_b),
            self.classes,
        )
        return Cylinders.around(v_b, v("R_c"), spread, self.classes, self.cells)


def expose(
    under: UnderVoxel,
    treatment: Treatment,
    *,
    times_s: Sequence[float] | None = None,
    counted: Counted | None = None,
    tolerance: Tolerance = TOLERANCE,
    progress: Progress = silent,
) -> Exposure:
    """What a treatment does around the vessels of every cluster, for every draw.

    Args:
        times_s: at which profiles are kept; the treatment's imaging times if None.
        counted: what counts as far from a vessel, and as killed.
    """
    detail = detail_of(treatment.carrier)
    vessels = [p for p, name in enumerate(detail.pools) if name.startswith("vessel")]
    cylinders, course = under.cylinders(), _Course(under, treatment)
    save = sorted({*(times_s or treatment.images_s or (treatment.end_s,)), treatment.end_s})
    return expose_cylinders(
        course.intervals(cylinders),
        detail.pools,
        vessels,
        cylinders,
        under.draws,
        save,
        under.on_grid,
        counted=counted,
        tolerance=tolerance,
        progress=progress,
    )


class _Course:
    """The treatment as a course of intervals."""

    def __init__(self, under: UnderVoxel, treatment: Treatment) -> None:
        self.under, self.treatment, self.carrier = under, treatment, treatment.carrier
        self.detail, self.values = detail_of(treatment.carrier), under.on_grid
        answers = self.carrier is not None and self.carrier.heat is not None
        self.hot = (
            _of_clusters(under.temperature, under)
            if under.temperature is not None and answers
            else None
        )

    def intervals(self, cylinders: Cylinders) -> Iterator[Interval]:
        """Each built when it is asked for; coefficients that stay are built once."""
        curves, built, key = self._plasma(), None, None
        for part in self.parts():
            smooth = [c.during(part.start) for c in curves]

            def plasma(t: float, smooth: list[Callable[[float], Tensor]] = smooth) -> Tensor:
                return torch.stack([per_cluster(c(t), self.under.clusters) for c in smooth])

            T = None if self.hot is None else self.hot(part.heat_at)
            if built is None or key is None or key[0] != part.flow_at or not _same(key[1], T):
                built, key = (
                    krogh_interval(
                        part.start, part.end, self._pools(part.flow_at, T), cylinders, plasma
                    ),
                    (part.flow_at, T),
                )
            yield replace(built, start=part.start, end=part.end, plasma=plasma, jumps=part.jumps)

    def parts(self) -> list[Part]:
        """Every part of the run, in order."""
        end, t = self.treatment.end_s, self.treatment
        events = (*t.events(), *(self.hot.events() if self.hot else ()))
        marks = sorted({0.0, end, *(e for e in events if 0 < e < end)})
        found: list[Part] = []
        for a, b in itertools.pairwise(marks):
            for c, d in self._while_factors_move(a, b):
                # where factors have not moved since the last part, the flow is that of before
                same = bool(found) and self._change(found[-1].flow_at, (c + d) / 2) <= FACTORS_REST
                flow_at = found[-1].flow_at if same else (c + d) / 2
                found += [
                    Part(e, f, flow_at, (e + f) / 2, e == a) for e, f in self._while_heated(c, d)
                ]
        return found

    def _while_factors_move(self, a: float, b: float) -> list[tuple[float, float]]:
        if self.under.factors is None:
            return [(a, b)]
        n = max(1, math.ceil((b - a) / FACTORS_S - 1e-9))
        marks = [a + (b - a) * i / n for i in range(n)] + [b]
        parts = [p for c, d in itertools.pairwise(marks) for p in self._halved(c, d)]
        merged = parts[:1]
        for c, d in parts[1:]:
            first = merged[-1][0]
            still = (
                max(self._change_within(first, d), self._change_within(first, (first + d) / 2))
                <= FACTORS_REST
            )
            merged = [*merged[:-1], (first, d)] if still else [*merged, (c, d)]
        return merged

    def _halved(self, a: float, b: float) -> list[tuple[float, float]]:
        if b - a <= 2 * SHORTEST_S or self._change_within(a, b) <= FACTORS_SHARE:
            return [(a, b)]
        middle = (a + b) / 2
        return [*self._halved(a, middle), *self._halved(middle, b)]

    def _change_within(self, a: float, b: float) -> float:
        """Looked at from between two times: at both there may be a jump."""
        inwards = 1e-6 * (b - a)
        return self._change(a + inwards, b - inwards)

    def _change(self, a: float, b: float) -> float:
        """Largest change of any factor of any draw between two times, in logarithm."""
        if self.under.factors is None:
            return 0.0
        first, last = (
            {n: torch.as_tensor(f, dtype=torch.float64) for n, f in self.under.factors(t).items()}
            for t in (a, b)
        )
        return max((float((last[n] / f).log().abs().max()) for n, f in first.items()), default=0.0)

    def _while_heated(self, a: float, b: float) -> list[tuple[float, float]]:
        """Halves of halves, until the release changes little in each, for every draw and cluster."""
        if self.hot is None or self.carrier is None:
            return [(a, b)]
        during = self.hot.during(a)
        first, last = (self.carrier.heat_excess(during(t), self.values) for t in (a, b))
        if (
            b - a <= 2 * SHORTEST_S
            or float((last - first).abs().max()) <= RELEASE_SHARE * self._fastest()
        ):
            return [(a, b)]
        middle = (a + b) / 2
        return [*self._while_heated(a, middle), *self._while_heated(middle, b)]

    def _fastest(self) -> float:
        assert self.hot is not None
        assert self.carrier is not None
        return max(
            float(self.carrier.heat_excess(T, self.values).max())
            for s in self.hot.stretches
            for T in (s.first, s.last)
        )

    def _plasma(self) -> list[DrawnCurve]:
        of_draws = [
            self.treatment.plasma({n: float(v[i]) for n, v in self.under.values.items()})
            for i in range(self.under.draws)
        ]
        kinds = [[p.releasable() for p in of_draws], [p.unbound() for p in of_draws]]
        if self.detail.retained:
            kinds.append([p.retained() for p in of_draws])
        return [DrawnCurve.of(curves, self.under.maps.phi) for curves in kinds]

    def _pools(self, t: float, T: Tensor | None) -> PoolCoefficients:
        u = self.under
        like = u.maps.phi
        now = {} if u.factors is None else u.factors(t)
        factors = {
            n: torch.as_tensor(f, dtype=like.dtype, device=like.device).expand(u.draws)
            for n, f in now.items()
        }
        model = drawn_model(u.maps, u.labels, u.scalars, u.values, factors, u.over, u.given)
        J_v, J_L = (per_cluster(torch.as_tensor(J).to(like), u.clusters) for J in u.exchange(t))
        if self.carrier is None:
            return drained(model.drug(J_v, J_L, self.detail), J_v)
        release = model.release_of(
            self.carrier, torch.full_like(model.maps.pH, value("T_body")) if T is None else T
        )
        hot = None if T is None else self.carrier.heat_excess(T, {**self.values, **model.scalars})
        return drained(model.drug(J_v, J_L, self.detail, release, hot), J_v)


def _of_clusters(course: TemperatureCourse, under: UnderVoxel) -> TemperatureCourse:
    """Mean temperature of every cluster, the same under every draw."""

    def mean(T: Tensor) -> Tensor:
        return group_mean(T, under.labels).repeat(under.draws, 1, 1)

    return TemperatureCourse(
        mean(course.rest),
        tuple(Stretch(s.start_s, s.end_s, mean(s.first), mean(s.last)) for s in course.stretches),
    )


def _some(factor: Array | Number, part: slice) -> Array | Number:
    return factor[part] if isinstance(factor, Tensor | np.ndarray) and factor.ndim else factor


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
