"""Formulations and their release: published values, limits, and that a printed one names its
sources.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.parameters import PARAMETERS
from nanopinn.physics.formulation_library import (
    FORMULATIONS,
    FREE,
    PEGYLATED,
    PH_SENSITIVE,
    THERMOSENSITIVE,
)
from nanopinn.physics.plasma import Dose
from nanopinn.physics.release import (
    acid_release_rate,
    release_trigger,
    single_pass_release_fraction,
)

BODY = torch.tensor(310.15, dtype=torch.float64)


def celsius(*T: float) -> torch.Tensor:
    return torch.tensor(T, dtype=torch.float64) + 273.15


def heat(*T: float) -> torch.Tensor:
    return THERMOSENSITIVE.release_rate(torch.tensor(7.0, dtype=torch.float64), celsius(*T))


def test_ltsl_releases_60_percent_in_20_s_at_42_degrees() -> None:
    assert 1 - math.exp(-20 * float(heat(42.0))) == pytest.approx(0.60, abs=5e-4)  # Needham 2013
    assert 0.60 < 1 - math.exp(-20 * float(heat(43.0))) < 0.80


@pytest.mark.parametrize(("tau", "share"), [(5.0, 0.19), (10.0, 0.31)])
def test_a_passage_through_heated_vessels_releases_19_to_31_percent(
    tau: float, share: float
) -> None:
    assert float(single_pass_release_fraction(heat(42.0), tau)) == pytest.approx(share, abs=5e-3)


def test_release_per_pass_equals_that_of_a_well_mixed_vessel() -> None:
    k, tau, dt, carried, released = 0.0458, 5.0, 1e-3, 0.0, 0.0
    for _ in range(
        200_000
    ):  # to its steady state: inflow 1/tau, outflow and release of what is there
        carried, released = carried + dt * ((1 - carried) / tau - k * carried), k * carried * tau
    assert released == pytest.approx(single_pass_release_fraction(k, tau), rel=1e-6)


def test_heat_release_rises_from_the_leak_to_a_plateau() -> None:
    k = heat(*torch.linspace(30.0, 50.0, 401).tolist())
    assert (k.diff() >= 0).all()
    assert (k.diff()[145:250] > 0).all()  # from 37.25 to 42.5 C
    assert float(heat(37.0)) == pytest.approx(1e-4, rel=1e-12)
    assert float(heat(20.0)) == pytest.approx(1e-4, rel=1e-12)
    assert float(heat(60.0)) == pytest.approx(float(heat(70.0)), rel=1e-9)
    assert (
        0.002 < float(heat(40.0)) < 0.03
    )  # the range of the shared table at 40 C, which the law does not use


def test_a_carrier_with_two_triggers_adds_their_excesses() -> None:
    pH, T = torch.tensor(6.5, dtype=torch.float64), celsius(41.0)
    both, leak = (
        replace(PH_SENSITIVE, triggers=(release_trigger("acid"), release_trigger("heat"))),
        1e-6,
    )
    acid = float(PH_SENSITIVE.release_rate(pH, T)) - leak
    warm = float(replace(both, triggers=(release_trigger("heat"),)).release_rate(pH, T)) - leak
    assert min(acid, warm) > 10 * leak
    assert float(both.release_rate(pH, T)) == pytest.approx(leak + acid + warm, rel=1e-12)
    assert float(
        both.release_rate(torch.tensor(12.0, dtype=torch.float64), celsius(20.0))
    ) == pytest.approx(leak, rel=1e-4)


def test_the_acid_law_takes_values_in_place_of_the_tables() -> None:
    pH = torch.linspace(6.0, 7.4, 8, dtype=torch.float64)
    moved = torch.tensor(2e-4, dtype=torch.float64)
    expected = acid_release_rate(pH, moved, 1e-6, 6.3, 2.0, 6.8)
    torch.testing.assert_close(
        PH_SENSITIVE.release_rate(pH, BODY, {"krel_ref": moved}), expected, rtol=1e-12, atol=0
    )


def test_an_untriggered_carrier_only_leaks_and_free_drug_has_no_carrier() -> None:
    pH = torch.tensor([5.0, 7.4], dtype=torch.float64)
    assert PEGYLATED.release_rate(pH, celsius(45.0)).tolist() == pytest.approx([1e-6, 1e-6])
    with pytest.raises(ValueError, match="no carrier"):
        FREE.release_rate(pH, BODY)
    assert PEGYLATED.heat_release_excess(celsius(45.0)).tolist() == [0.0]
    assert FREE.plasma((Dose(0.0, 1e-4),)).encapsulated(torch.tensor([1.0, 9.0])).tolist() == [
        0.0,
        0.0,
    ]


def test_carriers_that_never_release_do_not_leak() -> None:
    half = replace(PH_SENSITIVE, releasable_share=0.5)
    doses = (Dose(0.0, 9e-5),)
    assert half.plasma(doses).free.area() == pytest.approx(
        0.5 * PH_SENSITIVE.plasma(doses).free.area(), rel=1e-12
    )
    plasma = replace(half, releasable_share=0.3).plasma(doses)
    assert plasma.encapsulated.area() == PH_SENSITIVE.plasma(doses).encapsulated.area()
    assert plasma.releasable().area() == pytest.approx(0.3 * plasma.encapsulated.area(), rel=1e-12)
    assert plasma.releasable().area() + plasma.retained().area() == pytest.approx(
        plasma.encapsulated.area(), rel=1e-12
    )


def test_a_releasable_share_above_one_is_refused() -> None:
    with pytest.raises(InputError, match="releasable_share"):
        replace(PH_SENSITIVE, releasable_share=1.2)


def test_no_packaged_carrier_leaks_more_than_its_total_elimination() -> None:
    for f in FORMULATIONS.values():
        if f.circulation and f.leak:
            assert PARAMETERS[f.leak].value < min(f.encapsulated_impulse_response().rates)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_a_printed_formulation_shows_value_unit_and_source_of_every_parameter(name: str) -> None:
    text = str(FORMULATIONS[name])
    for symbol in FORMULATIONS[name].symbols():
        p = FORMULATIONS[name].parameter(symbol)
        line = next(row for row in text.splitlines() if row.startswith(f"  {symbol} ="))
        assert f"{p.value:g}" in line
        assert p.source in line
        assert p.source_status in line
        assert p.unit == "1" or p.unit in line
