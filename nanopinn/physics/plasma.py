"""Plasma pharmacokinetics: impulse responses as sums of exponentials, and any series of doses
through them.

Plasma curves of many draws at once: the same doses through impulse responses that differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.parameters.table import Values, scalar_lookup

#: Concentration at times, kg/m3, of the shape of the times (s).
ConcentrationFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SumOfExponentials:
    """``C(t) = sum_i A_i exp(-k_i t)`` for t >= 0, zero before; amplitudes in kg/m3, rates in 1/s."""

    amplitudes: tuple[float, ...]
    rates: tuple[float, ...]

    def __call__(self, t: Tensor) -> Tensor:
        A, k = (
            torch.tensor(v, dtype=t.dtype, device=t.device) for v in (self.amplitudes, self.rates)
        )
        curve = (A * torch.exp(-k * t.clamp_min(0.0)[..., None])).sum(-1)
        return torch.where(t >= 0, curve, torch.zeros_like(curve))

    def integral(self, t: Tensor) -> Tensor:
        """Area up to t, kg s/m3."""
        A, k = (
            torch.tensor(v, dtype=t.dtype, device=t.device) for v in (self.amplitudes, self.rates)
        )
        return -(A / k * torch.expm1(-k * t.clamp_min(0.0)[..., None])).sum(-1)

    def scaled(self, factor: float) -> SumOfExponentials:
        """The same curve times ``factor``."""
        return SumOfExponentials(tuple(factor * a for a in self.amplitudes), self.rates)

    def convolved(self, other: SumOfExponentials) -> SumOfExponentials:
        """``integral_0^t self(s) other(t - s) ds``, again a sum of exponentials.

        Raises:
            ValueError: the two share a rate (the result would hold a term t exp(-k t)).
        """
        terms: dict[float, float] = {}
        for a, k in zip(self.amplitudes, self.rates, strict=True):
            for b, m in zip(other.amplitudes, other.rates, strict=True):
                if abs(k - m) <= 1e-9 * max(abs(k), abs(m)):
                    raise ValueError("convolution of exponentials with equal rates")
                terms[k] = terms.get(k, 0.0) + a * b / (m - k)
                terms[m] = terms.get(m, 0.0) - a * b / (m - k)
        return SumOfExponentials(tuple(terms.values()), tuple(terms))

    def area(self) -> float:
        """Integral from 0 to infinity, kg s/m3."""
        return sum(a / k for a, k in zip(self.amplitudes, self.rates, strict=True))


@dataclass(frozen=True)
class Dose:
    """One injection: a bolus, or an infusion at a constant rate over ``infusion_s``.

    Raises:
        InputError: the time is not finite, nothing is given, or the infusion ends before it starts.
    """

    start_s: float
    amount_kg: float
    infusion_s: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.start_s):
            raise InputError(
                "a dose has no time",
                field="start_s",
                found=self.start_s,
                expected="a finite number of seconds",
            )
        if not 0 < self.amount_kg < math.inf:
            raise InputError(
                "a dose gives nothing",
                field="amount_kg",
                found=self.amount_kg,
                expected="a positive mass",
            )
        if not 0 <= self.infusion_s < math.inf:
            raise InputError(
                "an infusion needs a duration",
                field="infusion_s",
                found=self.infusion_s,
                expected="0 (a bolus) or more",
            )

    @property
    def end_s(self) -> float:
        """When the last of it is in, s."""
        return self.start_s + self.infusion_s


class PlasmaInput(Protocol):
    """What tissue is fed from: a concentration in plasma that is smooth between its events."""

    def __call__(self, t: Tensor) -> Tensor:
        """Concentration, kg/m3; at a bolus its value after it."""

    def smooth_piece_from(self, start_s: float) -> ConcentrationFunction:
        """The smooth curve that holds from ``start_s`` to the next event, its end included."""

    def events(self) -> tuple[float, ...]:
        """Times at which it is not smooth, s, increasing."""

    def scaled(self, factor: float) -> PlasmaInput:
        """The same input times ``factor``."""

    def area(self) -> float:
        """Integral over all times, kg s/m3."""

    def area_until(self, t: float) -> float:
        """Integral up to a time, kg s/m3."""


@dataclass(frozen=True)
class DosedPlasmaCurve:
    """Concentration in plasma after a series of doses, exact.

        bolus D at s:              D g(t - s)
        infusion of D over T:      D/T integral_{max(0, t-s-T)}^{t-s} g = D sum_i A_i m(k_i w) w/T
        exp(-k_i (t - s - w))

    with ``w = min(t - s, T)`` the time infused so far and ``m(x) = (1 - e^-x)/x``: no difference of
    large numbers, however short the infusion.

    Attributes:
        impulse: g, concentration per dose, 1/m3.
        doses: what is given, in any order.
    """

    impulse_response: SumOfExponentials
    doses: tuple[Dose, ...]

    def __call__(self, t: Tensor) -> Tensor:
        return self._modes(t).sum(-1)

    def _modes(self, t: Tensor) -> Tensor:
        """The curve split by the exponentials of the impulse, ``(..., exponential)``."""
        A, k = (
            t.new_tensor(v) for v in (self.impulse_response.amplitudes, self.impulse_response.rates)
        )
        return superpose_doses(A, k, self.doses, t)

    def smooth_piece_from(self, start_s: float) -> SmoothPlasmaCurve:
        """The curve of what has begun by ``start_s``: smooth, and exact up to the next event.

        A bolus at ``start_s`` counts, one at the end of the interval does not: a time step that
        ends at a bolus sees the value before it. A start within round-off of an event is at the
        event.
        """
        start, rate = infusion_state_at(self.doses, self.events(), start_s)
        modes = self._modes(torch.tensor(start, dtype=torch.float64)).tolist()
        return SmoothPlasmaCurve(
            start,
            tuple(modes),
            tuple(rate * a for a in self.impulse_response.amplitudes),
            self.impulse_response.rates,
        )

    def events(self) -> tuple[float, ...]:
        """Starts of all doses and ends of infusions, s, increasing."""
        return tuple(sorted({d.start_s for d in self.doses} | {d.end_s for d in self.doses}))

    def scaled(self, factor: float) -> DosedPlasmaCurve:
        """The same curve times ``factor``."""
        return DosedPlasmaCurve(self.impulse_response.scaled(factor), self.doses)

    def area(self) -> float:
        """Integral over all times, kg s/m3: dose over clearance."""
        return sum(d.amount_kg for d in self.doses) * self.impulse_response.area()

    def area_until(self, t: float) -> float:
        """Integral up to a time, kg s/m3: of every mode what came in less what is there, over its
        rate, ``(A_i given - X_i)/k_i``.
        """
        modes = self._modes(torch.tensor(t, dtype=torch.float64)).tolist()
        given = sum(_fraction_given(d, t) * d.amount_kg for d in self.doses)
        return sum(
            (a * given - x) / k
            for a, x, k in zip(
                self.impulse_response.amplitudes, modes, self.impulse_response.rates, strict=True
            )
        )


def superpose_doses(A: Tensor, k: Tensor, doses: Sequence[Dose], t: Tensor) -> Tensor:
    """What a series of doses leaves in each exponential ``A exp(-k s)`` of an impulse response,
    kg/m3.

    Args:
        A, k: ``(..., exponential)``, 1/m3 and 1/s. t: s, one or of a shape that A's other axes fit.
    """
    total = torch.zeros_like(t[..., None] * A)
    for dose in doses:
        since = (t - dose.start_s)[..., None]
        infused = since.clamp(0.0, dose.infusion_s)
        given = infused / dose.infusion_s if dose.infusion_s > 0 else torch.ones_like(infused)
        left = (
            given
            * mean_exponential_decay(k * infused)
            * torch.exp(-k * (since - infused).clamp_min(0.0))
        )
        total = total + torch.where(since >= 0, dose.amount_kg * A * left, 0.0)
    return total


def infusion_state_at(
    doses: Sequence[Dose], events: Sequence[float], start_s: float
) -> tuple[float, float]:
    """A start, or the event that it is within round-off of, s, and the rate at which drug is
    infused from then on, kg/s.
    """
    near = min(events, key=lambda e: abs(e - start_s), default=start_s)
    start = near if abs(near - start_s) <= 1e-9 * max(1.0, abs(near)) else start_s
    return start, sum(d.amount_kg / d.infusion_s for d in doses if d.start_s <= start < d.end_s)


@dataclass(frozen=True)
class SmoothPlasmaCurve:
    """``C(t) = sum_i X_i exp(-k_i s) + G_i s m(k_i s)`` with ``s = t - start`` and ``m(x) = (1 -
    e^-x)/x``.

    Attributes:
        start_s: where it begins, s.
        held: X, what is there, kg/m3.
        gained: G, what running infusions add, kg/(m3 s).
        rates: k, 1/s.
    """

    start_s: float
    initial_amplitudes: tuple[float, ...]
    infusion_rates: tuple[float, ...]
    rates: tuple[float, ...]

    def __call__(self, t: Tensor) -> Tensor:
        X, G, k = (
            t.new_tensor(v) for v in (self.initial_amplitudes, self.infusion_rates, self.rates)
        )
        s = (t - self.start_s)[..., None]
        return (X * torch.exp(-k * s) + G * s * mean_exponential_decay(k * s)).sum(-1)


@dataclass(frozen=True)
class PlasmaCurveSum:
    """Several inputs that add up, such as free drug given as such and free drug leaked from a
    carrier.
    """

    parts: tuple[PlasmaInput, ...]

    def __call__(self, t: Tensor) -> Tensor:
        return sum((c(t) for c in self.parts), torch.zeros_like(t))

    def smooth_piece_from(self, start_s: float) -> ConcentrationFunction:
        """The sum of the parts' smooth curves."""
        smooth = [c.smooth_piece_from(start_s) for c in self.parts]
        return lambda t: sum((c(t) for c in smooth), torch.zeros_like(t))

    def events(self) -> tuple[float, ...]:
        """Events of every part, s, increasing."""
        return tuple(sorted({e for c in self.parts for e in c.events()}))

    def scaled(self, factor: float) -> PlasmaCurveSum:
        """The same sum times ``factor``."""
        return PlasmaCurveSum(tuple(c.scaled(factor) for c in self.parts))

    def area(self) -> float:
        """Integral over all times, kg s/m3."""
        return sum(c.area() for c in self.parts)

    def area_until(self, t: float) -> float:
        """Integral up to a time, kg s/m3."""
        return sum(c.area_until(t) for c in self.parts)


