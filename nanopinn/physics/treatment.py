"""Treatments: doses, heatings and radiotherapy over time, and the effect of radiation on tissue.

    ln m(t) = sum over fractions of (D_i/D_ref) ln m_peak s(t - t_i)
    s(t) = (t/t_p) e^{1 - t/t_p} for t > 0

m multiplies vessel and pressure properties. The literature disagrees even on the sign (IFP falls in
some tumours and rises in others up to 40 Gy, Multhoff and Vaupel 2012). Every m_peak is therefore a
parameter with a wide log-normal prior. That effects of fractions add in the logarithm and are
proportional to dose is an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nanopinn.errors import InputError
from nanopinn.parameters import Number, Values, scalar_lookup, value
from nanopinn.physics.circulation import PlasmaDrug
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.heat import HeatEffects, has_heat_effects
from nanopinn.physics.measured_plasma import MeasuredPlasma, check_plasma_quantities
from nanopinn.physics.plasma import Dose, PlasmaCurveSum
from nanopinn.physics.species import Subject, describe_subject

#: Properties that radiation changes (driving pressure, conductivities of wall and tissue,
#: permeability of the wall, vessel surface) and the symbols of their factors at the peak of the
#: effect of one fraction of RT_D.
RADIATION_FACTOR_SYMBOLS = {"p_e": "RT_IFP", "Lp": "RT_Lp", "K": "RT_K", "P": "RT_P", "SV": "RT_SV"}


#: Symbols of all parameters of the effects of radiation.
RADIATION_EFFECT_SYMBOLS = (*RADIATION_FACTOR_SYMBOLS.values(), "RT_t_peak")


@dataclass(frozen=True)
class Fraction:
    """One fraction of a radiotherapy.

    Attributes:
        time_s: s from the beginning of the treatment.
        dose_Gy: absorbed dose, Gy.

    Raises:
        InputError: the time is not finite or the dose is not positive.
    """

    time_s: float
    dose_Gy: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.time_s):
            raise InputError(
                "the time of a fraction is not finite",
                field="time_s",
                found=self.time_s,
                expected="a finite number of seconds",
            )
        if not 0 < self.dose_Gy < math.inf:
            raise InputError(
                "the dose of a fraction is not positive",
                field="dose_Gy",
                found=self.dose_Gy,
                expected="a positive dose",
            )


def rise_and_recovery(t: float, t_peak: Number) -> Number:
    """Time course of the effect of a fraction, ``s(t) = (t/t_p) e^{1 - t/t_p}``.

    Args:
        t: time after the fraction, s.
        t_peak: time of the peak, s.

    Returns:
        0 before the fraction, 1 at t_peak, 1/2 at 2.7 t_peak.
    """
    x = max(t, 0.0) / t_peak
    return x * math.e ** (1.0 - x)


def default_radiation_peaks() -> dict[str, Number]:
    """Prior median of every factor at its peak."""
    return {name: value(symbol) for name, symbol in RADIATION_FACTOR_SYMBOLS.items()}


@dataclass(frozen=True)
class RadiationCourse:
    """Fractions and their effect; factors and times are numbers, or tensors of one value per draw.

    Attributes:
        fractions: in any order.
        peaks: factor on each property at the peak of the effect of one fraction of RT_D; prior
            medians by default.
        t_peak_s: time from a fraction to the peak of its effect, s.
    """

    fractions: tuple[Fraction, ...] = ()
    peaks: Mapping[str, Number] = field(default_factory=default_radiation_peaks)
    t_peak_s: Number = field(default_factory=lambda: value("RT_t_peak"))

    def with_values(self, values: Values) -> RadiationCourse:
        """The same course with other factors and times.

        Args:
            values: numbers or draws by symbol (RT_IFP, RT_Lp, RT_K, RT_P, RT_SV, RT_t_peak).
        """
        peaks = {n: values.get(RADIATION_FACTOR_SYMBOLS[n], p) for n, p in self.peaks.items()}
        return replace(self, peaks=peaks, t_peak_s=values.get("RT_t_peak", self.t_peak_s))

    def effect(self, t: float) -> Number:
        """Exponent of all factors, ``sum_i (D_i/D_ref) s(t - t_i)``.

        Args:
            t: s.
        """
        return sum(
            (
                f.dose_Gy / value("RT_D") * rise_and_recovery(t - f.time_s, self.t_peak_s)
                for f in self.fractions
            ),
            0.0,
        )

    def modifiers(self, t: float) -> Mapping[str, Number]:
        """Factors on ``p_e``, ``Lp``, ``K``, ``P`` (permeability to every solute) and ``SV``.

        Args:
            t: s.
        """
        effect = self.effect(t)
        return {name: peak**effect for name, peak in self.peaks.items()}

    def events(self) -> tuple[float, ...]:
        """Times of the fractions, s, increasing."""
        return tuple(sorted({f.time_s for f in self.fractions}))


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
    file: Path | None = field(default=None, metadata={"saved": False})


@dataclass(frozen=True)
class Treatment:
    """Doses, heatings and fractions of one patient; times in s from the beginning.

    Attributes:
        doses: of free drug and at most one carrier; none where heat or radiation alone is given.
        heatings: in order, not overlapping.
        radiation: fractions with their effect on the tumour.
        images_s: times at which fields are saved, s.
        end_s: end of the simulation, s.
        heat_effects: of the heatings on pressure and walls; None leaves them out.
        subject: who is given the doses, of which the formulations have the kinetics.
        assumptions: on what was not stated, as sentences.
        measured_plasma: drug in plasma that replaces the population's curves; None where it was not
            measured.
    """

    doses: tuple[GivenDose, ...]
    heatings: tuple[Heating, ...]
    radiation: RadiationCourse
    images_s: tuple[float, ...]
    end_s: float
    heat_effects: HeatEffects | None = field(default_factory=HeatEffects)
    subject: Subject = field(default_factory=describe_subject)
    assumptions: tuple[str, ...] = ()
    measured_plasma: MeasuredPlasma | None = None

    @property
    def carrier(self) -> Formulation | None:
        """The encapsulated formulation, or None."""
        return next((g.formulation for g in self.doses if g.formulation.circulation), None)

    def plasma(self, values: Values | None = None) -> PlasmaDrug:
        """Drug in plasma from all doses together, as measured or by the population's kinetics.

        Args:
            values: of parameters by symbol, in place of the table's; those of the errors of
                measured samples included (:meth:`MeasuredPlasma.error_distributions`).

        Raises:
            InputError: the measured quantities do not determine the curves.
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
        population = PlasmaDrug(encapsulated, free, share, scalar_lookup(values)("fb"))
        if self.measured_plasma is None or not self.doses:
            return population
        check_plasma_quantities(self.measured_plasma, tuple(given))
        what = self.carrier or next(iter(given))
        return self.measured_plasma.plasma(population, what, [g.dose for g in self.doses], values)

    def events(self) -> tuple[float, ...]:
        """Times at which plasma, temperature or effects are not smooth, s, increasing."""
        times = {t for g in self.doses for t in (g.dose.start_s, g.dose.end_s)}
        times |= {
            t
            for h in self.heatings
            for t in (h.start_s, h.start_s + h.ramp_s, h.end_s, h.end_s + h.ramp_s)
        }
        if self.measured_plasma is not None and self.doses:
            times |= set(self.measured_plasma.event_times([g.dose for g in self.doses]))
        return tuple(sorted(times | set(self.radiation.events())))

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that state the formulations and the measured drug in plasma."""
        stated = [g.formulation.file for g in self.doses if g.formulation.file is not None]
        if self.measured_plasma is not None:
            stated.append(Path(self.measured_plasma.file))
        return tuple(dict.fromkeys(stated))

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

    def shifted(self, by_s: float) -> Treatment:
        """The same treatment with all times moved.

        Args:
            by_s: s.
        """
        return replace(
            self,
            doses=tuple(
                replace(g, dose=replace(g.dose, start_s=g.dose.start_s + by_s)) for g in self.doses
            ),
            heatings=tuple(
                replace(h, start_s=h.start_s + by_s, end_s=h.end_s + by_s) for h in self.heatings
            ),
            radiation=replace(
                self.radiation,
                fractions=tuple(
                    replace(f, time_s=f.time_s + by_s) for f in self.radiation.fractions
                ),
            ),
            images_s=tuple(t + by_s for t in self.images_s),
            end_s=self.end_s + by_s,
        )

    def with_values(self, values: Values) -> Treatment:
        """The same treatment with other effects of radiation and heat.

        Args:
            values: of their parameters by symbol; numbers, or tensors of one value per draw.
        """
        heat = None if self.heat_effects is None else self.heat_effects.with_values(values)
        return replace(self, radiation=self.radiation.with_values(values), heat_effects=heat)
