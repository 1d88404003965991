"""The result folder of a fit: complete or absent, readable, and safe against hostile values."""

from __future__ import annotations

import filecmp
import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from nanopinn.errors import InputError, OutputError
from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.inference.saved_fit import load_fit
from nanopinn.inference.uncertainty.profile import profile_likelihood
from nanopinn.io.output import reserve_output_folder
from nanopinn.io.tables import hash_files
from nanopinn.report.fit_summary import format_summary
from nanopinn.report.result_files import to_toml
from nanopinn.report.result_folder import copy_result, read_result, render_report, write_result
from nanopinn.results import (
    CheckItem,
    CheckResult,
    Curve,
    EngineRun,
    FieldEstimate,
    FitResult,
    MapEstimate,
    ScalarEstimate,
    VectorEstimate,
)
from nanopinn.settings import FitSettings

SHAPE = (4, 5, 3)


def scalar(name: str, sd: float) -> ScalarEstimate:
    return ScalarEstimate(name, f"label of {name}", "1/h", "log", 2.0, 0.8, 3.0, sd)


@pytest.fixture
def fit() -> FitResult:
    scalars = (scalar("l", 0.1), scalar("p_e", 0.8))
    run = EngineRun(
        engine="fv",
        scalars=scalars,
        covariance=np.eye(2),
        objective=(10.0, 5.0),
        chi2=9.0,
        observations=12,
        seconds=1.5,
        converged=True,
        message="converged",
    )
    values = np.random.default_rng(0).random(SHAPE)
    return FitResult(
        scalars=scalars,
        covariance=np.eye(2),
        runs={"fv": run},
        engine_distance={},
        check=CheckResult((CheckItem("pressure, relative L2", 0.2, 0.05, False, "why"),), 2.0),
        maps={
            "IFP": MapEstimate("IFP", "mmHg", "pressure", "images and prior", values, 0.1 * values)
        },
        fields={
            "free": FieldEstimate(
                "free", "ug/mL", "free drug", np.array([60.0, 120.0]), np.stack([values, values])
            )
        },
        curves=(Curve("contrast", "mM", np.arange(4.0), np.arange(4.0), np.arange(4.0)),),
        assumptions=("<script>alert(1)</script>",),
        affine=np.eye(4),
        mask=values > 0.1,
        seconds={"fv": 1.5},
        vectors={
            "u": VectorEstimate("u", "um/s", "velocity", np.stack([values, 2 * values, 3 * values]))
        },
    )


@pytest.fixture
def imaging(fit: FitResult) -> SimpleNamespace:
    status = np.zeros(SHAPE, dtype=np.int32)
    status[0, 0, 0] = 2
    return SimpleNamespace(
        has_dce=True,
        status=status,
        mask=np.ones(SHAPE, dtype=bool),
        kinetics=SimpleNamespace(model="etofts", values={}, r2=np.ones(SHAPE)),
        valid_fraction=59 / 60,
        t1_s=np.full(SHAPE, 1.4),
        ph_coverage=0.0,
        motion=None,
        arterial_voxels=None,
        ph=np.full(SHAPE, np.nan),
        frame_times_s=np.arange(5.0),
        aif=PlasmaCurve(np.arange(5.0), np.array([0.0, 0, 5, 2, 1])),
    )


def write(out: Path, fit: FitResult, imaging: SimpleNamespace, **change: object) -> Path:
    settings = {"fit": FitSettings(seed=3, drug=("a.nii.gz",)).model_dump()}
    usual = {"config": settings, "inputs": {}, "report": "<p>report</p>"}
    return write_result(out, imaging=imaging, fit=fit, **{**usual, **change})  # type: ignore[arg-type]


def test_result_folder_reads_back_as_written(
    tmp_path: Path, fit: FitResult, imaging: SimpleNamespace
) -> None:
    found = read_result(write(tmp_path / "out", fit, imaging))
    assert found.scalars == fit.scalars
    assert found.check == fit.check
    assert found.assumptions == fit.assumptions
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_saved_fit_is_complete(tmp_path: Path, fit: FitResult, imaging: SimpleNamespace) -> None:
    found = load_fit(write(tmp_path / "out", fit, imaging))
    assert format_summary(found) == format_summary(fit)
    for whole in (
        "scalars",
        "check",
        "assumptions",
        "engine_distance",
        "seconds",
        "fitted_problem",
    ):
        assert getattr(found, whole) == getattr(fit, whole), whole
    for many in ("maps", "fields", "vectors", "runs", "curves"):
        here, there = (
            dict(enumerate(v)) if isinstance(v := getattr(f, many), tuple) else dict(v)
            for f in (fit, found)
        )
        assert list(there) == list(here)
        for key, value in here.items():
            np.testing.assert_equal(asdict(there[key]), asdict(value))
    for array in ("covariance", "affine", "mask"):
        np.testing.assert_array_equal(getattr(found, array), getattr(fit, array))


