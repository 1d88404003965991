"""Species: subjects, plausible weights, surfaces and doses, and plasma kinetics by species."""

from __future__ import annotations

import pytest

from nanopinn.errors import InputError
from nanopinn.parameters import MG, PARAMETERS
from nanopinn.physics.species import SPECIES, describe_subject, find_species, validate_dose
from tests.variants import for_each


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
