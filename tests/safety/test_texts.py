# ruff: noqa: E501  # hostile texts read better in one line
"""Sidecars, tables and TOML that someone made to stall, to fill the memory, or to be believed: each
refused by file and field.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn import settings
from nanopinn.cli.config import build_settings
from nanopinn.imaging.acquisition import load_acquisition
from nanopinn.imaging.cest.agent import load_agent
from nanopinn.imaging.cest.calibration import read_calibration
from nanopinn.imaging.cest.ph_on_dce_grid import load_ph
from nanopinn.imaging.cest.z_spectra import read_spectra
from nanopinn.imaging.dce.aif import read_curve
from nanopinn.imaging.dce.t1 import _inversion_time
from nanopinn.imaging.drug_image import load_drug_image
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.io.safe_open import MAX_TEXT_BYTES, MAX_TOML_BYTES, read_json, read_toml
from nanopinn.parameters import parse_parameter_row
from nanopinn.report.result_files import to_toml
from nanopinn.report.result_folder import read_result
from nanopinn.settings import HeatingSpec
from nanopinn.studies.arms.arm_specs import build_arms
from nanopinn.studies.schedule import read_formulation, read_schedule
from nanopinn.studies.tissue_source import _ktrans_unit
from tests.variants import for_each

from .hostile import AFFINE, DATA, refused, volume

FRAMES = 12
TIMES = [7.0 * i for i in range(FRAMES)]
GOOD: dict[str, Any] = {
    "VolumeTiming": TIMES,
    "RepetitionTimeExcitation": 0.005,
    "FlipAngle": 15.0,
    "TimeAfterDose": 7200.0,
    "Quantity": "total",
    "NoiseSD": 0.1,
    "Units": "ug/mL",
    "InversionTime": 0.5,
    "pHStd": 0.1,
    "Unit": "1/min",
}
#: What stands where a number should.
NO_NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "true",
    "null",
    '"15"',
    "[]",
    "[15]",
    "{}",
    "1" + "0" * 400,
    '"\\ud800"',
    "-1",
    "1e300",
]


def side(folder: Path, text: str) -> Path:
    """A map of pH 7 with a sidecar of that text."""
    (folder / "a.json").write_text(text)
    return volume(folder / "a.nii", np.full(DATA.shape, 7.0, dtype=np.float32))


def spoiled(key: str, text: str) -> str:
    """The good sidecar with one value as given, JSON or not."""
    return json.dumps({**GOOD, key: "@"}).replace('"@"', text)


OF_DCE = (
    "RepetitionTimeExcitation",
    "FlipAngle",
    "MagneticFieldStrength",
    "ContrastRelaxivity",
    "BaselineFrames",
    "BolusArrivalTime",
    "Hematocrit",
    "ContrastDose",
    "RepetitionTime",
)


@for_each("text", NO_NUMBERS)
@for_each("key", OF_DCE)
def test_invalid_numbers_of_the_acquisition_are_refused_by_key(
    tmp_path: Path, key: str, text: str
) -> None:
    path = side(tmp_path, spoiled(key, text))
    assert refused(lambda: load_acquisition(path, FRAMES, 7.0), "a.json").field == key


READ_MAP: dict[str, Callable[[Path], Any]] = {
    "TimeAfterDose": lambda p: load_drug_image(p, DATA.shape, AFFINE, DATA > 0),  # type: ignore[arg-type]
    "NoiseSD": lambda p: load_drug_image(p, DATA.shape, AFFINE, DATA > 0),  # type: ignore[arg-type]
    "Units": lambda p: load_drug_image(p, DATA.shape, AFFINE, DATA > 0),  # type: ignore[arg-type]
    "Quantity": lambda p: load_drug_image(p, DATA.shape, AFFINE, DATA > 0),  # type: ignore[arg-type]
    "InversionTime": _inversion_time,
    "pHStd": lambda p: load_ph(p, AFFINE, DATA > 0),
    "Unit": _ktrans_unit,
}


@for_each("text", NO_NUMBERS)
@for_each("key", READ_MAP)
def test_invalid_values_of_a_map_sidecar_are_refused_by_key(
    tmp_path: Path, key: str, text: str
) -> None:
    if (key, text) == ("Unit", "null"):
        return  # which says as little as no Unit
    path = side(tmp_path, spoiled(key, text))
    assert refused(lambda: READ_MAP[key](path), None).field == key


HUGE = "[" + ",".join(["1"] * 200_000) + "]"
LISTS = [
    "[]",
    "{}",
    "3",
    '"7"',
    '["0", "7"]',
    "[true, false]",
    "[null]",
    "[[0], [7]]",
    "[NaN, 1]",
    "[1" + "0" * 400 + "]",
    HUGE,
    "[0, 7, 7]",
]


@for_each("text", LISTS)
def test_invalid_lists_of_times_or_offsets_are_refused(tmp_path: Path, text: str) -> None:
    path = side(tmp_path, spoiled("VolumeTiming", text))
    assert refused(lambda: load_acquisition(path, FRAMES, 7.0), "a.json").field == "VolumeTiming"
    if text != "[0, 7, 7]":  # which is long enough to say how long a heating lasts
        assert (
            refused(lambda: build_arms(["tsl"], heat=[HeatingSpec(file=path)]), "a.json").field
            == "VolumeTiming"
        )
    series = volume(tmp_path / "a.nii", np.stack([DATA] * FRAMES, axis=-1))
    (tmp_path / "a.json").write_text(spoiled("SaturationOffsetsPPM", text))
    assert "SaturationOffsets" in str(refused(lambda: read_spectra(series), "a.json").field)


@for_each(
    "which, fill",
    [
        (0, np.nan),
        (0, 0.0),
        (0, -1.0),
        (0, np.inf),
        (slice(1, None), np.nan),
        (slice(1, None), np.inf),
    ],
)
def test_z_spectra_without_signal_are_refused(tmp_path: Path, which: Any, fill: float) -> None:
    series = np.ones((*DATA.shape, FRAMES), dtype=np.float32)
    series[..., which] = fill
    offsets = [-300.0, *np.linspace(-7, 7, FRAMES - 1).tolist()]
    (tmp_path / "a.json").write_text(json.dumps({"SaturationOffsetsPPM": offsets}))
    path = volume(tmp_path / "a.nii", series)
    assert refused(lambda: read_spectra(path), "a.nii").field == "values"


@for_each(
    "text",
    [
        "",
        "{",
        "[1]",
        "3",
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"a": ' + "9" * 5000 + "}",
        "{'a': 1}",
        '{"a": 1}\0',
        "nul",
        '{"a": "' + "x" * MAX_TEXT_BYTES + '"}',
    ],
)
def test_invalid_json_objects_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    refused(lambda: read_json(tmp_path / "a.json", "the sidecar"), "a.json")


def test_a_key_repeated_with_the_same_value_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1, "a": 1}')
    assert read_json(tmp_path / "a.json", "the sidecar") == {"a": 1}


def test_a_broken_link_as_sidecar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "gone.json")
    refused(lambda: load_acquisition(tmp_path / "a.nii", FRAMES, 7.0), "a.json")


@for_each(
    "text",
    [
        "=",
        "a = ",
        "a = 1\na = 2",
        "a = " + "9" * 5000,
        "a = " + "[" * 50_000,
        "a." * 100_000 + "a = 1",
        "[" + "a." * 100_000 + "a]",
        '"a" . ' * 30_000 + "a = 1",
        "a = {" + "b." * 50_000 + "b = 1}",
        "#" * (MAX_TOML_BYTES + 1),
        "\0",
        "a = 2020-13-01",
        "a = '\x1b'",
    ],
)
@for_each(
    "read",
    [read_schedule, read_formulation, read_calibration, load_agent, lambda p: read_toml(p, "it")],
)
def test_invalid_toml_is_refused_by_every_reader(
    tmp_path: Path, read: Callable[[Path], Any], text: str
) -> None:
    (tmp_path / "a.toml").write_text(text)
    refused(lambda: read(tmp_path / "a.toml"), "a.toml")


@for_each(
    "reader, text, field",
    [
        ("schedule", "[run]\nend_h = 1e300\n", "run.end_h"),
        ("schedule", "[run]\nend_h = true\n", "run.end_h"),
        ("schedule", "[run]\nend_h = 1" + "0" * 400 + "\n", "run.end_h"),
        ("schedule", "run = 3\n", "run"),
        (
            "schedule",
            "[run]\nend_h = 24\n[[dose]]\nformulation = 'a\\u0000b.toml'\nstart_h = 0\namount_mg = 90".replace(
                "'", '"'
            ),
            None,
        ),
        ("schedule", "dose = [" + "{}," * 2000 + "]\n[run]\nend_h = 24\n", None),
        (
            "schedule",
            "[run]\nend_h = 24\n[imaging]\ntimes_h = [" + "1," * 2000 + "]\n",
            "imaging.times_h",
        ),
        (
            "formulation",
            "leak = {value = 1" + "0" * 400 + ", unit = '1/s', source = 's'}\n",
            "leak.value",
        ),
        ("formulation", "leak = {value = 1e300, unit = '1/s', source = 's'}\n", "leak.value"),
        ("formulation", "leak = {value = true, unit = '1/s', source = 's'}\n", "leak.value"),
        ("formulation", "leak = {value = 1e-6, unit = '1/s', source = ['s']}\n", "leak.source"),
        (
            "formulation",
            "leak = {value = 1e-6, unit = '1/s', source = 's', prior = 'normal(e)'}\n",
            "mine.leak.prior",
        ),
        (
            "formulation",
            "leak = {value = 1e-6, unit = '1/s', source = 's', prior = 'normal(1e999)'}\n",
            "mine.leak.prior",
        ),
        ("formulation", 'diameter = "krel_PLD\\n"\n', "diameter"),
        ("calibration", "coefficients = [1e300, 1e300]\n", "coefficients"),
        ("calibration", "coefficients = [" + "1," * 500 + "]\n", "coefficients"),
        ("calibration", 'source = "a\\nb"\n', "source"),
        ("agent", "kb = '85'", None),
        ("agent", "kb = true", None),
        ("agent", "kb = inf", None),
        ("agent", "kb = 1e400", None),
        ("agent", "", None),
    ],
)
def test_impossible_entries_of_toml_files_are_refused_by_name(
    tmp_path: Path, reader: str, text: str, field: str | None
) -> None:
    path = tmp_path / "a.toml"
    before = {
        "schedule": "",
        "formulation": 'name = "mine"\ndescription = "mine"\ndiameter = "d_PLD"\n',
        "agent": "",
        "calibration": 'source = "s"\ncoefficients = [6.0, 0.5]\nof = "ratio"\ncontrast = "st"\nratio_ppm = [4.2, 5.5]\npH_range = [6, 7]\n'
        "std_pH = 0.05\n",
    }[reader]
    if reader == "agent":
        pool = "{name = 'a', ppm = 4.2, protons = 2, k0 = 1.0, " + text + "}"
        text = f"[mine]\npKw = 13.6\nwater_protons_M = 110.0\nR1_per_s = 1.0\nR2_per_s = 2.0\nratio_ppm = [4.2, 5.5]\npools = [{pool}]\n"
    if reader == "formulation" and text.startswith("diameter"):
        before = 'name = "mine"\ndescription = "mine"\n'
    kept = [line for line in before.splitlines() if not text.startswith(line.split(" ")[0] + " ")]
    path.write_text("\n".join([*kept, text]))
    read = {
        "schedule": read_schedule,
        "formulation": read_formulation,
        "calibration": read_calibration,
        "agent": load_agent,
    }[reader]
    error = refused(lambda: read(path), None)
    assert field is None or error.field == field


TABLE = "time_s,plasma_mM\n"


@for_each(
    "text",
    [
        TABLE + "0," + "1" * 200_000,
        ",".join(f"c{i}" for i in range(100_000)) + "\n" + "1\n" * 100_000,
        TABLE + "0,1\n" * 150_000,
        TABLE + '0,"',
        "\0" * 1000,
        TABLE + "0,1e999\n1,1\n2,1",
        TABLE + "0,٣\n1,1\n2,1",
        "time_s,time_s,plasma_mM\n0,0,1\n1,1,1\n2,2,1",
        "\n\n\n",
        TABLE,
    ],
)
def test_invalid_tables_are_refused_in_time(tmp_path: Path, text: str) -> None:
    (tmp_path / "aif.csv").write_text(text)
    refused(lambda: read_curve(tmp_path / "aif.csv", np.array(TIMES), 0.42), "aif.csv")


@for_each(
    "table, entry, kind",
    [
        ("fit", "model_error = true", settings.FitSettings),
        ("fit", "starts = '3'", settings.FitSettings),
        ("fit", "aif_sd = nan", settings.FitSettings),
        ("fit", "seed = 1" + "0" * 400, settings.FitSettings),
        ("fit", "release_in_time = [true, 24]", settings.FitSettings),
        ("fit", "release_in_time = 'x,3'", settings.FitSettings),
        ("fit", "device = 2020-01-01", settings.FitSettings),
        ("fit", "drug = {a = 1}", settings.FitSettings),
        ("fit", "seed = [[1]]", settings.FitSettings),
        ("fit", "no_such = 1", settings.FitSettings),
        ("phantom", "shape = ['10', 10, 6]", settings.PhantomSettings),
        ("phantom", "snr = inf", settings.PhantomSettings),
        ("arms", "draws = true", settings.ComparisonSettings),
        ("plan", "voxel_mm = true", settings.PlanSettings),
        ("imaging", "overrides = 3", ImagingInputs),
        ("imaging", "motion = 1", ImagingInputs),
        ("imaging", "assume_ph = '6.9'", ImagingInputs),
    ],
)
def test_a_configuration_of_the_wrong_type_is_refused_by_its_setting(
    tmp_path: Path, table: str, entry: str, kind: Any
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"[{table}]\n{entry}\n")
    error = refused(
        lambda: build_settings(kind, table, path, {"dce": "a.nii"} if table == "imaging" else {}),
        "c.toml",
    )
    assert str(error.field).startswith(entry.split(" ")[0])


def test_a_configuration_whose_table_is_not_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("fit = 3\n")
    refused(lambda: build_settings(settings.FitSettings, "fit", tmp_path / "c.toml", {}), "c.toml")


def test_a_written_configuration_is_read_back_with_any_file_names(
    tmp_path: Path,
) -> None:
    names = ("with space.nii", "名前.nii", "😀.nii", 'quo"te\\.nii', "new\nline.nii", "del\x7f.nii")
    asked = settings.FitSettings(drug=names, release_in_time=(6.0, 24.0))
    (tmp_path / "c.toml").write_text(to_toml({"fit": asked.model_dump()}), encoding="utf-8")
    assert build_settings(settings.FitSettings, "fit", tmp_path / "c.toml", {}) == asked


@for_each(
    "spoil",
    [
        {"check": "[]"},
        {"check": "{}"},
        {"parameters": "{"},
        {"parameters": '{"parameters": [3], "assumptions": []}'},
        {"check": '{"items": ["ab"], "seconds": 1}'},
        {"check": '{"items": [], "seconds": "1"}'},
        {"parameters": '{"parameters": [], "assumptions": [1]}'},
        {"parameters": '{"parameters": [{"name": 1}], "assumptions": []}'},
        {"parameters": "[" * 100_000},
    ],
)
def test_invalid_result_tables_are_refused(tmp_path: Path, spoil: dict[str, str]) -> None:
    tables = {
        "parameters": '{"parameters": [], "assumptions": []}',
        "check": '{"items": [], "seconds": 1}',
    }
    for name, text in {**tables, **spoil}.items():
        (tmp_path / f"{name}.json").write_text(text)
    refused(lambda: read_result(tmp_path), None)


def test_a_prior_of_any_spelling_is_read_as_one_number() -> None:
    row = {
        "symbol": "x",
        "name": "x",
        "value": "1",
        "low": "",
        "high": "",
        "unit": "1",
        "tissue": "x",
        "source": "x",
        "verified": "memory",
    }
    for text in ("0.7", "7e-1", ".7", "+0.70"):
        prior = parse_parameter_row({**row, "prior": f"lognormal({text})"}, "table").prior
        assert prior is not None
        assert prior.sd == 0.7
