"""The arterial input of one study on the clock of the scan, and its delay and dispersion on the way
to the tumour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.dce.aif import ArterialInput, is_measured_in_scan, load_aif
from nanopinn.imaging.dce.aif_population import POPULATION_CURVES
from nanopinn.imaging.dce.bolus import bolus_arrival
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.dce.plasma_curve import PlasmaCurve
from nanopinn.imaging.dce.signal import Concentration
from nanopinn.imaging.dce.t1 import B1Map
from nanopinn.imaging.dce.tissue_concentration import DynamicSeries, compute_study_concentration
from nanopinn.imaging.dce.voxel_fit import DELAY_WINDOW_S, fit_delay
from nanopinn.imaging.inputs import ImagingInputs
from nanopinn.parameters import value

Array = NDArray[np.float64]


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
        if isinstance(inputs.aif, str) and inputs.aif in POPULATION_CURVES:
            notes.append(f"Bolus arrival was detected at {arrival:.1f} s.")
    if is_measured_in_scan(inputs.aif):
        blood = C
        if not acquisition.is_concentration:
            T1 = value("T10_b") if inputs.blood_t1_s is None else inputs.blood_t1_s
            blood = compute_study_concentration(inputs, series, np.full(series.shape, T1), None, B1)
            notes.append(f"Native T1 of blood is taken as {T1:g} s.")
    found = load_aif(
        inputs.aif,
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
