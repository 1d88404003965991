"""Plasma pharmacokinetics: sums of exponentials as impulse responses, and series of doses.

A plasma input is smooth between its events (starts and ends of doses). Solvers take the smooth
piece that holds in a time step, so that a step that ends at a bolus uses the value before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nanopinn.errors import InputError

#: Concentration in kg/m3 at times in s, of the shape of the times.
ConcentrationFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SumOfExponentials:
    """Sum of exponentials, ``C(t) = sum_i A_i exp(-k_i t)`` for t >= 0, and 0 before.

    Attributes:
        amplitudes: A_i, kg/m3, or 1/m3 for an impulse response.
        rates: k_i, 1/s.
    """

    amplitudes: tuple[float, ...]
    rates: tuple[float, ...]

    def __call__(self, t: Tensor) -> Tensor:
        A, k = (
            torch.tensor(v, dtype=t.dtype, device=t.device) for v in (self.amplitudes, self.rates)
        )
        curve = (A * torch.exp(-k * t.clamp_min(0.0)[..., None])).sum(-1)
        return torch.where(t >= 0, curve, torch.zeros_like(curve))

    def integral(self, t: Tensor) -> Tensor:
        """Area up to a time, kg s/m3.

        Args:
            t: s, any shape.
        """
        A, k = (
            torch.tensor(v, dtype=t.dtype, device=t.device) for v in (self.amplitudes, self.rates)
        )
        return -(A / k * torch.expm1(-k * t.clamp_min(0.0)[..., None])).sum(-1)

    def scaled(self, factor: float) -> SumOfExponentials:
        """The same curve times ``factor``."""
        return SumOfExponentials(tuple(factor * a for a in self.amplitudes), self.rates)

    def convolved(self, other: SumOfExponentials) -> SumOfExponentials:
        """Convolution ``integral_0^t self(s) other(t - s) ds``, again a sum of exponentials.

        Raises:
            ValueError: the two share a rate; the result would have a term t exp(-k t).
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
    """One injection: a bolus, or an infusion at a constant rate.

    Attributes:
        start_s: s from the beginning of the treatment.
        amount_kg: drug that is given, kg.
        infusion_s: duration of the infusion, s; 0 for a bolus.

    Raises:
        InputError: the time is not finite, the amount is not positive, or the duration is
            negative.
    """

    start_s: float
    amount_kg: float
    infusion_s: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.start_s):
            raise InputError(
                "the time of a dose is not finite",
                field="start_s",
                found=self.start_s,
                expected="a finite number of seconds",
            )
        if not 0 < self.amount_kg < math.inf:
            raise InputError(
                "the amount of a dose is not positive",
                field="amount_kg",
                found=self.amount_kg,
                expected="a positive mass",
            )
        if not 0 <= self.infusion_s < math.inf:
            raise InputError(
                "the duration of an infusion is negative or not finite",
                field="infusion_s",
                found=self.infusion_s,
                expected="0 (a bolus) or more",
            )

    @property
    def end_s(self) -> float:
        """End of the infusion, s."""
        return self.start_s + self.infusion_s


class PlasmaInput(Protocol):
    """Concentration in plasma over time, smooth between its events."""

    def __call__(self, t: Tensor) -> Tensor:
        """Concentration at times in s, kg/m3; at a bolus the value after it."""

    def smooth_piece_from(self, start_s: float) -> ConcentrationFunction:
        """The smooth function from a time (s) up to and including the next event."""

    def events(self) -> tuple[float, ...]:
        """Times at which the curve is not smooth, s, increasing."""

    def scaled(self, factor: float) -> PlasmaInput:
        """The same input times ``factor``."""

    def area(self) -> float:
        """Integral over all times, kg s/m3."""

    def area_until(self, t: float) -> float:
        """Integral up to a time, kg s/m3."""


