"""What a treatment adds to an inverse problem: unknowns with their priors, considered parameters
with their effect on the images, and its place in a file.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.inference import error_effects
from nanopinn.inference.derived_maps import derive_drug_fields
from nanopinn.inference.drug_fit import needs_saturable_uptake, validate_course
from nanopinn.inference.drug_setup import set_up_drug
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.observations import DrugObservation
from nanopinn.inference.problem import EngineFit
from nanopinn.inference.saved_fit import FittedProblem, fit_from_bytes, fit_to_bytes
from nanopinn.parameters import PARAMETERS, value
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_library import (
    FREE,
    PEGYLATED,
    PH_SENSITIVE,
    THERMOSENSITIVE,
    parse_formulation,
)
from nanopinn.physics.heat import scheduled_temperature
from nanopinn.physics.measured_plasma import MeasuredPlasma, PlasmaSamples
from nanopinn.physics.plasma import Dose
from nanopinn.physics.treatment import Fraction, GivenDose, Heating, RadiationCourse, Treatment
from nanopinn.settings import FitSettings

from .test_engines import small_problem

HOUR = 3600.0
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "formulations" / "polymer_tsl.toml"
HEATED = Heating(0.5 * HOUR, 1.0 * HOUR, 300.0, "imposed", 315.15)


def given(formulation: Formulation, *heatings: Heating) -> Treatment:
    doses = (GivenDose(formulation, Dose(0.0, 90e-6)),)
    return Treatment(doses, heatings, RadiationCourse(), (), 12 * HOUR)


def problem_of(treatment: Treatment) -> InverseProblem:
    """The tumour of :func:`small_problem` with another treatment; its images are not of it."""
    problem = small_problem(n=8, off=0.0)[0]
    setup = set_up_drug(treatment, with_images=True)
    assert setup.course is not None
    drug = tuple(replace(d, pools=setup.course.options.pools) for d in problem.drug)
    return replace(
        problem,
        unknowns=setup.unknowns,
        course=setup.course,
        considered=setup.considered,
        drug=drug,
    )


@pytest.mark.parametrize(
    ("formulation", "own", "others"),
    [
        (FREE, {"P_f_factor", "k_on_DNA"}, {"PS_l", "krel_ref", "leak_factor"}),
        (PEGYLATED, {"PS_l", "leak_l", "f_l", "leak_factor"}, {"krel_ref", "P_f_factor"}),
        (PH_SENSITIVE, {"PS_l", "krel_ref", "pK_rel"}, {"leak_factor", "P_f_factor"}),
    ],
    ids=["free", "pld", "ph"],
)
def test_unknowns_are_those_on_which_a_formulation_depends(
    formulation: Formulation, own: set[str], others: set[str]
) -> None:
    names = set(set_up_drug(given(formulation), with_images=True).unknowns.names)
    assert own | {"l", "q", "K_ratio_n", "p_e"} <= names
    assert not others & names


def test_without_a_treatment_there_is_no_course_and_no_constant_of_drug() -> None:
    setup = set_up_drug(None, with_images=False)
    assert setup.course is None
    assert list(setup.considered) == ["D_Gd"]
    assert len(setup.unknowns) == 10


def test_times_count_from_the_first_dose() -> None:
    doses = (
        GivenDose(PEGYLATED, Dose(3 * HOUR, 90e-6)),
        GivenDose(PEGYLATED, Dose(2 * HOUR, 90e-6)),
    )
    course = set_up_drug(
        Treatment(doses, (), RadiationCourse(), (), 24 * HOUR), with_images=True
    ).course
    assert course is not None
    assert [g.dose.start_s for g in course.treatment.doses] == [HOUR, 0.0]
    assert course.jumps() == (HOUR,)


def test_own_quantities_of_a_formulation_become_priors_of_the_scalars() -> None:
    text = EXAMPLE.read_text().replace(
        'permeability = "PS_l"\n',
        'permeability = {value = 9e-6, unit = "1/s", prior = "lognormal(0.4)", source = "test"}\n',
    )
    mine = parse_formulation(tomllib.loads(text), "mine.toml")
    fitted, priors, values = mine.as_fitted()
    assert fitted.permeability == "PS_l"
    assert set(priors) == {"PS_l"}
    assert values["D_l_t"] == 3.1e-12
    setup = set_up_drug(given(mine, HEATED), with_images=True)
    prior = next(u for u in setup.unknowns.items if u.name == "PS_l")
    assert prior.prior_median == pytest.approx(9e-6)
    assert prior.prior_sd == pytest.approx(0.4)
    registry = next(
        u
        for u in set_up_drug(given(PEGYLATED), with_images=True).unknowns.items
        if u.name == "leak_l"
    )
    assert next(u for u in setup.unknowns.items if u.name == "leak_l") == registry
    # what is not estimated keeps its own distribution
    released = setup.considered["polymer-tsl.heat.k_hot"]
    assert released.sd_above == pytest.approx(0.5)
    course = setup.course
    assert course is not None
    assert course.values["D_l_t"] == 3.1e-12
    # the curves in plasma are those of the formulation
    t = torch.tensor([600.0, 2e4], dtype=torch.float64)
    torch.testing.assert_close(
        course.treatment.plasma().free(t), mine.plasma((Dose(0.0, 90e-6),)).free(t)
    )


def test_considered_parameters_are_neither_unknowns_nor_conventions() -> None:
    heated = replace(
        given(THERMOSENSITIVE, HEATED), radiation=RadiationCourse((Fraction(HOUR, 8.0),))
    )
    for treatment in (given(FREE), given(PH_SENSITIVE), heated):
        setup = set_up_drug(treatment, with_images=True)
        considered = set(setup.considered)
        assert not considered & {"PS_l", "leak_l", "f_l", "T_hot", "T_body", "pH_ref", "RT_D"}
        assert {"D_f_t", "Vmax", "D_Gd"} <= considered
        # an unknown factor takes the place of the permeability to free drug
        assert ("P_f_t" in considered) == (treatment.carrier is not None)
    assert {"RT_IFP", "HT_IFP", "tau_c"} <= considered
    measured = MeasuredPlasma(
        (HOUR, 8 * HOUR), (PlasmaSamples("encapsulated", (2e-2, 1e-2), (0.1, 0.1)),)
    )
    with_samples = set_up_drug(
        replace(given(PEGYLATED), measured_plasma=measured), with_images=True
    ).considered
    # samples replace the kinetics of the population
    assert "V_PLD" not in with_samples
    assert set(measured.error_distributions()) <= set(with_samples)


def image_changes(
    problem: InverseProblem, theta: np.ndarray, symbol: str, deviates: float
) -> torch.Tensor:
    """Whitened images with a parameter some deviates along its mean slope."""
    at = problem.considered[symbol].value_after_step(0.0, deviates)
    pools = problem.solve(theta, problem.forward(values={symbol: at})).pools
    assert pools is not None

    def image(d: DrugObservation) -> torch.Tensor:
        plasma = problem.plasma_at(d.time_s, {symbol: at})
        return d.predict(pools[problem.node_index(d)], problem.setting.maps, plasma)

    return torch.cat([d.whiten(image(d)) for d in problem.drug])


def test_the_effect_of_a_parameter_equals_a_difference_of_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = problem_of(given(PH_SENSITIVE))
    chosen = ("V_PLD", "k_PLD", "D_f_t", "rho_c", "k_off_DNA", "n_rel")
    assert set(chosen) <= set(problem.considered)
    problem = replace(problem, considered={s: problem.considered[s] for s in ("D_Gd", *chosen)})
    theta, step = problem.unknowns.prior_mean, 0.05
    monkeypatch.setattr(error_effects, "PARAMETER_STEP", step)
    fields = problem.solve(theta, problem.forward())
    for _ in range(2):  # the first pass leaves out what changes slowly
        problem = problem.with_systematic_errors(theta, fields)
    assert problem.errors is not None
    assert list(problem.considered_on_drug) == list(chosen)
    for symbol, found in zip(chosen, problem.errors.parameters_on_drug.T, strict=True):
        above, below = (image_changes(problem, theta, symbol, by) for by in (step, -step))
        exact = (above - below) / (2 * step)
        # the effect has about half as many time steps
        assert float((found - exact).norm()) < 0.05 * float(exact.norm()), symbol
    # curves of contrast agent depend on its diffusivity alone
    above, below = (
        problem.solve(
            theta,
            problem.forward(
                values={
                    "D_Gd": float(problem.considered["D_Gd"].values_at_deviates(np.array([by]))[0])
                }
            ),
        ).contrast
        for by in (step, -step)
    )
    exact = problem.contrast.whiten(above - below).reshape(-1) / (2 * step)
    found = problem.errors.parameters_on_contrast[:, 0]
    assert float((found - exact).norm()) < 0.02 * float(exact.norm())


TREATMENTS = {
    "heat and radiation": replace(
        given(THERMOSENSITIVE, HEATED), radiation=RadiationCourse((Fraction(2 * HOUR, 8.0),))
    ),
    "free drug in two infusions": replace(
        given(FREE),
        doses=(
            GivenDose(FREE, Dose(0.0, 20e-6, 600.0)),
            GivenDose(FREE, Dose(3 * HOUR, 20e-6, 1200.0)),
        ),
    ),
    "measured plasma": replace(
        given(PEGYLATED),
        measured_plasma=MeasuredPlasma(
            (0.5 * HOUR, 6 * HOUR, 12 * HOUR),
            (PlasmaSamples("encapsulated", (2.5e-2, 2e-2, 1.5e-2), (0.1, 0.1, 0.2)),),
        ),
    ),
}


@pytest.mark.parametrize("name", TREATMENTS)
def test_a_treatment_is_saved_with_its_fit_and_predicts_the_same(name: str) -> None:
    problem = problem_of(TREATMENTS[name])
    course, tumour = problem.course, problem.setting.maps.tumour
    assert course is not None
    if course.treatment.heatings:
        course = replace(
            course, temperature=scheduled_temperature(tumour, 315.15, 0.5 * HOUR, HOUR, 300.0)
        )
    problem = replace(problem, course=course, setting=replace(problem.setting, flow_refine=1))
    theta = problem.unknowns.prior_mean
    again = fit_from_bytes(fit_to_bytes(FittedProblem(problem, theta))).problem
    assert again.course is not None
    assert again.course.treatment == course.treatment
    assert again.course.options == course.options
    assert again.considered == problem.considered
    np.testing.assert_array_equal(again.drug_times, problem.drug_times)
    assert len(course.segments(12 * HOUR)) == len(again.course.segments(12 * HOUR))
    before, after = (p.solve(theta, p.forward(), tol=1e-4).pools for p in (problem, again))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_uptake_is_refitted_as_saturable_only_where_free_drug_is_high() -> None:
    problem = problem_of(given(PH_SENSITIVE))
    theta = problem.unknowns.prior_mean
    prediction = problem.predict(theta, problem.forward())
    pools, course = prediction.fields.pools, problem.course
    assert pools is not None
    assert course is not None
    assert not course.options.saturable

    def needed(factor: float) -> bool:
        there = replace(prediction, fields=replace(prediction.fields, pools=factor * pools))
        return needs_saturable_uptake(EngineFit(None, theta, problem, there))  # type: ignore[arg-type]

    free = pools[:, course.options.pools.index("free")][:, problem.contrast.voxels]
    to_limit = value("K_e") / float(free.max())
    assert not needed(1e-3 * to_limit)
    assert needed(to_limit)
    again = problem.course.with_saturable_uptake()  # type: ignore[union-attr]
    assert again.options.saturable
    assert again.options.pools == course.options.pools


@pytest.mark.parametrize(
    "treatment", [given(FREE), given(THERMOSENSITIVE, HEATED)], ids=["free", "heat"]
)
def test_a_model_error_is_refused_with_heat_or_free_drug(treatment: Treatment) -> None:
    problem = problem_of(treatment)
    validate_course(problem, FitSettings())
    with pytest.raises(InputError, match="without a model error") as error:
        validate_course(problem, FitSettings(model_error=0.1))
    assert error.value.field == "model_error"
    validate_course(problem_of(given(PH_SENSITIVE)), FitSettings(model_error=0.1))


def test_every_considered_distribution_is_that_of_the_table_or_formulation() -> None:
    considered = set_up_drug(given(PH_SENSITIVE), with_images=True).considered
    assert len(considered) > 15
    for symbol, distribution in considered.items():
        stated = PARAMETERS[symbol].distribution()
        assert stated is not None
        # a truncated logarithm could not be linearised near the ends of its range
        assert distribution.logarithmic == stated.logarithmic
        assert distribution.truncation_z == (np.inf if stated.logarithmic else stated.truncation_z)
        assert replace(distribution, truncation_z=stated.truncation_z) == stated, symbol


def test_without_a_treatment_there_are_no_drug_fields() -> None:
    setup = set_up_drug(None, with_images=False)
    assert setup.course is None
    fitted = SimpleNamespace(problem=SimpleNamespace(course=setup.course))
    assert derive_drug_fields(None, fitted) == {}  # type: ignore[arg-type]
