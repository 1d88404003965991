"""The check of the Laplace approximation against closed forms: a quadratic objective, and a
non-linear correlation in which two unknowns explain one value.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize, minimize_scalar

from nanopinn.inference.uncertainty.laplace_check import (
    CheckedPosterior,
    check_laplace_approximation,
)
from nanopinn.results import OBJECTIVE_RISE_95

from .linear import Closed, unknowns


def checked_at_the_minimum(problem: Closed) -> tuple[np.ndarray, np.ndarray, CheckedPosterior]:
    """Estimate, Laplace covariance, and the checked posterior."""
    prior = 1 / problem.unknowns.prior_sd**2
    theta = np.zeros(len(problem.unknowns))
    for _ in range(50):
        at = problem.predict(theta, None, tangents=True)
        J, r = at.jacobian.numpy(), at.residual.numpy()
        hessian = J.T @ J + np.diag(prior)
        theta = theta - np.linalg.solve(hessian, J.T @ r + prior * theta)
    covariance = np.linalg.inv(hessian)
    return (
        theta,
        covariance,
        check_laplace_approximation(
            problem, theta, problem.unknowns.estimates(theta, covariance), covariance
        ),
    )


def two_sources() -> Closed:
    """Values exp(a) + exp(b)/2 and c: exp(a) may be almost zero where b is large."""
    return Closed(
        unknowns("a", "b", "c", sd=0.7),
        lambda th: torch.stack(
            [(torch.exp(th[0]) + torch.exp(th[1]) / 2 - 1.5) / 0.02, th[2] / 0.1]
        ),
    )


def rise(problem: Closed, a: float, best: np.ndarray) -> float:
    """Rise of the objective from its minimum to a value of the first unknown, minimised over the
    second.
    """

    def value(th: np.ndarray) -> float:
        return 0.5 * problem.predict(th, None).chi2 + 0.5 * float(
            np.sum((th / problem.unknowns.prior_sd) ** 2)
        )

    return float(
        minimize_scalar(
            lambda b: value(np.array([a, b, 0.0])),
            bounds=(-3, 3),
            method="bounded",
            options={"xatol": 1e-9},
        ).fun
    ) - value(best)


def test_a_quadratic_objective_keeps_its_laplace_approximation() -> None:
    rng = np.random.default_rng(0)
    A = torch.as_tensor(4 * rng.normal(size=(8, 3)))
    _, covariance, checked = checked_at_the_minimum(
        Closed(unknowns("a", "b", "c"), lambda th: A @ th - 0.3)
    )
    assert all(s.informed for s in checked.scalars)
    np.testing.assert_array_equal(checked.covariance, covariance)
    assert checked.notes == ()


def test_with_a_nonlinear_correlation_the_sd_is_that_of_the_longer_side() -> None:
    problem = two_sources()
    best, covariance, checked = checked_at_the_minimum(problem)
    assert minimize(
        lambda th: 0.5 * problem.predict(th, None).chi2 + 0.5 * np.sum((th / 0.7) ** 2), best
    ).fun == pytest.approx(
        0.5 * problem.predict(best, None).chi2 + 0.5 * np.sum((best / 0.7) ** 2), abs=1e-6
    )
    laplace, sd = np.sqrt(np.diag(covariance)), np.array([s.sd for s in checked.scalars])
    lower = best[0] - brentq(
        lambda a: rise(problem, a, best) - OBJECTIVE_RISE_95, best[0] - 4, best[0]
    )
    assert lower > 1.3 * 1.96 * laplace[0]
    assert sd[0] == pytest.approx(lower / 1.96, rel=0.03)
    assert sd[2] == laplace[2]  # an independent unknown keeps its sd
    correlation = checked.covariance / np.outer(sd, sd)
    np.testing.assert_allclose(correlation, covariance / np.outer(laplace, laplace), atol=1e-12)
    assert "label of a: the 95 % interval by profile likelihood" in checked.notes[0]


def test_an_unknown_without_a_crossing_gets_its_prior_sd() -> None:
    problem = two_sources()
    loose = Closed(unknowns("a", "b", "c", sd=1.5), problem.of)
    _, covariance, checked = checked_at_the_minimum(loose)
    assert covariance[0, 0] < (0.5 * 1.5) ** 2
    assert checked.scalars[0].sd == pytest.approx(1.5)
    assert not checked.scalars[0].informed


def test_a_lower_objective_than_the_estimate_is_reported() -> None:
    problem = Closed(unknowns("a", "b"), lambda th: torch.stack([4 * (th[0] + 0.3), th[1] / 0.1]))
    theta, covariance = np.zeros(2), np.diag([0.25**2, 0.1**2])  # a fit that did not converge
    checked = check_laplace_approximation(
        problem, theta, problem.unknowns.estimates(theta, covariance), covariance
    )
    assert (
        checked.notes[0]
        == "label of a: the profile found a lower objective than the estimate: fit again with"
        " several `starts`."
    )
