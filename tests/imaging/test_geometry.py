"""Resampling of maps between grids."""

from __future__ import annotations

import numpy as np
import pytest

from nanopinn.imaging.geometry import resample, same_grid, smooth_local_quadratic

from .conftest import oblique

FINE, COARSE = oblique((1.0, 1.2, 2.0), (3.0, -4.0, 5.0)), np.diag([2.1, 1.7, 1.9, 1.0])
COARSE[:3, 3] = (-6.0, -8.0, -9.0)


def world(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    index = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def ramp(points: np.ndarray) -> np.ndarray:
    return 1.0 + 0.3 * points[0] - 0.2 * points[1] + 0.11 * points[2]


def test_a_linear_field_survives_any_pair_of_oblique_affines() -> None:
    values = ramp(world((20, 18, 16), COARSE))
    found = resample(values, COARSE, (12, 10, 8), FINE)
    inner = np.isfinite(resample(values, COARSE, (12, 10, 8), FINE))
    exact = ramp(world((12, 10, 8), FINE))
    assert inner.mean() > 0.5
    at = np.linalg.inv(COARSE) @ np.vstack([world((12, 10, 8), FINE).reshape(3, -1), np.ones(960)])
    between = (
        ((at[:3] >= 0) & (at[:3] <= np.array([[19], [17], [15]]))).all(axis=0).reshape(12, 10, 8)
    )
    np.testing.assert_allclose(found[between], exact[between], rtol=1e-12, atol=1e-12)


def test_resampling_to_the_same_grid_changes_nothing() -> None:
    values = np.random.default_rng(0).random((6, 5, 4))
    np.testing.assert_allclose(resample(values, FINE, (6, 5, 4), FINE), values, atol=1e-12)


def test_resampling_forth_and_back_returns_a_linear_field() -> None:
    values = ramp(world((20, 18, 16), COARSE))
    there = resample(values, COARSE, (30, 26, 16), oblique((0.8, 0.9, 1.1), (-2.0, -3.0, 0.0)))
    back = resample(there, oblique((0.8, 0.9, 1.1), (-2.0, -3.0, 0.0)), (20, 18, 16), COARSE)
    known = np.isfinite(back)
    assert known.sum() > 300
    # trilinear is exact for a linear field except within a voxel of a border, where it holds the
    # edge's value
    steep = np.abs(np.array([0.3, 0.2, 0.11])) @ np.array([2.1, 1.7, 1.9])
    assert np.abs(back - values)[known].max() < steep
    assert np.median(np.abs(back - values)[known]) < 1e-12


def test_missing_voxels_do_not_affect_measured_ones() -> None:
    values = np.full((8, 8, 8), 7.0)
    values[4, 4, 4] = np.nan
    values[:, :, 6:] = np.nan
    fine = np.diag([0.5, 0.5, 0.5, 1.0])
    found = resample(values, np.eye(4), (15, 15, 15), fine)
    known = np.isfinite(found)
    assert set(np.unique(found[known])) == {7.0}
    assert np.isnan(found[8, 8, 8])
    assert np.isfinite(found[8, 8, 6])
    assert np.isnan(found[:, :, 12:]).all()


def test_nothing_is_extrapolated_beyond_the_outer_faces() -> None:
    values = np.ones((4, 4, 2))
    target = np.eye(4)
    target[:3, 3] = -3.0
    found = resample(values, np.eye(4), (10, 10, 9), target)
    assert np.isfinite(found).sum() == values.size
    assert np.isfinite(found[3:7, 3:7, 3:5]).all()


def test_a_single_slice_extends_through_its_thickness() -> None:
    slab = np.diag([1.0, 1.0, 6.0, 1.0])
    fine = np.eye(4)
    fine[2, 3] = -6.0
    found = resample(np.ones((5, 5, 1)), slab, (5, 5, 13), fine)
    assert np.isfinite(found[2, 2]).tolist() == [abs(z) <= 3 for z in range(-6, 7)]


def test_nearest_neighbours_keep_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (9, 9, 9)).astype(float)
    found = resample(
        labels, np.eye(4), (9, 9, 9), oblique((0.7, 0.7, 0.7), (2.0, 2.0, 2.0)), order=0
    )
    assert set(np.unique(found[np.isfinite(found)])) <= {0.0, 1.0, 2.0}


@pytest.mark.parametrize(("shift", "same"), [(0.0, True), (0.005, True), (0.2, False)])
def test_grids_are_the_same_to_a_hundredth_of_a_voxel(shift: float, same: bool) -> None:
    moved = FINE.copy()
    moved[0, 3] += shift
    assert same_grid((3, 3, 3), FINE, (3, 3, 3), moved) is same
    assert not same_grid((3, 3, 3), FINE, (3, 3, 4), FINE)


def block(shape: tuple[int, int, int]) -> np.ndarray:
    source = np.zeros(shape, dtype=bool)
    source[2:9, 2:8, 2:6] = True
    return source


def test_smoothing_preserves_a_gradient_up_to_the_border() -> None:
    values, source = ramp(world((12, 10, 8), COARSE)), block((12, 10, 8))
    smooth = smooth_local_quadratic(np.where(source, values, 1e6), source, 0.7)
    # the ridge that keeps slopes finite bends a line by a hundredth of its step
    step = np.abs(np.diff(values, axis=0)).max()
    np.testing.assert_allclose(smooth[source], values[source], atol=0.05 * step)
    assert np.isnan(smooth[-1, -1, -1])


def test_smoothing_does_not_fill_a_minimum() -> None:
    x, y, z = np.indices((13, 13, 13)) - 6.0
    core = 6.6 + 0.01 * (x**2 + y**2 + z**2)
    smooth = smooth_local_quadratic(core, np.ones(core.shape, dtype=bool), 1.2)
    assert smooth[6, 6, 6] == pytest.approx(6.6, abs=1e-3)  # a plane would say 6.643


def test_in_a_single_slice_the_slice_is_smoothed() -> None:
    x, y, _ = np.indices((15, 15, 1)) - 7.0
    smooth = smooth_local_quadratic(
        1.0 + 0.1 * x + 0.01 * (x**2 + y**2), np.ones((15, 15, 1), dtype=bool), 1.2
    )
    assert smooth[7, 7, 0] == pytest.approx(1.0, abs=2e-3)
    assert smooth[10, 7, 0] == pytest.approx(1.39, abs=5e-3)


def test_smoothing_averages_noise() -> None:
    noise = np.random.default_rng(0).standard_normal((24, 24, 24))
    smooth = smooth_local_quadratic(noise, np.ones(noise.shape, dtype=bool), 1.2)[5:-5, 5:-5, 5:-5]
    # the kernel is (5/2 - r^2/2) times the Gaussian: its square integrates to 3.4375 of the
    # Gaussian's
    assert smooth.std() == pytest.approx(3.4375**0.5 * (2 * np.sqrt(np.pi) * 1.2) ** -1.5, rel=0.15)
