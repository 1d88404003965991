"""From the files of a CEST scan to a pH image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.cest.agent import load_agent
from nanopinn.imaging.cest.ph_map import WORDS, PhImage, Validity, ph_image
from nanopinn.imaging.cest.ratio import PRESETS, Calibration, Contrast, bloch_calibration
from nanopinn.imaging.cest.spectrum import KEYS, ZSpectra, read_spectra
from nanopinn.imaging.geometry import resample, same_grid
from nanopinn.imaging.io import read_map, sidecar_path
from nanopinn.imaging.nifti import Orientation
from nanopinn.imaging.t1.b1 import B1Map

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CestChoices:
    """What may be chosen about a CEST scan.

    Attributes:
        before: series before injection. offsets: table that wins over the sidecar. b0: map of water's place, ppm.
        agent: name or TOML file. contrast: ``rex`` or ``st``, for ``bloch``. calibration: ``bloch`` or one of :data:`PRESETS`.
        register: move the scan over the DCE scan by intensities first.
    """

    before: str | Path | None = None
    offsets: str | Path | None = None
    b0: str | Path | None = None
    agent: str = "iopamidol"
    contrast: Contrast = "rex"
    calibration: str = "bloch"
    register: bool = False

    def files(self) -> list[Path]:
        """Every file that is read."""
        own = [Path(self.agent)] if self.agent.endswith(".toml") else []
        return [Path(f) for f in (self.before, self.offsets, self.b0) if f is not None] + own


@dataclass(frozen=True)
class MeasuredPh:
    """A pH image on its own grid, the error that its calibration shares, and an image of the same scan that shows anatomy."""

    image: PhImage
    calibration_std: float
    anatomy: Array
    affine: Array
    assumptions: tuple[str, ...]


def measure_ph(path: str | Path, chosen: CestChoices, *, B1: B1Map | None = None, orientation: Orientation | None = None) -> MeasuredPh:
    """pH of a 4-D series of saturated images.

    Raises:
        InputError: offsets, saturation or calibration are missing or contradict each other.
    """
    spectra = read_spectra(path, offsets_file=chosen.offsets, orientation=orientation)
    agent = load_agent(chosen.agent)
    calibration = _calibration(chosen, spectra, path)
    before = None
    if chosen.before is not None:
        before = read_spectra(chosen.before, offsets_file=chosen.offsets, orientation=orientation)
        if before.Z.shape != spectra.Z.shape or not np.allclose(before.offsets_ppm, spectra.offsets_ppm, atol=1e-3):
            raise InputError(
                "the series before injection has another grid or other offsets", file=chosen.before, field="--cest-pre",
                found=str(before.Z.shape), expected=str(spectra.Z.shape), remedy="Give the same protocol, registered.",
            )  # fmt: skip
    shape = (spectra.Z.shape[0], spectra.Z.shape[1], spectra.Z.shape[2])
    b0 = None
    if chosen.b0 is not None:
        values, affine, _ = read_map(chosen.b0, orientation=orientation)
        b0 = values if same_grid(shape, spectra.affine, values.shape, affine) else resample(values, affine, shape, spectra.affine)
    found = ph_image(
        spectra, agent.ratio_ppm, calibration, B1=None if B1 is None else B1.on(shape, spectra.affine), b0_ppm=b0, before=before,
    )  # fmt: skip
    return MeasuredPh(
        found, calibration.std, spectra.reference, spectra.affine, (*spectra.assumptions, *_notes(calibration, found, before is None))
    )


def _calibration(chosen: CestChoices, spectra: ZSpectra, path: str | Path) -> Calibration:
    if chosen.calibration in PRESETS:
        return PRESETS[chosen.calibration]
    if chosen.calibration != "bloch":
        raise InputError(
            "no such calibration", field="--ph-calibration", found=chosen.calibration, expected=", ".join(("bloch", *PRESETS)),
            remedy="Give one of these.",
        )  # fmt: skip
    if spectra.saturation is None:
        raise InputError(
            "the saturation is not stated", file=sidecar_path(path), field="SaturationB1uT, SaturationTimeS", found="nothing",
            expected=f"{KEYS['SaturationB1uT']}; {KEYS['SaturationTimeS']}; MagneticFieldStrength",
            remedy="Write them into the sidecar, or name a published line with --ph-calibration.",
        )  # fmt: skip
    return bloch_calibration(load_agent(chosen.agent), spectra.saturation, chosen.contrast)


def _notes(calibration: Calibration, found: PhImage, mirrored: bool) -> list[str]:
    tissue = (found.validity & int(Validity.NO_SPECTRUM)) == 0
    counts = {words: int(((found.validity & int(bit)) != 0)[tissue].sum()) for bit, words in WORDS.items()}
    lost = [f"{n} {words}" for words, n in counts.items() if n]
    against = "the mirrored frequency" if mirrored else "the series before injection"
    return [
        f"pH is the ratio of contrasts against {against}, inverted by: {calibration.source}.",
        f"Its calibration is taken as good to {calibration.std:g} pH in every voxel.",
        f"Of {int(tissue.sum())} voxels with a spectrum {int(np.isfinite(found.pH).sum())} have a pH"
        + (f" (without: {', '.join(lost)})." if lost else "."),
    ]
