"""Krylov methods and the reduced time basis: exact solutions, and recovery from errors."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.inference.engine_driver import _Driver
from nanopinn.inference.krylov import orthomin
from nanopinn.inference.krylov.krylov_engine import KrylovSettings, ReducedBasisTangents, fit_krylov
from nanopinn.inference.krylov.orthomin import KrylovSolver, solve_in_batches
from nanopinn.inference.krylov.time_basis import (
    TimeBasis,
    draw_rates,
    response_to_exponentials,
    response_to_samples,
)
from nanopinn.inference.pinn.pinn_engine import fit_pinn
from nanopinn.physics.plasma import SumOfExponentials
from nanopinn.progress import ignore_progress
from nanopinn.solvers.linear import SolverError

from .test_engines import small_problem

G = torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Matrix:
    """``A v = f`` for a matrix, by minimal residuals."""

    A: Tensor
    rhs: Tensor
    truncation: int = 100

    def apply(self, v: Tensor) -> Tensor:
        return v @ self.A.T

    def precondition(self, residual: Tensor) -> Tensor:
        return residual

    def test_vector(self, feature: Tensor, image: Tensor) -> Tensor:
        return image

    def norm(self, residual: Tensor) -> Tensor:
        return residual.norm(dim=1)

    def slice(self, first: int, last: int) -> Matrix:
        return replace(self, rhs=self.rhs[first:last])

    def to(self, device: str) -> Matrix:
        return self


def matrix(n: int = 12, count: int = 5) -> Matrix:
    A = torch.eye(n, dtype=torch.float64) + 0.2 * torch.randn(
        n, n, dtype=torch.float64, generator=G
    )
    return Matrix(A, torch.randn(count, n, dtype=torch.float64, generator=G))


def quiet(words: str) -> None:
    raise AssertionError(words)


def test_as_many_iterations_as_unknowns_solve_exactly() -> None:
    problem = matrix()
    solved = KrylovSolver(12, tolerance=0.0).solve(problem, quiet)
    torch.testing.assert_close(
        solved.v, torch.linalg.solve(problem.A, problem.rhs.T).T, rtol=1e-8, atol=1e-8
    )


def test_every_iteration_minimises_the_residual_over_its_krylov_space() -> None:
    problem = matrix()
    found = [KrylovSolver(k, tolerance=0.0).solve(problem, quiet) for k in range(1, 6)]
    assert all(b.residual < a.residual for a, b in itertools.pairwise(found))
    # the minimum over the Krylov space of A and the right-hand side, by dense least squares
    r = problem.rhs[:1]
    space = [r @ torch.linalg.matrix_power(problem.A, k).T for k in range(5)]
    images = torch.cat([problem.apply(v) for v in space]).T
    best = torch.linalg.lstsq(images, r.T).solution
    left = float((r.T - images @ best).norm() / r.norm())
    one = KrylovSolver(5, tolerance=0.0).solve(problem.slice(0, 1), quiet)
    assert one.residual == pytest.approx(left, rel=1e-8)


def test_an_iteration_that_is_not_finite_is_repeated_and_recorded(monkeypatch) -> None:
    problem, calls, events = matrix(), [], []
    image = Matrix.apply

    def not_finite(self, v):
        calls.append(1)
        return image(self, v) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(Matrix, "apply", not_finite)
    solved = KrylovSolver(30, tolerance=1e-9).solve(problem, events.append)
    torch.testing.assert_close(
        solved.v, torch.linalg.solve(problem.A, problem.rhs.T).T, rtol=1e-6, atol=1e-6
    )
    assert events == ["iteration 4 was not finite; restarted from the last finite solution"]


def test_iterations_that_are_never_finite_are_a_solver_error(monkeypatch) -> None:
    monkeypatch.setattr(Matrix, "apply", lambda self, v: v * float("nan"))
    with pytest.raises(SolverError, match="not finite 4 times"):
        KrylovSolver(30).solve(matrix(), lambda words: None)


def test_less_memory_means_smaller_batches_and_the_same_solution(monkeypatch) -> None:
    problem, events = matrix(), []
    whole = KrylovSolver(12, tolerance=0.0).solve(problem, quiet).v
    image = Matrix.apply

    def short_of_memory(self, v):
        if len(v) > 2:
            raise torch.OutOfMemoryError("injected")
        return image(self, v)

    monkeypatch.setattr(Matrix, "apply", short_of_memory)
    torch.testing.assert_close(
        solve_in_batches(KrylovSolver(12, tolerance=0.0), problem, events.append).v, whole
    )
    assert events == [
        "out of memory; solving 3 of 5 tangents at a time",
        "out of memory; solving 2 of 5 tangents at a time",
    ]


def test_the_cpu_solves_what_exceeds_the_memory_of_the_gpu(monkeypatch) -> None:
    problem, events = matrix(), []
    moved: list[str] = []
    solve = KrylovSolver.solve

    def on_gpu_only(self, system, on_event):
        if not moved:
            raise torch.OutOfMemoryError("injected")
        return solve(self, system, on_event)

    monkeypatch.setattr(KrylovSolver, "solve", on_gpu_only)
    monkeypatch.setattr(orthomin, "device_of", lambda system: "cuda")
    monkeypatch.setattr(Matrix, "to", lambda self, device: moved.append(device) or self)
    monkeypatch.setattr(orthomin, "move_to_device", lambda v, device: v)
    v = solve_in_batches(KrylovSolver(12, tolerance=0.0), problem, events.append).v
    torch.testing.assert_close(
        v, torch.linalg.solve(problem.A, problem.rhs.T).T, rtol=1e-8, atol=1e-8
    )
    assert moved == ["cpu"]
    assert events[-1] == "GPU out of memory with a single tangent; solving on the CPU"


CURVE = PlasmaCurve(np.array([20.0, 22.0, 60.0, 400.0]), np.array([0.0, 6.0, 2.0, 0.5]))
NODES = torch.arange(0.0, 400.0, 10.0, dtype=torch.float64)


def test_random_rates_span_responses_of_other_rates_and_their_integrals() -> None:
    answer = response_to_samples(CURVE)
    rates = draw_rates(0.05, 400.0, 24, torch.Generator().manual_seed(1)).double()
    basis = TimeBasis.build(NODES, [answer], torch.as_tensor(CURVE.times_s), rates, 12)
    for rate in (3e-4, 4e-3, 3e-2):
        k = torch.tensor([rate], dtype=torch.float64)
        y = answer(k, NODES)[..., None, None, None]  # (n, pool, 1, 1, 1)
        u = basis.coefficients(y)
        torch.testing.assert_close(basis.histories(u), y, rtol=0, atol=1e-5 * float(y.max()))
        exact = (answer(k.new_zeros(1), NODES) - answer(k, NODES)) / k
        integral = basis.B @ (basis.integral @ u[:, 0, 0, 0, 0])
        torch.testing.assert_close(integral, exact[:, 0], rtol=0, atol=1e-4 * float(exact.max()))


def test_no_mode_in_time_grows() -> None:
    plasma = [response_to_exponentials(SumOfExponentials((1.0, 0.5), (1e-5, 1e-4)))]
    nodes = torch.linspace(0.0, 86400.0, 40, dtype=torch.float64)
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        for rank in (6, 8, 10, 12, 16):
            bolus = TimeBasis.build(
                NODES,
                [response_to_samples(CURVE)],
                torch.as_tensor(CURVE.times_s),
                draw_rates(0.05, 400, 24, g),
                rank,
            )
            slow = TimeBasis.build(nodes, plasma, nodes[:1], draw_rates(0.01, 86400, 24, g), rank)
            for basis in (bolus, slow):
                symmetric = (basis.integral + basis.integral.T) / 2
                assert float(torch.linalg.eigvalsh(symmetric).min()) > -1e-6 * float(
                    basis.integral.norm()
                ), (seed, rank)


@pytest.fixture(scope="module")
def problem():
    p, truth = small_problem()
    return replace(p, setting=replace(p.setting, flow_refine=1), drug=p.drug[:2]), truth


def test_the_ensemble_estimates_the_error_of_the_time_basis(problem) -> None:
    p, truth = problem
    method = ReducedBasisTangents(KrylovSettings(rank=6), 0)
    driver = _Driver(p, method, 1, ignore_progress)
    quadratic = driver.expand(truth)
    exact = driver.problem.predict(truth, driver.solver, tangents=True)
    sd = np.sqrt(np.diag(driver.problem.quadratic(truth, exact).covariance))
    # compared with a basis so large that the finite-volume time steps are the larger error
    large = method.build_tangent_solver(driver.problem, 99, 14).tangents(
        driver.problem.tensor(truth), driver.problem.solve(truth, driver.solver)
    )
    step = driver.problem.quadratic(truth, driver.problem.compare(large)).full_step
    error = np.abs(quadratic.full_step - step) / sd
    covariance = method.error_covariance(driver.problem, driver.last, quadratic)
    stated = np.sqrt(np.diag(covariance)) / sd
    assert error.max() > 2e-3
    assert np.all(error < 3 * stated + 1e-3), dict(
        zip(p.unknowns.names, zip(error, stated, strict=True), strict=True)
    )
    assert stated.max() < 0.3


def test_a_fit_reports_the_errors_from_which_it_recovered(problem, monkeypatch) -> None:
    p, _ = problem
    solve, failed = KrylovSolver.solve, []

    def fails_once(self, system, on_event):
        if not failed:
            failed.append(1)
            raise torch.OutOfMemoryError("injected")
        return solve(self, system, on_event)

    monkeypatch.setattr(KrylovSolver, "solve", fails_once)
    run = fit_krylov(p, settings=KrylovSettings(rank=8, iterations=1, ensemble=1)).run
    assert len(run.events) == 1
    assert run.events[0].startswith("iteration 1: pressure: out of memory")
    assert run.stats["error of the reduced time basis, q, posterior sd"] > 0


def test_fit_pinn_refuses_voxels_and_names_fit_krylov(problem) -> None:
    with pytest.raises(InputError, match="`fit_krylov`"):
        fit_pinn(problem[0])
