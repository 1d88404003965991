"""Model error: its effect on every observation, and its map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanopinn.inference import model_error
from nanopinn.inference.basis import gaussian_radial_basis
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.systematic import ModelError
from nanopinn.physics.drug_pools import LINEAR_POOLS
from nanopinn.solvers.forward import ForwardModel

from .test_engines import small_problem


class Erring(ForwardModel):
    """Other equations: wall influx, or what release brings to free drug, off by a relative error
    ``(x, y, z)``.
    """

    def __init__(self, problem: InverseProblem, balance: str, e: torch.Tensor) -> None:
        super().__init__(problem.setting, problem.unknowns.scalars, course=problem.course)
        self.balance, self.e = balance, e

    def linearise_pools(self, kind, theta, flow, segment=None):
        pools, operator, tangents = super().linearise_pools(kind, theta, flow, segment)
        inflow, reaction = dict(operator.inflow), dict(operator.reaction)
        if (kind, self.balance) in (("contrast", "contrast"), ("drug", "encapsulated")):
            inflow[0, 0] = inflow[0, 0] * (1 + self.e)
        if (kind, self.balance) == ("drug", "free"):
            at = LINEAR_POOLS.pools.index("free"), LINEAR_POOLS.pools.index("encapsulated")
            reaction[at] = reaction[at] * (1 + self.e)
        return pools, replace(operator, reaction=reaction, inflow=inflow), tangents


@pytest.fixture(scope="module")
def erring() -> tuple[InverseProblem, np.ndarray]:
    problem, truth = small_problem()
    basis = torch.as_tensor(
        gaussian_radial_basis(
            problem.setting.maps.tumour.numpy() > 0.5, np.array(problem.setting.grid.spacing), 2e-3
        )
    )
    return replace(problem, model_error=ModelError(0.1 * basis, 0.1, 2e-3)), truth


@pytest.mark.parametrize(("balance", "first"), [("contrast", 0), ("encapsulated", 0), ("free", 1)])
def test_the_effect_equals_that_of_a_perturbation_of_the_equations(erring, balance, first) -> None:
    p, theta = erring
    fields = p.solve(theta, p.forward())
    on_contrast, on_drug = model_error.model_error_effects(p, theta, fields)
    k = len(p.model_error.basis)
    weights = torch.randn(k, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    other = p.solve(
        theta, Erring(p, balance, torch.einsum("k,kxyz->xyz", weights, p.model_error.basis))
    )
    if balance == "contrast":
        found, exact = (
            on_contrast @ weights,
            p.contrast.residual(other.contrast).reshape(-1)
            - p.contrast.residual(fields.contrast).reshape(-1),
        )
        limit = 1e-4  # the same steps
    else:
        found = on_drug[:, first * k : (first + 1) * k] @ weights
        exact = p.drug_misfit(other.pools) - p.drug_misfit(fields.pools)
        limit = (
            0.02  # about half as many steps, and release read along lines between those of the fit
        )
    assert float((found - exact).norm()) < limit * float(exact.norm())


def test_the_map_of_the_model_error_locates_a_wrong_equation(erring) -> None:
    p, theta = erring
    e = (
        0.15
        * torch.where(torch.arange(12) < 6, 1.0, -1.0)[:, None, None]
        * torch.ones(12, 12, 12, dtype=torch.float64)
    )
    e = torch.nn.functional.avg_pool3d(e[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    fields = p.solve(theta, p.forward())
    noise = torch.Generator().manual_seed(1)

    def seen(forward: ForwardModel) -> dict[str, model_error.ModelErrorMap]:
        pools = p.solve(theta, forward).pools
        drug = []
        for d in p.drug:
            image = d.predict(pools[p.node_index(d)], p.setting.maps, p.plasma_at(d.time_s))
            drug.append(
                replace(
                    d,
                    measured=image
                    + d.sd * torch.randn(image.shape, generator=noise, dtype=torch.float64),
                )
            )
        q = replace(p, drug=tuple(drug)).with_systematic_errors(theta, fields)
        return {m.balance: m for m in model_error.map_model_error(q, fields)}

    right, wrong = seen(p.forward()), seen(Erring(p, "encapsulated", e))
    inside = p.setting.maps.tumour > 0.5
    asked, sd = wrong["encapsulated"].relative[inside], wrong["encapsulated"].sd[inside]
    assert float(torch.corrcoef(torch.stack([asked, e[inside]]))[0, 1]) > 0.9
    # radial basis functions of 2 mm smooth the step in the middle: the size is what counts
    assert wrong["encapsulated"].size == pytest.approx(
        float(e[inside].square().mean().sqrt()), rel=0.3
    )
    assert right["encapsulated"].size < 0.3 * wrong["encapsulated"].size
    assert float(sd.max()) < 0.1 + 1e-9, "no wider than the prior"


def test_a_problem_without_model_error_has_no_map_of_it(erring) -> None:
    p, theta = erring
    fields = p.solve(theta, p.forward())
    q = model_error.without_model_error(p.with_systematic_errors(theta, fields))
    assert model_error.map_model_error(q, fields) == ()
    plain = replace(p, model_error=None).with_systematic_errors(theta, fields)
    torch.testing.assert_close(
        q.residual(fields.contrast, fields.pools), plain.residual(fields.contrast, fields.pools)
    )
