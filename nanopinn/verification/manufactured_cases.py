"""Order of convergence to manufactured solutions in three dimensions (V11)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nanopinn.physics.flow import FlowCoefficients
from nanopinn.physics.pools import PoolAssembler
from nanopinn.solvers.fluxes import Advection
from nanopinn.solvers.grid import Grid, RimGrid
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval
from nanopinn.solvers.pressure import solve_pressure
from nanopinn.verification.case import VerificationCase, order_of_convergence

#: Edges of the box, m.
BOX = (6e-3, 4e-3, 3e-3)
#: Cells of the coarsest grid, which are not cubes.
COARSEST_SHAPE = (8, 10, 6)
MANUFACTURED_SOLUTION = "manufactured solution"
Field = Callable[[Tensor], Tensor]


def pressure_order() -> list[VerificationCase]:
    """V11: pressure with a conductivity that varies threefold, 0 at the faces of the box."""
    LpSV = 4e-8

    def p(x: Tensor) -> Tensor:
        return 1500 * _product(x, torch.sin)

    def error(factor: int) -> float:
        grid, x = _grid(factor)
        made = -_divergence(lambda y: _conductivity(y)[..., None] * _gradient(p, y), x)
        flow = FlowCoefficients(
            K=_conductivity(x),
            LpSV=torch.full_like(p(x), LpSV),
            p_e=p(x) + made / LpSV,
            LpLSL=0 * p(x),
            p_L=0.0,
            p_inf=0.0,
        )
        return _relative(solve_pressure(flow, grid).x, p(x))

    return _orders("pressure, variable K", [error(f) for f in (1, 2, 4)], 2.0)


def rim_order() -> list[VerificationCase]:
    """V11: pressure on a grid that is refined within 0.5 mm of a ball only.

    Where cells of two sizes meet, the gradient along their face is neglected. A solution that is
    constant there converges with second order, one that varies everywhere with first order.
    """
    R, layer, rim = 0.75e-3, 0.25e-3, 0.5e-3

    def depth(x: Tensor) -> Tensor:
        return (x - x.new_tensor(BOX) / 2).norm(dim=-1) - R

    def error(p: Field, factor: int) -> float:
        voxels, x = _grid(factor)
        _, parts = _grid(2 * factor)
        grid = RimGrid.from_tumour_edge((depth(x) < 0).double(), voxels, 2, rim)
        K, LpSV = grid.average_within_cells(_conductivity(parts)), 1e-7
        made = -_divergence(lambda y: _conductivity(y)[..., None] * _gradient(p, y), parts)
        still = torch.zeros_like(K)
        flow = FlowCoefficients(
            K=K, LpSV=still + LpSV, p_e=p(parts) + made / LpSV, LpLSL=still, p_L=0.0, p_inf=0.0
        )
        return _relative(solve_pressure(flow, grid).x, grid.average_within_cells(p(parts)))

    def ends(x: Tensor) -> Tensor:
        return 1500 * torch.exp(-((depth(x) / layer) ** 2))

    def goes_on(x: Tensor) -> Tensor:
        return 1500 * _product(x, torch.sin)

    fine = _orders(
        "pressure, rim cut alone, flat beyond it", [error(ends, f) for f in (1, 2, 4)], 2.0
    )
    return fine + _orders(
        "pressure, rim cut alone, flat nowhere", [error(goes_on, f) for f in (1, 2, 4)], 1.0, 0.3
    )


def transport_order() -> list[VerificationCase]:
    """V11: advection, diffusion and loss of one pool, with variable coefficients and flow."""
    cases = []
    schemes: tuple[tuple[Advection, float, float, float], ...] = (
        ("fitted", 2e-10, 2e-7, 2.0),
        ("central", 1e-10, 2e-7, 2.0),
        ("upwind", 1e-11, 2e-8, 1.0),
    )
    for advection, D, speed, order in schemes:
        errors = [_transport_error(f, advection, D, speed) for f in (1, 2, 4)]
        cases += _orders(f"transport, {advection}", errors, order)
    return cases


def time_order() -> list[VerificationCase]:
    """V11: order in time with saturable uptake, against a run with much shorter steps."""
    interval, start, _ = _transport(1, "fitted", 1e-9, 2e-7, saturable=True)
    end = interval.end

    def run(steps: int) -> Tensor:
        h = end / steps
        return integrate_adaptive(
            [interval],
            start,
            [end],
            nodes=[(i + 1) * h for i in range(steps)],
            tolerance=Tolerance(residual=1e-12),
        ).U[-1]

    exact = run(256)
    return _orders("time, saturable uptake", [_relative(run(n), exact) for n in (8, 16, 32)], 2.0)


def _conductivity(x: Tensor) -> Tensor:
    """A conductivity that varies threefold, m2/(Pa s)."""
    return 3e-14 * torch.exp(
        0.5
        * torch.cos(3 * x[..., 0] / BOX[0])
        * torch.sin(2 * x[..., 1] / BOX[1] + x[..., 2] / BOX[2])
    )


def _orders(
    name: str, errors: list[float], order: float, tolerance: float = 0.1
) -> list[VerificationCase]:
    """The order between the finer two of three grids; a second-order scheme must reach 1.9."""
    observed = order_of_convergence(errors[1], errors[2])
    quantity = f"order; errors {errors[0]:.1e} {errors[1]:.1e} {errors[2]:.1e}"
    return [
        VerificationCase("V11", name, quantity, observed, order, tolerance, MANUFACTURED_SOLUTION)
    ]


def _transport_error(factor: int, advection: Advection, D: float, speed: float) -> float:
    """Relative L2 norm of the error at the end, on a grid refined by ``factor``."""
    interval, start, exact = _transport(factor, advection, D, speed)
    found = integrate_adaptive(
        [interval], start, [interval.end], tolerance=Tolerance(step=4e-6, first_step=20.0)
    ).U[-1, 0]
    return _relative(found, exact)


def _transport(
    factor: int, advection: Advection, D: float, speed: float, *, saturable: bool = False
) -> tuple[Interval, Tensor, Tensor]:
    """The interval, the pools at its start, and the exact pool ``X(x) g(t)`` at its end.

    Neither fluid nor drug crosses the faces of the box. The plasma supplies the source that makes
    ``X g`` the solution.
    """
    grid, x = _grid(factor)

    def phi(y: Tensor) -> Tensor:
        return 0.3 + 0.1 * torch.sin(4 * y[..., 0] / BOX[0] + 2 * y[..., 2] / BOX[2])

    def diffusion(y: Tensor) -> Tensor:
        return D * phi(y) * (1 + 0.5 * torch.cos(5 * y[..., 1] / BOX[1]))

    def X(y: Tensor) -> Tensor:
        return 1 + 0.5 * _product(y, torch.cos)

    def velocity(y: Tensor) -> Tensor:
        return -speed * BOX[0] / np.pi * _gradient(lambda z: _product(z, torch.cos), y)

    rate, end = 2e-4, 2e3

    def g(t: float) -> float:
        return 1 + 0.5 * float(np.sin(2e-3 * t))

    def carried(y: Tensor) -> Tensor:
        return velocity(y) * X(y)[..., None] - diffusion(y)[..., None] * _gradient(X, y)

    flows = tuple(
        velocity(_faces(grid, axis))[..., axis] * grid.face_area(axis) for axis in range(3)
    )
    pools = PoolAssembler(("one", "cell") if saturable else ("one",), phi(x))
    pools.set_capacity("one", phi(x))
    pools.add_transport("one", 1.0, diffusion(x))
    pools.add_loss("one", rate * phi(x))
    pools.add_plasma_source("one", 0, phi(x) * X(x))
    pools.add_plasma_source("one", 1, _divergence(carried, x) + rate * phi(x) * X(x))
    if saturable:
        pools.add_saturable_transfer("one", "cell", 3e-4 * X(x), 1e-3, 0.5, 0.7)

    def plasma(t: float) -> Tensor:
        return torch.tensor([1e-3 * np.cos(2e-3 * t), g(t)], dtype=torch.float64)

    interval = Interval.from_pools(0.0, end, pools.coefficients(), flows, grid, plasma, advection)
    start = torch.zeros_like(interval.capacity)
    start[0] = X(x)
    return interval, start, X(x) * g(end)


def _grid(factor: int) -> tuple[Grid, Tensor]:
    """A grid refined by ``factor``, and the centres of its cells, ``(x, y, z, 3)``, m."""
    nx, ny, nz = (factor * n for n in COARSEST_SHAPE)
    grid = Grid((nx, ny, nz), (BOX[0] / nx, BOX[1] / ny, BOX[2] / nz))
    axes = [
        (torch.arange(n, dtype=torch.float64) + 0.5) * h
        for n, h in zip(grid.shape, grid.spacing, strict=True)
    ]
    return grid, torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _faces(grid: Grid, axis: int) -> Tensor:
    """Centres of the faces along an axis, ``(x, y, z, 3)``, m."""
    axes = [
        torch.arange(n + (a == axis), dtype=torch.float64) * h + (0 if a == axis else h / 2)
        for a, (n, h) in enumerate(zip(grid.shape, grid.spacing, strict=True))
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _product(x: Tensor, wave: Field) -> Tensor:
    """Product of one wave along each axis."""
    return (
        wave(np.pi * x[..., 0] / BOX[0])
        * wave(np.pi * x[..., 1] / BOX[1])
        * wave(np.pi * x[..., 2] / BOX[2])
    )


def _gradient(f: Field, x: Tensor) -> Tensor:
    """Exact gradient, ``(..., 3)``, which is differentiable again."""
    unit = torch.eye(3, dtype=x.dtype)
    return torch.stack(
        [torch.func.jvp(f, (x,), (unit[a].expand_as(x),))[1] for a in range(3)], dim=-1
    )


def _divergence(flux: Field, x: Tensor) -> Tensor:
    """Exact divergence of a flux."""
    unit = torch.eye(3, dtype=x.dtype)
    return torch.stack(
        [torch.func.jvp(flux, (x,), (unit[a].expand_as(x),))[1][..., a] for a in range(3)]
    ).sum(dim=0)


def _relative(found: Tensor, exact: Tensor) -> float:
    """Relative L2 norm of the error."""
    return float((found - exact).norm() / exact.norm())
