"""The tumour of a fit with its posterior, joint draws of all inputs, and the filtration of
clusters.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nanopinn import PhantomSettings
from nanopinn.errors import InputError
from nanopinn.inference.saved_fit import save_fit
from nanopinn.parameters import PARAMETERS, value
from nanopinn.physics.formulation_library import FREE, PEGYLATED, PH_SENSITIVE, THERMOSENSITIVE
from nanopinn.physics.treatment import Fraction
from nanopinn.results import CheckResult, FitResult
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.studies.arms.draws import InputDraws, draw_inputs
from nanopinn.studies.arms.microscale import cluster_flow, cluster_tumour_voxels
from nanopinn.studies.arms.patient import Patient
from nanopinn.studies.simulation_parameters import CONVENTIONS

from .fitted import arm, ended

ARMS = (arm(FREE), arm(PEGYLATED), arm(THERMOSENSITIVE))


@pytest.fixture(scope="module")
def patient() -> Patient:
    end, covariance, mask = ended()
    return Patient.from_fitted_problem(end, covariance, mask, np.diag([0.5, 0.5, 0.5, 1.0]))


@pytest.fixture(scope="module")
def draws(patient: Patient) -> InputDraws:
    return draw_inputs(patient, ARMS, 60, seed=3)


def saved(folder: Path) -> Path:
    end, covariance, mask = ended()
    scalars = end.problem.unknowns.estimates(end.theta, covariance)
    fit = FitResult(
        scalars=scalars,
        covariance=covariance,
        runs={},
        engine_distance={},
        check=CheckResult(()),
        maps={},
        fields={},
        curves=(),
        assumptions=(),
        affine=np.diag([0.5, 0.5, 0.5, 1.0]),
        mask=mask,
        fitted_problem=end,
    )
    save_fit(fit, folder / "fit.safetensors")
    return folder


def test_a_patient_of_a_folder_has_the_tissue_and_posterior_of_the_fit(tmp_path: Path) -> None:
    end, covariance, _ = ended()
    found = Patient.from_result_folder(saved(tmp_path))
    torch.testing.assert_close(found.tissue.maps.PS, end.problem.setting.maps.PS, rtol=0, atol=0)
    torch.testing.assert_close(
        found.tissue.maps.shapes["filtration"],
        end.problem.setting.maps.shapes["filtration"],
        rtol=0,
        atol=0,
    )
    assert found.names == end.problem.unknowns.names
    np.testing.assert_array_equal(found.mean, end.theta)
    np.testing.assert_array_equal(found.covariance, covariance)
    assert found.tissue.scalars["l"] == pytest.approx(np.exp(end.theta[0]), rel=1e-12)
    # image and box fit together: what is put back lies in the mask
    np.testing.assert_array_equal(
        found.tissue.domain.embed(found.tissue.maps.tumour.numpy(), 0.0) > 0.5, found.tissue.mask
    )


@pytest.mark.parametrize(("content", "word"), [(None, "posterior"), (b"spoiled", "cannot be read")])
def test_a_folder_without_posterior_is_refused_with_a_remedy(
    tmp_path: Path, content: bytes | None, word: str
) -> None:
    (tmp_path / "maps").mkdir()
    if content is not None:
        (tmp_path / "fit.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=word) as error:
        Patient.from_result_folder(tmp_path)
    assert "fit" in (error.value.remedy or "").lower()
    with pytest.raises(InputError, match="not a result folder"):
        Patient.from_result_folder(tmp_path / "nowhere")


def test_a_mask_of_another_tumour_is_refused() -> None:
    end, covariance, mask = ended()
    with pytest.raises(InputError, match="mask"):
        Patient.from_fitted_problem(end, covariance, np.roll(mask, 1, axis=0)[:, :, ::2], np.eye(4))
    with pytest.raises(InputError, match="covariance"):
        Patient.from_fitted_problem(end, covariance[:-1, :-1], mask, np.eye(4))


def test_the_first_row_is_the_median_of_everything(patient: Patient, draws: InputDraws) -> None:
    for name, v in patient.tissue.scalars.items():
        assert draws.scalars[name][0] == pytest.approx(v, rel=1e-12)
    for symbol, values in draws.values.items():
        assert values[0] == pytest.approx(value(symbol), rel=1e-9), symbol


def test_draws_have_the_mean_and_covariance_of_the_posterior(patient: Patient) -> None:
    n = 20_000
    many = draw_inputs(patient, ARMS, n, seed=0)
    logs = np.stack(
        [
            np.log(many.scalars["l"]),
            np.log(many.scalars["q"]),
            many.scalars["pK_rel"],
            many.scalars["filtration"][:, 0],
        ]
    )[:, 1:]
    at = [patient.names.index(name) for name in ("l", "q", "pK_rel", "filtration[0]")]
    expected = patient.covariance[np.ix_(at, at)]
    sd = np.sqrt(np.diag(expected))
    # standard errors of means, variances and covariances of n normal draws
    assert np.all(np.abs(logs.mean(1) - patient.mean[at]) < 4 * sd / n**0.5)
    assert np.all(np.abs(np.cov(logs) - expected) < 4 * 2**0.5 * np.outer(sd, sd) / n**0.5)


def test_a_draw_does_not_depend_on_the_other_inputs(patient: Patient, draws: InputDraws) -> None:
    few = draw_inputs(patient, ARMS[:1], 5, seed=3)
    for mine, others in ((few.scalars, draws.scalars), (few.values, draws.values)):
        for name, v in mine.items():
            # the same but for the last digit: a product of matrices may sum in another order when
            # there are more rows
            np.testing.assert_allclose(v, others[name][:6], rtol=1e-13, atol=1e-15)
    other = draw_inputs(patient, ARMS, 5, seed=4)
    assert not np.any(other.scalars["l"][1:] == draws.scalars["l"][1:6])


def test_the_posterior_replaces_priors_and_conventions_are_not_drawn(draws: InputDraws) -> None:
    assert not set(draws.values) & set(draws.scalars)
    assert not set(draws.values) & CONVENTIONS
    assert {"tau_c", "R_c", "spread_Rt", "krel_TSL_hot", "T_m", "CL_dox", "M_O2", "Vmax"} <= set(
        draws.values
    )
    assert "RT_IFP" not in draws.values
    # every inferred scalar of the model is one of the posterior
    assert {"PS_l", "leak_l", "f_l", "krel_ref", "pK_rel", "k_on_DNA"} <= set(draws.scalars)


def test_every_draw_is_within_its_physical_range(patient: Patient) -> None:
    wide = replace(patient, covariance=25 * patient.covariance)
    d = draw_inputs(wide, ARMS, 500, seed=0)
    assert d.scalars["leak_l"].max() == 1.0
    for symbol, v in d.values.items():
        p = PARAMETERS[symbol]
        if p.prior is None:
            assert (p.low or 0) <= v.min() <= v.max() <= (p.high or np.inf), symbol


def test_radiation_is_drawn_only_where_it_is_given(patient: Patient) -> None:
    d = draw_inputs(patient, (arm(FREE, (Fraction(0.0, 5.0),)),), 3000, seed=0)
    assert {"RT_IFP", "RT_Lp", "RT_K", "RT_P", "RT_SV", "RT_t_peak"} <= set(d.values)
    assert np.log(d.values["RT_K"]).std() == pytest.approx(0.5, rel=0.05)


def test_scalars_of_the_phantom_are_known(draws: InputDraws) -> None:
    known = Patient.from_phantom(PhantomSettings(shape=(10, 10, 8), refine=2))
    d = draw_inputs(known, ARMS, 4, seed=3)
    assert np.ptp(d.scalars["l"]) == 0
    assert d.scalars["l"][0] == known.tissue.scalars["l"]
    np.testing.assert_array_equal(d.values["T_m"], draws.values["T_m"][:5])
    assert any("not inferred" in a for a in d.assumptions)


def test_a_phantom_is_irradiated_by_a_treatment_not_by_its_settings() -> None:
    with pytest.raises(InputError, match="Effects of radiation belong to the treatment"):
        Patient.from_phantom(PhantomSettings(shape=(10, 10, 8), refine=2, factors={"P": 2.0}))


def test_an_arm_of_another_carrier_states_the_source_of_its_permeability(patient: Patient) -> None:
    imaged_formulation = replace(patient, imaged_formulation=PH_SENSITIVE.name)
    said = " ".join(
        draw_inputs(imaged_formulation, (*ARMS, arm(PH_SENSITIVE)), 2, seed=0).assumptions
    )
    assert "thermosensitive: the permeability of vessel walls" in said
    assert "pH-sensitive: its passage" not in said
    assert "free: its" not in said


def test_groups_are_ordered_by_vessels_none_is_small_and_all_the_tumour_is_in_one(
    patient: Patient,
) -> None:
    labels = cluster_tumour_voxels(patient, 8, np.random.default_rng(0))
    inside = patient.tissue.maps.tumour > 0.5
    assert torch.equal(labels >= 0, inside)
    counts = torch.bincount(labels[inside])
    assert 2 <= len(counts) <= 8
    assert int(counts.min()) >= 0.03 * int(inside.sum())
    PS = [float(patient.tissue.maps.PS[labels == k].mean()) for k in range(len(counts))]
    assert sorted(PS) == PS


def test_filtration_of_groups_is_that_of_a_full_solve_for_each_draw(
    patient: Patient, draws: InputDraws
) -> None:
    labels = cluster_tumour_voxels(patient, 4, np.random.default_rng(0))
    factors = {"p_e": np.linspace(0.5, 1.5, len(draws)), "SV": 2.0}
    J_v, J_L, _ = cluster_flow(patient, draws, labels, factors)
    assert J_v.shape == J_L.shape == (len(draws), int(labels.max()) + 1)
    assert np.all(J_L == 0)  # no lymph in the tumour
    for i in (0, 7):
        scalars = {k: torch.as_tensor(v) for k, v in draws.scalars_at_draw(i).items()}
        here = {"p_e": float(factors["p_e"][i]), "SV": 2.0}  # type: ignore[index]
        setting = TissueSetting(patient.tissue.maps, patient.tissue.grid, 1)
        full = (
            ForwardModel(setting, lambda _, s=scalars: s, factors=here)
            .solve_flow(torch.zeros(0))
            .J_v
        )  # type: ignore[misc]
        means = [float(full[labels == k].mean()) for k in range(J_v.shape[1])]
        # pressure to 1e-6; filtration is the small difference of two pressures in the core
        np.testing.assert_allclose(J_v[i], means, rtol=1e-4)
