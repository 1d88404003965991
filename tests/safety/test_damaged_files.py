"""Randomly damaged files are read or refused in one line. Longer runs: benchmarks/fuzz.py."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanopinn.cli.config import build_settings
from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import ACQUISITION_KEYS, load_acquisition
from nanopinn.imaging.cest.agent import load_agent
from nanopinn.imaging.cest.calibration import read_calibration
from nanopinn.imaging.cest.z_spectra import CEST_KEYS, read_spectra
from nanopinn.inference.saved_fit import fit_to_bytes, load_fit
from nanopinn.io.volumes import read_array
from nanopinn.report.fit_summary import format_summary
from nanopinn.settings import (
    ComparisonSettings,
    FitSettings,
    PhantomSettings,
    PlanSettings,
    SimulationSettings,
)
from nanopinn.studies.schedule import read_formulation, read_schedule

from .hostile import AFFINE, DATA, volume
from .test_saved import FIT, content_of, sealed

FRAMES = 12
#: The same inputs in every run, and none kept from the last: what fails here fails everywhere.
spoiled = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

edits = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.sampled_from(["flip", "set", "cut", "insert", "end"]),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)
numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, 1, -1, 1e308, 10**400, 2**63, 0.005, 15.0, 7.0])
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=13), st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=20,
)


def edited(content: bytes, changes: list[tuple[int, str, bytes]], within: int) -> bytes:
    raw = bytearray(content)
    for at, how, some in changes:
        place = at % max(1, min(within, len(raw)))
        if how == "flip" and raw:
            raw[place] ^= some[0] or 1
        elif how == "set":
            raw[place : place + len(some)] = some
        elif how == "cut":
            del raw[place : place + some[0]]
        elif how == "insert":
            raw[place:place] = some
        elif within > 1000:
            del raw[place:]
    return bytes(raw)


def read_or_refused(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InputError as error:
        assert str(error).isprintable()
        assert error.exit_code == 3
        assert error.file or error.field
        return None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoiled")


@pytest.mark.parametrize("name", ["a.nii", "b.nii.gz"])
@pytest.mark.parametrize("within", [352, 10_000])
@spoiled
@given(changes=edits)
def test_a_volume_with_any_bytes_changed_is_read_or_refused(
    place: Path, name: str, within: int, changes: list[Any]
) -> None:
    raw = edited(volume(place / "good.nii").read_bytes(), changes, within)
    (place / name).write_bytes(gzip.compress(raw, 1) if name.endswith("gz") else raw)
    found = read_or_refused(lambda: read_array(place / name))
    if found is not None:
        assert found[0].ndim in (3, 4)
        assert found[0].size * 1 <= len(raw)
        assert np.isfinite(found[1]).all()


@spoiled
@given(changes=edits)
def test_a_gzip_stream_with_changed_bytes_is_read_whole_or_refused(
    place: Path, changes: list[Any]
) -> None:
    """A checksum stands at its end: what is read is what was written, unless the change is in its
    own header.
    """
    whole = volume(place / "c.nii.gz").read_bytes()
    (place / "c.nii.gz").write_bytes(edited(whole, changes, len(whole)))
    found = read_or_refused(lambda: read_array(place / "c.nii.gz"))
    if found is not None:
        np.testing.assert_array_equal(found[0], DATA)


@spoiled
@given(
    side=st.dictionaries(
        st.sampled_from([*ACQUISITION_KEYS, "RepetitionTime", "ConversionSoftware"]),
        anything,
        max_size=8,
    )
)
def test_any_sidecar_of_a_series_is_read_or_refused(place: Path, side: dict[str, Any]) -> None:
    good = {
        "VolumeTiming": [7.0 * i for i in range(FRAMES)],
        "RepetitionTimeExcitation": 0.005,
        "FlipAngle": 15.0,
    }
    (place / "dce.json").write_text(json.dumps({**good, **side}))
    found = read_or_refused(lambda: load_acquisition(place / "dce.nii", FRAMES, 7.0))
    if found is not None:
        assert found.frame_times_s.shape == (FRAMES,)
        assert (np.diff(found.frame_times_s) > 0).all()
        assert 0 < found.flip_angle_deg < 180 or found.is_concentration


@settings(spoiled, max_examples=30)
@given(
    side=st.dictionaries(
        st.sampled_from([*CEST_KEYS, "SaturationOffsetsHz"]), anything, min_size=1, max_size=4
    )
)
def test_any_sidecar_of_z_spectra_is_read_or_refused(place: Path, side: dict[str, Any]) -> None:
    series = np.stack([DATA * 0 + z for z in np.linspace(1, 0.4, FRAMES)], axis=-1).astype(
        np.float32
    )
    good = {
        "SaturationOffsetsPPM": [-300.0, *np.linspace(-7, 7, FRAMES - 1).tolist()],
        "SaturationB1uT": 3.0,
        "SaturationTimeS": 5.0,
    }
    volume(place / "cest.nii", series)
    (place / "cest.json").write_text(json.dumps({**good, "MagneticFieldStrength": 7.0, **side}))
    found = read_or_refused(lambda: read_spectra(place / "cest.nii"))
    if found is not None:
        assert np.isfinite(found.offsets_ppm).all()
        assert np.allclose(found.affine, AFFINE)


def toml(value: Any) -> str:
    """A value as TOML; what TOML lacks is an empty table."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return "{}" if value is None else json.dumps(value)


