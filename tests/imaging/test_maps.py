"""From files to maps, on a small study whose maps are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanopinn.imaging.imaging_data import ImagingInputs, ImagingMaps, format_imaging_summary
from nanopinn.imaging.pipeline import make_maps
from nanopinn.imaging.voxel_status import INVALID, Status
from nanopinn.parameters import value

from .conftest import BOLUS_S, T10_S, VFA_DEG, Study, build_study, save

pytestmark = pytest.mark.dce


@pytest.fixture(scope="module")
def maps(study: Study) -> ImagingMaps:
    return make_maps(ImagingInputs(**study.given()))


def test_maps_of_a_noise_free_study_equal_its_truth(study: Study, maps: ImagingMaps) -> None:
    inside = study.mask
    np.testing.assert_allclose(maps.t1_s, T10_S, rtol=1e-5)  # float32 signals
    # the arrival is fitted to 0.05 s and trades with vp; Ktrans and ve hardly feel it
    np.testing.assert_allclose(maps.ktrans_per_min[inside], study.Ktrans[inside], rtol=0.01)
    np.testing.assert_allclose(maps.ve[inside], study.ve[inside], rtol=0.01)
    np.testing.assert_allclose(maps.vp[inside], study.vp[inside], atol=0.002)
    assert float(maps.aif.times_s[0]) == pytest.approx(BOLUS_S, abs=0.2)
    assert maps.valid_fraction == 1.0


def test_tissue_without_enhancement_is_nan(study: Study, maps: ImagingMaps) -> None:
    outside = ~study.mask
    assert (maps.status[outside] & int(Status.NOT_ENHANCING) > 0).all()
    for values in (maps.ktrans_per_min, maps.ktrans_std, maps.ve, maps.vp, maps.kinetics.r2):
        assert np.isnan(values[outside]).all()


def test_shapes_and_units_are_as_documented(study: Study, maps: ImagingMaps) -> None:
    shape = study.mask.shape
    assert maps.kinetics.covariance.shape == (*shape, 3, 3)
    assert maps.concentration_mM.shape == (len(study.frame_times), *shape)
    np.testing.assert_allclose(maps.affine, study.affine, atol=1e-5)
    np.testing.assert_allclose(maps.voxel_size_m, [1.0e-3, 1.2e-3, 2.0e-3], rtol=1e-6)
    variance = np.diagonal(maps.kinetics.covariance, axis1=-2, axis2=-1)
    expected = np.stack([maps.ktrans_std, maps.ve_std, maps.vp_std], axis=-1) ** 2
    np.testing.assert_allclose(variance, expected, rtol=1e-9)
    assert "104 voxels" in format_imaging_summary(maps) or (
        f"{study.mask.sum()} voxels" in format_imaging_summary(maps)
    )


def test_the_stated_noise_equals_the_scatter(tmp_path: Path) -> None:
    noise = 1.0
    noisy = build_study(tmp_path, noise)
    found = make_maps(ImagingInputs(**noisy.given()))
    inside = noisy.mask & (found.status == 0)
    error = (found.ktrans_per_min - noisy.Ktrans)[inside] / found.ktrans_std[inside]
    # a normalised error has sd 1; about a hundred voxels know it to 7 %, a shared arrival adds a
    # little
    assert 0.75 < error.std() < 1.35
    assert abs(np.median(error)) < 0.5


def test_a_corrupt_voxel_is_flagged_and_affects_no_other(
    own_study: Study, maps: ImagingMaps
) -> None:
    import nibabel as nib

    image = nib.load(own_study.dce)
    data = np.asarray(image.dataobj, dtype=np.float64)
    places = [tuple(p) for p in np.argwhere(own_study.mask)[[3, 30, 60]]]
    data[(*places[0], 12)] = np.nan
    data[(*places[1], slice(None))] = 0.0
    data[(*places[2], slice(10, 20))] = 1e7
    save(own_study.dce, data, own_study.affine, own_study.side())
    found = make_maps(ImagingInputs(**own_study.given()))
    flags = [Status(int(found.status[p])) for p in places]
    assert flags == [Status.NONFINITE, Status.NONFINITE, Status.SATURATED]
    assert all(np.isnan(found.ktrans_per_min[p]) for p in places)
    others = own_study.mask.copy()
    for p in places:
        others[p] = False
    assert (found.status[others] & int(INVALID) == 0).all()
    np.testing.assert_allclose(found.ktrans_per_min[others], maps.ktrans_per_min[others], rtol=2e-3)


def test_ph_is_resampled_by_the_affines_and_its_coverage_reported(
    study: Study, maps: ImagingMaps
) -> None:
    measured = np.isfinite(maps.ph)
    # the pH grid: 1.5 voxels in plane from an offset of a quarter voxel, the same slices from the
    # second on
    x, y, z = np.indices(study.mask.shape)
    u, v, w = (x - 0.25) / 1.5, (y - 0.25) / 1.5, z - 1.0
    between = (u >= 0) & (u <= 7) & (v >= 0) & (v <= 6) & (w >= 0) & (w <= 2)
    np.testing.assert_allclose(maps.ph[between], (7.2 - 0.04 * (u + v + w))[between], atol=1e-5)
    assert not measured[:, :, 4:].any()
    inside = study.mask
    assert maps.ph_coverage == pytest.approx(measured[inside].mean())
    assert 0 < maps.ph_coverage < 1
    assert maps.ph_fill_value == pytest.approx(maps.ph[inside & measured].mean())
    assert (maps.ph_filled[inside & ~measured] == maps.ph_fill_value).all()
    assert (maps.ph_filled[~inside & ~measured] == value("pHe_n")).all()
    assert (maps.ph_filled[measured] == maps.ph[measured]).all()
    np.testing.assert_allclose(maps.ph_std[measured], 0.1, rtol=1e-12)
    said = " ".join(maps.assumptions)
    assert f"{maps.ph_fill_value:.2f}" in said
    assert f"{maps.ph_coverage:.0%}" in said


def test_an_assumed_ph_is_reported(study: Study) -> None:
    found = make_maps(ImagingInputs(**study.given(cest=None, assume_ph=6.8)))
    assert found.ph_coverage == 0.0
    assert np.isnan(found.ph).all()
    assert (found.ph_filled[study.mask] == 6.8).all()
    assert any("6.8 is assumed" in a for a in found.assumptions)


def test_a_stated_t1_is_reported_as_assumed(study: Study) -> None:
    found = make_maps(ImagingInputs(**study.given(vfa=(), t1=T10_S)))
    assert any("1.3 s is assumed" in a for a in found.assumptions)
    np.testing.assert_allclose(
        found.ktrans_per_min[study.mask], study.Ktrans[study.mask], rtol=0.01
    )


def test_a_t1_map_on_another_grid_is_resampled(own_study: Study) -> None:
    coarse = own_study.affine @ np.diag([2.0, 2.0, 1.0, 1.0])
    path = save(own_study.folder / "t1.nii.gz", np.full((7, 7, 6), 1.1), coarse)
    found = make_maps(ImagingInputs(**own_study.given(vfa=(), t1=path)))
    np.testing.assert_allclose(found.t1_s[own_study.mask], 1.1, rtol=1e-6)
    assert any("another grid" in a for a in found.assumptions)


def test_the_automatic_mask_finds_the_tumour_and_is_reported(study: Study) -> None:
    found = make_maps(ImagingInputs(**study.given(mask=None)))
    overlap = (found.mask & study.mask).sum()
    dice = 2 * overlap / (found.mask.sum() + study.mask.sum())
    # smoothed over a voxel: the border of a ball four voxels in radius is where it errs
    assert dice > 0.85
    assert any("No mask was given" in a for a in found.assumptions)


def test_a_mask_on_a_finer_grid_gives_the_same_tumour(own_study: Study) -> None:
    fine = own_study.affine @ np.array(
        [[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]
    )
    path = save(
        own_study.folder / "fine.nii.gz",
        own_study.mask.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2),
        fine,
    )
    found = make_maps(ImagingInputs(**own_study.given(mask=path)))
    np.testing.assert_array_equal(found.mask, own_study.mask)


def test_an_arterial_file_replaces_the_population_curve(own_study: Study) -> None:
    from nanopinn.imaging.dce.aif_population import parker

    t = np.arange(0, 300, 0.1)
    rows = [f"{a:.6f}\t{b:.9f}" for a, b in zip(t, parker(t - BOLUS_S), strict=True)]
    path = own_study.folder / "aif.tsv"
    path.write_text("\n".join(["time_s\tblood_mM", *rows]))
    found = make_maps(ImagingInputs(**own_study.given(aif=str(path))))
    np.testing.assert_allclose(
        found.ktrans_per_min[own_study.mask], own_study.Ktrans[own_study.mask], rtol=0.01
    )
    assert not any("Parker" in a for a in found.assumptions)


def test_a_first_frame_off_steady_state_is_left_out_of_the_baseline(
    own_study: Study, maps: ImagingMaps
) -> None:
    import nibabel as nib

    data = np.asarray(nib.load(own_study.dce).dataobj, dtype=np.float64)
    data[..., 0] *= 1.8
    save(own_study.dce, data, own_study.affine, own_study.side())
    found = make_maps(ImagingInputs(**own_study.given()))
    np.testing.assert_allclose(
        found.concentration_mM[1:, own_study.mask],
        maps.concentration_mM[1:, own_study.mask],
        atol=1e-6,
    )


def test_progress_runs_from_reading_to_the_end(study: Study) -> None:
    told: list[tuple[str, float]] = []
    make_maps(
        ImagingInputs(**study.given()), progress=lambda stage, done, _: told.append((stage, done))
    )
    assert [s for s, _ in told] == ["reading", "arterial input", "kinetics"]
    assert told[-1][1] == 1.0
    assert sorted(d for _, d in told) == [d for _, d in told]


def test_every_file_that_is_read_is_listed(study: Study) -> None:
    files = ImagingInputs(**study.given(aif="aif.tsv")).files()
    assert len(files) == 3 + len(VFA_DEG) + 1
