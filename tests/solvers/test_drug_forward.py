"""Drug over the segments of a treatment: exact tangents, superposition, limits, and agreement with
another stepping.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanopinn.inference.drug_setup import set_up_drug
from nanopinn.inference.unknowns import UnknownSet
from nanopinn.parameters import SCALARS, Prior, ScalarDefinition
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_library import FREE, PEGYLATED, PH_SENSITIVE, THERMOSENSITIVE
from nanopinn.physics.heat import scheduled_temperature
from nanopinn.physics.plasma import Dose
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.treatment import Fraction, GivenDose, Heating, RadiationCourse, Treatment
from nanopinn.solvers import drug_course
from nanopinn.solvers.drug_course import DrugCourse, bolus_course
from nanopinn.solvers.drug_forward import solve_drug
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.integrate import drug_nodes
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.time_partition import VOXEL_LIMITS
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.solvers.treatment_timeline import TreatmentTimeline

HOUR, MINUTE = 3600.0, 60.0
DOSE_KG = 90e-6
#: A heating to 42 C from the dose on, whose rise and fall take 5 min each.
HEATED = Heating(0.0, 30 * MINUTE, 5 * MINUTE, "imposed", 315.15)


def tissue(n: int = 5) -> TissueSetting:
    """A heterogeneous ball of tumour in ``n^3`` voxels of 0.6 mm."""
    h, generator = 0.6e-3, torch.Generator().manual_seed(5)
    x = (torch.arange(n, dtype=torch.float64) + 0.5) * h - n * h / 2
    r = torch.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2)

    def rough(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(r.shape, generator=generator, dtype=torch.float64)

    maps = TissueMaps(
        (r < (n / 2 - 1) * h).double(),
        rough(5e-4, 3e-3),
        rough(0.15, 0.4),
        rough(0.01, 0.05),
        rough(6.5, 7.2),
    )
    return TissueSetting(maps, Grid((n, n, n), (h, h, h)), 1)


def treatment_of(
    formulation: Formulation,
    *doses: Dose,
    heatings: tuple[Heating, ...] = (),
    fractions: tuple[Fraction, ...] = (),
) -> Treatment:
    return Treatment(
        tuple(GivenDose(formulation, d) for d in doses or (Dose(0.0, DOSE_KG),)),
        heatings,
        RadiationCourse(fractions),
        (),
        24 * HOUR,
    )


def fitted_course(treatment: Treatment, setting: TissueSetting) -> tuple[DrugCourse, UnknownSet]:
    """The course of a fit and its unknowns; the tumour is heated as a whole."""
    setup = set_up_drug(treatment, with_images=True)
    course = setup.course
    assert course is not None
    for h in treatment.heatings:
        assert h.temperature_K is not None
        temperature = scheduled_temperature(
            setting.maps.tumour, h.temperature_K, h.start_s, h.end_s, h.ramp_s
        )
        course = replace(course, temperature=temperature)
    return course, setup.unknowns


def nodes_of(course: DrugCourse, times_s: list[float], **steps: float) -> np.ndarray:
    marks = [s.start for s in course.segments(max(times_s))]
    given = {"first_step_s": course.first_step_s, **steps}
    return drug_nodes(times_s, **given, jumps_s=course.jumps(), marks_s=marks)


def pools_at_end(course: DrugCourse, nodes: np.ndarray) -> torch.Tensor:
    """Pools at the last node with the scalars of the table."""
    forward, none = (
        ForwardModel(tissue(), lambda _: {}, course=course),
        torch.zeros(0, dtype=torch.float64),
    )
    return solve_drug(forward, none, forward.solve_flow(none), nodes).U[-1]


COURSES = {
    "free drug": treatment_of(FREE),
    "heated carrier in irradiated tissue": treatment_of(
        THERMOSENSITIVE, heatings=(HEATED,), fractions=(Fraction(2 * HOUR, 8.0),)
    ),
    "two doses, one infused": treatment_of(
        PEGYLATED, Dose(0.0, DOSE_KG, 30 * MINUTE), Dose(2 * HOUR, DOSE_KG / 2)
    ),
    "acid": treatment_of(PH_SENSITIVE),
}


#: A scalar that belongs to each kind of formulation.
ACTING = {
    "free drug": "P_f_factor",
    "heated carrier in irradiated tissue": "leak_factor",
    "two doses, one infused": "leak_factor",
    "acid": "krel_ref",
}


@pytest.mark.parametrize("name", COURSES)
def test_tangents_over_a_treatment_equal_central_differences(name: str) -> None:
    setting = tissue()
    course, unknowns = fitted_course(COURSES[name], setting)
    forward = ForwardModel(setting, unknowns.scalars, course=course)
    nodes = nodes_of(course, [HOUR, 3 * HOUR])
    theta = torch.as_tensor(unknowns.prior_mean)
    at = [int(np.argmin(np.abs(nodes - HOUR))), len(nodes) - 1]
    assert len(course.segments(nodes[-1])) >= {
        "free drug": 1,
        "acid": 1,
        "two doses, one infused": 3,
    }.get(name, 6)

    def pools(th: torch.Tensor) -> torch.Tensor:
        return solve_drug(forward, th, forward.solve_flow(th), nodes, tol=1e-11).U[at]

    flow = forward.solve_flow(theta, tangents=True)
    run = solve_drug(forward, theta, flow, nodes, tol=1e-11, tangents_at=at)
    assert run.tangents is not None
    sizes = run.U[at].transpose(0, 1).flatten(1).norm(dim=1)
    acting = set()
    for j, unknown in enumerate(unknowns.names):
        step = 1e-4 * torch.eye(len(theta), dtype=torch.float64)[j]
        difference = (pools(theta + step) - pools(theta - step)) / 2e-4
        error, size = (
            d.transpose(0, 1).flatten(1).norm(dim=1) / sizes
            for d in (difference - run.tangents[:, j], difference)
        )
        # one-sided differences of saturable transfers over a step of 1e-4 leave 1e-4
        assert bool((error <= 2e-4 * size.clamp_min(0.1)).all()), (unknown, error, size)
        if float(size.max()) > 0.01:
            acting.add(unknown)
    assert acting >= {"q", "k_on_DNA", ACTING[name]}, acting
    assert "p_e" not in acting


def test_tangents_of_a_factor_on_saturable_uptake_equal_central_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No unknown of the package changes a saturable transfer; one of the user's own may."""
    factor = ScalarDefinition(
        name="Vmax_factor",
        label="uptake by cells over table",
        unit="1",
        per_unit=1.0,
        group="cells",
        multiplies="Vmax",
        stated_default=1.3,
        stated_prior=Prior("lognormal", 0.5),
    )
    monkeypatch.setitem(SCALARS, factor.name, factor)
    setting = tissue()
    course, unknowns = fitted_course(treatment_of(FREE), setting)
    assert course.options.saturable
    forward = ForwardModel(setting, unknowns.scalars, course=course)
    nodes, theta = nodes_of(course, [0.5 * HOUR]), torch.as_tensor(unknowns.prior_mean)
    step = 1e-3 * torch.tensor([float(n == factor.name) for n in unknowns.names]).double()

    def pools(th: torch.Tensor) -> torch.Tensor:
        return solve_drug(forward, th, forward.solve_flow(th), nodes, tol=1e-11).U[-1]

    flow = forward.solve_flow(theta, tangents=True)
    tangents = solve_drug(forward, theta, flow, nodes, tol=1e-11).tangents
    assert tangents is not None
    found = tangents[-1, unknowns.names.index(factor.name)]
    difference = (pools(theta + step) - pools(theta - step)) / 2e-3
    # transfers are differentiated to one side over a step of 1e-4
    assert float((found - difference).norm()) < 3e-4 * float(difference.norm())
    assert float(difference.norm()) > 0.1 * float(pools(theta).norm())


