"""The treatment of a study from options, one schedule, or the sidecars of drug images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.imaging.dce.aif_population import POPULATION_CURVES
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.parameters import value
from nanopinn.physics.species import SPECIES
from nanopinn.settings import DoseAmount, FitSettings, StudySettings
from nanopinn.studies.treatment_source import (
    example_settings,
    inputs_of_species,
    stated_species,
    study_treatment,
)
from tests.variants import for_each

MOUSE = {"formulation": "pld", "drug_dose": "5mg/kg", "species": "mouse"}
IMAGE = {"Units": "ug/mL", "TimeAfterDose": 3600.0}
SIDE = {**IMAGE, "Formulation": "pld", "DrugDose": "5 mg/kg", "Species": "mouse"}
HUMAN = '[[dose]]\nformulation = "ph"\nstart_h = 2\namount_mg = 90\n[run]\nend_h = 4\n'


def test_a_dose_is_the_same_from_text_and_from_numbers() -> None:
    text = FitSettings(drug_dose="5 mg/kg")  # type: ignore[arg-type]
    assert (
        text.drug_dose
        == DoseAmount(mg_per_kg=5.0)
        == FitSettings.model_validate({"drug_dose": {"mg_per_kg": 5.0}}).drug_dose
    )


def test_without_drug_images_and_options_there_is_no_treatment() -> None:
    assert study_treatment(StudySettings(), [], 0.0) is None


def test_options_and_sidecars_give_the_same_treatment() -> None:
    options = study_treatment(StudySettings(**MOUSE), [IMAGE], 86400.0)
    sidecars = study_treatment(StudySettings(), [SIDE, IMAGE], 86400.0)
    both = study_treatment(StudySettings(**MOUSE), [SIDE, SIDE], 86400.0)
    assert options == sidecars == both
    assert options is not None
    assert options.end_s == 86400.0
    assert options.subject.species.name == "mouse"
    assert options.carrier is not None
    assert options.carrier.name == "pegylated"


def test_plasma_of_a_mouse_does_not_depend_on_its_weight_at_a_dose_per_weight() -> None:
    t = torch.tensor([600.0, 86400.0], dtype=torch.float64)
    curves = []
    for weight in (0.020, 0.030):
        given = study_treatment(StudySettings(**MOUSE, body_weight_kg=weight), [IMAGE], 3600.0)
        assert given is not None
        assert given.doses[0].dose.amount_kg == pytest.approx(5e-6 * weight)
        curves.append(given.plasma().free(t))
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-12, atol=0)


def test_images_in_arbitrary_units_need_no_dose_and_say_so() -> None:
    given = study_treatment(
        StudySettings(formulation="pld", species="mouse"), [{**IMAGE, "Units": "a.u."}], 3600.0
    )
    assert given is not None
    assert any("arbitrary units" in s for s in given.assumptions)


def test_what_is_assumed_of_the_subject_is_stated() -> None:
    unknown = study_treatment(
        StudySettings(formulation="ph", drug_dose=DoseAmount(amount_mg=90)), [IMAGE], 3600.0
    )
    mouse = study_treatment(StudySettings(**MOUSE), [IMAGE], 3600.0)
    assert unknown is not None
    assert mouse is not None
    assert any("humans" in s for s in unknown.assumptions)
    assert any("Body weight" in s and "assumed" in s for s in mouse.assumptions)


def test_a_schedule_lasts_at_least_until_the_last_image(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(HUMAN)
    given = study_treatment(StudySettings(schedule=tmp_path / "s.toml"), [IMAGE], 24 * 3600.0)
    assert given is not None
    assert given.end_s == 26 * 3600.0


def test_a_schedule_and_sidecars_that_agree_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('[subject]\nspecies = "human"\n' + HUMAN)
    side = {**IMAGE, "Formulation": "pH-sensitive", "DrugDose": "90mg", "Species": "Human"}
    assert study_treatment(StudySettings(schedule=tmp_path / "s.toml"), [side], 3600.0) is not None


def test_plans_have_an_example_where_nothing_is_given() -> None:
    assert example_settings(FitSettings(seed=3)).drug_dose == DoseAmount(amount_mg=90)
    mouse = FitSettings(species="mouse")
    assert example_settings(mouse).formulation is None


PLASMA = "time_h\ttotal_plasma_ug/mL\n0.25\t100\n6\t70\n24\t30\n48\t10\n"


def test_measured_plasma_replaces_the_curve_of_the_population(tmp_path: Path) -> None:
    (tmp_path / "plasma.tsv").write_text(PLASMA)
    (tmp_path / "s.toml").write_text(
        '[subject]\nspecies = "mouse"\nplasma = "plasma.tsv"\n[[dose]]\nformulation = "pld"\n'
        "start_h = 0\nmg_per_kg = 5\n[run]\nend_h = 24\n"
    )
    t = torch.tensor([24 * 3600.0], dtype=torch.float64)
    for given in ({**MOUSE, "plasma": tmp_path / "plasma.tsv"}, {"schedule": tmp_path / "s.toml"}):
        found = study_treatment(StudySettings(**given), [IMAGE], 24 * 3600.0)
        assert found is not None
        plasma = found.plasma()
        total = float(plasma.encapsulated(t) + plasma.free(t))
        assert total == pytest.approx(0.030, rel=1e-3)
        assert found.files == (tmp_path / "plasma.tsv",)
        assert any("measured at 4 times" in s for s in found.assumptions)


@for_each(
    "text, given, words",
    [
        (PLASMA.replace("ug/mL", "ng/mL"), {}, ["plasma.tsv", "not plausible", "unit"]),
        (PLASMA.replace("0.25", "1.25"), {}, ["plasma.tsv", "start after the first drug image"]),
        (PLASMA.replace("total", "released"), {}, ["plasma.tsv", "does not suit", "encapsulated"]),
        (PLASMA, {"formulation": "free"}, ["plasma.tsv", "not plausible"]),
    ],
)
def test_measured_plasma_that_does_not_fit_is_refused(
    tmp_path: Path, text: str, given: dict[str, Any], words: list[str]
) -> None:
    (tmp_path / "plasma.tsv").write_text(text)
    settings = StudySettings(**{**MOUSE, **given, "plasma": tmp_path / "plasma.tsv"})
    with pytest.raises(InputError) as refused:
        study_treatment(settings, [IMAGE], 24 * 3600.0)
    for word in words:
        assert word in str(refused.value), str(refused.value)


def without(*names: str) -> dict[str, Any]:
    return {n: v for n, v in MOUSE.items() if n not in names}


@for_each(
    "given, sides, words",
    [
        (without("drug_dose"), [IMAGE], ["drug_dose", "not stated", "DrugDose", "5mg/kg"]),
        (without("formulation"), [IMAGE], ["formulation", "not stated", "Formulation", "pld"]),
        ({}, [IMAGE], ["formulation", "not stated"]),
        (without("species"), [IMAGE], ["species", "body weight needs the species", "mouse"]),
        ({**MOUSE, "species": "human"}, [IMAGE], ["body_weight_kg", "weight of the human"]),
        ({**MOUSE, "species": "cat"}, [IMAGE], ["species", "cat", "mouse, rat"]),
        ({**MOUSE, "formulation": "doxil"}, [IMAGE], ["formulation", "doxil", "pegylated"]),
        ({**MOUSE, "drug_dose": "5g/kg"}, [IMAGE], ["drug_dose", "5g/kg", "5mg/kg"]),
        ({**MOUSE, "drug_dose": "5000mg/kg"}, [IMAGE], ["5000 mg/kg", "plausible", "mouse"]),
        ({**MOUSE, "drug_dose": "0.005mg/kg"}, [IMAGE], ["0.005 mg/kg", "plausible"]),
        ({**without("species"), "drug_dose": "0.1mg"}, [IMAGE], ["0.1 mg", "human", "species"]),
        ({**MOUSE, "body_weight_kg": 22.0}, [IMAGE], ["body_weight_kg", "22 kg", "mouse"]),
        ({**MOUSE, "body_surface_m2": 1.8}, [IMAGE], ["body_surface_m2", "1.8 m2", "mouse"]),
        (
            {**MOUSE, "drug_dose": "10mg/kg"},
            [SIDE],
            ["drug_dose", "10 mg/kg (`drug_dose`)", "5 mg/kg (DrugDose of drug image 1)"],
        ),
        (
            {},
            [SIDE, {**SIDE, "Formulation": "tsl"}],
            ["formulation", "pld (Formulation of drug image 1)", "tsl (Formulation of drug image"],
        ),
        ({}, [SIDE, {**SIDE, "Species": "rat"}], ["species", "mouse", "rat", "drug image 2"]),
        ({}, [{**SIDE, "DrugDose": 5.0}], ["DrugDose", "5.0", "unit"]),
        ({}, [{**SIDE, "BodyWeight": "20 g"}], ["BodyWeight", "20 g", "positive number"]),
        ({}, [{**SIDE, "Infusion": -1}], ["Infusion", "-1"]),
        ({}, [{**SIDE, "Infusion": 1e300}], ["Infusion", "1e+300"]),
        ({}, [{"Units": ["ug/mL"]}], ["formulation", "not stated"]),
        ({}, [{**SIDE, "DrugDose": {"mg": 5}}], ["DrugDose", "mg"]),
        ({}, [{**SIDE, "Formulation": 3}], ["Formulation", "3", "text"]),
    ],
)
def test_a_missing_or_wrong_treatment_is_refused_by_name(
    given: dict[str, Any], sides: list[dict[str, Any]], words: list[str]
) -> None:
    with pytest.raises(InputError) as refused:
        study_treatment(StudySettings(**given), sides, 3600.0)
    for word in words:
        assert word in str(refused.value), str(refused.value)
    assert refused.value.exit_code == 3


@for_each(
    "given, side, text, words",
    [
        (MOUSE, IMAGE, HUMAN, ["given twice", "formulation, drug_dose, species", "`schedule`"]),
        ({}, {**IMAGE, "Formulation": "pld"}, HUMAN, ["s.toml", "formulation", "pH-sensitive"]),
        ({}, {**IMAGE, "DrugDose": "45mg"}, HUMAN, ["s.toml", "drug_dose", "90 mg", "45 mg"]),
        ({}, {**IMAGE, "Species": "mouse"}, HUMAN, ["s.toml", "species", "human", "mouse"]),
        (
            {},
            IMAGE,
            "[[radiation]]\ntime_h = 1\ndose_Gy = 5\n[run]\nend_h = 4\n",
            ["s.toml", "no dose", "[[dose]]"],
        ),
        (
            {},
            IMAGE,
            HUMAN.replace('"ph"', '"pld"') + HUMAN.partition("[run]")[0],
            ["more than one carrier", "pH-sensitive and pegylated", "one by one"],
        ),
        (
            {},
            IMAGE,
            HUMAN.replace("amount_mg = 90", "mg_per_kg = 2"),
            ["s.toml", "subject.species", "needs the species", "[subject]"],
        ),
        (
            {},
            IMAGE,
            '[subject]\nspecies = "human"\n' + HUMAN.replace("amount_mg = 90", "mg_per_kg = 2"),
            ["s.toml", "subject.body_weight_kg", "weight of the human"],
        ),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(
    tmp_path: Path, given: dict[str, Any], side: dict[str, Any], text: str, words: list[str]
) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(InputError) as refused:
        study_treatment(StudySettings(**given, schedule=tmp_path / "s.toml"), [side], 3600.0)
    for word in words:
        assert word in str(refused.value), str(refused.value)


def test_a_species_sets_arterial_input_and_haematocrit_that_are_not_given(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('[subject]\nspecies = "rat"\n')
    for settings, sides, name in (
        (StudySettings(species="mouse"), [], "mouse"),
        (StudySettings(schedule=tmp_path / "s.toml"), [], "rat"),
        (StudySettings(), [SIDE], "mouse"),
    ):
        species = stated_species(settings, sides)
        assert species is not None
        assert species.name == name
        found = inputs_of_species(ImagingInputs(dce="a.nii"), species)
        assert (found.aif_source, found.default_hematocrit) == (
            "preclinical",
            value(f"Hct_{name}"),
        )
        assert inputs_of_species(ImagingInputs(dce="a.nii", aif="auto"), species).aif == "auto"
    assert stated_species(StudySettings()) is None
    assert ImagingInputs(dce="a.nii").aif_source == "parker"


def test_every_species_names_an_arterial_input_that_exists() -> None:
    assert {s.arterial_input for s in SPECIES.values()} <= set(POPULATION_CURVES)
