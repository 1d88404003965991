"""Peaks and AUCs of a simulation, pressure after radiation, and systemic exposure."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.integrate import quad

from nanopinn import SimulationSettings
from nanopinn.parameters import value
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_library import FREE, PEGYLATED, THERMOSENSITIVE
from nanopinn.physics.plasma import Dose, PlasmaInput
from nanopinn.physics.treatment import Fraction, GivenDose, Heating, RadiationCourse, Treatment
from nanopinn.report.treatment_folder import write_simulation
from nanopinn.report.treatment_summary import format_simulation
from nanopinn.results import Simulation
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.studies.arms.patient import Patient
from nanopinn.studies.simulate import run_arm
from nanopinn.studies.simulation_outputs import plasma_exposure

from .fitted import Given, ended

HOUR = 3600.0


def treatment(
    formulation: Formulation,
    doses: tuple[Dose, ...] = (Dose(0.0, 90e-6),),
    end_h: float = 24.0,
    heat: tuple[Heating, ...] = (),
    fractions: tuple[Fraction, ...] = (),
) -> Treatment:
    given = tuple(GivenDose(formulation, d) for d in doses)
    return Treatment(given, heat, RadiationCourse(fractions), (HOUR, end_h * HOUR), end_h * HOUR)


@pytest.fixture(scope="module")
def patient() -> Patient:
    """A fit's tumour, its filtration a field of its own."""
    end, covariance, mask = ended()
    return Patient.from_fitted_problem(end, covariance, mask, np.diag([0.5, 0.5, 0.5, 1.0]))


@pytest.fixture(scope="module")
def free(patient: Patient) -> Simulation:
    return run_arm(patient, Given("free", treatment(FREE)), SimulationSettings(device="cpu"))  # type: ignore[arg-type]


def test_aucs_close_the_balance_of_nuclear_drug_in_every_voxel(
    patient: Patient, free: Simulation
) -> None:
    """``dN/dt = k_on I - k_off N``, so ``N(end) = k_on AUC_I - k_off AUC_N``."""
    inside = free.mask
    gained = (
        float(patient.tissue.scalars["k_on_DNA"])
        * free.auc_maps["intracellular"].values[inside]
        * HOUR
    )
    lost = value("k_off_DNA") * free.auc_maps["nuclear"].values[inside] * HOUR
    stored = free.fields["nuclear"].values[-1][inside]
    # trapezoids over steps that err by 1e-4 each
    np.testing.assert_allclose(stored, gained - lost, rtol=2e-3)


def test_the_peak_is_the_largest_value_over_time_in_each_voxel(
    patient: Patient, free: Simulation
) -> None:
    inside = free.mask
    for name, peak in free.peak_maps.items():
        fields = free.fields[name].values[:, inside]
        assert np.all(peak.values[inside] >= fields.max(axis=0) * (1 - 1e-12)), name
    # means over the tumour never exceed the mean of voxels' own peaks
    assert free.courses.tumour["free"].max() <= np.nanmean(
        free.peak_maps["free"].values[inside]
    ) * (1 + 1e-12)


@pytest.mark.parametrize("formulation", [PEGYLATED, THERMOSENSITIVE], ids=lambda f: f.name)
def test_no_drug_is_lost_or_made_in_a_fitted_tumour(
    patient: Patient, formulation: Formulation
) -> None:
    heat = (Heating(0.0, 600.0, 60.0, "imposed", 315.15, None),)
    arm = Given(
        "arm", treatment(formulation, end_h=2.0, heat=heat, fractions=(Fraction(HOUR, 5.0),))
    )
    assert run_arm(patient, arm, SimulationSettings(device="cpu")).balance.error < 1e-8  # type: ignore[arg-type]


