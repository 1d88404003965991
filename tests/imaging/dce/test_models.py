"""Kinetic models against an ODE solver, another package, and their limiting cases."""

from __future__ import annotations

import dcmri
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nanopinn.imaging.dce.aif_population import POPULATION_CURVES
from nanopinn.imaging.dce.impulse_response import InputCurve, PlasmaCurve, evaluate
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.dce.voxel_fit import fit_kinetics

pytestmark = pytest.mark.dce
FRAMES = np.arange(60) * 5.0
AIF = POPULATION_CURVES["parker"].plasma(
    arrival_s=30.0, until_s=300.0, hematocrit=0.42, dose_mmol_per_kg=0.1
)
TYPICAL = {
    "Ktrans": (0.05 / 60, 0.5 / 60),
    "ve": (0.1, 0.6),
    "vp": (0.02, 0.15),
    "Fp": (0.2 / 60, 1.0 / 60),
    "PS": (0.02 / 60, 0.3 / 60),
}
EVERY = pytest.mark.parametrize("name", list(MODELS))


def draw(name: str, n: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.as_tensor(
        np.stack([rng.uniform(*TYPICAL[p], n) for p in MODELS[name].NAMES], axis=1)
    )


def two_compartments(Fp: float, PS: float, ve: float, vp: float) -> np.ndarray:
    """vp Cc + ve Ce by an adaptive ODE solver that stops at every node of the input."""
    plasma = lambda t: np.interp(t, AIF.times_s, AIF.plasma_mM, left=0.0)  # noqa: E731

    def rate(t: float, c: np.ndarray) -> list[float]:
        return [(Fp * (plasma(t) - c[0]) - PS * (c[0] - c[1])) / vp, PS * (c[0] - c[1]) / ve]

    out = solve_ivp(
        rate, (0, FRAMES[-1]), [0, 0], t_eval=FRAMES, rtol=1e-9, atol=1e-12, max_step=0.25
    )
    return vp * out.y[0] + ve * out.y[1]


def test_two_compartment_exchange_solves_its_differential_equations() -> None:
    for parameters in draw("2cxm", 4):
        found = evaluate(MODELS["2cxm"], parameters[None], InputCurve(AIF, FRAMES))[0][0].numpy()
        # the solver's steps straddle the nodes of the input
        np.testing.assert_allclose(found, two_compartments(*parameters.tolist()), atol=2e-6)


def test_uptake_is_exchange_with_an_infinite_extravascular_space() -> None:
    for Fp, PS, vp in draw("2cum", 4).tolist():
        found = evaluate(
            MODELS["2cum"],
            torch.tensor([[Fp, PS, vp]], dtype=torch.float64),
            InputCurve(AIF, FRAMES),
        )[0][0].numpy()
        np.testing.assert_allclose(found, two_compartments(Fp, PS, 1e7, vp), atol=2e-6)


def test_with_fast_flow_exchange_becomes_extended_tofts_and_uptake_becomes_patlak() -> None:
    # no frame on the arrival itself, where the input jumps
    curve, PS, ve, vp = InputCurve(AIF, FRAMES + 1.7), 0.2 / 60, 0.3, 0.05
    fast = [
        evaluate(MODELS["2cxm"], torch.tensor([[F, PS, ve, vp]], dtype=torch.float64), curve)[0]
        for F in (2.0, 4.0)
    ]
    limit = evaluate(MODELS["etofts"], torch.tensor([[PS, ve, vp]], dtype=torch.float64), curve)[0]
    gaps = [(f - limit).abs().max() for f in fast]
    assert gaps[1] < 0.55 * gaps[0]  # first order in 1/Fp
    assert gaps[1] < 0.02 * limit.max()
    uptake = evaluate(MODELS["2cum"], torch.tensor([[4.0, PS, vp]], dtype=torch.float64), curve)[0]
    patlak = evaluate(MODELS["patlak"], torch.tensor([[PS, vp]], dtype=torch.float64), curve)[0]
    assert (uptake - patlak).abs().max() < 0.02 * patlak.max()


@pytest.mark.parametrize(
    ("name", "theirs"), [("2cxm", "2CX"), ("2cum", "2CU"), ("etofts", "HF"), ("patlak", "HFU")]
)
def test_curves_equal_those_of_dcmri(name: str, theirs: str) -> None:
    """dcmri convolves by its own code on the grid it is given, here 0.05 s."""
    Hct = 0.42
    for row in draw(name, 3, seed=4).tolist():
        p = dict(zip(MODELS[name].NAMES, row, strict=True))
        fine = np.arange(0, 300.01, 0.05)
        plasma = np.interp(fine, AIF.times_s, AIF.plasma_mM, left=0.0)
        given = {"vb": p["vp"] / (1 - Hct), "H": Hct, "PS": p.get("PS", p.get("Ktrans"))}
        given |= {"vi": p["ve"]} if "ve" in p else {}
        given |= {"Fb": p["Fp"] / (1 - Hct)} if "Fp" in p else {}
        reference = dcmri.conc_tissue(
            plasma * (1 - Hct), t=fine, kinetics=theirs, sum=True, **given
        )
        found = evaluate(
            MODELS[name], torch.tensor([row], dtype=torch.float64), InputCurve(AIF, FRAMES)
        )[0][0].numpy()
        np.testing.assert_allclose(
            found, np.interp(FRAMES, fine, reference), atol=2e-3 * found.max()
        )


@EVERY
@pytest.mark.parametrize("late", [False, True])
def test_jacobians_equal_central_differences(name: str, late: bool) -> None:
    model, curve = MODELS[name], InputCurve(AIF, FRAMES)
    theta = draw(name, 40)
    if late:  # away from the nodes, where the slope of the input jumps
        theta = torch.cat([theta, torch.full((40, 1), 3.217, dtype=torch.float64)], dim=1)
    _, J = evaluate(model, theta, curve, with_delay=late)
    for i in range(theta.shape[1]):
        step = torch.zeros_like(theta)
        step[:, i] = 1e-5 * theta[:, i]
        up, down = (evaluate(model, theta + s, curve, with_delay=late)[0] for s in (step, -step))
        difference = (up - down) / (2 * step[:, i : i + 1])
        # Hermite tables: a step may cross from one interval into the next
        torch.testing.assert_close(
            J[:, i], difference, rtol=1e-3, atol=1e-5 * float(difference.abs().max())
        )


@EVERY
def test_a_delay_of_every_voxel_equals_a_shifted_input(name: str) -> None:
    theta, curve = draw(name, 5), InputCurve(AIF, FRAMES)
    for shift in (-7.3, 0.0, 4.1):
        late = torch.cat([theta, torch.full((5, 1), shift, dtype=torch.float64)], dim=1)
        apart = evaluate(MODELS[name], late, curve, with_delay=True)[0]
        together = evaluate(MODELS[name], theta, curve.shifted(shift))[0]
        torch.testing.assert_close(apart, together, rtol=1e-6, atol=1e-7 * float(together.max()))


@EVERY
def test_parameters_and_delays_of_noise_free_curves_are_recovered(name: str) -> None:
    truth = draw(name, 60, seed=2)
    delays = torch.as_tensor(np.random.default_rng(3).uniform(-6, 6, (60, 1)))
    curve = InputCurve(AIF, FRAMES)
    C = evaluate(MODELS[name], torch.cat([truth, delays], dim=1), curve, with_delay=True)[0]
    fit = fit_kinetics(MODELS[name], C, curve, delay_window_s=10.0)
    error = (fit.parameters[:, :-1] / truth - 1).abs().amax(1)
    # 5 s frames: the plasma's few seconds of transit make two of sixty 2CXM voxels find another way
    # through the bolus
    assert (error < 1e-3).double().mean() >= 0.95
    assert ((fit.parameters[:, -1:] - delays).abs() < 0.02).double().mean() >= 0.95


def test_the_derived_ktrans_is_flow_times_extraction_with_its_error() -> None:
    model = MODELS["2cxm"]
    theta = draw("2cxm", 20)
    value, J = model.derived(theta)
    Fp, PS = theta[:, 0], theta[:, 1]
    torch.testing.assert_close(value[:, 0], Fp * PS / (Fp + PS))
    for i in range(4):
        step = torch.zeros_like(theta)
        step[:, i] = 1e-6 * theta[:, i]
        difference = (model.derived(theta + step)[0] - model.derived(theta - step)[0])[:, 0] / (
            2 * step[:, i]
        )
        torch.testing.assert_close(J[:, 0, i], difference, rtol=1e-6, atol=1e-9)


def test_aicc_chooses_the_model_that_made_the_curve() -> None:
    curve = InputCurve(AIF, FRAMES)
    generator = torch.Generator().manual_seed(0)
    for truth in ("patlak", "etofts", "2cxm"):
        C = evaluate(MODELS[truth], draw(truth, 100, seed=5), curve)[0]
        C = C + 0.003 * torch.randn(C.shape, dtype=C.dtype, generator=generator)
        scores = {name: fit_kinetics(model, C, curve).aicc for name, model in MODELS.items()}
        chosen = torch.stack(list(scores.values())).argmin(0)
        share = (chosen == list(scores).index(truth)).double().mean()
        # AICc pays for truth with a penalty: a richer model of the same family wins in a tenth or
        # so of voxels
        assert share > 0.75, (truth, float(share))


def test_a_dispersed_input_is_the_mixing_chamber_of_the_uptake_model() -> None:
    """A tissue that is plasma alone, behind a chamber of mean transit time T, holds vp times the
    dispersed curve.
    """
    T, vp = 6.0, 0.1
    dispersed = InputCurve(AIF.dispersed(T), FRAMES).at_frames.plasma
    chamber = evaluate(
        MODELS["2cum"],
        torch.tensor([[vp / T, 0.0, vp]], dtype=torch.float64),
        InputCurve(AIF, FRAMES),
    )[0]
    # the dispersed curve is straight between nodes a twentieth of T apart
    torch.testing.assert_close(vp * dispersed, chamber, rtol=3e-4, atol=1e-6)


def test_a_constant_input_between_two_nodes_needs_no_grid() -> None:
    step = PlasmaCurve(np.array([0.0, 1e-9, 1000.0]), np.array([0.0, 2.0, 2.0]))
    K, ve = 0.3 / 60, 0.4
    C = evaluate(
        MODELS["tofts"], torch.tensor([[K, ve]], dtype=torch.float64), InputCurve(step, FRAMES)
    )[0][0].numpy()
    np.testing.assert_allclose(C, 2.0 * ve * (1 - np.exp(-K / ve * FRAMES)), atol=1e-7)
