"""From the files of a CEST scan to a pH image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.cest.agent import CestAgent, load_agent
from nanopinn.imaging.cest.calibration import is_calibration_file, read_calibration
from nanopinn.imaging.cest.ph_map import VALIDITY_TEXTS, PhImage, Validity, ph_image
from nanopinn.imaging.cest.ratiometric import (
    PUBLISHED_CALIBRATIONS,
    Contrast,
    PhCalibration,
    bloch_calibration,
)
from nanopinn.imaging.cest.spectral_fit import METHOD_DESCRIPTION, spectral_ph_image
from nanopinn.imaging.cest.z_spectra import CEST_KEYS, ZSpectra, read_spectra
from nanopinn.imaging.dce.t1 import B1Map
from nanopinn.imaging.geometry import resample, same_grid
from nanopinn.io.array_volume import ArrayVolume, VolumeSource, as_file
from nanopinn.io.nifti import Orientation
from nanopinn.io.volumes import read_map, read_sidecar, sidecar_path
from nanopinn.parameters import value

Array = NDArray[np.float64]
PhMethod = Literal["ratio", "spectrum"]


@dataclass(frozen=True)
class CestOptions:
    """What may be chosen about a CEST scan.

    Attributes:
        before: series before injection. second: series at another power, for agents with one
            frequency.
        offsets: table that wins over the sidecar. b0: map of water's place, ppm.
        agent: name or TOML file. contrast: ``rex`` or ``st``, for ``bloch``. calibration:
            ``bloch``, one of :data:`PRESETS` or a TOML file.
        method: ``ratio``, or ``spectrum``, a fit of every offset beyond water's own dip.
    """

    before: VolumeSource | None = None
    second: VolumeSource | None = None
    offsets: str | Path | None = None
    b0: VolumeSource | None = None
    agent: str = "iopamidol"
    contrast: Contrast = "rex"
    calibration: str = "bloch"
    method: PhMethod = "ratio"

    def files(self) -> list[Path | ArrayVolume]:
        """Every file that is read, and every volume in memory."""
        own: list[Path | ArrayVolume] = []
        own += [Path(self.agent)] if self.agent.endswith(".toml") else []
        own += [Path(self.calibration)] if is_calibration_file(self.calibration) else []
        return [
            as_file(f) for f in (self.before, self.second, self.offsets, self.b0) if f is not None
        ] + own


@dataclass(frozen=True)
class MeasuredPh:
    """A pH image on its own grid, the error that its calibration shares, and an image of the same
    scan that shows anatomy.
    """

    image: PhImage
    calibration_std: float
    anatomy: Array
    affine: Array
    assumptions: tuple[str, ...]


def measure_ph(
    path: VolumeSource,
    options: CestOptions,
    *,
    B1: B1Map | None = None,
    orientation: Orientation | None = None,
) -> MeasuredPh:
    """pH of a 4-D series of saturated images.

    Raises:
        InputError: offsets, saturation or calibration are missing or contradict each other.
    """
    spectra = read_spectra(path, offsets_file=options.offsets, orientation=orientation)
    agent = load_agent(_agent_name(path, options))
    if options.method == "spectrum":
        return _measure_ph_by_spectral_fit(spectra, agent, options, B1, path)
    before = (
        None
        if options.before is None
        else _read_matching_series(options.before, "--cest-pre", spectra, options, orientation)
    )
    second = (
        None
        if options.second is None
        else _read_matching_series(options.second, "--cest-power2", spectra, options, orientation)
    )
    _check_consistent_options(agent, options, path)
    calibration = _calibration(agent, options, spectra, second, path)
    shape = (spectra.Z.shape[0], spectra.Z.shape[1], spectra.Z.shape[2])
    b0 = None
    if options.b0 is not None:
        values, affine, _ = read_map(options.b0, orientation=orientation)
        b0 = (
            values
            if same_grid(shape, spectra.affine, values.shape, affine)
            else resample(values, affine, shape, spectra.affine)
        )
    found = ph_image(
        spectra,
        calibration,
        B1=None if B1 is None else B1.resample_to(shape, spectra.affine),
        b0_ppm=b0,
        before=before,
        second=second,
    )
    whose = "that of the calibration" if is_calibration_file(options.calibration) else agent.name
    warning = calibration.describe_protocol_mismatch(read_sidecar(path))
    said = (*_notes(calibration, found, before is None), *([] if warning is None else [warning]))
    notes = (*spectra.assumptions, f"The CEST agent is {whose}.", *said)
    return MeasuredPh(found, calibration.std, spectra.reference, spectra.affine, notes)


def _measure_ph_by_spectral_fit(
    spectra: ZSpectra, agent: CestAgent, options: CestOptions, B1: B1Map | None, path: VolumeSource
) -> MeasuredPh:
    if (options.before, options.second, options.b0, options.calibration, options.contrast) != (
        None,
        None,
        None,
        "bloch",
        "rex",
    ):
        raise InputError(
            "a fit of the spectrum takes one series and finds water itself",
            file=path,
            field="--ph-method",
            found="spectrum",
            remedy=(
                "Leave --cest-pre, --cest-power2, --b0, --cest-contrast and --ph-calibration out,"
                " or use --ph-method ratio."
            ),
        )
    shape = spectra.Z.shape[:3]
    found, std = (
        spectral_ph_image(
            spectra, agent, None if B1 is None else B1.resample_to(shape, spectra.affine)
        ),
        value("sd_pHe_calibration"),
    )
    notes = (
        f"The CEST agent is {agent.name}.",
        f"pH is by {METHOD_DESCRIPTION}.",
        *_describe_coverage(std, found),
    )
    return MeasuredPh(found, std, spectra.reference, spectra.affine, (*spectra.assumptions, *notes))


def _agent_name(path: VolumeSource, options: CestOptions) -> str:
    """The agent that was chosen, unless the sidecar says that there was none."""
    stated = read_sidecar(path).get("CestAgent")
    if isinstance(stated, str) and stated.lower() in ("none", "endogenous"):
        raise InputError(
            "endogenous contrast is weighted by pH but is no extracellular pH",
            file=sidecar_path(path),
            field="CestAgent",
            found=stated,
            expected="an agent outside cells whose calibration is known",
            remedy="Give a pH map that you have calibrated yourself, or --assume-ph.",
        )
    return options.agent


def _read_matching_series(
    path: VolumeSource,
    option: str,
    spectra: ZSpectra,
    options: CestOptions,
    orientation: Orientation | None,
) -> ZSpectra:
    """Another series of the same grid and offsets."""
    found = read_spectra(path, offsets_file=options.offsets, orientation=orientation)
    if found.Z.shape != spectra.Z.shape or not np.allclose(
        found.offsets_ppm, spectra.offsets_ppm, atol=1e-3
    ):
        raise InputError(
            "the series has another grid or other offsets than --cest",
            file=path,
            field=option,
            found=str(found.Z.shape),
            expected=str(spectra.Z.shape),
            remedy="Give the same protocol, registered.",
        )
    return found


def _check_consistent_options(agent: CestAgent, options: CestOptions, path: VolumeSource) -> None:
    """Whether the ratio that the agent asks for can be made of what was given."""
    if len(agent.ratio_ppm) == 1 and options.second is None:
        raise InputError(
            "an agent with one frequency tells pH by two powers",
            file=path,
            field="--cest-power2",
            found="one series",
            expected="a second series at another SaturationB1uT",
            remedy="Give it with --cest-power2.",
        )
    if options.second is not None and (
        len(agent.ratio_ppm) == 2 or options.before is not None or options.calibration != "bloch"
    ):
        raise InputError(
            "a second power goes with an agent of one frequency, its own mirrored reference and a"
            " Bloch curve",
            file=options.second,
            field="--cest-power2",
            found=f"{agent.name}, {options.calibration}",
            remedy="Leave --cest-power2 or the other option out.",
        )


def _calibration(
    agent: CestAgent,
    options: CestOptions,
    spectra: ZSpectra,
    second: ZSpectra | None,
    path: VolumeSource,
) -> PhCalibration:
    if options.calibration in PUBLISHED_CALIBRATIONS:
        return PUBLISHED_CALIBRATIONS[options.calibration]
    if is_calibration_file(options.calibration):
        return read_calibration(options.calibration)
    if options.calibration != "bloch":
        raise InputError(
            "no such calibration",
            field="--ph-calibration",
            found=options.calibration,
            expected=f"{', '.join(('bloch', *PUBLISHED_CALIBRATIONS))}, or a TOML file",
            remedy="Give one of these.",
        )
    if spectra.saturation is None:
        raise InputError(
            "the saturation is not stated",
            file=sidecar_path(path),
            field="SaturationB1uT, SaturationTimeS",
            found="nothing",
            expected=(
                f"{CEST_KEYS['SaturationB1uT']}; {CEST_KEYS['SaturationTimeS']};"
                " MagneticFieldStrength"
            ),
            remedy="Write them into the sidecar, or give a published line with --ph-calibration.",
        )
    if second is not None and (
        second.saturation is None or second.saturation.B1_uT == spectra.saturation.B1_uT
    ):
        raise InputError(
            "the second series has no other power",
            file=options.second,
            field="SaturationB1uT",
            found="nothing" if second.saturation is None else f"{second.saturation.B1_uT:g} uT",
            expected=f"stated, and not {spectra.saturation.B1_uT:g} uT",
            remedy="Correct its sidecar, or give another series.",
        )
    return bloch_calibration(
        agent,
        spectra.saturation,
        options.contrast,
        second=None if second is None else second.saturation,
    )


def _notes(calibration: PhCalibration, found: PhImage, mirrored: bool) -> list[str]:
    against = "the mirrored frequency" if mirrored else "the series before injection"
    said = f"pH is the ratio of contrasts against {against}, inverted by: {calibration.source}."
    return [said, *_describe_coverage(calibration.std, found)]


def _describe_coverage(calibration_std: float, found: PhImage) -> list[str]:
    tissue = (found.validity & int(Validity.NO_SPECTRUM)) == 0
    counts = {
        words: int(((found.validity & int(bit)) != 0)[tissue].sum())
        for bit, words in VALIDITY_TEXTS.items()
    }
    lost = [f"{n} {words}" for words, n in counts.items() if n]
    return [
        f"Its calibration is taken as good to {calibration_std:g} pH in every voxel.",
        f"Of {int(tissue.sum())} voxels with a spectrum {int(np.isfinite(found.pH).sum())} have"
        " a pH" + (f" (without: {', '.join(lost)})." if lost else "."),
    ]
