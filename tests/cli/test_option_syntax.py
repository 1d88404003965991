"""Options that hold several numbers in one word, and the same texts in a configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanopinn.cli.config import build_settings
from nanopinn.cli.option_syntax import (
    parse_arm_entries,
    parse_fraction,
    parse_heating,
    parse_list,
    parse_minutes,
    parse_second_scan,
    parse_values,
)
from nanopinn.errors import InputError
from nanopinn.report.result_files import to_toml
from nanopinn.settings import (
    ComparisonSettings,
    DoseAmount,
    FractionSpec,
    HeatingSpec,
    SecondScan,
    parse_dose,
)
from tests.variants import for_each


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (parse_dose, "50mg/m2", DoseAmount(mg_per_m2=50)),
        (parse_dose, " 50 mg/m^2", DoseAmount(mg_per_m2=50)),
        (parse_dose, "9e1mg", DoseAmount(amount_mg=90)),
        (parse_dose, "-50mg", DoseAmount(amount_mg=-50)),
        (parse_dose, "5 mg/kg", DoseAmount(mg_per_kg=5)),
        (parse_heating, "42:60", HeatingSpec(temperature_C=42, minutes=60)),
        (
            parse_heating,
            "42:60@0.5~5",
            HeatingSpec(temperature_C=42, minutes=60, start_h=0.5, ramp_min=5),
        ),
        (parse_heating, "42:60~5", HeatingSpec(temperature_C=42, minutes=60, ramp_min=5)),
        (parse_heating, "a/T.nii.gz@0.25", HeatingSpec(file=Path("a/T.nii.gz"), start_h=0.25)),
        (parse_heating, "T.nii", HeatingSpec(file=Path("T.nii"))),
        (parse_fraction, "5@24", FractionSpec(dose_Gy=5, time_h=24)),
        (parse_second_scan, "a@b/c@48", SecondScan(folder=Path("a@b/c"), time_h=48)),
        (parse_list, "free, tsl,", ("free", "tsl")),
        (parse_minutes, "15,30", (15.0, 30.0)),
        (parse_minutes, "none", ()),
    ],
)
def test_a_word_is_read_as_its_numbers(
    parse: Callable[[str], Any], text: str, expected: object
) -> None:
    assert parse(text) == expected


@for_each(
    "parse, text, words",
    [
        (parse_dose, "50ug", ["dose", "50ug", "50mg/m2", "20 to 60 mg/m2"]),
        (parse_dose, "2mg/g", ["dose", "2mg/g", "5mg/kg"]),
        (parse_heating, "42", ["heat", "42:60"]),
        (parse_heating, "nan:60", ["heat", "nan:60"]),
        (parse_fraction, "5", ["radiation", "5@24"]),
        (parse_second_scan, "result", ["radiation_from", "RESULT@HOURS"]),
        (parse_second_scan, "result@nan", ["radiation_from", "RESULT@HOURS"]),
        (parse_minutes, "long", ["heating_min", "long"]),
    ],
)
def test_another_word_is_refused_by_name(
    parse: Callable[[str], Any], text: str, words: list[str]
) -> None:
    with pytest.raises(InputError) as refused:
        parse(text)
    for word in words:
        assert word in str(refused.value), str(refused.value)


def test_a_configuration_holds_texts_or_tables_of_the_same_arms(tmp_path: Path) -> None:
    texts = tmp_path / "texts.toml"
    texts.write_text(
        '[arms]\ndose = "90mg"\nheat = ["42:60@0.5", "T.nii"]\nradiation = ["5@24"]\n'
        'radiation_from = "second@48"\n'
    )
    settings = build_settings(ComparisonSettings, "arms", texts, {"draws": 3})
    assert settings.dose == DoseAmount(amount_mg=90)
    assert settings.radiation_from == SecondScan(folder=Path("second"), time_h=48)
    tables = tmp_path / "tables.toml"
    tables.write_text(to_toml({"arms": settings.model_dump()}))
    assert build_settings(ComparisonSettings, "arms", tables, {}) == settings
    tables.write_text('[arms]\nheat = [{temperature_C = "42", minutes = 60}]\n')
    with pytest.raises(InputError, match="wrong type"):
        build_settings(ComparisonSettings, "arms", tables, {})


def test_entries_that_are_no_text_stay() -> None:
    given = {"draws": 3, "heat": [{"minutes": 1}], "dose": {"amount_mg": 50}, "radiation": None}
    assert parse_arm_entries(given) == {**given, "heat": ({"minutes": 1},)}


def test_stated_values_are_read_by_name() -> None:
    assert parse_values(["l=0.8mm", " p_e = 15 mmHg"]) == {"l": "0.8mm", "p_e": "15 mmHg"}
    assert parse_values(None) is parse_values([]) is None
    for words in (["l"], ["l="], ["=3"], ["l=1mm", "l=2mm"]):
        with pytest.raises(InputError, match="values"):
            parse_values(words)