def test_pressure_after_radiation_is_that_of_its_factors_at_the_time(patient: Patient) -> None:
    course = RadiationCourse((Fraction(0.0, 5.0),), {"p_e": 0.5, "K": 1.5}, 2 * HOUR)
    given = Treatment(treatment(FREE, end_h=4.0).doses, (), course, (4 * HOUR,), 4 * HOUR)
    s = run_arm(patient, Given("free", given), SimulationSettings(device="cpu"))  # type: ignore[arg-type]
    scalars = {
        k: torch.as_tensor(v, dtype=torch.float64) for k, v in patient.tissue.scalars.items()
    }
    setting = TissueSetting(patient.tissue.maps, patient.tissue.grid, patient.flow_refine)
    p = (
        ForwardModel(setting, lambda _: scalars, factors={"p_e": 0.5, "K": 1.5})
        .solve_flow(torch.zeros(0))
        .p
    )
    expected = (
        patient.tissue.domain.embed(average_subcells(p, patient.flow_refine).numpy()) / 133.322
    )
    np.testing.assert_allclose(
        s.maps["IFP_after_radiation"].values[s.mask], expected[s.mask], rtol=1e-8
    )
    assert "2 h" in s.maps["IFP_after_radiation"].description


def test_without_radiation_or_heat_there_is_one_pressure(free: Simulation) -> None:
    assert not [m for m in free.maps if m.startswith("IFP_")]


def integral(curve: PlasmaInput, a: float, b: float) -> float:
    return float(
        quad(lambda s: float(curve(torch.tensor(s, dtype=torch.float64))), a, b, epsrel=1e-11)[0]
    )


@pytest.mark.parametrize("formulation", [FREE, PEGYLATED, THERMOSENSITIVE], ids=lambda f: f.name)
def test_plasma_areas_are_the_integrals_of_the_curves(formulation: Formulation) -> None:
    doses = (Dose(0.0, 30e-6), Dose(2 * HOUR, 30e-6, 1800.0), Dose(5.5 * HOUR, 30e-6, 2 * HOUR))
    t = treatment(formulation, doses, end_h=6.0)
    given = t.plasma()
    curves = {"encapsulated": given.encapsulated, "free": given.free, "unbound": given.unbound()}
    for e in plasma_exposure(t):
        curve = curves[e.name]
        marks = [0.0, 2 * HOUR, 2.5 * HOUR, 5.5 * HOUR, 6 * HOUR]
        parts = [integral(curve.smooth_piece_from(a), a, b) for a, b in itertools.pairwise(marks)]
        assert e.auc == pytest.approx(1e3 / HOUR * sum(parts), rel=1e-9, abs=1e-15), e.name
        assert e.auc_to_infinity == pytest.approx(1e3 / HOUR * curve.area(), rel=1e-12), e.name


def test_the_highest_concentration_is_found_between_events_too() -> None:
    t = treatment(PEGYLATED, (Dose(0.0, 90e-6, 1800.0),), end_h=96.0)
    found = {e.name: e for e in plasma_exposure(t)}
    times = torch.linspace(0, 96 * HOUR, 400_001, dtype=torch.float64)
    free = t.plasma().free(times)
    # free drug leaks in and is cleared: its top lies hours after the infusion, the carriers' at its
    # end
    assert found["free"].c_max == pytest.approx(1e3 * float(free.max()), rel=1e-7)
    assert found["free"].t_max_s == pytest.approx(float(times[free.argmax()]), rel=0.01)
    assert found["encapsulated"].t_max_s == pytest.approx(1800.0)
    assert found["unbound"].c_max == pytest.approx((1 - value("fb")) * found["free"].c_max)


def test_free_drug_over_all_times_is_dose_over_clearance() -> None:
    (_, free, _) = plasma_exposure(treatment(FREE))
    assert free.auc_to_infinity == pytest.approx(90e-6 / value("CL_dox") * 1e3 / HOUR, rel=1e-12)
    assert free.t_max_s == 0.0


def test_the_folder_holds_peaks_areas_and_exposure(free: Simulation, tmp_path: Path) -> None:
    out = write_simulation(tmp_path / "arm", free, {"simulate": {}})
    image = nib.load(out / "maps" / "auc_vessel_free.nii.gz")
    np.testing.assert_allclose(
        np.asarray(image.dataobj)[free.mask],
        free.auc_maps["vessel free"].values[free.mask],
        rtol=1e-5,
    )
    assert (out / "maps" / "peak_intracellular.nii.gz").is_file()
    rows = (out / "exposure.tsv").read_text().splitlines()
    assert rows[0].startswith("plasma\tc_max")
    assert [r.split("\t")[0] for r in rows[1:]] == ["encapsulated", "free", "unbound"]
    page = (out / "simulation.html").read_text()
    assert "AUC of drug bound in nuclei" in page
    assert "C_max" in format_simulation(free)
