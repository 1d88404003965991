"""From the files of a CEST scan to a pH image by the method and the calibration chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.cest.agent import CestAgent, load_agent
from nanopinn.imaging.cest.calibration import is_calibration_file, read_calibration
from nanopinn.imaging.cest.ph_map import VALIDITY_TEXTS, PhImage, Validity, estimate_ph_image
from nanopinn.imaging.cest.ratiometric import (
    PUBLISHED_CALIBRATIONS,
    Contrast,
    PhCalibration,
    bloch_calibration,
)
from nanopinn.imaging.cest.spectral_fit import METHOD_DESCRIPTION, estimate_ph_image_by_fit
from nanopinn.imaging.cest.z_spectra import CEST_KEYS, ZSpectra, read_spectra
from nanopinn.imaging.dce.t1 import B1Map
from nanopinn.imaging.geometry import resample_to_grid
from nanopinn.io.array_volume import ArrayVolume, VolumeSource, as_file
from nanopinn.io.nifti import Orientation
from nanopinn.io.volumes import read_map, read_sidecar, sidecar_path
from nanopinn.parameters import value

Array = NDArray[np.float64]
PhMethod = Literal["ratio", "spectrum"]


@dataclass(frozen=True)
class CestOptions:
    """Files and choices of a CEST scan beside its series.

    Attributes:
        pre_injection: series before injection, the reference of the contrasts.
        second_power: series at another saturation power, for agents with one frequency.
        offsets: table of saturation offsets that replaces those of the sidecar.
        b0: map of the water resonance offset (B0 shift), ppm.
        agent: name, or a TOML file.
        contrast: ``rex`` or ``st``, for the calibration ``bloch``.
        calibration: ``bloch``, one of :data:`PUBLISHED_CALIBRATIONS` or a TOML file.
        method: ``ratio``, or ``spectrum``, a fit of every offset outside direct saturation.
    """

    pre_injection: VolumeSource | None = None
    second_power: VolumeSource | None = None
    offsets: str | Path | None = None
    b0: VolumeSource | None = None
    agent: str = "iopamidol"
    contrast: Contrast = "rex"
    calibration: str = "bloch"
    method: PhMethod = "ratio"

    def files(self) -> list[Path | ArrayVolume]:
        """List every file that is read, and every volume in memory."""
        own: list[Path | ArrayVolume] = []
        own += [Path(self.agent)] if self.agent.endswith(".toml") else []
        own += [Path(self.calibration)] if is_calibration_file(self.calibration) else []
        return [
            as_file(f)
            for f in (self.pre_injection, self.second_power, self.offsets, self.b0)
            if f is not None
        ] + own


@dataclass(frozen=True)
class MeasuredPh:
    """pH measured by a CEST scan, on the grid of the scan.

    Attributes:
        image: pH, its standard deviation and its validity.
        calibration_std: standard deviation of the calibration, which all voxels share.
        anatomy: ``(x, y, z)``, the image with the least saturation, for registration.
        affine: ``(4, 4)`` to RAS mm.
        assumptions: sentences for the report.
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
    """Estimate pH from a 4-D series of saturated images.

    Args:
        path: the series.
        options: other files of the scan, agent, calibration and method.
        B1: map of true over nominal saturation amplitude.
        orientation: affine to use where sform and qform disagree.

    Returns:
        pH on the grid of the scan.

    Raises:
        InputError: offsets, saturation or calibration are missing or contradict each other.
    """
    spectra = read_spectra(path, offsets_file=options.offsets, orientation=orientation)
    agent = load_agent(_agent_name(path, options))
    if options.method == "spectrum":
        return _measure_ph_by_spectral_fit(spectra, agent, options, B1, path)
    before = (
        None
        if options.pre_injection is None
        else _read_matching_series(options.pre_injection, "cest_pre", spectra, options, orientation)
    )
    second = (
        None
        if options.second_power is None
        else _read_matching_series(
            options.second_power, "cest_power2", spectra, options, orientation
        )
    )
    _check_consistent_options(agent, options, path)
    calibration = _calibration(agent, options, spectra, second, path)
    shape = (spectra.Z.shape[0], spectra.Z.shape[1], spectra.Z.shape[2])
    b0 = None
    if options.b0 is not None:
        values, affine, _ = read_map(options.b0, orientation=orientation)
        b0 = resample_to_grid(values, affine, shape, spectra.affine)
    found = estimate_ph_image(
        spectra,
        calibration,
        B1=None if B1 is None else B1.resample_to(shape, spectra.affine),
        b0_ppm=b0,
        before=before,
        second=second,
    )
    whose = "that of the calibration" if is_calibration_file(options.calibration) else agent.name
    warning = calibration.describe_protocol_mismatch(read_sidecar(path))
    ratio_notes = (
        *_notes(calibration, found, before is None),
        *([] if warning is None else [warning]),
    )
    notes = (*spectra.assumptions, f"The CEST agent is {whose}.", *ratio_notes)
    return MeasuredPh(found, calibration.std, spectra.reference, spectra.affine, notes)


