"""Systems of ordinary differential equations and equations on a line: problem and engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

from nanopinn.errors import InputError
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.observations import TimeSeries
from nanopinn.inference.ode_problem import SystemProblem, SystemSolver
from nanopinn.inference.pinn.networks import Perceptron
from nanopinn.inference.pinn.pinn_engine import PinnSettings, fit_pinn
from nanopinn.inference.unknowns import Unknown, UnknownSet
from nanopinn.physics.circulation import free_drug_impulse_response
from nanopinn.solvers.ode import ErrorTolerance, OdeSystem, integrate_ode
from nanopinn.solvers.runge_kutta import SDIRK3
from tests.variants import for_each

HOUR, DOSE = 3600.0, 5e-5


def three_compartments() -> dict[str, float]:
    """Clearance (m3/s), volumes (m3) and exchange (m3/s) of the published tri-exponential curve of
    free doxorubicin.
    """
    impulse = free_drug_impulse_response()
    A, k = np.array(impulse.amplitudes), np.array(impulse.rates)
    central = 1 / A.sum()
    others = [np.poly(np.delete(-k, i)) for i in range(3)]
    k21, k31 = np.sort(-np.roots(sum(a * p for a, p in zip(A, others, strict=True))))[::-1]
    k10 = k.prod() / (k21 * k31)
    # mammillary model: k12 + k13 and k12 k31 + k13 k21 follow from the sums of the rates
    total = k.sum() - k10 - k21 - k31
    mixed = k[0] * k[1] + k[0] * k[2] + k[1] * k[2] - k10 * (k21 + k31) - k21 * k31
    k12, k13 = np.linalg.solve([[1.0, 1.0], [k31, k21]], [total, mixed])
    return {
        "CL": k10 * central,
        "V1": central,
        "Q2": k12 * central,
        "V2": k12 * central / k21,
        "Q3": k13 * central,
        "V3": k13 * central / k31,
    }


def plasma_rate(t, y, s):
    C1, C2, C3 = y
    to2, to3 = s["Q2"] * (C1 - C2), s["Q3"] * (C1 - C3)
    return torch.stack([-(s["CL"] * C1 + to2 + to3) / s["V1"], to2 / s["V2"], to3 / s["V3"]])


def plasma_start(s):
    return torch.stack([DOSE / s["V1"], 0 * s["V1"], 0 * s["V1"]])


def plasma_problem(noise: float = 0.05, seed: int = 0) -> tuple[SystemProblem, np.ndarray]:
    truth = three_compartments()
    unknowns = UnknownSet(
        tuple(
            Unknown.with_prior(k, 1.6 * v if k in ("CL", "V2", "Q3") else v / 1.5, 0.8)
            for k, v in truth.items()
        )
    )
    times = HOUR * np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2, 3, 5, 8, 12, 18, 24, 36, 48])
    exact = DOSE * free_drug_impulse_response()(torch.as_tensor(times)).numpy()
    measured = exact * (1 + noise * np.random.default_rng(seed).standard_normal(len(times)))
    series = TimeSeries.from_state("plasma", times, measured, noise_sd=noise * exact)
    return SystemProblem(unknowns, plasma_rate, plasma_start, (series,), tolerance=2e-6), np.log(
        list(truth.values())
    )


def growth_rate(t, y, s):
    return s["growth"] * y * (1 - y / s["capacity"])


def growth(t, growth, capacity, first=50.0):
    return capacity / (1 + (capacity / first - 1) * np.exp(-growth * t))


def growth_problem(
    seed: int = 0, noise_sd: float | None = 20.0, start=lambda s: torch.tensor([50.0]), extra=()
) -> SystemProblem:
    unknowns = UnknownSet(
        (Unknown.with_prior("growth", 0.3, 1.0), Unknown.with_prior("capacity", 600.0, 1.0), *extra)
    )
    times = np.arange(1.0, 22.0, 1.5)
    measured = growth(times, 0.2, 1000.0) + 20.0 * np.random.default_rng(seed).standard_normal(
        len(times)
    )
    series = TimeSeries.from_state("volume", times, measured, noise_sd=noise_sd)
    return SystemProblem(unknowns, growth_rate, start, (series,), tolerance=1e-4)


def front(cells: int = 30, tolerance: float = 1e-6) -> SystemProblem:
    """Two reacting species that diffuse in from the left, measured at a few times in every third
    cell.
    """
    x = (np.arange(cells) + 0.5) / cells

    def rate(t, y, s):
        u = y.reshape(cells, 2)
        padded = torch.cat(
            [2 - u[:1], u, u[-1:]]
        )  # concentration one at the left face, no flux at the right
        reaction = s["kf"] * u[:, 0] * u[:, 1] ** 2
        return (
            s["D"] * cells**2 * (padded[2:] - 2 * u + padded[:-2])
            - torch.stack([reaction, 2 * reaction], 1)
        ).reshape(-1)

    unknowns = UnknownSet((Unknown.with_prior("D", 1e-3, 1.0), Unknown.with_prior("kf", 0.05, 1.0)))
    start = torch.as_tensor(np.repeat(np.exp(-5 * x), 2))
    seen = np.arange(0, 2 * cells, 3)
    blank = TimeSeries("species", np.linspace(0.5, 10.0, 12), np.zeros((12, len(seen))), seen, 5e-3)
    return SystemProblem(
        unknowns, rate, lambda s: start, (blank,), positions=x, tolerance=tolerance
    )


def with_data(problem: SystemProblem, truth: np.ndarray, sd: float) -> SystemProblem:
    """Data from another integrator (scipy's LSODA), with noise."""
    series, th = problem.series[0], torch.as_tensor(truth)
    y0 = problem.start_values(th)[0]

    def rate(t, y):
        return problem.rate_at(torch.tensor(t), torch.as_tensor(y), th).numpy()

    states = solve_ivp(
        rate, (0, series.times[-1]), y0, "LSODA", series.times, rtol=1e-9, atol=1e-11
    ).y.T
    noise = sd * np.random.default_rng(0).standard_normal(series.measured.shape)
    made = TimeSeries(
        series.name,
        series.times,
        series.predict_from_states(states) + noise,
        series.observed_states,
        sd,
    )
    return SystemProblem(
        problem.unknowns, problem.rate, problem.initial, (made,), positions=problem.positions
    )


def test_three_compartments_reproduce_the_published_exponentials() -> None:
    problem, truth = plasma_problem()
    states = SystemSolver(1e-6).solve(problem, truth, tangents=False).states[:, 0]
    exact = DOSE * free_drug_impulse_response()(torch.as_tensor(problem.times)).numpy()
    # 1e-6 of the initial concentration per step, some 100 steps
    np.testing.assert_allclose(
        states, exact, atol=1e-4 * DOSE * sum(free_drug_impulse_response().amplitudes)
    )


@pytest.mark.parametrize("scheme", [None, SDIRK3])
def test_tangents_equal_central_differences_with_the_same_steps(scheme) -> None:
    problem = front(12)
    theta, times = torch.tensor([-6.0, -2.0], dtype=torch.float64), np.linspace(0.0, 5.0, 23)
    y0, d_y0 = problem.start_values(theta)
    accuracy = ErrorTolerance(1e-5, problem.sizes)

    def solve(th, **options):
        return integrate_ode(
            OdeSystem(problem.rate_at, th, len(y0), problem.band),
            0.0,
            y0,
            d_y0,
            times,
            accuracy,
            **options,
        )

    nodes = solve(theta).nodes
    options = {"nodes": nodes} if scheme is None else {"nodes": nodes, "scheme": scheme}
    exact = solve(theta, tangents=True, **options).tangents
    for j in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[j] = 1e-5
        difference = (
            solve(theta + step, **options).states - solve(theta - step, **options).states
        ) / 2e-5
        # Newton iterations end at 1e-8; divided by a step of 1e-5 this bounds the error by 1e-3,
        # and the actual error is far smaller
        np.testing.assert_allclose(exact[..., j], difference, atol=1e-6 * np.abs(exact).max())


def test_the_error_falls_with_the_square_of_the_step() -> None:
    rate = lambda t, y, th: torch.stack([-50 * (y[0] - torch.cos(t)), y[0] - y[1]])  # noqa: E731
    system = OdeSystem(rate, torch.zeros(0, dtype=torch.float64), 2)
    exact = solve_ivp(
        lambda t, y: [-50 * (y[0] - np.cos(t)), y[0] - y[1]],
        (0, 2),
        [1.0, 0.0],
        "Radau",
        [2.0],
        rtol=1e-11,
        atol=1e-12,
    ).y[:, -1]
    errors = []
    for n in (40, 80, 160):
        run = integrate_ode(
            system,
            0.0,
            np.array([1.0, 0.0]),
            np.zeros((2, 0)),
            np.array([2.0]),
            ErrorTolerance(1e-8, np.ones(2)),
            nodes=np.linspace(0, 2, n + 1),
        )
        errors.append(np.abs(run.states[-1] - exact).max())
    assert errors[0] / errors[1] > 3.4
    assert errors[1] / errors[2] > 3.4


def test_steps_end_at_events_so_that_the_end_of_an_infusion_is_exact() -> None:
    rate = lambda t, y, th: (t < 1.0).to(torch.float64) - 0.5 * y  # noqa: E731
    system = OdeSystem(rate, torch.zeros(0, dtype=torch.float64), 1)
    times = np.array([0.5, 1.0, 3.0])
    found = integrate_ode(
        system,
        0.0,
        np.zeros(1),
        np.zeros((1, 0)),
        times,
        ErrorTolerance(1e-8, np.ones(1)),
        events=(1.0,),
    ).states[:, 0]
    end = 2 * (1 - np.exp(-0.5))
    # 1e-8 per step, some three hundred steps
    np.testing.assert_allclose(found, [2 * (1 - np.exp(-0.25)), end, end * np.exp(-1.0)], atol=3e-6)


def test_clearance_and_volumes_agree_with_an_independent_least_squares_fit() -> None:
    problem, truth = plasma_problem()
    fit = fit_fv(problem, iterations=30, tolerance=0.03)
    mean, sd = problem.unknowns.prior_mean, problem.unknowns.prior_sd
    series = problem.series[0]

    def residual(theta):
        CL, V1, Q2, V2, Q3, V3 = np.exp(theta)
        M = np.array(
            [
                [-(CL + Q2 + Q3) / V1, Q2 / V1, Q3 / V1],
                [Q2 / V2, -Q2 / V2, 0],
                [Q3 / V3, 0, -Q3 / V3],
            ]
        )
        run = solve_ivp(
            lambda t, y: M @ y,
            (0, series.times[-1]),
            [DOSE / V1, 0, 0],
            "LSODA",
            series.times,
            rtol=1e-9,
            atol=1e-14,
        )
        return np.concatenate(
            [(run.y[0] - series.measured[:, 0]) / series.noise_sd[:, 0], (theta - mean) / sd]
        )

    other = least_squares(residual, mean, jac="3-point", diff_step=1e-4, x_scale=sd, xtol=1e-12)
    posterior = np.sqrt(np.diag(fit.run.covariance))
    assert fit.run.converged
    # the error of the states is 1e-4 of the initial concentration, the noise 5e-2 of each value
    assert (np.abs(fit.theta - other.x) < 0.1 * posterior).all()
    np.testing.assert_allclose(
        fit.run.covariance, np.linalg.inv(other.jac.T @ other.jac), atol=0.05 * posterior.max() ** 2
    )
    # six unknowns of one data set
    assert (np.abs(fit.theta - truth) < 3 * posterior).all()
    assert abs(fit.run["CL"].median / np.exp(truth[0]) - 1) < 0.1


def test_posteriors_of_growth_have_their_nominal_coverage() -> None:
    truth = np.log([0.2, 1000.0])
    distances = []
    for seed in range(16):
        fit = fit_fv(growth_problem(seed))
        distances.append(
            (fit.theta - truth) @ np.linalg.solve(fit.run.covariance, fit.theta - truth)
        )
    # the mean of 16 chi-square numbers of two degrees is 2 with an sd of 2/sqrt(16)
    assert np.mean(distances) == pytest.approx(2.0, abs=3 * 2 / 16**0.5)


def test_noise_that_was_not_given_is_estimated() -> None:
    found = [fit_fv(growth_problem(seed, noise_sd=None)).problem.noise[0] for seed in range(8)]
    # 14 numbers each, 12 degrees of freedom: sd 20/sqrt(2 12 8)
    assert np.mean(found) == pytest.approx(20.0, abs=4 * 20 / (2 * 12 * 8) ** 0.5)


def test_initial_states_can_be_unknowns_and_idle_unknowns_are_reported() -> None:
    extra = (Unknown.with_prior("first", 80.0, 1.0), Unknown.with_prior("idle", 1.0, 0.5))
    fit = fit_fv(growth_problem(start=lambda s: s["first"][None], extra=extra))
    assert abs(np.log(fit.run["first"].median / 50.0)) < 3 * fit.run["first"].sd
    assert fit.run["idle"].median == pytest.approx(1.0)
    assert "idle does not affect any observation" in fit.run.message
    assert "growth" not in fit.run.message


def test_diffusion_and_reaction_are_recovered_from_data_of_another_integrator() -> None:
    truth = np.log([2e-3, 0.1])
    problem = with_data(front(), truth, 5e-3)
    fit = fit_fv(problem)
    assert (np.abs(fit.theta - truth) < 3 * np.sqrt(np.diag(fit.run.covariance))).all()


def test_the_jacobian_of_the_network_equals_central_differences() -> None:
    rng = np.random.default_rng(0)
    net = Perceptron((3, 5, 4, 2))
    w, z, dz = (
        rng.standard_normal(net.count),
        rng.standard_normal((7, 3)),
        rng.standard_normal((7, 3)),
    )
    exact = net(w, z, dz, jacobian=True)
    for j in range(net.count):
        step = 1e-6 * (np.arange(net.count) == j)
        up, down = (net(w + s, z, dz, jacobian=False) for s in (step, -step))
        np.testing.assert_allclose(
            exact.value_jacobian[..., j], (up.value - down.value) / 2e-6, atol=1e-8
        )
        np.testing.assert_allclose(
            exact.rate_jacobian[..., j], (up.rate - down.rate) / 2e-6, atol=1e-8
        )


@pytest.mark.parametrize("noise_sd", [20.0, None])
def test_the_network_and_gauss_newton_agree_on_growth(noise_sd) -> None:
    problem = growth_problem(noise_sd=noise_sd)
    fv, pinn = fit_fv(problem), fit_pinn(problem)
    sd = np.sqrt(np.diag(fv.run.covariance))
    assert (np.abs(pinn.theta - fv.theta) < 0.3 * sd).all()
    np.testing.assert_allclose(np.sqrt(np.diag(pinn.run.covariance)), sd, rtol=0.2)


def test_the_network_and_gauss_newton_agree_on_diffusion_and_reaction() -> None:
    usual = front(10)
    blank = TimeSeries(
        "species", np.linspace(0.25, 10.0, 24), np.zeros((24, 20)), np.arange(20), 2e-3
    )
    problem = with_data(replace(usual, series=(blank,)), np.log([2e-3, 0.1]), 2e-3)
    fv, pinn = (
        fit_fv(problem),
        fit_pinn(problem, settings=PinnSettings(hidden=(24,), times=16, iterations=50)),
    )
    # the start is 0.7 away in the logarithm; two thirds of the times are used, and the error of the
    # network is 1 % (docs/inference.md)
    assert (np.abs(pinn.theta - fv.theta) < 0.03).all()


@for_each(
    "change, words",
    [
        (lambda: TimeSeries.from_state("v", [1.0, 2.0], [1.0, np.inf]), "infinite"),
        (lambda: TimeSeries.from_state("v", [1.0, 2.0], [np.nan, np.nan]), "no finite values"),
        (lambda: TimeSeries.from_state("v", [2.0, 1.0], [1.0, 1.0]), "increase"),
        (lambda: TimeSeries.from_state("v", [1.0, 2.0], [1.0, 1.0], noise_sd=0.0), "positive"),
        (lambda: TimeSeries("v", np.array([1.0]), np.ones((2, 1)), np.array([0]), None), "match"),
        (lambda: Unknown.with_prior("k", -1.0, 1.0), "median"),
        (lambda: Unknown.with_prior("k", 1.0, 0.0), "positive standard deviation"),
    ],
)
def test_invalid_series_and_priors_are_refused(change, words) -> None:
    with pytest.raises(InputError, match=words):
        change()


@for_each(
    "options, words",
    [
        ({"start": 5.0}, "begins before the initial time"),
        ({"series": ()}, "no measured series"),
        (
            {"rate": lambda t, y, s: torch.zeros(2, dtype=torch.float64)},
            "one finite double-precision value",
        ),
        ({"rate": lambda t, y, s: y / 0}, "one finite double-precision value"),
        ({"initial": lambda s: torch.tensor([0.0])}, "size of the states"),
        (
            {"series": (TimeSeries.from_state("v", [1.0], [1.0], state=3),)},
            "observes states that do not exist",
        ),
    ],
)
def test_invalid_problems_are_refused(options, words) -> None:
    usual = growth_problem()
    given = {"rate": usual.rate, "initial": usual.initial, "series": usual.series, **options}
    with pytest.raises(InputError, match=words):
        SystemProblem(usual.unknowns, **given)


def test_cells_coupled_beyond_the_stencil_are_refused() -> None:
    usual = front(12)
    far = lambda t, y, s: usual.rate(t, y, s) + 1e-3 * y.mean()  # noqa: E731
    with pytest.raises(InputError, match="coupled beyond"):
        SystemProblem(usual.unknowns, far, usual.initial, usual.series, positions=usual.positions)
