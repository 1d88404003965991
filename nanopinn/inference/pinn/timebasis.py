"""A few functions of time that carry a linear pool, with the initial condition built in.

A linear pool driven by one plasma curve has a temporal rank of about six, so its history at every cell is
a few coefficients. The basis comes from the histories of the anchor solution, their running integrals and
their stretchings in time (which is what a change of a rate does to them).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TimeBasis:
    """Functions ``B`` ``(n, r)``, orthonormal under the weights, zero at the first node.

    Attributes:
        weights: ``(n,)`` quadrature over the nodes, summing to one.
        integral: ``(r, r)``: coefficients of the running integral of each function, s.
    """

    times: Tensor
    B: Tensor
    weights: Tensor
    integral: Tensor

    @classmethod
    def of(cls, times: Tensor, histories: Tensor, rank: int) -> TimeBasis:
        """From histories ``(n, cells)`` that start at zero."""
        weights = _trapezoid_weights(times)
        scale = histories.square().mul(weights[:, None]).sum(0).sqrt()
        kept = histories[:, scale > 1e-6 * scale.max()]
        kept = kept / kept.square().mul(weights[:, None]).sum(0).sqrt()
        span = times[-1] - times[0]
        stretched = torch.gradient(kept, spacing=(times,), dim=0)[0] * ((times - times[0]) / span)[:, None] * span
        candidates = torch.cat([kept, running_integral(times, kept) / span, _unit(stretched, weights)], dim=1)
        candidates[0] = 0.0
        root = weights.sqrt()[:, None]
        U, _, _ = torch.linalg.svd(root * candidates, full_matrices=False)
        B = U[:, :rank] / root
        B[0] = 0.0
        integral = B.T @ (weights[:, None] * running_integral(times, B))
        return cls(times, B, weights, integral)

    def coefficients(self, histories: Tensor) -> Tensor:
        """Projection of histories ``(..., n, x, y, z)`` to ``(..., r, x, y, z)``."""
        return torch.einsum("nr,...nxyz->...rxyz", self.weights[:, None] * self.B, histories)

    def histories(self, coefficients: Tensor) -> Tensor:
        """The inverse: ``(..., r, x, y, z)`` to ``(..., n, x, y, z)``."""
        return torch.einsum("nr,...rxyz->...nxyz", self.B, coefficients)


def running_integral(times: Tensor, values: Tensor) -> Tensor:
    """Trapezoidal integral from the first node to each, along axis 0."""
    steps = times.diff().reshape(-1, *(1,) * (values.dim() - 1))
    pieces = steps * (values[1:] + values[:-1]) / 2
    return torch.cat([torch.zeros_like(values[:1]), pieces.cumsum(0)])


def _trapezoid_weights(times: Tensor) -> Tensor:
    w = torch.zeros_like(times)
    w[1:] += times.diff() / 2
    w[:-1] += times.diff() / 2
    return w / w.sum()


def _unit(values: Tensor, weights: Tensor) -> Tensor:
    return values / values.square().mul(weights[:, None]).sum(0).sqrt().clamp_min(1e-300)