def _measure_ph_by_spectral_fit(
    spectra: ZSpectra, agent: CestAgent, options: CestOptions, B1: B1Map | None, path: VolumeSource
) -> MeasuredPh:
    if (
        options.pre_injection,
        options.second_power,
        options.b0,
        options.calibration,
        options.contrast,
    ) != (
        None,
        None,
        None,
        "bloch",
        "rex",
    ):
        raise InputError(
            "a fit of the spectrum takes one series and estimates the B0 shift itself",
            file=path,
            field="ph_method",
            found="spectrum",
            remedy=(
                "Leave `cest_pre`, `cest_power2`, `cest_b0`, `cest_contrast` and `ph_calibration`"
                " out, or use `ph_method` 'ratio'."
            ),
        )
    shape = spectra.Z.shape[:3]
    found, std = (
        estimate_ph_image_by_fit(
            spectra, agent, None if B1 is None else B1.resample_to(shape, spectra.affine)
        ),
        value("sd_pHe_calibration"),
    )
    notes = (
        f"The CEST agent is {agent.name}.",
        f"pH was estimated by {METHOD_DESCRIPTION}.",
        *_describe_coverage(std, found),
    )
    return MeasuredPh(found, std, spectra.reference, spectra.affine, (*spectra.assumptions, *notes))


def _agent_name(path: VolumeSource, options: CestOptions) -> str:
    """The agent chosen, unless the sidecar states endogenous contrast."""
    stated = read_sidecar(path).get("CestAgent")
    if isinstance(stated, str) and stated.lower() in ("none", "endogenous"):
        raise InputError(
            "endogenous contrast depends on pH but does not measure extracellular pH",
            file=sidecar_path(path),
            field="CestAgent",
            found=stated,
            expected="an extracellular agent with a known calibration",
            remedy="Give a pH map that you have calibrated yourself, or `assume_ph`.",
        )
    return options.agent


def _read_matching_series(
    path: VolumeSource,
    field: str,
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
            "the series has another grid or other offsets than `cest`",
            file=path,
            field=field,
            found=str(found.Z.shape),
            expected=str(spectra.Z.shape),
            remedy="Give a series of the same protocol, registered to `cest`.",
        )
    return found


def _check_consistent_options(agent: CestAgent, options: CestOptions, path: VolumeSource) -> None:
    """Refuse series from which the ratio of the agent cannot be computed."""
    if len(agent.ratio_ppm) == 1 and options.second_power is None:
        raise InputError(
            "the pH of an agent with one frequency is measured by two powers",
            file=path,
            field="cest_power2",
            found="one series",
            expected="a second series at another SaturationB1uT",
            remedy="Give it as `cest_power2`.",
        )
    if options.second_power is not None and (
        len(agent.ratio_ppm) == 2
        or options.pre_injection is not None
        or options.calibration != "bloch"
    ):
        raise InputError(
            "a second power needs an agent with one frequency, the mirrored frequency as reference"
            " and the calibration bloch",
            file=options.second_power,
            field="cest_power2",
            found=f"{agent.name}, {options.calibration}",
            remedy="Leave out `cest_power2`, or the setting that contradicts it.",
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
            field="ph_calibration",
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
            remedy=(
                "Write them into the sidecar, or choose a published calibration by"
                " `ph_calibration`."
            ),
        )
    if second is not None and (
        second.saturation is None or second.saturation.B1_uT == spectra.saturation.B1_uT
    ):
        raise InputError(
            "the second series has the same saturation power, or states none",
            file=options.second_power,
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
    source = f"pH is from the ratio of contrasts against {against}, by: {calibration.source}."
    return [source, *_describe_coverage(calibration.std, found)]


def _describe_coverage(calibration_std: float, found: PhImage) -> list[str]:
    tissue = (found.validity & int(Validity.NO_SPECTRUM)) == 0
    counts = {
        words: int(((found.validity & int(bit)) != 0)[tissue].sum())
        for bit, words in VALIDITY_TEXTS.items()
    }
    lost = [f"{n} {words}" for words, n in counts.items() if n]
    return [
        f"The calibration error is taken as {calibration_std:g} pH, shared by all voxels.",
        f"Of {int(tissue.sum())} voxels with a spectrum {int(np.isfinite(found.pH).sum())} have"
        " a pH" + (f" (without: {', '.join(lost)})." if lost else "."),
    ]