def test_two_doses_are_the_sum_of_single_doses_for_linear_pools() -> None:
    first, second = Dose(0.0, DOSE_KG), Dose(5 * HOUR, DOSE_KG / 3, 20 * MINUTE)
    both, *alone = (
        DrugCourse(treatment_of(PEGYLATED, *doses))
        for doses in ((first, second), (first,), (second,))
    )
    nodes = nodes_of(both, [12 * HOUR])
    assert {5 * HOUR, 5 * HOUR + 20 * MINUTE} <= set(nodes)
    together = pools_at_end(both, nodes)
    parts = [pools_at_end(course, nodes) for course in alone]
    torch.testing.assert_close(
        together, parts[0] + parts[1], rtol=0, atol=1e-8 * float(together.max())
    )
    assert float(parts[1].norm()) > 0.1 * float(parts[0].norm())


def test_a_short_infusion_approaches_a_bolus_in_proportion_to_its_duration() -> None:
    bolus = bolus_course(PH_SENSITIVE, DOSE_KG)
    apart = []
    for duration in (5 * MINUTE, 20 * MINUTE):
        infused = DrugCourse(
            treatment_of(PH_SENSITIVE, Dose(0.0, DOSE_KG, duration)), bolus.options
        )
        nodes = nodes_of(infused, [6 * HOUR], first_step_s=30.0, longest_s=600.0)
        expected = pools_at_end(bolus, nodes)
        difference = pools_at_end(infused, nodes) - expected
        apart.append(float(difference.norm() / expected.norm()))
    assert apart[0] < 0.02
    assert apart[1] == pytest.approx(4 * apart[0], rel=0.1)


#: Segments within which coefficients change by a few per cent.
FINE = replace(VOXEL_LIMITS, release_change=0.03, log_factor_change=0.05)


