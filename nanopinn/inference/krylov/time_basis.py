"""Hidden features in time: what cells of random rates make of the plasma curves, with the initial
condition built in.

A linear pool that plasma drives is a mixture of ``y_k(t) = integral_0^t c(s) exp(-k (t - s)) ds``;
so are the pools behind it (a convolution of two exponentials is their difference over that of the
rates) and, among dense enough rates, the derivatives by a rate. Their running integrals are known
exactly: ``integral y_k = (y_0 - y_k)/k``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nanopinn.imaging.dce.convolution import convolve_exponential
from nanopinn.imaging.dce.plasma_curve import PlasmaCurve
from nanopinn.physics.plasma import SumOfExponentials

#: Directions of responses that are weaker than this are round-off.
ROUND_OFF = 1e-9


class PlasmaResponse(Protocol):
    """A plasma curve as cells answer it."""

    def __call__(self, rates: Tensor, times: Tensor) -> Tensor:
        """``y_k`` for rates ``(k,)`` 1/s, zero among them, at times ``(n,)`` s: ``(n, k)``."""


def response_to_samples(curve: PlasmaCurve) -> PlasmaResponse:
    """Of a curve between its samples."""

    def answer(rates: Tensor, times: Tensor) -> Tensor:
        t, c = (torch.as_tensor(v).to(times) for v in (curve.times_s, curve.plasma_mM))
        return convolve_exponential(t, c, rates, times).T

    return answer


def response_to_exponentials(curve: SumOfExponentials) -> PlasmaResponse:
    """Of a sum of exponentials from time zero."""

    def answer(rates: Tensor, times: Tensor) -> Tensor:
        t, total = times[:, None], torch.zeros((len(times), len(rates))).to(times)
        for A, a in zip(curve.amplitudes, curve.rates, strict=True):
            gap = rates - a
            safe = torch.where(
                gap.abs() * times[-1] > 1e-9, gap, torch.full_like(gap, 1e-9 / float(times[-1]))
            )
            total = total - A * torch.exp(-a * t) * torch.expm1(-safe * t) / safe
        return total

    return answer


@dataclass(frozen=True)
class TimeBasis:
    """Functions ``B`` of time, orthonormal on a fine grid of times.

    Attributes:
        B: at the nodes of the anchor, ``(n, r)``.
        integral: coefficients of the running integral of each function, s, ``(r, r)``.
        area: coefficients of the area of every plasma curve, ``(r, input)``.
        fit: coefficients of a history given at the nodes, ``(r, n)``.
    """

    B: Tensor
    integral: Tensor
    input_integral: Tensor
    projection: Tensor

    @classmethod
    def build(
        cls,
        nodes: Tensor,
        plasma: Sequence[PlasmaResponse],
        breakpoints: Tensor,
        rates: Tensor,
        rank: int,
    ) -> TimeBasis:
        """The ``rank`` strongest directions among the responses.

        Args:
            nodes: of the anchor, ``(n,)`` s. kinks: of the plasma curves, the first where they
                begin, s.
            rates: of the responses, 1/s, above zero.
        """
        times, weights = _gauss_quadrature(
            torch.cat([nodes, breakpoints[breakpoints < nodes[-1]]]).unique(), float(rates.max())
        )
        root = weights.sqrt()[:, None]
        areas = torch.cat([c(rates.new_zeros(1), times) for c in plasma], dim=1)
        answers = [c(rates, times) for c in plasma]
        values, integrals = (
            torch.cat(answers, dim=1),
            torch.cat(
                [(a[:, None] - y) / rates for a, y in zip(areas.T, answers, strict=True)], dim=1
            ),
        )
        size = (root * values).norm(dim=0)
        _, strength, mix = torch.linalg.svd(root * values / size, full_matrices=False)
        rank = min(rank, int((strength > ROUND_OFF * strength[0]).sum()))
        mix = (mix[:rank] / strength[:rank, None]).T / size[:, None]
        B = weights[:, None] * (values @ mix)
        at_nodes = torch.cat([c(rates, nodes) for c in plasma], dim=1) @ mix
        return cls(at_nodes, B.T @ integrals @ mix, B.T @ areas, torch.linalg.pinv(at_nodes))

    def histories(self, coefficients: Tensor, at: Sequence[int] | None = None) -> Tensor:
        """Coefficients ``(..., r, pool, x, y, z)`` as histories ``(..., n, pool, x, y, z)``, or at
        some nodes alone.
        """
        return torch.einsum(
            "nr,...rpxyz->...npxyz", self.B if at is None else self.B[list(at)], coefficients
        )

    def coefficients(self, histories: Tensor) -> Tensor:
        """The inverse of :meth:`histories`, by least squares over the nodes."""
        return torch.einsum("rn,...npxyz->...rpxyz", self.projection, histories)


def draw_rates(fastest: float, span_s: float, count: int, generator: torch.Generator) -> Tensor:
    """Rates between a hundredth of one over the span and ``fastest``, one drawn in each of
    ``count`` equal parts on a log scale, 1/s.
    """
    low, high = torch.tensor([0.01 / span_s, fastest], dtype=torch.float64).log()
    place = (
        torch.arange(count, dtype=torch.float64)
        + torch.rand(count, dtype=torch.float64, generator=generator)
    ) / count
    return torch.exp(low + (high - low) * place)


def _gauss_quadrature(marks: Tensor, fastest: float) -> tuple[Tensor, Tensor]:
    """Times and weights, summing to one, of three-point Gauss rules on pieces between marks no
    longer than half a decay.

    The integral is an accretive operator; a basis that is orthonormal as exactly as this keeps it
    so, and no mode of time grows by itself.
    """
    place = marks.new_tensor([-(0.6**0.5), 0.0, 0.6**0.5])
    share = marks.new_tensor([5.0, 8.0, 5.0]) / 18
    cuts = [
        torch.linspace(a, b, int((b - a) * fastest * 2) + 2, dtype=marks.dtype, device=marks.device)
        for a, b in itertools.pairwise(marks.tolist())
    ]
    pieces = torch.cat([torch.stack([c[:-1], c[1:]], dim=1) for c in cuts])
    length = pieces[:, 1] - pieces[:, 0]
    times = (pieces.mean(dim=1)[:, None] + length[:, None] / 2 * place).flatten()
    weights = (length[:, None] * share).flatten()
    return times, weights / weights.sum()
