"""Steady interstitial pressure: its operator, solution, tangents and gradient.

    (A p)_i = sum_j G_ij (p_i - p_j) + S_i p_i,    m3/s

with the conductance G of the face between two cells (see
:func:`nanopinn.solvers.fluxes.face_conductance`) and the outflow of a cell per pressure, S, through
vessel walls, lymphatics and the boundary of the box. The operator is symmetric and positive
definite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nanopinn.physics.flow import FlowCoefficients, filtration_rate, lymphatic_drainage
from nanopinn.solvers.derivatives import directional_derivatives
from nanopinn.solvers.fluxes import (
    SPACE,
    cut_face_inflow,
    darcy_flows,
    divergence,
    face_conductance,
)
from nanopinn.solvers.grid import Grid, RimGrid
from nanopinn.solvers.linear import LinearSolution, conjugate_gradients


@dataclass(frozen=True)
class BoxPressureMatrix:
    """A on fields ``(..., x, y, z)``.

    Attributes:
        faces: G of the inner faces, one tensor per axis, n-1 entries along it.
        walls: S through vessel walls and lymphatics, ``(x, y, z)``.
        ends: S through the boundary of the box, ``(x, y, z)``.
    """

    faces: tuple[Tensor, Tensor, Tensor]
    walls: Tensor
    ends: Tensor

    @classmethod
    def from_flow_coefficients(cls, flow: FlowCoefficients, grid: Grid) -> BoxPressureMatrix:
        """Assemble from the coefficients of the flow.

        The pressure is fixed on the boundary of the box; through its cut faces passes only the
        given inflow.
        """
        ends, faces = torch.zeros_like(flow.K), []
        for dim in SPACE:
            G = face_conductance(flow.K, grid, dim, fixed_value_boundary=True)
            n = G.shape[dim] - 1
            for side in (0, 1):
                if (dim + 3, side) not in flow.cut:
                    ends.narrow(dim, side * (n - 1), 1).add_(G.narrow(dim, side * n, 1))
            faces.append(G.narrow(dim, 1, n - 1))
        return cls(
            (faces[0], faces[1], faces[2]), (flow.LpSV + flow.LpLSL) * grid.cell_volume, ends
        )

    @cached_property
    def diagonal(self) -> Tensor:
        """Diagonal of A, ``(x, y, z)``."""
        total = self.walls + self.ends
        for G, dim in zip(self.faces, SPACE, strict=True):
            n = G.shape[dim]
            total.narrow(dim, 0, n).add_(G)
            total.narrow(dim, 1, n).add_(G)
        return total

    def __call__(self, p: Tensor) -> Tensor:
        out = self.diagonal * p
        for G, dim in zip(self.faces, SPACE, strict=True):
            n = G.shape[dim]
            out.narrow(dim, 1, n).addcmul_(G, p.narrow(dim, 0, n), value=-1)
            out.narrow(dim, 0, n).addcmul_(G, p.narrow(dim, 1, n), value=-1)
        return out


@dataclass(frozen=True)
class RefinedPressureMatrix:
    """A on the cells of a refined rim, ``(..., cells)``: that of the box summed over cells.

    Attributes:
        diagonal: ``(cells,)``.
        rows: all of A in compressed rows, ``(cells, cells)``.
    """

    diagonal: Tensor
    rows: Tensor

    @classmethod
    def from_box(cls, box: BoxPressureMatrix, grid: RimGrid) -> RefinedPressureMatrix:
        """Sum over the faces between each pair of cells, and over the parts of each cell."""
        touching = grid.connections
        G = touching.sum_over_parts(box.faces)
        diagonal = (
            grid.sum_over_parts(box.walls + box.ends)
            .index_add_(0, touching.before, G)
            .index_add_(0, touching.after, G)
        )
        return cls(diagonal, touching.matrix(-G, diagonal))

    def __call__(self, p: Tensor) -> Tensor:
        if p.dim() == 1:
            return self.rows @ p
        return torch.stack([self(v) for v in p])


def pressure_residual(flow: FlowCoefficients, p: Tensor, grid: Grid) -> Tensor:
    """``div u - J_v + J_L`` of every cell, 1/s: zero at the solution; p is one value per cell."""
    source = filtration_rate(flow.LpSV, flow.p_e, p) - lymphatic_drainage(flow.LpLSL, p, flow.p_L)
    return grid.average_within_cells(divergence(darcy_flows(flow, p, grid), grid) - source)


def pressure_operator(flow: FlowCoefficients, grid: Grid) -> Callable[[Tensor], Tensor]:
    """The part of :func:`pressure_residual` that is linear in p; leading batch axes are allowed."""
    A = BoxPressureMatrix.from_flow_coefficients(flow, grid)
    return lambda p: grid.average_within_cells(A(grid.average_within_cells(p))) / grid.cell_volume


def pressure_diagonal(flow: FlowCoefficients, grid: Grid) -> Tensor:
    """Diagonal of the pressure operator, 1/(Pa s)."""
    return (
        grid.average_within_cells(BoxPressureMatrix.from_flow_coefficients(flow, grid).diagonal)
        / grid.cell_volume
    )


def solve_pressure(
    flow: FlowCoefficients, grid: Grid, start: Tensor | None = None, tol: float = 1e-13
) -> LinearSolution:
    """Pressure, ``(x, y, z)``, Pa.

    The system is well conditioned, because exchange with vessels bounds the coupling of cells to
    the hydraulic length.

    Args:
        flow: coefficients.
        grid: of the flow.
        start: initial guess, Pa.
        tol: relative residual.
    """
    box = BoxPressureMatrix.from_flow_coefficients(flow.validate(), grid)
    nothing = torch.zeros_like(flow.K)
    made = filtration_rate(flow.LpSV, flow.p_e, nothing) - lymphatic_drainage(
        flow.LpLSL, nothing, flow.p_L
    )
    return solve_cells(
        box,
        grid,
        made + box.ends * (flow.p_inf / grid.cell_volume) + cut_face_inflow(flow, grid),
        start,
        tol,
    )


def solve_cells(
    box: BoxPressureMatrix,
    grid: Grid,
    source: Tensor,
    start: Tensor | None = None,
    tol: float = 1e-12,
) -> LinearSolution:
    """``A x = source`` for the pressure operator A, with one unknown per cell.

    Args:
        box: A of the box.
        grid: of the flow.
        source: of every cell or part of one, ``(..., x, y, z)``, 1/s if x is a pressure.
        start: initial guess.
        tol: relative residual.
    """
    b, batch_dims = source * grid.cell_volume, source.dim() - 3
    if not isinstance(grid, RimGrid):
        return conjugate_gradients(box, b, 1 / box.diagonal, start, tol=tol, batch_dims=batch_dims)
    A = RefinedPressureMatrix.from_box(box, grid)
    x0 = (
        None
        if start is None
        else grid.sum_over_parts(start) / grid.sum_over_parts(torch.ones_like(start))
    )
    found = conjugate_gradients(
        A, grid.sum_over_parts(b), 1 / A.diagonal, x0, tol=tol, batch_dims=batch_dims
    )
    return replace(found, x=found.x[..., grid.cell_index])


def pressure_tangents(
    coefficients_from_theta: Callable[[Tensor], FlowCoefficients],
    theta: Tensor,
    p: Tensor,
    grid: Grid,
    tol: float = 1e-12,
) -> Tensor:
    """``dp/dtheta_j``, ``(m, x, y, z)``, by the same operator: ``A dp_j = -dR/dtheta_j``.

    Args:
        coefficients_from_theta: the coefficients as a function of the parameter vector.
        theta: parameters, ``(m,)``.
        p: the pressure at theta, Pa.
        grid: of the flow.
        tol: relative residual.
    """
    flow = coefficients_from_theta(theta)
    forcing = pressure_forcing(coefficients_from_theta, theta, p, grid)
    tangents = torch.zeros_like(forcing)
    # of a parameter that only scales the residual, nothing but round-off is left
    scale = float((flow.LpSV * flow.p_e).abs().max())
    moved = [j for j, f in enumerate(forcing) if float(f.abs().max()) > 1e-8 * scale]
    if moved:
        tangents[moved] = solve_cells(
            BoxPressureMatrix.from_flow_coefficients(flow, grid), grid, forcing[moved], tol=tol
        ).x
    return tangents


def pressure_forcing(
    coefficients_from_theta: Callable[[Tensor], FlowCoefficients],
    theta: Tensor,
    p: Tensor,
    grid: Grid,
) -> Tensor:
    """Right-hand side of the tangents, ``-dR/dtheta_j`` at a fixed pressure, ``(m, x, y, z)``."""
    identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
    return -directional_derivatives(
        lambda th: pressure_residual(coefficients_from_theta(th), p, grid), (theta,), (identity,)
    )[0]


def pressure_gradient(
    coefficients_from_theta: Callable[[Tensor], FlowCoefficients],
    theta: Tensor,
    p: Tensor,
    grad_p: Tensor,
    grid: Grid,
    leaves: Sequence[Tensor] = (),
) -> tuple[Tensor, list[Tensor]]:
    """Gradient of a scalar whose gradient with respect to the pressure is known.

    One solve for any number of parameters: ``A lambda = dJ/dp`` (A is symmetric), ``dJ/dtheta =
    -lambda . dR/dtheta``.

    Args:
        coefficients_from_theta: the coefficients as a function of the parameter vector.
        theta: parameters, ``(m,)``.
        p: the pressure there, Pa.
        grad_p: dJ/dp, ``(x, y, z)``.
        grid: of the flow.
        leaves: tensors that require gradients and on which the coefficients depend besides theta.

    Returns:
        The gradient with respect to theta, ``(m,)``, and to each leaf.
    """
    with torch.no_grad():
        box = BoxPressureMatrix.from_flow_coefficients(
            coefficients_from_theta(theta.detach()), grid
        )
        costate = solve_cells(box, grid, grad_p).x
    at = theta.detach().requires_grad_()
    gradient, *of_leaves = torch.autograd.grad(
        pressure_residual(coefficients_from_theta(at), p.detach(), grid),
        (at, *leaves),
        -costate,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return gradient, of_leaves
