"""Plasma curves of many draws at once: the same doses through impulse responses that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.physics.plasma import (
    PlasmaCurveSum,
    DosedPlasmaCurve,
    PlasmaInput,
    infusion_state_at,
    superpose_doses,
    mean_exponential_decay,
)


@dataclass(frozen=True)
class SampledPlasmaCurves:
    """A concentration in plasma for every draw.

    Attributes:
        parts: whose sum it is: amplitudes ``(draw, exponential)`` in 1/m3, rates in 1/s, and the doses given through them, as a curve
            of the first draw.
    """

    parts: tuple[tuple[Tensor, Tensor, DosedPlasmaCurve], ...]

    @classmethod
    def of(cls, curves: Sequence[PlasmaInput], like: Tensor) -> SampledPlasmaCurves:
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
        """The smooth curve that holds from ``start_s`` to the next event, its end included: ``(draw,)`` of a time in s."""
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
