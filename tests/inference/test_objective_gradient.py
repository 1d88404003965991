"""The adjoint gradient of the objective agrees with central differences and normal equations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.neural_field import objective_gradient

from .test_basis import with_every_function
from .test_engines import small_problem


@pytest.fixture(scope="module")
def posed() -> tuple[InverseProblem, np.ndarray]:
    problem = with_every_function(small_problem()[0])
    rng = np.random.default_rng(2)
    return (
        problem,
        problem.unknowns.prior_mean
        + 0.3 * problem.unknowns.prior_sd * rng.standard_normal(len(problem.unknowns)),
    )


def objective(problem: InverseProblem, theta: np.ndarray) -> float:
    return problem.objective(
        theta, problem.compare(problem.solve(theta, problem.forward(), tol=1e-12))
    )


def test_the_adjoint_gradient_equals_central_differences(posed) -> None:
    p, theta = posed
    shapes = {name: p.setting.maps.shapes[name] for name in ("conductivity", "permeability")}
    found = objective_gradient(p, theta, shapes)
    assert found.objective == pytest.approx(objective(p, theta), rel=1e-6)
    rng = np.random.default_rng(3)
    along = p.unknowns.prior_sd * rng.standard_normal(len(theta))
    step = 1e-4
    difference = (objective(p, theta + step * along) - objective(p, theta - step * along)) / (
        2 * step
    )
    assert float(found.theta @ along) == pytest.approx(difference, rel=1e-5)
    # and along a change of the basis functions themselves, as from the hidden weights of a network
    change = {name: torch.as_tensor(rng.standard_normal(s.shape)) * s for name, s in shapes.items()}

    def moved(by: float) -> InverseProblem:
        maps = p.setting.maps
        new = {**maps.shapes, **{name: s + by * change[name] for name, s in shapes.items()}}
        return replace(p, setting=replace(p.setting, maps=replace(maps, shapes=new)))

    difference = (objective(moved(step), theta) - objective(moved(-step), theta)) / (2 * step)
    exact = sum(float((found.shapes[name] * change[name]).sum()) for name in shapes)
    assert exact == pytest.approx(difference, rel=1e-4)


def test_the_adjoint_gradient_equals_that_of_the_normal_equations(posed) -> None:
    p, theta = posed
    fields = p.solve(theta, p.forward(), tangents=True)
    expected = p.quadratic(theta, p.compare(fields)).gradient
    # tangents are solved to 1e-5
    np.testing.assert_allclose(
        objective_gradient(p, theta).theta, expected, atol=1e-4 * np.abs(expected).max()
    )


def test_tangents_in_single_precision_equal_those_in_double_precision(posed) -> None:
    p, theta = posed
    single = p.solve(theta, p.forward(), tangents=True)
    double = p.solve(theta, p.forward(), tangents=True, tol=1e-10)
    for name in ("d_contrast", "d_pools"):
        s, d = getattr(single, name), getattr(double, name)
        assert s.dtype == d.dtype == torch.float64
        apart, size = (s - d).flatten(1).norm(dim=1), d.flatten(1).norm(dim=1)
        assert 0 < float((apart / size.clamp_min(1e-300)).max()) < 5e-5
