"""A treatment around the vessels of every cluster of voxels, for every draw of what is not known,
in one march.

Time is cut wherever anything jumps, and where release or the factors on the tissue's properties
drift into short parts, within which they have their values at the middle (second order in a part's
length). Plasma curves are exact at any time.
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
from nanopinn.parameters.table import Number, parameter_lookup
from nanopinn.physics.drug_pools import drug_pools
from nanopinn.physics.heat import TemperatureCourse, TemperatureSegment
from nanopinn.physics.plasma import SampledPlasmaCurves
from nanopinn.physics.pools import PoolCoefficients
from nanopinn.physics.treatment import Treatment
from nanopinn.physics.tumour import TissueMaps
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.clusters import (
    build_sampled_cluster_model,
    cluster_maps,
    cluster_mean,
    expand_to_clusters,
)
from nanopinn.solvers.evolve import Tolerance
from nanopinn.solvers.krogh import KROGH_TOLERANCE, add_filtration_loss, krogh_interval
from nanopinn.solvers.krogh_exposure import Exposure, KillCriteria, simulate_exposure
from nanopinn.solvers.krogh_geometry import MIN_RADIUS_RATIO, KroghCylinders, limit_radius_spread
from nanopinn.solvers.time_partition import drug_detail_for
from nanopinn.solvers.time_segment import Interval

Array = NDArray[np.float64]
#: One number for all draws, or one for each; weights of functions ``(draw, k)``.
PerDraw = Array | Tensor | float
#: Filtration and lymphatic drainage of every draw and cluster at a time (s), ``(draw, cluster)``
#: each, 1/s.
FluidExchange = Callable[[float], tuple[Array | Tensor, Array | Tensor]]
#: Factors on the tissue's properties at a time, by name as
#: :class:`nanopinn.physics.tumour.TumourModel` takes them, one or ``(draw,)`` each.
FactorCourse = Callable[[float], Mapping[str, Array | Number]]

#: The release rate of no draw and cluster changes by more than this share of the largest from one
#: end of a part to the other.
MAX_RELEASE_CHANGE = 0.2
#: No part is shorter, s.
MIN_SEGMENT_S = 2.0
#: Where factors move a part is at most this long, s, and none moves by more than this in logarithm
#: ...
MAX_SEGMENT_S, MAX_LOG_FACTOR_CHANGE = 4 * 3600.0, 0.3
#: ... and parts in which none moves by more than this are one.
NEGLIGIBLE_LOG_FACTOR_CHANGE = 1e-2


@dataclass(frozen=True)
class MicroscaleSegment:
    """Time within which coefficients are held.

    Attributes:
        flow_time_s, temperature_time_s: when its flow and factors, and its temperature, are taken,
            s.
        jumps: whether anything jumps at its start.
    """

    start: float
    end: float
    flow_time_s: float
    temperature_time_s: float
    starts_at_event: bool


@dataclass(frozen=True)
class MicroscaleModel:
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
    relative_aif_scale: Tensor
    exchange: FluidExchange
    factors: FactorCourse | None = None
    temperature: TemperatureCourse | None = None
    classes: int = 3
    cells: int = 24
    uniform_maps: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        maps: TissueMaps,
        labels: Tensor,
        draws: int,
        scalars: Mapping[str, PerDraw],
        values: Mapping[str, PerDraw],
        exchange: FluidExchange,
        *,
        relative_aif_scale: PerDraw = 1.0,
        factors: FactorCourse | None = None,
        temperature: TemperatureCourse | None = None,
        classes: int = 3,
        cells: int = 24,
        uniform_maps: Mapping[str, PerDraw] | None = None,
    ) -> MicroscaleModel:
        """The same of arrays, or of one number for all draws."""

        def drawn(v: PerDraw) -> Tensor:
            each = torch.as_tensor(v, dtype=maps.phi.dtype, device=maps.phi.device)
            return each if each.dim() else each.expand(draws)

        moved, parameter_values, one = (
            {n: drawn(v) for n, v in of.items()} for of in (scalars, values, uniform_maps or {})
        )
        return cls(
            maps,
            labels,
            moved,
            parameter_values,
            drawn(relative_aif_scale),
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
        return len(self.relative_aif_scale)

    @property
    def values_per_cluster(self) -> dict[str, Tensor]:
        """The drawn values, ``(draw * cluster, 1, 1)``."""
        return {n: expand_to_clusters(v, self.clusters) for n, v in self.values.items()}

    def select_draws(self, first: int, last: int) -> MicroscaleModel:
        """Some of the draws alone: what is done in batches goes on where it stopped."""
        part = slice(first, last)
        exchange, factors = self.exchange, self.factors
        return replace(
            self,
            scalars={n: v[part] for n, v in self.scalars.items()},
            values={n: v[part] for n, v in self.values.items()},
            uniform_maps={n: v[part] for n, v in self.uniform_maps.items()},
            relative_aif_scale=self.relative_aif_scale[part],
            exchange=lambda t: (exchange(t)[0][part], exchange(t)[1][part]),
            factors=(
                None
                if factors is None
                else lambda t: {n: _select_draws(f, part) for n, f in factors(t).items()}
            ),
        )

    def cylinders(self) -> KroghCylinders:
        """Tissue around the vessels of every cluster under every draw.

        Vessels fill at most what leaves tissue around them, and radii are spread no further than
        their narrowest class allows.
        """
        v = parameter_lookup({n: x[:, 0, 0] for n, x in self.values_per_cluster.items()})
        plasma = (
            cluster_maps(self.maps, self.labels, self.relative_aif_scale, self.uniform_maps)
            .v_p[:, 0, 0]
            .clamp_min(1e-3)
        )
        v_b = (plasma / (1 - v("Hct"))).clamp_max(0.99 / MIN_RADIUS_RATIO**2)
        spread = limit_radius_spread(
            v_b,
            torch.as_tensor(v("spread_Rt"), dtype=v_b.dtype, device=v_b.device).expand_as(v_b),
            self.classes,
        )
        return KroghCylinders.around(v_b, v("R_c"), spread, self.classes, self.cells)


def solve_exposure(
    under: MicroscaleModel,
    treatment: Treatment,
    *,
    times_s: Sequence[float] | None = None,
    counted: KillCriteria | None = None,
    tolerance: Tolerance = KROGH_TOLERANCE,
    progress: Progress = ignore_progress,
) -> Exposure:
    """What a treatment does around the vessels of every cluster, for every draw.

    Args:
        times_s: at which profiles are kept; the treatment's imaging times if None.
        counted: what counts as far from a vessel, and as killed.
    """
    detail = drug_detail_for(treatment.carrier)
    vessels = [p for p, name in enumerate(detail.pools) if name.startswith("vessel")]
    cylinders, course = under.cylinders(), _MicroscaleTimeline(under, treatment)
    save = sorted({*(times_s or treatment.images_s or (treatment.end_s,)), treatment.end_s})
    return simulate_exposure(
        course.intervals(cylinders),
        detail.pools,
        vessels,
        cylinders,
        under.draws,
        save,
        under.values_per_cluster,
        counted=counted,
        tolerance=tolerance,
        progress=progress,
    )


class _MicroscaleTimeline:
    """The treatment as a course of intervals."""

    def __init__(self, under: MicroscaleModel, treatment: Treatment) -> None:
        self.under, self.treatment, self.carrier = under, treatment, treatment.carrier
        self.detail, self.values = drug_detail_for(treatment.carrier), under.values_per_cluster
        responds_to_heat = self.carrier is not None and self.carrier.heat is not None
        self.release_temperature = (
            _average_temperature_over_clusters(under.temperature, under)
            if under.temperature is not None and responds_to_heat
            else None
        )

    def intervals(self, cylinders: KroghCylinders) -> Iterator[Interval]:
        """Each built when it is asked for; coefficients that stay are built once."""
        curves, built, key = self._plasma(), None, None
        for part in self.segments():
            smooth = [c.smooth_piece_from(part.start) for c in curves]

            def plasma(t: float, smooth: list[Callable[[float], Tensor]] = smooth) -> Tensor:
                return torch.stack([expand_to_clusters(c(t), self.under.clusters) for c in smooth])

            T = (
                None
                if self.release_temperature is None
                else self.release_temperature(part.temperature_time_s)
            )
            if (
                built is None
                or key is None
                or key[0] != part.flow_time_s
                or not _equal_tensors(key[1], T)
            ):
                built, key = (
                    krogh_interval(
                        part.start,
                        part.end,
                        self._pool_coefficients(part.flow_time_s, T),
                        cylinders,
                        plasma,
                    ),
                    (part.flow_time_s, T),
                )
            yield replace(
                built,
                start=part.start,
                end=part.end,
                plasma=plasma,
                starts_at_event=part.starts_at_event,
            )

    def segments(self) -> list[MicroscaleSegment]:
        """Every part of the run, in order."""
        end, t = self.treatment.end_s, self.treatment
        events = (
            *t.events(),
            *(self.release_temperature.events() if self.release_temperature else ()),
        )
        marks = sorted({0.0, end, *(e for e in events if 0 < e < end)})
        found: list[MicroscaleSegment] = []
        for a, b in itertools.pairwise(marks):
            for c, d in self._split_by_factor_change(a, b):
                # where factors have not moved since the last part, the flow is that of before
                same = (
                    bool(found)
                    and self._max_log_factor_change(found[-1].flow_time_s, (c + d) / 2)
                    <= NEGLIGIBLE_LOG_FACTOR_CHANGE
                )
                flow_time_s = found[-1].flow_time_s if same else (c + d) / 2
                found += [
                    MicroscaleSegment(e, f, flow_time_s, (e + f) / 2, e == a)
                    for e, f in self._bisect_by_release_change(c, d)
                ]
        return found

    def _split_by_factor_change(self, a: float, b: float) -> list[tuple[float, float]]:
        if self.under.factors is None:
            return [(a, b)]
        n = max(1, math.ceil((b - a) / MAX_SEGMENT_S - 1e-9))
        marks = [a + (b - a) * i / n for i in range(n)] + [b]
        parts = [
            p for c, d in itertools.pairwise(marks) for p in self._bisect_by_factor_change(c, d)
        ]
        merged = parts[:1]
        for c, d in parts[1:]:
            first = merged[-1][0]
            still = (
                max(
                    self._max_log_factor_change_inside(first, d),
                    self._max_log_factor_change_inside(first, (first + d) / 2),
                )
                <= NEGLIGIBLE_LOG_FACTOR_CHANGE
            )
            merged = [*merged[:-1], (first, d)] if still else [*merged, (c, d)]
        return merged

    def _bisect_by_factor_change(self, a: float, b: float) -> list[tuple[float, float]]:
        if (
            b - a <= 2 * MIN_SEGMENT_S
            or self._max_log_factor_change_inside(a, b) <= MAX_LOG_FACTOR_CHANGE
        ):
            return [(a, b)]
        middle = (a + b) / 2
        return [
            *self._bisect_by_factor_change(a, middle),
            *self._bisect_by_factor_change(middle, b),
        ]

    def _max_log_factor_change_inside(self, a: float, b: float) -> float:
        """Looked at from between two times: at both there may be a jump."""
        inwards = 1e-6 * (b - a)
        return self._max_log_factor_change(a + inwards, b - inwards)

    def _max_log_factor_change(self, a: float, b: float) -> float:
        """Largest change of any factor of any draw between two times, in logarithm."""
        if self.under.factors is None:
            return 0.0
        first, last = (
            {n: torch.as_tensor(f, dtype=torch.float64) for n, f in self.under.factors(t).items()}
            for t in (a, b)
        )
        return max((float((last[n] / f).log().abs().max()) for n, f in first.items()), default=0.0)

    def _bisect_by_release_change(self, a: float, b: float) -> list[tuple[float, float]]:
        """Halves of halves, until the release changes little in each, for every draw and cluster."""
        if self.release_temperature is None or self.carrier is None:
            return [(a, b)]
        during = self.release_temperature.smooth_piece_from(a)
        first, last = (self.carrier.heat_release_excess(during(t), self.values) for t in (a, b))
        if (
            b - a <= 2 * MIN_SEGMENT_S
            or float((last - first).abs().max())
            <= MAX_RELEASE_CHANGE * self._max_heat_release_rate()
        ):
            return [(a, b)]
        middle = (a + b) / 2
        return [
            *self._bisect_by_release_change(a, middle),
            *self._bisect_by_release_change(middle, b),
        ]

    def _max_heat_release_rate(self) -> float:
        assert self.release_temperature is not None
        assert self.carrier is not None
        return max(
            float(self.carrier.heat_release_excess(T, self.values).max())
            for s in self.release_temperature.segments
            for T in (s.first, s.last)
        )

    def _plasma(self) -> list[SampledPlasmaCurves]:
        plasma_of_draws = [
            self.treatment.plasma({n: float(v[i]) for n, v in self.under.values.items()})
            for i in range(self.under.draws)
        ]
        kinds = [[p.releasable() for p in plasma_of_draws], [p.unbound() for p in plasma_of_draws]]
        if self.detail.retained:
            kinds.append([p.retained() for p in plasma_of_draws])
        return [SampledPlasmaCurves.from_curves(curves, self.under.maps.phi) for curves in kinds]

    def _pool_coefficients(self, t: float, T: Tensor | None) -> PoolCoefficients:
        u = self.under
        like = u.maps.phi
        now = {} if u.factors is None else u.factors(t)
        factors = {
            n: torch.as_tensor(f, dtype=like.dtype, device=like.device).expand(u.draws)
            for n, f in now.items()
        }
        model = build_sampled_cluster_model(
            u.maps, u.labels, u.scalars, u.values, factors, u.relative_aif_scale, u.uniform_maps
        )
        J_v, J_L = (
            expand_to_clusters(torch.as_tensor(J).to(like), u.clusters) for J in u.exchange(t)
        )
        if self.carrier is None:
            return add_filtration_loss(drug_pools(model, J_v, J_L, self.detail), J_v)
        release = model.carrier_release_rate(
            self.carrier, torch.full_like(model.maps.pH, value("T_body")) if T is None else T
        )
        hot = (
            None
            if T is None
            else self.carrier.heat_release_excess(T, {**self.values, **model.scalars})
        )
        return add_filtration_loss(drug_pools(model, J_v, J_L, self.detail, release, hot), J_v)


def _average_temperature_over_clusters(
    course: TemperatureCourse, under: MicroscaleModel
) -> TemperatureCourse:
    """Mean temperature of every cluster, the same under every draw."""

    def mean(T: Tensor) -> Tensor:
        return cluster_mean(T, under.labels).repeat(under.draws, 1, 1)

    return TemperatureCourse(
        mean(course.baseline),
        tuple(
            TemperatureSegment(s.start_s, s.end_s, mean(s.first), mean(s.last))
            for s in course.segments
        ),
    )


def _select_draws(factor: Array | Number, part: slice) -> Array | Number:
    return factor[part] if isinstance(factor, Tensor | np.ndarray) and factor.ndim else factor


def _equal_tensors(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
