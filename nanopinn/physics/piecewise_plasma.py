"""Plasma curves in pieces: a sum of exponentials between every two of a series of times."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.physics.plasma import (
    ConcentrationFunction,
    Dose,
    SmoothPlasmaCurve,
    SumOfExponentials,
)

#: Relative difference below which two rates count as equal in a convolution.
_EQUAL_RATES = 1e-6
#: Largest exponent of the extension to the dose, which keeps it a number for later checks.
_MOST_EXPONENT = 50.0


@dataclass(frozen=True)
class PiecewisePlasmaCurve:
    """Concentration in plasma as a sum of exponentials in each of several successive intervals.

    Attributes:
        pieces: in order of time; each holds up to the start of the next, and the last for ever.
            Before the first the concentration is 0.
    """

    pieces: tuple[SmoothPlasmaCurve, ...]

    def __call__(self, t: Tensor) -> Tensor:
        found = torch.zeros_like(t)
        for piece in self.pieces:
            begun = t >= piece.start_s
            found = torch.where(begun, piece(torch.where(begun, t, piece.start_s)), found)
        return found

    def smooth_piece_from(self, start_s: float) -> ConcentrationFunction:
        """The piece that holds from a time to the next event.

        Args:
            start_s: s. A time within round-off of an event counts as the event.
        """
        at = bisect_right(self.events(), start_s + 1e-9 * max(1.0, abs(start_s))) - 1
        first = self.pieces[max(at, 0)]
        zero = tuple(0.0 for _ in first.rates)
        return first if at >= 0 else SmoothPlasmaCurve(start_s, zero, zero, first.rates)

    def events(self) -> tuple[float, ...]:
        """Starts of all pieces, s, increasing."""
        return tuple(p.start_s for p in self.pieces)

    def scaled(self, factor: float) -> PiecewisePlasmaCurve:
        """The same curve times ``factor``."""
        return PiecewisePlasmaCurve(
            tuple(
                exponential_piece(
                    p.start_s, tuple(factor * X for X in p.initial_amplitudes), p.rates
                )
                for p in self.pieces
            )
        )

    def area(self) -> float:
        """Integral over all times, kg s/m3."""
        last = self.pieces[-1]
        rest = sum(X / k for X, k in zip(last.initial_amplitudes, last.rates, strict=True))
        return self.area_until(last.start_s) + rest

    def area_until(self, t: float) -> float:
        """Integral up to a time, kg s/m3.

        Args:
            t: s.
        """
        ends = (*self.events()[1:], math.inf)
        return sum(
            X * (s := min(t, end) - p.start_s) * _mean_decay(k * s)
            for p, end in zip(self.pieces, ends, strict=True)
            if t > p.start_s
            for X, k in zip(p.initial_amplitudes, p.rates, strict=True)
        )

    def convolved(self, response: SumOfExponentials) -> PiecewisePlasmaCurve:
        """Convolution ``integral_0^t C(s) g(t - s) ds``, with the same intervals.

            y_j = X_j e^{-m_j s} + B_j sum_i A_i (e^{-k_i s} - e^{-m_j s})/(m_j - k_i)

        X_j is the j-th term at the start of an interval, and s the time since.

        Args:
            response: g with the amplitudes B_j and the rates m_j.
        """
        modes = tuple(zip(response.amplitudes, response.rates, strict=True))
        state, found = [0.0] * len(modes), []
        for piece, after in zip(self.pieces, (*self.pieces[1:], None), strict=True):
            terms = [
                (A, _distinct_rate(k, response.rates))
                for A, k in zip(piece.initial_amplitudes, piece.rates, strict=True)
            ]
            driven = [A * sum(B / (m - k) for B, m in modes) for A, k in terms]
            own = [
                X - B * sum(A / (m - k) for A, k in terms)
                for X, (B, m) in zip(state, modes, strict=True)
            ]
            rates = (*(m for _, m in modes), *(k for _, k in terms))
            found.append(exponential_piece(piece.start_s, (*own, *driven), rates))
            if after is not None:
                s = after.start_s - piece.start_s
                state = [
                    X * math.exp(-m * s)
                    + B * sum(A * s * math.exp(-k * s) * _mean_decay((m - k) * s) for A, k in terms)
                    for X, (B, m) in zip(state, modes, strict=True)
                ]
        return PiecewisePlasmaCurve(tuple(found))


def exponential_piece(
    start_s: float, amplitudes: tuple[float, ...], rates: tuple[float, ...]
) -> SmoothPlasmaCurve:
    """Sum of exponentials ``sum_i X_i exp(-k_i (t - start))`` of one interval.

    Args:
        start_s: s.
        amplitudes: X_i, kg/m3.
        rates: k_i, 1/s; negative where the concentration rises.
    """
    return SmoothPlasmaCurve(start_s, amplitudes, tuple(0.0 for _ in rates), rates)


def _mean_decay(x: float) -> float:
    """Mean of e^-y for y from 0 to x, ``(1 - e^-x)/x``; 1 at 0."""
    return 1.0 if x == 0 else -math.expm1(-x) / x


def _distinct_rate(k: float, rates: Sequence[float]) -> float:
    """A rate moved away from those that it is equal to, where the terms of a convolution have no
    limit of their own; the change is far below the error of any measurement.
    """
    for m in rates:
        if abs(k - m) < _EQUAL_RATES * m:
            return m * (1 - _EQUAL_RATES)
    return k


def curve_through_samples(
    times_s: Sequence[float], concentrations: Sequence[float], doses: Sequence[Dose], file: str
) -> PiecewisePlasmaCurve:
    """The curve through samples, log-linear between them.

    Where all samples are taken before the second dose, every dose gives the curve of the first, in
    proportion to its amount.

    Args:
        times_s: of the samples after the first dose, s, increasing.
        concentrations: kg/m3, positive.
        doses: in any order.
        file: in errors.

    Raises:
        InputError: a dose has one sample before the next, or none while a later dose has some.
    """
    given = group_doses(doses)
    start = given[0].start_s
    times = [start + t for t in times_s]
    if not is_superposed(times_s, doses):
        return _interpolate_log_linear(times, concentrations, given, file)
    first = _interpolate_log_linear(times, concentrations, given[:1], file)
    return _superpose_curve(
        first, [(d.start_s - start, d.amount_kg / given[0].amount_kg) for d in given]
    )


def is_superposed(times_s: Sequence[float], doses: Sequence[Dose]) -> bool:
    """Whether samples follow the first of several doses alone.

    Args:
        times_s: of the samples after the first dose, s, increasing.
        doses: in any order.
    """
    given = group_doses(doses)
    return len(given) > 1 and times_s[-1] <= given[1].start_s - given[0].start_s


def group_doses(doses: Sequence[Dose]) -> list[Dose]:
    """Doses in order of time, those that begin together as one."""
    together: dict[float, list[Dose]] = {}
    for d in doses:
        together.setdefault(d.start_s, []).append(d)
    return [
        Dose(start, sum(d.amount_kg for d in given), max(d.infusion_s for d in given))
        for start, given in sorted(together.items())
    ]


def _interpolate_log_linear(
    times: Sequence[float], concentrations: Sequence[float], doses: Sequence[Dose], file: str
) -> PiecewisePlasmaCurve:
    """The curve through samples after every one of several doses.

    Args:
        times: of the samples, s.
        concentrations: kg/m3.
        doses: in order of time, each with two samples before the next.
        file: in errors.
    """
    samples = list(zip(times, concentrations, strict=True))
    pieces: list[SmoothPlasmaCurve] = []
    for j, dose in enumerate(doses):
        last = j == len(doses) - 1
        until = math.inf if last else doses[j + 1].start_s
        # a sample at the time of a later dose is taken before it
        here = [
            (t, c)
            for t, c in samples
            if (t > dose.start_s or (j == 0 and t == dose.start_s)) and t <= until
        ]
        if len(here) < 2:
            raise InputError(
                "a dose has fewer than two plasma samples after it",
                file=file,
                field="time_h",
                found=f"{len(here)} after dose {j + 1}",
                expected="2 or more after every dose, or none after the first dose",
                remedy="Add samples, or leave out those after the second dose.",
            )
        first_rate = _decay_rate(*here[:2])
        anchored = min(dose.end_s, here[0][0])
        reached = here[0][1] * math.exp(min(first_rate * (here[0][0] - anchored), _MOST_EXPONENT))
        if (rise := anchored - dose.start_s) > 0:
            pieces.append(_rise(dose.start_s, rise, reached, first_rate, pieces))
        knots = [(anchored, reached), *(s for s in here if s[0] > anchored)]
        rates = [_decay_rate(a, b) for a, b in itertools.pairwise(knots)]
        rates.append(_terminal_rate(here) if last else _decay_rate(*here[-2:]))
        pieces += [
            exponential_piece(t, (c,), (k,))
            for (t, c), k in zip(knots, rates, strict=True)
            if t < until
        ]
    return PiecewisePlasmaCurve(tuple(pieces))


def _rise(
    start: float, duration: float, reached: float, rate: float, before: Sequence[SmoothPlasmaCurve]
) -> SmoothPlasmaCurve:
    """Rise during an infusion to a concentration, ``C (1 - e^{-k s})/(1 - e^{-k T})`` from zero,
    exponential from that which an earlier dose has left.
    """
    if before:
        at = torch.tensor(start, dtype=torch.float64)
        left = float(before[-1](at))
        return exponential_piece(start, (left,), (math.log(left / reached) / duration,))
    # of a slower rate the rise is a straight line
    k = max(rate, 1e-3 / duration)
    top = reached / -math.expm1(-k * duration)
    return exponential_piece(start, (top, -top), (0.0, k))


def _decay_rate(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Rate of the exponential through two samples (time, concentration), 1/s."""
    return math.log(a[1] / b[1]) / (b[0] - a[0])


