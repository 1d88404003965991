"""Derivatives of an evolution: Taylor remainders, and tangents equal to the adjoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from nanopinn.parameters import default_scalars, value
from nanopinn.physics.drug_pools import FULL_POOLS, drug_pools
from nanopinn.physics.formulation_library import PH_SENSITIVE
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.adjoint import gradient_by_adjoint
from nanopinn.solvers.derivatives import propagate_tangent, solve_adjoint
from nanopinn.solvers.drug_course import bolus_course
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.nonlinear_pools import EvolutionResult, Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval
from nanopinn.solvers.runge_kutta import SDIRK3
from nanopinn.verification.case import small_tissue

HOUR = 3600.0
SAVED = [0.3 * HOUR, HOUR, 5 * HOUR]


def intervals_of(release: torch.Tensor, uptake: float) -> list[Interval]:
    """An hour of heat and four without; plasma falls; free drug comes near what saturates its
    transporters.
    """
    setting, _, _ = small_tissue()
    none = torch.zeros(0, dtype=torch.float64)
    forward = ForwardModel(setting, lambda _: {})
    flow = forward.solve_flow(none)
    model: TumourModel = forward.model(none)

    def plasma(t: float) -> torch.Tensor:
        return torch.tensor(
            [2e-2 * np.exp(-t / 5000), 3e-4 * np.exp(-t / 3000)], dtype=torch.float64
        )

    out = []
    for start, end, rate in ((0.0, HOUR, release), (HOUR, 5 * HOUR, 1e-3 * release)):
        pools = drug_pools(model, flow.J_v, flow.J_L, FULL_POOLS, rate)
        pools = replace(
            pools, transfers=tuple(replace(k, uptake=uptake * k.uptake) for k in pools.transfers)
        )
        out.append(Interval.from_pools(start, end, pools, flow.flows, setting.grid, plasma))
    return out


@pytest.fixture(scope="module")
def case() -> tuple[EvolutionResult, list[Interval], Callable[[float], torch.Tensor], torch.Tensor]:
    """A run, the change of its coefficients along a direction, the run that far along it, and
    weights of a scalar.
    """
    g = torch.Generator().manual_seed(0)
    shape = small_tissue()[0].grid.shape
    release = 0.02 * (0.5 + torch.rand(shape, dtype=torch.float64, generator=g))
    direction = release * torch.randn(shape, dtype=torch.float64, generator=g)
    first = intervals_of(release, 1.0)
    start = torch.zeros_like(first[0].capacity)
    exact = Tolerance(step=3e-3, residual=1e-14)
    base = integrate_adaptive(first, start, SAVED, tolerance=exact, keep_stages=True)
    taken = [s.end for s in base.steps]

    def moved(e: float) -> torch.Tensor:
        return integrate_adaptive(
            intervals_of(release + e * direction, 1 + 0.5 * e),
            start,
            SAVED,
            tolerance=exact,
            nodes=taken,
        ).U

    changes = [
        difference(a, b) for a, b in zip(first, intervals_of(release + direction, 1.5), strict=True)
    ]
    return base, changes, moved, torch.randn(base.U.shape, dtype=torch.float64, generator=g)


def difference(a: Interval, b: Interval) -> Interval:
    """The change of coefficients from one interval to another; exact, because they are linear in
    what changed.
    """
    tensors = zip(a.operator.tensors(), b.operator.tensors(), strict=True)
    transfers = tuple(
        replace(k, uptake=m.uptake - k.uptake, efflux=0.0)
        for k, m in zip(a.transfers, b.transfers, strict=True)
    )
    return replace(
        a, operator=a.operator.with_tensors([n - o for o, n in tensors]), transfers=transfers
    )


def test_the_tangent_leaves_a_taylor_remainder_of_second_order(case) -> None:  # type: ignore[no-untyped-def]
    base, changes, moved, _ = case
    V = propagate_tangent(base, changes)
    remainders = [float((moved(e) - base.U - e * V).norm()) for e in (0.1, 0.05, 0.025)]
    rates = np.log2(np.array(remainders[:-1]) / remainders[1:])
    assert rates == pytest.approx([2.0, 2.0], abs=0.1)


def test_adjoint_and_tangent_agree_to_ten_digits(case) -> None:  # type: ignore[no-untyped-def]
    base, changes, _, weights = case
    forward = float((weights * propagate_tangent(base, changes)).sum())
    gradients, of_start = solve_adjoint(base, weights)
    backward = sum(g.dot(c) for g, c in zip(gradients, changes, strict=True))
    assert backward == pytest.approx(forward, rel=1e-10)
    zero = [
        replace(
            c, operator=c.operator.with_tensors([0 * t for t in c.operator.tensors()]), transfers=()
        )
        for c in changes
    ]
    begun = torch.randn(
        of_start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    assert float((of_start * begun).sum()) == pytest.approx(
        float((weights * propagate_tangent(base, zero, begun)).sum()), rel=1e-10
    )


def test_adjoint_and_tangent_agree_for_a_method_without_an_explicit_stage(case) -> None:  # type: ignore[no-untyped-def]
    base, changes, _, weights = case
    run = integrate_adaptive(
        base.intervals,
        torch.zeros_like(base.intervals[0].capacity),
        SAVED,
        tolerance=Tolerance(residual=1e-14),
        scheme=SDIRK3,
        nodes=[s.end for s in base.steps[::8]],
        keep_stages=True,
    )
    forward = float((weights * propagate_tangent(run, changes)).sum())
    gradients, _ = solve_adjoint(run, weights)
    backward = sum(g.dot(c) for g, c in zip(gradients, changes, strict=True))
    assert backward == pytest.approx(forward, rel=1e-10)


def test_derivatives_without_stored_stages_are_refused() -> None:
    first = intervals_of(0.01 * torch.ones(small_tissue()[0].grid.shape, dtype=torch.float64), 1.0)
    run = integrate_adaptive(
        first, torch.zeros_like(first[0].capacity), [HOUR], tolerance=Tolerance(step=0.1)
    )
    with pytest.raises(ValueError, match="keep_stages"):
        propagate_tangent(run, first)


def test_derivatives_without_stored_intervals_are_refused() -> None:
    first = intervals_of(0.01 * torch.ones(small_tissue()[0].grid.shape, dtype=torch.float64), 1.0)[
        :1
    ]
    run = integrate_adaptive(
        iter(first),
        torch.zeros_like(first[0].capacity),
        [HOUR],
        tolerance=Tolerance(step=0.1),
        keep_stages=True,
    )
    with pytest.raises(ValueError, match="sequence"):
        solve_adjoint(run, run.U)


def test_derivatives_of_a_limiter_are_refused() -> None:
    interval = intervals_of(
        0.01 * torch.ones(small_tissue()[0].grid.shape, dtype=torch.float64), 1.0
    )[0]
    limited = replace(interval, correction=torch.zeros_like)
    run = integrate_adaptive(
        [limited],
        torch.zeros_like(limited.capacity),
        [HOUR],
        tolerance=Tolerance(step=0.1),
        keep_stages=True,
    )
    with pytest.raises(ValueError, match="limiter"):
        propagate_tangent(run, [limited])


def test_the_gradient_of_scalars_equals_their_tangents() -> None:
    """From flow length, filtration, carrier permeability and release to drug after a day: one
    adjoint against four tangents.
    """
    setting, _, _ = small_tissue()
    names = ("l", "q", "PS_l", "krel_ref")
    theta = torch.zeros(len(names), dtype=torch.float64)
    base = {n: default_scalars()[n] for n in names}
    forward = ForwardModel(
        setting,
        lambda th: {n: base[n] * torch.exp(v) for n, v in zip(names, th, strict=True)},
        course=bolus_course(PH_SENSITIVE, value("Dose")),
    )
    flow = forward.solve_flow(theta, tangents=True)
    pools, operator, tangents = forward.linearise_pools("drug", theta, flow)

    def plasma(t: float) -> torch.Tensor:
        return torch.tensor([2e-2 * np.exp(-t / 5e4), 3e-4 * np.exp(-t / 3e4)], dtype=torch.float64)

    interval = Interval(0.0, 24 * HOUR, operator, pools.capacity, plasma)
    run = integrate_adaptive(
        [interval],
        0 * pools.capacity,
        [24 * HOUR],
        tolerance=Tolerance(step=1e-2, residual=1e-13),
        keep_stages=True,
    )
    weights = torch.randn(
        run.U.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    forwards = [
        float((weights * propagate_tangent(run, [replace(interval, operator=tangents[j])])).sum())
        for j in range(len(names))
    ]
    (grad_operator,), _ = solve_adjoint(run, weights)
    backward = gradient_by_adjoint(
        forward,
        theta,
        flow,
        {"drug": [grad_operator.operator]},
        drug_segments=forward.course.segments(24 * HOUR),
    )[0]
    assert backward.tolist() == pytest.approx(forwards, rel=1e-10)
