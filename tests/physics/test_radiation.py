"""Radiation factors: 1 without fractions, products over fractions, positive, and back to 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.parameters import PARAMETERS, value
from nanopinn.physics.treatment import (
    RADIATION_FACTOR_SYMBOLS,
    Fraction,
    RadiationCourse,
    rise_and_recovery,
)

DAY = 86400.0
FRACTIONS = (Fraction(0.0, 2.0), Fraction(DAY, 2.0), Fraction(3 * DAY, 8.0))


def test_without_fractions_nothing_changes() -> None:
    assert RadiationCourse().modifiers(1e5) == dict.fromkeys(RADIATION_FACTOR_SYMBOLS, 1.0)


def test_before_the_first_fraction_nothing_changes() -> None:
    assert RadiationCourse((Fraction(10.0, 5.0),)).modifiers(10.0) == dict.fromkeys(
        RADIATION_FACTOR_SYMBOLS, 1.0
    )


def test_one_reference_fraction_reaches_its_factor_at_the_time_of_the_peak() -> None:
    course = RadiationCourse((Fraction(100.0, value("RT_D")),))
    found = course.modifiers(100.0 + value("RT_t_peak"))
    assert found == pytest.approx(
        {name: value(symbol) for name, symbol in RADIATION_FACTOR_SYMBOLS.items()}, rel=1e-12
    )
    t = np.linspace(0, 10 * DAY, 2001)
    assert max(t, key=lambda s: course.modifiers(s)["P"]) == pytest.approx(
        100.0 + value("RT_t_peak"), abs=t[1]
    )


def test_fractions_multiply() -> None:
    t = 4.3 * DAY
    single = [RadiationCourse((f,)).modifiers(t) for f in FRACTIONS]
    found = RadiationCourse(FRACTIONS).modifiers(t)
    assert found == pytest.approx(
        {name: math.prod(m[name] for m in single) for name in RADIATION_FACTOR_SYMBOLS}, rel=1e-12
    )
    assert found["P"] > max(m["P"] for m in single)


def test_the_effect_grows_with_dose_in_the_logarithm() -> None:
    two, eight = (RadiationCourse((Fraction(0.0, D),)).modifiers(DAY)["P"] for D in (2.0, 8.0))
    assert math.log(eight) == pytest.approx(4 * math.log(two), rel=1e-12)


def test_modifiers_are_positive_and_return_to_one() -> None:
    course = RadiationCourse(FRACTIONS, peaks=dict.fromkeys(RADIATION_FACTOR_SYMBOLS, 1e-3))
    assert all(m > 0 for t in np.linspace(0, 30 * DAY, 301) for m in course.modifiers(t).values())
    assert course.modifiers(60 * DAY) == pytest.approx(
        dict.fromkeys(RADIATION_FACTOR_SYMBOLS, 1.0), abs=1e-9
    )


def test_the_effect_is_halved_at_2_7_peak_times() -> None:
    assert rise_and_recovery(2.678, 1.0) == pytest.approx(0.5, abs=2e-4)


def test_every_factor_has_a_wide_prior() -> None:
    for symbol in (*RADIATION_FACTOR_SYMBOLS.values(), "RT_t_peak"):
        prior = PARAMETERS[symbol].prior
        assert prior is not None
        assert prior.kind == "lognormal"
        assert prior.sd >= 0.4
        assert not PARAMETERS[symbol].verified


def test_every_draw_has_its_own_factors() -> None:
    peaks, times = (
        torch.tensor([0.5, 2.0], dtype=torch.float64),
        torch.tensor([0.5 * DAY, 2 * DAY], dtype=torch.float64),
    )
    together = (
        RadiationCourse(FRACTIONS)
        .with_values({"RT_P": peaks, "RT_t_peak": times})
        .modifiers(1.7 * DAY)["P"]
    )
    for i in range(2):
        alone = (
            RadiationCourse(FRACTIONS)
            .with_values({"RT_P": float(peaks[i]), "RT_t_peak": float(times[i])})
            .modifiers(1.7 * DAY)
        )
        assert float(together[i]) == pytest.approx(float(alone["P"]), rel=1e-12)
        assert float(alone["p_e"]) != 1.0


@pytest.mark.parametrize(
    ("given", "field"), [((float("inf"), 2.0), "time_s"), ((0.0, 0.0), "dose_Gy")]
)
def test_an_impossible_fraction_is_refused(given: tuple[float, float], field: str) -> None:
    with pytest.raises(InputError, match=field):
        Fraction(*given)
