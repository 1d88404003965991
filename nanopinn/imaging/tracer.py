"""From the signal of one study to the tracer in its tissue: native T1, concentration, and their noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.concentration import (
    Concentration,
    baseline_sensitivity,
    estimate_concentration,
    select_enhancement_model,
    wrap_measured_concentration,
)
from nanopinn.imaging.inputs import ImagingInputs
from nanopinn.imaging.kinetics.volume import KineticMaps
from nanopinn.imaging.placement import Coregistration
from nanopinn.imaging.series import DynamicSeries
from nanopinn.imaging.t1.b1 import B1Map
from nanopinn.imaging.t1.native import NativeT1, load_native_t1

Array = NDArray[np.float64]

#: Fits that leave less than this times the baseline's noise leave no more than its estimate allows.
_MIN_REPORTED_EXCESS = 1.1


def load_study_t1(
    inputs: ImagingInputs, series: DynamicSeries, B1: B1Map | None, coregistration: Coregistration
) -> NativeT1:
    """Native T1; not asked for where the series holds concentration already.

    Raises:
        InputError: T1 is given in no way, in two, or cannot be used.
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
    """Concentration of the series ``(t, x, y, z)``, mM, by native T1 ``(x, y, z)``, s; as it is where the series holds it already.

    Raises:
        InputError: the acquisition does not say what the conversion needs.
    """
    if series.acquisition.is_concentration:
        return wrap_measured_concentration(series.values, series.acquisition)
    angles = 1.0 if B1 is None else B1.resample_to(series.shape, series.affine)
    enhancement_model = select_enhancement_model(
        T1_s, series.acquisition, relation=inputs.relation, B1=angles
    )
    return estimate_concentration(series.values, enhancement_model, series.acquisition, T1_std)


def compute_baseline_sensitivity(
    inputs: ImagingInputs, series: DynamicSeries, T1_s: Array, B1: B1Map | None, fitted: KineticMaps
) -> Array:
    """What a relative error of the signal before contrast does to the fitted curves ``(t, x, y, z)``, mM; 0 without a conversion."""
    if series.acquisition.is_concentration:
        return np.zeros_like(fitted.curves_mM)
    angles = 1.0 if B1 is None else B1.resample_to(series.shape, series.affine)
    return baseline_sensitivity(
        fitted.curves_mM,
        select_enhancement_model(T1_s, series.acquisition, relation=inputs.relation, B1=angles),
    )


def frame_noise(
    C: Concentration, fitted: KineticMaps, mask: NDArray[np.bool_]
) -> tuple[Array, list[str]]:
    """Noise of one frame: the baseline's, scaled for all voxels alike where the fits leave more than that."""
    left, noise = fitted.residual_sd_mM[mask], C.noise_sd_mM[mask]
    known = np.isfinite(left) & np.isfinite(noise)
    if not known.any():
        return C.noise_sd_mM, [
            "No tumour voxel enhances, or none could be fitted: check the mask and the bolus; status says why."
        ]
    excess = float(np.sqrt((left[known] ** 2).sum() / (noise[known] ** 2).sum()))
    if excess < _MIN_REPORTED_EXCESS:
        return C.noise_sd_mM, []
    return C.noise_sd_mM * excess, [
        f"Kinetic fits leave {excess:.1f} times the noise before contrast; the noise was taken as that large, "
        "so what the model cannot describe counts as noise."
    ]
