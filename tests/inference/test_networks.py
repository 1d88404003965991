"""Networks whose last layer is eliminated: against exact solutions, and against faults put in on
purpose.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from nanopinn.imaging.dce.plasma_curve import PlasmaCurve
from nanopinn.inference.krylov import orthomin as network
from nanopinn.inference.krylov.krylov_engine import KrylovSettings, _KrylovEngine, fit_krylov
from nanopinn.inference.krylov.orthomin import KrylovSolver, solve_in_batches
from nanopinn.inference.krylov.time_basis import (
    TimeBasis,
    draw_rates,
    response_to_exponentials,
    response_to_samples,
)
from nanopinn.physics.plasma import SumOfExponentials
from nanopinn.progress import ignore_progress
from nanopinn.solvers.linear import SolverError

from .test_engines import small_problem

G = torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Matrix:
    """``A v = f`` for a matrix, least squares, as networks see a standing problem."""

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


def test_as_many_layers_as_unknowns_solve_exactly() -> None:
    problem = matrix()
    learned = KrylovSolver(12, tolerance=0.0).solve(problem, quiet)
    torch.testing.assert_close(
        learned.v, torch.linalg.solve(problem.A, problem.rhs.T).T, rtol=1e-8, atol=1e-8
    )


def test_every_layer_makes_the_residual_smaller_and_no_other_weights_make_it_smaller_yet() -> None:
    problem = matrix()
    found = [KrylovSolver(k, tolerance=0.0).solve(problem, quiet) for k in range(1, 6)]
    assert all(b.residual < a.residual for a, b in itertools.pairwise(found))
    # the Krylov space of A and the right-hand side, searched by another way: a dense least-squares
    # fit
    r = problem.rhs[:1]
    space = [r @ torch.linalg.matrix_power(problem.A, k).T for k in range(5)]
    images = torch.cat([problem.apply(v) for v in space]).T
    best = torch.linalg.lstsq(images, r.T).solution
    left = float((r.T - images @ best).norm() / r.norm())
    one = KrylovSolver(5, tolerance=0.0).solve(problem.slice(0, 1), quiet)
    assert one.residual == pytest.approx(left, rel=1e-8)


def test_a_layer_that_is_not_finite_is_taken_back_and_recorded(monkeypatch) -> None:
    problem, calls, said = matrix(), [], []
    image = Matrix.apply

    def spoiled(self, v):
        calls.append(1)
        return image(self, v) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(Matrix, "apply", spoiled)
    learned = KrylovSolver(30, tolerance=1e-9).solve(problem, said.append)
    torch.testing.assert_close(
        learned.v, torch.linalg.solve(problem.A, problem.rhs.T).T, rtol=1e-6, atol=1e-6
    )
    assert said == ["layer 4 held numbers that are not finite: went on from the last good weights"]


def test_layers_that_are_never_finite_are_an_error_in_words(monkeypatch) -> None:
    monkeypatch.setattr(Matrix, "apply", lambda self, v: v * float("nan"))
    with pytest.raises(SolverError, match="not finite 4 times"):
        KrylovSolver(30).solve(matrix(), lambda words: None)


def test_less_memory_means_fewer_tangents_at_once_and_the_same_answer(monkeypatch) -> None:
    problem, said = matrix(), []
    whole = KrylovSolver(12, tolerance=0.0).solve(problem, quiet).v
    image = Matrix.apply

    def short_of_memory(self, v):
        if len(v) > 2:
            raise torch.OutOfMemoryError("injected")
        return image(self, v)

    monkeypatch.setattr(Matrix, "apply", short_of_memory)
    torch.testing.assert_close(
        solve_in_batches(KrylovSolver(12, tolerance=0.0), problem, said.append).v, whole
    )
    assert said == [
        "memory ran out: 3 of 5 tangents at once from here",
        "memory ran out: 2 of 5 tangents at once from here",
    ]


def test_a_gpu_too_small_for_one_tangent_hands_over_to_the_cpu(monkeypatch) -> None:
    problem, said = matrix(), []
    moved: list[str] = []
    solve = KrylovSolver.solve

    def on_gpu_only(self, system, on_event):
        if not moved:
            raise torch.OutOfMemoryError("injected")
        return solve(self, system, on_event)

    monkeypatch.setattr(KrylovSolver, "solve", on_gpu_only)
    monkeypatch.setattr(network, "device_of", lambda system: "cuda")
    monkeypatch.setattr(Matrix, "to", lambda self, device: moved.append(device) or self)
    monkeypatch.setattr(network, "move_to_device", lambda v, device: v)
    v = solve_in_batches(KrylovSolver(12, tolerance=0.0), problem, said.append).v
    torch.testing.assert_close(
        v, torch.linalg.solve(problem.A, problem.rhs.T).T, rtol=1e-8, atol=1e-8
    )
    assert moved == ["cpu"]
    assert said[-1] == "the GPU's memory ran out with a single tangent: worked out on the CPU"


CURVE = PlasmaCurve(np.array([20.0, 22.0, 60.0, 400.0]), np.array([0.0, 6.0, 2.0, 0.5]))
NODES = torch.arange(0.0, 400.0, 10.0, dtype=torch.float64)


def test_random_rates_hold_cells_of_any_other_rate_and_their_integrals() -> None:
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


def test_no_mode_of_time_grows_by_itself() -> None:
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


def test_the_ensemble_knows_the_networks_error(problem) -> None:
    p, truth = problem
    engine = _KrylovEngine(p, KrylovSettings(rank=6), 0, ignore_progress)
    quadratic = engine.expand(truth)
    engine.report_progress(0, truth, quadratic)
    exact = engine.problem.predict(truth, engine.forward, tangents=True)
    sd = np.sqrt(np.diag(engine.problem.quadratic(truth, exact).covariance))
    # against networks so large that finite volumes' own time steps are the larger error
    large = engine.build_tangent_solver(99, 14).tangents(
        engine.problem.tensor(truth), engine.problem.solve(truth, engine.forward)
    )
    free = np.full(len(truth), np.inf)
    step = engine.problem.quadratic(truth, engine.problem.compare(large)).step(0.0, free)
    error = np.abs(quadratic.step(0.0, free) - step) / sd
    stated = np.sqrt(np.diag(engine.tangent_error_covariance(quadratic))) / sd
    assert error.max() > 2e-3  # there is something to know
    assert np.all(error < 3 * stated + 1e-3), dict(
        zip(p.unknowns.names, zip(error, stated, strict=True), strict=True)
    )
    assert stated.max() < 0.3


def test_a_fit_says_what_it_recovered_from(problem, monkeypatch) -> None:
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
    assert run.events[0].startswith("anchor 1, pressure: memory ran out")
    assert run.stats["own error of q, posterior sd"] > 0