@dataclass(frozen=True)
class DosedPlasmaCurve:
    """Exact concentration in plasma after a series of doses.

        bolus D at s:          C = D g(t - s)
        infusion of D over T:  C = D sum_i A_i (w/T) m(k_i w) exp(-k_i (t - s - w))
        w = min(t - s, T),  m(x) = (1 - e^-x)/x

    w is the time of infusion so far. The form has no difference of large numbers, however short the
    infusion.

    Attributes:
        impulse_response: g, concentration per dose, 1/m3.
        doses: in any order.
    """

    impulse_response: SumOfExponentials
    doses: tuple[Dose, ...]

    def __call__(self, t: Tensor) -> Tensor:
        return self._modes(t).sum(-1)

    def _modes(self, t: Tensor) -> Tensor:
        """Terms of the curve by exponential of the impulse response, ``(..., exponential)``."""
        A, k = (
            t.new_tensor(v) for v in (self.impulse_response.amplitudes, self.impulse_response.rates)
        )
        return superpose_doses(A, k, self.doses, t)

    def smooth_piece_from(self, start_s: float) -> SmoothPlasmaCurve:
        """The smooth curve of the doses begun by ``start_s``, exact up to the next event.

        Args:
            start_s: s. A bolus at this time is included. A time within round-off of an event counts
                as the event.
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
        """Integral up to a time, ``sum_i (A_i given - X_i)/k_i``, kg s/m3.

        X_i is the i-th term of the curve, and given the mass given so far.
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
    """Superpose the responses to a series of doses, by exponential ``A exp(-k s)``, kg/m3.

    Args:
        A: amplitudes, ``(..., exponential)``, 1/m3.
        k: rates, ``(..., exponential)``, 1/s.
        doses: in any order.
        t: s, a scalar or of a shape that broadcasts with the leading axes of A.
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
    """Start of a smooth piece and the infusion rate in it.

    Args:
        doses: in any order.
        events: starts and ends of the doses, s.
        start_s: s.

    Returns:
        The start, moved to an event within round-off of it, in s, and the infusion rate, kg/s.
    """
    near = min(events, key=lambda e: abs(e - start_s), default=start_s)
    start = near if abs(near - start_s) <= 1e-9 * max(1.0, abs(near)) else start_s
    return start, sum(d.amount_kg / d.infusion_s for d in doses if d.start_s <= start < d.end_s)


@dataclass(frozen=True)
class SmoothPlasmaCurve:
    """Plasma curve between two events (:func:`decay_with_infusion`).

    Attributes:
        start_s: s.
        initial_amplitudes: X_i, kg/m3.
        infusion_rates: G_i, kg/(m3 s).
        rates: k_i, 1/s.
    """

    start_s: float
    initial_amplitudes: tuple[float, ...]
    infusion_rates: tuple[float, ...]
    rates: tuple[float, ...]

    def __call__(self, t: Tensor) -> Tensor:
        X, G, k = (
            t.new_tensor(v) for v in (self.initial_amplitudes, self.infusion_rates, self.rates)
        )
        return decay_with_infusion((t - self.start_s)[..., None], X, G, k)


@dataclass(frozen=True)
class PlasmaCurveSum:
    """Sum of plasma inputs, such as injected free drug and free drug that leaked from a carrier.

    Attributes:
        parts: of the sum.
    """

    parts: tuple[PlasmaInput, ...]

    def __call__(self, t: Tensor) -> Tensor:
        return sum((c(t) for c in self.parts), torch.zeros_like(t))

    def smooth_piece_from(self, start_s: float) -> ConcentrationFunction:
        """The sum of the smooth pieces of all parts."""
        smooth = [c.smooth_piece_from(start_s) for c in self.parts]
        return lambda t: sum((c(t) for c in smooth), torch.zeros_like(t))

    def events(self) -> tuple[float, ...]:
        """Events of all parts, s, increasing."""
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
    """Fraction of a dose that has been given by a time (s)."""
    return (
        min(1.0, (t - dose.start_s) / dose.infusion_s)
        if dose.infusion_s and t >= dose.start_s
        else float(t >= dose.start_s)
    )


def mean_exponential_decay(x: Tensor) -> Tensor:
    """Mean of e^-y for y from 0 to x, ``(1 - e^-x)/x``; 1 at 0."""
    return torch.where(x == 0, 1.0, -torch.expm1(-x) / torch.where(x == 0, 1.0, x))


def decay_with_infusion(s: Tensor, X: Tensor, G: Tensor, k: Tensor) -> Tensor:
    """Concentration during a constant infusion, ``sum_i X_i e^{-k_i s} + G_i s m(k_i s)``, kg/m3.

    Args:
        s: time since the start, s, broadcasting with ``(..., exponential)``.
        X: initial terms, ``(..., exponential)``, kg/m3.
        G: infusion rates, ``(..., exponential)``, kg/(m3 s).
        k: rates, ``(..., exponential)``, 1/s.
    """
    return (X * torch.exp(-k * s) + G * s * mean_exponential_decay(k * s)).sum(-1)


@dataclass(frozen=True)
class SampledPlasmaCurves:
    """Concentration in plasma for every draw of the parameters, after the same doses.

    Attributes:
        parts: terms of the sum, each with amplitudes ``(draw, exponential)`` in 1/m3, rates
            ``(draw, exponential)`` in 1/s, and the curve of the first draw, which holds the doses.
        measured: terms that are not of that form, each with one curve for each draw.
        like: a tensor of the device and type to use.
    """

    parts: tuple[tuple[Tensor, Tensor, DosedPlasmaCurve], ...]
    measured: tuple[tuple[PlasmaInput, ...], ...]
    like: Tensor

    @classmethod
    def from_curves(cls, curves: Sequence[PlasmaInput], like: Tensor) -> SampledPlasmaCurves:
        """Combine the curves of all draws.

        Args:
            curves: one for each draw.
            like: a tensor of the device and type to use.

        Raises:
            ValueError: the draws differ in more than amplitudes and rates.
        """
        parts, measured = [], []
        for drawn in zip(*(tuple(_iterate_terms(c)) for c in curves), strict=True):
            dosed = [d for d in drawn if isinstance(d, DosedPlasmaCurve)]
            if not dosed:
                measured.append(drawn)
                continue
            if len(dosed) < len(drawn) or any(d.doses != dosed[0].doses for d in dosed):
                raise ValueError("draws are given different doses")
            A, k = (
                like.new_tensor([getattr(d.impulse_response, name) for d in dosed])
                for name in ("amplitudes", "rates")
            )
            parts.append((A, k, dosed[0]))
        return cls(tuple(parts), tuple(measured), like)

    def smooth_piece_from(self, start_s: float) -> Callable[[float], Tensor]:
        """The smooth function that holds from ``start_s`` to the next event, including that event.

        Args:
            start_s: s.

        Returns:
            A function of a time in s with values ``(draw,)``, kg/m3.
        """
        starts, amplitudes, infused, rates = [], [], [], []
        for A, k, first in self.parts:
            start, rate = infusion_state_at(first.doses, first.events(), start_s)
            starts.append(torch.full_like(A, start))
            amplitudes.append(superpose_doses(A, k, first.doses, A.new_tensor(start)))
            infused.append(rate * A)
            rates.append(k)
        for drawn in self.measured:
            smooth = [c.smooth_piece_from(start_s) for c in drawn]
            pieces = [s for s in smooth if isinstance(s, SmoothPlasmaCurve)]
            X, G, k = (
                self.like.new_tensor([getattr(p, name) for p in pieces])
                for name in ("initial_amplitudes", "infusion_rates", "rates")
            )
            starts.append(self.like.new_tensor([p.start_s for p in pieces])[:, None].expand_as(X))
            amplitudes.append(X)
            infused.append(G)
            rates.append(k)
        begin, X, G, k = (torch.cat(v, dim=-1) for v in (starts, amplitudes, infused, rates))

        return lambda t: decay_with_infusion(t - begin, X, G, k)


def _iterate_terms(curve: PlasmaInput) -> Iterator[PlasmaInput]:
    """The curves of a sum, in order."""
    if isinstance(curve, PlasmaCurveSum):
        for part in curve.parts:
            yield from _iterate_terms(part)
    else:
        yield curve
