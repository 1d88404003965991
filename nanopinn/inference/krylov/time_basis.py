"""A reduced basis in time: responses of linear pools with random rate constants to the plasma.

A linear pool that plasma drives is a mixture of ``y_k(t) = integral_0^t c(s) exp(-k (t - s)) ds``.
So are the pools behind it, because a convolution of two exponentials is a difference of them over
the difference of their rates, and, among sufficiently dense rates, the derivatives by a rate. Their
running integrals are exact: ``integral y_k = (y_0 - y_k)/k``. The initial condition is fulfilled.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nanopinn.imaging.dce.convolution import convolve_exponential
from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.physics.plasma import SumOfExponentials

#: Singular values of the responses below this share of the largest one are rounding errors.
ROUND_OFF = 1e-9


class PlasmaResponse(Protocol):
    """Response of linear pools to a plasma curve."""

    def __call__(self, rates: Tensor, times: Tensor) -> Tensor:
        """``y_k`` for rates ``(k,)`` 1/s, zero among them, at times ``(n,)`` s: ``(n, k)``."""


def response_to_samples(curve: PlasmaCurve) -> PlasmaResponse:
    """Response to a curve that is linear between its samples."""

    def answer(rates: Tensor, times: Tensor) -> Tensor:
        t, c = (torch.as_tensor(v).to(times) for v in (curve.times_s, curve.plasma_mM))
        return convolve_exponential(t, c, rates, times).T

    return answer


def response_to_exponentials(curve: SumOfExponentials) -> PlasmaResponse:
    """Response to a sum of exponentials from time zero."""

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
    """Functions of time, orthonormal on a fine grid of times.

    Attributes:
        B: values at the nodes of the fields, ``(n, r)``.
        integral: coefficients of the running integral of each function, s, ``(r, r)``.
        input_integral: coefficients of the running integral of every plasma curve, ``(r, input)``.
        projection: coefficients of a history given at the nodes, ``(r, n)``.
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
        """The ``rank`` largest principal components of the responses.

        Args:
            nodes: times of the fields, s, ``(n,)``.
            plasma: responses to every plasma curve.
            breakpoints: of the plasma curves, s, the first where they begin.
            rates: rate constants of the responses, 1/s, above zero.
            rank: dimension of the basis.
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
        """Histories from coefficients.

        Args:
            coefficients: ``(..., r, pool, x, y, z)``.
            at: indices of nodes; all of them if None.

        Returns:
            ``(..., n, pool, x, y, z)``.
        """
        return torch.einsum(
            "nr,...rpxyz->...npxyz", self.B if at is None else self.B[list(at)], coefficients
        )

    def coefficients(self, histories: Tensor) -> Tensor:
        """The inverse of :meth:`histories`, by least squares over the nodes."""
        return torch.einsum("rn,...npxyz->...rpxyz", self.projection, histories)


def draw_rates(fastest: float, span_s: float, count: int, generator: torch.Generator) -> Tensor:
    """Random rate constants, stratified on a log scale.

    Args:
        fastest: largest rate constant, 1/s.
        span_s: time span; the smallest rate constant is a hundredth of its inverse.
        count: number of rate constants, one in each of as many equal strata.
        generator: of the random numbers.

    Returns:
        1/s, ``(count,)``, increasing.
    """
    low, high = torch.tensor([0.01 / span_s, fastest], dtype=torch.float64).log()
    place = (
        torch.arange(count, dtype=torch.float64)
        + torch.rand(count, dtype=torch.float64, generator=generator)
    ) / count
    return torch.exp(low + (high - low) * place)


def _gauss_quadrature(marks: Tensor, fastest: float) -> tuple[Tensor, Tensor]:
    """Times and weights of three-point Gauss rules, the weights summing to one.

    The intervals between marks are divided into pieces no longer than half a decay time. The
    running integral is an accretive operator. Orthonormality to this accuracy preserves that
    property, so that no mode in time grows.
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
