"""What is given to a patient, and when: doses, heat, radiation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanopinn.physics.formulation import Formulation, PlasmaDrug
from nanopinn.physics.plasma import CurveSum, Dose
from nanopinn.physics.radiation import RadiationCourse
from nanopinn.physics.values import Values


@dataclass(frozen=True)
class GivenDose:
    """A dose and what it is given in."""

    formulation: Formulation
    dose: Dose


@dataclass(frozen=True)
class Heating:
    """One heating of the tumour: to a temperature (K) over ramps (s), or as a thermometry file measured it.

    ``pennes`` heats with the power that reaches the temperature where nothing is conducted away; ``imposed``
    sets the temperature itself. The fall follows after ``end_s`` and takes as long as the rise.
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
    """

    doses: tuple[GivenDose, ...]
    heatings: tuple[Heating, ...]
    radiation: RadiationCourse
    images_s: tuple[float, ...]
    end_s: float

    @property
    def carrier(self) -> Formulation | None:
        """The encapsulated formulation, if one is given."""
        return next((g.formulation for g in self.doses if g.formulation.circulation), None)

    def plasma(self, values: Values | None = None) -> PlasmaDrug:
        """Drug in plasma from all doses together; ``values`` of parameters by symbol stand in place of the table's."""
        given = dict.fromkeys(g.formulation for g in self.doses)
        parts = [f.plasma([g.dose for g in self.doses if g.formulation == f], values) for f in given]
        share = self.carrier.releasable_share if self.carrier else 1.0
        encapsulated, free = CurveSum(tuple(p.encapsulated for p in parts)), CurveSum(tuple(p.free for p in parts))
        return PlasmaDrug(encapsulated, free, share, parts[0].fb)

    def events(self) -> tuple[float, ...]:
        """Every time at which anything is not smooth, s, increasing."""
        times = {t for g in self.doses for t in (g.dose.start_s, g.dose.end_s)}
        times |= {t for h in self.heatings for t in (h.start_s, h.start_s + h.ramp_s, h.end_s, h.end_s + h.ramp_s)}
        return tuple(sorted(times | set(self.radiation.events())))
