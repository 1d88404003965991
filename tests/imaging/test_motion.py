"""Correction of rigid motion of a series."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.imaging.motion import correct_motion
from nanopinn.imaging.pipeline import make_maps

from .conftest import Study, save

pytestmark = pytest.mark.dce
VOXEL_MM = np.array([1.0, 1.2, 2.5])


@pytest.fixture(scope="module")
def still() -> np.ndarray:
    """An anatomy with an inner region that brightens threefold over twelve frames, ``(t, x, y,
    z)``.
    """
    rng = np.random.default_rng(0)
    x, y, z = np.indices((32, 30, 12))
    body = ((x - 16) / 13) ** 2 + ((y - 15) / 12) ** 2 + ((z - 5.5) / 5) ** 2 < 1
    texture = gaussian_filter(rng.standard_normal(body.shape), 2.0)
    anatomy = 100.0 * body * (1 + 2.0 * texture) + 5
    tumour = ((x - 20) / 4) ** 2 + ((y - 14) / 4) ** 2 + ((z - 6) / 3) ** 2 < 1
    uptake = np.concatenate([np.zeros(3), np.linspace(0.5, 2.0, 9)])
    frames = [gaussian_filter(anatomy * (1 + u * tumour), 0.7) for u in uptake]
    return np.stack([f + rng.standard_normal(f.shape) for f in frames])


def test_shifts_are_corrected_to_a_fifth_of_a_voxel(still: np.ndarray) -> None:
    moved_mm = np.zeros((12, 3))
    moved_mm[7:] = [1.3, -0.9, 1.1]
    moved = np.stack(
        [
            shift(f, m / VOXEL_MM, order=3, mode="nearest")
            for f, m in zip(still, moved_mm, strict=True)
        ]
    )
    back, trace = correct_motion(moved, VOXEL_MM)
    found = trace.translation_mm - trace.translation_mm[:7].mean(axis=0)
    np.testing.assert_allclose(found[7:], moved_mm[7:], atol=0.25)
    np.testing.assert_allclose(found[:7], 0.0, atol=0.25)
    inner = (slice(5, -5), slice(5, -5), slice(3, -3))
    before, after = (np.sqrt(((s[10] - still[10])[inner] ** 2).mean()) for s in (moved, back))
    assert after < 0.35 * before


def test_enhancement_is_not_mistaken_for_motion(still: np.ndarray) -> None:
    _, trace = correct_motion(still, VOXEL_MM)
    assert np.abs(trace.translation_mm).max() < 0.15
    # 0.7 degrees move the rim of the body, 13 mm away, by a sixth of a voxel
    assert np.abs(trace.rotation_deg).max() < 0.7


def test_a_rotation_is_corrected(still: np.ndarray) -> None:
    from scipy.ndimage import affine_transform

    angle = np.deg2rad(3.0)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    centre = (np.array(still.shape[1:]) - 1) / 2
    series = still.copy()
    matrix = np.diag(1 / VOXEL_MM) @ turn @ np.diag(VOXEL_MM)
    series[8:] = [
        affine_transform(f, matrix, offset=centre - matrix @ centre, order=3, mode="nearest")
        for f in still[8:]
    ]
    _, trace = correct_motion(series, VOXEL_MM)
    turned = trace.rotation_deg[8:, 2] - trace.rotation_deg[:8, 2].mean()
    # the bright tumour pulls at a body that is nearly round: a sixth of a voxel at its rim
    assert np.abs(np.abs(turned) - 3.0).max() < 0.7


def test_out_of_plane_motion_of_a_thin_slab_is_not_estimated(still: np.ndarray) -> None:
    slab = still[:, :, :, 4:9].copy()
    slab[8:] = [shift(f, (1.5, 0, 0), order=3, mode="nearest") for f in slab[8:]]
    _, trace = correct_motion(slab, VOXEL_MM)
    assert (trace.translation_mm[:, 2] == 0).all()
    assert (trace.rotation_deg[:, :2] == 0).all()
    np.testing.assert_allclose(
        trace.translation_mm[8:, 0] - trace.translation_mm[:8, 0].mean(), 1.5, atol=0.25
    )


def test_in_plane_motion_of_a_single_slice_is_corrected(still: np.ndarray) -> None:
    slab = still[:, :, :, 6:7].copy()
    slab[8:] = [shift(f, (1.5, 0, 0), order=3, mode="nearest") for f in slab[8:]]
    back, trace = correct_motion(slab, VOXEL_MM)
    assert back.shape == slab.shape
    assert (trace.translation_mm[:, 2] == 0).all()
    np.testing.assert_allclose(
        trace.translation_mm[8:, 0] - trace.translation_mm[:8, 0].mean(), 1.5, atol=0.25
    )


def test_motion_is_reported_with_the_maps(own_study: Study) -> None:
    import nibabel as nib

    data = np.asarray(nib.load(own_study.dce).dataobj, dtype=np.float64)
    # coils make it brighter here and there: something to hold on to, that no concentration feels
    coils = 1 + 3 * gaussian_filter(
        np.random.default_rng(0).standard_normal(data.shape[:3]), (2, 2, 1)
    )
    data = data * coils[..., None]
    save(own_study.dce, data, own_study.affine, own_study.side())
    maps = make_maps(ImagingInputs(**own_study.given(motion=True)))
    assert maps.motion is not None
    assert maps.motion.translation_mm.shape == (data.shape[3], 3)
    assert any("Rigid motion" in a for a in maps.assumptions)
