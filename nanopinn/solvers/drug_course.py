"""The treatment of a study between its first dose and its last drug image, as solvers need it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nanopinn.parameters import Number, Values, scalar_lookup
from nanopinn.physics.drug_pools import LINEAR_POOLS, DrugPoolOptions, plasma_inputs
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.heat import TemperatureCourse
from nanopinn.physics.plasma import Dose, PlasmaInput, SumOfExponentials
from nanopinn.physics.treatment import GivenDose, RadiationCourse, Treatment
from nanopinn.solvers.grid import repeat_cells
from nanopinn.solvers.time_partition import (
    PartitionLimits,
    equal_or_both_none,
    log_factor_change,
    partition_time,
    relative_release_change,
)

#: Limits of a fit, whose segments are each linearised with tangents.
FIT_LIMITS = PartitionLimits(0.2, 0.3, 1e-2, 1e-2, 2.0, max_segment_s=1e9)
#: First time step after an event, s, where drug is inside carriers, and where it is free at once.
CARRIER_FIRST_STEP_S, FREE_FIRST_STEP_S = 120.0, 30.0


@dataclass(frozen=True)
class DrugSegment:
    """A time segment with constant coefficients.

    Attributes:
        start, end: s after the first dose.
        flow_time_s: time at which the factors hold, s.
        factors: of radiation and heat on the tissue's properties.
        temperature: in the tissue, ``(x, y, z)``, K; None where it does not change the release.
        release_segment: number of the release multiplier.
    """

    start: float
    end: float
    flow_time_s: float
    factors: Mapping[str, Number]
    temperature: Tensor | None
    release_segment: int

    def has_coefficients_of(self, other: DrugSegment) -> bool:
        """Whether both segments have the same coefficients."""
        return (
            self.factors == other.factors
            and self.release_segment == other.release_segment
            and equal_or_both_none(self.temperature, other.temperature)
        )


@dataclass(frozen=True)
class DrugCourse:
    """Drug in plasma and what changes the tissue, from the first dose on.

    Attributes:
        treatment: doses, heatings and radiation; times are s after the first dose.
        options: pools that are solved.
        temperature: of the tissue; None: that of the body throughout.
        values: of parameters by symbol, in place of the table's.
    """

    treatment: Treatment
    options: DrugPoolOptions = LINEAR_POOLS
    temperature: TemperatureCourse | None = None
    values: Values = field(default_factory=dict)

    @property
    def carrier(self) -> Formulation | None:
        """The encapsulated formulation; None for free drug alone."""
        return self.treatment.carrier

    @property
    def linear(self) -> bool:
        """Whether the pools are linear with the same coefficients at all times."""
        return not (self.options.saturable or self._changes_coefficients)

    @property
    def is_single_bolus(self) -> bool:
        """Whether the drug is given as one bolus with kinetics of a population."""
        doses = [g.dose for g in self.treatment.doses]
        measured = self.treatment.measured_plasma is not None
        return len(doses) == 1 and doses[0].infusion_s == 0 and not measured

    @property
    def _changes_coefficients(self) -> bool:
        return self.treatment.changes_tissue or self._release_temperature is not None

    @property
    def _release_temperature(self) -> TemperatureCourse | None:
        heated = self.carrier is not None and self.carrier.responds_to_heat
        return self.temperature if heated else None

    @property
    def first_step_s(self) -> float:
        """First time step after an event, s."""
        slow = self.carrier is not None and self._release_temperature is None
        return CARRIER_FIRST_STEP_S if slow else FREE_FIRST_STEP_S

    def with_saturable_uptake(self) -> DrugCourse:
        """The same course with saturable uptake by cells."""
        return replace(self, options=replace(self.options, saturable=True))

    def refined(self, factor: int) -> DrugCourse:
        """The same course with the temperature of every cell in each of its ``factor^3`` parts."""
        if self.temperature is None:
            return self
        segments = tuple(
            replace(s, first=repeat_cells(s.first, factor), last=repeat_cells(s.last, factor))
            for s in self.temperature.segments
        )
        baseline = repeat_cells(self.temperature.baseline, factor)
        return replace(
            self, temperature=replace(self.temperature, baseline=baseline, segments=segments)
        )

    def curves(self, values: Values | None = None) -> tuple[PlasmaInput, ...]:
        """Plasma curves that feed the pools, in the order of their inputs.

        Args:
            values: of parameters by symbol, besides those of the course.
        """
        return plasma_inputs(self.treatment.plasma({**self.values, **(values or {})}), self.options)

    def bolus_curves(self) -> tuple[SumOfExponentials, SumOfExponentials]:
        """Encapsulated and unbound drug in plasma after a single bolus, kg/m3."""
        assert self.is_single_bolus
        given, lookup = self.treatment.doses[0], scalar_lookup(self.values)
        amount, formulation = given.dose.amount_kg, given.formulation
        return (
            formulation.encapsulated_impulse_response(self.values).scaled(
                amount * formulation.releasable_share
            ),
            formulation.free_impulse_response(self.values).scaled(amount * (1 - lookup("fb"))),
        )

    def encapsulated_at(self, t: float, values: Values | None = None) -> float:
        """Encapsulated drug in plasma at a time, kg/m3.

        Args:
            t: s after the first dose.
            values: of parameters by symbol, besides those of the course.
        """
        plasma = self.treatment.plasma({**self.values, **(values or {})})
        return float(plasma.encapsulated(torch.tensor(t, dtype=torch.float64)))

    def jumps(self) -> tuple[float, ...]:
        """Times after the first dose at which plasma curves or coefficients jump, s."""
        events = {e for c in self.curves() for e in c.events()}
        if self._changes_coefficients:
            events |= set(self.treatment.events())
        if self._release_temperature is not None:
            events |= set(self._release_temperature.events())
        return tuple(sorted(e for e in events if e > 0))

    def segments(self, end_s: float, release_jumps_s: Sequence[float] = ()) -> list[DrugSegment]:
        """Time segments of constant coefficients and smooth plasma curves.

        Args:
            end_s: last time that is needed, s after the first dose.
            release_jumps_s: times at which the multiplier of the release rate jumps, s.
        """
        marks = sorted({0.0, end_s, *(t for t in (*self.jumps(), *release_jumps_s) if t < end_s)})
        release, heat = None, self._release_temperature
        if heat is not None:
            assert self.carrier is not None
            release = relative_release_change(self.carrier, heat, self.values)
        factors = (
            log_factor_change(self.treatment.factors) if self.treatment.changes_tissue else None
        )
        return [
            DrugSegment(
                part.start,
                part.end,
                part.flow_time_s,
                self.treatment.factors(part.flow_time_s),
                None if heat is None else heat(part.temperature_time_s),
                bisect_right(list(release_jumps_s), part.start),
            )
            for part in partition_time(marks, FIT_LIMITS, factors, release)
        ]


def bolus_course(formulation: Formulation, dose_kg: float) -> DrugCourse:
    """The course of one bolus at time 0 without heat, with linear uptake.

    Args:
        formulation: that is given.
        dose_kg: kg.
    """
    treatment = Treatment(
        (GivenDose(formulation, Dose(0.0, dose_kg)),), (), RadiationCourse(), (), 0.0
    )
    return DrugCourse(treatment, replace(LINEAR_POOLS, carrier=treatment.carrier is not None))
