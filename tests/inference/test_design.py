"""Expected posteriors are those of linear Gaussian problems in closed form, and rankings those of
known best points.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanopinn.inference.uncertainty.design import ExperimentDesign, FisherInformation, gain_nats

G = torch.Generator().manual_seed(0)
PRIOR_SD = np.array([0.7, 1.0, 0.3])


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=G)


def closed_form(J: torch.Tensor, covariance: torch.Tensor) -> np.ndarray:
    """Posterior covariance of a linear problem with noise of a given covariance."""
    return np.linalg.inv((J.T @ torch.linalg.solve(covariance, J)).numpy() + np.diag(PRIOR_SD**-2))


def test_the_expected_posterior_of_two_images_is_that_of_their_joint_covariance() -> None:
    J, shared, own = draw(20, 3), draw(20, 2), (draw(12, 4), draw(8, 1))
    noise = (
        torch.eye(20, dtype=torch.float64)
        + shared @ shared.T
        + torch.block_diag(*(o @ o.T for o in own))
    )
    parts = [
        FisherInformation.from_jacobian(j, s, o)
        for j, s, o in zip(J.split([12, 8]), shared.split([12, 8]), own, strict=True)
    ]
    np.testing.assert_allclose(
        (parts[0] + parts[1]).covariance(PRIOR_SD), closed_form(J, noise), rtol=1e-10
    )


def test_an_error_that_images_share_is_not_averaged_out() -> None:
    alike = torch.ones((12, 3), dtype=torch.float64)
    once = FisherInformation.from_jacobian(alike, 1e3 * alike[:, :1], alike[:, :0])
    # the sum of the unknowns is seen through an error of 1e3: once or a hundred times, with
    # information 1e-6
    hundred = FisherInformation(100 * once.gram, 3)
    np.testing.assert_allclose(
        hundred.covariance(PRIOR_SD), np.diag(PRIOR_SD**2), rtol=1e-5, atol=1e-5
    )


def test_the_best_time_to_measure_a_decay_is_its_time_constant() -> None:
    k, times = (
        0.2,
        (1.0, 3.0, 5.0, 8.0, 15.0),
    )  # |d exp(-k t) / dk| = t exp(-k t) is largest at 1 / k = 5

    def at(t: float) -> FisherInformation:
        slope = torch.tensor([[-t * np.exp(-k * t) / 0.05]], dtype=torch.float64)
        return FisherInformation.from_jacobian(slope, slope[:, :0], slope[:, :0])

    design = ExperimentDesign(
        np.array([0.1]), FisherInformation(np.zeros((1, 1)), 1), tuple(at(t) for t in times)
    )
    gains = design.gains()
    assert times[int(gains.argmax())] == 5.0
    expected = [0.5 * np.log1p((0.1 * t * np.exp(-k * t) / 0.05) ** 2) for t in times]
    np.testing.assert_allclose(gains, expected, rtol=1e-10)
    assert design.gains((2,))[2] == 0.0


def test_a_redundant_image_ranks_below_a_less_precise_complementary_one() -> None:
    def of(a: float, b: float) -> FisherInformation:
        J = torch.tensor([[a, b]], dtype=torch.float64)
        return FisherInformation.from_jacobian(J, J[:, :0], J[:, :0])

    design = ExperimentDesign(np.ones(2), of(10.0, 0.0), (of(6.0, 0.0), of(0.0, 3.0)))
    assert design.gains()[1] > design.gains()[0]


def test_an_unknown_that_no_image_affects_does_not_change_the_gain() -> None:
    before, after = np.diag([1.0, 4.0]), np.diag([0.25, 1.0])
    moved = gain_nats(before, after)
    assert moved == pytest.approx(0.5 * np.log(16))
    assert gain_nats(np.diag([1.0, 4.0, 9.0]), np.diag([0.25, 1.0, 9.0])) == pytest.approx(moved)
