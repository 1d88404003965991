"""pH and concentration from the whole spectrum: Bloch-McConnell equations fitted to every offset.

The second method beside the ratio: it uses every offset but those of water's own dip, whose shape
(hydroxyls, T2, B0 within a voxel) no single water pool with published constants describes: on 30 of
50 measured tubes it then gives pH to 0.21, and without them to 0.10 on all (docs/cest.md). T1 and
concentration trade for one another; pH hardly feels either. It costs a hundred times as much as the
ratio.

pH of every voxel from a fit of its whole spectrum, the second method beside the ratio.
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
from nanopinn.imaging.cest.bloch import Saturation, z_spectra
from nanopinn.imaging.cest.measured_ratio import DETECTION_LIMIT
from nanopinn.imaging.cest.ph_map import MAX_PH_STD, PhImage, Validity
from nanopinn.imaging.cest.z_spectra import FLANK_PPM, ZSpectra
from nanopinn.imaging.least_squares import Bounds, fit_levenberg_marquardt
from nanopinn.parameters import value

Array = NDArray[np.float64]

#: pH, ln concentration (M), water's place (ppm), ln T2 (s): start and step of the differences.
_START = (6.9, float(np.log(0.02)), 0.0, float(np.log(0.1)))
_STEP = (1e-3, 1e-3, 1e-4, 1e-3)
_LOW, _HIGH = (
    (5.4, float(np.log(1e-4)), -1.0, float(np.log(0.005))),
    (8.2, float(np.log(0.3)), 1.0, float(np.log(3.0))),
)


@dataclass(frozen=True)
class SpectralFit:
    """pH, concentration (M) and water's T2 (s) with standard deviations of the first two, ``(n,)``;
    NaN where no fit converged.
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
    """Levenberg-Marquardt for every spectrum ``(n, offset)``.

    Args:
        T1_s: of water, one or ``(n,)``. B1: true over nominal amplitude ``(n,)``.
        min_offset_ppm: offsets nearer to water only tell where the search begins.
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
    known = torch.isfinite(Z).all(dim=1)
    data = torch.where(known[:, None], Z, 1.0)
    offsets = torch.as_tensor(ppm)

    def curves(p: Tensor, which: Tensor) -> Tensor:
        return z_spectra(
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
    scale = end.J.square().sum(2).clamp_min(1e-30).rsqrt()
    inside = scale[:, :, None] * (end.J @ end.J.transpose(1, 2)) * scale[
        :, None, :
    ] + 1e-10 * torch.eye(4, dtype=torch.float64)
    spread = (
        torch.linalg.inv(inside).diagonal(dim1=1, dim2=2) * scale**2 * variance[:, None]
    ).sqrt()
    held = (end.theta <= low + 1e-6) | (end.theta >= high - 1e-6)
    good = (known & end.converged & ~held.any(1)).numpy()
    molar = end.theta[:, 1].exp()
    values = (
        end.theta[:, 0],
        spread[:, 0],
        molar,
        molar * spread[:, 1],
        end.theta[:, 2],
        end.theta[:, 3].exp(),
        variance.sqrt(),
    )
    return tuple(np.where(good, v.numpy(), np.nan) for v in values)


def _finite_difference_jacobian(
    curves: Callable[[Tensor, Tensor], Tensor], step: Tensor, theta: Tensor, which: Tensor
) -> tuple[Tensor, Tensor]:
    """Curves and their differences by every parameter ``(n, 4, offset)``."""
    f = curves(theta, which)
    rows = []
    for i in range(theta.shape[1]):
        moved = theta.clone()
        moved[:, i] += step[i]
        rows.append((curves(moved, which) - f) / step[i])
    return f, torch.stack(rows, dim=1)


METHOD_DESCRIPTION = "a fit of Bloch-McConnell spectra to every offset but those of water's own dip"
#: T1 of water, s: the fit trades it for concentration, which is therefore not reported; pH hardly
#: feels it.
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
        B1: true over nominal amplitude ``(x, y, z)``. calibration_std: added to that of the noise;
            the tabulated one if absent.

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
