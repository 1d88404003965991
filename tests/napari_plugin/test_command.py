"""The copied command gives the same inputs as the panel; ticks of charts."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from nanopinn.cli.options import expand_multivalue_options, with_imaging_options
from nanopinn.cli.study_options import with_study_options
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.napari_plugin.axis_ticks import count_decades, log_ticks, nice_ticks
from nanopinn.napari_plugin.command_line import format_command_line
from nanopinn.settings import StudySettings


@pytest.mark.parametrize(
    "inputs",
    [
        {
            "dce": "a b/dce.nii.gz",
            "cest": "ph.nii",
            "mask": "m.nii",
            "vfa": ["1.nii", "2 x.nii"],
            "aif": "parker",
        },
        {
            "dce": "dce.nii",
            "t1": 1.4,
            "assume_ph": 6.9,
            "aif": "auto",
            "overrides": {
                "RepetitionTime": 5.0,
                "RepetitionTimeExcitation": 0.004,
                "FlipAngle": 12.0,
                "ContrastRelaxivity": 3.4,
            },
        },
    ],
)
def test_copied_command_gives_the_same_inputs(inputs: dict[str, Any]) -> None:
    got: list[ImagingInputs] = []
    app = typer.Typer()

    @app.command()
    @with_imaging_options
    def fit(inputs: ImagingInputs, engine: str = "auto", out: str = "") -> None:
        got.append(inputs)

    @app.callback()
    def commands() -> None:
        """More than one, so that the name is asked for."""

    line = format_command_line(
        {"kind": "fit", "inputs": inputs, "settings": {"engine": "fv"}}, "out folder"
    )
    ended = CliRunner().invoke(app, expand_multivalue_options(shlex.split(line)[1:]))
    assert ended.exit_code == 0, ended.output
    wanted = ImagingInputs(**inputs | {"vfa": tuple(inputs.get("vfa", ()))})
    assert got[0].overrides == wanted.overrides
    assert got[0].to_config() == wanted.to_config()
    assert [str(f) for f in got[0].files()] == [str(f) for f in wanted.files()]


def test_copied_command_gives_the_same_drug_and_subject() -> None:
    got: list[dict[str, Any]] = []
    app = typer.Typer()

    @app.command()
    @with_imaging_options
    @with_study_options
    def fit(inputs: ImagingInputs, study: dict[str, Any], out: str = "") -> None:
        got.append(study)

    @app.callback()
    def commands() -> None:
        """More than one, so that the name is asked for."""

    given = {
        "formulation": "my carrier.toml",
        "drug_dose": "5 mg/kg",
        "species": "mouse",
        "body_weight_kg": 0.021,
        "infusion_min": 5.0,
        "schedule": "a b.toml",
        "plasma": "plasma.tsv",
    }
    request = {"kind": "fit", "inputs": {"dce": "d.nii"}, "settings": given}
    line = format_command_line(request, "out")
    ended = CliRunner().invoke(app, expand_multivalue_options(shlex.split(line)[1:]))
    assert ended.exit_code == 0, ended.output
    assert StudySettings.model_validate(
        {n: v for n, v in got[0].items() if v is not None}
    ) == StudySettings.model_validate(given)


def test_ticks_are_round_numbers_inside_the_range() -> None:
    assert nice_ticks(0.0, 1.0) == pytest.approx([0, 0.5, 1.0]) or nice_ticks(
        0.0, 1.0
    ) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(-3.2 <= t <= 8.1 for t in nice_ticks(-3.2, 8.1))
    assert log_ticks(0.05, 200.0) == pytest.approx([0.1, 1, 10, 100])
    assert count_decades([0.0, 1.0, 100.0]) == pytest.approx(2)
