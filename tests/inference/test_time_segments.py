"""Unknown functions of time that are constant between events: the release rate of voxels and rates
of systems of equations.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nanopinn.errors import InputError
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.neural_field import objective_gradient
from nanopinn.inference.observations import TimeSeries
from nanopinn.inference.ode_problem import SystemProblem
from nanopinn.inference.pinn.pinn_engine import fit_pinn
from nanopinn.inference.problem import EngineFit
from nanopinn.inference.saved_fit import FittedProblem, fit_from_bytes, fit_to_bytes
from nanopinn.inference.uncertainty.identifiability import describe_limits, linearise_at_prior
from nanopinn.inference.unknown_fields import add_unknown_functions, without_unknown_functions
from nanopinn.inference.unknowns import RELEASE_SD, PiecewiseConstantFunction, Unknown, UnknownSet
from nanopinn.parameters import value
from nanopinn.physics.formulation_library import PH_SENSITIVE
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.settings import FitSettings
from nanopinn.solvers.drug_course import bolus_course
from nanopinn.solvers.drug_forward import solve_drug, solve_drug_for_tissues
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.grid import Grid, average_subcells
from nanopinn.solvers.integrate import drug_nodes, split_at_jumps
from nanopinn.solvers.runge_kutta import SDIRK3
from nanopinn.solvers.tissue_setting import TissueSetting
from tests.variants import for_each

from .test_engines import small_problem

HOUR = 3600.0
#: Images of :func:`small_problem` are taken at 1 and 12 h, so the first jump is observed and the
#: second is after the last image.
ASKED = FitSettings(release_in_time=(3.0, 20.0))


@pytest.fixture(scope="module")
def plain() -> InverseProblem:
    return small_problem(n=8, off=0.0)[0]


@pytest.fixture(scope="module")
def problem(plain) -> InverseProblem:
    return add_unknown_functions(plain, ASKED)[0]


def stepped(problem: InverseProblem, step: float) -> InverseProblem:
    """The problem with drug images of a release rate that jumps by ``exp(step)`` at 3 h, from a
    finer grid and another scheme.
    """
    theta = problem.unknowns.prior_mean
    theta[problem.unknowns.names.index("release_1")] = step
    fine = replace(problem, setting=replace(problem.setting.refined(2), flow_refine=1))
    pools = fine.solve(theta, fine.forward(), scheme=SDIRK3).pools
    generator, images = torch.Generator().manual_seed(3), []
    for d in problem.drug:
        image = d.predict(
            average_subcells(pools[problem.node_index(d)], 2),
            problem.setting.maps,
            problem.plasma_at(d.time_s),
        )
        noise = d.noise_sd * torch.randn(image.shape, generator=generator, dtype=torch.float64)
        images.append(replace(d, measured=image + noise))
    return replace(problem, drug=tuple(images))


def test_a_step_in_the_release_rate_is_recovered_where_images_follow(
    problem,
) -> None:
    step = -0.8
    known = frozenset(problem.unknowns.names) - {
        "PS_l",
        "krel_ref",
        "k_on_DNA",
        "release_1",
        "release_2",
    }
    few = replace(problem, unknowns=problem.unknowns.without(known))
    fit = fit_fv(stepped(few, step))
    assert fit.run.converged
    seen, unseen = fit.run["release_1"], fit.run["release_2"]
    assert abs(np.log(seen.median) - step) < 3 * seen.sd
    assert seen.informed
    assert unseen.median == pytest.approx(1.0, abs=1e-9)
    assert unseen.sd == pytest.approx(RELEASE_SD, rel=1e-9)
    assert "release from 20 h over first does not affect any observation" in fit.run.message
    assert fit_of_one_rate(few, step).run.chi2 > fit.run.chi2 + 9, (
        "one rate explains the images too"
    )


def fit_of_one_rate(problem: InverseProblem, step: float) -> EngineFit:
    """The same images with a release rate that cannot jump."""
    return fit_fv(without_unknown_functions(stepped(problem, step)))


def test_tangents_of_time_segments_equal_central_differences(problem) -> None:
    p = add_unknown_functions(
        replace(problem, unknowns=replace(problem.unknowns, items=problem.unknowns.items[:-2])),
        FitSettings(release_in_time=(0.5, 3.0, 20.0)),
    )[0]
    theta = p.unknowns.prior_mean
    theta[-3:] = (0.4, -0.6, 0.2)
    forward = p.forward()
    J = p.predict(theta, forward, tangents=True).jacobian
    for j, name in enumerate(p.unknowns.names):
        along = 1e-4 * (np.arange(len(theta)) == j)
        difference = (
            p.predict(theta + along, forward).residual - p.predict(theta - along, forward).residual
        ) / 2e-4
        # as for scalars: linear solves to 1e-7 divided by a step of 1e-4
        assert float((difference - J[:, j]).norm()) <= 2e-4 * float(J.norm(dim=0).max()), name
    first, second, after = (float(J[:, j].norm()) for j in (-3, -2, -1))
    assert min(first, second) > 1.0
    assert after == 0.0


def test_the_adjoint_gradient_equals_the_gradient_from_the_tangents(problem) -> None:
    theta = problem.unknowns.prior_mean
    theta[-2:] = (-0.5, 0.3)
    expected = problem.quadratic(
        theta, problem.predict(theta, problem.forward(), tangents=True)
    ).gradient
    np.testing.assert_allclose(
        objective_gradient(problem, theta).theta,
        expected,
        rtol=0,
        atol=2e-5 * np.abs(expected).max(),
    )


def test_multipliers_of_one_change_only_the_time_nodes(plain, problem) -> None:
    nodes = problem.drug_times
    assert 3 * HOUR in nodes
    runs = []
    for p in (plain, problem):
        forward, theta = p.forward(), p.tensor(p.unknowns.prior_mean)
        runs.append(solve_drug(forward, theta, forward.solve_flow(theta), nodes))
    # the first stage after a jump is evaluated again: 1e-4 from the error of a step
    torch.testing.assert_close(runs[1].U, runs[0].U, rtol=1e-4, atol=1e-5 * float(runs[0].U.max()))
    assert runs[1].balance.error < 1e-9


@pytest.mark.parametrize("which", ["plain", "problem"])
def test_tangents_at_selected_times_keep_the_requested_order(
    which: str, request: pytest.FixtureRequest
) -> None:
    p: InverseProblem = request.getfixturevalue(which)
    forward, theta = p.forward(), p.tensor(p.unknowns.prior_mean)
    flow, nodes = forward.solve_flow(theta, tangents=True), p.drug_times
    jumps = [
        int(np.flatnonzero(nodes == t)[0]) for t in p.setting.release_jump_times_s if t < nodes[-1]
    ]
    asked = [len(nodes) - 2, 0, *jumps, 5, len(nodes) - 1, 5]
    every, some = (
        solve_drug(forward, theta, flow, nodes, tol=1e-7, tangents_at=at).tangents
        for at in (None, asked)
    )
    assert every is not None
    assert some is not None
    assert every.shape[:2] == (len(nodes), len(theta))
    assert all(bool(v.any()) for v in every[1:])
    torch.testing.assert_close(some, every[asked], rtol=0, atol=0)


@pytest.mark.parametrize("which", ["plain", "problem"])
def test_tissues_integrated_together_equal_tissues_integrated_alone(
    which: str, request: pytest.FixtureRequest
) -> None:
    p: InverseProblem = request.getfixturevalue(which)
    theta, maps = p.tensor(p.unknowns.prior_mean), p.setting.maps
    if which == "problem":
        theta[p.unknowns.names.index("release_1")] = 0.7
    others = (maps, replace(maps, pH=maps.pH - 0.3), replace(maps, phi=1.2 * maps.phi))
    forwards = [replace(p, setting=replace(p.setting, maps=m)).forward() for m in others]
    flow, nodes = forwards[0].solve_flow(theta), p.drug_times
    together = solve_drug_for_tissues(forwards, theta, flow, nodes)
    assert together.shape[:2] == (len(nodes), len(forwards))
    for i, forward in enumerate(forwards):
        alone = solve_drug(forward, theta, flow, nodes).U
        torch.testing.assert_close(together[:, i], alone, rtol=0, atol=1e-8 * float(alone.max()))
        assert i == 0 or float((together[:, i] - together[:, 0]).norm()) > 1e-3 * float(
            alone.norm()
        )


def test_the_local_response_is_recomputed_for_another_input_or_other_frames(plain) -> None:
    theta, forward = plain.tensor(plain.unknowns.prior_mean), plain.forward()
    flow = forward.solve_flow(theta)
    late = plain.frame_times + 0.5
    halved = replace(plain.aif, plasma_mM=plain.aif.plasma_mM / 2)
    whole = forward.solve_contrast(theta, flow, plain.aif, plain.frame_times)[0]
    later = forward.solve_contrast(theta, flow, plain.aif, late)[0]
    torch.testing.assert_close(
        later, plain.forward().solve_contrast(theta, flow, plain.aif, late)[0], rtol=0, atol=0
    )
    assert float((later - whole).norm()) > 1e-3 * float(whole.norm())
    torch.testing.assert_close(
        forward.solve_contrast(theta, flow, halved, late)[0], later / 2, rtol=1e-7, atol=1e-12
    )


def test_a_cell_whose_release_jumps_agrees_with_another_integrator() -> None:
    """Cells of one metre, between which transport is negligible."""
    one = torch.ones((3, 3, 3), dtype=torch.float64)
    centre = torch.zeros_like(one)
    centre[1, 1, 1] = 1.0
    setting = TissueSetting(
        TissueMaps(centre, 1e-30 * one, 0.3 * one, 0.03 * one, 6.8 * one),
        Grid((3, 3, 3), (1.0, 1.0, 1.0)),
        1,
        None,
        (2 * HOUR,),
    )
    rates = [
        float(
            TumourModel.from_maps(setting.maps, {"release_1": 3.0}).release_rate(segment=k)[1, 1, 1]
        )
        for k in (0, 1)
    ]
    assert rates[1] == pytest.approx(3 * rates[0], rel=1e-14)
    nodes = drug_nodes([1 * HOUR, 8 * HOUR], jumps_s=setting.release_jump_times_s)
    assert split_at_jumps(nodes, setting.release_jump_times_s)[1][0] == 2 * HOUR
    model = {"release_1": 3.0, "q": 1e-30}
    course = bolus_course(PH_SENSITIVE, value("Dose"))
    forward = ForwardModel(
        setting,
        lambda _: {k: torch.tensor(v, dtype=torch.float64) for k, v in model.items()},
        course=course,
    )
    none = torch.zeros(0, dtype=torch.float64)
    flow = forward.solve_flow(none)
    U = solve_drug(forward, none, flow, nodes).U[:, :, 1, 1, 1].numpy()

    # one cell by another integrator, with the wall influx of the same operator
    segments = course.segments(nodes[-1], setting.release_jump_times_s)
    pools = [forward.assemble_pools("drug", none, flow.p, s) for s in segments]
    curves = course.bolus_curves()

    def rate(k):
        def of(t, y):
            state = torch.as_tensor(y)[:, None, None, None] * one
            c = torch.stack([curve(torch.tensor(t, dtype=torch.float64)) for curve in curves])
            return ((pools[k][1].plasma_source(c) - pools[k][1](state)) / pools[k][0].capacity)[
                :, 1, 1, 1
            ].numpy()

        return of

    y, found = np.zeros(5), []
    for k, part in enumerate(split_at_jumps(nodes, setting.release_jump_times_s)):
        run = solve_ivp(rate(k), (part[0], part[-1]), y, "LSODA", part, rtol=1e-9, atol=1e-16)
        y = run.y[:, -1]
        found.append(run.y.T[1 if k else 0 :])
    expected = np.concatenate(found)
    error = np.abs(U - expected) / expected.max(axis=0)
    # free drug leaves the interstitium within a minute, so the first two steps of 2 min after a
    # jump are coarse
    settled = (nodes <= 2 * HOUR) | (nodes > 2 * HOUR + 250)
    # 1.0e-3 soon after the dose, before the first jump
    assert error[settled].max() < 2e-3
    assert error.max() < 0.03


def test_a_fit_with_time_segments_is_saved_and_restored(problem) -> None:
    again = fit_from_bytes(
        fit_to_bytes(FittedProblem(problem, problem.unknowns.prior_mean))
    ).problem
    assert again.setting.release_jump_times_s == (3 * HOUR, 20 * HOUR)
    assert again.unknowns == problem.unknowns


def test_assumptions_and_unobserved_time_segments_are_reported(plain, problem) -> None:
    notes = add_unknown_functions(plain, ASKED)[1]
    assert any("3, 20 h" in n and "assumption" in n for n in notes)
    unseen = next(n for n in notes if n.startswith("No drug image was taken after"))
    assert "release from 20 h" in unseen
    assert "3 to 20" not in unseen
    assert any(
        "no observation depends on" in t and "release from 20 h" in t
        for t in describe_limits(problem, linearise_at_prior(problem))
    )
    _, without = add_unknown_functions(replace(plain, drug=()), ASKED)
    assert any("3 to 20" in n and "release from 20 h" in n for n in without)


def test_a_problem_without_unknown_functions_has_no_time_segments(plain, problem) -> None:
    alone = without_unknown_functions(problem)
    assert (alone.unknowns, alone.setting.release_jump_times_s) == (plain.unknowns, ())


@for_each(
    "settings, words",
    [
        ({"release_in_time": (6.0, 6.0)}, "increase"),
        ({"release_in_time": (24.0, 6.0)}, "increase"),
        ({"release_in_time": ()}, "two segments"),
        ({"release_in_time": ""}, "two segments"),
        ({"release_in_time": (0.0, 6.0)}, "before the dose"),
        ({"release_in_time": (6.0, 48.0)}, "below 48 h"),
        ({"release_in_time": (6.0,), "model_error": 0.1}, "`model_error`"),
    ],
)
def test_invalid_release_times_are_refused(plain, settings, words) -> None:
    with pytest.raises(InputError, match=words):
        add_unknown_functions(plain, FitSettings(**settings))


def test_release_times_are_read_from_text() -> None:
    assert FitSettings(release_in_time="6, 24").release_in_time == (6.0, 24.0)
    with pytest.raises(ValueError, match="number"):
        FitSettings(release_in_time="six")


# --- systems of equations

INPUT = PiecewiseConstantFunction("input", (2.0, 5.0))
CLEARANCE = 0.4


def amount(t: np.ndarray, rates: tuple[float, ...], k: float = CLEARANCE) -> np.ndarray:
    """Amount in one compartment with piecewise constant input, closed form."""
    total = np.zeros_like(t)
    for start, end, r in zip((0.0, *INPUT.jumps), (*INPUT.jumps, np.inf), rates, strict=True):
        total += (
            r
            / k
            * (np.exp(-k * np.maximum(t - end, 0.0)) - np.exp(-k * np.maximum(t - start, 0.0)))
        )
    return total


def infusion(times: np.ndarray, measured: np.ndarray, sd: float) -> SystemProblem:
    """One compartment with three unknown input rates and an unknown clearance."""
    unknowns = UnknownSet((*INPUT.unknowns(1.0, 1.0), Unknown.with_prior("k", 0.3, 0.5)))
    series = TimeSeries.from_state("amount", times, measured, noise_sd=sd)
    return SystemProblem(
        unknowns,
        lambda t, y, s: INPUT.value_at(t, s) - s["k"] * y,
        lambda s: torch.zeros(1, dtype=torch.float64),
        (series,),
        events=INPUT.jumps,
        size=1.0,
        tolerance=1e-6,
    )


TIMES, RATES = np.arange(0.25, 10.0, 0.25), (0.5, 2.0, 0.2)


def by_another_integrator(rates: tuple[float, ...]) -> np.ndarray:
    y, found = [0.0], []
    for start, end, r in zip((0.0, *INPUT.jumps), (*INPUT.jumps, 10.0), rates, strict=True):
        run = solve_ivp(
            lambda t, y, r=r: r - CLEARANCE * y,
            (start, end),
            y,
            "DOP853",
            rtol=1e-10,
            atol=1e-12,
            dense_output=True,
        )
        found.append(run.sol(TIMES[(start < TIMES) & (end >= TIMES)])[0])
        y = run.y[:, -1]
    return np.concatenate(found)


def test_states_with_a_rate_that_jumps_equal_the_closed_form() -> None:
    problem = infusion(TIMES, 0 * TIMES, 0.02)
    theta = np.log([*RATES, CLEARANCE])
    states = problem.solve(theta, problem.solver()).states[:, 0]
    exact = amount(TIMES, RATES)
    np.testing.assert_allclose(by_another_integrator(RATES), exact, rtol=1e-8)
    # 1e-6 per step, some hundred steps
    np.testing.assert_allclose(states, exact, atol=1e-4 * exact.max())


def test_input_rates_between_events_are_recovered_from_independent_data() -> None:
    noise = 0.02 * np.random.default_rng(0).standard_normal(len(TIMES))
    fit = fit_fv(infusion(TIMES, by_another_integrator(RATES) + noise, 0.02))
    truth, sd = np.log([*RATES, CLEARANCE]), np.sqrt(np.diag(fit.run.covariance))
    assert fit.run.converged
    # four unknowns of one data set
    assert (np.abs(fit.theta - truth) < 3 * sd).all()
    assert (sd < 0.3).all()
    assert [s.name for s in fit.run.scalars] == ["input[0]", "input[1]", "input[2]", "k"]
    assert fit.problem.objective(fit.theta, fit.prediction) <= fit.problem.objective(
        truth, fit.problem.predict(truth, fit.problem.solver())
    )


def test_a_rate_after_the_last_observation_keeps_its_prior_and_is_named() -> None:
    early = INPUT.jumps[1] >= TIMES
    fit = fit_fv(infusion(TIMES[early], amount(TIMES, RATES)[early], 0.02))
    assert fit.run["input[2]"].median == pytest.approx(1.0)
    assert fit.run["input[2]"].contraction == pytest.approx(0.0, abs=1e-9)
    assert "input[2] does not affect any observation" in fit.run.message


def test_a_network_refuses_a_rate_that_jumps() -> None:
    with pytest.raises(InputError, match="jumps"):
        fit_pinn(infusion(TIMES, amount(TIMES, RATES), 0.02))


@pytest.mark.parametrize("jumps", [(), (2.0, 2.0), (5.0, 2.0)])
def test_invalid_time_segments_are_refused(jumps) -> None:
    with pytest.raises(InputError, match=r"increase|two segments"):
        PiecewiseConstantFunction("input", jumps)
