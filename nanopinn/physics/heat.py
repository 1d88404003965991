"""Temperature of the tissue, and the effect of heating on vessels and pressure.

Temperature is imposed (thermometry), scheduled (a target and ramps), or a solution of the bioheat
equation with the temperature of blood T_a at that of the body, in K::

    rho c dT/dt = div(k grad T) - w_b rho_b c_b (T - T_a) + Q

In addition to triggered release, heating lowers the driving pressure p_e and raises the
permeability
P_l of vessel walls to carriers, by factors m::

    ln m(t) = s(t) ln m_end,    s = 1 - product over heatings of (1 - s_i(t))
    p_e:  s_i rises linearly to 1 during the heating, stays 1 for t_IFP, then falls as e^{-t/t_IFP}
    P_l:  s_i is 1 during the heating, then falls as e^{-t/t_Pl}

A second heating renews an effect and does not deepen it. Pressure was measured up to 24 h after an
hour at 39 to 40 C in one mouse model, accumulation of liposomes in others. That every heating to
HT_T or more has the full effect, whatever its length and temperature, and how the effects recover,
are assumptions. The priors are wide, and the effects can be left out.

References:
    Pennes, J. Appl. Physiol. 1:93 (1948).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.parameters import Number, Values, value
from nanopinn.physics.pools import PoolAssembler, PoolCoefficients

#: Properties that heating changes, and the symbols of their factors at the end of a heating.
HEAT_FACTOR_SYMBOLS = {"p_e": "HT_IFP", "P_l": "HT_Pl"}
#: Symbols of all parameters of the effects of heating.
HEAT_EFFECT_SYMBOLS = (*HEAT_FACTOR_SYMBOLS.values(), "HT_t_IFP", "HT_t_Pl")


def has_heat_effects(T_K: float | None) -> bool:
    """Whether a heating changes pressure and walls.

    Args:
        T_K: temperature that is reached, K; None if unknown, which counts as enough.
    """
    return T_K is None or value("HT_T") <= T_K


def default_heat_factors() -> dict[str, Number]:
    """Prior median of every factor at the end of a heating."""
    return {name: value(symbol) for name, symbol in HEAT_FACTOR_SYMBOLS.items()}


@dataclass(frozen=True)
class HeatEffects:
    """Factors of a heating and their duration; numbers, or tensors of one value per draw.

    Attributes:
        factors: on each property at the end of a heating; prior medians by default.
        t_IFP_s: time for which the pressure stays low, and time constant of its recovery, s.
        t_Pl_s: time constant with which the permeability of the walls recovers, s.
    """

    factors: Mapping[str, Number] = field(default_factory=default_heat_factors)
    t_IFP_s: Number = field(default_factory=lambda: value("HT_t_IFP"))
    t_Pl_s: Number = field(default_factory=lambda: value("HT_t_Pl"))

    def with_values(self, values: Values) -> HeatEffects:
        """The same effects with other factors and durations.

        Args:
            values: numbers or draws by symbol (HT_IFP, HT_Pl, HT_t_IFP, HT_t_Pl).
        """
        return replace(
            self,
            factors={n: values.get(HEAT_FACTOR_SYMBOLS[n], f) for n, f in self.factors.items()},
            t_IFP_s=values.get("HT_t_IFP", self.t_IFP_s),
            t_Pl_s=values.get("HT_t_Pl", self.t_Pl_s),
        )

    def modifiers(self, t: float, heatings: Sequence[tuple[float, float]]) -> Mapping[str, Number]:
        """Factors on ``p_e`` and ``P_l`` at a time.

        Args:
            t: s.
            heatings: start and end of each heating, s.
        """
        left: dict[str, Number] = dict.fromkeys(self.factors, 1.0)
        for start, end in heatings:
            left["p_e"] = left["p_e"] * (1 - _pressure_effect(t, start, end, self.t_IFP_s))
            left["P_l"] = left["P_l"] * (1 - _wall_effect(t, start, end, self.t_Pl_s))
        return {name: factor ** (1 - left[name]) for name, factor in self.factors.items()}


def _pressure_effect(t: float, start: float, end: float, lasts: Number) -> Number:
    """Effect s_i of one heating on the driving pressure."""
    if t < end:
        return max(0.0, (t - start) / (end - start))
    beyond = (t - end) / lasts - 1
    # one expression, because the start of the recovery differs between draws
    return math.e ** -(beyond * (beyond > 0))


def _wall_effect(t: float, start: float, end: float, lasts: Number) -> Number:
    """Effect s_i of one heating on the permeability of the walls."""
    return float(t >= start) if t < end else math.e ** ((end - t) / lasts)


@dataclass(frozen=True)
class TemperatureSegment:
    """A time interval in which the temperature changes linearly from one map to another.

    Attributes:
        start_s: start of the interval, s.
        end_s: end of the interval, s.
        first: temperature at the start, ``(x, y, z)``, K.
        last: temperature at the end, ``(x, y, z)``, K.
    """

    start_s: float
    end_s: float
    first: Tensor
    last: Tensor

    def __call__(self, t: float) -> Tensor:
        return torch.lerp(self.first, self.last, (t - self.start_s) / (self.end_s - self.start_s))


@dataclass(frozen=True)
class TemperatureCourse:
    """Temperature over time: linear in each segment, at the baseline outside, possibly with jumps.

    Attributes:
        baseline: temperature outside all segments, ``(x, y, z)``, K.
        segments: in order, not overlapping.

    Raises:
        InputError: a segment is empty or overlaps the segment before it.
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
        """Temperature at a time, ``(x, y, z)``, K; at a jump the value after it."""
        return self.smooth_piece_from(t)(t)

    def smooth_piece_from(self, start_s: float) -> Callable[[float], Tensor]:
        """The smooth function that holds from a time to the next event, including that event.

        Args:
            start_s: s; a time within round-off of an event counts as the event.
        """
        for s in self.segments:
            margin = 1e-9 * max(1.0, abs(s.start_s), abs(s.end_s))
            if s.start_s - margin <= start_s < s.end_s - margin:
                return s
        return lambda t: self.baseline

    def events(self) -> tuple[float, ...]:
        """Times at which the temperature is not smooth, s, increasing."""
        return tuple(sorted({t for s in self.segments for t in (s.start_s, s.end_s)}))

    def merge(self, other: TemperatureCourse) -> TemperatureCourse:
        """This course together with the segments of another course of the same baseline."""
        return TemperatureCourse(
            self.baseline, tuple(sorted((*self.segments, *other.segments), key=lambda s: s.start_s))
        )