def _fraction_given(dose: Dose, t: float) -> float:
    """Share of a dose that has been given by a time, s."""
    return (
        min(1.0, (t - dose.start_s) / dose.infusion_s)
        if dose.infusion_s and t >= dose.start_s
        else float(t >= dose.start_s)
    )


def mean_exponential_decay(x: Tensor) -> Tensor:
    """``(1 - e^-x)/x``, the mean of e^-y for y from 0 to x; 1 at 0."""
    return torch.where(x == 0, 1.0, -torch.expm1(-x) / torch.where(x == 0, 1.0, x))


def free_drug_impulse_response(values: Values | None = None) -> SumOfExponentials:
    """Free doxorubicin in plasma per kg injected, unbound and bound together, 1/m3 (three
    compartments).

    The slowest amplitude follows from the measured clearance, because it carries most of the area
    and was the least certain: ``C = (1/CL - A/alpha - B/beta) gamma``.

    Source: Robert 1982 for A, B and the rates; Gabizon 1994 for CL.
    """
    symbols = ("A_dox", "alpha_dox", "B_dox", "beta_dox", "gamma_dox", "CL_dox")
    A, alpha, B, beta, gamma, CL = (scalar_lookup(values)(s) for s in symbols)
    C = (1 / CL - A / alpha - B / beta) * gamma
    return SumOfExponentials((A, B, C), (alpha, beta, gamma))


