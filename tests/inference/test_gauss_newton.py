"""Gauss-Newton steps where the neglected curvature is small, and where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from nanopinn.inference.gauss_newton import OptimisationRun, PreviousStep, minimise, step_below
from nanopinn.inference.problem import QuadraticModel


def minimised(residual: float, bend: float) -> OptimisationRun:
    """From theta = 1 with prior 0 +- 1 and one residual, ``residual + bend theta^2 / 2``: curvature
    1 + residual * bend at 0.
    """
    one = np.ones(1)

    def value(theta: np.ndarray) -> np.ndarray:
        return residual + bend * theta**2 / 2

    def expand(theta: np.ndarray) -> QuadraticModel:
        return QuadraticModel.from_residual(value(theta), (bend * theta)[:, None], theta, one)

    return minimise(
        expand,
        lambda theta: expand(theta).objective,
        one.copy(),
        1.5 * one,
        iterations=20,
        converged=step_below(0.01),
        on_step=lambda *_: None,
    )


def test_one_step_suffices_where_the_quadratic_model_is_accurate() -> None:
    found = minimised(0.0, 1e-3)
    assert found.converged
    assert found.iterations == 2


@pytest.mark.parametrize("missing", [0.7, 0.9, 1.0])
def test_reversing_steps_are_limited_to_the_secant(missing: float) -> None:
    found = minimised(missing / 1e-3, 1e-3)
    assert found.converged
    # a parabola's secant is exact; by Gauss-Newton alone each point is ``missing`` times as far as
    # the last, on the other side
    assert found.iterations <= 4
    assert abs(found.theta[0]) < 0.01 / (1 + missing)


def test_only_the_reversing_part_of_a_step_is_shortened() -> None:
    previous, hessian = PreviousStep(np.array([0.5, 0.0]), np.array([1.0, 0.0])), np.eye(2)
    for onward in ([0.3, 0.1], [-0.1, 0.3]):
        np.testing.assert_array_equal(previous.limit_reversal(np.array(onward), hessian), onward)
    # slopes of 1 and -0.25, half a unit apart: zero is 0.1 back; the orthogonal part is unchanged
    np.testing.assert_allclose(
        previous.limit_reversal(np.array([-0.25, 0.2]), hessian), [-0.1, 0.2], rtol=1e-12
    )
