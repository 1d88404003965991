"""The public functions on arrays: the same answers as by files, without any file."""

from __future__ import annotations

import builtins
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import nanopinn
from nanopinn.api import ACQUISITION_ARGUMENTS
from nanopinn.errors import InputError
from nanopinn.imaging.imaging_data import ImagingMaps
from nanopinn.io.volumes import sidecar_path
from nanopinn.phantoms.scan_simulation import SyntheticStudy
from nanopinn.phantoms.synthetic_study import write_study
from nanopinn.physics.treatment import Treatment
from nanopinn.studies.fit import FittedStudy

SMALL = {"shape": (10, 10, 6), "frames": 20, "refine": 2, "drug_times_h": (2.0,)}
SETTINGS = nanopinn.FitSettings(engine="fv", preset="fast", device="cpu")
QUICK = nanopinn.SimulationSettings(device="cpu", tolerance=1e-2, refine=1)
VFA = ("vfa_fa02", "vfa_fa10", "vfa_fa20")


@pytest.fixture(scope="module")
def study() -> SyntheticStudy:
    return nanopinn.phantom(**SMALL)


@pytest.fixture(scope="module")
def folder(study: SyntheticStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    write_study(out, study)
    return out


def as_path(study: SyntheticStudy, folder: Path, name: str) -> Any:
    return folder / f"{name}.nii.gz"


def as_meta_tensor(study: SyntheticStudy, folder: Path, name: str) -> Any:
    return study.images[name]


def as_array(study: SyntheticStudy, folder: Path, name: str) -> Any:
    """An array with its affine and facts."""
    volume = study.images[name]
    return np.asarray(volume), {**facts(folder, name), "affine": np.asarray(volume.affine)}


def as_tensor(study: SyntheticStudy, folder: Path, name: str) -> Any:
    values, side = as_array(study, folder, name)
    return torch.as_tensor(values), side


def as_nibabel(study: SyntheticStudy, folder: Path, name: str) -> Any:
    values, side = as_array(study, folder, name)
    values = np.moveaxis(values, 0, -1) if values.ndim == 4 else values
    image = nib.Nifti1Image(values, side["affine"])
    image.header.set_xyzt_units("mm", "sec")
    return image, side


def treatment() -> Treatment:
    arms, _ = nanopinn.build_arms(["pld"], end_h=2.0, imaging_h=(2.0,))
    return arms[0].treatment


def facts(folder: Path, name: str) -> dict[str, Any]:
    side = sidecar_path(folder / f"{name}.nii.gz")
    found: dict[str, Any] = json.loads(side.read_text()) if side.is_file() else {}
    return found


Given = Callable[[SyntheticStudy, Path, str], Any]


def maps_of(given: Given, study: SyntheticStudy, folder: Path) -> ImagingMaps:
    def volume(name: str) -> Any:
        return given(study, folder, name)

    return nanopinn.maps(
        volume("dce"),
        cest=volume("ph"),
        mask=volume("mask"),
        vfa=[volume(n) for n in VFA],
        device="cpu",
    )


def assert_same_maps(found: ImagingMaps, expected: ImagingMaps) -> None:
    for name, values in expected.kinetics.values.items():
        np.testing.assert_array_equal(found.kinetics.values[name], values)
        np.testing.assert_array_equal(found.kinetics.std[name], expected.kinetics.std[name])
    for name in ("mask", "affine", "t1_s", "concentration_mM", "ph", "ph_std", "frame_times_s"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("given", [as_array, as_tensor, as_meta_tensor, as_nibabel])
def test_arrays_give_the_same_maps_as_files(
    given: Given, study: SyntheticStudy, folder: Path
) -> None:
    found, expected = (maps_of(g, study, folder) for g in (given, as_path))
    assert_same_maps(found, expected)
    assert np.isfinite(found.ktrans_per_min[found.mask]).any()


def fitted(given: Given, study: SyntheticStudy, folder: Path) -> FittedStudy:
    drugs = [n for n in study.images if n.startswith("drug_")]
    dce, ph, mask, *drug = (given(study, folder, n) for n in ("dce", "ph", "mask", *drugs))
    return nanopinn.fit(dce, ph, mask=mask, t1=1.4, drug=drug, settings=SETTINGS)


@pytest.fixture(scope="module")
def fit_of_arrays(study: SyntheticStudy, folder: Path) -> FittedStudy:
    return fitted(as_array, study, folder)


def test_a_fit_of_arrays_equals_the_fit_of_their_files(
    study: SyntheticStudy, folder: Path, fit_of_arrays: FittedStudy
) -> None:
    found, expected = fit_of_arrays.fit, fitted(as_path, study, folder).fit
    np.testing.assert_array_equal(found.covariance, expected.covariance)
    assert [s.median for s in found.scalars] == [s.median for s in expected.scalars]


def test_a_simulation_of_a_fit_in_memory_equals_that_of_its_folder(
    fit_of_arrays: FittedStudy, tmp_path: Path
) -> None:
    out = nanopinn.write_fit(tmp_path / "fit", fit_of_arrays)
    found, expected = (
        nanopinn.simulate(treatment(), tumour, settings=QUICK) for tumour in (fit_of_arrays, out)
    )
    for name, pool in expected.fields.items():  # files hold single precision
        scale = np.nanmax(np.abs(pool.values))
        np.testing.assert_allclose(found.fields[name].values, pool.values, atol=1e-5 * scale)


def test_facts_of_the_series_are_given_as_arguments(study: SyntheticStudy, folder: Path) -> None:
    dce, side = study.images["dce"], facts(folder, "dce")
    arguments = {name: side[key] for name, key in ACQUISITION_ARGUMENTS.items() if key in side}
    assert len(arguments) == 7
    found = nanopinn.maps(
        np.asarray(dce), affine=dce.affine, mask=study.images["mask"], t1=1.4, **arguments
    )
    assert_same_maps(found, nanopinn.maps(dce, mask=study.images["mask"], t1=1.4))


def test_nothing_is_opened_when_arrays_are_given(
    study: SyntheticStudy, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = maps_of(as_array, study, folder)  # tables of the package are read once
    given = {n: as_array(study, folder, n) for n in ("dce", "ph", "mask", *VFA)}

    def refuse(*names: Any, **options: Any) -> Any:
        raise AssertionError(f"{names[0]} was opened")

    for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (nib, "load")):
        monkeypatch.setattr(module, name, refuse)
    found = maps_of(lambda study, folder, name: given[name], study, folder)
    monkeypatch.undo()
    assert_same_maps(found, expected)


def test_arrays_are_hashed_for_the_provenance(study: SyntheticStudy, folder: Path) -> None:
    found = maps_of(as_array, study, folder).file_hashes
    assert set(found) == {"dce", "cest", "mask", "vfa[0]", "vfa[1]", "vfa[2]"}
    values, side = as_array(study, folder, "mask")
    other = nanopinn.maps(study.images["dce"], mask=(1 - values, side), t1=1.4).file_hashes
    assert other["mask"] != found["mask"]
    assert len(other["mask"]) == 64


def test_an_arterial_input_is_given_by_columns_or_by_file(
    study: SyntheticStudy, tmp_path: Path
) -> None:
    times = np.arange(0.0, 200.0, 1.0)
    columns = {"time_s": times, "plasma_mM": 5 * np.clip(times - 60, 0, None) * np.exp(-times / 40)}
    table = tmp_path / "aif.tsv"
    rows = zip(*(c.tolist() for c in columns.values()), strict=True)
    table.write_text("time_s\tplasma_mM\n" + "".join(f"{t!r}\t{c!r}\n" for t, c in rows))
    given = {"mask": study.images["mask"], "t1": 1.4}
    found, expected = (
        nanopinn.maps(study.images["dce"], aif=aif, **given) for aif in (columns, table)
    )
    assert_same_maps(found, expected)


def test_missing_times_are_refused_by_the_name_of_the_argument(study: SyntheticStudy) -> None:
    dce = study.images["dce"]
    with pytest.raises(InputError, match=r"field: times.*Give `times`") as refused:
        nanopinn.maps(np.asarray(dce), affine=dce.affine, tr=0.005, flip_angle=15.0, t1=1.4)
    assert refused.value.field == "times"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"times": [0.0, 1.0]}, "times"),
        ({"flip_angle": None}, "flip_angle"),
        ({"tr": 5.0}, "tr"),
        ({"affine": None}, "dce"),
        ({"affine": np.eye(3)}, "dce"),
        ({"mask": np.ones((3, 3))}, "mask"),
        ({"mask": np.ones((4, 4, 4))}, "mask"),
        ({"mask": "absent.nii.gz"}, None),
        ({"mask": np.full((10, 10, 6), "a")}, "mask"),
        ({"vfa": [np.ones((10, 10, 6)), object()], "t1": None}, "vfa[1]"),
        ({"aif": {"time_s": [0.0, 1.0], "plasma_mM": [0.0]}}, "aif"),
        ({"model": "none"}, "model"),
    ],
)
def test_a_refusal_names_the_argument(
    study: SyntheticStudy, changed: dict[str, Any], field: str | None
) -> None:
    dce = study.images["dce"]
    given = {
        "affine": dce.affine,
        "times": [10.0 * i for i in range(len(dce))],
        "tr": 0.005,
        "flip_angle": 15.0,
        "mask": np.asarray(study.images["mask"]),
        "t1": 1.4,
    }
    with pytest.raises(InputError) as refused:
        nanopinn.maps(np.asarray(dce), **{**given, **changed})
    assert refused.value.field == field


