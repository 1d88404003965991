"""The kinetic fits against independent curves, Monte-Carlo scatter, and each other."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from nanopinn.imaging.dce.aif import load_aif
from nanopinn.imaging.dce.impulse_response import InputCurve, PlasmaCurve, evaluate
from nanopinn.imaging.dce.models import extended_tofts, tofts
from nanopinn.imaging.dce.voxel_fit import fit_kinetics

from ..conftest import HCT, tissue_curve

pytestmark = pytest.mark.dce

FRAMES = np.arange(60) * 5.0
MODELS = pytest.mark.parametrize("model", [tofts, extended_tofts], ids=["tofts", "extended_tofts"])


def parker_at(arrival: float = 30.0) -> PlasmaCurve:
    return load_aif("parker", frame_times_s=FRAMES, bolus_arrival_s=arrival, hematocrit=HCT).curve


def draw(n: int, seed: int = 0) -> np.ndarray:
    """Ktrans (1/min), ve, vp over the range of tumours."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [rng.uniform(0.05, 0.6, n), rng.uniform(0.1, 0.7, n), rng.uniform(0.0, 0.12, n)], axis=1
    )


@MODELS
def test_jacobian_equals_central_differences(model: ModuleType) -> None:
    curve = InputCurve(parker_at(), FRAMES)
    theta = torch.as_tensor(draw(50) / np.array([60.0, 1, 1]))[:, : len(model.NAMES)] + 1e-3
    J = evaluate(model, theta, curve)[1].transpose(1, 2)
    for i in range(theta.shape[1]):
        step = torch.zeros_like(theta)
        step[:, i] = 1e-5 * theta[:, i]
        difference = (
            evaluate(model, theta + step, curve)[0] - evaluate(model, theta - step, curve)[0]
        )
        difference = difference / (2 * step[:, i : i + 1])
        # the table is smooth to third order inside an interval; a step may cross into the next
        torch.testing.assert_close(
            J[..., i], difference, rtol=1e-5, atol=1e-6 * float(difference.abs().max())
        )


def test_parameters_of_independently_computed_curves_are_recovered() -> None:
    truth = draw(400)
    C = tissue_curve(*truth.T, FRAMES, 30.0).T
    fit = fit_kinetics(extended_tofts, torch.as_tensor(C.copy()), InputCurve(parker_at(), FRAMES))
    found = fit.parameters.numpy() * [60.0, 1, 1]
    # the reference steps 20 ms, the fit takes Parker's curve as straight over 90 ms: 1e-4 of the
    # peak each
    np.testing.assert_allclose(found, truth, rtol=2e-3, atol=2e-4)
    assert fit.converged.all()
    assert (fit.r2 > 1 - 1e-6).all()


def test_standard_deviations_equal_the_scatter_over_noise() -> None:
    truth = torch.tensor([[0.2 / 60, 0.35, 0.05]], dtype=torch.float64)
    curve = InputCurve(parker_at(), FRAMES)
    clean = evaluate(extended_tofts, truth, curve)[0]
    noise = torch.randn(
        4000, len(FRAMES), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    fit = fit_kinetics(extended_tofts, clean + 0.02 * noise, curve)
    stated = fit.covariance.mean(0).diagonal().sqrt()
    scatter = fit.parameters.std(0)
    # scatter over 4000 draws is known to 1/sqrt(8000) = 1.1 %; three of these and the curvature of
    # the model
    torch.testing.assert_close(stated, scatter, rtol=0.05, atol=0.0)
    bias = (fit.parameters.mean(0) - truth[0]).abs() / scatter
    assert (bias < 0.15).all()


def test_a_corrupt_curve_does_not_affect_others() -> None:
    curve = InputCurve(parker_at(), FRAMES)
    C = torch.as_tensor(tissue_curve(*draw(30).T, FRAMES, 30.0).T.copy())
    C = C + 0.02 * torch.randn(C.shape, dtype=C.dtype, generator=torch.Generator().manual_seed(2))
    spoiled = C.clone()
    spoiled[7, 3] = float("nan")
    spoiled[11] = float("inf")
    spoiled[13] = 0.0
    spoiled[17] = -5.0
    spoiled[19] = 1e12
    good = torch.tensor([i for i in range(30) if i not in (7, 11, 13, 17, 19)])
    alone, beside = (
        fit_kinetics(extended_tofts, C, curve),
        fit_kinetics(extended_tofts, spoiled, curve),
    )
    # batched linear algebra rounds by batch; nothing else may differ
    torch.testing.assert_close(
        beside.parameters[good], alone.parameters[good], rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(
        beside.covariance[good], alone.covariance[good], rtol=1e-6, atol=1e-14
    )
    assert beside.parameters[[7, 11]].isnan().all()
    assert not beside.converged[[7, 11]].any()


def test_the_chunk_size_does_not_change_the_fit() -> None:
    curve = InputCurve(parker_at(), FRAMES)
    C = torch.as_tensor(tissue_curve(*draw(50).T, FRAMES, 30.0).T.copy())
    whole, pieces = (fit_kinetics(extended_tofts, C, curve, chunk=n) for n in (64, 7))
    torch.testing.assert_close(whole.parameters, pieces.parameters, rtol=1e-9, atol=1e-12)


def test_a_fit_at_its_bounds_is_flagged() -> None:
    truth = np.array(
        [[0.2, 1.4, 0.05], [0.2, 0.3, -0.04], [7.0, 0.5, 0.0]]
    )  # ve > 1, vp < 0, Ktrans > 5/min
    C = torch.as_tensor(tissue_curve(*truth.T, FRAMES, 30.0).T.copy())
    fit = fit_kinetics(extended_tofts, C, InputCurve(parker_at(), FRAMES))
    assert fit.parameters[0, 1] == 1.0
    assert fit.at_bound[0].tolist() == [False, True, False]
    assert fit.parameters[1, 2] == 0.0
    assert fit.at_bound[1].tolist() == [False, False, True]
    assert fit.at_bound[2, 0]


@pytest.mark.public_data
def test_madyms_calibration_curve_is_fitted_within_madyms_own_tolerance(public_data: Path) -> None:
    """Upstream: fitted parameters within 10 %, C(t) from its own AIF sampled every 5 s, delay 0.1
    min.
    """
    series = json.loads((public_data / "madym_tumour" / "calibration_series.json").read_text())
    t = np.array(series["t_min"]) * 60
    Ktrans, ve, vp, delay = series["ETM"]["params"]
    aif = PlasmaCurve(t, np.array(series["aif_plasma_mM"])).delayed(delay * 60)
    C = torch.as_tensor(np.array([series["ETM"]["Ct"], series["ETM"]["Ct_noise_sd0.001"]]))
    found = fit_kinetics(extended_tofts, C, InputCurve(aif, t)).parameters.numpy() * [60.0, 1, 1]
    np.testing.assert_allclose(found, [[Ktrans, ve, vp]] * 2, rtol=0.1)
