"""Errors that many numbers share are eliminated as their joint covariance asks."""

from __future__ import annotations

import torch

from nanopinn.inference.systematic import SharedError

G = torch.Generator().manual_seed(0)
E = torch.randn(12, 3, dtype=torch.float64, generator=G)
AT = torch.randn(3, dtype=torch.float64, generator=G)
R = torch.randn(12, dtype=torch.float64, generator=G)


def test_the_misfit_is_that_of_the_joint_covariance() -> None:
    shared = SharedError(E, AT)
    r = R - E @ AT  # as if the errors were zero
    covariance = torch.eye(12, dtype=torch.float64) + E @ E.T
    torch.testing.assert_close(shared.eliminate(R).square().sum(), r @ torch.linalg.solve(covariance, r))


def test_the_best_errors_are_those_of_the_minimum() -> None:
    shared = SharedError(E, AT)
    best = shared.best(R).requires_grad_()
    misfit = (R + E @ (best - AT)).square().sum() + best.square().sum()
    (gradient,) = torch.autograd.grad(misfit, best)
    assert float(gradient.detach().norm()) < 1e-10
    torch.testing.assert_close(misfit.detach(), shared.eliminate(R).square().sum())


def test_tangents_are_the_derivative_of_the_residual() -> None:
    shared = SharedError(E, AT)
    J = torch.randn(2, 12, dtype=torch.float64, generator=G)
    for j, tangent in zip(J, shared.eliminate_tangents(J), strict=True):
        torch.testing.assert_close(tangent, shared.eliminate(R + j) - shared.eliminate(R))


def test_no_error_changes_nothing() -> None:
    none = SharedError(E[:, :0], AT[:0])
    torch.testing.assert_close(none.eliminate(R), R)
