"""pH of every voxel from a fit of its whole spectrum, the second method beside the ratio."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.cest.agent import CestAgent
from nanopinn.imaging.cest.measured_ratio import DETECTION_LIMIT
from nanopinn.imaging.cest.ph_map import MAX_PH_STD, PhImage, Validity
from nanopinn.imaging.cest.spectral_fit import SpectralFit, fit_spectra
from nanopinn.imaging.cest.spectrum import ZSpectra
from nanopinn.parameters import value

Array = NDArray[np.float64]

METHOD_DESCRIPTION = "a fit of Bloch-McConnell spectra to every offset but those of water's own dip"
#: T1 of water, s: the fit trades it for concentration, which is therefore not reported; pH hardly feels it.
_T1_S = 2.0


def spectral_ph_image(
    spectra: ZSpectra,
    agent: CestAgent,
    B1: Array | None = None,
    *,
    calibration_std: float | None = None,
) -> PhImage:
    """pH from all offsets of every spectrum.

    Args:
        B1: true over nominal amplitude ``(x, y, z)``. calibration_std: added to that of the noise; the tabulated one if absent.

    Raises:
        InputError: the saturation is not stated.
    """
    if spectra.saturation is None:
        raise InputError(
            "a fit of the spectrum needs its saturation",
            field="SaturationB1uT, SaturationTimeS",
            found="nothing",
            expected="both in the sidecar",
            remedy="Write them there, or use --ph-method ratio with a published line.",
        )
    shape, flat = spectra.Z.shape[:3], spectra.Z.reshape(-1, len(spectra.offsets_ppm))
    known: NDArray[np.bool_] = np.asarray(np.isfinite(flat).all(axis=1))
    amplitude = None if B1 is None else B1.reshape(-1)[known]
    fit = fit_spectra(
        agent, spectra.saturation, spectra.offsets_ppm, flat[known], T1_s=_T1_S, B1=amplitude
    )
    validity = np.where(known, 0, int(Validity.NO_SPECTRUM)).astype(np.int32)
    validity[known] = _validity(fit)
    own = value("sd_pHe_calibration") if calibration_std is None else calibration_std
    out = {n: np.full(len(known), np.nan) for n in ("pH", "std", "b0")}
    good = validity[known] == 0
    out["pH"][known], out["b0"][known] = np.where(good, fit.pH, np.nan), fit.b0_ppm
    out["std"][known] = np.where(good, np.sqrt(fit.pH_std**2 + own**2), np.nan)
    return PhImage(
        out["pH"].reshape(shape),
        out["std"].reshape(shape),
        out["b0"].reshape(shape),
        validity.reshape(shape),
    )


def _validity(fit: SpectralFit) -> NDArray[np.int32]:
    found = np.isfinite(fit.pH)
    unseen = found & ~(fit.molar > DETECTION_LIMIT * fit.molar_std)
    uncertain = found & ~unseen & ~(fit.pH_std <= MAX_PH_STD)
    bits = (
        (~found, Validity.NO_FIT),
        (unseen, Validity.BELOW_DETECTION),
        (uncertain, Validity.UNCERTAIN),
    )
    return np.asarray(sum(np.where(wrong, int(bit), 0) for wrong, bit in bits), dtype=np.int32)
