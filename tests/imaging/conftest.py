"""A small study with known maps, written with nibabel alone and computed without the package's
convolution.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.signal import lfilter

from nanopinn.imaging.dce.aif_population import parker

SHAPE, FRAMES, SPACING_S, BOLUS_S = (12, 11, 6), 40, 7.0, 40.0
TR_S, FLIP_DEG, VFA_DEG, RELAXIVITY, HCT, T10_S = 0.005, 15.0, (2.0, 8.0, 18.0), 4.5, 0.42, 1.3


def oblique(
    voxel_mm: tuple[float, float, float], centre_mm: tuple[float, float, float] = (0, 0, 0)
) -> np.ndarray:
    """Affine of a grid turned about two axes."""
    a, b = np.deg2rad(20), np.deg2rad(-12)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(voxel_mm)
    affine[:3, 3] = centre_mm
    return affine


def save(
    path: Path, data: np.ndarray, affine: np.ndarray, side: dict[str, Any] | None = None
) -> Path:
    """Write ``(x, y, z[, t])`` as a scanner's converter would."""
    image = nib.Nifti1Image(np.asarray(data, dtype=np.float32), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    if side is not None:
        path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(side))
    return path


def spoiled_gradient_echo(R1: np.ndarray, flip_deg: float) -> np.ndarray:
    """Signal with M0 = 1000, written out again so as not to test the package against itself."""
    E1, a = np.exp(-TR_S * R1), np.deg2rad(flip_deg)
    return 1000 * np.sin(a) * (1 - E1) / (1 - np.cos(a) * E1)


def tissue_curve(
    Ktrans_min: np.ndarray, ve: np.ndarray, vp: np.ndarray, times: np.ndarray, arrival: float
) -> Any:
    """Extended Tofts by stepping 20 ms at a time through Parker's formula, ``(t, ...)`` mM."""
    dt = 0.02
    grid = np.arange(0.0, times[-1] + dt, dt)
    plasma = parker(grid - arrival) / (1 - HCT)
    want = np.rint(times / dt).astype(int)
    curves = []
    for Ktrans, v_e, v_p in np.broadcast(Ktrans_min, ve, vp):
        decay = np.exp(-Ktrans / 60 / v_e * dt)
        uptake = np.concatenate([[0.0], dt / 2 * (decay * plasma[:-1] + plasma[1:])])
        inside = lfilter([1.0], [1.0, -decay], uptake)  # inside[i] = decay inside[i-1] + uptake[i]
        curves.append(Ktrans / 60 * inside[want] + v_p * plasma[want])
    return np.stack(curves, axis=-1).reshape(len(want), *np.shape(ve))


@dataclass(frozen=True)
class Study:
    """Files and truth of the small study."""

    folder: Path
    affine: np.ndarray
    mask: np.ndarray
    Ktrans: np.ndarray
    ve: np.ndarray
    vp: np.ndarray
    frame_times: np.ndarray

    @property
    def dce(self) -> Path:
        return self.folder / "dce.nii.gz"

    @property
    def vfa(self) -> tuple[Path, ...]:
        return tuple(self.folder / f"vfa{int(f)}.nii.gz" for f in VFA_DEG)

    def side(self) -> dict[str, Any]:
        return json.loads((self.folder / "dce.json").read_text())

    def given(self, **change: Any) -> dict[str, Any]:
        """Arguments of ImagingInputs."""
        usual = {
            "dce": self.dce,
            "vfa": self.vfa,
            "mask": self.folder / "mask.nii.gz",
            "cest": self.folder / "ph.nii.gz",
        }
        return {**usual, **change}


def build_study(
    folder: Path,
    noise: float = 0.0,
    *,
    scale: float = 1.0,
    spacing_s: float = SPACING_S,
    frames: int = FRAMES,
) -> Study:
    """Tumour ball of graded Ktrans in tissue that takes up nothing; pH on a coarser, smaller grid
    of its own.

    ``scale`` is the dose over that of Parker's curve.
    """
    rng = np.random.default_rng(3)
    x, y, z = np.indices(SHAPE)
    mask = ((x - 5.5) / 4) ** 2 + ((y - 5) / 4) ** 2 + ((z - 2.5) / 2.2) ** 2 < 1
    Ktrans = np.where(mask, 0.08 + 0.03 * x, 0.0)
    ve, vp = 0.2 + 0.03 * y, 0.02 + 0.01 * z
    times = np.arange(frames) * spacing_s
    C = scale * tissue_curve(Ktrans, ve, np.where(mask, vp, 0.0), times, BOLUS_S)
    signal = spoiled_gradient_echo(1 / T10_S + RELAXIVITY * C, FLIP_DEG)
    signal = np.moveaxis(signal + noise * rng.standard_normal(signal.shape), 0, -1)
    affine = oblique((1.0, 1.2, 2.0), (-30.0, 12.0, 7.0))
    shared = {"RepetitionTimeExcitation": TR_S}
    timing = {"VolumeTiming": times.tolist(), "ContrastRelaxivity": RELAXIVITY, "Hematocrit": HCT}
    save(folder / "dce.nii.gz", signal, affine, {**shared, "FlipAngle": FLIP_DEG, **timing})
    for flip in VFA_DEG:
        image = np.full(SHAPE, spoiled_gradient_echo(np.array(1 / T10_S), flip))
        save(folder / f"vfa{int(flip)}.nii.gz", image, affine, {**shared, "FlipAngle": flip})
    save(folder / "mask.nii.gz", mask, affine)
    coarse = affine @ np.array([[1.5, 0, 0, 0.25], [0, 1.5, 0, 0.25], [0, 0, 1, 1], [0, 0, 0, 1]])
    acid = 7.2 - 0.04 * np.indices((8, 7, 3)).sum(axis=0)
    save(folder / "ph.nii.gz", acid, coarse, {"pHStd": 0.1})
    return Study(folder, affine, mask, Ktrans, ve, vp, times)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Noise-free; not to be changed."""
    return build_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def own_study(tmp_path: Path, study: Study) -> Study:
    """A copy to spoil."""
    for path in study.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return Study(
        tmp_path,
        *(getattr(study, n) for n in ("affine", "mask", "Ktrans", "ve", "vp", "frame_times")),
    )
