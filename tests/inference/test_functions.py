"""Unknown functions: fields of space and the release law; their tangents, their priors, and what is told of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from nanopinn.errors import InputError
from nanopinn.inference.functions import field_posterior, field_unknown, release_law, unit_bumps
from nanopinn.inference.problem import InverseProblem
from nanopinn.physics.model import MULTIPLIERS, TumourModel
from nanopinn.physics.release import BEND_KNOTS, acid_release_rate, bent
from nanopinn.workflows.fields import parse_field

from .test_engines import small_problem

W = torch.tensor([0.5, -0.7, 0.3, 0.0, 0.9], dtype=torch.float64)


@pytest.fixture(scope="module")
def problem() -> InverseProblem:
    return small_problem()[0]


def with_every_function(problem: InverseProblem) -> InverseProblem:
    """The problem with all fields, of a few wide bumps each, and the release law."""
    maps = problem.setting.maps
    bumps = 0.5 * torch.as_tensor(unit_bumps(maps.tumour.numpy() > 0.5, np.array(problem.setting.grid.spacing), 3e-3))
    functions = (*(field_unknown(name, bumps, 0.5, 3e-3) for name in MULTIPLIERS), release_law())
    setting = replace(problem.setting, maps=replace(maps, shapes={name: bumps for name in MULTIPLIERS}))
    return replace(problem, setting=setting, unknowns=replace(problem.unknowns, functions=functions))


def test_tangents_of_functions_equal_central_differences(problem) -> None:
    p = with_every_function(problem)
    rng = np.random.default_rng(0)
    theta = p.unknowns.prior_mean + 0.3 * p.unknowns.prior_sd * rng.standard_normal(len(p.unknowns))
    forward = p.forward()
    J = p.predict(theta, forward, tangents=True).jacobian
    for f in p.unknowns.functions:
        along = np.zeros(len(theta))
        along[p.unknowns.where(f.name)] = rng.standard_normal(f.count)
        difference = (p.predict(theta + 1e-4 * along, forward).residual - p.predict(theta - 1e-4 * along, forward).residual) / 2e-4
        exact = J @ torch.as_tensor(along)
        # as for scalars: linear solves of 1e-7 over a step of 1e-4
        assert float((difference - exact).norm()) <= 2e-4 * float(exact.norm().clamp_min(J.norm(dim=0).max())), f.name
        assert float(exact.norm()) > 1.0, f"{f.name} moves no image"


def test_weights_of_zero_change_nothing(problem) -> None:
    p = with_every_function(problem)
    a, b = (q.predict(q.unknowns.prior_mean, q.forward()).residual for q in (problem, p))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_multiplier_multiplies_its_property_and_no_other(problem) -> None:
    p = with_every_function(problem)
    theta = torch.as_tensor(p.unknowns.prior_mean)
    plain = TumourModel.of(p.setting.maps, p.unknowns.scalars(theta))
    at = p.unknowns.where("conductivity")
    theta[at] = 1.0
    model = TumourModel.of(p.setting.maps, p.unknowns.scalars(theta))
    factor = torch.exp(p.setting.maps.shapes["conductivity"].sum(dim=0))
    torch.testing.assert_close(model.flow().K, factor * plain.flow().K)
    torch.testing.assert_close(model.flow().LpSV, plain.flow().LpSV)
    torch.testing.assert_close(model.release_rate(), plain.release_rate())


def test_bumps_with_random_weights_have_the_variance_that_is_stated() -> None:
    inside = np.zeros((9, 8, 7), dtype=bool)
    inside[2:7, 2:6, 1:6] = True
    bumps = unit_bumps(inside, np.full(3, 0.7e-3), 1.5e-3)
    np.testing.assert_allclose((bumps**2).sum(axis=0)[inside], 1.0)
    assert not bumps[:, ~inside].any()


def test_a_bent_scale_is_the_integral_of_its_slope() -> None:
    pH = np.array([5.9, 6.3, 6.8, 7.0, 7.7])
    steepness = lambda s: np.exp(np.interp(s, BEND_KNOTS, W.numpy()))  # noqa: E731
    expected = [BEND_KNOTS[0] + quad(steepness, BEND_KNOTS[0], x, points=BEND_KNOTS[1:-1] if x > 6.8 else None)[0] for x in pH]
    np.testing.assert_allclose(bent(torch.as_tensor(pH), W).numpy(), expected, rtol=1e-7)


def test_every_release_law_falls_with_pH_and_keeps_its_rate_at_the_reference() -> None:
    pH = torch.linspace(5.5, 8.0, 200, dtype=torch.float64)
    for seed in range(5):
        w = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        rate = acid_release_rate(pH, 4.6e-5, 1e-6, 6.2, 2.0, 6.8, w)
        assert bool((rate.diff() < 0).all())
        at = acid_release_rate(torch.tensor([6.8], dtype=torch.float64), 4.6e-5, 1e-6, 6.2, 2.0, 6.8, w)
        assert float(at) == pytest.approx(4.6e-5, rel=1e-12)


def test_a_field_that_no_image_touches_keeps_its_prior() -> None:
    shapes = torch.as_tensor(0.5 * unit_bumps(np.ones((4, 4, 4), dtype=bool), np.full(3, 1e-3), 2e-3))
    k = len(shapes)
    untouched = field_posterior(shapes, torch.zeros(k).double(), torch.eye(k).double())
    torch.testing.assert_close(untouched.sd, torch.full_like(untouched.sd, 0.5))
    assert float(untouched.contraction.abs().max()) < 1e-12
    known = field_posterior(shapes, torch.zeros(k).double(), 0.04 * torch.eye(k).double())
    torch.testing.assert_close(known.contraction, torch.full_like(known.sd, 0.8))


def test_fields_that_do_not_exist_are_refused() -> None:
    for text, expected in (("porosity", "conductivity"), ("release:wavelets", "neural")):
        with pytest.raises(InputError, match=expected):
            parse_field(text)
    assert parse_field("release:neural") == ("release", "neural")
