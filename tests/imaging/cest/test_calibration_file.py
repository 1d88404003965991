"""Calibrations that a user supplies: what they give, and which are refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.imaging.cest.agent import load_agent
from nanopinn.imaging.cest.bloch import Saturation, simulate_z_spectra
from nanopinn.imaging.cest.calibration import read_calibration
from nanopinn.imaging.cest.ph_map import Validity, estimate_ph_image
from nanopinn.imaging.cest.ph_scan import CestOptions, MeasuredPh, measure_ph
from nanopinn.imaging.cest.ratiometric import PUBLISHED_CALIBRATIONS
from nanopinn.imaging.cest.z_spectra import ZSpectra
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.io.tables import hash_files
from tests.variants import for_each

from ..conftest import save

pytestmark = pytest.mark.cest

SATURATION = Saturation(7.0, 3.0, 6.0)
#: Made up: rises from pH 5.4 at ratio 0 without a turn (its slope's discriminant is negative).
CUBIC = {
    "source": "made up for a test",
    "coefficients": [5.4, 1.2, -0.4, 0.06],
    "of": "ratio",
    "contrast": "st",
    "ratio_ppm": [4.2, 5.5],
    "pH_range": [5.6, 7.4],
    "std_pH": 0.1,
}
PAGEL = {
    "source": "Pagel's line",
    "coefficients": [6.3277, 0.7813],
    "of": "log10 ratio",
    "contrast": "lorentz",
    "ratio_ppm": [4.2, 5.6],
    "pH_range": [5.9, 7.0],
    "std_pH": 0.39,
    "field_T": 7.0,
    "B1_uT": 3.0,
    "seconds": 6,
}


def written(folder: Path, entries: dict[str, Any], **change: Any) -> Path:
    path = folder / "line.toml"
    kept = {k: v for k, v in {**entries, **change}.items() if v is not None}
    path.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in kept.items()))
    return path


def refused(folder: Path, **change: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        read_calibration(written(folder, CUBIC, **change))
    assert caught.value.file == "line.toml"
    return caught.value


def voxels() -> ZSpectra:
    """Of seven pH, 30 mM iopamidol, with a little noise."""
    ppm, one = np.arange(-8, 8.1, 0.2), torch.ones(28, dtype=torch.float64)
    pH = torch.linspace(6.2, 7.2, 7, dtype=torch.float64).repeat(4)
    Z = simulate_z_spectra(
        load_agent("iopamidol"),
        SATURATION,
        torch.as_tensor(ppm),
        pH=pH,
        molar=0.03 * one,
        T1_s=2 * one,
        T2_s=0.2 * one,
    ).numpy()
    Z = Z + 1e-3 * np.random.default_rng(0).standard_normal(Z.shape)
    return ZSpectra(ppm, Z[:, None, None], Z[:, None, None, 0], np.eye(4), SATURATION, ())


def measured(folder: Path, calibration: str | Path, **side: float) -> MeasuredPh:
    spectra = voxels()
    stated = {"SaturationB1uT": 3.0, "SaturationTimeS": 6.0, "MagneticFieldStrength": 7.0, **side}
    offsets = {"SaturationOffsetsPPM": list(spectra.offsets_ppm)}
    series = save(
        folder / "z.nii.gz", spectra.Z, np.diag([1.0, 1.0, 1.0, 1.0]), {**offsets, **stated}
    )
    return measure_ph(series, CestOptions(calibration=str(calibration)))


def test_a_cubic_calibration_recovers_ph_and_its_slope(tmp_path: Path) -> None:
    cubic = read_calibration(written(tmp_path, CUBIC))
    ratio = np.linspace(0.3, 3.9, 40)
    true = 5.4 + 1.2 * ratio - 0.4 * ratio**2 + 0.06 * ratio**3
    inside = (true >= 5.6) & (true <= 7.4)
    assert 25 < inside.sum() < 40
    pH, slope = cubic.invert(ratio, np.ones_like(ratio))
    np.testing.assert_allclose(pH[inside], true[inside], rtol=1e-14)
    np.testing.assert_allclose(
        slope[inside], (ratio * (1.2 - 0.8 * ratio + 0.18 * ratio**2))[inside], rtol=1e-13
    )
    assert np.isnan(pH[~inside]).all()
    assert np.isnan(
        cubic.invert(np.array([-1.0, 0.0, 1e-9, 1e9, np.inf, np.nan]), np.ones(6))[0]
    ).all()
    assert (cubic.contrast, cubic.ratio_ppm, cubic.std, cubic.lowest, cubic.highest) == (
        "st",
        (4.2, 5.5),
        0.1,
        5.6,
        7.4,
    )
    assert cubic.source.startswith("made up for a test")


def test_natural_and_decadic_logarithms_give_the_same_calibration(
    tmp_path: Path,
) -> None:
    ratio, one = np.geomspace(0.2, 10, 50), np.ones(50)
    decadic = read_calibration(written(tmp_path, PAGEL)).invert(ratio, one)
    natural = read_calibration(
        written(tmp_path, PAGEL, of="ln ratio", coefficients=[6.3277, 0.7813 / np.log(10)])
    ).invert(ratio, one)
    np.testing.assert_allclose(natural, decadic, rtol=1e-12)


def test_pagels_calibration_as_a_file_equals_the_preset(tmp_path: Path) -> None:
    ours, own = measured(tmp_path, written(tmp_path, PAGEL)), measured(tmp_path, "pagel-7T-3uT")
    assert np.isfinite(own.image.pH).mean() > 0.4
    np.testing.assert_allclose(ours.image.pH, own.image.pH, rtol=1e-12)
    np.testing.assert_allclose(ours.image.std, own.image.std, rtol=1e-12)
    np.testing.assert_array_equal(ours.image.validity, own.image.validity)
    ratio = np.geomspace(0.1, 20, 200)
    for a, b in zip(
        read_calibration(tmp_path / "line.toml").invert(ratio, ratio),
        PUBLISHED_CALIBRATIONS["pagel-7T-3uT"].invert(ratio, ratio),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_an_inverted_ratio_gives_the_same_ph_error_and_validity(tmp_path: Path) -> None:
    steep = {**CUBIC, "of": "ln ratio", "coefficients": [6.5, 0.9], "std_pH": 0.05}
    spectra = voxels()
    noisy = replace(
        spectra, Z=spectra.Z + 0.02 * np.random.default_rng(1).standard_normal(spectra.Z.shape)
    )
    for given in (spectra, noisy):
        up = estimate_ph_image(given, read_calibration(written(tmp_path, steep)))
        down = estimate_ph_image(
            given,
            read_calibration(
                written(tmp_path, steep, coefficients=[6.5, -0.9], ratio_ppm=[5.5, 4.2])
            ),
        )
        np.testing.assert_array_equal(up.validity, down.validity)
        np.testing.assert_allclose(up.pH, down.pH, rtol=1e-10)
        np.testing.assert_allclose(up.std, down.std, rtol=1e-6)
    assert np.isfinite(
        estimate_ph_image(spectra, read_calibration(written(tmp_path, steep))).pH
    ).any()


def test_an_uncertain_decreasing_calibration_gives_no_ph(tmp_path: Path) -> None:
    """The slope is negative; the error it makes is not."""
    coarse = {**CUBIC, "of": "ln ratio", "coefficients": [7.0, -40.0], "pH_range": [0.0, 14.0]}
    spectra = voxels()
    noisy = replace(
        spectra, Z=spectra.Z + 0.005 * np.random.default_rng(1).standard_normal(spectra.Z.shape)
    )
    found = estimate_ph_image(noisy, read_calibration(written(tmp_path, coarse)))
    assert np.isnan(found.pH).all()
    assert (found.validity == int(Validity.UNCERTAIN)).sum() >= 3


@pytest.mark.parametrize(
    ("coefficients", "pH_range"),
    [
        ([6.0, 1.0, -0.2], [6.0, 7.0]),  # rises to 7.25 and falls back through the range
        ([7.0, -1.0, 0.5], [6.0, 7.0]),  # turns inside
        ([5.4, 3.0, -1.5, 0.24], [5.6, 7.4]),  # up, down and up again
    ],
)
def test_a_non_monotone_polynomial_is_refused_by_field(
    tmp_path: Path, coefficients: list[float], pH_range: list[float]
) -> None:
    error = refused(tmp_path, coefficients=coefficients, pH_range=pH_range)
    assert error.field == "coefficients"
    assert "not strictly monotone" in error.problem


def test_a_polynomial_is_used_only_within_the_measured_ratios(tmp_path: Path) -> None:
    path = written(
        tmp_path, CUBIC, coefficients=[6.0, 1.0, -0.2], pH_range=[6.0, 7.0], ratio_range=[0.1, 2.0]
    )
    pH, slope = read_calibration(path).invert(np.array([0.05, 0.5, 1.0, 4.0, 4.5]), np.ones(5))
    np.testing.assert_allclose(pH, [np.nan, 6.45, 6.8, np.nan, np.nan], rtol=1e-12)
    np.testing.assert_allclose(slope, [np.nan, 0.5 * 0.8, 0.6, np.nan, np.nan], rtol=1e-12)
    assert (
        refused(
            tmp_path, coefficients=[6.0, 1.0, -0.2], pH_range=[6.0, 7.0], ratio_range=[0.1, 4.0]
        ).field
        == "coefficients"
    )


@for_each("key", ["source", "coefficients", "of", "contrast", "ratio_ppm", "pH_range", "std_pH"])
def test_a_missing_entry_is_refused_by_name(tmp_path: Path, key: str) -> None:
    error = refused(tmp_path, **{key: None})
    assert error.field == key
    assert "missing" in error.problem


@for_each(
    "key, wrong",
    [
        ("source", "  "),
        ("source", 3),
        ("coefficients", [6.3]),
        ("coefficients", [6.3, 0.0]),
        ("coefficients", ["6.3", "0.7"]),
        ("of", "log ratio"),
        ("contrast", "mtr"),
        ("ratio_ppm", [4.2]),
        ("ratio_ppm", [4.2, 4.2]),
        ("ratio_ppm", [4.2, -5.5]),
        ("pH_range", [7.0, 6.0]),
        ("pH_range", [6.0, 70.0]),
        ("pH_range", [True, 7.0]),
        ("std_pH", 0.0),
        ("std_pH", "0.1"),
        ("field_T", -7.0),
        ("B1_uT", "3"),
        ("seconds", 0),
        ("ratio_range", [2.0, 1.0]),
        ("comment", "unknown"),
    ],
)
def test_a_wrong_or_unknown_entry_is_refused_by_name(tmp_path: Path, key: str, wrong: Any) -> None:
    assert refused(tmp_path, **{key: wrong}).field == key


def test_coefficients_that_never_give_a_ph_in_range_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, coefficients=[0.06, -0.4, 1.2, 5.4], ratio_range=[2.0, 4.0])
    assert "no ratio gives a pH" in error.problem


def test_a_file_that_is_no_toml_or_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "line.toml").write_text("source = ")
    with pytest.raises(InputError, match=r"line\.toml: the calibration cannot be read"):
        read_calibration(tmp_path / "line.toml")
    with pytest.raises(InputError, match=r"none\.toml"):
        read_calibration(tmp_path / "none.toml")


@pytest.mark.parametrize("as_file", [True, False])
def test_a_protocol_that_differs_by_more_than_10_per_cent_is_warned_of(
    tmp_path: Path, as_file: bool
) -> None:
    line = written(tmp_path, PAGEL) if as_file else "pagel-7T-3uT"
    assert not any(
        "Warning" in a
        for a in measured(tmp_path, line, SaturationB1uT=3.3, SaturationTimeS=5.5).assumptions
    )
    (warning,) = [
        a
        for a in measured(tmp_path, line, SaturationB1uT=3.4, MagneticFieldStrength=9.4).assumptions
        if "Warning" in a
    ]
    assert "SaturationB1uT 3 uT (here 3.4)" in warning
    assert "MagneticFieldStrength 7 T (here 9.4)" in warning
    assert "SaturationTimeS" not in warning


def test_a_calibration_without_a_protocol_is_not_compared(tmp_path: Path) -> None:
    silent = written(tmp_path, PAGEL, field_T=None, B1_uT=None, seconds=None)
    assert not any(
        "Warning" in a for a in measured(tmp_path, silent, SaturationB1uT=1.0).assumptions
    )


def test_a_calibration_of_another_agent_does_not_name_iopamidol(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        written(tmp_path, {**CUBIC, "coefficients": [5.8, 0.6], "source": "made-up agent"}),
    )
    assert any("made-up agent" in a for a in found.assumptions)
    assert not any("iopamidol" in a for a in found.assumptions)


def test_the_calibration_file_is_hashed_and_its_path_is_not_written(
    tmp_path: Path,
) -> None:
    for name in ("dce.nii.gz", "z.nii.gz"):
        (tmp_path / name).write_bytes(b"x")
    path = written(tmp_path, PAGEL)
    inputs = ImagingInputs(
        dce=tmp_path / "dce.nii.gz", cest=tmp_path / "z.nii.gz", ph_calibration=str(path)
    )
    assert hash_files(inputs.files())["line.toml"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "ph_calibration" not in inputs.to_config()["imaging"]
    assert ImagingInputs(dce="x").to_config()["imaging"]["ph_calibration"] == "bloch"


def test_without_a_cest_scan_the_file_is_not_read_and_not_listed(tmp_path: Path) -> None:
    (tmp_path / "dce.nii.gz").write_bytes(b"x")
    assert ImagingInputs(dce=tmp_path / "dce.nii.gz", ph_calibration="none.toml").files() == [
        tmp_path / "dce.nii.gz"
    ]


def test_the_example_of_the_documentation_is_pagels_preset(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "cest.md").read_text(encoding="utf-8")
    path = tmp_path / "example.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0])
    example, preset, ratio = (
        read_calibration(path),
        PUBLISHED_CALIBRATIONS["pagel-7T-3uT"],
        np.geomspace(0.1, 20, 200),
    )
    np.testing.assert_allclose(
        example.invert(ratio, ratio), preset.invert(ratio, ratio), rtol=1e-13
    )
    assert (example.contrast, example.std, example.ratio_ppm, example.scan) == (
        preset.contrast,
        preset.std,
        preset.ratio_ppm,
        preset.scan,
    )