def _terminal_rate(samples: Sequence[tuple[float, float]]) -> float:
    """Rate after the last sample, 1/s.

    It is that of the last two samples, or of all samples since the highest where noise makes the
    last two rise. It is at least 0.1 over the time from the first sample to the last, so that an
    error of the last sample cannot make the area infinite.
    """
    rate = _decay_rate(*samples[-2:])
    if rate <= 0:
        highest = max(range(len(samples)), key=lambda i: samples[i][1])
        t, c = np.array(samples[highest:]).T
        rate = -float(np.polyfit(t, np.log(c), 1)[0]) if len(t) > 2 else 0.0
    return max(rate, 0.1 / (samples[-1][0] - samples[0][0]))


def _superpose_curve(
    curve: PiecewisePlasmaCurve, shifts: Sequence[tuple[float, float]]
) -> PiecewisePlasmaCurve:
    """Sum of copies of a curve, each later by a time (s) and times a factor."""
    events = sorted({e + shift for e in curve.events() for shift, _ in shifts})
    pieces = []
    for start in events:
        amplitudes: list[float] = []
        rates: list[float] = []
        for shift, factor in shifts:
            at = bisect_right([e + shift for e in curve.events()], start) - 1
            if at < 0:
                continue
            piece = curve.pieces[at]
            s = max(start - shift - piece.start_s, 0.0)
            amplitudes += [
                factor * X * math.exp(-k * s)
                for X, k in zip(piece.initial_amplitudes, piece.rates, strict=True)
            ]
            rates += piece.rates
        pieces.append(exponential_piece(start, tuple(amplitudes), tuple(rates)))
    return PiecewisePlasmaCurve(tuple(pieces))
