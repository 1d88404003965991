"""Errors name the API's parameters; the command line shows the options that stand for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nanopinn.cli.app import app
from nanopinn.cli.entry import _run_command
from nanopinn.cli.error_text import find_command_options, map_parameters_to_options
from nanopinn.cli.exit_status import record_interruption, with_verdict_option
from nanopinn.errors import InputError, OutputError, format_error, replace_parameter_names
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.io.checkpoint_store import FAILURE_FILE
from nanopinn.settings import ComparisonSettings, FitSettings, PlanSettings, SimulationSettings
from nanopinn.studies.treatment_source import study_treatment

FIT = find_command_options(app, ["fit"])

#: Fields of the API that no option of the command sets.
WITHOUT_OPTION = {"affine", "overrides", "default_hematocrit", "model", "smooth", "imaging_h"}


def test_every_option_of_every_command_has_its_parameter() -> None:
    import typer

    for name, parser in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        options = find_command_options(app, ["-q", name, "--seed", "1"])
        for parameter in parser.params:
            if parameter.param_type_name == "option":
                assert options[parameter.name] in parameter.opts, (name, parameter.name)
            else:
                assert options[parameter.name] == (parameter.metavar or parameter.name.upper())


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ("fit", set(ImagingInputs.__dataclass_fields__) | set(FitSettings.model_fields)),
        ("simulate", set(SimulationSettings.model_fields) | set(ComparisonSettings.model_fields)),
        ("plan", set(PlanSettings.model_fields)),
    ],
)
def test_every_field_of_the_settings_has_an_option_of_its_own_name(
    command: str, fields: set[str]
) -> None:
    assert fields - WITHOUT_OPTION <= set(find_command_options(app, [command]))


def test_parameters_in_messages_and_fields_become_options() -> None:
    error = InputError(
        "neither `t1` nor `vfa` is given",
        field="vfa, t1, VolumeTiming",
        found="`t1` of a user",
        expected="`imaging.assume_ph` or `pharmacy`",
        remedy="Give `t1=1.4`, `cest_b0` or `overrides.FlipAngle`, or run `nanopinn fit`.",
    )
    assert format_error(error, FIT) == (
        "Neither --t1 nor --vfa is given (field: --vfa, --t1, VolumeTiming; found: `t1` of a user;"
        " expected: --assume-ph or `pharmacy`). Give --t1 1.4, --b0 or --flip-angle, or"
        " run `nanopinn fit`."
    )
    assert format_error(error, {}) == str(error)


def test_keys_of_a_file_stay_and_fields_of_a_scan_become_options() -> None:
    named = {"field": "dose", "expected": "mg"}
    options = find_command_options(app, ["simulate"])
    assert "field: --dose" in format_error(InputError("wrong", file="a.nii.gz", **named), options)
    assert "field: dose" in format_error(InputError("wrong", file="a.toml", **named), options)


def test_a_missing_dose_names_the_option_the_schedule_and_the_sidecar() -> None:
    settings = FitSettings(formulation="pld", species="mouse")
    with pytest.raises(InputError) as refused:
        study_treatment(settings, [{"Units": "ug/mL"}], 3600.0)
    shown = format_error(refused.value, FIT)
    assert "field: --drug-dose" in shown
    assert "Give --drug-dose, or --schedule, or write DrugDose into the sidecars" in shown


def test_the_contrast_dose_is_another_option_than_the_dose_of_the_drug() -> None:
    assert FIT["contrast_dose"] == FIT["overrides.ContrastDose"] == "--contrast-dose"
    assert FIT["drug_dose"] == "--drug-dose"
    assert "dose" not in FIT


def test_a_dose_without_a_name_is_refused_with_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["--dose", "0.1"], ["--dose=0.1"]):
        monkeypatch.setattr(sys, "argv", ["nanopinn", "fit", "--dce", "a.nii", *words])
        code, message = _run_command()
        assert code == 2
        assert "--contrast-dose" in message
        assert "--drug-dose" in message


def test_switches_and_nested_names_become_options() -> None:
    text = "Set `overwrite=True`, `ph_choices.agent` or `register='none'`."
    shown = replace_parameter_names(text, FIT)
    assert shown == "Set --overwrite, --agent or --register none."
    assert format_error(OutputError("Choose `out`."), FIT) == "Choose --out."


def test_a_line_without_a_command_has_no_options() -> None:
    assert find_command_options(app, ["--help"]) == {}
    assert find_command_options(app, []) == {}


def test_the_program_prints_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("kept")
    out = str(tmp_path / "there")
    monkeypatch.setattr(sys, "argv", ["nanopinn", "maps", "--dce", "no.nii", "--out", out])
    code, message = _run_command()
    assert code == 4
    assert message.endswith("exists already. Choose another folder for --out, or set --overwrite.")


def test_verdicts_and_failure_files_name_options(tmp_path: Path) -> None:
    @with_verdict_option("fit")
    def run(cest_b0: float = 1.0) -> str:
        """A command."""
        with record_interruption(tmp_path, run):
            raise InputError("no map", remedy="Give `cest_b0`.")

    assert map_parameters_to_options(run)["verdict"] == "--verdict"
    run(verdict=tmp_path / "fit.json")
    for file in ("fit.json", FAILURE_FILE):
        said = json.loads((tmp_path / file).read_text())
        assert said["message"] == "No map. Give --cest-b0."
