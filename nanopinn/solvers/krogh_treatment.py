"""A treatment in the sub-voxel (Krogh cylinder) model: tissue around the vessels of every cluster
of voxels, for every draw of the uncertain inputs, in one time integration.

Time is divided by :mod:`nanopinn.solvers.time_partition`, with the largest change over all draws
and clusters as the measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.parameters import Number, parameter_lookup
from nanopinn.physics.drug_pools import (
    DRUG_POOLS,
    carrier_pool_coefficients,
    drug_detail_for,
    plasma_inputs,
)
from nanopinn.physics.heat import TemperatureCourse, TemperatureSegment
from nanopinn.physics.plasma import SampledPlasmaCurves
from nanopinn.physics.pools import PoolCoefficients
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.treatment import Treatment
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.clusters import (
    build_sampled_cluster_model,
    cluster_maps,
    cluster_mean,
    expand_to_clusters,
)
from nanopinn.solvers.krogh import KROGH_TOLERANCE, add_filtration_loss, krogh_interval
from nanopinn.solvers.krogh_exposure import Exposure, KillCriteria, simulate_exposure
from nanopinn.solvers.krogh_geometry import MIN_RADIUS_RATIO, KroghCylinders, limit_radius_spread
from nanopinn.solvers.nonlinear_pools import Tolerance
from nanopinn.solvers.operator import Interval
from nanopinn.solvers.time_partition import (
    MICROSCALE_LIMITS,
    CoefficientSegment,
    FactorCourse,
    PartitionLimits,
    equal_or_both_none,
    partition_treatment,
)

Array = NDArray[np.float64]
#: One number for all draws, or one for each; weights of functions ``(draw, k)``.
PerDraw = Array | Tensor | float
#: Filtration and lymphatic drainage at a time (s), ``(draw, cluster)`` each, 1/s.
FluidExchange = Callable[[float], tuple[Array | Tensor, Array | Tensor]]


@dataclass(frozen=True)
class MicroscaleModel:
    """Clusters of a tumour's voxels with draws of the uncertain inputs.

    Attributes:
        maps: of the voxels, ``(x, y, z)``.
        labels: cluster of each voxel, ``(x, y, z)``; -1 outside the tumour.
        scalars: of the model, ``(draw,)``, SI; weights of functions ``(draw, k)``.
        values: of parameters by symbol, ``(draw,)``, SI.
        relative_aif_scale: divisor of the maps of PS, phi and v_p, ``(draw,)``.
        exchange: filtration and lymphatic drainage as a function of time.
        factors: on the tissue's properties as a function of time; all 1 if None.
        temperature: of the voxels, K; that of the body throughout if None.
        classes: number of classes of tissue radius.
        cells: number of cells along r.
        uniform_maps: values of maps (``phi``, ``v_p``, ``pH``) that are uniform over the tumour, by
            name, ``(draw,)``.
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
    def from_arrays(
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
        """Build the model from arrays, or from one number for all draws.

        Args:
            maps: of the voxels, ``(x, y, z)``.
            labels: cluster of each voxel, ``(x, y, z)``; -1 outside the tumour.
            draws: number of draws.
            scalars: of the model, SI.
            values: of parameters by symbol, SI.
            exchange: filtration and lymphatic drainage as a function of time.
            relative_aif_scale: divisor of the maps of PS, phi and v_p.
            factors: on the tissue's properties as a function of time; all 1 if None.
            temperature: of the voxels, K; that of the body throughout if None.
            classes: number of classes of tissue radius.
            cells: number of cells along r.
            uniform_maps: values of maps that are uniform over the tumour, by name.
        """

        def per_draw(v: PerDraw) -> Tensor:
            each = torch.as_tensor(v, dtype=maps.phi.dtype, device=maps.phi.device)
            return each if each.dim() else each.expand(draws)

        return cls(
            maps,
            labels,
            {n: per_draw(v) for n, v in scalars.items()},
            {n: per_draw(v) for n, v in values.items()},
            per_draw(relative_aif_scale),
            exchange,
            factors,
            temperature,
            classes,
            cells,
            {n: per_draw(v) for n, v in (uniform_maps or {}).items()},
        )

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return int(self.labels.max()) + 1

    @property
    def draws(self) -> int:
        """Number of draws."""
        return len(self.relative_aif_scale)

    @property
    def values_per_cluster(self) -> dict[str, Tensor]:
        """Values of parameters by symbol, ``(draw * cluster, 1, 1)``."""
        return {n: expand_to_clusters(v, self.clusters) for n, v in self.values.items()}

    def select_draws(self, first: int, last: int) -> MicroscaleModel:
        """The model of the draws from ``first`` to before ``last``, for computation in batches."""
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
        """Cylinders of tissue around the vessels of every cluster, for every draw.

        The blood volume fraction and the spread of radii are limited so that the narrowest class
        still has tissue.
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
        return KroghCylinders.from_blood_volume(v_b, v("R_c"), spread, self.classes, self.cells)


def solve_exposure(
    model: MicroscaleModel,
    treatment: Treatment,
    *,
    times_s: Sequence[float] | None = None,
    counted: KillCriteria | None = None,
    limits: PartitionLimits = MICROSCALE_LIMITS,
    tolerance: Tolerance = KROGH_TOLERANCE,
    progress: Progress = ignore_progress,
) -> Exposure:
    """Drug and cell kill around the vessels of every cluster under a treatment, for every draw.

    Args:
        model: clusters and draws.
        treatment: what is given.
        times_s: at which profiles are saved, s; the treatment's imaging times if None.
        counted: which distance counts as far from a vessel, and which survival as killed.
        limits: largest changes of coefficients within a time segment.
        tolerance: of the time integration.
        progress: called with the stage and the fraction that is done.
    """
    timeline = MicroscaleTimeline(model, treatment, limits)
    detail, cylinders = timeline.detail, model.cylinders()
    vessels = [p for p, name in enumerate(detail.pools) if DRUG_POOLS[name].volume == "plasma"]
    save = sorted({*(times_s or treatment.images_s or (treatment.end_s,)), treatment.end_s})
    return simulate_exposure(
        timeline.intervals(cylinders),
        detail.pools,
        vessels,
        cylinders,
        model.draws,
        save,
        model.values_per_cluster,
        counted=counted,
        tolerance=tolerance,
        progress=progress,
    )


class MicroscaleTimeline:
    """A treatment as a sequence of intervals with constant coefficients in every cylinder.

    Args:
        model: clusters and draws.
        treatment: what is given.
        limits: largest changes within a segment.
    """

    def __init__(
        self,
        model: MicroscaleModel,
        treatment: Treatment,
        limits: PartitionLimits = MICROSCALE_LIMITS,
    ) -> None:
        self.model, self.treatment, self.limits = model, treatment, limits
        self.carrier, self.detail = treatment.carrier, drug_detail_for(treatment.carrier)
        self.values = model.values_per_cluster
        releases_by_heat = self.carrier is not None and self.carrier.responds_to_heat
        self.release_temperature = (
            _average_temperature_over_clusters(model.temperature, model)
            if model.temperature is not None and releases_by_heat
            else None
        )

    def segments(self) -> list[CoefficientSegment]:
        """Time segments of the run, in order."""
        release = (
            None
            if self.carrier is None or self.release_temperature is None
            else (self.carrier, self.release_temperature, self.values)
        )
        return partition_treatment(self.treatment, self.limits, self.model.factors, release)

    def intervals(self, cylinders: KroghCylinders) -> Iterator[Interval]:
        """The intervals of the run; each is built when it is requested, and constant coefficients
        are built once.
        """
        curves, built, key = self._plasma(), None, None
        for part in self.segments():
            smooth = [c.smooth_piece_from(part.start) for c in curves]

            def plasma(t: float, smooth: list[Callable[[float], Tensor]] = smooth) -> Tensor:
                return torch.stack([expand_to_clusters(c(t), self.model.clusters) for c in smooth])

            T = (
                None
                if self.release_temperature is None
                else self.release_temperature(part.temperature_time_s)
            )
            if (
                built is None
                or key is None
                or key[0] != part.flow_time_s
                or not equal_or_both_none(key[1], T)
            ):
                pools = self._pool_coefficients(part.flow_time_s, T)
                built = krogh_interval(part.start, part.end, pools, cylinders, plasma)
                key = (part.flow_time_s, T)
            yield replace(
                built,
                start=part.start,
                end=part.end,
                plasma=plasma,
                starts_at_event=part.starts_at_event,
            )

    def _plasma(self) -> list[SampledPlasmaCurves]:
        of_draws = [
            self.treatment.plasma({n: float(v[i]) for n, v in self.model.values.items()})
            for i in range(self.model.draws)
        ]
        inputs = zip(*(plasma_inputs(p, self.detail) for p in of_draws), strict=True)
        return [SampledPlasmaCurves.from_curves(curves, self.model.maps.phi) for curves in inputs]

    def _pool_coefficients(self, t: float, T: Tensor | None) -> PoolCoefficients:
        m = self.model
        like = m.maps.phi
        factors = {
            n: torch.as_tensor(f, dtype=like.dtype, device=like.device).expand(m.draws)
            for n, f in ({} if m.factors is None else m.factors(t)).items()
        }
        model = build_sampled_cluster_model(
            m.maps, m.labels, m.scalars, m.values, factors, m.relative_aif_scale, m.uniform_maps
        )
        J_v, J_L = (
            expand_to_clusters(torch.as_tensor(J).to(like), m.clusters) for J in m.exchange(t)
        )
        pools = carrier_pool_coefficients(
            model, J_v, J_L, self.detail, self.carrier, T, self.values
        )
        return add_filtration_loss(pools, J_v)


def _average_temperature_over_clusters(
    course: TemperatureCourse, model: MicroscaleModel
) -> TemperatureCourse:
    """Mean temperature of every cluster, the same for every draw."""

    def mean(T: Tensor) -> Tensor:
        return cluster_mean(T, model.labels).repeat(model.draws, 1, 1)

    return TemperatureCourse(
        mean(course.baseline),
        tuple(
            TemperatureSegment(s.start_s, s.end_s, mean(s.first), mean(s.last))
            for s in course.segments
        ),
    )


def _select_draws(factor: Array | Number, part: slice) -> Array | Number:
    return factor[part] if isinstance(factor, Tensor | np.ndarray) and factor.ndim else factor