def imposed_temperature(times_s: Sequence[float], maps: Tensor) -> TemperatureCourse:
    """Temperature course that is linear between measured maps, and at body temperature elsewhere.

    Args:
        times_s: of the maps, increasing, s.
        maps: ``(t, x, y, z)``, K.

    Raises:
        InputError: there are fewer than two maps, a map is not finite, or the times do not
            increase.
    """
    if len(times_s) < 2 or len(times_s) != len(maps):
        raise InputError(
            "a temperature series needs a time for each of at least two maps",
            field="times_s",
            found=f"{len(times_s)} times",
        )
    if not bool(torch.isfinite(maps).all()):
        raise InputError(
            "a temperature map is not finite everywhere",
            field="maps",
            remedy="Fill the voxels that were not measured.",
        )
    pairs = itertools.pairwise(zip(times_s, maps, strict=True))
    return TemperatureCourse(
        torch.full_like(maps[0], value("T_body")),
        tuple(TemperatureSegment(t0, t1, m0, m1) for (t0, m0), (t1, m1) in pairs),
    )


def scheduled_temperature(
    where: Tensor, T_K: Tensor | float, start_s: float, end_s: float, ramp_s: float = 0.0
) -> TemperatureCourse:
    """Temperature course of one heating: a linear rise, a plateau to the end, and a linear fall.

    Args:
        where: 1 in heated tissue, 0 elsewhere, or a fraction between, ``(x, y, z)``.
        T_K: temperature of the plateau, K; a map or a number.
        start_s: start of the rise, s.
        end_s: end of the plateau, s.
        ramp_s: duration of the rise, and of the fall after ``end_s``, s; 0 for jumps.

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
    """Heat loss to blood per volume and degree, ``w_b rho_b c_b``, W/(m3 K).

    Args:
        w_b: blood perfusion, 1/s.
    """
    return w_b * (value("rho_b") * value("c_b"))


def bioheat_coefficients(tumour: Tensor) -> PoolCoefficients:
    """Coefficients of Pennes' equation for one pool, the excess ``T - T_a`` in K.

    Its input is the heating power Q in W/m3. capacity = rho c in J/(m3 K), diffusion = k in W/(m
    K), reaction = w_b rho_b c_b in W/(m3 K), inflow = 1.

    Args:
        tumour: 1 in the tumour, 0 in normal tissue, ``(x, y, z)``; their perfusions differ.
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
    """Heating power of a steady temperature without conduction, ``Q = w_b rho_b c_b (T - T_a)``.

    Args:
        T_K: temperature, K.
        w_b: blood perfusion, 1/s.

    Returns:
        W/m3.
    """
    return perfusion_heat_loss(w_b) * (T_K - value("T_body"))