def test_vectors_are_written_along_the_voxel_axes(
    tmp_path: Path, fit: FitResult, imaging: SimpleNamespace
) -> None:
    out = write(tmp_path / "out", fit, imaging)
    image = nib.load(out / "maps" / "u.nii.gz")
    np.testing.assert_allclose(
        image.get_fdata(), np.moveaxis(fit.vectors["u"].values, 0, -1), rtol=1e-6
    )
    assert (
        json.loads((out / "maps" / "u.json").read_text())["Components"]
        == "along the voxel axes x, y, z"
    )


def test_copied_folder_equals_the_original(
    tmp_path: Path, fit: FitResult, imaging: SimpleNamespace
) -> None:
    out = write(tmp_path / "out", fit, imaging)
    copied = copy_result(out, tmp_path / "copy")
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert filecmp.cmpfiles(out, copied, names, shallow=False)[0] == names
    with pytest.raises(OutputError, match="exists already"):
        copy_result(out, copied)


def test_profile_of_a_fit_without_its_problem_is_refused(fit: FitResult) -> None:
    with pytest.raises(InputError, match="does not hold its problem"):
        profile_likelihood(fit, "l")


def test_configuration_reads_back_as_settings(
    tmp_path: Path, fit: FitResult, imaging: SimpleNamespace
) -> None:
    write(tmp_path / "out", fit, imaging)
    table = tomllib.loads((tmp_path / "out" / "config.toml").read_text())
    assert FitSettings.model_validate(table["fit"]) == FitSettings(seed=3, drug=("a.nii.gz",))


def test_toml_keeps_special_characters() -> None:
    odd = {
        "t": {
            "a": 'q"uote\\ \n ü',
            "b": [1, 2.5],
            "c": True,
            "d": {},
            "e": {"p": 0.5, "q": [1]},
            "f": None,
        }
    }
    assert tomllib.loads(to_toml(odd)) == {
        "t": {"a": 'q"uote\\ \n ü', "b": [1, 2.5], "c": True, "d": {}, "e": {"p": 0.5, "q": [1]}}
    }


def test_failed_write_leaves_no_files(
    tmp_path: Path, fit: FitResult, imaging: SimpleNamespace
) -> None:
    broken = replace(
        fit,
        fields={"free": SimpleNamespace(name="free", unit="x", description="y", times_s=["late"])},
    )  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="late"):
        write(tmp_path / "out", broken, imaging)
    assert list(tmp_path.iterdir()) == []


def test_only_a_result_folder_is_overwritten(
    tmp_path: Path, fit: FitResult, imaging: SimpleNamespace
) -> None:
    out = write(tmp_path / "out", fit, imaging)
    with pytest.raises(OutputError, match="exists"):
        write(out, fit, imaging)
    write(out, fit, imaging, overwrite=True, report="second")
    assert (out / "report.html").read_text() == "second"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with (
        pytest.raises(OutputError, match="not a result folder"),
        reserve_output_folder(tmp_path / "mine", overwrite=True),
    ):
        pass


def test_no_path_of_this_machine_is_written(
    tmp_path: Path, fit: FitResult, imaging: SimpleNamespace
) -> None:
    source = tmp_path / "secret_place" / "scan.nii.gz"
    source.parent.mkdir()
    source.write_bytes(b"data")
    out = write(tmp_path / "out", fit, imaging, inputs=hash_files([source]))
    text = "".join(p.read_text() for p in out.glob("*.json")) + (out / "config.toml").read_text()
    assert "scan.nii.gz" in text
    assert "secret_place" not in text


def test_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a result folder"):
        read_result(tmp_path)


def test_report_begins_with_the_check_and_escapes_values(
    fit: FitResult, imaging: SimpleNamespace
) -> None:
    page = render_report(imaging, fit)  # type: ignore[arg-type]
    assert page.index("CHECK FAILED") < page.index("label of l")
    assert "<script>" not in page
    assert "no, prior-dominated" in page
    assert "1 tumour voxels: does not enhance" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_recovered_events_are_reported(
    tmp_path: Path, fit: FitResult, imaging: SimpleNamespace
) -> None:
    words = "anchor 1, pressure: memory ran out"
    recovered = replace(fit, runs={"fv": replace(fit.runs["fv"], events=(words,))})
    out = write(tmp_path / "out", recovered, imaging)
    assert json.loads((out / "provenance.json").read_text())["recovered_from"] == {"fv": [words]}
    assert json.loads((out / "parameters.json").read_text())["engines"]["fv"]["recovered_from"] == [
        words
    ]
    assert f"Recovered from: {words}." in render_report(imaging, recovered)
    assert "Recovered from" not in render_report(imaging, fit)
