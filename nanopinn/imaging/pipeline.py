"""The imaging of one study, from its volumes to kinetic maps and pH, with every assumption."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.cest.ph_map import VALIDITY_TEXTS
from nanopinn.imaging.cest.ph_on_dce_grid import (
    PhMap,
    assumed_ph,
    load_ph,
    place_ph,
    read_ph_scan,
)
from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.imaging.dce.kinetic_maps import KineticMaps, fit_volume
from nanopinn.imaging.dce.signal import Concentration
from nanopinn.imaging.dce.t1 import B1Map, load_b1
from nanopinn.imaging.dce.tissue_concentration import (
    DynamicSeries,
    arterial_input,
    compute_baseline_sensitivity,
    compute_study_concentration,
    delay_and_disperse_input,
    frame_noise,
    load_study_t1,
    read_series,
    tumour_curves,
)
from nanopinn.imaging.dce.voxel_fit import DELAY_WINDOW_S
from nanopinn.imaging.imaging_data import ImagingInputs, ImagingMaps
from nanopinn.imaging.mask import automatic_mask, load_mask
from nanopinn.imaging.registration import Coregistration
from nanopinn.io.tables import check_files_unchanged, hash_files
from nanopinn.progress import Progress, ignore_progress

__all__ = ["ImagingMaps", "make_maps"]

Array = NDArray[np.float64]


def make_maps(
    inputs: ImagingInputs,
    *,
    progress: Progress = ignore_progress,
    device: str = "cpu",
    require_ph: bool = True,
) -> ImagingMaps:
    """Compute kinetic maps and pH of one study, or pH alone where there is no DCE series.

    Args:
        inputs: volumes and choices.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.
        device: torch device of the kinetic fits.
        require_ph: refuse a study without a measured or assumed pH, and a pH without a DCE series;
            else what is not given is NaN.

    Raises:
        InputError: an input cannot be used, or a required one is missing.
    """
    progress("reading", 0.0, {})
    if inputs.dce is None:
        return _make_ph_maps(inputs, allowed=not require_ph)
    file_hashes = hash_files(inputs.files())
    series = read_series(inputs, lambda done: progress("motion", done, {}))
    t, B1 = (
        series.acquisition.frame_times_s,
        None if inputs.b1 is None else load_b1(inputs.b1, inputs.orientation),
    )
    coregistration = Coregistration(series.anatomy, series.affine, inputs.register)
    T1 = load_study_t1(inputs, series, B1, coregistration)
    C = compute_study_concentration(inputs, series, T1.T1_s, T1.std_s, B1)
    mask, mask_notes = _tumour(inputs, C, t, series.affine)
    ph = _load_or_assume_ph(inputs, series, mask, B1, coregistration, require_ph)
    progress("arterial input", 0.1, {})
    curves = tumour_curves(inputs, C, mask)
    given, arrival_notes = arterial_input(inputs, series, C, B1, curves)
    aif, delay, delay_notes = delay_and_disperse_input(inputs, given.curve, curves, t)
    check_files_unchanged(file_hashes, inputs.files())  # nothing is read below
    fitted = fit_volume(
        C,
        aif,
        t,
        model=inputs.model,
        delay_window_s=DELAY_WINDOW_S if inputs.delay == "voxel" else None,
        smooth=inputs.smooth,
        device=device,
        progress=lambda done: progress("kinetics", 0.2 + 0.8 * done, {}),
    )
    noise, noise_notes = frame_noise(C, fitted, mask)
    nothing = np.full(series.shape, np.nan)
    return ImagingMaps(
        affine=series.affine,
        voxel_size_m=series.voxel_mm * 1e-3,
        mask=mask,
        kinetics=fitted,
        t1_s=T1.T1_s,
        t1_std_s=nothing if T1.std_s is None else T1.std_s,
        concentration_mM=C.mM,
        concentration_sd_mM=noise,
        baseline_sensitivity_mM=compute_baseline_sensitivity(inputs, series, T1.T1_s, B1, fitted),
        frame_times_s=t,
        aif=aif,
        arterial_voxels=given.voxels,
        delay_s=delay,
        motion=series.motion,
        ph=ph.measured,
        ph_std=ph.std,
        ph_filled=ph.filled,
        ph_fill_value=ph.fill_value,
        ph_common_std=ph.common_std,
        ph_coverage=ph.coverage,
        ph_validity=ph.validity,
        coregistration=coregistration,
        file_hashes=file_hashes,
        assumptions=(
            *series.assumptions,
            *([B1.note] if B1 is not None else []),
            *T1.assumptions,
            *_describe_options(inputs),
            *mask_notes,
            *arrival_notes,
            *given.assumptions,
            *delay_notes,
            *noise_notes,
            *ph.assumptions,
        ),
    )


def _make_ph_maps(inputs: ImagingInputs, *, allowed: bool) -> ImagingMaps:
    """pH of a CEST scan on its own grid, without a DCE series."""
    of_series = ("vfa", "ir", "t1", "motion", "smooth")
    unusable = [name for name in of_series if getattr(inputs, name)]
    if inputs.cest is None or unusable or not allowed:
        raise InputError(
            "there is no DCE series",
            field="dce",
            found=f"none beside {', '.join(unusable)}" if unusable else "nothing",
            expected="a DCE series" + (", or a CEST scan alone for pH maps" if allowed else ""),
            remedy="Give `dce`, or `cest` alone." if allowed else "Give `dce`.",
        )
    file_hashes = hash_files(inputs.files())
    B1 = None if inputs.b1 is None else load_b1(inputs.b1, inputs.orientation)
    scan = read_ph_scan(inputs.cest, inputs.cest_options, B1, inputs.orientation)
    shape = (scan.pH.shape[0], scan.pH.shape[1], scan.pH.shape[2])
    notes = ["There is no DCE series: the maps are on the grid of the CEST scan."]
    if inputs.mask is None:
        mask = np.isfinite(scan.pH)
        notes.append(f"No mask was given: all {int(mask.sum())} voxels with a pH are used.")
    else:
        mask = load_mask(inputs.mask, shape, scan.affine, inputs.orientation)
    if not mask.any():
        reasons = ", ".join(
            f"{text} ({n} voxels)"
            for bit, text in VALIDITY_TEXTS.items()
            if (n := int(((scan.validity & int(bit)) != 0).sum()))
        )
        raise InputError(
            "no voxel of the CEST scan has a pH",
            file=inputs.cest,
            field="values",
            found=reasons or "none",
            expected="agent in the tumour, and a ratio within the calibrated range",
            remedy="Check the scan, its offsets and the calibration.",
        )
    ph = place_ph(scan, inputs.cest, scan.affine, mask)
    check_files_unchanged(file_hashes, inputs.files())
    nothing, no_curves = np.full(shape, np.nan), np.zeros((0, *shape))
    return ImagingMaps(
        affine=scan.affine,
        voxel_size_m=np.linalg.norm(scan.affine[:3, :3], axis=0) * 1e-3,
        mask=mask,
        kinetics=KineticMaps.without_series(shape),
        t1_s=nothing,
        t1_std_s=nothing,
        concentration_mM=no_curves,
        concentration_sd_mM=nothing,
        baseline_sensitivity_mM=no_curves,
        frame_times_s=np.zeros(0),
        aif=PlasmaCurve(np.zeros(0), np.zeros(0)),
        arterial_voxels=None,
        delay_s=float("nan"),
        motion=None,
        ph=ph.measured,
        ph_std=ph.std,
        ph_filled=ph.filled,
        ph_fill_value=ph.fill_value,
        ph_common_std=ph.common_std,
        ph_coverage=ph.coverage,
        ph_validity=ph.validity,
        coregistration=Coregistration(scan.anatomy, scan.affine),
        file_hashes=file_hashes,
        assumptions=(*notes, *([B1.note] if B1 is not None else []), *ph.assumptions),
    )


def _describe_options(inputs: ImagingInputs) -> list[str]:
    """Choices that differ from the defaults, one sentence each."""
    notes = []
    if inputs.relation == "linear":
        notes.append(
            "Concentration is taken as proportional to the relative enhancement, which"
            " underestimates high concentrations."
        )
    if inputs.smooth:
        notes.append(
            "Kinetic maps are spatially regularised (Markov random field prior); standard"
            " deviations are conditional on the neighbouring voxels."
        )
    if inputs.model == "auto":
        notes.append(
            "Each voxel has the model of least AICc; parameters that its model lacks are NaN there."
        )
    return notes


def _tumour(
    inputs: ImagingInputs, C: Concentration, t: Array, affine: Array
) -> tuple[NDArray[np.bool_], list[str]]:
    if inputs.mask is not None:
        return (
            load_mask(
                inputs.mask,
                (C.mM.shape[1], C.mM.shape[2], C.mM.shape[3]),
                affine,
                inputs.orientation,
            ),
            [],
        )
    mask = automatic_mask(C.mM, t)
    return mask, [
        "No mask was given: the tumour is the largest region whose area under the concentration"
        f" curve exceeds Otsu's threshold ({int(mask.sum())} voxels)."
    ]


def _load_or_assume_ph(
    inputs: ImagingInputs,
    series: DynamicSeries,
    mask: NDArray[np.bool_],
    B1: B1Map | None,
    coregistration: Coregistration,
    needed: bool,
) -> PhMap:
    if inputs.cest is not None:
        options, orientation = inputs.cest_options, inputs.orientation
        return load_ph(
            inputs.cest,
            series.affine,
            mask,
            options=options,
            B1=B1,
            orientation=orientation,
            coregistration=coregistration,
        )
    if inputs.assume_ph is None and not needed:
        return PhMap.without_measurement(
            np.full(series.shape, np.nan), float("nan"), "No pH was given: there is no pH map."
        )
    if inputs.assume_ph is None:
        raise InputError(
            "no pH was given",
            field="cest",
            found="nothing",
            expected="a pH map",
            remedy="Give `cest`, or `assume_ph`, which the report will state.",
        )
    return assumed_ph(inputs.assume_ph, mask)
