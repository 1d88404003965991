"""Timing and sequence of a series: precedence, refusals and reported assumptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import load_acquisition
from nanopinn.parameters import value
from tests.variants import for_each

pytestmark = pytest.mark.dce

NAN = float("nan")
SIDE = {
    "RepetitionTimeExcitation": 0.005,
    "FlipAngle": 15.0,
    "VolumeTiming": [0.0, 5.0, 10.0, 15.5, 20.0, 25.0],
}


def load(folder: Path, change: dict[str, Any], pixdim4_s: float = NAN, **overrides: Any):
    side = {k: v for k, v in {**SIDE, **change}.items() if v is not None}
    (folder / "dce.json").write_text(json.dumps(side))
    return load_acquisition(folder / "dce.nii.gz", 6, pixdim4_s, overrides)


def test_stated_facts_are_used_and_nothing_is_assumed(tmp_path: Path) -> None:
    stated = {
        "ContrastRelaxivity": 3.4,
        "Hematocrit": 0.4,
        "BaselineFrames": 2,
        "BolusArrivalTime": 7.0,
    }
    found = load(tmp_path, stated)
    assert found.frame_times_s.tolist() == SIDE["VolumeTiming"]
    assert (found.repetition_time_s, found.flip_angle_deg, found.relaxivity) == (0.005, 15.0, 3.4)
    assert (found.hematocrit, found.baseline_frames, found.bolus_arrival_s) == (0.4, 2, 7.0)
    assert found.assumptions == ()


def test_defaults_come_from_the_table_and_are_reported(tmp_path: Path) -> None:
    found = load(tmp_path, {"MagneticFieldStrength": 1.5})
    assert (found.relaxivity, found.hematocrit) == (value("r1_Gd"), value("Hct"))
    assert len(found.assumptions) == 2
    assert "1.5 T" in found.assumptions[0]


def test_a_constant_spacing_may_stand_for_the_list(tmp_path: Path) -> None:
    found = load(tmp_path, {"VolumeTiming": None, "RepetitionTime": 4.5})
    np.testing.assert_allclose(found.frame_times_s, np.arange(6) * 4.5)


def test_overrides_replace_the_sidecar_and_either_form_of_timing(tmp_path: Path) -> None:
    found = load(tmp_path, {}, RepetitionTime=3.0, FlipAngle=20.0, ContrastRelaxivity=None)
    assert found.flip_angle_deg == 20.0
    np.testing.assert_allclose(found.frame_times_s, np.arange(6) * 3.0)


def test_the_frame_spacing_of_the_header_is_used_last_and_reported(tmp_path: Path) -> None:
    alone = load(tmp_path, {"VolumeTiming": None}, 4.0)
    np.testing.assert_allclose(alone.frame_times_s, np.arange(6) * 4.0)
    assert "header" in alone.assumptions[0]
    beside = load(tmp_path, {}, 7.0)
    assert beside.frame_times_s.tolist() == SIDE["VolumeTiming"]
    assert "frame spacing of the sidecar, 5 s, is used" in beside.assumptions[0]
    assert not any("header" in a for a in load(tmp_path, {}, 5.1).assumptions)
    assert not any("header" in a for a in load(tmp_path, {}, 0.005).assumptions)


@for_each(
    "change, pixdim4_s, field, found",
    [
        ({"VolumeTiming": None}, NAN, "VolumeTiming", "nothing"),
        ({"VolumeTiming": None}, 0.0, "VolumeTiming", "nothing"),
        ({"VolumeTiming": None}, 0.0045, "pixdim[4]", "0.0045 s"),
        ({"VolumeTiming": None, "RepetitionTime": 0.0045}, 5.0, "RepetitionTime", "0.0045 s"),
        ({"RepetitionTime": 0.005}, 5.0, "RepetitionTime", "0.005 s"),
        ({"RepetitionTime": 8.0}, NAN, "VolumeTiming, RepetitionTime", "5 s and 8 s"),
        ({"VolumeTiming": [0, 5, 10]}, NAN, "VolumeTiming", "3 times"),
        ({"VolumeTiming": [0, 5, 10, 10, 20, 25]}, NAN, "VolumeTiming", "10 s then 10 s"),
        ({"VolumeTiming": [0, 5, 10, 9, 20, 25]}, NAN, "VolumeTiming", "10 s then 9 s"),
        ({"VolumeTiming": [0, 5, 10, NAN, 20, 25]}, NAN, "VolumeTiming", "nan"),
        ({"VolumeTiming": ["a"] * 6}, NAN, "VolumeTiming", "a"),
        ({"VolumeTiming": [0, 5000, 10000, 15000, 20000, 25000]}, NAN, "VolumeTiming", "5000"),
        ({"VolumeTiming": [0, 0.01, 0.02, 0.03, 0.04, 0.05]}, NAN, "VolumeTiming", "0.01"),
        ({"RepetitionTimeExcitation": None}, NAN, "RepetitionTimeExcitation", "nothing"),
        ({"RepetitionTimeExcitation": 4.5}, NAN, "RepetitionTimeExcitation", "4.5"),
        ({"RepetitionTimeExcitation": -0.005}, NAN, "RepetitionTimeExcitation", "-0.005"),
        ({"RepetitionTimeExcitation": 0}, NAN, "RepetitionTimeExcitation", "0"),
        ({"FlipAngle": None}, NAN, "FlipAngle", "nothing"),
        ({"FlipAngle": 0}, NAN, "FlipAngle", "0"),
        ({"FlipAngle": 180}, NAN, "FlipAngle", "180"),
        ({"FlipAngle": "15"}, NAN, "FlipAngle", "15"),
        ({"FlipAngle": True}, NAN, "FlipAngle", "True"),
        ({"ContrastRelaxivity": 4500}, NAN, "ContrastRelaxivity", "4500"),
        ({"ContrastRelaxivity": 0.0045}, NAN, "ContrastRelaxivity", "0.0045"),
        ({"MagneticFieldStrength": 3000}, NAN, "MagneticFieldStrength", "3000"),
        ({"Hematocrit": 42}, NAN, "Hematocrit", "42"),
        ({"BaselineFrames": 0}, NAN, "BaselineFrames", "0"),
        ({"BaselineFrames": 2.5}, NAN, "BaselineFrames", "2.5"),
        ({"BaselineFrames": 5}, NAN, "BaselineFrames", "5"),
        ({"BolusArrivalTime": 99}, NAN, "BolusArrivalTime", "99"),
        (
            {"BaselineFrames": 3, "BolusArrivalTime": 6.0},
            NAN,
            "BaselineFrames, BolusArrivalTime",
            "6 s",
        ),
    ],
)
def test_contradictory_or_impossible_values_are_refused_by_name(
    tmp_path: Path, change: dict[str, Any], pixdim4_s: float, field: str, found: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, change, pixdim4_s)
    error = caught.value
    assert error.exit_code == 3
    assert error.field == field
    assert found in str(error.found)
    assert error.file in ("dce.json", "dce.nii.gz")
    assert error.expected
    assert error.remedy


def test_without_a_sidecar_the_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_acquisition(tmp_path / "dce.nii.gz", 6, 5.0)
    assert caught.value.field == "RepetitionTimeExcitation"
    assert caught.value.file == "dce.json"
