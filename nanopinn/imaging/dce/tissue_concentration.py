"""Contrast agent in the tissue of one study, and the arterial input as it arrives there.

The concentration has a noise estimate. The arterial input is on the clock of the scan, with its
delay and dispersion on the way to the tumour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import DceAcquisition, load_acquisition
from nanopinn.imaging.dce.aif import ArterialInput, is_measured_in_scan, load_aif
from nanopinn.imaging.dce.aif_population import POPULATION_CURVES
from nanopinn.imaging.dce.bolus import bolus_arrival
from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.imaging.dce.kinetic_maps import KineticMaps
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.dce.signal import (
    Concentration,
    EnhancementModel,
    baseline_sensitivity,
    estimate_concentration,
    select_enhancement_model,
    wrap_measured_concentration,
)
from nanopinn.imaging.dce.t1 import B1Map, NativeT1, load_native_t1
from nanopinn.imaging.dce.voxel_fit import DELAY_WINDOW_S, fit_delay
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.imaging.motion import MotionTrace, correct_motion
from nanopinn.imaging.registration import MIN_VOXELS_PER_AXIS, Coregistration
from nanopinn.io.dicom import open_series
from nanopinn.io.volumes import read_volume
from nanopinn.parameters import value

Array = NDArray[np.float64]

#: Three parameters, two baseline frames and one to spare.
MIN_FRAMES = 6
#: No tissue or vessel holds more contrast agent than this, mM; larger values are in another unit.
_MAX_CONCENTRATION_mM = 50.0


@dataclass(frozen=True)
class DynamicSeries:
    """A dynamic series.

    Attributes:
        values: signal or concentration, ``(t, x, y, z)``.
        affine: ``(4, 4)`` RAS mm.
        acquisition: timing and sequence.
        motion: that was corrected; None where it was not estimated.
        assumptions: one sentence each.
    """

    values: Array
    affine: Array
    acquisition: DceAcquisition
    motion: MotionTrace | None
    assumptions: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one frame."""
        return (self.values.shape[1], self.values.shape[2], self.values.shape[3])

    @property
    def voxel_mm(self) -> Array:
        """Size of a voxel, ``(3,)``, mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def anatomy(self) -> Array:
        """Average over time ``(x, y, z)``, the target of registration; 0 where unknown."""
        return np.asarray(sum(np.nan_to_num(frame) for frame in self.values) / len(self.values))


def read_series(
    inputs: ImagingInputs, progress: Callable[[float], None] = lambda done: None
) -> DynamicSeries:
    """The dynamic series of a study with its acquisition, corrected for motion where chosen.

    Args:
        inputs: of the study.
        progress: of the motion correction, called with the share done.

    Raises:
        InputError: it is not a series, or its timing, TR or flip angle are missing or wrong.
    """
    with open_series(inputs.dce) as (path, notes):
        volume = read_volume(path, orientation=inputs.orientation)
        if volume.ndim != 4 or volume.shape[3] < MIN_FRAMES:
            raise InputError(
                "the DCE series has the wrong dimensions",
                file=inputs.dce,
                field="dimensions",
                found="x".join(map(str, volume.shape)),
                expected=f"(x, y, z, t) with at least {MIN_FRAMES} frames",
                remedy="Give the whole dynamic series as one 4-D volume.",
            )
        acquisition = load_acquisition(
            path,
            volume.shape[3],
            float(volume.meta["pixdim4_s"]),
            inputs.overrides,
            inputs.default_hematocrit,
        )
    values = np.moveaxis(np.asarray(volume.numpy(), dtype=np.float64), -1, 0)
    if np.nanmin(values) == np.nanmax(values):
        raise InputError(
            "the DCE series is the same everywhere",
            file=inputs.dce,
            field="values",
            found=f"{np.nanmin(values):g} in every voxel",
            expected="a signal",
            remedy="Export the series again.",
        )
    if (
        acquisition.is_concentration
        and (high := float(np.nanquantile(values, 0.999))) > _MAX_CONCENTRATION_mM
    ):
        raise InputError(
            "these are not concentrations in mM",
            file=inputs.dce,
            field="Units",
            found=f"values up to {high:.3g}",
            expected=f"below {_MAX_CONCENTRATION_mM:g} mM",
            remedy="Convert the series, or correct Units in the sidecar.",
        )
    affine = np.asarray(volume.affine, dtype=np.float64)
    notes = [*notes, *(f"DCE scan: {n}." for n in volume.meta["notes"]), *acquisition.assumptions]
    motion = None
    if inputs.motion:
        values, motion = correct_motion(
            values, np.linalg.norm(affine[:3, :3], axis=0), progress=progress
        )
        thin = (
            "; out-of-plane motion is not estimated in so thin a slab"
            if min(values.shape[1:]) < MIN_VOXELS_PER_AXIS
            else ""
        )
        notes.append(
            f"Rigid motion of up to {motion.largest_mm:.2g} mm was corrected frame by frame{thin}."
        )
    return DynamicSeries(values, affine, acquisition, motion, tuple(notes))


#: Ratio of residual to baseline noise up to which the estimate of the latter is kept.
_MIN_REPORTED_EXCESS = 1.1


def load_study_t1(
    inputs: ImagingInputs, series: DynamicSeries, B1: B1Map | None, coregistration: Coregistration
) -> NativeT1:
    """Native T1 of a study; not required where the series holds concentration.

    Args:
        inputs: of the study.
        series: its dynamic series.
        B1: corrects flip angles; None: nominal.
        coregistration: registers the T1 scan to the DCE scan.

    Raises:
        InputError: not exactly one source of T1 is given, or it cannot be used.
    """
    given = inputs.t1_source
    if series.acquisition.is_concentration and not given.files() and given.t1 is None:
        return NativeT1(np.full(series.shape, np.nan), None, ())
    return load_native_t1(
        given,
        series.shape,
        series.affine,
        B1=B1,
        orientation=inputs.orientation,
        coregistration=coregistration,
    )


def compute_study_concentration(
    inputs: ImagingInputs,
    series: DynamicSeries,
    T1_s: Array,
    T1_std: Array | None,
    B1: B1Map | None,
) -> Concentration:
    """Concentration of a series, mM; unchanged where the series holds concentration.

    Args:
        inputs: of the study.
        series: its dynamic series.
        T1_s: native T1, ``(x, y, z)``, s.
        T1_std: its standard deviation, s; None where unknown.
        B1: corrects flip angles; None: nominal.

    Raises:
        InputError: fewer than two frames are before contrast.
    """
    if series.acquisition.is_concentration:
        return wrap_measured_concentration(series.values, series.acquisition)
    model = _enhancement_model(inputs, series, T1_s, B1)
    return estimate_concentration(series.values, model, series.acquisition, T1_std)


def _enhancement_model(
    inputs: ImagingInputs, series: DynamicSeries, T1_s: Array, B1: B1Map | None
) -> EnhancementModel:
    """Relation of signal and concentration, at the true flip angles."""
    factor = 1.0 if B1 is None else B1.resample_to(series.shape, series.affine)
    return select_enhancement_model(T1_s, series.acquisition, relation=inputs.relation, B1=factor)


def compute_baseline_sensitivity(
    inputs: ImagingInputs, series: DynamicSeries, T1_s: Array, B1: B1Map | None, fitted: KineticMaps
) -> Array:
    """Change of the fitted curves per relative error of the baseline signal, ``(t, x, y, z)``, mM;
    0 where the series holds concentration.
    """
    if series.acquisition.is_concentration:
        return np.zeros_like(fitted.curves_mM)
    return baseline_sensitivity(fitted.curves_mM, _enhancement_model(inputs, series, T1_s, B1))


def frame_noise(
    C: Concentration, fitted: KineticMaps, mask: NDArray[np.bool_]
) -> tuple[Array, list[str]]:
    """Noise of one frame, ``(x, y, z)``, mM: that of the baseline, scaled by one factor where the
    residuals of the fits are larger; and notes for the report.
    """
    left, noise = fitted.residual_sd_mM[mask], C.noise_sd_mM[mask]
    known = np.isfinite(left) & np.isfinite(noise)
    if not known.any():
        return C.noise_sd_mM, [
            "No tumour voxel enhances, or none could be fitted: check the mask and the bolus;"
            " the status map gives the reason."
        ]
    excess = float(np.sqrt((left[known] ** 2).sum() / (noise[known] ** 2).sum()))
    if excess < _MIN_REPORTED_EXCESS:
        return C.noise_sd_mM, []
    return C.noise_sd_mM * excess, [
        f"The residual standard deviation of the kinetic fits is {excess:.1f} times the baseline"
        " noise; it is used as the noise, which then includes the error of the kinetic model."
    ]


def tumour_curves(inputs: ImagingInputs, C: Concentration, mask: NDArray[np.bool_]) -> Array:
    """Finite concentration curves of the tumour, ``(t, n)``, mM.

    Raises:
        InputError: there is none.
    """
    curves = C.mM[:, mask]
    curves = curves[:, np.isfinite(curves).all(axis=0)]
    if curves.shape[1] == 0:
        raise InputError(
            "no tumour voxel has a finite concentration curve",
            file=inputs.dce,
            field="values",
            found=f"0 of {int(mask.sum())} voxels",
            expected="a signal that the sequence can give",
            remedy="Check the mask, the T1 and the acquisition: the signal may be saturated.",
        )
    return np.asarray(curves)


def arterial_input(
    inputs: ImagingInputs, series: DynamicSeries, C: Concentration, B1: B1Map | None, curves: Array
) -> tuple[ArterialInput, list[str]]:
    """Plasma curve on the clock of the scan.

    Args:
        inputs: of the study.
        series: its dynamic series.
        C: its concentration in tissue.
        B1: corrects flip angles; None: nominal.
        curves: of the tumour, ``(t, n)``, mM.

    Returns:
        The arterial input, and notes on its arrival.

    Raises:
        InputError: the arterial input cannot be read or detected.
    """
    acquisition, notes, blood = series.acquisition, list[str](), None
    t, arrival = acquisition.frame_times_s, acquisition.bolus_arrival_s
    if arrival is None:
        arrival = bolus_arrival(np.median(curves, axis=1), t, C.baseline[1])
        if isinstance(inputs.aif_source, str) and inputs.aif_source in POPULATION_CURVES:
            notes.append(f"Bolus arrival was detected at {arrival:.1f} s.")
    if is_measured_in_scan(inputs.aif_source):
        blood = C
        if not acquisition.is_concentration:
            T1 = value("T10_b") if inputs.blood_t1_s is None else inputs.blood_t1_s
            blood = compute_study_concentration(inputs, series, np.full(series.shape, T1), None, B1)
            notes.append(f"Native T1 of blood is taken as {T1:g} s.")
    found = load_aif(
        inputs.aif_source,
        frame_times_s=t,
        bolus_arrival_s=arrival,
        hematocrit=acquisition.hematocrit,
        dose_mmol_per_kg=acquisition.dose_mmol_per_kg,
        blood=blood,
        affine=series.affine,
    )
    return found, notes


def delay_and_disperse_input(
    inputs: ImagingInputs, aif: PlasmaCurve, curves: Array, t: Array
) -> tuple[PlasmaCurve, float, list[str]]:
    """The plasma curve at the tumour.

    Args:
        inputs: of the study.
        aif: plasma curve on the clock of the scan.
        curves: of the tumour, ``(t, n)``, mM.
        t: frame times, s.

    Returns:
        The dispersed and delayed curve, the delay (s), and notes for the report.
    """
    notes = []
    if inputs.aif_dispersion_s > 0:
        aif = aif.dispersed(inputs.aif_dispersion_s)
        notes.append(
            "The arterial input is dispersed by a mixing chamber with a mean transit time of"
            f" {inputs.aif_dispersion_s:g} s."
        )
    if not isinstance(inputs.delay, str):
        notes.append(f"The arrival delay of the tumour was given: {inputs.delay:+g} s.")
        return aif.delayed(float(inputs.delay)), float(inputs.delay), notes
    delay = fit_delay(MODELS[inputs.model if inputs.model != "auto" else "etofts"], aif, curves, t)
    more = "; voxel-wise delays are fitted relative to it" if inputs.delay == "voxel" else ""
    notes.append(f"One arrival delay was fitted for the tumour: {delay:+.1f} s{more}.")
    if abs(delay) > 0.95 * DELAY_WINDOW_S:
        notes.append(
            "That delay is at the limit of the search range: check the bolus arrival and the frame"
            " times."
        )
    return aif.delayed(delay), delay, notes
