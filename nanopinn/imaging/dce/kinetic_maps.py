"""Kinetic fits of a volume as maps, with a status of every voxel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.dce.impulse_response import (
    KINETIC_QUANTITIES,
    InputCurve,
    KineticModel,
    PlasmaCurve,
)
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.dce.signal import Concentration
from nanopinn.imaging.dce.voxel_fit import KineticFit, fit_kinetics, fit_spatially_regularised
from nanopinn.imaging.voxel_status import AT_BOUND, INVALID, Status

Array = NDArray[np.float64]

#: Curves fitted between two reports of progress.
_BATCH = 32768


@dataclass(frozen=True)
class KineticMaps:
    """Kinetic parameters of every voxel, NaN where not fitted.

    Units are those of :data:`nanopinn.imaging.dce.impulse_response.KINETIC_QUANTITIES`.

    Attributes:
        model: name of the model, or ``auto``.
        names: parameters of the model.
        values: maps by name of the parameter, ``(x, y, z)``.
        std: their standard deviations.
        covariance: of ``names``, ``(x, y, z, p, p)``; empty for ``auto``.
        candidates: models that were compared.
        model_index: index into ``candidates``, ``(x, y, z)``; -1 where none was fitted.
        curves_mM: fitted curves, ``(t, x, y, z)``, mM.
        r2: coefficient of determination, ``(x, y, z)``.
        aicc: corrected Akaike information criterion, ``(x, y, z)``.
        residual_sd_mM: residual standard deviation, ``(x, y, z)``, mM.
        status: bits of :class:`Status`, ``(x, y, z)``.
    """

    model: str
    names: tuple[str, ...]
    values: Mapping[str, Array]
    std: Mapping[str, Array]
    covariance: Array
    candidates: tuple[str, ...]
    model_index: NDArray[np.int32]
    curves_mM: Array
    r2: Array
    aicc: Array
    residual_sd_mM: Array
    status: NDArray[np.int32]

    @classmethod
    def without_series(cls, shape: tuple[int, ...]) -> KineticMaps:
        """No kinetic parameters, where there is no DCE series.

        Args:
            shape: of the grid, ``(x, y, z)``.
        """
        nothing, none = np.full(shape, np.nan), np.zeros(shape, dtype=np.int32)
        return cls(
            "none",
            (),
            {},
            {},
            np.zeros((*shape, 0, 0)),
            (),
            none - 1,
            np.zeros((0, *shape)),
            nothing,
            nothing,
            nothing,
            none,
        )


def fit_volume(
    C: Concentration,
    aif: PlasmaCurve,
    frame_times_s: Array,
    *,
    model: str = "etofts",
    delay_window_s: float | None = None,
    smooth: bool = False,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda done: None,
) -> KineticMaps:
    """Fit a model to every voxel whose curve is finite and exceeds the detection limit.

    Args:
        C: concentration in tissue.
        aif: plasma curve at the tumour.
        frame_times_s: ``(t,)``, s.
        model: one of :data:`MODELS`, or ``auto``: the one of least AICc in each voxel.
        delay_window_s: fit the delay of every voxel too, within this either way, s.
        smooth: with spatial regularisation (:mod:`nanopinn.imaging.dce.voxel_fit`).
        device: torch device.
        progress: called with the share done.
    """
    curve = InputCurve(aif, frame_times_s, device)
    candidates = tuple(MODELS) if model == "auto" else (model,)
    each = [
        _fit_one(
            MODELS[name],
            C,
            curve,
            delay_window_s,
            smooth,
            partial(_report_partial_progress, progress, i, len(candidates)),
        )
        for i, name in enumerate(candidates)
    ]
    return each[0] if model != "auto" else _selected(each)


def _report_partial_progress(
    progress: Callable[[float], None], i: int, count: int, done: float
) -> None:
    """Progress of the ``i``-th of ``count`` equal parts."""
    progress((i + done) / count)


def _fit_one(
    model: KineticModel,
    C: Concentration,
    curve: InputCurve,
    window: float | None,
    smooth: bool,
    progress: Callable[[float], None],
) -> KineticMaps:
    shape = C.mM.shape[1:]
    status = classify_before_fit(C).reshape(-1)
    wanted = np.flatnonzero(status == 0)
    curves = C.mM.reshape(len(C.mM), -1)
    shared = C.shared_error_mM.reshape(*C.shared_error_mM.shape[:2], status.size)
    maps = _MapAccumulator(model, status.size, len(C.mM), window is not None)

    def batch(at: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return (
            torch.as_tensor(curves[:, at].T.copy(), device=curve.device),
            torch.as_tensor(
                np.ascontiguousarray(shared[:, :, at].transpose(2, 0, 1)), device=curve.device
            ),
        )

    if smooth:
        data, common = batch(wanted)
        maps.store_fits(
            wanted,
            fit_spatially_regularised(
                model,
                data,
                curve,
                np.argwhere(status.reshape(shape) == 0),
                shared=common,
                progress=progress,
            ),
            status,
        )
    else:
        for i in range(0, len(wanted), _BATCH):
            at = wanted[i : i + _BATCH]
            data, common = batch(at)
            maps.store_fits(
                at, fit_kinetics(model, data, curve, shared=common, delay_window_s=window), status
            )
            progress(min(1.0, (i + _BATCH) / len(wanted)))
    return maps.to_maps(shape, status)


def classify_before_fit(C: Concentration) -> NDArray[np.int32]:
    """Reasons not to fit a voxel: bits of :class:`Status`, ``(x, y, z)``."""
    status = np.zeros(C.t1_unknown.shape, dtype=np.int32)
    finite = np.isfinite(C.mM).all(axis=0)
    status[C.t1_unknown] |= int(Status.NO_T1)
    status[C.saturated] |= int(Status.SATURATED)
    status[~finite & ~C.t1_unknown & ~C.saturated] |= int(Status.NONFINITE)
    first, after = C.baseline
    rise = np.where(finite, np.nan_to_num(C.mM[after:]).mean(axis=0), 0.0)
    # both means are noisy; noise alone exceeds three standard deviations of their difference with
    # a probability of 1/700
    sd = np.nan_to_num(C.noise_sd_mM) * np.sqrt(1 / (len(C.mM) - after) + 1 / (after - first))
    status[finite & (rise <= 3 * sd)] |= int(Status.NOT_ENHANCING)
    status[finite & (rise < -3 * sd)] |= int(Status.NEGATIVE)
    return status


class _MapAccumulator:
    """Flat maps of NaN, filled batch by batch."""

    def __init__(self, model: KineticModel, voxels: int, frames: int, late: bool) -> None:
        self.model = model
        self.fitted_names = (*model.NAMES, "delay") if late else model.NAMES
        self.names = (*self.fitted_names, *model.DERIVED)
        count = len(self.fitted_names)
        self.curves = np.full((voxels, frames), np.nan)
        self.values, self.variance = (np.full((voxels, len(self.names)), np.nan) for _ in range(2))
        self.covariance = np.full((voxels, count, count), np.nan)
        self.r2, self.aicc, self.residual = (np.full(voxels, np.nan) for _ in range(3))

    def store_fits(self, at: NDArray[np.int64], fit: KineticFit, status: NDArray[np.int32]) -> None:
        """Write the fits of some voxels, and their status."""
        bounds = fit.at_bound.cpu().numpy()
        for i, name in enumerate(self.fitted_names):
            status[at[bounds[:, i]]] |= int(AT_BOUND[name])
        status[at[~fit.converged.cpu().numpy()]] |= int(Status.NOT_CONVERGED)
        p = len(self.model.NAMES)
        more, by = self.model.derived(fit.parameters[:, :p])
        variance = torch.einsum("ndp,npq,ndq->nd", by, fit.covariance[:, :p, :p], by)
        values = torch.cat([fit.parameters, more], dim=1).cpu().numpy()
        variances = (
            torch.cat([fit.covariance.diagonal(dim1=1, dim2=2), variance], dim=1).cpu().numpy()
        )
        unit = np.array([KINETIC_QUANTITIES[n].per_si for n in self.names])
        own = unit[: len(self.fitted_names)]
        self.values[at], self.variance[at] = values * unit, variances * unit**2
        self.covariance[at] = fit.covariance.cpu().numpy() * own[:, None] * own
        self.curves[at], self.r2[at], self.aicc[at], self.residual[at] = (
            a.cpu().numpy() for a in (fit.curves, fit.r2, fit.aicc, fit.residual_sd)
        )

    def to_maps(self, shape: tuple[int, ...], status: NDArray[np.int32]) -> KineticMaps:
        """The maps, with NaN where a voxel has no valid fit."""
        bad = (status & int(INVALID)) != 0
        for a in (
            self.values,
            self.variance,
            self.covariance,
            self.curves,
            self.r2,
            self.aicc,
            self.residual,
        ):
            a[bad] = np.nan
        sd = np.sqrt(np.clip(self.variance, 0, None))
        values, std = (
            {n: a[:, i].reshape(shape) for i, n in enumerate(self.names)} for a in (self.values, sd)
        )
        return KineticMaps(
            self.model.NAME,
            self.fitted_names,
            values,
            std,
            self.covariance.reshape(*shape, len(self.fitted_names), len(self.fitted_names)),
            (self.model.NAME,),
            np.where(bad, -1, 0).astype(np.int32).reshape(shape),
            self.curves.T.reshape(-1, *shape),
            self.r2.reshape(shape),
            self.aicc.reshape(shape),
            self.residual.reshape(shape),
            status.reshape(shape),
        )


def _selected(each: list[KineticMaps]) -> KineticMaps:
    """The maps of the model of least AICc in every voxel, among those with a valid fit."""
    score = np.stack([np.where(np.isfinite(m.aicc), m.aicc, np.inf) for m in each])
    best, any_fit = score.argmin(axis=0), np.isfinite(score).any(axis=0)

    def pick(maps: list[Any]) -> NDArray[Any]:
        stacked = np.stack(maps)
        index = best.reshape((1,) * (stacked.ndim - best.ndim) + best.shape)
        return np.asarray(
            np.take_along_axis(stacked, np.broadcast_to(index, (1, *stacked.shape[1:])), axis=0)[0]
        )

    nothing = np.full(best.shape, np.nan)
    names = tuple(q for q in KINETIC_QUANTITIES if any(q in m.values for m in each))
    values, std = (
        {n: pick([getattr(m, kind).get(n, nothing) for m in each]) for n in names}
        for kind in ("values", "std")
    )
    # a voxel without any valid fit has the flags of all models
    together = np.bitwise_or.reduce([m.status for m in each])
    return replace(
        each[0],
        model="auto",
        names=names,
        values=values,
        std=std,
        covariance=np.empty((*best.shape, 0, 0)),
        candidates=tuple(m.model for m in each),
        model_index=np.where(any_fit, best, -1).astype(np.int32),
        curves_mM=pick([m.curves_mM for m in each]),
        r2=pick([m.r2 for m in each]),
        aicc=pick([m.aicc for m in each]),
        residual_sd_mM=pick([m.residual_sd_mM for m in each]),
        status=np.where(any_fit, pick([m.status for m in each]), together).astype(np.int32),
    )
