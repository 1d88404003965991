"""Systematic errors are eliminated exactly as by their joint covariance."""

from __future__ import annotations

import numpy as np
import torch

from nanopinn.inference.error_effects import GRID_LINEARISATION_RADIUS
from nanopinn.inference.systematic import SharedError

from .test_engines import small_problem

G = torch.Generator().manual_seed(0)
E = torch.randn(12, 3, dtype=torch.float64, generator=G)
AT = torch.randn(3, dtype=torch.float64, generator=G)
R = torch.randn(12, dtype=torch.float64, generator=G)


def test_the_misfit_equals_that_of_the_joint_covariance() -> None:
    shared = SharedError(E, AT)
    r = R - E @ AT  # for errors of zero
    covariance = torch.eye(12, dtype=torch.float64) + E @ E.T
    torch.testing.assert_close(
        shared.eliminate(R).square().sum(), r @ torch.linalg.solve(covariance, r)
    )


def test_the_conditional_estimate_minimises_the_misfit() -> None:
    shared = SharedError(E, AT)
    best = shared.conditional_estimate(R).requires_grad_()
    misfit = (R + E @ (best - AT)).square().sum() + best.square().sum()
    (gradient,) = torch.autograd.grad(misfit, best)
    assert float(gradient.detach().norm()) < 1e-10
    torch.testing.assert_close(misfit.detach(), shared.eliminate(R).square().sum())


def test_tangents_are_the_derivative_of_the_residual() -> None:
    shared = SharedError(E, AT)
    J = torch.randn(2, 12, dtype=torch.float64, generator=G)
    for j, tangent in zip(J, shared.eliminate_tangents(J), strict=True):
        torch.testing.assert_close(tangent, shared.eliminate(R + j) - shared.eliminate(R))


def test_without_errors_the_residual_is_unchanged() -> None:
    none = SharedError(E[:, :0], AT[:0])
    torch.testing.assert_close(none.eliminate(R), R)


def test_the_grid_error_is_recomputed_only_when_informed_unknowns_change() -> None:
    problem = small_problem(n=8, off=0.0)[0]
    theta, names = problem.unknowns.prior_mean, problem.unknowns.names
    fields = problem.solve(theta, problem.forward())
    for _ in range(2):  # the first call omits the grid error
        problem = problem.with_systematic_errors(theta, fields)
    first = problem.errors.grid_on_contrast
    assert first.shape[1] == 1
    for name, kept in (("K_ratio_n", True), ("p_e", True), ("l", False)):
        moved = theta + problem.unknowns.prior_sd * (np.array(names) == name)
        there = problem.with_systematic_errors(moved, problem.solve(moved, problem.forward()))
        assert (there.errors.grid_on_contrast is first) == kept, name


def test_uninformed_unknowns_change_the_grid_error_less_than_its_tolerance() -> None:
    problem = small_problem(n=8, off=0.0)[0]
    theta = problem.unknowns.prior_mean
    fields = problem.solve(theta, problem.forward())
    problem = problem.with_systematic_errors(theta, fields)

    def effect(name: str, by: float) -> torch.Tensor:
        at = theta + by * problem.unknowns.prior_sd * (np.array(problem.unknowns.names) == name)
        return problem.with_systematic_errors(
            at, problem.solve(at, problem.forward())
        ).errors.grid_on_contrast

    here = effect("l", 0.0)
    of_idle, of_length = (
        float((effect(name, by) - here).norm())
        for name, by in (("K_ratio_n", 1.0), ("l", GRID_LINEARISATION_RADIUS))
    )
    assert of_idle < of_length
