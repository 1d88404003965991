"""What-ifs: stated values, arms without a fit, heat or radiation without a dose, other species, and
what a fit knows of plasma.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from nanopinn import ComparisonSettings, MapFiles, PhantomSettings, SimulationSettings, simulate
from nanopinn.errors import InputError
from nanopinn.inference.uncertainty.prior_conflict import ConsideredPosterior
from nanopinn.inference.unknowns import UnknownSet, scalar_unknowns
from nanopinn.parameters import PARAMETERS, SCALARS, value
from nanopinn.physics.formulation_library import FREE, PEGYLATED, PH_SENSITIVE, THERMOSENSITIVE
from nanopinn.physics.measured_plasma import MeasuredPlasma, PlasmaSamples
from nanopinn.physics.plasma import Dose
from nanopinn.physics.species import describe_subject
from nanopinn.physics.treatment import Fraction, GivenDose, Heating, RadiationCourse, Treatment
from nanopinn.report.treatment_folder import render_comparison, write_simulation
from nanopinn.report.treatment_summary import format_comparison, format_simulation
from nanopinn.results import Comparison
from nanopinn.settings import DoseAmount
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.solvers.treatment_timeline import TreatmentTimeline
from nanopinn.studies.arms.arm_specs import arms_with_measured_plasma, build_arms
from nanopinn.studies.arms.compare import compare_arms
from nanopinn.studies.arms.comparison_inputs import read_comparison_inputs, with_imaged_subject
from nanopinn.studies.arms.draws import draw_inputs
from nanopinn.studies.arms.patient import Patient
from nanopinn.studies.simulation_parameters import read_stated_values, simulation_parameters
from nanopinn.studies.temperature import temperature_course
from nanopinn.studies.tissue_source import tissue_from_phantom
from tests.variants import for_each

from .fitted import arm, ended

HOUR = 3600.0
SMALL = PhantomSettings(shape=(10, 10, 8), refine=2)
QUICK = SimulationSettings(device="cpu", refine=1)
IRRADIATED = Treatment(
    (), (), RadiationCourse((Fraction(0.0, 10.0),)), (0.0, 24 * HOUR, 48 * HOUR), 48 * HOUR
)
PLD = Treatment((GivenDose(PEGYLATED, Dose(0.0, 90e-6)),), (), RadiationCourse(), (HOUR,), HOUR)


def maps_of_phantom() -> MapFiles:
    tissue = tissue_from_phantom(SMALL, "cpu")

    def on_image(values: Any) -> np.ndarray:
        return np.nan_to_num(tissue.domain.embed(values.numpy()))

    return MapFiles(
        ktrans=on_image(tissue.maps.PS) * 60,
        ve=on_image(tissue.maps.phi),
        vp=on_image(tissue.maps.v_p),
        mask=tissue.mask.astype(float),
        ph=on_image(tissue.maps.pH),
        affine=tissue.affine,
    )


@pytest.fixture(scope="module")
def patient() -> Patient:
    end, covariance, mask = ended()
    return Patient.from_fitted_problem(end, covariance, mask, np.diag([0.5, 0.5, 0.5, 1.0]))


@pytest.fixture(scope="module")
def compared() -> Comparison:
    settings = ComparisonSettings(
        arms=("free", "pld"),
        species="mouse",
        dose="5mg/kg",
        draws=3,
        groups=2,
        end_h=2.0,
        imaging_h=(2.0,),
        heating_min=(),
        sensitivity=False,
        values={"l": "0.8 mm", "Vmax": 5e-15},
        device="cpu",
    )
    return compare_arms(settings, maps=maps_of_phantom())


def test_a_stated_driving_pressure_scales_the_pressure_and_keeps_the_filtration() -> None:
    # at given l and q the flow is linear in p_e, and pressures at the edge and of lymph are 0
    assert value("p_inf") == value("p_L") == 0
    one, two = (
        simulate(IRRADIATED, SMALL, settings=QUICK, values={"p_e": v}) for v in ("10mmHg", "20mmHg")
    )
    inside = one.mask
    for name, factor in (("IFP", 2.0), ("filtration", 1.0), ("velocity", 1.0)):
        np.testing.assert_allclose(
            two.fields[name].values[:, inside],
            factor * one.fields[name].values[:, inside],
            rtol=1e-5,
        )
    assert any("driving pressure p_e = 20 mmHg" in a for a in two.assumptions)


def test_pressure_after_radiation_alone_is_linear_in_the_factor_on_the_driving_pressure() -> None:
    found = simulate(IRRADIATED, SMALL, settings=QUICK)
    factors = [IRRADIATED.factors(t)["p_e"] for t in IRRADIATED.images_s]
    p = found.fields["IFP"].values[:, found.mask]
    # medians of all other factors on the flow are 1
    by_factor = (p[1:] - p[0]) / (np.array(factors[1:])[:, None] - 1)
    np.testing.assert_allclose(by_factor[1], by_factor[0], rtol=1e-4)
    assert factors[1] == pytest.approx(value("RT_IFP") ** 2)
    course = found.courses.flow["IFP_mmHg"]
    at = np.flatnonzero(np.isin(found.courses.times_s, IRRADIATED.images_s))
    np.testing.assert_allclose(course[at], found.means("IFP"), rtol=1e-6)


def test_files_and_page_without_a_dose_hold_flow_and_no_drug(tmp_path: Path) -> None:
    heat = (Heating(0.0, 1800.0, 0.0, "imposed", 315.15, None),)
    heated = Treatment((), heat, RadiationCourse(), (900.0, 7200.0), 7200.0)
    found = simulate(heated, SMALL, settings=QUICK)
    assert set(found.fields) == {"temperature", "IFP", "velocity", "filtration"}
    assert found.means("temperature")[0] == pytest.approx(42.0)
    folder = write_simulation(tmp_path / "out", found, {"simulate": QUICK.model_dump()})
    names = {p.name for p in folder.iterdir()}
    assert "flow.tsv" in names
    assert not names & {"plasma.tsv", "courses.tsv", "exposure.tsv"}
    page = (folder / "simulation.html").read_text()
    assert "Interstitial flow" in page
    assert "Systemic exposure" not in page
    assert "Mass balance" not in page
    assert "filtration" in format_simulation(found)
    assert "Plasma" not in format_simulation(found)


def test_every_parameter_that_may_be_stated_changes_plasma_or_coefficients() -> None:
    tissue = tissue_from_phantom(SMALL, "cpu")
    setting = TissueSetting(tissue.maps, tissue.grid, 1)
    # not at T_hot, where the rate is stated and the transition temperature has no effect
    heat = (Heating(0.0, 1800.0, 0.0, "imposed", 314.15, None),)
    radiation = RadiationCourse((Fraction(0.0, 5.0),))
    treatments = [
        Treatment((GivenDose(f, Dose(0.0, 90e-6)),), heat, radiation, (7200.0,), 7200.0)
        for f in (THERMOSENSITIVE, PEGYLATED)
    ]

    def coefficients(given: Treatment, name: str | None) -> np.ndarray:
        scalars, values = dict(tissue.scalars), {}
        if name in SCALARS:
            scalars[name] *= 1.1
        elif name is not None:
            row = simulation_parameters([given], microscale=False)[name]
            values[name] = row.value * 1.01 if row.value else (row.high or 1.0)
        temperature, _, _ = temperature_course(given, tissue)
        timeline = TreatmentTimeline(setting, scalars, given, temperature, values=values)
        every = list(timeline.intervals())
        hot = next(i for i in every if i.start <= 1000.0 < i.end)
        shape = (len(timeline.detail.pools), *tissue.grid.shape)
        U = torch.as_tensor(np.random.default_rng(0).random(shape))
        return np.concatenate([i.rate(U, i.end).numpy().ravel() for i in (hot, every[-1])])

    for given in treatments:
        base = coefficients(given, None)
        for name, row in simulation_parameters([given], microscale=False).items():
            if name.startswith(("RT_", "HT_")):  # some act days later only
                moved = given.with_values({name: row.value * 1.01})
                assert any(moved.factors(t) != given.factors(t) for t in (900.0, 60 * HOUR)), name
            else:
                assert np.any(coefficients(given, name) != base), name


@for_each(
    "given, words",
    [
        ({"lenght": 1.0}, ["unknown parameter", "lenght", "l (mm)"]),
        ({"Vmx": 1.0}, ["unknown parameter", "Did you mean Vmax"]),
        ({"l": "8 s"}, ["dimension", "1 mm"]),
        ({"l": 0.8}, ["not plausible", "800 mm", "SI"]),
        ({"l": -1e-3}, ["not plausible"]),
        ({"PS_l": 0.0144}, ["not plausible", "1/h"]),  # in 1/h, taken as 1/s
        ({"leak_l": 1.2}, ["0 to 1"]),
        ({"l": 1e-3, "l_t": "1 mm"}, ["twice"]),
        ({"LpSV_t": 1e-7}, ["State q"]),
        ({"krel_ref": 1e-4}, ["does not depend on", "krel_ref"]),  # a law of another carrier
        ({"r1_Gd": 4.0}, ["does not depend on", "r1_Gd"]),
        ({"EC50_i": 4e-13}, ["does not depend on", "EC50_i"]),  # the voxel grid has no cell kill
    ],
)
def test_a_stated_value_that_cannot_be_used_is_refused(
    given: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as refused:
        read_stated_values(given, [PLD])
    for word in words:
        assert word in str(refused.value), str(refused.value)
    assert refused.value.field == "values"


def test_texts_are_in_customary_units_and_numbers_in_SI() -> None:
    found = read_stated_values({"l": "0.8", "q": 2e-4, "tau_c": "3", "PS_l": "0.02 1/h"}, [PLD])
    assert found.scalars == {"l": 0.8e-3, "q": 2e-4, "PS_l": pytest.approx(0.02 / HOUR)}
    assert found.values == {"tau_c": 3.0}


def test_without_a_fit_every_scalar_is_drawn_from_its_prior(compared: Comparison) -> None:
    tissue = tissue_from_phantom(SMALL, "cpu", scalars_are_known=False)
    n = 4000
    arms = (arm(FREE), arm(PEGYLATED), arm(PH_SENSITIVE))
    found = draw_inputs(Patient(tissue), arms, n, seed=0)
    for name, scalar in SCALARS.items():
        v = found.scalars[name]
        assert v[0] == scalar.default
        if scalar.multiplies is not None:  # the parameter itself is drawn
            assert set(v) == {1.0}
            assert np.ptp(found.values[scalar.multiplies]) > 0
        elif name != "leak_l":  # which is cut off at 1
            coordinate = np.log(v[1:]) if scalar.scale == "log" else v[1:]
            # standard error of the sd of n normal draws
            assert coordinate.std() == pytest.approx(scalar.prior.sd, rel=4 / (2 * n) ** 0.5)
    assert any("drawn from its prior" in a for a in found.assumptions)
    assert compared.prior_only
    assert any("not of this tumour" in a for a in compared.assumptions)


def test_the_page_of_arms_without_a_fit_says_that_intervals_are_of_the_prior(
    compared: Comparison,
) -> None:
    page = render_comparison(compared, {})  # figures take half a minute
    assert "All intervals and probabilities are those of the prior" in page
    assert "interval of the prior" in format_comparison(compared)
    with_fit = replace(compared, prior_only=False)
    assert "of the prior" not in format_comparison(with_fit)


def test_stated_values_are_the_same_in_every_draw(patient: Patient) -> None:
    stated = read_stated_values({"l": "0.8 mm", "EC50_i": "0.4 ng"}, [PLD], microscale=True)
    found = draw_inputs(patient, (arm(PEGYLATED),), 5, seed=0, stated=stated)
    plain = draw_inputs(patient, (arm(PEGYLATED),), 5, seed=0)
    assert set(found.scalars["l"]) == {0.8e-3}
    np.testing.assert_allclose(found.values["EC50_i"], 4e-13, rtol=1e-12)
    np.testing.assert_array_equal(found.scalars["q"], plain.scalars["q"])
    np.testing.assert_array_equal(found.values["f_max"], plain.values["f_max"])
    assert patient.with_stated_scalars(stated).tissue.scalars["l"] == 0.8e-3


def test_scalars_that_a_fit_did_not_have_are_drawn_from_their_priors(patient: Patient) -> None:
    kept = UnknownSet(
        tuple(u for u in patient.unknowns.items if u.name not in ("krel_ref", "pK_rel"))
    )
    at = [i for i, n in enumerate(patient.names) if n not in ("krel_ref", "pK_rel")]
    other = replace(
        patient,
        unknowns=kept,
        names=tuple(patient.names[i] for i in at),
        mean=patient.mean[at],
        covariance=patient.covariance[np.ix_(at, at)],
        tissue=replace(
            patient.tissue,
            scalars={
                k: v for k, v in patient.tissue.scalars.items() if k not in ("krel_ref", "pK_rel")
            },
        ),
    )
    n = 4000
    found = draw_inputs(other, (arm(PH_SENSITIVE),), n, seed=0)
    sd = SCALARS["krel_ref"].prior.sd
    assert np.log(found.scalars["krel_ref"][1:]).std() == pytest.approx(sd, rel=4 / (2 * n) ** 0.5)
    assert found.scalars["pK_rel"][0] == value("pK_rel")
    assert any("not among the unknowns of the fit" in a for a in found.assumptions)


def test_the_leak_of_the_imaged_carrier_is_not_that_of_another(patient: Patient) -> None:
    unknowns = UnknownSet(scalar_unknowns(PEGYLATED))
    at = unknowns.names.index("leak_factor")
    mean = unknowns.prior_mean
    mean[at] = np.log(3.0)
    scalars = {k: v for k, v in patient.tissue.scalars.items() if k in unknowns.names}
    fitted = replace(
        patient,
        names=unknowns.names,
        unknowns=unknowns,
        mean=mean,
        covariance=1e-4 * np.eye(len(mean)),
        tissue=replace(patient.tissue, scalars={**scalars, "leak_factor": 3.0}),
        imaged_formulation=PEGYLATED.name,
    )
    found = draw_inputs(fitted, (arm(PEGYLATED), arm(THERMOSENSITIVE)), 500, seed=0)
    imaged, other = (found.scalars_for(f)["leak_factor"] for f in (PEGYLATED, THERMOSENSITIVE))
    assert imaged[0] == pytest.approx(3.0)
    assert np.log(imaged[1:]).std() < 0.02
    assert other[0] == 1.0
    sd = SCALARS["leak_factor"].prior.sd
    assert np.log(other[1:]).std() == pytest.approx(sd, rel=4 / (2 * 500) ** 0.5)
    (said,) = (a for a in found.assumptions if "over its stated leak" in a)
    assert said.startswith("thermosensitive")
    assert fitted.scalars_for(PEGYLATED)["leak_factor"] == 3.0
    assert "leak_factor" not in fitted.scalars_for(THERMOSENSITIVE)


def test_parameters_that_a_fit_considered_are_drawn_jointly(patient: Patient) -> None:
    left = np.array([[0.5, 0.3], [0.3, 0.4]])
    considered = ConsideredPosterior(("EC50_i", "f_max"), np.array([0.6, -0.2]), left)
    n = 20_000
    found = draw_inputs(replace(patient, considered=considered), (arm(FREE),), n, seed=0)
    prior = draw_inputs(patient, (arm(FREE),), n, seed=0)
    deviates = np.stack(
        [
            np.log(found.values[s] / value(s)) / PARAMETERS[s].prior.sd  # type: ignore[union-attr]
            for s in considered.symbols
        ]
    )
    np.testing.assert_allclose(deviates[:, 0], considered.mean)
    # four standard errors of means and covariances of n draws
    np.testing.assert_allclose(deviates[:, 1:].mean(1), considered.mean, atol=4 * (0.5 / n) ** 0.5)
    np.testing.assert_allclose(np.cov(deviates[:, 1:]), left, atol=4 * 0.5 * (2 / n) ** 0.5)
    np.testing.assert_array_equal(found.values["m_hill"], prior.values["m_hill"])
    assert any("EC50_i, f_max: drawn jointly" in a for a in found.assumptions)


def test_arms_of_another_species_need_a_dose_and_have_its_kinetics(patient: Patient) -> None:
    with pytest.raises(InputError, match="not stated for a mouse"):
        build_arms(["pld"], species="mouse")

    arms, _ = build_arms(["pld"], species="mouse", dose=DoseAmount(mg_per_kg=5.0))
    (given,) = arms[0].treatment.doses
    assert given.dose.amount_kg == pytest.approx(5e-6 * value("weight_mouse"))
    found = draw_inputs(patient, arms, 3, seed=0)
    assert "CL_dox_mouse" in found.values
    assert "CL_dox" not in found.values
    assert found.values["Hct"][0] == value("Hct_mouse")
    (human,), _ = build_arms(["pld"])
    surface = human.treatment.subject.surface_m2
    assert human.treatment.doses[0].dose.amount_kg == pytest.approx(50e-6 * surface)


def measured_in_mouse(doses: tuple[Dose, ...]) -> Treatment:
    subject = describe_subject("mouse", 0.02)
    plasma = MeasuredPlasma(
        (HOUR, 24 * HOUR), (PlasmaSamples("encapsulated", (0.08, 0.04), (0.1, 0.1)),)
    )
    given = tuple(GivenDose(PEGYLATED.in_subject(subject), d) for d in doses)
    return Treatment(
        given, (), RadiationCourse(), (HOUR,), 48 * HOUR, subject=subject, measured_plasma=plasma
    )


def test_the_arm_that_was_imaged_has_the_measured_plasma_scaled_by_its_dose() -> None:

    imaged = measured_in_mouse((Dose(0.0, 0.1e-6),))
    arms, _ = build_arms(
        ["free", "pld"], species="mouse", body_weight_kg=0.02, dose=DoseAmount(amount_mg=0.2)
    )
    found, said = arms_with_measured_plasma(arms, imaged)
    assert found[0].treatment.measured_plasma is None

    t = torch.tensor([2 * HOUR, 30 * HOUR])
    one, two = (x.plasma().encapsulated(t) for x in (imaged, found[1].treatment))
    torch.testing.assert_close(two, 2 * one)
    assert any(s.startswith("pld: drug in plasma is that measured") for s in said)
    assert any("scaled by the dose" in s for s in said)
    assert any(s.startswith("free: plasma was not measured") for s in said)


def test_measured_plasma_is_not_used_in_another_species_or_for_another_infusion() -> None:
    imaged = measured_in_mouse((Dose(0.0, 0.1e-6),))
    (human,), _ = build_arms(["pld"])
    assert arms_with_measured_plasma([human], imaged)[0][0].treatment.measured_plasma is None
    slow = measured_in_mouse((Dose(0.0, 0.1e-6, 600.0),))
    plain = replace(slow, measured_plasma=None)
    mine = replace(human, treatment=plain)
    assert arms_with_measured_plasma([mine], imaged)[0][0].treatment.measured_plasma is None
    assert arms_with_measured_plasma([mine], slow)[0][0].treatment.measured_plasma is not None


def test_the_subject_of_arms_is_that_of_the_fit_unless_stated() -> None:
    imaged = measured_in_mouse((Dose(0.0, 0.1e-6),))
    found, said = with_imaged_subject(ComparisonSettings(), None, imaged)
    assert (found.species, found.body_weight_kg) == ("mouse", 0.02)
    assert "a mouse of 0.02 kg" in said[0]
    found, said = with_imaged_subject(ComparisonSettings(species="human"), None, imaged)
    assert found.body_weight_kg is None
    assert "fitted in a mouse" in said[0]


def test_arms_take_a_folder_of_maps_and_refuse_a_fit_that_lost_its_posterior(
    tmp_path: Path,
) -> None:
    given = maps_of_phantom()
    (tmp_path / "maps").mkdir()
    names = {"Ktrans": given.ktrans, "ve": given.ve, "vp": given.vp, "mask": given.mask}
    for name, volume in names.items():
        image = nib.Nifti1Image(np.asarray(volume.values), volume.affine)  # type: ignore[union-attr]
        nib.save(image, tmp_path / "maps" / f"{name}.nii.gz")
    settings = ComparisonSettings(
        arms=("pld",), draws=5, assume_ph=6.9, values={"l": "0.8 mm"}, device="cpu"
    )
    found, arms, stated, _ = read_comparison_inputs(settings, None, "cpu", folder=tmp_path)
    assert found.names == ()
    assert found.tissue.scalars == {"l": 0.8e-3}
    assert stated.scalars == {"l": 0.8e-3}
    draws = draw_inputs(found, arms, 5, seed=0, stated=stated)
    assert np.ptp(draws.scalars["l"]) == 0
    assert np.ptp(draws.scalars["q"]) > 0
    (tmp_path / "parameters.json").write_text("{}")
    with pytest.raises(InputError, match="posterior"):
        read_comparison_inputs(settings, None, "cpu", folder=tmp_path)
    with pytest.raises(InputError, match="one tumour"):
        read_comparison_inputs(settings, None, "cpu", folder=tmp_path, phantom=SMALL)


def test_a_schedule_without_a_dose_is_refused_for_arms(tmp_path: Path) -> None:
    (tmp_path / "rt.toml").write_text("[[radiation]]\ntime_h = 0\ndose_Gy = 5\n[run]\nend_h = 24\n")
    with pytest.raises(InputError, match="no dose"):
        build_arms(["free"], schedule=tmp_path / "rt.toml")
