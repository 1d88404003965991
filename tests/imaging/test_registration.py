"""Registration of scans by mutual information."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from nanopinn.errors import InputError
from nanopinn.imaging import registration as placement
from nanopinn.imaging.cest.agent import load_agent
from nanopinn.imaging.cest.bloch import Saturation, simulate_z_spectra
from nanopinn.imaging.cest.ph_on_dce_grid import load_ph
from nanopinn.imaging.cest.ph_scan import CestOptions, measure_ph
from nanopinn.imaging.dce.t1 import T1Source, load_native_t1
from nanopinn.imaging.drug_image import load_drug_image
from nanopinn.imaging.geometry import resample
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.imaging.pipeline import make_maps
from nanopinn.imaging.registration import (
    Coregistration,
    RegistrationResult,
    TransformKind,
    register_images,
)
from nanopinn.inference.pose import load_drug_images
from nanopinn.settings import FitSettings

from .conftest import Study, oblique, save, spoiled_gradient_echo

pytestmark = pytest.mark.cest
SHAPE, VOXEL_MM = (40, 36, 16), (1.0, 1.0, 2.0)
AFFINE = oblique(VOXEL_MM, (5.0, -8.0, 20.0))
DRUG = {"Units": "ug/mL", "Quantity": "total", "TimeAfterDose": 3600, "NoiseSD": 0.1}


@pytest.fixture(scope="module")
def anatomy() -> np.ndarray:
    """A body with organs in it."""
    rng = np.random.default_rng(1)
    x, y, z = np.indices(SHAPE)
    body = ((x - 20) / 16) ** 2 + ((y - 18) / 13) ** 2 + ((z - 7.5) / 7) ** 2 < 1
    organs = gaussian_filter(rng.standard_normal(SHAPE), (2.5, 2.5, 1.5))
    return gaussian_filter(body * (100 + 600 * organs), 0.6)


def moved(
    affine: np.ndarray,
    shape: tuple[int, ...] = SHAPE,
    scale: tuple[float, float, float] = (1, 1, 1),
) -> np.ndarray:
    """The true place of a scan whose header says ``affine``: 3 mm and 5 degrees away, stretched
    along its own axes.
    """
    a, centre = np.deg2rad(5.0), affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    turn, size = np.eye(4), np.linalg.norm(affine[:3, :3], axis=0)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    own = affine[:3, :3] / size
    turn[:3, :3] = turn[:3, :3] @ own @ np.diag(scale) @ own.T
    there, back = np.eye(4), np.eye(4)
    there[:3, 3], back[:3, 3] = centre + np.array([2.0, -2.0, 1.0]), -centre
    return there @ turn @ back @ affine


def shown(
    anatomy: np.ndarray, where: np.ndarray, shape: tuple[int, int, int] = SHAPE, thick: int = 1
) -> np.ndarray:
    """The anatomy as voxels placed at ``where`` hold it, averaged through ``thick`` layers of each
    slice.
    """
    parts = []
    for i in range(thick):
        index = np.indices(shape).reshape(3, -1) + np.array([[0], [0], [(i + 0.5) / thick - 0.5]])
        world = where[:3, :3] @ index + where[:3, 3:]
        own = np.linalg.inv(AFFINE) @ np.vstack([world, np.ones(world.shape[1])])
        parts.append(map_coordinates(anatomy, own[:3], order=3, mode="nearest").reshape(shape))
    return np.mean(parts, axis=0)


def seen_at(
    anatomy: np.ndarray, where: np.ndarray, shape: tuple[int, int, int] = SHAPE, thick: int = 1
) -> np.ndarray:
    """The same in another contrast."""
    return 300.0 * np.exp(-shown(anatomy, where, shape, thick) / 150.0)


def gap_in_voxels(found: np.ndarray, true: np.ndarray, shape: tuple[int, ...] = SHAPE) -> float:
    corners = np.array(
        [
            [i, j, k, 1]
            for i in (0, shape[0] - 1)
            for j in (0, shape[1] - 1)
            for k in (0, shape[2] - 1)
        ]
    ).T
    middle = 0.6 * corners + 0.4 * corners.mean(axis=1, keepdims=True)
    return float(np.linalg.norm(((found - true) @ middle)[:3], axis=0).max() / min(VOXEL_MM))


def test_three_millimetres_and_five_degrees_are_recovered_to_0_3_voxel(anatomy: np.ndarray) -> None:
    true = moved(AFFINE)
    found = register_images(seen_at(anatomy, true), AFFINE, anatomy, AFFINE)
    assert gap_in_voxels(found.affine, true) < 0.3
    assert found.shift_mm == pytest.approx(3.0, abs=0.4)
    assert found.rotation_angle_deg == pytest.approx(5.0, abs=0.4)
    assert found.max_strain < 1e-9
    assert found.mutual_information[1] > found.mutual_information[0]


def test_a_rotated_scan_on_a_coarser_grid_is_recovered(anatomy: np.ndarray) -> None:
    """Voxels of 1.5 x 1.2 x 3 mm, axes permuted and mirrored, turned by 10 degrees about the
    slices' normal.
    """
    shape, a = (22, 26, 9), np.deg2rad(10.0)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    header, centre = np.eye(4), AFFINE[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + AFFINE[:3, 3]
    header[:3, :3] = (
        AFFINE[:3, :3] / VOXEL_MM @ turn @ np.array([[0, 1.2, 0], [-1.5, 0, 0], [0, 0, -3.0]])
    )
    header[:3, 3] = centre - header[:3, :3] @ ((np.array(shape) - 1) / 2)
    true = moved(header, shape)
    found = register_images(seen_at(anatomy, true, shape, thick=3), header, anatomy, AFFINE)
    assert gap_in_voxels(found.affine, true, shape) < 0.3
    assert found.rotation_angle_deg == pytest.approx(5.0, abs=0.4)


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_single_thick_slice_is_recovered_in_all_directions(
    anatomy: np.ndarray, kind: TransformKind
) -> None:
    """6 mm thick; its scale along the normal is held, so nothing is invented there."""
    slab = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 7], [0, 0, 0, 1]])
    shape = (40, 36, 1)
    true = moved(slab, shape)
    found = register_images(seen_at(anatomy, true, shape, thick=6), slab, anatomy, AFFINE, kind)
    assert gap_in_voxels(found.affine, true, shape) < 0.3
    assert np.linalg.norm(found.affine[:3, 2]) == pytest.approx(6.0, abs=1e-6)


def test_a_strain_of_3_per_cent_is_recovered_to_half_a_per_cent(
    anatomy: np.ndarray,
) -> None:
    true = moved(AFFINE, scale=(1.03, 1.0, 0.97))
    image = seen_at(anatomy, true)
    found, stiff = (
        register_images(image, AFFINE, anatomy, AFFINE, kind) for kind in ("affine", "rigid")
    )  # type: ignore[arg-type]
    sizes = np.linalg.norm(found.affine[:3, :3], axis=0) / np.linalg.norm(true[:3, :3], axis=0)
    np.testing.assert_allclose(sizes, 1.0, atol=0.005)
    assert found.max_strain == pytest.approx(0.03, abs=0.005)
    assert gap_in_voxels(found.affine, true) < 0.3
    np.testing.assert_allclose(np.linalg.norm(stiff.affine[:3, :3], axis=0), VOXEL_MM, rtol=1e-9)


def test_the_strain_of_seven_slices_along_their_normal_is_not_estimated(
    anatomy: np.ndarray,
) -> None:
    header = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]])
    shape = (40, 36, 7)
    true = moved(header, shape, (1.03, 1.0, 1.0))
    found = register_images(seen_at(anatomy, true, shape), header, anatomy, AFFINE, "affine").affine
    sizes = np.linalg.norm(found[:3, :3], axis=0)
    assert sizes[2] == pytest.approx(2.0, abs=1e-6)
    assert sizes[0] == pytest.approx(1.03, abs=0.005)
    normal = np.cross(found[:3, 0], found[:3, 1])
    assert np.abs(normal @ found[:3, 2]) / np.linalg.norm(normal) == pytest.approx(
        2.0, abs=1e-6
    )  # not sheared either


def test_an_aligned_scan_is_not_moved(anatomy: np.ndarray) -> None:
    placed, notes = Coregistration(anatomy, AFFINE, "rigid").register_scan(
        "T1 map", seen_at(anatomy, AFFINE), AFFINE, "t1.nii"
    )
    assert gap_in_voxels(placed, AFFINE) < 0.3
    assert len(notes) == 1


def test_a_single_slice_keeps_its_values_on_the_dce_grid_and_back() -> None:
    slab = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 7], [0, 0, 0, 1]])
    values = 6.8 + 0.05 * np.indices((40, 36, 1)).sum(axis=0) / 10
    there = resample(values, slab, SHAPE, AFFINE)
    assert np.isfinite(there[:, :, 6:9]).all()
    assert np.isnan(there[:, :, [0, 4, 10]]).all()
    back = resample(there, AFFINE, (40, 36, 1), slab)
    np.testing.assert_allclose(back, values, atol=1e-9)


def test_a_displaced_ph_map_is_registered_to_the_tumour(
    anatomy: np.ndarray, tmp_path: Path
) -> None:
    """A map with its own landmarks: without registration its acid core is 3 mm away."""
    true = moved(AFFINE)
    scan = seen_at(anatomy, true)
    acid = 7.3 - 0.9 * (scan - scan.min()) / (scan.max() - scan.min())
    path = save(tmp_path / "ph.nii.gz", acid, AFFINE, {"pHStd": 0.05})
    mask = anatomy > 40
    there = resample(acid, true, SHAPE, AFFINE)
    as_it_says, registered = (
        load_ph(path, AFFINE, mask, coregistration=Coregistration(anatomy, AFFINE, m))
        for m in ("none", "rigid")
    )  # type: ignore[arg-type]
    before, after = (np.nanstd((m.measured - there)[mask]) for m in (as_it_says, registered))
    assert after < 0.25 * before
    assert any(
        "CEST scan was registered to the DCE scan by a shift of 3.0 mm and a rotation of 5.0" in a
        for a in registered.assumptions
    )
    assert not any("moved" in a for a in as_it_says.assumptions)


def flip_angle_set(
    anatomy: np.ndarray, true: np.ndarray, folder: Path
) -> tuple[tuple[Path, ...], np.ndarray]:
    """Files whose headers say ``AFFINE`` of tissue that lies at ``true``, and the T1 in their
    voxels.
    """
    T1 = 0.6 + shown(anatomy, true) / 300.0
    density = np.where(shown(anatomy, true) > 20, 1.0, 0.01)
    files = []
    for flip in (2.0, 8.0, 18.0):
        side = {"RepetitionTimeExcitation": 0.005, "FlipAngle": flip}
        files.append(
            save(
                folder / f"fa{flip:g}.nii.gz",
                density * spoiled_gradient_echo(1 / T1, flip),
                AFFINE,
                side,
            )
        )
    return tuple(files), T1


@pytest.mark.parametrize("given", ["vfa", "map"])
def test_a_displaced_t1_set_is_registered_as_one(
    anatomy: np.ndarray, tmp_path: Path, given: str
) -> None:
    true, inside = moved(AFFINE), anatomy > 40
    files, T1 = flip_angle_set(anatomy, true, tmp_path)
    source = (
        T1Source(vfa=files)
        if given == "vfa"
        else T1Source(t1=save(tmp_path / "t1.nii.gz", T1, AFFINE))
    )
    wanted = resample(T1, true, SHAPE, AFFINE)
    found = load_native_t1(
        source, SHAPE, AFFINE, coregistration=Coregistration(anatomy, AFFINE, "rigid")
    )
    still = load_native_t1(source, SHAPE, AFFINE)
    error, unmoved = (np.nanstd((t.T1_s - wanted)[inside]) for t in (found, still))
    assert error < 0.25 * unmoved
    assert any(
        ("flip-angle set" if given == "vfa" else "T1 map")
        + " was registered to the DCE scan by a shift of 3."
        in a
        for a in found.assumptions
    )
    assert not any("by the affines" in a for a in found.assumptions)


def test_a_displaced_drug_image_is_registered_and_reported(
    anatomy: np.ndarray, tmp_path: Path
) -> None:
    true, inside = moved(AFFINE), anatomy > 40
    drug = np.clip(shown(anatomy, true), 0, None)
    path = save(tmp_path / "drug.nii.gz", drug, AFFINE, DRUG)
    wanted = 1e-3 * resample(drug, true, SHAPE, AFFINE)
    found, still = (
        load_drug_image(
            path, SHAPE, AFFINE, inside, coregistration=Coregistration(anatomy, AFFINE, m)
        )
        for m in ("affine", "none")
    )  # type: ignore[arg-type]
    assert np.nanstd((found.values - wanted)[inside]) < 0.25 * np.nanstd(
        (still.values - wanted)[inside]
    )
    assert len(found.notes) == 1
    assert "with strains of at most" in found.notes[0]
    assert still.notes == ()


def test_unregistered_scans_keep_their_affines(anatomy: np.ndarray, tmp_path: Path) -> None:
    values = seen_at(anatomy, AFFINE)
    header = moved(AFFINE)
    path = save(tmp_path / "drug.nii.gz", values, header, DRUG)
    found = load_drug_image(
        path, SHAPE, AFFINE, anatomy > 40, coregistration=Coregistration(anatomy, AFFINE)
    )
    np.testing.assert_allclose(
        found.values, 1e-3 * resample(values.astype(np.float32), header, SHAPE, AFFINE), rtol=1e-5
    )
    placed, notes = Coregistration(anatomy, AFFINE).register_scan("T1 map", values, header, path)
    assert (placed == header).all()
    assert notes == []


def test_scans_that_cannot_be_registered_are_refused_with_a_remedy(anatomy: np.ndarray) -> None:
    coregistration, away = Coregistration(anatomy, AFFINE, "rigid"), AFFINE.copy()
    away[:3, 3] += 500.0
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    for image, affine, why in (
        (np.ones(SHAPE), AFFINE, "has no contrast"),
        (seen_at(anatomy, AFFINE), away, "outside the DCE scan"),
    ):
        with pytest.raises(InputError, match=why) as caught:
            coregistration.register_scan("T1 map", image, affine, "t1.nii")
        assert caught.value.field == "register"
        assert "by hand" in str(caught.value)
        assert "`register` as 'none'" in str(caught.value)
    with pytest.raises(InputError, match="DCE scan has no contrast"):
        replace(coregistration, anatomy=np.zeros(SHAPE)).register_scan(
            "T1 map", noise, AFFINE, "t1.nii"
        )


@pytest.mark.parametrize(
    ("shift_mm", "rotation_angle_deg", "stretch", "information", "why"),
    [
        (19.0, 0.0, 0.0, (0.5, 0.9), "out of its field of view"),  # half the scan's width is 18 mm
        (3.0, 25.0, 0.0, (0.5, 0.9), "rotates the scan too far"),
        (3.0, 0.0, 0.2, (0.5, 0.9), "distorts the scan too much"),
        (3.0, 0.0, 0.0, (0.9, 0.5), "lowers the mutual information"),
    ],
)
def test_an_implausible_registration_is_refused(
    anatomy: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    shift_mm: float,
    rotation_angle_deg: float,
    stretch: float,
    information: tuple[float, float],
    why: str,
) -> None:
    there = AFFINE.copy()
    there[:3, 3] += [shift_mm, 0, 0]
    monkeypatch.setattr(
        placement,
        "register_images",
        lambda *_: RegistrationResult(there, shift_mm, rotation_angle_deg, stretch, information),
    )
    with pytest.raises(InputError, match=why) as caught:
        Coregistration(anatomy, AFFINE, "affine").register_scan(
            "T1 map", seen_at(anatomy, AFFINE), AFFINE, "t1.nii"
        )
    assert caught.value.field == "register"
    assert "by hand" in str(caught.value)


def test_a_b0_map_is_registered_with_its_cest_scan(anatomy: np.ndarray, tmp_path: Path) -> None:
    """Both headers are wrong alike: pH is found where it was measured, and then moved."""
    ppm, shape, true = np.arange(-8, 8.1, 0.4), (40, 36, 1), moved(AFFINE)
    slab = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 7], [0, 0, 0, 1]])
    agent, n = load_agent("iopamidol"), 40 * 36
    b0 = np.linspace(-0.3, 0.3, n).reshape(shape)
    one = torch.ones(n, dtype=torch.float64)
    tissue = {"pH": 6.8 * one, "molar": 0.03 * one, "T1_s": 1.6 * one, "T2_s": 0.1 * one}
    Z = simulate_z_spectra(
        agent, Saturation(7.0, 3.0, 5.0), torch.as_tensor(ppm[None] - b0.reshape(-1, 1)), **tissue
    ).numpy()
    scan = 50 + seen_at(anatomy, true @ slab, shape)
    side = {
        "SaturationOffsetsPPM": [-300.0, *ppm],
        "SaturationB1uT": 3.0,
        "SaturationTimeS": 5.0,
        "MagneticFieldStrength": 7.0,
    }
    series = scan[..., None] * np.concatenate([np.ones((n, 1)), Z], axis=1).reshape(*shape, -1)
    path, mapped = (
        save(tmp_path / "z.nii.gz", series, AFFINE @ slab, side),
        save(tmp_path / "b0.nii.gz", b0, AFFINE @ slab),
    )
    options, mask = CestOptions(b0=mapped), np.zeros(SHAPE, dtype=bool)
    mask[10:30, 8:28, 7] = True
    found = load_ph(
        path, AFFINE, mask, options=options, coregistration=Coregistration(anatomy, AFFINE, "rigid")
    )
    own = measure_ph(path, options).image.pH
    wanted = resample(own, true @ slab, SHAPE, AFFINE)
    both = mask & np.isfinite(wanted) & np.isfinite(found.measured)
    assert both.sum() > 100
    assert np.abs(found.measured - wanted)[both].max() < 0.05
    assert np.abs(found.measured[both] - 6.8).max() < 0.1


def test_the_registration_of_every_scan_is_reported_and_refused_if_unknown(
    own_study: Study,
) -> None:
    with pytest.raises(InputError, match="does not exist") as caught:
        ImagingInputs(dce="x", register="elastic")  # type: ignore[arg-type]
    assert caught.value.field == "register"
    # its flip-angle images are uniform: they show nothing to register by
    with pytest.raises(InputError, match="vfa2"):
        make_maps(ImagingInputs(**own_study.given(register="rigid")))
    maps = make_maps(
        ImagingInputs(**own_study.given(register="rigid", vfa=(), t1=1.3, cest=None)),
        require_ph=False,
    )
    uniform = save(
        own_study.folder / "drug.nii.gz", np.ones(own_study.mask.shape), own_study.affine, DRUG
    )
    with pytest.raises(InputError, match="drug"):
        load_drug_images(maps, FitSettings(drug=(str(uniform),)))
    assert ImagingInputs(dce="x", register="rigid").to_config()["imaging"]["register"] == "rigid"
