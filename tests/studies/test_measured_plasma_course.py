"""A simulation by measured plasma compared with the one by the population's curve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from nanopinn.io.tables import table_from_columns
from nanopinn.parameters import HOUR, MG
from nanopinn.physics.formulation_library import PEGYLATED
from nanopinn.physics.measured_plasma import MeasuredPlasma, read_plasma
from nanopinn.physics.plasma import Dose
from nanopinn.physics.species import describe_subject
from nanopinn.physics.treatment import GivenDose, RadiationCourse, Treatment
from nanopinn.results import Simulation
from nanopinn.studies.simulate import run_simulation
from nanopinn.studies.tissue_source import MapFiles

SUBJECT = describe_subject("human")
TREATMENT = Treatment(
    (GivenDose(PEGYLATED.in_subject(SUBJECT), Dose(0.0, 90 * MG)),),
    (),
    RadiationCourse(),
    (2 * HOUR, 24 * HOUR),
    24 * HOUR,
    subject=SUBJECT,
)


def sampled(times_h: np.ndarray, quantity: str = "encapsulated") -> MeasuredPlasma:
    """Samples of the population's curve at times, ug/mL."""
    population = TREATMENT.plasma()
    at = torch.tensor(times_h) * HOUR
    curve = population.encapsulated(at)
    if quantity == "total":
        curve = curve + population.free(at)
    columns = {"time_h": times_h, f"{quantity}_plasma_ug/mL": (curve * 1e3).numpy()}
    return read_plasma(table_from_columns(columns, "plasma"))


def simulate(treatment: Treatment) -> Simulation:
    x, y, z = np.indices((8, 8, 8)) - 3.5
    ball = x**2 + y**2 + z**2 < 2.5**2
    one = np.ones(ball.shape)
    affine = np.diag([0.7, 0.7, 0.7, 1.0])
    maps = MapFiles(0.1 * one, 0.3 * one, 0.05 * one, 1.0 * ball, 6.8 * one, affine=affine)
    return run_simulation(treatment, maps=maps)


def test_samples_of_the_population_give_its_drug_in_the_tumour() -> None:
    """Eight usual times; the log-linear curve differs from two exponentials by less than the
    tolerance.
    """
    expected = simulate(TREATMENT)
    times_h = np.array([0.083, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0, 48.0])
    for quantity in ("encapsulated", "total"):
        found = simulate(replace(TREATMENT, measured_plasma=sampled(times_h, quantity)))
        for a, b in zip(found.fields.values(), expected.fields.values(), strict=True):
            scale = np.nanmax(np.abs(b.values))
            np.testing.assert_allclose(a.values, b.values, atol=0.02 * scale, err_msg=b.name)


def test_half_the_drug_in_plasma_gives_half_the_carrier_in_the_tumour() -> None:
    measured = sampled(np.array([0.083, 1.0, 4.0, 24.0, 48.0]))
    half = tuple(
        replace(s, concentrations=tuple(c / 2 for c in s.concentrations)) for s in measured.samples
    )
    whole, halved = (
        simulate(replace(TREATMENT, measured_plasma=m))
        for m in (measured, replace(measured, samples=half))
    )
    a, b = (s.fields["encapsulated"].values for s in (whole, halved))
    np.testing.assert_allclose(b, a / 2, rtol=2e-3, atol=1e-4 * float(np.nanmax(a)))


def test_the_area_of_a_curve_sampled_at_usual_times_is_that_of_its_exponentials() -> None:
    """Liposomal doxorubicin, with the last sample after three days."""
    times_h = np.array([0.083, 1.0, 4.0, 8.0, 24.0, 48.0, 72.0])
    plasma = replace(TREATMENT, measured_plasma=sampled(times_h)).plasma()
    area = TREATMENT.plasma().encapsulated.area()
    assert abs(plasma.encapsulated.area() / area - 1) < 0.02
