"""Posterior draws and their diagnostics against closed forms."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from nanopinn.errors import InputError
from nanopinn.inference.uncertainty.sampling import (
    describe_samples,
    effective_sample_size,
    is_reliable,
    sample_problem,
    split_r_hat,
)

from .linear import Closed, gaussian, unknowns


def test_draws_of_a_linear_problem_have_its_mean_and_covariance() -> None:
    problem, mean, covariance = gaussian(m=4)
    found = sample_problem(problem, mean, draws=8000, seed=1)
    sd = np.sqrt(np.diag(covariance))
    assert is_reliable(found), describe_samples(found)
    assert found.acceptance > 0.5
    # four standard errors of a mean and of a covariance for the effective sample size
    assert (np.abs(found.mean - mean) < 4 * sd / np.sqrt(found.ess)).all()
    np.testing.assert_allclose(
        found.covariance / np.outer(sd, sd),
        covariance / np.outer(sd, sd),
        atol=4 * np.sqrt(2 / found.ess.min()),
    )
    low, high = found.interval("a")
    np.testing.assert_allclose(
        [low, high], mean[0] + np.array([-1.96, 1.96]) * sd[0], atol=0.15 * sd[0]
    )
    # one solve per draw, and in addition the start of each chain and the Jacobian
    assert found.solves <= 8000 + 4 + 1


def test_draws_reproduce_a_skewness_beyond_the_laplace_approximation() -> None:
    problem = Closed(unknowns("a"), lambda th: (torch.exp(th[:1]) - 1.0) / 0.8)

    def density(a: float) -> float:
        return float(np.exp(-0.5 * ((np.exp(a) - 1) / 0.8) ** 2 - 0.5 * a**2))

    total = quad(density, -8, 4)[0]
    true = quad(lambda a: a * density(a), -8, 4)[0] / total
    found = sample_problem(problem, np.zeros(1), draws=6000, seed=2)
    assert abs(true) > 0.2 * found.laplace_sd[0]
    assert abs(found.mean[0] - true) < 4 * found.flat.std() / np.sqrt(found.ess[0])


def test_draws_are_reproducible_by_their_seed() -> None:
    problem, mean, _ = gaussian()
    a, b, c = (sample_problem(problem, mean, draws=80, seed=s).theta for s in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_the_effective_sample_size_of_an_autoregressive_chain_is_exact() -> None:
    rng, rho = np.random.default_rng(0), 0.8
    x = np.zeros((4, 20_000, 1))
    noise = rng.normal(size=x.shape)
    for k in range(1, x.shape[1]):
        x[:, k] = rho * x[:, k - 1] + noise[:, k]
    assert effective_sample_size(x)[0] == pytest.approx(80_000 * (1 - rho) / (1 + rho), rel=0.1)
    assert split_r_hat(x)[0] == pytest.approx(1, abs=0.005)


def test_separate_chains_have_a_large_r_hat_and_few_effective_draws() -> None:
    x = np.random.default_rng(0).normal(size=(4, 1000, 1))
    assert effective_sample_size(x)[0] > 3500
    apart = x + np.array([0, 0, 0, 3.0])[:, None, None]
    assert split_r_hat(apart)[0] > 1.5
    assert effective_sample_size(apart)[0] < 20


def test_chains_with_a_common_drift_have_a_large_r_hat() -> None:
    x = np.random.default_rng(0).normal(size=(4, 1000, 1)) + np.linspace(-2, 2, 1000)[None, :, None]
    assert split_r_hat(x)[0] > 1.3


def test_too_few_draws_and_a_missing_sampler_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, mean, _ = gaussian()
    with pytest.raises(InputError, match="40 or more"):
        sample_problem(problem, mean, draws=20)
    monkeypatch.setitem(sys.modules, "emcee", None)
    with pytest.raises(InputError, match=r"nanopinn\[sampling\]"):
        sample_problem(problem, mean)
