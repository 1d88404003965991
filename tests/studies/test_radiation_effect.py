"""Effect of radiation inferred from two scans: recovery of known effects and unchanged priors
elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import null_space
from scipy.stats import chi2

from nanopinn import FitSettings, ImagingInputs, PhantomSettings, make_phantom, run_fit
from nanopinn.errors import InputError
from nanopinn.inference.radiation_effect import (
    FACTOR_NAMES,
    FLOW_SENSITIVITY,
    PS_SENSITIVITY,
    RadiationEffect,
    ScanInformation,
    describe_radiation_effect,
    draw_radiation_effect,
    infer_radiation_effect,
    observable_combinations,
)
from nanopinn.inference.saved_fit import FittedProblem, save_fit
from nanopinn.inference.unknowns import UnknownSet, scalar_unknowns
from nanopinn.parameters import PARAMETERS, value
from nanopinn.physics.flow import exchange_coefficients
from nanopinn.physics.formulation_library import FREE
from nanopinn.physics.treatment import RADIATION_FACTOR_SYMBOLS, Fraction
from nanopinn.results import CheckResult, FitResult, MapEstimate
from nanopinn.studies.arms.draws import draw_inputs
from nanopinn.studies.arms.patient import Patient
from nanopinn.studies.arms.radiotherapy import estimate_radiation_effect

from .fitted import arm, ended

DAY = 86400.0
UNKNOWNS = UnknownSet(scalar_unknowns())
FLOW_PRIOR = (UNKNOWNS.prior_mean[:2], UNKNOWNS.prior_sd[:2])
PRIOR_MEAN = np.log([value(s) for s in RADIATION_FACTOR_SYMBOLS.values()])
PRIOR_SD = np.array([PARAMETERS[s].prior.sd for s in RADIATION_FACTOR_SYMBOLS.values()])  # type: ignore[union-attr]
#: Everything that images see of the logarithms: ln l, ln q and ln PS.
ROWS = np.vstack([FLOW_SENSITIVITY, PS_SENSITIVITY])
FRACTION = (Fraction(0.0, 5.0),)


#: Derivatives of ln PS by (ln l, ln q) before and after: what solvent drag takes of Ktrans.
DRAG = np.array([[-0.3, -0.25], [-0.1, -0.4]])


def found(
    x: np.ndarray, sd: float, rng: np.random.Generator | None = None, t: float = DAY
) -> RadiationEffect:
    """What scans at 0 and t say of logarithms x (at the peak, which is a day after), each number
    with an error.

    Ktrans is measured, and PS is read from it by the estimate of the flow, errors and all.
    """
    s = t / DAY * np.exp(1 - t / DAY)
    flow = FLOW_PRIOR[0] + (0.0 if rng is None else FLOW_PRIOR[1] * rng.standard_normal(2))
    noise = np.zeros((2, 3)) if rng is None else sd * rng.standard_normal((2, 3))
    truths = np.append(flow, 0.0), np.append(flow, 0.0) + s * ROWS @ x
    scans = []
    for truth, error, drag in zip(truths, noise, DRAG, strict=True):
        at = truth[:2] + error[:2]
        scans.append(
            ScanInformation(
                np.eye(2) / sd**2, at / sd**2, at, truth[2] + error[2] + drag @ error[:2], sd, drag
            )
        )
    return infer_radiation_effect(scans[0], scans[1], FRACTION, t, FLOW_PRIOR)


X = np.array([-0.5, 0.4, -0.3, 0.6, -0.2])


@pytest.mark.parametrize("t", [0.3 * DAY, DAY, 3 * DAY])
def test_observable_combinations_are_recovered(t: float) -> None:
    effect = found(X, 1e-4, t=t)
    np.testing.assert_allclose(ROWS @ effect.mean, ROWS @ X, atol=1e-5)
    assert all(contraction > 0.99 for _, _, contraction in observable_combinations(effect).values())


def test_unobservable_combinations_have_their_prior() -> None:
    """Combinations that the prior holds independent of what is seen: their mean and spread do not
    move at all.
    """
    effect = found(X, 1e-2)
    unseen = null_space(ROWS * PRIOR_SD**2).T
    assert len(unseen) == 2
    np.testing.assert_allclose(unseen @ effect.mean, unseen @ PRIOR_MEAN, atol=1e-9)
    np.testing.assert_allclose(
        unseen @ effect.covariance @ unseen.T, unseen @ np.diag(PRIOR_SD**2) @ unseen.T, atol=1e-9
    )


def test_uninformative_scans_leave_every_prior_unchanged() -> None:
    effect = found(X, 1e4)
    np.testing.assert_allclose(effect.mean, PRIOR_MEAN, atol=1e-6)
    np.testing.assert_allclose(effect.sd, PRIOR_SD, rtol=1e-6)
    assert "single factors: none. They inform the combinations: none" in (
        describe_radiation_effect(effect)
    )


def test_posteriors_have_their_nominal_coverage() -> None:
    rng, n = np.random.default_rng(0), 400
    misfits = []
    for _ in range(n):
        x = PRIOR_MEAN + PRIOR_SD * rng.standard_normal(5)
        effect = found(x, 0.15, rng)
        off = x - effect.mean
        misfits.append(off @ np.linalg.solve(effect.covariance, off))
    # a sum of n chi-squares of 5 degrees of freedom
    assert chi2(5 * n).ppf(0.001) < sum(misfits) < chi2(5 * n).ppf(0.999)


def test_a_scan_far_from_the_peak_is_less_informative() -> None:
    near, early, late = (found(X, 0.1, t=t).sd for t in (DAY, 0.05 * DAY, 8 * DAY))
    assert np.all(near <= early + 1e-12)
    assert np.all(near <= late + 1e-12)
    assert np.sum(early - near) > 0.1


def test_draws_of_the_effect_have_its_mean_and_covariance() -> None:
    effect, rng = found(X, 0.1), np.random.default_rng(0)
    n = 4000
    drawn = draw_radiation_effect(
        effect, rng.standard_normal((n, 5)), np.full(n, value("RT_t_peak"))
    )
    sd = effect.sd
    assert np.all(np.abs(drawn.mean(0) - effect.mean) < 4 * sd / n**0.5)
    assert np.all(
        np.abs(np.cov(drawn.T) - effect.covariance) < 4 * 2**0.5 * np.outer(sd, sd) / n**0.5
    )


def write_saved_fit(
    folder: Path, moved: np.ndarray, PS: float, sd: float = 0.02, misread: float = 0.0
) -> Path:
    """Write a fit of images whose Ktrans map is exact and whose estimate of the flow has an error.

    Args:
        folder: where the fit is saved.
        moved: distance of the true (ln l, ln q) from the prior means.
        PS: factor on the permeability-surface product.
        sd: of the images' estimate of ln l and ln q.
        misread: error of ln q in the images' estimate.
    """
    end, _, mask = ended()
    m, n = len(end.theta), len(UNKNOWNS)
    information = np.diag(1 / end.problem.unknowns.prior_sd**2)
    information[:2, :2] += np.eye(2) / sd**2
    covariance, theta = np.linalg.inv(information), np.append(UNKNOWNS.prior_mean, np.zeros(m - n))
    true, seen = theta.copy(), np.append(moved, np.zeros(m - 2))
    true[:2] += moved
    seen[1] += misread
    theta = theta + covariance @ (seen / sd**2)
    J_v = end.problem.forward().solve_flow(end.problem.tensor(true)).J_v
    Ktrans = exchange_coefficients(PS * end.problem.setting.maps.PS, J_v, 0.0)[0]
    problem = replace(
        end.problem, local_kinetics=torch.stack([Ktrans, *end.problem.local_kinetics[1:]])
    )
    read = np.where(mask, 0.1, np.nan)
    fit = FitResult(
        scalars=UNKNOWNS.estimates(theta, covariance),
        covariance=covariance,
        runs={},
        engine_distance={},
        check=CheckResult(()),
        maps={"Ktrans": MapEstimate("Ktrans", "1/min", "", "images", read, 0.03 * read)},
        fields={},
        curves=(),
        assumptions=(),
        affine=np.eye(4),
        mask=mask,
        fitted_problem=FittedProblem(problem, theta),
    )
    folder.mkdir()
    save_fit(fit, folder / "fit.safetensors")
    return folder


def test_a_fits_own_prior_is_divided_out(tmp_path: Path) -> None:
    """Far from their prior and with a broad likelihood, fits are drawn to it; what the images said
    is not.
    """
    flow = FLOW_SENSITIVITY @ X
    start = np.array([0.5, -1.0])
    a = write_saved_fit(tmp_path / "before", start, 1.0, sd=0.3)
    b = write_saved_fit(tmp_path / "after", start + flow, 2.0, sd=0.3)
    effect = estimate_radiation_effect(a, b, scan_h=24.0)
    np.testing.assert_allclose(effect.before.information, np.eye(2) / 0.09, atol=1e-9)
    np.testing.assert_allclose(effect.before.vector, (FLOW_PRIOR[0] + start) / 0.09, atol=1e-8)
    np.testing.assert_allclose(
        effect.after.vector, (FLOW_PRIOR[0] + start + flow) / 0.09, atol=1e-8
    )
    assert effect.before.PS_sd == pytest.approx(0.03 / ended()[2].sum() ** 0.5)


def test_solvent_drag_is_not_attributed_to_permeability(tmp_path: Path) -> None:
    """Less filtration lowers Ktrans at the same walls: the walls' ratio is found all the same, and
    its error holds the flow's.
    """
    calm, fast = np.zeros(2), np.array([0.0, 1.5])
    a, b = (
        write_saved_fit(tmp_path / "fast", fast, 1.0),
        write_saved_fit(tmp_path / "calm", calm, 1.3),
    )
    effect = estimate_radiation_effect(a, b, scan_h=24.0)
    ratio, sd, _ = observable_combinations(effect)["P SV (Ktrans)"]
    assert effect.before.drag[1] < -0.1
    assert ratio == pytest.approx(np.log(1.3), abs=0.02)
    # scans that know the flow less know the walls less
    c, d = (
        write_saved_fit(tmp_path / "fast 2", fast, 1.0, sd=0.3),
        write_saved_fit(tmp_path / "calm 2", calm, 1.3, sd=0.3, misread=0.4),
    )
    unsure = observable_combinations(estimate_radiation_effect(c, d, scan_h=24.0))["P SV (Ktrans)"]
    assert unsure[1] > 3 * sd
    assert abs(unsure[0] - np.log(1.3)) < 2 * unsure[1]


def test_two_result_folders_give_the_effect_with_its_caveat(tmp_path: Path) -> None:
    a = write_saved_fit(tmp_path / "before", np.zeros(2), 1.0)
    b = write_saved_fit(tmp_path / "after", FLOW_SENSITIVITY @ X, np.exp(PS_SENSITIVITY @ X))
    effect = estimate_radiation_effect(a, b, scan_h=24.0)
    for name, (mean, sd, _) in observable_combinations(effect).items():
        row = {"P SV (Ktrans)": PS_SENSITIVITY, "Lp SV p_e (q)": FLOW_SENSITIVITY[1]}.get(
            name, 2 * FLOW_SENSITIVITY[0]
        )
        assert abs(mean - row @ X) < 3 * sd, name
        assert sd < 0.1
    assert "inconsistent in the literature" in describe_radiation_effect(effect)
    assert "arterial inputs" in describe_radiation_effect(effect)
    known = estimate_radiation_effect(a, b, scan_h=24.0, shared_sd=0.2)
    assert observable_combinations(known)["P SV (Ktrans)"][1] == pytest.approx(
        0.2 * 2**0.5, rel=0.15
    )
    assert "arterial inputs" not in describe_radiation_effect(known)


def test_draws_of_a_treatment_use_the_inferred_effect(tmp_path: Path) -> None:
    a = write_saved_fit(tmp_path / "before", np.zeros(2), 1.0)
    b = write_saved_fit(tmp_path / "after", FLOW_SENSITIVITY @ X, np.exp(PS_SENSITIVITY @ X))
    effect = estimate_radiation_effect(a, b, scan_h=24.0)
    end, covariance, mask = ended()
    patient = Patient.from_fitted_problem(end, covariance, mask, np.eye(4) * 0.5)
    arms = (arm(FREE, FRACTION),)
    plain = draw_inputs(patient, arms, 400, seed=0)
    drawn = draw_inputs(patient, arms, 400, seed=0, radiation=effect)
    seen = np.log(drawn.values["RT_P"] * drawn.values["RT_SV"])
    near = np.abs(np.log(drawn.values["RT_t_peak"] / DAY)) < 0.3
    # Ktrans at the second scan is known whenever the peak is; at a peak near a day it stands for
    # the peak
    assert seen[near].std() < 0.2 * np.log(plain.values["RT_P"] * plain.values["RT_SV"]).std()
    assert seen[0] == pytest.approx(effect.mean @ PS_SENSITIVITY)
    np.testing.assert_array_equal(drawn.values["RT_t_peak"], plain.values["RT_t_peak"])
    assert any("inconsistent" in s for s in drawn.assumptions)


@pytest.mark.slow
def test_the_effect_on_a_phantom_is_found_from_its_images(tmp_path: Path) -> None:
    """Two noisy scans of one tumour, the second with factors put into its truth, each fitted by
    itself.
    """
    factors = {"p_e": 0.6, "Lp": 0.8, "K": 1.5, "P": 1.6, "SV": 0.8}
    for name, changed in (("before", {}), ("after", factors)):
        given = PhantomSettings(
            shape=(16, 16, 10), refine=2, seed=3, drug_times_h=(2.0,), factors=changed
        )  # type: ignore[arg-type]
        study = make_phantom(tmp_path / f"{name} study", given)
        files = {
            key: study / f"{file}.nii.gz"
            for key, file in (("dce", "dce"), ("cest", "ph"), ("mask", "mask"))
        }
        drug = tuple(str(p) for p in study.glob("drug_*.nii.gz"))
        inputs = ImagingInputs(**files, vfa=tuple(sorted(study.glob("vfa_*.nii.gz"))))  # type: ignore[arg-type]
        fit = run_fit(inputs, FitSettings(engine="fv", preset="fast", device="cpu", drug=drug)).fit
        (tmp_path / name).mkdir()
        save_fit(fit, tmp_path / name)
    seen = observable_combinations(
        estimate_radiation_effect(tmp_path / "before", tmp_path / "after", scan_h=24.0)
    )
    truth = dict(zip(FACTOR_NAMES, np.log([factors[n] for n in FACTOR_NAMES]), strict=True))
    x = np.array([truth[n] for n in FACTOR_NAMES])
    for (name, (mean, sd, _)), row in zip(
        seen.items(), (PS_SENSITIVITY, FLOW_SENSITIVITY[1], 2 * FLOW_SENSITIVITY[0]), strict=True
    ):
        assert abs(mean - row @ x) < 2.6 * sd, name
    assert seen["P SV (Ktrans)"][0] == pytest.approx(PS_SENSITIVITY @ x, abs=0.1)
    # 0.91 if the constants of plasma, tissue and cells were known; their errors are eliminated
    assert seen["P SV (Ktrans)"][2] > 0.88


def test_scans_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    a = write_saved_fit(tmp_path / "before", np.zeros(2), 1.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a result folder"):
        estimate_radiation_effect(a, tmp_path / "empty", scan_h=24.0)
    with pytest.raises(InputError, match="same"):
        estimate_radiation_effect(a, tmp_path / "." / "before", scan_h=24.0)
    b = write_saved_fit(tmp_path / "after", np.zeros(2), 1.0)
    with pytest.raises(InputError, match="after"):
        estimate_radiation_effect(a, b, scan_h=0.0)
    with pytest.raises(InputError, match="negative"):
        estimate_radiation_effect(a, b, scan_h=24.0, shared_sd=-0.1)


def test_the_order_of_factors_is_that_of_the_table() -> None:
    assert FACTOR_NAMES == tuple(RADIATION_FACTOR_SYMBOLS) == ("p_e", "Lp", "K", "P", "SV")