ENTRIES: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "schedule": (
        read_schedule,
        {
            "run": {"end_h": 24.0},
            "dose": [{"formulation": "pld", "start_h": 0.0, "amount_mg": 90.0}],
            "heat": [],
            "radiation": [{"time_h": 1.0, "dose_Gy": 2.0}],
            "imaging": {"times_h": [1.0]},
            "patient": {"body_surface_m2": 1.8},
        },
    ),
    "formulation": (
        read_formulation,
        {
            "name": "mine",
            "description": "mine",
            "aliases": [],
            "releasable_share": 0.9,
            "diameter": "d_PLD",
            "leak": {"value": 1e-6, "unit": "1/s", "source": "s"},
            "circulation": {"volume": "V_PLD", "rates": ["k_PLD"]},
            "acid": {},
            "heat": {},
        },
    ),
    "calibration": (
        read_calibration,
        {
            "source": "s",
            "coefficients": [6.0, 0.5],
            "of": "ratio",
            "contrast": "st",
            "ratio_ppm": [4.2, 5.5],
            "pH_range": [6.0, 7.4],
            "std_pH": 0.05,
            "ratio_range": [0.5, 3.0],
        },
    ),
    "agent": (
        load_agent,
        {
            "mine": {
                "water_protons_M": 110.0,
                "pKw": 13.6,
                "R1_per_s": 1.0,
                "R2_per_s": 2.0,
                "ratio_ppm": [4.2, 5.5],
                "pools": [{"name": "a", "ppm": 4.2, "protons": 2, "k0": 1.0, "kb": 85.0}],
            }
        },
    ),
}


@pytest.mark.parametrize("kind", ENTRIES)
@settings(spoiled, max_examples=40)
@given(data=st.data())
def test_any_entries_of_a_toml_file_are_read_or_refused(
    place: Path, kind: str, data: st.DataObject
) -> None:
    read, good = ENTRIES[kind]
    inner = good["mine"] if kind == "agent" else good
    changed = {
        **inner,
        **data.draw(st.dictionaries(st.sampled_from(list(inner)), anything, max_size=3)),
    }
    entries = {"mine": changed} if kind == "agent" else changed
    (place / f"{kind}.toml").write_text(
        "\n".join(f"{json.dumps(k)} = {toml(v)}" for k, v in entries.items()),
        errors="surrogatepass",
    )
    read_or_refused(lambda: read(place / f"{kind}.toml"))


@pytest.mark.parametrize(
    "kind", [FitSettings, PhantomSettings, SimulationSettings, ComparisonSettings, PlanSettings]
)
@settings(spoiled, max_examples=30)
@given(data=st.data())
def test_any_configuration_is_read_with_its_types_or_refused(
    place: Path, kind: Any, data: st.DataObject
) -> None:
    entries = data.draw(
        st.dictionaries(st.sampled_from(list(kind.model_fields)), anything, min_size=1, max_size=4)
    )
    lines = ["[t]", *(f"{json.dumps(k)} = {toml(v)}" for k, v in entries.items())]
    (place / "config.toml").write_text("\n".join(lines), errors="surrogatepass")
    found = read_or_refused(lambda: build_settings(kind, "t", place / "config.toml", {}))
    for name, value in entries.items():
        if found is not None and isinstance(value, bool):
            assert getattr(found, name) is value


@spoiled
@given(changes=edits, within=st.sampled_from([200, 100_000]))
def test_a_saved_fit_with_changed_bytes_is_unchanged_or_refused(
    place: Path, changes: list[Any], within: int
) -> None:
    (place / "fit.safetensors").write_bytes(edited(fit_to_bytes(FIT), changes, within))
    found = read_or_refused(lambda: load_fit(place))
    if found is not None:
        assert found.scalars == FIT.scalars


@spoiled
@given(data=st.data())
def test_a_manipulated_saved_fit_has_the_declared_types_or_is_refused(
    place: Path, data: st.DataObject
) -> None:
    content, arrays = content_of(fit_to_bytes(FIT))
    fields = content["fields"]
    fields[data.draw(st.sampled_from(list(fields)))] = data.draw(anything)
    try:
        (place / "fit.safetensors").write_bytes(sealed(content, arrays))
    except UnicodeEncodeError:
        return
    found = read_or_refused(lambda: load_fit(place))
    if found is not None:
        assert isinstance(format_summary(found), str)
