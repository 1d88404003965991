"""Several starting points: the lowest of several minima, and whether the start matters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.gauss_newton import minimise, step_below
from nanopinn.inference.multistart import fit_from_several_starts, prior_draws
from nanopinn.inference.problem import Objective, Prediction, Problem
from nanopinn.results import EngineRun

from .linear import Closed, gaussian, unknowns


@dataclass(frozen=True)
class Fitted:
    run: EngineRun
    theta: np.ndarray


def minimised(problem: Closed, at: np.ndarray) -> Fitted:
    objective = Objective(problem)
    found = minimise(
        lambda th: objective.quadratic(th, objective.expand(th)),
        objective.value,
        at,
        1.5 * objective.prior_sd,
        iterations=40,
        converged=step_below(1e-3),
        on_step=lambda *_: None,
    )
    run = EngineRun(
        engine="fv",
        scalars=(),
        covariance=found.quadratic.covariance,
        objective=found.history,
        chi2=found.quadratic.chi2,
        observations=1,
        seconds=0.0,
        converged=found.converged,
        message="converged",
    )
    return Fitted(run, found.theta)


#: |a| is nearly 1, so a is 1 or -1; its prior, about 0, and a little weight say -1.
TWO_MINIMA = Closed(
    unknowns("a"), lambda th: torch.stack([(th[0] ** 2 - 1) / 0.1, (th[0] + 1) / 1.5])
)


def test_the_lower_of_two_minima_is_returned_and_the_other_reported() -> None:
    found = fit_from_several_starts(
        partial(minimised, TWO_MINIMA), TWO_MINIMA.unknowns, np.array([1.2]), 8, seed=0
    )
    assert found.theta[0] == pytest.approx(-1, abs=0.02)
    assert "other minima" in found.run.message
    lowest = {
        side: min(s.objective for s in found.run.starts if round(float(s.end[0])) == side)
        for side in (-1, 1)
    }
    # the minimum on the right is higher by (2/1.5)^2/2
    assert lowest[1] - lowest[-1] == pytest.approx((2 / 1.5) ** 2 / 2, rel=0.05)


def test_all_starts_end_at_a_single_minimum() -> None:
    problem, mean, _ = gaussian()
    found = fit_from_several_starts(
        partial(minimised, problem), problem.unknowns, np.zeros(3), 5, seed=0
    )
    np.testing.assert_allclose(found.theta, mean, atol=1e-6)
    assert "5 of 5 starts converged, all to the same minimum" in found.run.message


def test_draws_of_the_prior_have_its_mean_and_sd_and_return_with_their_seed() -> None:
    set_of = unknowns("a", "b", sd=0.35)
    draws = np.stack(prior_draws(set_of, 4000, seed=1))
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=4 * 0.35 / 4000**0.5)
    np.testing.assert_allclose(draws.std(axis=0), 0.35, rtol=4 / 8000**0.5)
    np.testing.assert_array_equal(draws[:3], np.stack(prior_draws(set_of, 3, seed=1)))
    assert not np.array_equal(draws[0], prior_draws(set_of, 1, seed=2)[0])


def test_a_failed_start_is_reported_and_the_others_count() -> None:
    def sometimes(at: np.ndarray) -> Fitted:
        if at[0] > 0:
            raise InputError("a coefficient of the flow is not finite")
        return minimised(TWO_MINIMA, at)

    found = fit_from_several_starts(sometimes, TWO_MINIMA.unknowns, np.array([1.2]), 6, seed=0)
    assert "not finite" in found.run.starts[0].message
    assert found.theta[0] == pytest.approx(-1, abs=0.02)

    def never(at: np.ndarray) -> Fitted:
        raise InputError("a coefficient of the flow is not finite")

    with pytest.raises(InputError, match="not finite"):
        fit_from_several_starts(never, TWO_MINIMA.unknowns, np.array([1.2]), 3, seed=0)


@dataclass(frozen=True)
class Solved(Problem[None, torch.Tensor]):
    """The residual of a closed problem as the states of a problem for the engines."""

    closed: Closed

    @property
    def observations(self) -> int:
        return self.closed.observations

    def solver(self, before: None = None) -> None:
        return None

    def solve(self, theta: np.ndarray, solver: None, *, tangents: bool = False) -> object:
        return self.closed.predict(theta, None, tangents=tangents)

    def compare(self, states: object) -> Prediction:
        return Prediction(states, states.residual, states.jacobian)  # type: ignore[attr-defined]


def test_the_engine_starts_at_its_start_and_at_draws_and_returns_the_lowest() -> None:
    problem = Solved(TWO_MINIMA.unknowns, TWO_MINIMA)
    found = fit_fv(problem, np.array([1.2]), iterations=40, tolerance=1e-3, starts=6, seed=5)
    assert [float(s.start[0]) for s in found.run.starts] == [
        1.2,
        *(float(d[0]) for d in prior_draws(TWO_MINIMA.unknowns, 5, seed=5)),
    ]
    assert found.run.objective[-1] == min(s.objective for s in found.run.starts)
    alone = fit_fv(problem, np.array([1.2]), iterations=40, tolerance=1e-3)
    assert alone.run.starts == ()
    assert alone.theta[0] == pytest.approx(1, abs=0.05)
    assert found.theta[0] == pytest.approx(-1, abs=0.05)
