"""Simulated imaging maps of an idealised tumour under a protocol.

The anatomy is that of a phantom at the requested size. Curves are those of well-mixed voxels with
the noise of the protocol, fitted as in a study, so that the kinetic maps and their covariance have
the noise of the scan. Flow between voxels enters later, with the physics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import DceAcquisition
from nanopinn.imaging.cest.ph_map import Validity
from nanopinn.imaging.dce.aif import is_measured_in_scan, load_aif
from nanopinn.imaging.dce.impulse_response import InputCurve, PlasmaCurve, evaluate
from nanopinn.imaging.dce.kinetic_maps import fit_volume
from nanopinn.imaging.dce.models import extended_tofts
from nanopinn.imaging.dce.signal import (
    Concentration,
    baseline_sensitivity,
    estimate_concentration,
    select_enhancement_model,
    signal_from_concentration,
    spgr_signal,
)
from nanopinn.imaging.dce.tissue_concentration import frame_noise
from nanopinn.imaging.imaging_data import ImagingMaps
from nanopinn.imaging.registration import Coregistration
from nanopinn.parameters import value
from nanopinn.phantoms.scan_simulation import BOLUS_S, FLIP_DEG, S0, TR_S
from nanopinn.phantoms.truth import Anatomy, draw_anatomy
from nanopinn.physics.species import Species, find_species
from nanopinn.settings import PlanSettings
from nanopinn.solvers.grid import average_subcells
from nanopinn.studies.treatment_source import example_settings, stated_species

Array = NDArray[np.float64]

#: Cells of the anatomy per voxel edge, so that voxels at the border contain both tissues.
_CELLS_PER_VOXEL = 2
#: Size of the field of view over the diameter of the tumour, whose border is wavy.
_BOX_OVER_DIAMETER = 1.6
#: Fewest frames after the bolus; five parameters per voxel (Ktrans, ve, vp, delay, baseline) are
#: eliminated.
_MIN_FRAMES_AFTER_BOLUS = 10


@dataclass(frozen=True)
class _Tissue:
    """Voxel means ``(x, y, z)`` of an anatomy, and the tumour."""

    tumour: NDArray[np.bool_]
    PS: Array
    phi: Array
    v_p: Array
    pH: Array
    T1: Array


def simulate_planned_scan(settings: PlanSettings, rng: np.random.Generator) -> ImagingMaps:
    """The imaging maps of one idealised tumour under a protocol.

    Args:
        settings: of the protocol.
        rng: random numbers of the anatomy and the noise.

    Raises:
        InputError: the tumour is smaller than two voxels, the scan is too short, or the arterial
            input needs images.
    """
    species = stated_species(example_settings(settings)) or find_species("human")
    tissue, acquisition = _draw_tissue(settings, rng), _acquisition(settings, species)
    aif = _aif(settings.aif or species.arterial_input, acquisition)
    C, T1 = _simulate_concentration(tissue, acquisition, aif, settings, rng)
    t = acquisition.frame_times_s
    fitted = fit_volume(C, aif, t, model=extended_tofts.NAME)
    noise, notes = frame_noise(C, fitted, tissue.tumour)
    nothing, affine = np.full(tissue.tumour.shape, np.nan), np.diag([*settings.voxel_mm, 1.0])
    pH_std = np.where(
        tissue.tumour, float(np.hypot(settings.ph_noise, settings.ph_shared_noise)), np.nan
    )
    assumed = float(tissue.pH[tissue.tumour].mean())
    why = np.full(tissue.tumour.shape, 0 if settings.ph else int(Validity.OUTSIDE), dtype=np.int32)
    pH = tissue.pH if settings.ph else np.where(tissue.tumour, assumed, value("pHe_n"))
    return ImagingMaps(
        affine=affine,
        voxel_size_m=np.array(settings.voxel_mm) * 1e-3,
        mask=tissue.tumour,
        kinetics=fitted,
        t1_s=T1,
        t1_std_s=settings.t1_noise * T1,
        concentration_mM=C.mM,
        concentration_sd_mM=noise,
        baseline_sensitivity_mM=baseline_sensitivity(
            fitted.curves_mM, select_enhancement_model(T1, acquisition)
        ),
        frame_times_s=t,
        aif=aif,
        arterial_voxels=None,
        delay_s=0.0,
        motion=None,
        ph=pH if settings.ph else nothing,
        ph_std=pH_std if settings.ph else nothing,
        ph_filled=pH,
        ph_fill_value=assumed,
        ph_common_std=settings.ph_shared_noise if settings.ph else 0.0,
        ph_coverage=float(settings.ph),
        ph_validity=why,
        coregistration=Coregistration(tissue.T1, affine),
        assumptions=tuple(notes),
    )


def _draw_tissue(settings: PlanSettings, rng: np.random.Generator) -> _Tissue:
    too_small = [
        f"{d:g} mm" for d, h in zip(settings.tumour_mm, settings.voxel_mm, strict=True) if d < 2 * h
    ]
    if too_small:
        raise InputError(
            "the tumour is smaller than two voxels",
            field="tumour_mm",
            found=", ".join(too_small),
            expected=(
                "at least twice the voxel size"
                f" ({' x '.join(f'{h:g}' for h in settings.voxel_mm)} mm)"
            ),
            remedy="Plan smaller voxels; otherwise flow between voxels cannot be observed.",
        )
    n = [
        int(np.ceil(_BOX_OVER_DIAMETER * d / h))
        for d, h in zip(settings.tumour_mm, settings.voxel_mm, strict=True)
    ]
    h = settings.voxel_mm
    fine = draw_anatomy(
        (_CELLS_PER_VOXEL * n[0], _CELLS_PER_VOXEL * n[1], _CELLS_PER_VOXEL * n[2]),
        (h[0] / _CELLS_PER_VOXEL, h[1] / _CELLS_PER_VOXEL, h[2] / _CELLS_PER_VOXEL),
        rng,
        settings.tumour_mm,
    )
    return _average_to_voxels(fine)


def _average_to_voxels(fine: Anatomy) -> _Tissue:
    def mean(a: Array) -> Array:
        return average_subcells(torch.from_numpy(a), _CELLS_PER_VOXEL).numpy()

    tumour = mean(fine.tumour.astype(float)) > 0.5
    return _Tissue(
        tumour, mean(fine.PS), mean(fine.phi), mean(fine.v_p), mean(fine.pH), mean(fine.T1)
    )


def _acquisition(settings: PlanSettings, species: Species) -> DceAcquisition:
    t: Array = np.arange(settings.frames, dtype=np.float64) * settings.frame_spacing_s
    before = int(np.searchsorted(t, BOLUS_S, side="right"))
    if before < 2 or len(t) - before < _MIN_FRAMES_AFTER_BOLUS:
        raise InputError(
            "the series is too short or too slow",
            field="frames",
            found=f"{before} frames before the bolus at {BOLUS_S:g} s, {len(t) - before} after it",
            expected=f"2 or more before, {_MIN_FRAMES_AFTER_BOLUS} or more after",
            remedy=(
                "Five parameters of every voxel (Ktrans, ve, vp, delay, baseline) are eliminated"
                " from its curve."
            ),
        )
    return DceAcquisition(
        t,
        TR_S,
        FLIP_DEG,
        value("r1_Gd"),
        value(species.haematocrit),
        value("dose_Gd"),
        False,
        before,
        BOLUS_S,
        (),
    )


def _aif(spec: str, acquisition: DceAcquisition) -> PlasmaCurve:
    if is_measured_in_scan(spec):
        raise InputError(
            "an arterial input that is measured in the scan is not known before it",
            field="aif",
            found=spec,
            expected="a population curve or a file",
            remedy="Plan with the population curve of your subjects.",
        )
    return load_aif(
        spec,
        frame_times_s=acquisition.frame_times_s,
        bolus_arrival_s=BOLUS_S,
        hematocrit=acquisition.hematocrit,
        dose_mmol_per_kg=acquisition.dose_mmol_per_kg,
    ).curve


def _simulate_concentration(
    tissue: _Tissue,
    acquisition: DceAcquisition,
    aif: PlasmaCurve,
    settings: PlanSettings,
    rng: np.random.Generator,
) -> tuple[Concentration, Array]:
    """Noisy concentration in the tumour (NaN elsewhere) and native T1 as it would be measured."""
    inside, t = tissue.tumour, acquisition.frame_times_s
    parameters = torch.as_tensor(
        np.stack([tissue.PS[inside], tissue.phi[inside], tissue.v_p[inside]], axis=1)
    )
    curves = np.full((len(t), *inside.shape), np.nan)
    curves[:, inside] = evaluate(extended_tofts, parameters, InputCurve(aif, t))[0].T.numpy()
    base = spgr_signal(S0, tissue.T1, TR_S, FLIP_DEG)
    series = signal_from_concentration(
        curves, base, tissue.T1, TR_S, FLIP_DEG, acquisition.relaxivity
    )
    series = series + float(base[inside].mean()) / settings.snr * rng.standard_normal(series.shape)
    T1 = tissue.T1 * (1 + settings.t1_noise * rng.standard_normal(inside.shape))
    return (
        estimate_concentration(
            series, select_enhancement_model(T1, acquisition), acquisition, settings.t1_noise * T1
        ),
        T1,
    )
