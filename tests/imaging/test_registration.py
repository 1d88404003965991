"""Scans brought over one another by their intensities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from nanopinn.imaging.cest.measure import CestChoices
from nanopinn.imaging.geometry import resample
from nanopinn.imaging.ph import load_ph
from nanopinn.imaging.registration import align

from .conftest import oblique, save

pytestmark = pytest.mark.cest
SHAPE, VOXEL_MM = (40, 36, 16), (1.0, 1.0, 2.0)


@pytest.fixture(scope="module")
def anatomy() -> np.ndarray:
    """A body with organs in it."""
    rng = np.random.default_rng(1)
    x, y, z = np.indices(SHAPE)
    body = ((x - 20) / 16) ** 2 + ((y - 18) / 13) ** 2 + ((z - 7.5) / 7) ** 2 < 1
    organs = gaussian_filter(rng.standard_normal(SHAPE), (2.5, 2.5, 1.5))
    return gaussian_filter(body * (100 + 600 * organs), 0.6)


def moved(affine: np.ndarray) -> np.ndarray:
    """The true place of a scan whose header says ``affine``: 3 mm and 5 degrees away."""
    a, centre = np.deg2rad(5.0), affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + affine[:3, 3]
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    there, back = np.eye(4), np.eye(4)
    there[:3, 3], back[:3, 3] = centre + np.array([2.0, -2.0, 1.0]), -centre
    return there @ turn @ back @ affine


def seen_at(anatomy: np.ndarray, affine: np.ndarray, where: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """The anatomy as a scan placed at ``where`` shows it, in another contrast."""
    index = np.indices(shape).reshape(3, -1)
    world = where[:3, :3] @ index + where[:3, 3:]
    own = np.linalg.inv(affine) @ np.vstack([world, np.ones(world.shape[1])])
    values = map_coordinates(anatomy, own[:3], order=3, mode="nearest").reshape(shape)
    return 300.0 * np.exp(-values / 150.0)


def gap_in_voxels(found: np.ndarray, true: np.ndarray) -> float:
    corners = np.array([[i * (SHAPE[0] - 1), j * (SHAPE[1] - 1), k * (SHAPE[2] - 1), 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]).T
    middle = 0.6 * corners + 0.4 * corners.mean(axis=1, keepdims=True)
    return float(np.abs(((found - true) @ middle)[:3]).max() / min(VOXEL_MM))


def test_three_millimetres_and_five_degrees_are_recovered_to_0_3_voxel(anatomy: np.ndarray) -> None:
    affine = oblique(VOXEL_MM, (5.0, -8.0, 20.0))
    true = moved(affine)
    found, distance, angle = align(seen_at(anatomy, affine, true), affine, anatomy, affine)
    assert gap_in_voxels(found, true) < 0.3
    assert distance == pytest.approx(3.0, abs=0.4)
    assert angle == pytest.approx(5.0, abs=0.4)


def test_a_scan_in_place_stays_in_place(anatomy: np.ndarray) -> None:
    affine = oblique(VOXEL_MM)
    found, _, _ = align(seen_at(anatomy, affine, affine), affine, anatomy, affine)
    assert gap_in_voxels(found, affine) < 0.3


def test_a_single_slice_keeps_its_values_through_the_dce_grid_and_back(anatomy: np.ndarray) -> None:
    affine = oblique(VOXEL_MM)
    slab = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 7], [0, 0, 0, 1]])
    values = 6.8 + 0.05 * np.indices((40, 36, 1)).sum(axis=0) / 10
    there = resample(values, slab, SHAPE, affine)
    assert np.isfinite(there[:, :, 6:9]).all()
    assert np.isnan(there[:, :, [0, 4, 10]]).all()
    back = resample(there, affine, (40, 36, 1), slab)
    np.testing.assert_allclose(back, values, atol=1e-9)


def test_a_ph_map_that_lies_wrong_is_moved_onto_the_tumour(anatomy: np.ndarray, tmp_path: Path) -> None:
    """A map with its own landmarks: without registration its acid core is 3 mm away."""
    affine = oblique(VOXEL_MM)
    true = moved(affine)
    scan = seen_at(anatomy, affine, true)
    acid = 7.3 - 0.9 * (scan - scan.min()) / (scan.max() - scan.min())
    path = save(tmp_path / "ph.nii.gz", acid, affine, {"pHStd": 0.05})
    mask = anatomy > 40
    there = resample(acid, true, SHAPE, affine)
    as_it_says, registered = (load_ph(path, anatomy, affine, mask, chosen=CestChoices(register=r)).measured for r in (False, True))
    before, after = (np.nanstd((m - there)[mask]) for m in (as_it_says, registered))
    assert after < 0.25 * before
