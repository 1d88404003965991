"""Three laws of survival: closed values, limits, and increments that add up to the integral."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.integrate import quad

from nanopinn.parameters import PARAMETERS
from nanopinn.physics.cell_kill import (
    KILL_MODELS,
    CellKillParameters,
    auc_increment,
    auc_survival,
    emax_increment,
    emax_survival,
    hill_survival,
)

E, M, F_MAX = 5e-13, 1.5, 1.67e-5


def number(*v: float) -> torch.Tensor:
    return torch.tensor(v, dtype=torch.float64)


def killed(C: torch.Tensor, dt: float) -> torch.Tensor:
    return sum(
        (emax_increment(a, b, dt, F_MAX, E) for a, b in itertools.pairwise(C)), torch.zeros(())
    )


def test_half_of_the_cells_survive_a_peak_at_the_ec50() -> None:
    S = hill_survival(number(0.0, E, 4 * E, 1e6 * E), E, M)
    assert S.tolist() == pytest.approx([1.0, 0.5, 1 / 9, 1e-9], rel=1e-8)


def test_the_kill_rate_is_half_its_maximum_at_the_ec50() -> None:
    day = emax_increment(number(E), number(E), 86400.0, F_MAX, E)
    assert float(day) == pytest.approx(F_MAX * 86400 / 2, rel=1e-12)
    assert float(emax_survival(day)) == pytest.approx(math.exp(-F_MAX * 43200), rel=1e-12)
    assert float(emax_increment(number(1e9 * E), number(1e9 * E), 1.0, F_MAX, E)) == pytest.approx(
        F_MAX, rel=1e-8
    )


def test_harashimas_tumour_halves_after_43_ng_h_per_mL_of_free_drug() -> None:
    """k = 16.2 1/h per ug/mL: ln 2/16.2 = 0.0428 ug h/mL leave half."""
    area = auc_increment(number(0.0), number(2e-3), 0.0427869 * 3600)
    assert float(auc_survival(area, PARAMETERS["k_kill_H"].value)) == pytest.approx(0.5, rel=1e-5)


def test_no_drug_kills_no_cells() -> None:
    none = number(0.0)
    assert float(hill_survival(none, E, M)) == 1.0
    assert float(emax_survival(emax_increment(none, none, 1e6, F_MAX, E))) == 1.0
    assert float(auc_survival(auc_increment(none, none, 1e6), 4.5)) == 1.0


def test_a_step_is_exact_where_the_concentration_is_linear() -> None:
    for a, b in ((0.0, 3.0), (3.0, 0.1), (0.2, 0.2), (1.0, 1.0 + 1e-5), (0.0, 1e-3)):
        exact = (
            quad(
                lambda t, a=a, b=b: F_MAX * (a + (b - a) * t) / (1 + a + (b - a) * t),
                0,
                1,
                epsabs=0,
                epsrel=1e-12,
            )[0]
            * 60
        )
        assert float(emax_increment(number(a * E), number(b * E), 60.0, F_MAX, E)) == pytest.approx(
            exact, rel=1e-9
        )


def test_increments_add_up_to_the_integral_of_a_curve_that_rises_and_falls() -> None:
    def C(t: float) -> float:
        return 4 * E * (t / 3600) * math.exp(1 - t / 3600)

    exact = quad(lambda t: F_MAX * C(t) / (E + C(t)), 0, 36000, epsabs=0, epsrel=1e-11, limit=200)[
        0
    ]
    errors = []
    for n in (100, 200):
        t = torch.linspace(0, 36000, n + 1, dtype=torch.float64)
        errors.append(
            abs(
                float(killed(torch.stack([number(C(float(s)))[0] for s in t]), 36000 / n)) / exact
                - 1
            )
        )
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)  # second order


def test_splitting_a_linear_step_changes_nothing() -> None:
    C = torch.linspace(0.1 * E, 7 * E, 9, dtype=torch.float64)
    assert float(killed(C, 10.0)) == pytest.approx(float(killed(C[[0, 8]], 80.0)), rel=1e-12)


def test_more_drug_kills_more_by_every_model() -> None:
    C = torch.logspace(-16, -10, 61, dtype=torch.float64)
    assert (hill_survival(C, E, M).diff() < 0).all()
    assert (emax_increment(C, 2 * C, 60.0, F_MAX, E).diff() > 0).all()
    assert (auc_survival(C * 1e10, 4.5).diff() < 0).all()


def test_the_resistance_of_quiescent_cells_scales_drug_or_time() -> None:
    C, q = number(2 * E), 3.0
    assert float(hill_survival(q * C, E, M, q)) == pytest.approx(
        float(hill_survival(C, E, M)), rel=1e-12
    )
    slow, fast = (emax_increment(C, C, dt, F_MAX, E, r) for dt, r in ((q * 60.0, q), (60.0, 1.0)))
    assert float(slow) == pytest.approx(float(fast), rel=1e-12)
    assert float(auc_survival(q * number(0.1), 4.5, q)) == pytest.approx(
        float(auc_survival(number(0.1), 4.5)), rel=1e-12
    )
    assert float(hill_survival(C, E, M, q)) > float(hill_survival(C, E, M))


def test_parameters_are_those_of_the_table_or_draws() -> None:
    table = CellKillParameters.from_values()
    assert table.m == pytest.approx(PARAMETERS["m_hill"].value)
    drawn = CellKillParameters.from_values(
        {"EC50_i": number(1e-13, 1e-12)[:, None], "res_q": number(1.0, 2.0)[:, None]}
    )
    S = hill_survival(number(1e-13, 1e-12, 1e-11), drawn.EC50, drawn.m, drawn.resistance)
    assert S.shape == (2, 3)
    assert float(S[0, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize("symbol", ["EC50_i", "f_max", "m_hill", "k_kill_H", "res_q"])
def test_the_prior_of_a_parameter_is_as_wide_as_its_range(symbol: str) -> None:
    p = PARAMETERS[symbol]
    assert p.prior is not None
    assert p.low is not None
    assert p.high is not None
    assert p.prior.kind == "lognormal"
    assert 2 * 1.96 * p.prior.sd == pytest.approx(math.log(p.high / p.low), rel=0.01)


def test_every_kill_model_gives_the_survival_of_its_accumulated_exposure() -> None:
    k = CellKillParameters(E, M, F_MAX, 4.5, 3.0)
    C = {"intracellular": number(0.0, E, 3 * E), "free": number(0.0, 1e-3, 2e-3)}
    exact = {
        "peak": lambda q: 1 / (1 + (3 / q) ** M),
        "rate": lambda q: math.exp(-float(killed(C["intracellular"][:, None], 60.0)) / q),
        "area": lambda q: math.exp(-4.5 / q * 2e-3 * 60.0),
    }
    assert list(KILL_MODELS) == list(exact)
    for key, model in KILL_MODELS.items():
        c = C[model.concentration][:, None]
        exposure = model.initial(c[0])
        assert float(model.survival(exposure, k, 1.0)) == 1.0
        for a, b in itertools.pairwise(c):
            exposure = model.accumulate(exposure, a, b, 60.0, k)
        for q in (1.0, 3.0):
            assert float(model.survival(exposure, k, q)) == pytest.approx(exact[key](q)), key
