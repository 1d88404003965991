"""pH and concentration by a fit of the Bloch-McConnell equations to the whole Z-spectrum.

This is the second method beside the ratio, at about a hundred times its cost. Offsets of direct
saturation are left out because one water pool with published constants does not describe its shape
(hydroxyls, T2, B0 within a voxel): with them 30 of 50 measured tubes give pH within 0.21, without
them all give it within 0.10. T1 and concentration are strongly correlated; pH is insensitive to
both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.imaging.cest.agent import CestAgent
from nanopinn.imaging.cest.bloch import Saturation, simulate_z_spectra
from nanopinn.imaging.cest.ph_map import (
    DETECTION_LIMIT,
    MAX_PH_STD,
    PhImage,
    Validity,
    assemble_ph_image,
)
from nanopinn.imaging.cest.z_spectra import FLANK_PPM, ZSpectra
from nanopinn.imaging.least_squares import Bounds, fit_levenberg_marquardt, invert_normal_matrix
from nanopinn.parameters import value

Array = NDArray[np.float64]

#: Start and difference step of pH, ln concentration (M), B0 shift (ppm) and ln T2 (s).
_START = (6.9, float(np.log(0.02)), 0.0, float(np.log(0.1)))
_STEP = (1e-3, 1e-3, 1e-4, 1e-3)
_LOW, _HIGH = (
    (5.4, float(np.log(1e-4)), -1.0, float(np.log(0.005))),
    (8.2, float(np.log(0.3)), 1.0, float(np.log(3.0))),
)


@dataclass(frozen=True)
class SpectralFit:
    """Parameters of every spectrum, ``(n,)``, NaN where no fit converged.

    Attributes:
        pH: estimate.
        pH_std: its standard deviation.
        molar: concentration of the agent, M.
        molar_std: its standard deviation, M.
        b0_ppm: water resonance offset (B0 shift), ppm.
        T2_s: transverse relaxation time of water, s.
        residual: standard deviation of the residuals.
    """

    pH: Array
    pH_std: Array
    molar: Array
    molar_std: Array
    b0_ppm: Array
    T2_s: Array
    residual: Array


def fit_spectra(
    agent: CestAgent,
    saturation: Saturation,
    offsets_ppm: Array,
    Z: Array,
    *,
    T1_s: Array | float = 2.0,
    B1: Array | None = None,
    iterations: int = 40,
    batch: int = 256,
    min_offset_ppm: float = FLANK_PPM,
) -> SpectralFit:
    """Fit every spectrum by the Levenberg-Marquardt method.

    Args:
        agent: the contrast agent.
        saturation: the pulse.
        offsets_ppm: ``(offset,)``.
        Z: spectra ``(n, offset)``.
        T1_s: longitudinal relaxation time of water, s, one or ``(n,)``.
        B1: true over nominal amplitude ``(n,)``; 1 if absent.
        iterations: at most.
        batch: spectra fitted at once.
        min_offset_ppm: offsets nearer to water give the start of the B0 shift only.

    Returns:
        Estimates and standard deviations.
    """
    start = offsets_ppm[np.nan_to_num(Z, nan=np.inf).argmin(axis=1)]
    far = np.abs(offsets_ppm) > min_offset_ppm
    offsets_ppm, Z = offsets_ppm[far], Z[:, far]
    T1 = np.broadcast_to(np.asarray(T1_s, dtype=np.float64), (len(Z),))
    scale = np.ones(len(Z)) if B1 is None else B1
    parts = []
    for i in range(0, len(Z), batch):
        data, times, amplitudes, places = (
            torch.as_tensor(np.array(a[i : i + batch])) for a in (Z, T1, scale, start)
        )
        parts.append(
            _fit(agent, saturation, offsets_ppm, data, times, amplitudes, places, iterations)
        )
    return SpectralFit(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def _fit(
    agent: CestAgent,
    saturation: Saturation,
    ppm: Array,
    Z: Tensor,
    T1: Tensor,
    B1: Tensor,
    start: Tensor,
    iterations: int,
) -> tuple[Array, ...]:
    """Fields of a fit of one batch."""
    known = torch.isfinite(Z).all(dim=1)
    data = torch.where(known[:, None], Z, 1.0)
    offsets = torch.as_tensor(ppm)

    def curves(p: Tensor, which: Tensor) -> Tensor:
        return simulate_z_spectra(
            agent,
            saturation,
            offsets[None] - p[:, 2:3],
            pH=p[:, 0],
            molar=p[:, 1].exp(),
            T1_s=T1[which],
            T2_s=p[:, 3].exp(),
            B1=B1[which],
        )

    theta = torch.tensor(_START, dtype=torch.float64).repeat(len(Z), 1)
    theta[:, 2] = start.clamp(-0.9, 0.9)
    low, high, step = (torch.tensor(v, dtype=torch.float64) for v in (_LOW, _HIGH, _STEP))
    end = fit_levenberg_marquardt(
        partial(_finite_difference_jacobian, curves, step),
        data,
        theta,
        Bounds(low, high),
        known,
        None,
        iterations,
    )
    variance = end.cost / max(1, data.shape[1] - 4)
    inverse = invert_normal_matrix(end.J @ end.J.transpose(1, 2), ridge=1e-10)
    sd = (inverse.diagonal(dim1=1, dim2=2) * variance[:, None]).sqrt()
    held = (end.theta <= low + 1e-6) | (end.theta >= high - 1e-6)
    good = (known & end.converged & ~held.any(1)).numpy()
    molar = end.theta[:, 1].exp()
    values = (
        end.theta[:, 0],
        sd[:, 0],
        molar,
        molar * sd[:, 1],
        end.theta[:, 2],
        end.theta[:, 3].exp(),
        variance.sqrt(),
    )
    return tuple(np.where(good, v.numpy(), np.nan) for v in values)


def _finite_difference_jacobian(
    curves: Callable[[Tensor, Tensor], Tensor], step: Tensor, theta: Tensor, which: Tensor
) -> tuple[Tensor, Tensor]:
    """Curves ``(n, offset)`` and their forward differences by the parameters ``(n, 4, offset)``."""
    f = curves(theta, which)
    rows = []
    for i in range(theta.shape[1]):
        moved = theta.clone()
        moved[:, i] += step[i]
        rows.append((curves(moved, which) - f) / step[i])
    return f, torch.stack(rows, dim=1)


METHOD_DESCRIPTION = "a fit of Bloch-McConnell spectra to the offsets outside direct saturation"
#: T1 of water, s. It is strongly correlated with concentration, which is therefore not reported;
#: pH is insensitive to it.
_T1_S = 2.0


def estimate_ph_image_by_fit(
    spectra: ZSpectra,
    agent: CestAgent,
    B1: Array | None = None,
    *,
    calibration_std: float | None = None,
) -> PhImage:
    """Estimate pH in every voxel by a fit of its spectrum.

    Args:
        spectra: the scan.
        agent: the contrast agent.
        B1: true over nominal amplitude ``(x, y, z)``; 1 if absent.
        calibration_std: pH, added to the noise in quadrature; the tabulated one if absent.

    Returns:
        pH on the grid of the scan.

    Raises:
        InputError: the saturation is not stated.
    """
    if spectra.saturation is None:
        raise InputError(
            "a fit of the spectrum needs its saturation",
            field="SaturationB1uT, SaturationTimeS",
            found="nothing",
            expected="both in the sidecar",
            remedy=("Write them there, or use `ph_method` 'ratio' with a published calibration."),
        )
    shape, flat = spectra.Z.shape[:3], spectra.Z.reshape(-1, len(spectra.offsets_ppm))
    known: NDArray[np.bool_] = np.asarray(np.isfinite(flat).all(axis=1))
    amplitude = None if B1 is None else B1.reshape(-1)[known]
    fit = fit_spectra(
        agent, spectra.saturation, spectra.offsets_ppm, flat[known], T1_s=_T1_S, B1=amplitude
    )
    own = value("sd_pHe_calibration") if calibration_std is None else calibration_std
    std = np.sqrt(fit.pH_std**2 + own**2)
    return assemble_ph_image(shape, known, fit.pH, std, fit.b0_ppm, _validity(fit))


def _validity(fit: SpectralFit) -> NDArray[np.int32]:
    """Bits of :class:`Validity` of every fit."""
    found = np.isfinite(fit.pH)
    undetected = found & ~(fit.molar > DETECTION_LIMIT * fit.molar_std)
    uncertain = found & ~undetected & ~(fit.pH_std <= MAX_PH_STD)
    bits = (
        (~found, Validity.NO_FIT),
        (undetected, Validity.BELOW_DETECTION),
        (uncertain, Validity.UNCERTAIN),
    )
    return np.asarray(sum(np.where(wrong, int(bit), 0) for wrong, bit in bits), dtype=np.int32)
