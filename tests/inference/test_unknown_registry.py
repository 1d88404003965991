"""The registry defines an unknown once: labels, priors, phantoms and fits follow from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.unknowns import UnknownSet, scalar_unknowns
from nanopinn.parameters import (
    PARAMETERS,
    SCALARS,
    PhantomDistribution,
    Prior,
    ScalarDefinition,
    default_scalars,
    draw_phantom_scalars,
    value,
)

from .test_engines import small_problem

#: One definition: the diffusivity of the contrast agent over that of the table.
FACTOR = ScalarDefinition(
    name="D_Gd_factor",
    label="diffusivity of contrast agent over table",
    unit="1",
    per_unit=1.0,
    group="flow",
    multiplies="D_Gd",
    stated_default=3.0,
    stated_prior=Prior("lognormal", 1.0),
    phantom=PhantomDistribution(0.2, position=10),
)


def test_a_scalar_that_is_registered_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, _ = small_problem(n=10)
    monkeypatch.setitem(SCALARS, FACTOR.name, FACTOR)
    problem = replace(
        problem,
        unknowns=UnknownSet(scalar_unknowns()),
        drug=(),
        setting=replace(problem.setting, flow_refine=1),
    )
    fit = fit_fv(problem, iterations=6)
    found = fit.run[FACTOR.name]
    # the data were computed with the value of the table, a factor of 1
    assert found.label == FACTOR.label
    assert found.informed
    assert abs(np.log(found.median)) < 3 * found.sd + 0.1


def test_a_registered_scalar_is_drawn_after_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = draw_phantom_scalars(np.random.default_rng(3))
    monkeypatch.setitem(SCALARS, FACTOR.name, FACTOR)
    after = draw_phantom_scalars(np.random.default_rng(3))
    assert {name: after[name] for name in before} == before
    assert after[FACTOR.name] != FACTOR.stated_default


def test_defaults_and_priors_are_those_of_the_table() -> None:
    defaults = default_scalars()
    assert defaults["q"] == value("LpSV_t") * value("p_e")
    for u in scalar_unknowns():
        symbol = SCALARS[u.name].symbol
        assert symbol is not None
        assert u.prior_sd == PARAMETERS[symbol].prior.sd  # type: ignore[union-attr]
        if u.name != "q":
            assert u.prior_median == value(symbol)


def test_positions_of_the_random_numbers_are_unique() -> None:
    positions = [s.phantom.position for s in SCALARS.values() if s.phantom is not None]
    assert sorted(positions) == list(range(len(positions)))
