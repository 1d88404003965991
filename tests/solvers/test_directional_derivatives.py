"""Derivatives along directions, against forward mode."""

from __future__ import annotations

import torch
from torch import Tensor

from nanopinn.solvers.derivatives import directional_derivatives


def test_derivatives_equal_forward_mode_and_are_zero_for_constants() -> None:
    x, y = (
        torch.linspace(0.1, 1, 4, dtype=torch.float64),
        torch.linspace(1, 2, 6, dtype=torch.float64).reshape(2, 3),
    )
    fixed = torch.ones(5, dtype=torch.float64)

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (
            x.exp().sum() * y,
            torch.where(x > 0.5, x.square(), 0 * x),
            fixed,
            y[0].clamp_min(1.3),
        )

    generator = torch.Generator().manual_seed(0)
    directions = [
        torch.randn((3, *t.shape), dtype=torch.float64, generator=generator) for t in (x, y)
    ]
    found = directional_derivatives(function, (x, y), directions)
    for j in range(3):
        for mine, exact in zip(
            found, torch.func.jvp(function, (x, y), tuple(d[j] for d in directions))[1], strict=True
        ):
            torch.testing.assert_close(mine[j], exact, rtol=1e-14, atol=0)
    assert not found[2].any()


def test_a_function_that_ignores_its_arguments_has_derivative_zero() -> None:
    one = torch.ones(3, dtype=torch.float64)
    (alone,) = directional_derivatives(
        lambda x: 2 * one, (one,), (torch.eye(3, dtype=torch.float64),)
    )
    (partly,) = directional_derivatives(
        lambda x, y: 2 * y,
        (one, one),
        (torch.eye(3, dtype=torch.float64), 0 * torch.eye(3, dtype=torch.float64)),
    )
    (steps,) = directional_derivatives(torch.round, (one,), (torch.eye(3, dtype=torch.float64),))
    assert not steps.any()
    assert not alone.any()
    assert not partly.any()
    assert alone.shape == partly.shape == (3, 3)
