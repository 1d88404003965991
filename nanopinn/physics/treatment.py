"""What is given to a patient, and when: doses, heat, radiation."""

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
    " {hours:g} h) and opens their walls to the carrier (factor {P:g}, recovering with {t:g} h):"
    " medians of wide priors from mice, whatever the temperature and duration."
)


@dataclass(frozen=True)
class GivenDose:
    """A dose and what it is given in."""

    formulation: Formulation
    dose: Dose


@dataclass(frozen=True)
class Heating:
    """One heating of the tumour: to a temperature (K) over ramps (s), or as a thermometry file
    measured it.

    ``pennes`` heats with the power that reaches the temperature where nothing is conducted away;
    ``imposed`` sets the temperature itself. The fall follows after ``end_s`` and takes as long as
    the rise.
    """

    start_s: float
    end_s: float
    ramp_s: float
    mode: Literal["imposed", "pennes"]
    temperature_K: float | None
    file: Path | None


@dataclass(frozen=True)
class Treatment:
    """What a patient is given, in SI; times in s from its beginning.

    Attributes:
        doses: at least one; of free drug and at most one carrier.
        heatings: in order, not overlapping.
        radiation: fractions with their effect on the tumour.
        images_s: times at which fields are wanted.
        end_s: of the simulation.
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
        """The encapsulated formulation, if one is given."""
        return next((g.formulation for g in self.doses if g.formulation.circulation), None)

    def plasma(self, values: Values | None = None) -> PlasmaDrug:
        """Drug in plasma from all doses together; ``values`` of parameters by symbol stand in place
        of the table's.
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
        """Every time at which anything is not smooth, s, increasing."""
        times = {t for g in self.doses for t in (g.dose.start_s, g.dose.end_s)}
        times |= {
            t
            for h in self.heatings
            for t in (h.start_s, h.start_s + h.ramp_s, h.end_s, h.end_s + h.ramp_s)
        }
        return tuple(sorted(times | set(self.radiation.events())))

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the user's that say what the drug is given in."""
        return tuple(
            dict.fromkeys(g.formulation.file for g in self.doses if g.formulation.file is not None)
        )

    @property
    def heating_intervals_s(self) -> tuple[tuple[float, float], ...]:
        """Start and end of every heating that acts on pressure and walls, s."""
        acting = () if self.heat_effects is None else self.heatings
        return tuple((h.start_s, h.end_s) for h in acting if has_heat_effects(h.temperature_K))

    @property
    def changes_tissue(self) -> bool:
        """Whether radiation or heat changes pressure or walls."""
        return bool(self.radiation.fractions or self.heating_intervals_s)

    def factors(self, t: float) -> dict[str, Number]:
        """Factors of radiation and heat on the tumour's properties at a time, s; nothing where
        neither is given.
        """
        found: dict[str, Number] = (
            dict(self.radiation.modifiers(t)) if self.radiation.fractions else {}
        )
        if self.heat_effects is not None and self.heating_intervals_s:
            for name, factor in self.heat_effects.modifiers(t, self.heating_intervals_s).items():
                found[name] = found.get(name, 1.0) * factor
        return found

    def with_values(self, values: Values) -> Treatment:
        """The same with effects of radiation and heat as given by symbol; a tensor of draws gives a
        factor for each.
        """
        heat = None if self.heat_effects is None else self.heat_effects.with_values(values)
        return replace(self, radiation=self.radiation.with_values(values), heat_effects=heat)

    def heat_assumptions(self) -> tuple[str, ...]:
        """What is assumed of the heatings beside the temperature they reach."""
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
                "Heat opens carriers and changes nothing else: its effects on pressure and walls"
                f" are left out{why}."
            )
        return tuple(found)


def vascular_stasis_warning(T_K: float) -> str:
    """The warning for a temperature at which perfusion shuts down."""
    return (
        f"Warning: {T_K - ZERO_CELSIUS:.3g} C is above {value('T_stasis') - ZERO_CELSIUS:g} C,"
        " where heat closes the vessels of tumours (perfusion shut-down). Vessels stay open here:"
        " delivery is overstated."
    )
