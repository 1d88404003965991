"""Layers, orientation and coordinates of the plugin equal those of the files."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nanopinn.io.volumes import write_volume
from nanopinn.napari_plugin.layers import (
    ARM_QUANTITIES,
    from_napari_axes,
    layer_transform,
    ras_affine,
    to_napari_axes,
)
from nanopinn.napari_plugin.reader import infer_role, read_file
from nanopinn.napari_plugin.sources import affine_from_attributes, write_layer_file
from nanopinn.physics.cell_kill import KILL_MODELS

#: An oblique scan with a flipped axis and unequal edges.
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TURN @ np.diag([-0.4, 0.5, 2.0])
OBLIQUE[:3, 3] = (10.0, -20.0, 5.0)


def world(layer: dict[str, object], index: tuple[int, ...]) -> np.ndarray:
    """Where napari puts a voxel (z, y, x), without its outer affine."""
    return np.asarray(layer["translate"]) + np.asarray(layer["scale"]) * np.asarray(index)


def test_distances_in_napari_equal_those_in_the_scanner() -> None:
    place = layer_transform(OBLIQUE)
    a, b = (1, 2, 3), (4, 0, 1)
    there = np.linalg.norm(OBLIQUE[:3, :3] @ (np.subtract(a, b)))
    assert np.linalg.norm(world(place, a[::-1]) - world(place, b[::-1])) == pytest.approx(there)


def test_parallel_scans_overlay_correctly() -> None:
    coarse = OBLIQUE.copy()
    coarse[:3, :3] *= 1.5
    coarse[:3, 3] += OBLIQUE[:3, :3] @ (2, 1, 0)  # its first voxel is the other's (2, 1, 0)
    np.testing.assert_allclose(
        world(layer_transform(coarse), (0, 0, 0)),
        world(layer_transform(OBLIQUE), (0, 1, 2)),
        atol=1e-12,
    )


def test_drawn_layer_has_the_affine_of_the_scanner() -> None:
    place = layer_transform(OBLIQUE)
    inside = np.eye(4)
    inside[:3, :3], inside[:3, 3] = np.diag(place["scale"]), place["translate"]
    np.testing.assert_allclose(ras_affine(inside, OBLIQUE), OBLIQUE, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 5, 3), (6, 4, 5, 3)])
def test_reordering_of_axes_is_inverted(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape)
    assert to_napari_axes(values).shape[-3:] == shape[-3:][::-1]
    np.testing.assert_array_equal(from_napari_axes(to_napari_axes(values)), values)
    if len(shape) == 4:
        np.testing.assert_array_equal(from_napari_axes(to_napari_axes(values)[:, None]), values)


@pytest.mark.parametrize("shape", [(4, 5, 3), (6, 4, 5, 3)])
def test_file_read_and_saved_is_unchanged(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    series = {
        "VolumeTiming": [0.0, 5, 10, 15, 20, 25],
        "RepetitionTimeExcitation": 0.005,
        "FlipAngle": 15,
    }
    side = series if len(shape) == 4 else {"Unit": "s"}
    write_volume(tmp_path / "a.nii.gz", values, OBLIQUE, sidecar=side)
    data, looks, kind = read_file(tmp_path / "a.nii.gz")
    assert kind == "image"
    write_layer_file(tmp_path / "b.nii.gz", data, looks)
    a, b = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(a.get_fdata(), b.get_fdata())
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-6)
    assert json.loads((tmp_path / "b.json").read_text()) == side


def test_foreign_layer_is_saved_at_its_position_in_napari() -> None:
    attributes = {
        "scale": (2.0, 0.5, 0.4),
        "translate": (1.0, 2.0, 3.0),
        "affine": np.eye(4),
        "metadata": {},
    }
    np.testing.assert_allclose(affine_from_attributes(attributes) @ (1, 0, 0, 1), (3.4, 2, 1, 1))


def test_even_series_is_in_seconds_and_uneven_frames_are_numbered(tmp_path: Path) -> None:
    for name, times, spacing, unit in (
        ("even", [0, 5, 10], 5.0, "s"),
        ("uneven", [0, 5, 20], 1.0, "pixel"),
    ):
        side = {"VolumeTiming": times, "RepetitionTimeExcitation": 0.005, "FlipAngle": 15}
        write_volume(tmp_path / f"{name}.nii.gz", np.ones((3, 4, 5, 3)), np.eye(4), sidecar=side)
        _, looks, _ = read_file(tmp_path / f"{name}.nii.gz")
        assert looks["scale"][0] == spacing
        assert looks["units"][0] == unit


@pytest.mark.parametrize(
    ("name", "shape", "side", "role"),
    [
        ("a", (4, 4, 3, 9), {"VolumeTiming": []}, "dce"),
        ("a", (4, 4, 3, 9), {"SaturationOffsetsPPM": []}, "cest"),
        ("a", (4, 4, 3), {"FlipAngle": 10}, "vfa"),
        ("a", (4, 4, 3), {"TimeAfterDose": 60}, "drug"),
        ("tumour_mask", (4, 4, 3), {}, "mask"),
        ("ph", (4, 4, 3), {}, "ph"),
        ("a", (4, 4, 3), {}, None),
    ],
)
def test_role_of_a_file_is_inferred(
    name: str, shape: tuple[int, ...], side: dict[str, object], role: str | None
) -> None:
    assert infer_role(name, shape, side) == role


def test_the_names_of_the_kill_models_are_those_of_the_physics() -> None:
    for key, model in KILL_MODELS.items():
        quantity = f"maps/lethal_beyond_{key}"
        assert ARM_QUANTITIES[quantity] == f"lethal fraction far from vessels, {model.name}"
