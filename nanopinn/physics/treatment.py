"""Treatments: doses, heatings and radiotherapy over time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nanopinn.parameters.table import Number, Values
from nanopinn.physics.formulation import Formulation, PlasmaDrug
from nanopinn.physics.heat import HeatEffects, has_heat_effects
from nanopinn.physics.plasma import Dose, PlasmaCurveSum
from nanopinn.physics.radiation import RadiationCourse


@dataclass(frozen=True)
class GivenDose:
    """A dose and its formulation."""

    formulation: Formulation
    dose: Dose


@dataclass(frozen=True)
class Heating:
    """One heating of the tumour, to a temperature or as measured by thermometry.

    Attributes:
        start_s: start of the rise, s.
        end_s: end of the plateau, s; the fall follows and takes as long as the rise.
        ramp_s: duration of the rise, s.
        mode: ``pennes`` heats with the power that would reach the temperature without conduction;
            ``imposed`` sets the temperature itself.
        temperature_K: that is reached, K; None with thermometry.
        file: of the thermometry.
    """

    start_s: float
    end_s: float
    ramp_s: float
    mode: Literal["imposed", "pennes"]
    temperature_K: float | None
    file: Path | None


@dataclass(frozen=True)
class Treatment:
    """Doses, heatings and fractions of one patient; times in s from the beginning.

    Attributes:
        doses: at least one; of free drug and at most one carrier.
        heatings: in order, not overlapping.
        radiation: fractions with their effect on the tumour.
        images_s: times at which fields are saved, s.
        end_s: end of the simulation, s.
        heat_effects: of the heatings on pressure and walls; None leaves them out.
    """

    doses: tuple[GivenDose, ...]
    heatings: tuple[Heating, ...]
    radiation: RadiationCourse
    images_s: tuple[float, ...]
    end_s: float
    heat_effects: HeatEffects | None = field(default_factory=HeatEffects)

    @property
    def carrier(self) -> Formulation | None:
        """The encapsulated formulation, or None."""
        return next((g.formulation for g in self.doses if g.formulation.circulation), None)

    def plasma(self, values: Values | None = None) -> PlasmaDrug:
        """Drug in plasma from all doses together.

        Args:
            values: of parameters by symbol, in place of the table's.
        """
        given = dict.fromkeys(g.formulation for g in self.doses)
        parts = [
            f.plasma([g.dose for g in self.doses if g.formulation == f], values) for f in given
        ]
        share = self.carrier.releasable_share if self.carrier else 1.0
        encapsulated, free = (
            PlasmaCurveSum(tuple(p.encapsulated for p in parts)),
            PlasmaCurveSum(tuple(p.free for p in parts)),
        )
        return PlasmaDrug(encapsulated, free, share, parts[0].fb)

    def events(self) -> tuple[float, ...]:
        """Times at which plasma, temperature or effects are not smooth, s, increasing."""
        times = {t for g in self.doses for t in (g.dose.start_s, g.dose.end_s)}
        times |= {
            t
            for h in self.heatings
            for t in (h.start_s, h.start_s + h.ramp_s, h.end_s, h.end_s + h.ramp_s)
        }
        return tuple(sorted(times | set(self.radiation.events())))

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that state the formulations."""
        return tuple(
            dict.fromkeys(g.formulation.file for g in self.doses if g.formulation.file is not None)
        )

    @property
    def heating_intervals_s(self) -> tuple[tuple[float, float], ...]:
        """Start and end of every heating that changes pressure and walls, s."""
        acting = () if self.heat_effects is None else self.heatings
        return tuple((h.start_s, h.end_s) for h in acting if has_heat_effects(h.temperature_K))

    @property
    def changes_tissue(self) -> bool:
        """Whether radiation or heat changes pressure or walls."""
        return bool(self.radiation.fractions or self.heating_intervals_s)

    def factors(self, t: float) -> dict[str, Number]:
        """Factors of radiation and heat on the tumour's properties.

        Args:
            t: s.

        Returns:
            By property (:class:`nanopinn.physics.tumour.TumourModel`); empty without radiation and
            heat.
        """
        found: dict[str, Number] = (
            dict(self.radiation.modifiers(t)) if self.radiation.fractions else {}
        )
        if self.heat_effects is not None and self.heating_intervals_s:
            for name, factor in self.heat_effects.modifiers(t, self.heating_intervals_s).items():
                found[name] = found.get(name, 1.0) * factor
        return found

    def with_values(self, values: Values) -> Treatment:
        """The same treatment with other effects of radiation and heat.

        Args:
            values: of their parameters by symbol; numbers, or tensors of one value per draw.
        """
        heat = None if self.heat_effects is None else self.heat_effects.with_values(values)
        return replace(self, radiation=self.radiation.with_values(values), heat_effects=heat)
