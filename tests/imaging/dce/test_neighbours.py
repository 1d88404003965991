"""The spatially regularised fit reduces noise in smooth tissue, preserves edges and states its
errors.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from nanopinn.imaging.dce.aif_population import POPULATION_CURVES
from nanopinn.imaging.dce.impulse_response import InputCurve, evaluate
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.dce.voxel_fit import fit_kinetics, fit_spatially_regularised
from nanopinn.imaging.least_squares import NormalPrior

pytestmark = pytest.mark.dce
FRAMES, SHAPE = np.arange(60) * 5.0, (14, 14, 6)
CURVE = InputCurve(
    POPULATION_CURVES["parker"].plasma(
        arrival_s=30.0, until_s=300.0, hematocrit=0.42, dose_mmol_per_kg=0.1
    ),
    FRAMES,
)
MODEL = MODELS["etofts"]
WHERE = np.argwhere(np.ones(SHAPE, dtype=bool))


def noisy(truth: np.ndarray, sd: float) -> torch.Tensor:
    clean = evaluate(MODEL, torch.as_tensor(truth), CURVE)[0]
    return clean + sd * torch.randn(
        clean.shape, dtype=clean.dtype, generator=torch.Generator().manual_seed(0)
    )


def smooth_tissue(width: float = 2.0) -> np.ndarray:
    """Random maps with a correlation of ``width`` voxels."""
    rng = np.random.default_rng(2)
    fields = [gaussian_filter(rng.standard_normal(SHAPE), width) for _ in range(3)]
    a, b, c = (f / f.std() for f in fields)
    maps = [0.2 * np.exp(0.3 * a) / 60, 0.3 + 0.06 * b, np.clip(0.05 + 0.012 * c, 0.005, 1)]
    return np.stack(maps, axis=-1).reshape(-1, 3)


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.05])
def test_regularisation_reduces_errors_in_smooth_tissue_and_states_them(sd: float) -> None:
    truth = smooth_tissue()
    C = noisy(truth, sd)
    alone, together = (
        fit_kinetics(MODEL, C, CURVE),
        fit_spatially_regularised(MODEL, C, CURVE, WHERE),
    )
    gain = [
        np.sqrt(np.mean((f.parameters.numpy() - truth) ** 2, axis=0)) for f in (alone, together)
    ]
    assert (gain[1] < gain[0]).all()
    if sd >= 0.05:
        assert (gain[1] < 0.7 * gain[0]).all()
    z = (together.parameters.numpy() - truth) / together.covariance.diagonal(
        dim1=1, dim2=2
    ).sqrt().numpy()
    # voxels that share noise with their neighbours are not independent draws: a tenth either way
    assert 0.85 < z.std() < 1.15


def test_regularisation_preserves_an_edge() -> None:
    truth = np.tile([0.1 / 60, 0.3, 0.04], (len(WHERE), 1))
    truth[WHERE[:, 0] >= 7, 0] = 0.4 / 60
    together = fit_spatially_regularised(MODEL, noisy(truth, 0.01), CURVE, WHERE)
    Ktrans = 60 * together.parameters[:, 0].numpy().reshape(SHAPE)
    assert np.abs(Ktrans[6].mean() - 0.1) < 0.02
    assert np.abs(Ktrans[7].mean() - 0.4) < 0.04


def test_a_corrupt_voxel_does_not_affect_its_neighbours() -> None:
    C = noisy(smooth_tissue(), 0.02)
    spoiled = C.clone()
    middle = int(np.flatnonzero((WHERE == [7, 7, 3]).all(axis=1))[0])
    spoiled[middle] = float("nan")
    clean, beside = (
        fit_spatially_regularised(MODEL, C, CURVE, WHERE),
        fit_spatially_regularised(MODEL, spoiled, CURVE, WHERE),
    )
    assert beside.parameters[middle].isnan().all()
    others = np.arange(len(C)) != middle
    # a missing neighbour tells nothing; the far field must not notice
    assert (beside.parameters[others] - clean.parameters[others]).abs().median() < 1e-5
    assert torch.isfinite(beside.parameters[others]).all()


def test_a_tight_prior_fixes_parameters_and_a_wide_one_does_nothing() -> None:
    truth = smooth_tissue()[:50]
    C = noisy(smooth_tissue(), 0.02)[:50]
    free = fit_kinetics(MODEL, C, CURVE)
    mean = torch.as_tensor(truth) * 1.2
    unit = torch.diag_embed(1 / mean.square())
    wide, tight = (
        fit_kinetics(MODEL, C, CURVE, prior=NormalPrior(mean, w * unit, free.residual_sd))
        for w in (1e-8, 1e10)
    )
    torch.testing.assert_close(wide.parameters, free.parameters, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(tight.parameters, mean, rtol=1e-3, atol=1e-7)
    assert (
        tight.covariance.diagonal(dim1=1, dim2=2) < wide.covariance.diagonal(dim1=1, dim2=2)
    ).all()


def test_an_empty_volume_is_not_an_error() -> None:
    empty = fit_spatially_regularised(
        MODEL,
        torch.zeros((0, len(FRAMES)), dtype=torch.float64),
        CURVE,
        np.zeros((0, 3), dtype=np.int64),
    )
    assert len(empty.parameters) == 0
