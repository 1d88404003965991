"""Species: subjects, plausible weights, surfaces and doses, and plasma kinetics by species."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.parameters import HOUR, MG, PARAMETERS, value
from nanopinn.physics.circulation import free_drug_impulse_response
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_file import parse_formulation
from nanopinn.physics.formulation_library import FORMULATIONS, FREE, PEGYLATED
from nanopinn.physics.species import SPECIES, describe_subject, find_species, validate_dose
from nanopinn.studies.schedule import read_formulation
from tests.variants import for_each

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "formulations"


def test_a_dose_of_a_tenth_of_a_milligram_is_plausible_in_a_mouse_alone() -> None:
    mouse = describe_subject("mouse", 0.02)
    assert validate_dose(0.1 * MG, mouse, "drug_dose", "0.1 mg") == 0.1 * MG
    with pytest.raises(InputError, match="not plausible"):
        validate_dose(0.1 * MG, describe_subject("human"), "drug_dose", "0.1 mg")


@for_each("species", sorted(SPECIES))
@for_each("factor", [1e-3, 1e3])
def test_a_usual_dose_in_a_unit_wrong_by_a_thousand_is_refused(species: str, factor: float) -> None:
    subject = describe_subject(species)
    row = PARAMETERS[subject.species.dose]
    for per_weight in (row.low, row.value, row.high):
        assert per_weight is not None
        usual = per_weight * subject.weight_kg
        assert validate_dose(usual, subject, "drug_dose", "a dose") == usual
        with pytest.raises(InputError, match="mg/kg") as refused:
            validate_dose(usual * factor, subject, "drug_dose", "5 g")
        assert refused.value.field == "drug_dose"
        assert "5 g" in str(refused.value.found)


@for_each(
    "given, field",
    [
        ({"species": "mouse", "weight_kg": 20.0}, "body_weight_kg"),
        ({"species": "human", "weight_kg": 0.02}, "body_weight_kg"),
        ({"species": "rat", "surface_m2": 1.8}, "body_surface_m2"),
        ({"species": "cat"}, "species"),
    ],
)
def test_a_weight_or_surface_of_another_species_is_refused(
    given: dict[str, object], field: str
) -> None:
    with pytest.raises(InputError) as refused:
        describe_subject(**given)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_species_are_found_in_any_case_and_typical_weights_are_marked_as_assumed() -> None:
    assert find_species(" Mouse ") is SPECIES["mouse"]
    typical, stated = describe_subject("mouse"), describe_subject("mouse", 0.025)
    assert (typical.weight_is_stated, stated.weight_is_stated) == (False, True)
    assert typical.weight_kg == PARAMETERS["weight_mouse"].value


@for_each("species", sorted(SPECIES))
def test_free_drug_has_the_area_of_its_clearance_and_no_negative_phase(species: str) -> None:
    """Over the ranges of the table, from which the arms and the fit draw."""
    kinetics = SPECIES[species].free_drug
    weight = 0.02 if kinetics.per_kg else None
    rows = [PARAMETERS[s] for s in kinetics.symbols()]
    ends = [[v for v in (p.low, p.value, p.high) if v is not None] for p in rows]
    for values in itertools.product(*ends):
        drawn = dict(zip(kinetics.symbols(), values, strict=True))
        curve = free_drug_impulse_response(drawn, kinetics, weight)
        assert min(curve.amplitudes) > 0
        assert list(curve.rates) == sorted(curve.rates, reverse=True)
        assert curve.area() * drawn[kinetics.clearance] * (weight or 1) == pytest.approx(1)


def test_free_drug_in_rats_is_the_published_two_compartments() -> None:
    """Harashima 1999: V 515 mL per 250 g, k12 5.13, k21 0.927, k_el 1.56 1/h."""
    V, k12, k21, k_el = 515e-6, 5.13 / HOUR, 0.927 / HOUR, 1.56 / HOUR
    M = torch.tensor([[-(k12 + k_el), k21], [k12, -k21]], dtype=torch.float64)
    times = torch.tensor([0.0, 0.1, 0.5, 2.0, 8.0, 24.0], dtype=torch.float64) * HOUR
    expected = torch.stack([torch.linalg.matrix_exp(M * t)[0, 0] / V for t in times])
    found = FREE.in_subject(describe_subject("rat", 0.25)).free_impulse_response()(times)
    # the table has three digits
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.0)


@for_each("name", sorted(FORMULATIONS))
@for_each("species", sorted(SPECIES))
def test_packaged_formulations_have_kinetics_in_every_species(name: str, species: str) -> None:
    light, heavy = (describe_subject(species, w) for w in _weights(species))
    formulation = FORMULATIONS[name]
    plasma = [
        formulation.in_subject(s).free_impulse_response().area() * s.weight_kg
        for s in (light, heavy)
    ]
    if SPECIES[species].free_drug.per_kg:  # a dose per weight gives the same concentration
        assert plasma[0] == pytest.approx(plasma[1])
    else:
        assert plasma[1] > plasma[0]


def _weights(species: str) -> tuple[float, float]:
    row = PARAMETERS[SPECIES[species].weight]
    assert row.low is not None
    assert row.high is not None
    return row.low, row.high


def test_pld_clears_faster_in_smaller_species() -> None:
    clearances = [
        1 / PEGYLATED.in_subject(s).encapsulated_impulse_response().area() / s.weight_kg
        for s in map(describe_subject, ("human", "mouse", "rat"))
    ]
    assert clearances[0] < clearances[1] < clearances[2]


def _carrier(volume: float, unit: str) -> Formulation:
    text = f'{{value = {volume}, unit = "{unit}", source = "test"}}'
    return _edited('volume = "V_PLD"', f"volume = {text}")


def _edited(old: str, new: str, more: str = "") -> Formulation:
    text = (EXAMPLES / "polymer_tsl.toml").read_text()
    assert old in text
    return parse_formulation(tomllib.loads(text.replace(old, new, 1) + more), "mine.toml")


@for_each(
    "volume, unit, species",
    [
        (5e-3, "m**3", "mouse"),
        (1e-6, "m**3", "human"),
        (5e-2, "m**3/kg", "rat"),
        (5e-8, "m**3/kg", "mouse"),
    ],
)
def test_a_carrier_volume_that_the_subject_cannot_have_is_refused(
    volume: float, unit: str, species: str
) -> None:
    with pytest.raises(InputError, match="volume of distribution is not possible") as refused:
        _carrier(volume, unit).in_subject(describe_subject(species))
    assert refused.value.field == "circulation.volume"
    _carrier(5e-5, "m**3/kg").in_subject(describe_subject(species))


OWN_FREE_DRUG = """
[free_drug]
clearance = {value = 1e-6, unit = "m**3/(s*kg)", source = "test"}
amplitudes = [{value = 300, unit = "kg/m**3", source = "test"}]
rates = [
  {value = 2e-3, unit = "1/s", source = "test"},
  {value = 2e-5, unit = "1/s", source = "test"},
]
"""


def test_free_drug_of_a_file_replaces_that_of_the_species() -> None:
    own = _edited('volume = "V_PLD"', 'volume = "V_PLD_mouse"', OWN_FREE_DRUG)
    mouse = describe_subject("mouse", 0.025)
    given = own.in_subject(mouse)
    assert given.states_free_drug
    free = replace(given, circulation=None).free_impulse_response()
    assert free.area() == pytest.approx(1 / (1e-6 * 0.025))
    assert free.amplitudes[0] == pytest.approx(300 / 0.025)
    assert set(given.free_drug.symbols()) <= {p.symbol for p in own.own_parameters}
    species = PEGYLATED.in_subject(mouse).free_drug
    assert species is SPECIES["mouse"].free_drug


@for_each(
    "old, new, word",
    [
        ("value = 300", "value = 3000", "more area"),
        ("  {value = 2e-5", "#", "0 rates|1 amplitudes for 1 rates"),
        ('unit = "kg/m**3"', 'unit = "1/m**3"', "unit"),
        ("clearance =", "cl =", "unknown"),
        ("rates = [", "others = [", "unknown"),
        ("value = 1e-6", "value = 0", "number"),
    ],
)
def test_a_mistake_in_free_drug_is_refused(old: str, new: str, word: str) -> None:
    assert old in OWN_FREE_DRUG
    with pytest.raises(InputError, match=word) as refused:
        _edited('volume = "V_PLD"', 'volume = "V_PLD"', OWN_FREE_DRUG.replace(old, new, 1))
    assert str(refused.value.field).startswith("free_drug")


def test_the_mouse_example_has_its_own_plasma_and_free_drug() -> None:
    own = read_formulation(EXAMPLES / "mouse_pld.toml")
    given = own.in_subject(describe_subject("mouse", 0.02))
    assert given.circulation is not None
    assert given.circulation.volume_m3(own.with_own_values(), 0.02) == pytest.approx(
        0.055e-3 * 0.02
    )
    assert given.states_free_drug
    with pytest.raises(InputError, match="not known in this species"):
        own.in_subject(describe_subject("rat"))


def test_typical_plasma_volumes_are_those_of_the_table() -> None:
    assert describe_subject("mouse", 0.02).plasma_volume_m3 == pytest.approx(1e-6)
    assert describe_subject("human").plasma_volume_m3 == 70 * value("Vp_body_human")