def test_a_series_with_time_last_is_refused_by_its_number_of_frames(
    study: SyntheticStudy,
) -> None:
    dce = study.images["dce"]
    times = 10.0 * np.arange(len(dce))
    with pytest.raises(InputError, match="number of frame times") as refused:
        nanopinn.maps(np.moveaxis(np.asarray(dce), 0, -1), affine=dce.affine, times=times, t1=1.4)
    assert refused.value.field == "times"


def test_an_unknown_argument_is_refused(study: SyntheticStudy) -> None:
    with pytest.raises(TypeError, match="flipangle"):
        nanopinn.maps(study.images["dce"], flipangle=15)


def test_a_phantom_in_memory_is_the_one_that_is_written(
    study: SyntheticStudy, folder: Path, tmp_path: Path
) -> None:
    out = nanopinn.make_phantom(tmp_path / "study", nanopinn.PhantomSettings(**SMALL))
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert all((folder / f).read_bytes() == (out / f).read_bytes() for f in files)
    assert study.images["dce"].shape == (20, 10, 10, 6)


def test_a_simulation_of_arrays_equals_that_of_files(study: SyntheticStudy, folder: Path) -> None:
    names = {"ktrans": "Ktrans", "ve": "ve", "vp": "vp", "ph": "pH"}
    arrays = {key: study.truth[name] for key, name in names.items()}
    files = {key: folder / "truth" / f"{name}.nii.gz" for key, name in names.items()}
    found, expected = (
        nanopinn.simulate(treatment(), **maps, mask=mask, settings=QUICK)
        for maps, mask in (
            (arrays, np.asarray(study.images["mask"])),
            (files, folder / "mask.nii.gz"),
        )
    )
    for name, pool in expected.fields.items():
        np.testing.assert_array_equal(found.fields[name].values, pool.values)


def test_a_simulation_needs_a_complete_tumour(study: SyntheticStudy) -> None:
    with pytest.raises(InputError, match="ve, vp, mask"):
        nanopinn.simulate("none.toml", ktrans=study.truth["Ktrans"])
