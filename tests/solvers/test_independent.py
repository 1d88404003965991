"""Finite volumes against independent codes and formulas: FiPy, scipy, a manufactured decay."""

from __future__ import annotations

import fipy
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nanopinn.physics.flow import FlowCoefficients
from nanopinn.physics.pools import PoolAssembler, PoolCoefficients
from nanopinn.solvers.fluxes import darcy_flows
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.linear_pools import integrate_fixed_steps
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.pressure import solve_pressure
from nanopinn.solvers.runge_kutta import SDIRK3, TR_BDF2, Scheme

GRID = Grid((9, 8, 7), (0.5e-3, 0.6e-3, 0.7e-3))


def tissue() -> FlowCoefficients:
    """Random conductivity and filtration over an order of magnitude, not smooth."""
    g = torch.Generator().manual_seed(1)

    def draw(scale: float) -> torch.Tensor:
        return scale * torch.exp(torch.randn(GRID.shape, dtype=torch.float64, generator=g))

    return FlowCoefficients(
        K=draw(2e-14),
        LpSV=draw(2e-7),
        p_e=1500 + 0 * draw(1.0),
        LpLSL=draw(5e-8),
        p_L=-50.0,
        p_inf=10.0,
    )


def in_fipy(values: torch.Tensor) -> np.ndarray:
    """FiPy counts x fastest."""
    return values.numpy().transpose(2, 1, 0).ravel()


def from_fipy(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values).reshape(GRID.shape[::-1]).transpose(2, 1, 0).copy())


@pytest.fixture(scope="module")
def mesh() -> fipy.Grid3D:
    (nx, ny, nz), (dx, dy, dz) = GRID.shape, GRID.spacing
    return fipy.Grid3D(nx=nx, ny=ny, nz=nz, dx=dx, dy=dy, dz=dz)


def test_pressure_equals_that_of_fipy(mesh: fipy.Grid3D) -> None:
    flow = tissue()
    p = fipy.CellVariable(mesh=mesh, value=0.0)
    p.constrain(flow.p_inf, mesh.exteriorFaces)
    K, L, drain = (
        fipy.CellVariable(mesh=mesh, value=in_fipy(v)) for v in (flow.K, flow.LpSV, flow.LpLSL)
    )
    source = L * 1500.0 + drain * flow.p_L
    # units of 1e-10 keep the coefficients away from FiPy's own tolerances
    equation = (
        fipy.DiffusionTerm(coeff=1e10 * K.harmonicFaceValue)
        - fipy.ImplicitSourceTerm(coeff=1e10 * (L + drain))
        + 1e10 * source
        == 0
    )
    equation.solve(var=p, solver=fipy.LinearLUSolver(tolerance=1e-14))
    ours = solve_pressure(flow, GRID).x
    assert float((ours - from_fipy(p.value)).norm() / ours.norm()) < 1e-8


def pools(flow: FlowCoefficients) -> tuple[PoolCoefficients, PoolOperator]:
    """One pool carried by the flow, decaying."""
    p = solve_pressure(flow, GRID).x
    phi = 0.3 * torch.ones(GRID.shape, dtype=torch.float64)
    system = PoolAssembler(("one",), phi)
    system.set_capacity("one", phi)
    system.add_transport("one", 0.8, 1e-10 * phi)
    system.add_loss("one", 2e-5 * phi)
    system.add_plasma_source("one", 0, phi)
    coefficients = system.coefficients()
    return coefficients, PoolOperator.from_pools(coefficients, darcy_flows(flow, p, GRID), GRID)


def dense(operator: PoolOperator) -> np.ndarray:
    n = int(np.prod(GRID.shape))
    unit = torch.eye(n, dtype=torch.float64).reshape(n, 1, *GRID.shape)
    return operator(unit).reshape(n, n).T.numpy()


@pytest.mark.parametrize(("scheme", "order"), [(TR_BDF2, 2.0), (SDIRK3, 3.0)])
def test_linear_pools_converge_to_scipys_solution_at_the_order_of_the_method(
    scheme: Scheme, order: float
) -> None:
    coefficients, operator = pools(tissue())
    capacity = coefficients.capacity
    A, c = dense(operator), capacity.flatten().numpy()
    s = (1e-5 * capacity).flatten().numpy()
    end = 4e3

    def source(t: float) -> tuple[torch.Tensor, None]:
        return 1e-5 * capacity * float(np.exp(-t / 1e3)), None

    exact = solve_ivp(
        lambda t, u: (s * np.exp(-t / 1e3) - A @ u) / c,
        (0, end),
        0 * c,
        method="BDF",
        rtol=1e-10,
        atol=1e-14,
    ).y[:, -1]
    errors = []
    for steps in (8, 16, 32):
        found = (
            integrate_fixed_steps(
                operator,
                capacity,
                source,
                list(np.linspace(0, end, steps + 1)),
                scheme=scheme,
                tol=1e-12,
            )
            .U[-1]
            .flatten()
            .numpy()
        )
        errors.append(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[-1] < 1e-3
    assert rates[-1] > order - 0.3


def test_pools_without_transport_are_eliminated_exactly() -> None:
    """Two pools, one of which stays: the same as solving both together."""
    flow = tissue()
    p = solve_pressure(flow, GRID).x
    phi = 0.3 * torch.ones(GRID.shape, dtype=torch.float64)
    system = PoolAssembler(("free", "bound"), phi)
    system.set_capacity("free", phi)
    system.add_transport("free", 1.0, 1e-10 * phi)
    system.add_transfer("free", "bound", 2e-4)
    system.add_transfer("bound", "free", 1e-4 + 0 * phi)
    system.add_loss("free", 1e-4)
    system.add_loss("bound", 5e-5)
    coefficients = system.coefficients()
    operator = PoolOperator.from_pools(coefficients, darcy_flows(flow, p, GRID), GRID)
    assert operator.moving == (0,)
    n = 2 * int(np.prod(GRID.shape))
    A = operator(torch.eye(n, dtype=torch.float64).reshape(n, 2, *GRID.shape)).reshape(n, n).T
    capacity, h = coefficients.capacity, 500.0
    run = integrate_fixed_steps(
        operator, capacity, lambda t: (1e-3 * capacity, None), [0.0, h], scheme=SDIRK3, tol=1e-13
    )
    U, k = torch.zeros(n, dtype=torch.float64), []
    for row in SDIRK3.a:
        known = U + h * sum((a * r for a, r in zip(row, k, strict=False)), torch.zeros_like(U))
        stage = torch.linalg.solve(
            torch.diag(capacity.flatten()) + h * SDIRK3.gamma * A,
            capacity.flatten() * known + h * SDIRK3.gamma * 1e-3 * capacity.flatten(),
        )
        k.append((stage - known) / (h * SDIRK3.gamma))
    torch.testing.assert_close(run.U[-1].flatten(), stage, rtol=1e-9, atol=1e-12)
