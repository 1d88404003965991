"""Scale of the arterial input function and noise scales: identifiability and recovery."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.nuisance_scales import (
    LOG_SCALE_STEP,
    AifScaleProblem,
    _fit_noise_scales,
    estimate_noise_scales,
    scale_arterial_input,
    scale_noise,
)
from nanopinn.inference.problem import Linearisation, Objective

from .test_engines import small_problem


@pytest.fixture(scope="module")
def contrast_only() -> tuple[InverseProblem, np.ndarray]:
    problem, truth = small_problem()
    return replace(problem, drug=(), setting=replace(problem.setting, flow_refine=1)), truth


def test_contrast_agent_determines_only_the_product_of_scale_and_filtration(contrast_only) -> None:
    problem, theta = contrast_only
    s = 1.2
    other = scale_arterial_input(problem, s)
    faster = theta.copy()
    faster[problem.unknowns.names.index("q")] += np.log(s)
    here = problem.solve(faster, problem.forward()).contrast
    there = other.solve(theta, other.forward()).contrast
    unscaled = problem.solve(theta, problem.forward()).contrast
    # an exact symmetry of the equations, up to the tolerance of the solves
    assert float((there - here).norm()) < 1e-4 * float((there - unscaled).norm())


def test_without_drug_images_the_scale_keeps_its_prior_and_widens_filtration(
    contrast_only,
) -> None:
    problem, theta = contrast_only
    at = Objective(problem).expand(theta)
    q = problem.unknowns.names.index("q")
    posed = AifScaleProblem(problem, 0.1)
    both = posed.predict(np.append(theta, 0.0), tangents=True)
    assert both.jacobian is not None
    J = both.jacobian.numpy()
    # relative error of a forward difference: half its step
    np.testing.assert_allclose(J[:, -1], J[:, q], atol=LOG_SCALE_STEP * np.abs(J[:, q]).max())
    alone = np.diag(Objective(problem).quadratic(theta, at).covariance)
    together = (
        Objective(posed)
        .quadratic(np.append(theta, 0.0), Linearisation.from_prediction(both))
        .covariance
    )
    # the prior of q is wide, so nearly all of the variance of the scale adds to that of the data
    precision = 1 / alone[q] - 1 / problem.unknowns.prior_sd[q] ** 2
    expected = 1 / (1 / (1 / precision + 0.1**2) + 1 / problem.unknowns.prior_sd[q] ** 2)
    assert together[q, q] > alone[q]
    assert together[q, q] <= expected * (1 + 0.05)
    assert together[-1, -1] ** 0.5 == pytest.approx(0.1, rel=0.05)


def test_the_scale_of_wrongly_stated_noise_is_recovered() -> None:
    generator = torch.Generator().manual_seed(0)
    n, k, true = 1200, 400, np.array([1.7, 0.6])
    E = 0.2 * torch.randn(n, k, dtype=torch.float64, generator=generator)
    group = (torch.arange(n) % 2).long()
    share = torch.linspace(0.3, 1.0, n, dtype=torch.float64)
    variance = torch.as_tensor(true)[group] ** 2 * share + 1 - share
    draws = torch.randn(n + k, dtype=torch.float64, generator=generator)
    r = variance.sqrt() * draws[:n] + E @ draws[n:]
    found = _fit_noise_scales(("a", "b"), group, share, 1 - share, r, E, 0)
    for f, s in zip(found, true, strict=True):
        assert abs(np.log(f.scale / s)) < 3 * f.sd, f
        assert f.sd < 0.15


def test_the_sd_of_a_noise_scale_follows_from_the_number_of_residuals() -> None:
    r = torch.randn(5000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one, nothing = torch.ones_like(r), torch.zeros_like(r)
    (found,) = _fit_noise_scales(
        ("a",), torch.zeros(5000).long(), one, nothing, r, r.new_zeros((5000, 0)), 1000
    )
    # the logarithm of an estimated standard deviation has variance 1/(2 N); 1000 residuals were
    # projected out
    assert found.sd == pytest.approx((2 * 4000) ** -0.5, rel=0.01)
    assert found.scale == pytest.approx(float((r @ r / 4000).sqrt()), rel=1e-3)


def test_the_noise_added_to_curves_is_recovered(contrast_only) -> None:
    problem, theta = contrast_only
    fields = problem.solve(theta, problem.forward())
    generator = torch.Generator().manual_seed(3)
    clean = fields.contrast[:, problem.contrast.voxels]
    sd = problem.contrast.noise_sd
    noisy = replace(
        problem.contrast,
        measured=clean
        + 1.5 * sd * torch.randn(clean.shape, dtype=clean.dtype, generator=generator),
    )
    (found,) = estimate_noise_scales(replace(problem, contrast=noisy), fields)
    assert abs(np.log(found.scale / 1.5)) < 4 * found.sd
    assert found.sd == pytest.approx((2 * noisy.count) ** -0.5, rel=0.02)
    again = scale_noise(problem, {found.kind: found.scale})
    torch.testing.assert_close(again.contrast.noise_sd, sd * found.scale)
