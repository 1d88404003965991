"""Steady interstitial pressure and its tangents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nanopinn.physics.flow import filtration, lymphatic_drainage
from nanopinn.physics.model import FlowCoefficients
from nanopinn.solvers.fluxes import SPACE, conductance, darcy_flows, divergence
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.linear import LinearSolution, conjugate_gradients


def pressure_residual(flow: FlowCoefficients, p: Tensor, grid: Grid) -> Tensor:
    """``div u - J_v + J_L`` of every cell, 1/s: zero at the solution."""
    source = filtration(flow.LpSV, flow.p_e, p) - lymphatic_drainage(flow.LpLSL, p, flow.p_L)
    return divergence(darcy_flows(flow, p, grid), grid) - source


def pressure_diagonal(flow: FlowCoefficients, grid: Grid) -> Tensor:
    """Diagonal of the pressure operator, 1/(Pa s)."""
    total = flow.LpSV + flow.LpLSL
    for dim in SPACE:
        G = conductance(flow.K, grid, dim, open_ends=True)
        n = G.shape[dim] - 1
        total = total + (G.narrow(dim, 0, n) + G.narrow(dim, 1, n)) / grid.cell_volume
    return total


def pressure_operator(flow: FlowCoefficients, grid: Grid) -> Callable[[Tensor], Tensor]:
    """The part of :func:`pressure_residual` that is linear in p; carries leading batch axes."""
    homogeneous = replace(flow, p_e=torch.zeros_like(flow.p_e), p_L=0.0, p_inf=0.0, inflow=None)
    return lambda p: pressure_residual(homogeneous, p, grid)


def solve_pressure(flow: FlowCoefficients, grid: Grid, start: Tensor | None = None, tol: float = 1e-13) -> LinearSolution:
    """Pressure in Pa, ``(x, y, z)``; well conditioned, because walls hold the pressure within l of each cell."""
    source = -pressure_residual(flow.checked(), torch.zeros_like(flow.K), grid)
    inverse = 1 / pressure_diagonal(flow, grid)
    return conjugate_gradients(pressure_operator(flow, grid), source, inverse, start, tol=tol)


def pressure_tangents(flow_of: Callable[[Tensor], FlowCoefficients], theta: Tensor, p: Tensor, grid: Grid, tol: float = 1e-12) -> Tensor:
    """``dp/dtheta_j``, ``(m, x, y, z)``, by the same operator: ``A dp_j = -dR/dtheta_j``.

    Args:
        flow_of: the coefficients as a function of the parameter vector.
        theta: parameters, ``(m,)``.
        p: the pressure at theta.
    """
    flow = flow_of(theta)
    forcing = pressure_forcing(flow_of, theta, p, grid)
    tangents = torch.zeros_like(forcing)
    # a parameter that only scales the residual leaves round-off behind, not a direction
    scale = float((flow.LpSV * flow.p_e).abs().max())
    moved = [j for j, f in enumerate(forcing) if float(f.abs().max()) > 1e-8 * scale]
    if moved:
        inverse = 1 / pressure_diagonal(flow, grid)
        tangents[moved] = conjugate_gradients(pressure_operator(flow, grid), forcing[moved], inverse, tol=tol, lead=1).x
    return tangents


def pressure_forcing(flow_of: Callable[[Tensor], FlowCoefficients], theta: Tensor, p: Tensor, grid: Grid) -> Tensor:
    """``-dR/dtheta_j`` at a fixed pressure, ``(m, x, y, z)``: what drives the tangents."""
    identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
    rows = [-torch.func.jvp(lambda th: pressure_residual(flow_of(th), p, grid), (theta,), (e,))[1] for e in identity]
    return torch.stack(rows)


def pressure_gradient(flow_of: Callable[[Tensor], FlowCoefficients], theta: Tensor, p: Tensor, of_p: Tensor, grid: Grid) -> Tensor:
    """Gradient with respect to the parameters of a scalar whose gradient with respect to the pressure is known, ``(m,)``.

    One solve for any number of parameters: ``A lambda = dJ/dp`` (A is symmetric), ``dJ/dtheta = -lambda . dR/dtheta``.

    Args:
        flow_of: the coefficients as a function of the parameter vector.
        theta: parameters, ``(m,)``. p: the pressure there, Pa. of_p: dJ/dp, ``(x, y, z)``.
    """
    flow = flow_of(theta)
    adjoint = conjugate_gradients(pressure_operator(flow, grid), of_p, 1 / pressure_diagonal(flow, grid), tol=1e-12).x
    at = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(pressure_residual(flow_of(at), p.detach(), grid), at, -adjoint)
    return gradient
