"""Kinetic fits of a volume, laid out as maps, each voxel with what is to be said against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging import extended_tofts
from nanopinn.imaging.aif import PlasmaCurve
from nanopinn.imaging.concentration import Concentration
from nanopinn.imaging.kinetics import InputCurve, KineticFit, fit_kinetics
from nanopinn.imaging.status import INVALID, Status

Array = NDArray[np.float64]
BITS = (Status.KTRANS_AT_BOUND, Status.VE_AT_BOUND, Status.VP_AT_BOUND)

#: Curves fitted between two reports of progress.
_BATCH = 32768


@dataclass(frozen=True)
class KineticMaps:
    """Ktrans (1/min), ve, vp: ``values`` and ``std`` ``(x, y, z, 3)``, ``covariance`` ``(x, y, z, 3, 3)``.

    Attributes:
        curves_mM: ``(t, x, y, z)``, the fitted curves.
        r2, residual_sd_mM: ``(x, y, z)``; NaN where not fitted. status: bits of :class:`Status`.
    """

    values: Array
    std: Array
    covariance: Array
    curves_mM: Array
    r2: Array
    residual_sd_mM: Array
    status: NDArray[np.int32]


def fit_volume(
    C: Concentration, T1_s: Array, aif: PlasmaCurve, frame_times_s: Array, *, device: str = "cpu",
    progress: Callable[[float], None] = lambda done: None,
) -> KineticMaps:  # fmt: skip
    """Fit extended Tofts to every voxel whose curve is finite and rises above its noise.

    Args:
        C: ``(t, x, y, z)`` with its noise.
        T1_s: ``(x, y, z)``; where it is NaN nothing is fitted.
        progress: called with the share done.
    """
    shape = C.mM.shape[1:]
    status = _before_fit(C, T1_s).reshape(-1)
    chosen = np.flatnonzero(status == 0)
    curves, shared = (a.reshape(len(a), -1) for a in (C.mM, C.baseline_error_mM))
    curve = InputCurve(aif, frame_times_s, device)
    maps = _Blank(status.size, len(C.mM))
    for i in range(0, len(chosen), _BATCH):
        at = chosen[i : i + _BATCH]
        batch, common = (torch.as_tensor(a[:, at].T.copy(), device=device) for a in (curves, shared))
        fit = fit_kinetics(extended_tofts, batch, curve, shared=common)
        maps.put(at, fit, extended_tofts.evaluate(fit.parameters, curve)[0], status)
        progress(min(1.0, (i + _BATCH) / len(chosen)))
    return maps.shaped(shape, status)


def _before_fit(C: Concentration, T1_s: Array) -> NDArray[np.int32]:
    """What forbids a fit, known before it."""
    status = np.zeros(T1_s.shape, dtype=np.int32)
    finite = np.isfinite(C.mM).all(axis=0)
    unknown = ~np.isfinite(T1_s)
    status[unknown] |= int(Status.NO_T1)
    status[C.saturated] |= int(Status.SATURATED)
    status[~finite & ~unknown & ~C.saturated] |= int(Status.NONFINITE)
    first, after = C.baseline
    rise = np.where(finite, np.nan_to_num(C.mM[after:]).mean(axis=0), 0.0)
    # both means are noisy; noise alone exceeds three standard deviations of their difference once in 700
    sd = np.nan_to_num(C.noise_sd_mM) * np.sqrt(1 / (len(C.mM) - after) + 1 / (after - first))
    status[finite & (rise <= 3 * sd)] |= int(Status.NOT_ENHANCING)
    return status


class _Blank:
    """Flat maps of NaN, filled batch by batch."""

    def __init__(self, voxels: int, frames: int) -> None:
        self.curves = np.full((voxels, frames), np.nan)
        self.values = np.full((voxels, 3), np.nan)
        self.covariance = np.full((voxels, 3, 3), np.nan)
        self.r2, self.residual = np.full(voxels, np.nan), np.full(voxels, np.nan)

    def put(self, at: NDArray[np.int64], fit: KineticFit, curves: Tensor, status: NDArray[np.int32]) -> None:
        self.curves[at] = curves.cpu().numpy()
        bounds = fit.at_bound.cpu().numpy()
        for i, bit in enumerate(BITS):
            status[at[bounds[:, i]]] |= int(bit)
        status[at[~fit.converged.cpu().numpy()]] |= int(Status.NOT_CONVERGED)
        unit = np.array([60.0, 1.0, 1.0])  # 1/s to 1/min
        self.values[at] = fit.parameters.cpu().numpy() * unit
        self.covariance[at] = fit.covariance.cpu().numpy() * unit[:, None] * unit
        self.r2[at], self.residual[at] = fit.r2.cpu().numpy(), fit.residual_sd.cpu().numpy()

    def shaped(self, shape: tuple[int, ...], status: NDArray[np.int32]) -> KineticMaps:
        bad = (status & int(INVALID)) != 0
        for a in (self.values, self.covariance, self.curves, self.r2, self.residual):
            a[bad] = np.nan
        std = np.sqrt(np.clip(np.diagonal(self.covariance, axis1=1, axis2=2), 0, None))
        return KineticMaps(
            self.values.reshape(*shape, 3), std.reshape(*shape, 3), self.covariance.reshape(*shape, 3, 3),
            self.curves.T.reshape(-1, *shape), self.r2.reshape(shape), self.residual.reshape(shape), status.reshape(shape),
        )  # fmt: skip
