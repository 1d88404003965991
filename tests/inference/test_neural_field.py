"""Neural fields: prior variance, gradient of the hidden weights, and recovery of a field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanopinn.inference.basis import field_posterior, field_unknown
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.neural_field import _Trainer, evaluate_shapes, objective_gradient
from nanopinn.inference.unknown_fields import add_unknown_functions
from nanopinn.settings import FitSettings
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.runge_kutta import SDIRK3

from .test_engines import NOISE, small_problem


@pytest.fixture(scope="module")
def varying() -> tuple[InverseProblem, torch.Tensor]:
    """Drug images of a carrier permeability that varies along x, from a finer grid and another
    scheme; and its logarithm.
    """
    p, truth = small_problem()
    x = (torch.arange(12, dtype=torch.float64) - 5.5) * 0.5
    true = torch.where(p.setting.maps.tumour > 0.5, (0.8 * torch.tanh(1.5 * x))[:, None, None], 0.0)
    maps = replace(p.setting.maps, shapes={"permeability": true[None]})
    fine = replace(p, setting=replace(replace(p.setting, maps=maps).refined(2), flow_refine=1))

    def scalars(th: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**p.unknowns.scalars(th), "permeability": torch.ones(1, dtype=torch.float64)}

    pools = average_subcells(
        fine.solve(
            truth, ForwardModel(fine.setting, scalars, course=p.course), scheme=SDIRK3
        ).pools,
        2,
    )
    generator = torch.Generator().manual_seed(4)
    drug = []
    for d in p.drug:
        image = d.predict(pools[p.node_index(d)], p.setting.maps, p.plasma_at(d.time_s))
        sd = NOISE * float(image[d.voxels].max()) * torch.ones_like(image)
        drug.append(
            replace(
                d,
                measured=image
                + sd * torch.randn(image.shape, generator=generator, dtype=torch.float64),
                noise_sd=sd,
                sd=sd,
            )
        )
    q, _ = add_unknown_functions(
        replace(p, drug=tuple(drug)), FitSettings(field=("permeability:neural",))
    )
    return q, true


def test_the_prior_variance_does_not_depend_on_the_hidden_weights(varying) -> None:
    p, _ = varying
    network = _Trainer(p, 0).networks["permeability"]
    inside = p.setting.maps.tumour > 0.5
    torch.testing.assert_close(
        evaluate_shapes(network, p.setting, 0.5).detach(), p.setting.maps.shapes["permeability"]
    )
    with torch.no_grad():
        for w in network.parameters():
            w += 0.3 * torch.randn(
                w.shape, dtype=w.dtype, generator=torch.Generator().manual_seed(1)
            )
    shapes = evaluate_shapes(network, p.setting, 0.5)[:, inside].detach()
    assert float(shapes.square().sum(dim=0).mean()) == pytest.approx(0.25)
    assert float(shapes.mean(dim=1).abs().max()) < 1e-12, "the mean belongs to the scalar"


def test_the_gradient_of_hidden_weights_equals_central_differences(varying) -> None:
    p, _ = varying
    trainer = _Trainer(p, 0)
    network = trainer.networks["permeability"]
    rng = np.random.default_rng(5)
    theta = p.unknowns.prior_mean + 0.3 * p.unknowns.prior_sd * rng.standard_normal(len(p.unknowns))
    along = [torch.as_tensor(rng.standard_normal(w.shape)) for w in network.parameters()]
    found = objective_gradient(p, theta, trainer.shapes())
    (trainer.shapes()["permeability"] * found.shapes["permeability"]).sum().backward()
    exact = sum(float((w.grad * a).sum()) for w, a in zip(network.parameters(), along, strict=True))

    def objective(step: float) -> float:
        with torch.no_grad():
            for w, a in zip(network.parameters(), along, strict=True):
                w += step * a
            shapes = trainer.shapes()
            for w, a in zip(network.parameters(), along, strict=True):
                w -= step * a
        return objective_gradient(p, theta, shapes).objective

    assert exact == pytest.approx((objective(1e-4) - objective(-1e-4)) / 2e-4, rel=1e-4)


def test_training_recovers_the_field_within_its_uncertainty(varying) -> None:
    p, true = varying
    first = fit_fv(p, iterations=4, tolerance=0.5)
    trained = _Trainer(p, 0).train(first, 5)
    fit = fit_fv(trained, first.theta, iterations=3, tolerance=0.5)
    # the linearisation of the systematic errors is the same, only the hidden weights differ
    here = replace(first.problem, errors=first.problem.errors)
    before, after = (
        objective_gradient(q, first.theta).objective
        for q in (here, replace(here, setting=trained.setting))
    )
    assert after < before
    inside = p.setting.maps.tumour > 0.5
    at = p.unknowns.where("permeability")
    shapes = fit.problem.setting.maps.shapes["permeability"]
    found = field_posterior(
        shapes, torch.as_tensor(fit.theta[at]), torch.as_tensor(fit.run.covariance[at, at])
    )
    error = (found.mean - true)[inside] - (found.mean - true)[inside].mean()
    # without a field this is 1; the limit is a quarter of the variance, and the remainder is mostly
    # in the border layer, which drug images do not show
    assert float(error.norm() / true[inside].norm()) < 0.5
    assert float(found.contraction[inside].mean()) > 0.5
    assert bool((found.sd <= found.prior_sd + 1e-9).all())


def test_radial_basis_and_network_describe_the_same_unknown(varying) -> None:
    p, _ = varying
    f = p.unknowns.functions[0]
    assert (f.kind, f.count) == ("neural", len(p.setting.maps.shapes["permeability"]))
    assert (
        field_unknown("permeability", p.setting.maps.shapes["permeability"], 0.5, 2e-3, "neural")
        == f
    )
