"""A treatment of tissue on a voxel grid as intervals with constant coefficients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.parameters import Number, Values
from nanopinn.physics.drug_pools import carrier_pool_coefficients, drug_detail_for, plasma_inputs
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.heat import TemperatureCourse
from nanopinn.physics.treatment import Treatment
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.fluxes import Advection
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.operator import Interval
from nanopinn.solvers.time_partition import (
    FLOW_FACTORS,
    VOXEL_LIMITS,
    CoefficientSegment,
    PartitionLimits,
    equal_or_both_none,
    partition_treatment,
)
from nanopinn.solvers.tissue_setting import TissueSetting

Array = NDArray[np.float64]


class TreatmentTimeline:
    """A treatment of the tissue on a voxel grid as a sequence of intervals with constant
    coefficients.

    Args:
        setting: the tissue.
        scalars: of the model, SI, and weights ``(k,)`` of functions.
        treatment: what is given.
        temperature: of the tissue; None: that of the body throughout.
        advection: scheme of the advective fluxes.
        limits: largest changes within a segment.
        values: parameters by symbol, in place of the table's.
    """

    def __init__(
        self,
        setting: TissueSetting,
        scalars: Mapping[str, float | Array],
        treatment: Treatment,
        temperature: TemperatureCourse | None = None,
        *,
        advection: Advection = "fitted",
        limits: PartitionLimits = VOXEL_LIMITS,
        values: Values | None = None,
    ) -> None:
        self.setting, self.temperature, self.advection = setting, temperature, advection
        self.limits, self.treatment = limits, treatment.with_values(values or {})
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
        """The encapsulated formulation, if one is given."""
        return self.treatment.carrier

    @property
    def release_temperature(self) -> TemperatureCourse | None:
        """The temperature, if heat releases the drug."""
        return (
            self.temperature if self.carrier is not None and self.carrier.responds_to_heat else None
        )

    def segments(self) -> list[CoefficientSegment]:
        """Time segments of the run, in order."""
        release = (
            None
            if self.carrier is None or self.release_temperature is None
            else (self.carrier, self.release_temperature, self.values)
        )
        factors = self.treatment.factors if self.treatment.changes_tissue else None
        return partition_treatment(self.treatment, self.limits, factors, release)

    def intervals(self) -> Iterator[Interval]:
        """The intervals of the run; each is built when it is requested."""
        curves = plasma_inputs(self.treatment.plasma(self.values), self.detail)
        for part in self.segments():
            plasma = self._plasma_input([c.smooth_piece_from(part.start) for c in curves])
            yield replace(
                self._interval(part, plasma), start=part.start, end=part.end, plasma=plasma
            )

    def flow(self, t: float) -> tuple[FlowSolution, TumourModel]:
        """Flow and model at a time (s); the flow is solved again only if a factor has changed it
        since the last call.
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
            self._flow = (flow_factors, forward.solve_flow(none))
            self._pressure, self.flows_solved = forward.last_pressure, self.flows_solved + 1
        self._model = (factors, forward.model(none))
        return self._flow[1], self._model[1]

    def zero_pools(self) -> Tensor:
        """Pools without drug, ``(pool, x, y, z)``."""
        return self.setting.maps.phi.new_zeros((len(self.detail.pools), *self.setting.grid.shape))

    def _interval(self, part: CoefficientSegment, plasma: Callable[[float], Tensor]) -> Interval:
        """The interval of a segment; that of the last segment if its coefficients are the same."""
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
            and equal_or_both_none(self._cached_interval[2], T)
        ):
            return self._cached_interval[3]
        pools = carrier_pool_coefficients(
            model, flow.J_v, flow.J_L, self.detail, self.carrier, T, self.values
        )
        built = Interval.from_pools(
            part.start, part.end, pools, flow.flows, self.setting.grid, plasma, self.advection
        )
        self._cached_interval = (flow, model, T, built)
        return built

    def _plasma_input(self, smooth: list[Callable[[Tensor], Tensor]]) -> Callable[[float], Tensor]:
        like = self.setting.maps.phi

        def plasma(t: float) -> Tensor:
            at = torch.tensor(t, dtype=torch.float64)
            return torch.stack([c(at) for c in smooth]).to(like)

        return plasma
