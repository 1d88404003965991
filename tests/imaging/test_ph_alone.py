"""pH maps of a CEST scan without a DCE series, and the maps of a single slice."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

import nanopinn
from nanopinn.errors import InputError
from nanopinn.imaging.imaging_data import ImagingInputs, format_imaging_summary
from nanopinn.imaging.pipeline import make_maps
from nanopinn.report.result_folder import write_imaging

from .conftest import Study, save

pytestmark = pytest.mark.cest


def test_ph_alone_is_the_ph_on_the_grid_of_its_scan(study: Study) -> None:
    path = study.folder / "ph.nii.gz"
    alone = make_maps(ImagingInputs(cest=path, mask=study.folder / "mask.nii.gz"), require_ph=False)
    measured = np.asarray(nib.load(path).dataobj, dtype=np.float64)
    known = np.isfinite(alone.ph)
    assert not alone.has_dce
    np.testing.assert_allclose(alone.affine, nib.load(path).affine, atol=1e-5)
    np.testing.assert_allclose(alone.ph[known], measured[known], rtol=1e-6)
    # the mask, drawn on the DCE grid, covers the voxels whose centre lies in its nearest voxel
    centres = np.linalg.inv(study.affine) @ alone.affine
    at = np.einsum("ij,jxyz->ixyz", centres[:3, :3], np.indices(measured.shape))
    at += centres[:3, 3, None, None, None]
    inside = map_coordinates(study.mask.astype(float), at, order=1) > 0.5
    assert (alone.mask == inside).mean() > 0.99
    assert f"median {np.median(measured[alone.mask & known]):.3g}" in format_imaging_summary(alone)


def test_without_a_mask_every_voxel_with_a_ph_counts(study: Study) -> None:
    maps = make_maps(ImagingInputs(cest=study.folder / "ph.nii.gz"), require_ph=False)
    np.testing.assert_array_equal(maps.mask, np.isfinite(maps.ph))
    assert maps.ph_coverage == 1
    assert any("No mask was given" in a for a in maps.assumptions)


def test_the_folder_of_ph_alone_holds_its_maps_and_page(study: Study, tmp_path: Path) -> None:
    inputs = ImagingInputs(cest=study.folder / "ph.nii.gz")
    maps = make_maps(inputs, require_ph=False)
    out = write_imaging(tmp_path / "out", maps, inputs)
    names = {p.name.removesuffix(".nii.gz") for p in (out / "maps").glob("*.nii.gz")}
    assert names == {"mask", "pH", "pH_std", "pH_validity"}
    assert not (out / "aif.tsv").exists()
    page = (out / "imaging.html").read_text()
    assert "pH of this tumour" in page
    assert "kinetic parameters" not in page
    assert "Arterial input" not in page
    assert page.count("<img") == 1
    entries = json.loads((out / "imaging.json").read_text())
    assert 6 < entries["median_over_tumour"]["pH"] < 8


def test_arrays_of_ph_need_no_series() -> None:
    pH = np.full((5, 6, 4), 6.8)
    pH[0] = np.nan
    maps = nanopinn.maps(cest=(pH, {"pHStd": 0.1}), affine=np.diag([0.5, 0.5, 1.0, 1.0]))
    np.testing.assert_allclose(maps.ph, pH)
    np.testing.assert_allclose(maps.voxel_size_m, [5e-4, 5e-4, 1e-3])
    assert maps.mask.sum() == 96


@pytest.mark.parametrize(
    ("change", "said"),
    [({"t1": 1.3}, "t1"), ({"cest": None}, "nothing"), ({"motion": True}, "mot")],
)
def test_what_needs_a_series_is_refused_without_one(
    study: Study, change: dict[str, object], said: str
) -> None:
    given = {"cest": study.folder / "ph.nii.gz", **change}
    with pytest.raises(InputError, match="no DCE series") as error:
        make_maps(ImagingInputs(**given), require_ph=False)
    assert said in str(error.value)


def test_a_fit_of_ph_alone_is_refused(study: Study) -> None:
    with pytest.raises(InputError, match="no DCE series") as error:
        make_maps(ImagingInputs(cest=study.folder / "ph.nii.gz"))
    assert "alone" not in str(error.value)


def test_an_automatic_mask_of_a_single_slice_is_its_section(study: Study, tmp_path: Path) -> None:
    """The middle slice alone, by all that was cut from the study."""
    middle = study.mask.sum(axis=(0, 1)).argmax()
    affine = study.affine.copy()
    affine[:3, 3] += middle * affine[:3, 2]
    files = []
    for path in (study.dce, *study.vfa):
        data = np.asarray(nib.load(path).dataobj)[:, :, middle : middle + 1]
        side = json.loads((study.folder / f"{path.name.split('.')[0]}.json").read_text())
        files.append(save(tmp_path / path.name, data, affine, side))
    one = make_maps(ImagingInputs(dce=files[0], vfa=tuple(files[1:])), require_ph=False)
    assert one.mask.shape[2] == 1
    section = study.mask[:, :, middle : middle + 1]
    overlap = (one.mask & section).sum() / (one.mask | section).sum()
    assert overlap > 0.6
    both = one.mask & section
    np.testing.assert_allclose(
        one.ktrans_per_min[both], study.Ktrans[:, :, middle : middle + 1][both], rtol=0.02
    )
