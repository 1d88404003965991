"""How the flow carries pools across faces."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nanopinn.physics.wall import exchange_coefficients
from nanopinn.solvers.grid import Grid

#: ``fitted``: exponentially fitted (Scharfetter-Gummel): central where diffusion rules, upwind where flow does; never a new extremum.
#: ``central``: second order whatever the flow; wiggles where a face's Peclet number exceeds 2.
#: ``upwind``: first order, never a new extremum. ``limited``: upwind, with :func:`limiter_divergence` on top.
Advection = Literal["fitted", "central", "upwind", "limited"]


def face_weights(
    conductance: Tensor, advective_flow: Tensor, dim: int, advection: Advection
) -> tuple[Tensor, Tensor]:
    """Weights of the face flux ``a C - b C'``, from the cell before each face to that after it, m3/s.

    Args:
        conductance: of diffusion, ``(..., faces)``. carried: volume flow times mobility. dim: axis of the faces.
    """
    if advection == "fitted":
        return exchange_coefficients(conductance, advective_flow, 0.0)
    ahead, back = advective_flow.clamp_min(0.0), (-advective_flow).clamp_min(0.0)
    if advection == "central":
        n = advective_flow.shape[dim]
        inside = torch.zeros_like(advective_flow)
        inside.narrow(dim, 1, n - 2).fill_(1.0)
        # through the boundary of the box the flow only leaves
        ahead, back = (
            ahead - inside * advective_flow.abs() / 2,
            back - inside * advective_flow.abs() / 2,
        )
    return conductance + ahead, conductance + back


def limiter_divergence(U: Tensor, advective_flow: tuple[Tensor, ...], grid: Grid) -> Tensor:
    """What the limited scheme adds to upwind, as a divergence, ``(..., pool, x, y, z)``, concentration per second.

    The antidiffusive flux ``-|q| psi(r)/2 (C' - C)`` with van Leer's limiter ``psi = (r + |r|)/(1 + |r|)``, r the slope upwind
    of the face over the slope at it: second order where the pool is smooth, upwind at its extrema.
    """
    total = torch.zeros_like(U)
    for flow, dim in zip(advective_flow, (-3, -2, -1), strict=True):
        n = U.shape[dim]
        slope = U.diff(dim=dim)
        zero = torch.zeros_like(slope.narrow(dim, 0, 1))
        padded = torch.cat([zero, slope, zero], dim=dim)
        inner = flow.narrow(dim, 1, n - 1)
        upwind = torch.where(inner > 0, padded.narrow(dim, 0, n - 1), padded.narrow(dim, 2, n - 1))
        flux = inner.abs() / 2 * _van_leer(upwind, slope) / grid.cell_volume
        total.narrow(dim, 0, n - 1).add_(flux)
        total.narrow(dim, 1, n - 1).sub_(flux)
    return total


def _van_leer(upwind: Tensor, slope: Tensor) -> Tensor:
    """``psi(r) slope``, r = upwind/slope: the harmonic mean of two slopes of one sign, 0 between slopes of two."""
    product = upwind * slope
    return torch.where(
        product > 0, 2 * product / torch.where(product > 0, upwind + slope, 1.0), 0.0
    )
