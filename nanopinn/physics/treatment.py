"""Treatments: doses, heatings and radiotherapy over time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nanopinn.parameters import value
from nanopinn.parameters.table import Number, Values
from nanopinn.parameters.units import HOUR, ZERO_CELSIUS
from nanopinn.physics.formulation import Formulation, PlasmaDrug
from nanopinn.physics.heat import HeatEffects, has_heat_effects
from nanopinn.physics.plasma import Dose, PlasmaCurveSum
from nanopinn.physics.radiation import RadiationCourse

_HEAT_EFFECTS = (
    "Heat also lowers the driving pressure of vessels (factor {p_e:g} at the end of a heating, for"
    " {hours:g} h) and raises the permeability of their walls to the carrier (factor {P:g},"
    " recovering with a time constant of {t:g} h). These are medians of wide priors from mice,"
    " whatever the temperature and duration."
)


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

    def heat_assumptions(self) -> tuple[str, ...]:
        """Assumptions on the effects of the heatings, as sentences."""
        found = []
        hottest = max(
            (h.temperature_K for h in self.heatings if h.temperature_K is not None), default=0.0
        )
        if hottest > value("T_stasis"):
            found.append(vascular_stasis_warning(hottest))
        if self.heating_intervals_s:
            hours, t = (value(s) / HOUR for s in ("HT_t_IFP", "HT_t_Pl"))
            found.append(
                _HEAT_EFFECTS.format(p_e=value("HT_IFP"), hours=hours, P=value("HT_Pl"), t=t)
            )
        elif self.heatings:
            why = "" if self.heat_effects is None else f" below {value('HT_T') - ZERO_CELSIUS:g} C"
            found.append(
                "Heat triggers release and changes nothing else: its effects on pressure and walls"
                f" are left out{why}."
            )
        return tuple(found)


def vascular_stasis_warning(T_K: float) -> str:
    """Warning for a temperature at which perfusion shuts down.

    Args:
        T_K: temperature, K.
    """
    return (
        f"Warning: {T_K - ZERO_CELSIUS:.3g} C is above {value('T_stasis') - ZERO_CELSIUS:g} C,"
        " at which perfusion of tumours shuts down. The model keeps the vessels perfused, so that"
        " delivery is overestimated."
    )
