"""Effects of heating on pressure and vessel walls: published values, recovery, repetition and
draws.
"""

from __future__ import annotations

import math

import pytest
import torch

from nanopinn.parameters import PARAMETERS, value
from nanopinn.physics.heat import HEAT_FACTOR_SYMBOLS, HeatEffects, has_heat_effects

HOUR = 3600.0
ONCE = ((HOUR, 2 * HOUR),)


def at(hours: float, heatings: tuple[tuple[float, float], ...] = ONCE) -> dict[str, float]:
    return {name: float(f) for name, f in HeatEffects().modifiers(hours * HOUR, heatings).items()}


def test_nothing_changes_without_heat_or_before_it() -> None:
    assert at(5.0, ()) == {"p_e": 1.0, "P_l": 1.0}
    assert at(0.99) == {"p_e": 1.0, "P_l": 1.0}


@pytest.mark.parametrize(("after_h", "fell"), [(0.0, 0.45), (2.0, 0.47), (24.0, 0.52)])
def test_pressure_is_as_low_as_in_mice_after_an_hour_of_mild_heat(
    after_h: float, fell: float
) -> None:
    """ASME JTSEA 12:061001: 45, 47 and 52 % lower 0, 2 and 24 h after the end."""
    assert at(2.0 + after_h)["p_e"] == pytest.approx(1 - fell, abs=0.06)


def test_pressure_falls_during_the_heating_stays_low_and_recovers() -> None:
    half, held = at(1.5)["p_e"], value("HT_t_IFP") / HOUR
    assert half == pytest.approx(math.sqrt(value("HT_IFP")), rel=1e-12)
    assert at(2.0 + held)["p_e"] == pytest.approx(value("HT_IFP"), rel=1e-12)
    assert math.log(at(2.0 + 2 * held)["p_e"]) == pytest.approx(
        math.log(value("HT_IFP")) / math.e, rel=1e-9
    )


def test_permeability_is_raised_during_heating_and_recovers_exponentially() -> None:
    assert at(1.0)["P_l"] == at(1.7)["P_l"] == at(2.0)["P_l"] == pytest.approx(value("HT_Pl"))
    assert math.log(at(2.0 + value("HT_t_Pl") / HOUR)["P_l"]) == pytest.approx(
        math.log(value("HT_Pl")) / math.e, rel=1e-9
    )
    assert at(400.0)["P_l"] == pytest.approx(1.0, abs=1e-9)


def test_a_second_heating_renews_and_does_not_deepen() -> None:
    twice = (*ONCE, (10 * HOUR, 11 * HOUR))
    assert at(11.0, twice)["p_e"] == pytest.approx(value("HT_IFP"))
    assert at(10.5, twice)["P_l"] == pytest.approx(value("HT_Pl"))
    closed = [1 - math.exp(-(14 - end) * HOUR / value("HT_t_Pl")) for end in (2, 11)]
    assert at(14.0, twice)["P_l"] == pytest.approx(
        value("HT_Pl") ** (1 - closed[0] * closed[1]), rel=1e-12
    )


def test_every_draw_has_its_own_factors() -> None:
    drawn = {
        "HT_IFP": torch.tensor([0.4, 0.9]),
        "HT_Pl": torch.tensor([2.0, 8.0]),
        "HT_t_IFP": torch.tensor([3 * HOUR, 96 * HOUR]),
        "HT_t_Pl": torch.tensor([HOUR, 9 * HOUR]),
    }
    effects = HeatEffects().with_values({k: v.double() for k, v in drawn.items()})
    for hours in (1.5, 2.0, 4.0, 30.0):
        together = effects.modifiers(hours * HOUR, ONCE)
        for i in range(2):
            alone = (
                HeatEffects()
                .with_values({k: float(v[i]) for k, v in drawn.items()})
                .modifiers(hours * HOUR, ONCE)
            )
            for name in HEAT_FACTOR_SYMBOLS:
                assert float(
                    (together[name] * torch.ones(2, dtype=torch.float64))[i]
                ) == pytest.approx(float(alone[name]), rel=1e-6), name


def test_only_heatings_to_the_measured_temperature_have_effects() -> None:
    assert not has_heat_effects(311.15)
    assert has_heat_effects(312.15)
    assert has_heat_effects(None)


def test_every_effect_has_a_wide_prior() -> None:
    for symbol in ("HT_IFP", "HT_Pl", "HT_t_IFP", "HT_t_Pl"):
        prior = PARAMETERS[symbol].prior
        assert prior is not None
        assert prior.kind == "lognormal"
        assert prior.sd >= 0.3
