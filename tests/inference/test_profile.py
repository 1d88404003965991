"""Profile likelihoods against closed forms: a Gaussian, a nonlinear likelihood, a strong
correlation, and an unknown without effect.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar

from nanopinn.errors import InputError
from nanopinn.inference.uncertainty.profile import (
    DECREASE_TOLERANCE,
    profile_unknown,
    strongest_correlation,
)
from nanopinn.report.fit_summary import describe_profile
from nanopinn.results import OBJECTIVE_RISE_95

from .linear import Closed, gaussian, unknowns


def test_the_profile_of_a_gaussian_equals_its_laplace_approximation() -> None:
    problem, mean, covariance = gaussian()
    sd = np.sqrt(np.diag(covariance))
    for j, name in enumerate(problem.unknowns.names):
        found = profile_unknown(problem, mean, name)
        z = (np.log(found.values) - mean[j]) / sd[j]
        np.testing.assert_allclose(z, np.arange(-3, 4), atol=1e-9)
        np.testing.assert_allclose(found.objective - found.objective.min(), z**2 / 2, atol=1e-9)
        # 1.96 is rounded to four digits: 1.959964
        np.testing.assert_allclose(np.log(found.interval), np.log(found.laplace), atol=1e-4 * sd[j])
        np.testing.assert_allclose(
            found.theta - mean, z[:, None] * covariance[:, j] / sd[j], atol=1e-9
        )
        correlation = covariance[:, j] / sd / sd[j]
        correlation[j] = 0
        partner = int(np.argmax(np.abs(correlation)))
        assert found.strongest_correlation is not None
        assert found.strongest_correlation.partner == problem.unknowns.names[partner]
        assert found.strongest_correlation.strength == pytest.approx(correlation[partner])
        assert found.strongest_correlation.slope == pytest.approx(
            covariance[partner, j] / covariance[j, j]
        )
        assert found.strongest_correlation == strongest_correlation(
            problem.unknowns.names, covariance, name
        ) or found.strongest_correlation.strength == pytest.approx(
            strongest_correlation(problem.unknowns.names, covariance, name).strength  # type: ignore[union-attr]
        )


def nonlinear() -> Closed:
    """Two values, exp(a) + b and exp(a) - exp(b), so that neither unknown enters linearly."""

    def residual(th: torch.Tensor) -> torch.Tensor:
        return (
            torch.stack([torch.exp(th[0]) + th[1] - 1.5, torch.exp(th[0]) - torch.exp(th[1]) - 0.2])
            / 0.4
        )

    return Closed(unknowns("a", "b"), residual)


def least(problem: Closed, a: float) -> float:
    """The profile of a by a one-dimensional search over b."""

    def value(b: float) -> float:
        theta = np.array([a, b])
        return 0.5 * problem.predict(theta, None).chi2 + 0.5 * float(theta @ theta)

    return float(minimize_scalar(value, bracket=(-0.5, 0.5), tol=1e-12).fun)


@pytest.mark.parametrize(("exact", "tolerance"), [(False, 0.01), (True, 0.0)])
def test_profile_points_of_a_nonlinear_problem_are_conditional_minima(
    exact: bool, tolerance: float
) -> None:
    problem = nonlinear()
    best = minimize_scalar(lambda a: least(problem, a), bracket=(-0.5, 0.5), tol=1e-12)
    b = minimize_scalar(
        lambda b: problem.predict(np.array([best.x, b]), None).chi2 + b**2,
        bracket=(-0.5, 0.5),
        tol=1e-12,
    ).x
    found = profile_unknown(problem, np.array([best.x, b]), "a", exact=exact)
    true = np.array([least(problem, float(np.log(v))) for v in found.values])
    assert (found.objective >= true - 1e-9).all()
    # the tolerance of a step, and one per cent more with Broyden updates
    np.testing.assert_allclose(found.objective, true, atol=DECREASE_TOLERANCE, rtol=tolerance)
    ends = [
        brentq(lambda a: least(problem, a) - best.fun - OBJECTIVE_RISE_95, *side)
        for side in ((best.x - 3, best.x), (best.x, best.x + 3))
    ]
    np.testing.assert_allclose(np.log(found.interval), ends, atol=0.01 * np.diff(ends)[0])
    assert abs(np.log(found.laplace[0]) - ends[0]) > 5 * abs(
        np.log(found.interval[0]) - ends[0]
    )  # the Laplace interval differs


def curved() -> Closed:
    """A correlation b = ln(1 + a)/2, along which the tangent of b changes fourfold."""
    return Closed(
        unknowns("a", "b"),
        lambda th: torch.stack([(torch.exp(2 * th[1]) - 1 - th[0]) / 0.05, th[0] / 0.4]),
    )


def test_a_profile_follows_a_curved_correlation() -> None:
    problem = curved()
    found = profile_unknown(problem, np.zeros(2), "a")
    true = np.array([least(problem, float(np.log(v))) for v in found.values])
    inner = slice(1, -1)  # at three sd to the left the correlation almost ends (1 + a near 0)
    np.testing.assert_allclose(found.objective[inner], true[inner], atol=2 * DECREASE_TOLERANCE)
    # the linear approximation at the estimate is far off
    straight = np.array(
        [
            0.5 * problem.predict(np.array([a, a / 2]), None).chi2
            for a in np.log(found.values[inner])
        ]
    )
    assert (straight - true[inner]).max() > 1


def test_unknowns_observed_only_as_a_product_have_flat_profiles() -> None:
    problem = Closed(unknowns("a", "b", "c"), lambda th: torch.stack([th[0] + th[1], th[2]]) / 1e-3)
    found = profile_unknown(problem, np.zeros(3), "a")
    assert found.bounded == (False, False)
    assert found.misfit.max() < 1e-3
    assert found.strongest_correlation is not None
    assert found.strongest_correlation.partner == "b"
    assert found.strongest_correlation.slope == pytest.approx(-1, abs=1e-4)
    assert "flat" in describe_profile(found)
    seen = profile_unknown(problem, np.zeros(3), "c")
    assert seen.bounded == (True, True)
    assert seen.strongest_correlation is None


def test_the_profile_of_an_unknown_without_effect_is_its_prior() -> None:
    problem = Closed(unknowns("a", "b", sd=0.35), lambda th: th[:1] / 0.1)
    found = profile_unknown(problem, np.zeros(2), "b")
    np.testing.assert_allclose(found.misfit, 0, atol=1e-12)
    np.testing.assert_allclose(found.prior, (np.log(found.values) / 0.35) ** 2 / 2)


def test_a_profile_reports_a_lower_objective_than_the_estimate() -> None:
    problem, mean, covariance = gaussian()
    off = mean + 2 * covariance[:, 0] / covariance[0, 0] ** 0.5
    found = profile_unknown(problem, off, "a")
    assert "several `starts`" in describe_profile(found)
    right = profile_unknown(problem, mean, "a")
    assert "several `starts`" not in describe_profile(right)
    # the interval is around the lower point, not around the estimate
    np.testing.assert_allclose(np.log(found.interval), np.log(right.interval), atol=1e-6)


def test_a_profile_of_an_unknown_name_is_refused() -> None:
    problem, mean, _ = gaussian()
    with pytest.raises(InputError, match="a, b, c"):
        profile_unknown(problem, mean, "z")