def by_adaptive_steps(
    treatment: Treatment, course: DrugCourse, unknowns: UnknownSet, times_s: list[float]
) -> dict[str, torch.Tensor]:
    """Pools of a simulation, with its own segments and steps controlled by their error."""
    scalars = {
        name: float(v) for name, v in unknowns.scalars(torch.as_tensor(unknowns.prior_mean)).items()
    }
    timeline = TreatmentTimeline(tissue(), scalars, treatment, course.temperature, limits=FINE)
    run = integrate_adaptive(
        timeline.intervals(), timeline.zero_pools(), times_s, tolerance=Tolerance(step=1e-5)
    )
    return {name: run.U[:, i] for i, name in enumerate(timeline.detail.pools)}


@pytest.mark.parametrize("heated", [False, True], ids=["free drug", "heated carrier"])
def test_a_treatment_agrees_with_steps_controlled_by_their_error(
    heated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, times = tissue(), [HOUR, 4 * HOUR]
    treatment = treatment_of(THERMOSENSITIVE, heatings=(HEATED,)) if heated else treatment_of(FREE)
    treatment = replace(treatment, end_s=times[-1])
    course, unknowns = fitted_course(treatment, setting)
    forward = ForwardModel(setting, unknowns.scalars, course=course)
    theta = torch.as_tensor(unknowns.prior_mean)
    exact = by_adaptive_steps(treatment, course, unknowns, times)
    # a simulation has microvessels, which the fit needs too where plasma brings the free drug
    assert set(course.options.pools) == set(exact)

    def errors(**steps: float) -> dict[str, float]:
        nodes = nodes_of(course, times, **steps)
        run = solve_drug(forward, theta, forward.solve_flow(theta), nodes)
        assert run.balance.error < 1e-6
        found = run.U[[int(np.argmin(np.abs(nodes - t))) for t in times]]
        return {
            name: float((found[:, i] - exact[name]).norm() / exact[name].norm())
            for i, name in enumerate(course.options.pools)
        }

    # in the segments of a fit the factors of heat on the wall change by up to 0.3 in the
    # logarithm, which the carrier that entered meanwhile shows; and the first step after a bolus
    # of free drug takes 30 s, of which normal tissue shows a per cent after an hour
    ordinary = errors()
    assert ordinary.get("encapsulated", 0.0) < 0.06, ordinary
    assert max(e for name, e in ordinary.items() if name != "encapsulated") < 0.02, ordinary
    monkeypatch.setattr(drug_course, "FIT_LIMITS", FINE)
    fine = errors(first_step_s=5.0 if heated else 2.0, longest_s=600.0 if heated else 300.0)
    assert max(fine.values()) < 4e-3, fine


def test_saturable_uptake_lowers_the_drug_in_cells_at_a_high_dose() -> None:
    """Uptake that saturates is below its linear range, and equals it at a low dose."""
    ratios = []
    for dose in (DOSE_KG, 1e-4 * DOSE_KG):
        treatment = treatment_of(FREE, Dose(0.0, dose))
        saturable, _ = fitted_course(treatment, tissue())
        assert saturable.options.saturable
        linear = replace(saturable, options=replace(saturable.options, saturable=False))
        nodes = nodes_of(saturable, [30 * MINUTE])
        cells = [
            pools_at_end(c, nodes)[c.options.pools.index("intracellular")].sum()
            for c in (saturable, linear)
        ]
        ratios.append(float(cells[0] / cells[1]))
    assert ratios[0] < 0.95
    assert ratios[1] == pytest.approx(1.0, abs=1e-3)


def test_a_segment_of_the_treatment_without_its_node_is_refused() -> None:
    course = DrugCourse(treatment_of(PEGYLATED, Dose(0.0, DOSE_KG), Dose(2 * HOUR, DOSE_KG)))
    with pytest.raises(ValueError, match="time node is required"):
        pools_at_end(course, np.array([0.0, HOUR, 3 * HOUR]))


def test_a_model_without_a_course_has_no_drug() -> None:
    forward, none = ForwardModel(tissue(), lambda _: {}), torch.zeros(0, dtype=torch.float64)
    with pytest.raises(ValueError, match="course"):
        forward.assemble_pools("drug", none, forward.solve_flow(none).p)


def test_plasma_of_a_bolus_course_is_that_of_its_formulation() -> None:
    t = torch.tensor([0.0, 10.0, 3600.0, 1e6], dtype=torch.float64)
    for formulation in (PH_SENSITIVE, THERMOSENSITIVE):
        plasma = formulation.plasma((Dose(0.0, DOSE_KG),))
        encapsulated, unbound = bolus_course(formulation, DOSE_KG).bolus_curves()
        torch.testing.assert_close(encapsulated(t), plasma.encapsulated(t), rtol=1e-12, atol=0)
        torch.testing.assert_close(unbound(t)[1:], plasma.unbound()(t)[1:], rtol=1e-12, atol=0)
