"""The imaging of one study: from files to kinetic maps, pH and everything assumed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import DceAcquisition, load_acquisition
from nanopinn.imaging.aif import PlasmaCurve, load_aif
from nanopinn.imaging.bolus import DELAY_WINDOW_S, best_delay, bolus_arrival
from nanopinn.imaging.concentration import Concentration, baseline_effect, concentration_of
from nanopinn.imaging.io import read_volume
from nanopinn.imaging.kinetic_maps import KineticMaps, fit_volume
from nanopinn.imaging.mask import automatic_mask, load_mask
from nanopinn.imaging.native_t1 import native_t1
from nanopinn.imaging.nifti import Orientation
from nanopinn.imaging.ph import PhMap, assumed_ph, load_ph
from nanopinn.imaging.status import INVALID
from nanopinn.progress import Progress, silent

Array = NDArray[np.float64]

#: Three parameters, two baseline frames and one to spare.
FEWEST_FRAMES = 6
#: Fits that leave less than this times the baseline's noise leave no more than its estimate allows.
_EXCESS_NOTED = 1.1


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
        concentration_mM: ``(t, x, y, z)``; concentration_sd_mM: ``(x, y, z)``, noise of one frame.
        baseline_effect_mM: ``(t, x, y, z)``, what a relative error of the signal before contrast does to the fitted curves.
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
    baseline_effect_mM: Array
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


def make_maps(
    inputs: ImagingInputs, *, progress: Progress = silent, device: str = "cpu", need_ph: bool = True
) -> ImagingMaps:  # fmt: skip
    """Turn files into maps.

    Args:
        need_ph: refuse a study without a pH, measured or assumed; else its pH stays NaN.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.
        device: where the kinetics are fitted.

    Raises:
        InputError: something given cannot be used, or something needed is missing.
    """
    progress("reading", 0.0, {})
    series, affine, acquisition, notes = _read_series(inputs)
    shape = (series.shape[1], series.shape[2], series.shape[3])
    T1, T1_notes = native_t1(inputs.vfa, inputs.t1, shape, affine, inputs.orientation)
    C = concentration_of(series, T1, acquisition)
    mask, mask_notes = _tumour(inputs, C, acquisition, affine)
    ph = _ph(inputs, shape, affine, mask, need_ph)
    progress("arterial input", 0.1, {})
    aif, delay, aif_notes = _arterial_input(inputs, acquisition, C, mask)
    fitted = fit_volume(
        C, T1, aif, acquisition.frame_times_s, device=device,
        progress=lambda done: progress("kinetics", 0.2 + 0.8 * done, {}),
    )  # fmt: skip
    noise, noise_notes = _noise(C, fitted, mask)
    names = ("ktrans_per_min", "ve", "vp")
    kinetics = {n: fitted.values[..., i] for i, n in enumerate(names)}
    kinetics |= {n: fitted.std[..., i] for i, n in enumerate(("ktrans_std", "ve_std", "vp_std"))}
    return ImagingMaps(
        affine=affine, voxel_size_m=np.linalg.norm(affine[:3, :3], axis=0) * 1e-3, mask=mask, **kinetics,
        covariance=fitted.covariance, t1_s=T1, r2=fitted.r2, status=fitted.status, concentration_mM=C.mM,
        concentration_sd_mM=noise,
        baseline_effect_mM=baseline_effect(fitted.curves_mM, T1, acquisition),
        frame_times_s=acquisition.frame_times_s, aif=aif, delay_s=delay, ph=ph.measured, ph_std=ph.std,
        ph_filled=ph.filled, ph_fill_value=ph.fill_value, ph_coverage=ph.coverage,
        assumptions=(*notes, *T1_notes, *mask_notes, *aif_notes, *noise_notes, *ph.assumptions),
    )  # fmt: skip


def _read_series(inputs: ImagingInputs) -> tuple[Array, Array, DceAcquisition, list[str]]:
    """Signal ``(t, x, y, z)``, affine, acquisition and what was assumed for them."""
    volume = read_volume(inputs.dce, orientation=inputs.orientation)
    if volume.ndim != 4 or volume.shape[3] < FEWEST_FRAMES:
        raise InputError(
            "the DCE series has the wrong dimensions", file=inputs.dce, field="dimensions",
            found="x".join(map(str, volume.shape)), expected=f"(x, y, z, t) with at least {FEWEST_FRAMES} frames",
            remedy="Give the whole dynamic series as one 4-D volume.",
        )  # fmt: skip
    series = np.moveaxis(np.asarray(volume.numpy(), dtype=np.float64), -1, 0)
    if np.nanmin(series) == np.nanmax(series):
        raise InputError(
            "the DCE series is the same everywhere", file=inputs.dce, field="values",
            found=f"{np.nanmin(series):g} in every voxel", expected="a signal", remedy="Export the series again.",
        )  # fmt: skip
    acquisition = load_acquisition(inputs.dce, len(series), float(volume.meta["pixdim4_s"]), inputs.overrides)
    notes = [*(f"DCE scan: {n}." for n in volume.meta["notes"]), *acquisition.assumptions]
    return series, np.asarray(volume.affine, dtype=np.float64), acquisition, notes


def _tumour(inputs: ImagingInputs, C: Concentration, acquisition: DceAcquisition, affine: Array) -> tuple[NDArray[np.bool_], list[str]]:
    shape = (C.mM.shape[1], C.mM.shape[2], C.mM.shape[3])
    if inputs.mask is not None:
        return load_mask(inputs.mask, shape, affine, inputs.orientation), []
    mask = automatic_mask(C.mM, acquisition.frame_times_s)
    return mask, [
        "No mask was given: the tumour is the largest region whose area under the concentration curve exceeds "
        f"Otsu's threshold ({int(mask.sum())} voxels)."
    ]


def _ph(inputs: ImagingInputs, shape: tuple[int, int, int], affine: Array, mask: NDArray[np.bool_], needed: bool) -> PhMap:
    if inputs.cest is not None:
        return load_ph(inputs.cest, shape, affine, mask, inputs.orientation)
    if inputs.assume_ph is None and not needed:
        nothing = np.full(shape, np.nan)
        return PhMap(nothing, nothing, nothing, float("nan"), 0.0, ("No pH was given: there is no pH map.",))
    if inputs.assume_ph is None:
        raise InputError(
            "no pH was given", field="--cest", found="nothing", expected="a pH map",
            remedy="Give --cest FILE, or --assume-ph VALUE, which the report will name.",
        )  # fmt: skip
    return assumed_ph(inputs.assume_ph, mask)


def _noise(C: Concentration, fitted: KineticMaps, mask: NDArray[np.bool_]) -> tuple[Array, list[str]]:
    """Noise of one frame: the baseline's, scaled for all voxels alike where the fits leave more than that."""
    left, noise = fitted.residual_sd_mM[mask], C.noise_sd_mM[mask]
    known = np.isfinite(left) & np.isfinite(noise)
    excess = float(np.sqrt((left[known] ** 2).sum() / (noise[known] ** 2).sum())) if known.any() else 1.0
    if excess < _EXCESS_NOTED:
        return C.noise_sd_mM, []
    return C.noise_sd_mM * excess, [
        f"Kinetic fits leave {excess:.1f} times the noise before contrast; the noise was taken as that large, "
        "so what extended Tofts cannot describe counts as noise."
    ]


