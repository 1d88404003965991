"""Runge-Kutta methods: order conditions of the tableaux, convergence, events and repeated steps."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import nanopinn
from nanopinn.solvers.integrate import AcceptedStep, StepController, integrate
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.runge_kutta import SDIRK3, TR_BDF2, BufferPool, Scheme, StageEquations, State

PACKAGE = Path(nanopinn.__file__).parent


class Decay(StageEquations):
    """``dy/dt = -k (y - cos t)`` from a start to an end; fails at stages longer than a limit."""

    def __init__(self, start: float, end: float, k: float = 5.0, limit: float = np.inf) -> None:
        self.start, self.end, self.k, self.limit = start, end, k, limit
        self.buffers = BufferPool()

    def rate(self, t: float, y: State) -> State:
        return (-self.k * (y[0] - np.cos(t)),)

    def solve_stage(
        self, stage: int, t: float, w: float, known: State, rate: State | None
    ) -> State:
        if w > self.limit:
            raise SolverError("the stage is too long")
        return ((known[0] + w * self.k * np.cos(t)) / (1 + w * self.k),)

    def integrands(self, t: float, y: State) -> State:
        return (self.k * (y[0] - np.cos(t)),)

    def error_norm(
        self, error: torch.Tensor, start: torch.Tensor, end: torch.Tensor, w: float
    ) -> float:
        return float(error.abs().max()) / 1e-6


def exact(t: float, k: float = 5.0) -> float:
    """The solution that starts from 0 at 0."""
    return (k * k * (np.cos(t) - np.exp(-k * t)) + k * np.sin(t)) / (k * k + 1)


def solve(
    segments: list[Decay], scheme: Scheme, marks: list[float], controller: StepController | None
) -> tuple[list[AcceptedStep], float, float]:
    steps: list[AcceptedStep] = []
    start = (torch.zeros(1, dtype=torch.float64),)
    run = integrate(
        segments, start, steps.append, scheme=scheme, marks=marks, controller=controller
    )
    return steps, float(run.state[0]), float(run.integrals[0])


@pytest.mark.parametrize("scheme", [TR_BDF2, SDIRK3])
def test_tableaux_satisfy_the_order_conditions(scheme: Scheme) -> None:
    """Hairer and Wanner, Solving Ordinary Differential Equations II, IV.5."""
    n = len(scheme.a)
    A = np.array([[*row, *[0.0] * (n - len(row))] for row in scheme.a])
    b, c = np.array(scheme.weights), np.array(scheme.nodes)
    assert b.sum() == pytest.approx(1.0, abs=1e-14)
    assert b @ c == pytest.approx(1 / 2, abs=1e-14)
    if scheme.order == 3:
        assert b @ c**2 == pytest.approx(1 / 3, abs=1e-14)
        assert b @ A @ c == pytest.approx(1 / 6, abs=1e-14)
    assert c[-1] == pytest.approx(1.0, abs=1e-14)  # stiffly accurate
    if scheme.error is not None:
        embedded = b - np.array(scheme.error)
        assert embedded @ c**2 == pytest.approx(1 / 3, abs=1e-14)
        assert embedded @ A @ c == pytest.approx(1 / 6, abs=1e-14)


def test_only_one_module_reads_the_coefficients_of_a_tableau() -> None:
    """A second loop over the stages of a method would have to read them."""
    names = {"a", "weights", "error"}
    readers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name | ast.Attribute)
                and (
                    node.attr == "a"
                    or (node.attr in names and "scheme" in ast.unparse(node.value).lower())
                    or ast.unparse(node)
                    in {f"{s}.{n}" for s in ("TR_BDF2", "SDIRK3") for n in names}
                )
            ):
                readers.add(path.relative_to(PACKAGE).as_posix())
    assert readers == {"solvers/runge_kutta.py"}


@pytest.mark.parametrize("scheme", [TR_BDF2, SDIRK3])
def test_the_error_falls_with_the_order_of_the_method(scheme: Scheme) -> None:
    errors = []
    for n in (40, 80):
        marks = [2.0 * (i + 1) / n for i in range(n)]
        errors.append(abs(solve([Decay(0.0, 2.0)], scheme, marks, None)[1] - exact(2.0)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(scheme.order, abs=0.25)


@pytest.mark.parametrize("scheme", [TR_BDF2, SDIRK3])
def test_integrals_beside_the_state_balance_its_change(scheme: Scheme) -> None:
    """``y(end) = -integral of k (y - cos t)`` holds for the discrete solution to round-off."""
    control = StepController(first_step=1e-3) if scheme.error else None
    _, y, lost = solve([Decay(0.0, 2.0)], scheme, [0.5, 1.0, 1.1], control)
    assert y == pytest.approx(-lost, abs=1e-14)


def test_steps_land_on_marks_and_start_small_again_at_events() -> None:
    segments = [Decay(0.0, 1.0), Decay(1.0, 3.0)]
    steps, y, _ = solve(segments, TR_BDF2, [0.3, 0.7, 2.5], StepController(first_step=1e-3))
    assert {0.3, 0.7, 1.0, 2.5, 3.0} <= {s.end for s in steps}
    fresh = [s for s in steps if s.first_stage_evaluated]
    assert [(s.segment, s.t) for s in fresh] == [(0, 0.0), (1, 1.0)]
    assert all(s.dt <= 1e-3 for s in fresh)
    assert y == pytest.approx(exact(3.0), abs=1e-4)  # 1e-6 a step, some hundred steps


def test_a_failed_stage_is_repeated_only_if_the_controller_allows_it() -> None:
    limit = TR_BDF2.gamma * 0.01
    retry = StepController(first_step=1.0, retry_failed=True)
    steps, y, _ = solve([Decay(0.0, 1.0, limit=limit)], TR_BDF2, [], retry)
    assert max(s.dt for s in steps) <= 0.01 * (1 + 1e-12)
    assert y == pytest.approx(exact(1.0), abs=1e-4)
    with pytest.raises(SolverError, match="too long"):
        solve([Decay(0.0, 1.0, limit=limit)], TR_BDF2, [], StepController(first_step=1.0))


def test_segments_that_do_not_join_and_missing_error_estimates_are_refused() -> None:
    with pytest.raises(ValueError, match="begins at"):
        solve([Decay(0.0, 1.0), Decay(2.0, 3.0)], TR_BDF2, [], None)
    with pytest.raises(ValueError, match="no time segment"):
        solve([], TR_BDF2, [], None)
    with pytest.raises(ValueError, match="no embedded error"):
        solve([Decay(0.0, 1.0)], SDIRK3, [], StepController(first_step=0.1))
