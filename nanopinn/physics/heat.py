"""What heating does to a tumour beside opening carriers: its pressure falls, its walls let more
carriers through.

    ln m(t) = s(t) ln m_end,    s = 1 - product over heatings of (1 - s_i(t))
    driving pressure p_e:       s_i rises linearly over the heating to 1, stays so for t_IFP, then
    falls as e^{-t/t_IFP} carrier's permeability P_l: s_i is 1 during the heating, then falls as
    e^{-t/t_Pl}

A second heating renews an effect and does not deepen it. Pressure is measured up to 24 h after an
hour at 39 to 40 C in one mouse model; accumulation of liposomes in others. That every heating to
:func:`heats` or more does the whole of it, however long and hot, and how effects recover, are
assumptions: the priors are wide, and the effects can be left out.

Temperature of the tissue: imposed (thermometry), scheduled (a target and ramps), or Pennes' bioheat
equation.

    rho c dT/dt = div(k grad T) - w_b rho_b c_b (T - T_a) + Q

Source: Pennes, J. Appl. Physiol. 1:93 (1948). Temperatures in K; T_a, the blood's, is that of the
body.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.parameters import value
from nanopinn.parameters.table import Number, Values, parameter_lookup
from nanopinn.physics.pools import PoolAssembler, PoolCoefficients

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
        """The same with the numbers or draws that are given by symbol (HT_IFP, HT_Pl, HT_t_IFP,
        HT_t_Pl).
        """
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


@dataclass(frozen=True)
class TemperatureSegment:
    """An interval over which the temperature goes linearly from one map to another; maps ``(x, y,
    z)``, K.
    """

    start_s: float
    end_s: float
    first: Tensor
    last: Tensor

    def __call__(self, t: float) -> Tensor:
        return torch.lerp(self.first, self.last, (t - self.start_s) / (self.end_s - self.start_s))


@dataclass(frozen=True)
class TemperatureCourse:
    """Temperature over time, linear on each stretch and at rest outside all of them; jumps are
    allowed.

    Attributes:
        rest: map ``(x, y, z)``, K.
        stretches: in order, not overlapping.

    Raises:
        InputError: a stretch is empty or begins before the one ahead of it ends.
    """

    baseline: Tensor
    segments: tuple[TemperatureSegment, ...] = ()

    def __post_init__(self) -> None:
        for s in self.segments:
            if not s.end_s > s.start_s:
                raise InputError(
                    "times of temperature maps must increase",
                    field="times_s",
                    found=f"{s.start_s:g}, then {s.end_s:g} s",
                )
        for a, b in itertools.pairwise(self.segments):
            if b.start_s < a.end_s:
                raise InputError(
                    "two heatings overlap",
                    field="heat",
                    found=f"{b.start_s:g} s, before {a.end_s:g} s",
                )

    def __call__(self, t: float) -> Tensor:
        """Temperature at a time, K; at a jump its value after it."""
        return self.smooth_piece_from(t)(t)

    def smooth_piece_from(self, start_s: float) -> Callable[[float], Tensor]:
        """The smooth course that holds from ``start_s`` to the next event, its end included."""
        for s in self.segments:
            margin = 1e-9 * max(1.0, abs(s.start_s), abs(s.end_s))
            if s.start_s - margin <= start_s < s.end_s - margin:
                return s
        return lambda t: self.baseline

    def events(self) -> tuple[float, ...]:
        """Times at which it is not smooth, s, increasing."""
        return tuple(sorted({t for s in self.segments for t in (s.start_s, s.end_s)}))

    def merge(self, other: TemperatureCourse) -> TemperatureCourse:
        """This course with the stretches of another, which has the same rest."""
        return TemperatureCourse(
            self.baseline, tuple(sorted((*self.segments, *other.segments), key=lambda s: s.start_s))
        )


def imposed_temperature(times_s: Sequence[float], maps: Tensor) -> TemperatureCourse:
    """Linear between measured maps ``(t, x, y, z)``, K; the body's temperature before the first and
    after the last.

    Raises:
        InputError: fewer than two maps, one of them not finite, or times that do not increase.
    """
    if len(times_s) < 2 or len(times_s) != len(maps):
        raise InputError(
            "a temperature series needs a time for each of at least two maps",
            field="times_s",
            found=f"{len(times_s)} times",
        )
    if not bool(torch.isfinite(maps).all()):
        raise InputError(
            "temperature maps must be known everywhere",
            field="maps",
            remedy="Fill what was not measured.",
        )
    pairs = itertools.pairwise(zip(times_s, maps, strict=True))
    return TemperatureCourse(
        torch.full_like(maps[0], value("T_body")),
        tuple(TemperatureSegment(t0, t1, m0, m1) for (t0, m0), (t1, m1) in pairs),
    )


def scheduled_temperature(
    where: Tensor, T_K: Tensor | float, start_s: float, end_s: float, ramp_s: float = 0.0
) -> TemperatureCourse:
    """Rise to a temperature over ``ramp_s`` from the start, hold it to the end, fall back over
    ``ramp_s`` after it.

    Args:
        where: 1 where it is heated, 0 where it is not, or a share between, ``(x, y, z)``.
        T_K: temperature that is reached, K; a map or a number.
        start_s, end_s: of the heating, s.
        ramp_s: of rise and fall, s; 0 for jumps.

    Raises:
        InputError: the ramp is negative or longer than the heating.
    """
    if not 0 <= ramp_s <= end_s - start_s:
        raise InputError(
            "the ramp does not fit into the heating",
            field="ramp_s",
            found=ramp_s,
            expected=f"0 to {end_s - start_s:g} s",
        )
    body = torch.full_like(where, value("T_body"))
    hot = body + where * (T_K - body)
    top = TemperatureSegment(start_s + ramp_s, end_s, hot, hot)
    rise = TemperatureSegment(start_s, start_s + ramp_s, body, hot)
    fall = TemperatureSegment(end_s, end_s + ramp_s, hot, body)
    return TemperatureCourse(body, tuple(s for s in (rise, top, fall) if s.end_s > s.start_s))


def perfusion_heat_loss(w_b: Tensor | float) -> Tensor | float:
    """Heat that blood takes per volume and degree, ``w_b rho_b c_b``, W/(m3 K); w_b in 1/s."""
    return w_b * (value("rho_b") * value("c_b"))


def bioheat_coefficients(tumour: Tensor) -> PoolCoefficients:
    """Pennes' equation as one pool, the excess ``T - T_a`` in K; its one input is the heating power
    Q, W/m3.

    capacity = rho c (J/(m3 K)), diffusion = k (W/(m K)), reaction = w_b rho_b c_b (W/(m3 K)),
    inflow = 1.

    Args:
        tumour: 1 in the tumour, 0 in normal tissue, ``(x, y, z)``; perfusion differs between the
            two.
    """
    w_b = torch.where(
        tumour > 0.5, tumour.new_tensor(value("w_b_t")), tumour.new_tensor(value("w_b_n"))
    )
    pools, name = PoolAssembler(("excess temperature",), tumour), "excess temperature"
    pools.set_capacity(name, torch.full_like(tumour, value("rho_t") * value("c_t")))
    pools.add_transport(name, 0.0, torch.full_like(tumour, value("k_t")))
    pools.add_loss(name, perfusion_heat_loss(w_b))
    pools.add_plasma_source(name, 0, torch.ones_like(tumour))
    return pools.coefficients()


def steady_heating_power(T_K: Tensor | float, w_b: Tensor | float) -> Tensor | float:
    """Power that holds tissue at a temperature where nothing is conducted away: ``Q = w_b rho_b c_b
    (T - T_a)``, W/m3.
    """
    return perfusion_heat_loss(w_b) * (T_K - value("T_body"))


def thermal_decay_length(w_b: float) -> float:
    """Distance over which conducted heat falls by e, ``sqrt(k/(w_b rho_b c_b))``, m."""
    return float((value("k_t") / perfusion_heat_loss(w_b)) ** 0.5)
