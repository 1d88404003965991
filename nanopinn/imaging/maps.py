"""The imaging of one study: from files to kinetic maps, pH and everything assumed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging import extended_tofts
from nanopinn.imaging.acquisition import DceAcquisition, excitation, load_acquisition
from nanopinn.imaging.aif import PlasmaCurve, load_aif
from nanopinn.imaging.bolus import baseline_frames, best_delay, bolus_arrival
from nanopinn.imaging.geometry import same_grid
from nanopinn.imaging.io import Orientation, read_sidecar, read_volume, sidecar_path
from nanopinn.imaging.kinetics import InputCurve, KineticFit, fit_kinetics
from nanopinn.imaging.mask import automatic_mask, load_mask
from nanopinn.imaging.ph import PhMap, assumed_ph, load_ph
from nanopinn.imaging.spgr import concentration_from_signal, concentration_per_signal
from nanopinn.imaging.status import INVALID, Status
from nanopinn.imaging.t1 import fit_t1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ImagingInputs:
    """Files and choices of one study.

    Attributes:
        dce: 4-D series. cest: 3-D pH map. mask: tumour. vfa: one volume per flip angle.
        t1: seconds, or a T1 map. aif: ``parker`` or a file. assume_ph: where no CEST was measured.
        overrides: keys of the sidecar that win over it. orientation: sform or qform where they disagree.
    """

    dce: str | Path
    cest: str | Path | None = None
    mask: str | Path | None = None
    vfa: tuple[str | Path, ...] = ()
    t1: float | str | Path | None = None
    aif: str = "parker"
    assume_ph: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    orientation: Orientation | None = None

    def files(self) -> list[Path]:
        """Every file that is read."""
        given = [self.dce, self.cest, self.mask, *self.vfa, self.t1 if isinstance(self.t1, (str, Path)) else None]
        return [Path(f) for f in given if f is not None] + ([] if self.aif == "parker" else [Path(self.aif)])


@dataclass(frozen=True)
class ImagingMaps:
    """What the images say; maps ``(x, y, z)`` on the DCE grid, NaN where nothing is known.

    Attributes:
        affine: ``(4, 4)`` RAS mm. voxel_size_m: ``(3,)``. mask: the tumour.
        ktrans_per_min, ve, vp and their ``_std``; covariance ``(x, y, z, 3, 3)`` of the three.
        t1_s; r2; status: bits of :class:`Status`.
        concentration_mM: ``(t, x, y, z)``; concentration_sd_mM: noise of one frame, from the baseline.
        frame_times_s; aif: in plasma, at the fitted arrival; delay_s: fitted, added to the stated arrival.
        ph, ph_std: NaN outside the slab; ph_filled: for the physics; ph_fill_value; ph_coverage of the tumour.
        assumptions: one sentence each.
    """

    affine: Array
    voxel_size_m: Array
    mask: NDArray[np.bool_]
    ktrans_per_min: Array
    ktrans_std: Array
    ve: Array
    ve_std: Array
    vp: Array
    vp_std: Array
    covariance: Array
    t1_s: Array
    r2: Array
    status: NDArray[np.int32]
    concentration_mM: Array
    concentration_sd_mM: Array
    frame_times_s: Array
    aif: PlasmaCurve
    delay_s: float
    ph: Array
    ph_std: Array
    ph_filled: Array
    ph_fill_value: float
    ph_coverage: float
    assumptions: tuple[str, ...]

    @property
    def valid_share(self) -> float:
        """Share of tumour voxels with a valid kinetic fit."""
        return float(((self.status[self.mask] & int(INVALID)) == 0).mean())

    def summary(self) -> str:
        """Medians over the tumour, in words."""

        def median(a: Array) -> float:
            return float(np.nanmedian(a[self.mask])) if np.isfinite(a[self.mask]).any() else float("nan")

        return "\n".join(
            [
                f"tumour: {int(self.mask.sum())} voxels, {self.valid_share:.1%} with a valid kinetic fit",
                f"median T1 {median(self.t1_s):.3g} s, Ktrans {median(self.ktrans_per_min):.3g} 1/min, "
                f"ve {median(self.ve):.3g}, vp {median(self.vp):.3g}, R2 {median(self.r2):.3f}",
                f"pH: measured in {self.ph_coverage:.0%} of the tumour",
            ]
        )


def make_maps(inputs: ImagingInputs, *, device: str = "cpu") -> ImagingMaps:
    """Turn files into maps.

    Raises:
        InputError: something given cannot be used, or something needed is missing.
    """
    volume = read_volume(inputs.dce, orientation=inputs.orientation)
    if volume.ndim != 4 or volume.shape[3] < 6:
        raise InputError(
            "the DCE series has the wrong dimensions", file=inputs.dce, field="dimensions", found=str(tuple(volume.shape)),
            expected="(x, y, z, t) with at least 6 frames",
        )  # fmt: skip
    affine = np.asarray(volume.affine, dtype=np.float64)
    series = np.moveaxis(np.asarray(volume.numpy(), dtype=np.float64), -1, 0)
    shape = series.shape[1:]
    acquisition = load_acquisition(inputs.dce, len(series), float(volume.meta["pixdim4_s"]), inputs.overrides)
    notes = [*(n[:1].upper() + n[1:] + "." for n in volume.meta["notes"]), *acquisition.assumptions]
    T1, T1_note = _native_t1(inputs, shape, affine)
    notes += T1_note
    C, sd, baseline_count = _concentration(series, T1, acquisition)
    mask = _mask(inputs, C, acquisition, affine, notes)
    ph = _ph(inputs, shape, affine, mask)
    aif, delay = _input_curve(inputs, acquisition, C, mask, baseline_count, notes)
    curve = InputCurve(aif, acquisition.frame_times_s, device)
    flat = torch.as_tensor(C.reshape(len(C), -1).T.copy(), device=device)
    fit = fit_kinetics(extended_tofts, flat, curve)
    status = _status(C, sd, T1, fit, baseline_count).reshape(shape)
    kinetics = _kinetic_maps(fit, status, shape)
    return ImagingMaps(
        affine=affine, voxel_size_m=np.linalg.norm(affine[:3, :3], axis=0) * 1e-3, mask=mask, **kinetics,
        t1_s=T1, status=status, concentration_mM=C, concentration_sd_mM=sd,
        frame_times_s=acquisition.frame_times_s, aif=aif, delay_s=delay, ph=ph.measured, ph_std=ph.std,
        ph_filled=ph.filled, ph_fill_value=ph.fill_value, ph_coverage=ph.coverage,
        assumptions=(*notes, *ph.assumptions),
    )  # fmt: skip


def _native_t1(inputs: ImagingInputs, shape: tuple[int, ...], affine: Array) -> tuple[Array, list[str]]:
    if inputs.vfa and inputs.t1 is not None:
        raise InputError("T1 is given twice", field="--vfa, --t1", remedy="Give one of the two.")
    if inputs.vfa:
        return _vfa_t1(inputs, shape, affine), []
    if inputs.t1 is None:
        raise InputError(
            "native T1 is not known", field="--vfa, --t1", expected="a flip-angle set, a T1 map, or a value in s",
            remedy="Give --vfa FILE..., --t1 MAP, or --t1 SECONDS (about 1.4 for tumours at 3 T).",
        )  # fmt: skip
    if isinstance(inputs.t1, (int, float)):
        if not 0.05 <= inputs.t1 <= 5:
            raise InputError("not a T1 in seconds", field="--t1", found=inputs.t1, expected="0.05 to 5 s")
        return np.full(shape, float(inputs.t1)), [
            f"Native T1 was not measured: {inputs.t1:g} s is assumed everywhere."
        ]
    values = _on_grid(inputs.t1, shape, affine, inputs.orientation)
    if not 0.05 <= np.nanmedian(values[values > 0]) <= 5:
        raise InputError(
            "not a T1 map in seconds",
            file=inputs.t1,
            field="values",
            found=float(np.nanmedian(values)),
            expected="0.05 to 5 s",
        )
    return np.where((values > 0.01) & (values < 10), values, np.nan), []


def _on_grid(path: str | Path, shape: tuple[int, ...], affine: Array, orientation: Orientation | None) -> Array:
    volume = read_volume(path, orientation=orientation)
    if not same_grid(shape, affine, tuple(volume.shape), np.asarray(volume.affine, dtype=np.float64)):
        raise InputError(
            "its grid differs from the DCE scan's", file=path, field="grid", found=str(tuple(volume.shape)),
            expected=str(shape), remedy="Resample it to the DCE grid first.",
        )  # fmt: skip
    return np.asarray(volume.numpy(), dtype=np.float64)


def _vfa_t1(inputs: ImagingInputs, shape: tuple[int, ...], affine: Array) -> Array:
    if len(inputs.vfa) < 2:
        raise InputError(
            "one flip angle cannot give T1", field="--vfa", found=len(inputs.vfa), expected="2 or more files"
        )
    images = np.stack([_on_grid(p, shape, affine, inputs.orientation) for p in inputs.vfa], axis=-1)
    settings = [excitation(read_sidecar(p), sidecar_path(p)) for p in inputs.vfa]
    trs, flips = {tr for tr, _ in settings}, np.array([flip for _, flip in settings])
    if len(trs) > 1:
        raise InputError(
            "the flip-angle set has several excitation TRs", field="RepetitionTimeExcitation", found=sorted(trs)
        )
    if len(set(flips)) < 2:
        raise InputError("the flip-angle set repeats one angle", field="FlipAngle", found=flips.tolist())
    return fit_t1(images, flips, trs.pop()).T1


def _concentration(series: Array, T1: Array, acquisition: DceAcquisition) -> tuple[Array, Array, tuple[int, int]]:
    """Concentration ``(t, x, y, z)``, its noise per frame ``(x, y, z)``, and the baseline ``(first, after last)``."""
    first, after = baseline_frames(series, acquisition)
    base = series[first:after].mean(axis=0)
    usable = np.isfinite(base) & (base > 0)
    base = np.where(usable, base, np.nan)
    args = (base, T1, acquisition.repetition_time_s, acquisition.flip_angle_deg, acquisition.relaxivity)
    C = concentration_from_signal(series, *args)
    spread = series[first:after].std(axis=0, ddof=1) if after - first > 1 else np.full(base.shape, np.nan)
    # one variance per voxel from a handful of frames is rough: half its own, half its surroundings'
    typical = np.nanmedian(spread[usable]) if np.isfinite(spread[usable]).any() else np.nan
    noise = np.sqrt((spread**2 + typical**2) / 2)
    middle = (
        np.nan_to_num(np.nanmean(np.where(np.isfinite(C), C, np.nan), axis=0))
        if np.isfinite(C).any()
        else np.zeros_like(base)
    )
    return C, noise * np.abs(concentration_per_signal(middle, *args)), (first, after)


def _mask(
    inputs: ImagingInputs, C: Array, acquisition: DceAcquisition, affine: Array, notes: list[str]
) -> NDArray[np.bool_]:
    if inputs.mask is not None:
        return load_mask(inputs.mask, C.shape[1:], affine, inputs.orientation)
    mask = automatic_mask(C, acquisition.frame_times_s)
    notes.append(
        f"No mask was given: the tumour is the largest region that enhances above Otsu's threshold ({int(mask.sum())} voxels)."
    )
    return mask


def _ph(inputs: ImagingInputs, shape: tuple[int, ...], affine: Array, mask: NDArray[np.bool_]) -> PhMap:
    if inputs.cest is not None:
        return load_ph(inputs.cest, (shape[0], shape[1], shape[2]), affine, mask, inputs.orientation)
    if inputs.assume_ph is None:
        raise InputError(
            "no pH was given", field="--cest", expected="a pH map",
            remedy="Give --cest FILE, or --assume-ph VALUE, which the report will name.",
        )  # fmt: skip
    return assumed_ph(inputs.assume_ph, mask)


def _input_curve(
    inputs: ImagingInputs, acquisition: DceAcquisition, C: Array, mask: NDArray[np.bool_],
    baseline: tuple[int, int], notes: list[str],
) -> tuple[PlasmaCurve, float]:  # fmt: skip
    """Plasma curve at its fitted arrival; one delay for the whole tumour."""
    t = acquisition.frame_times_s
    curves = C[:, mask]
    mean = (
        np.nanmedian(curves[:, np.isfinite(curves).all(axis=0)], axis=1)
        if np.isfinite(curves).all(axis=0).any()
        else None
    )
    if mean is None:
        raise InputError(
            "no tumour voxel has a finite concentration curve", field="mask",
            remedy="Check the mask, the T1 and the acquisition: the signal may be saturated.",
        )  # fmt: skip
    arrival = acquisition.bolus_arrival_s
    if arrival is None:
        arrival = bolus_arrival(mean, t, baseline[1])
        notes.append(f"Bolus arrival was detected at {arrival:.1f} s.")
    aif = load_aif(inputs.aif, frame_times_s=t, bolus_arrival_s=arrival, hematocrit=acquisition.hematocrit)
    if inputs.aif == "parker":
        notes.append(
            "The arterial input is Parker's population curve, not this subject's; its scale carries over to Ktrans, ve and vp."
        )
    delay = best_delay(aif, mean, t)
    notes.append(f"One arrival delay was fitted for the tumour: {delay:+.1f} s.")
    return aif.delayed(delay), delay


def _status(C: Array, sd: Array, T1: Array, fit: KineticFit, baseline: tuple[int, int]) -> NDArray[np.int32]:
    after = C[baseline[1] :].reshape(C.shape[0] - baseline[1], -1)
    status = np.zeros(after.shape[1], dtype=np.int32)
    finite = np.isfinite(C).all(axis=0).reshape(-1)
    status[~finite] |= int(Status.NONFINITE)
    status[~np.isfinite(T1.reshape(-1))] |= int(Status.NO_T1)
    # the mean of n frames of pure noise exceeds three of its own standard deviations once in 700
    rise = np.where(finite, np.nan_to_num(after).mean(axis=0), 0.0)
    status[rise < 3 * np.nan_to_num(sd.reshape(-1)) / np.sqrt(after.shape[0])] |= int(Status.NOT_ENHANCING)
    status[~fit.converged.cpu().numpy()] |= int(Status.NOT_CONVERGED)
    bounds = fit.at_bound.cpu().numpy()
    for i, bit in enumerate((Status.KTRANS_AT_BOUND, Status.VE_AT_BOUND, Status.VP_AT_BOUND)):
        status[bounds[:, i]] |= int(bit)
    return status


def _kinetic_maps(fit: KineticFit, status: NDArray[np.int32], shape: tuple[int, ...]) -> dict[str, Array]:
    unit = np.array([60.0, 1.0, 1.0])
    invalid = ((status.reshape(-1) & int(INVALID)) != 0)[:, None]
    values = np.where(invalid, np.nan, fit.parameters.cpu().numpy() * unit)
    covariance = np.where(invalid[..., None], np.nan, fit.covariance.cpu().numpy() * unit[:, None] * unit)
    std = np.sqrt(np.clip(np.diagonal(covariance, axis1=1, axis2=2), 0, None))
    names = ("ktrans_per_min", "ve", "vp")
    maps = {n: values[:, i].reshape(shape) for i, n in enumerate(names)}
    maps |= {n: std[:, i].reshape(shape) for i, n in enumerate(("ktrans_std", "ve_std", "vp_std"))}
    return {
        **maps, "covariance": covariance.reshape(*shape, 3, 3),
        "r2": np.where(invalid[:, 0], np.nan, fit.r2.cpu().numpy()).reshape(shape),
    }  # fmt: skip