@dataclass(frozen=True)
class SampledPlasmaCurves:
    """A concentration in plasma for every draw.

    Attributes:
        parts: whose sum it is: amplitudes ``(draw, exponential)`` in 1/m3, rates in 1/s, and the
            doses given through them, as a curve of the first draw.
    """

    parts: tuple[tuple[Tensor, Tensor, DosedPlasmaCurve], ...]

    @classmethod
    def from_curves(cls, curves: Sequence[PlasmaInput], like: Tensor) -> SampledPlasmaCurves:
        """The curves of every draw as one.

        Raises:
            ValueError: they differ in more than amplitudes and rates.
        """
        parts = []
        for drawn in zip(*(tuple(_iterate_dosed_curves(c)) for c in curves), strict=True):
            if any(d.doses != drawn[0].doses for d in drawn):
                raise ValueError("draws are given different doses")
            A, k = (
                like.new_tensor([getattr(d.impulse_response, name) for d in drawn])
                for name in ("amplitudes", "rates")
            )
            parts.append((A, k, drawn[0]))
        return cls(tuple(parts))

    def smooth_piece_from(self, start_s: float) -> Callable[[float], Tensor]:
        """The smooth curve that holds from ``start_s`` to the next event, its end included:
        ``(draw,)`` of a time in s.
        """
        starts, held, gained, rates = [], [], [], []
        for A, k, first in self.parts:
            start, rate = infusion_state_at(first.doses, first.events(), start_s)
            starts.append(torch.full_like(A, start))
            held.append(superpose_doses(A, k, first.doses, A.new_tensor(start)))
            gained.append(rate * A)
            rates.append(k)
        begin, X, G, k = (torch.cat(v, dim=-1) for v in (starts, held, gained, rates))

        def smooth(t: float) -> Tensor:
            s = t - begin
            return (X * torch.exp(-k * s) + G * s * mean_exponential_decay(k * s)).sum(-1)

        return smooth


def _iterate_dosed_curves(curve: PlasmaInput) -> Iterator[DosedPlasmaCurve]:
    if isinstance(curve, PlasmaCurveSum):
        for part in curve.parts:
            yield from _iterate_dosed_curves(part)
    elif isinstance(curve, DosedPlasmaCurve):
        yield curve
    else:
        raise ValueError(f"a plasma curve of draws is made of doses, not of {type(curve).__name__}")