def _arterial_input(
    inputs: ImagingInputs, acquisition: DceAcquisition, C: Concentration, mask: NDArray[np.bool_]
) -> tuple[PlasmaCurve, float, list[str]]:
    """Plasma curve at its fitted arrival, the delay fitted for it, and what was assumed."""
    t, notes = acquisition.frame_times_s, list[str]()
    curves = C.mM[:, mask]
    curves = curves[:, np.isfinite(curves).all(axis=0)]
    if curves.shape[1] == 0:
        raise InputError(
            "no tumour voxel has a finite concentration curve", file=inputs.dce, field="values",
            found=f"0 of {int(mask.sum())} voxels", expected="a signal that the sequence can give",
            remedy="Check the mask, the T1 and the acquisition: the signal may be saturated.",
        )  # fmt: skip
    arrival = acquisition.bolus_arrival_s
    if arrival is None:
        arrival = bolus_arrival(np.median(curves, axis=1), t, C.baseline[1])
        notes.append(f"Bolus arrival was detected at {arrival:.1f} s.")
    aif = load_aif(inputs.aif, frame_times_s=t, bolus_arrival_s=arrival, hematocrit=acquisition.hematocrit)
    if inputs.aif == "parker":
        notes.append("The arterial input is Parker's population curve, not this subject's; its scale carries over to Ktrans, ve and vp.")
    delay = best_delay(aif, curves, t)
    notes.append(f"One arrival delay was fitted for the tumour: {delay:+.1f} s.")
    if abs(delay) > 0.95 * DELAY_WINDOW_S:
        notes.append("That delay is at the edge of what is sought: check the bolus arrival and the frame times.")
    return aif.delayed(delay), delay, notes
