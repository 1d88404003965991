"""What heating does to a tumour beside opening carriers: its pressure falls, its walls let more carriers through.

    ln m(t) = s(t) ln m_end,    s = 1 - product over heatings of (1 - s_i(t))
    driving pressure p_e:       s_i rises linearly over the heating to 1, stays so for t_IFP, then falls as e^{-t/t_IFP}
    carrier's permeability P_l: s_i is 1 during the heating, then falls as e^{-t/t_Pl}

A second heating renews an effect and does not deepen it. Pressure is measured up to 24 h after an hour at 39 to 40 C in one mouse
model; accumulation of liposomes in others. That every heating to :func:`heats` or more does the whole of it, however long and hot,
and how effects recover, are assumptions: the priors are wide, and the effects can be left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nanopinn.parameters import value
from nanopinn.physics.values import Number, Values, parameter_lookup

#: Properties that heating changes, and the symbol of the factor at the end of a heating.
HEAT_FACTOR_SYMBOLS = {"p_e": "HT_IFP", "P_l": "HT_Pl"}


def has_heat_effects(T_K: float | None) -> bool:
    """Whether a heating to a temperature has these effects; one of unknown temperature has."""
    return T_K is None or value("HT_T") <= T_K


def default_heat_factors() -> dict[str, Number]:
    """Median of every factor at the end of a heating."""
    return {name: value(symbol) for name, symbol in HEAT_FACTOR_SYMBOLS.items()}


@dataclass(frozen=True)
class HeatEffects:
    """Factors of a heating and how long they last; numbers, or tensors of one value for each draw.

    Attributes:
        factors: of each property at the end of a heating; the table's medians by default.
        t_IFP_s: for which the pressure stays low, and with which it then recovers, s.
        t_Pl_s: with which the walls recover, s.
    """

    factors: Mapping[str, Number] = field(default_factory=default_heat_factors)
    t_IFP_s: Number = field(default_factory=lambda: value("HT_t_IFP"))
    t_Pl_s: Number = field(default_factory=lambda: value("HT_t_Pl"))

    def with_values(self, values: Values) -> HeatEffects:
        """The same with the numbers or draws that are given by symbol (HT_IFP, HT_Pl, HT_t_IFP, HT_t_Pl)."""
        v = parameter_lookup(
            {
                **{HEAT_FACTOR_SYMBOLS[n]: f for n, f in self.factors.items()},
                "HT_t_IFP": self.t_IFP_s,
                "HT_t_Pl": self.t_Pl_s,
                **values,
            }
        )
        return replace(
            self,
            factors={n: v(HEAT_FACTOR_SYMBOLS[n]) for n in self.factors},
            t_IFP_s=v("HT_t_IFP"),
            t_Pl_s=v("HT_t_Pl"),
        )

    def modifiers(self, t: float, heatings: Sequence[tuple[float, float]]) -> Mapping[str, Number]:
        """Factors on ``p_e`` and ``P_l`` at a time.

        Args:
            t: s.
            heatings: start and end of each, s.
        """
        left: dict[str, Number] = dict.fromkeys(self.factors, 1.0)
        for start, end in heatings:
            left["p_e"] = left["p_e"] * (1 - _pressure_effect(t, start, end, self.t_IFP_s))
            left["P_l"] = left["P_l"] * (1 - _wall_effect(t, start, end, self.t_Pl_s))
        return {name: factor ** (1 - left[name]) for name, factor in self.factors.items()}


def _pressure_effect(t: float, start: float, end: float, lasts: Number) -> Number:
    """Share of the whole effect on the pressure that one heating has at a time."""
    if t < end:
        return max(0.0, (t - start) / (end - start))
    beyond = (t - end) / lasts - 1
    # in one expression, because draws differ in when the fall begins
    return math.e ** -(beyond * (beyond > 0))


def _wall_effect(t: float, start: float, end: float, lasts: Number) -> Number:
    """Share of the whole effect on the walls that one heating has at a time."""
    return float(t >= start) if t < end else math.e ** ((end - t) / lasts)
