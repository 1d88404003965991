"""The imaging of one study: from files to kinetic maps, pH and everything assumed on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.aif.artery import ArterialVoxels
from nanopinn.imaging.aif.curve import PlasmaCurve
from nanopinn.imaging.aif.population import POPULATIONS
from nanopinn.imaging.aif.source import ArterialInput, load_aif, needs_images
from nanopinn.imaging.bolus import bolus_arrival
from nanopinn.imaging.concentration import Concentration, baseline_effect, concentration_of, conversion, ready_concentration
from nanopinn.imaging.inputs import ImagingInputs
from nanopinn.imaging.kinetics.delay import DELAY_WINDOW_S, best_delay
from nanopinn.imaging.kinetics.models import MODELS
from nanopinn.imaging.kinetics.quantities import QUANTITIES, Quantity
from nanopinn.imaging.kinetics.volume import KineticMaps, fit_volume
from nanopinn.imaging.mask import automatic_mask, load_mask
from nanopinn.imaging.motion import MotionTrace
from nanopinn.imaging.ph import PhMap, assumed_ph, load_ph
from nanopinn.imaging.placement import Placement
from nanopinn.imaging.series import Series, read_series
from nanopinn.imaging.status import INVALID
from nanopinn.imaging.t1.b1 import B1Map, load_b1
from nanopinn.imaging.t1.native import NativeT1, native_t1
from nanopinn.parameters import value
from nanopinn.progress import Progress, silent

Array = NDArray[np.float64]

#: Fits that leave less than this times the baseline's noise leave no more than its estimate allows.
_EXCESS_NOTED = 1.1


@dataclass(frozen=True)
class ImagingMaps:
    """What the images say; maps ``(x, y, z)`` on the DCE grid, NaN where nothing is known.

    Attributes:
        affine: ``(4, 4)`` RAS mm. voxel_size_m: ``(3,)``. mask: the tumour.
        kinetics: every kinetic parameter with its standard deviation, and how each voxel's fit went.
        t1_s, t1_std_s: NaN where not known.
        concentration_mM: ``(t, x, y, z)``; concentration_sd_mM: ``(x, y, z)``, noise of one frame.
        baseline_effect_mM: ``(t, x, y, z)``, what a relative error of the signal before contrast does to the fitted curves.
        frame_times_s; aif: in plasma, as it reaches the tumour; arterial_voxels: where it was measured, if it was.
        delay_s: fitted or given, already in ``aif``. motion: of the series, if it was looked for.
        ph, ph_std: NaN outside the slab; ph_filled: for the physics; ph_fill_value; ph_coverage of the tumour.
        ph_common_std: part of ph_std that all voxels share. ph_validity: bits of :class:`nanopinn.imaging.cest.ph_map.Validity`.
        onto: how scans that are read later (drug images) come to lie on this one. assumptions: one sentence each.
    """

    affine: Array
    voxel_size_m: Array
    mask: NDArray[np.bool_]
    kinetics: KineticMaps
    t1_s: Array
    t1_std_s: Array
    concentration_mM: Array
    concentration_sd_mM: Array
    baseline_effect_mM: Array
    frame_times_s: Array
    aif: PlasmaCurve
    arterial_voxels: ArterialVoxels | None
    delay_s: float
    motion: MotionTrace | None
    ph: Array
    ph_std: Array
    ph_filled: Array
    ph_fill_value: float
    ph_common_std: float
    ph_coverage: float
    ph_validity: NDArray[np.int32]
    onto: Placement
    assumptions: tuple[str, ...]

    def _of(self, name: str, kind: str = "values") -> Array:
        found = getattr(self.kinetics, kind).get(name)
        return np.full(self.mask.shape, np.nan) if found is None else np.asarray(found)

    @property
    def ktrans_per_min(self) -> Array:
        """Ktrans, 1/min."""
        return self._of("Ktrans")

    @property
    def ktrans_std(self) -> Array:
        """Standard deviation of Ktrans, 1/min."""
        return self._of("Ktrans", "std")

    @property
    def ve(self) -> Array:
        """Extravascular extracellular volume fraction; NaN everywhere if the model has none."""
        return self._of("ve")

    @property
    def ve_std(self) -> Array:
        """Standard deviation of ve."""
        return self._of("ve", "std")

    @property
    def vp(self) -> Array:
        """Plasma volume fraction; NaN everywhere if the model has none."""
        return self._of("vp")

    @property
    def vp_std(self) -> Array:
        """Standard deviation of vp."""
        return self._of("vp", "std")

    @property
    def status(self) -> NDArray[np.int32]:
        """Bits of :class:`Status`."""
        return self.kinetics.status

    @property
    def valid_share(self) -> float:
        """Share of tumour voxels with a valid kinetic fit."""
        return float(((self.status[self.mask] & int(INVALID)) == 0).mean())

    def median(self, values: Array) -> float:
        """Median of a map over the tumour, NaN where it is known nowhere."""
        inside = values[self.mask]
        return float(np.nanmedian(inside)) if np.isfinite(inside).any() else float("nan")

    def summary(self) -> str:
        """Medians over the tumour, in words."""
        found = ", ".join(f"{q.name} {self.median(m):.3g}{'' if q.unit == '1' else ' ' + q.unit}" for q, m in self.quantities())
        return "\n".join(
            [
                f"tumour: {int(self.mask.sum())} voxels, {self.valid_share:.1%} with a valid kinetic fit ({self.kinetics.model})",
                f"median T1 {self.median(self.t1_s):.3g} s, {found}, R2 {self.median(self.kinetics.r2):.3f}",
                f"pH: measured in {self.ph_coverage:.0%} of the tumour",
            ]
        )

    def quantities(self) -> list[tuple[Quantity, Array]]:
        """Every kinetic quantity that the model has, with its map."""
        return [(QUANTITIES[n], np.asarray(m)) for n, m in self.kinetics.values.items()]


def make_maps(inputs: ImagingInputs, *, progress: Progress = silent, device: str = "cpu", need_ph: bool = True) -> ImagingMaps:
    """Turn files into maps.

    Args:
        need_ph: refuse a study without a pH, measured or assumed; else its pH stays NaN.
        progress: called as ``progress(stage, share done in 0..1, numbers)``.
        device: where the kinetics are fitted.

    Raises:
        InputError: something given cannot be used, or something needed is missing.
    """
    progress("reading", 0.0, {})
    series = read_series(inputs, lambda done: progress("motion", done, {}))
    t, B1 = series.acquisition.frame_times_s, None if inputs.b1 is None else load_b1(inputs.b1, inputs.orientation)
    onto = Placement(series.anatomy, series.affine, inputs.register)
    T1 = _native_t1(inputs, series, B1, onto)
    C = _concentration(inputs, series, T1.T1_s, T1.std_s, B1)
    mask, mask_notes = _tumour(inputs, C, t, series.affine)
    ph = _ph(inputs, series, mask, B1, onto, need_ph)
    progress("arterial input", 0.1, {})
    curves = _tumour_curves(inputs, C, mask)
    given, arrival_notes = _arterial_input(inputs, series, C, B1, curves)
    aif, delay, delay_notes = _arrived(inputs, given.curve, curves, t)
    fitted = fit_volume(
        C, aif, t, model=inputs.model, delay_window_s=DELAY_WINDOW_S if inputs.delay == "voxel" else None,
        smooth=inputs.smooth, device=device, progress=lambda done: progress("kinetics", 0.2 + 0.8 * done, {}),
    )  # fmt: skip
    noise, noise_notes = _noise(C, fitted, mask)
    nothing = np.full(series.shape, np.nan)
    return ImagingMaps(
        affine=series.affine, voxel_size_m=series.voxel_mm * 1e-3, mask=mask, kinetics=fitted,
        t1_s=T1.T1_s, t1_std_s=nothing if T1.std_s is None else T1.std_s,
        concentration_mM=C.mM, concentration_sd_mM=noise, baseline_effect_mM=_baseline_effect(inputs, series, T1.T1_s, B1, fitted),
        frame_times_s=t, aif=aif, arterial_voxels=given.voxels, delay_s=delay, motion=series.motion, ph=ph.measured,
        ph_std=ph.std, ph_filled=ph.filled, ph_fill_value=ph.fill_value, ph_common_std=ph.common_std,
        ph_coverage=ph.coverage, ph_validity=ph.validity,
        onto=onto,
        assumptions=(
            *series.assumptions, *([B1.note] if B1 is not None else []), *T1.assumptions, *_choices(inputs), *mask_notes,
            *arrival_notes, *given.assumptions, *delay_notes, *noise_notes, *ph.assumptions,
        ),
    )  # fmt: skip


def _native_t1(inputs: ImagingInputs, series: Series, B1: B1Map | None, onto: Placement) -> NativeT1:
    """Native T1; not asked for where the series holds concentration already."""
    given = inputs.native_t1
    if series.acquisition.is_concentration and not given.files() and given.t1 is None:
        return NativeT1(np.full(series.shape, np.nan), None, ())
    return native_t1(given, series.shape, series.affine, B1=B1, orientation=inputs.orientation, onto=onto)


def _concentration(inputs: ImagingInputs, series: Series, T1_s: Array, T1_std: Array | None, B1: B1Map | None) -> Concentration:
    if series.acquisition.is_concentration:
        return ready_concentration(series.values, series.acquisition)
    angles = 1.0 if B1 is None else B1.on(series.shape, series.affine)
    rule = conversion(T1_s, series.acquisition, relation=inputs.relation, B1=angles)
    return concentration_of(series.values, rule, series.acquisition, T1_std)


def _baseline_effect(inputs: ImagingInputs, series: Series, T1_s: Array, B1: B1Map | None, fitted: KineticMaps) -> Array:
    if series.acquisition.is_concentration:
        return np.zeros_like(fitted.curves_mM)
    angles = 1.0 if B1 is None else B1.on(series.shape, series.affine)
    return baseline_effect(fitted.curves_mM, conversion(T1_s, series.acquisition, relation=inputs.relation, B1=angles))


def _choices(inputs: ImagingInputs) -> list[str]:
    """What was chosen beside the defaults."""
    said = []
    if inputs.relation == "linear":
        said.append("Concentration is taken as proportional to the relative enhancement, which saturates: high values come out low.")
    if inputs.smooth:
        said.append("Kinetic maps are smoothed as far as neighbours are alike; standard deviations are those given the neighbours.")
    if inputs.model == "auto":
        said.append("Each voxel carries the model with the least AICc; parameters that its model lacks are NaN there.")
    return said


def _tumour(inputs: ImagingInputs, C: Concentration, t: Array, affine: Array) -> tuple[NDArray[np.bool_], list[str]]:
    if inputs.mask is not None:
        return load_mask(inputs.mask, (C.mM.shape[1], C.mM.shape[2], C.mM.shape[3]), affine, inputs.orientation), []
    mask = automatic_mask(C.mM, t)
    return mask, [
        "No mask was given: the tumour is the largest region whose area under the concentration curve exceeds "
        f"Otsu's threshold ({int(mask.sum())} voxels)."
    ]


def _tumour_curves(inputs: ImagingInputs, C: Concentration, mask: NDArray[np.bool_]) -> Array:
    """Finite curves of the tumour, ``(t, n)``."""
    curves = C.mM[:, mask]
    curves = curves[:, np.isfinite(curves).all(axis=0)]
    if curves.shape[1] == 0:
        raise InputError(
            "no tumour voxel has a finite concentration curve", file=inputs.dce, field="values",
            found=f"0 of {int(mask.sum())} voxels", expected="a signal that the sequence can give",
            remedy="Check the mask, the T1 and the acquisition: the signal may be saturated.",
        )  # fmt: skip
    return np.asarray(curves)


def _arterial_input(
    inputs: ImagingInputs, series: Series, C: Concentration, B1: B1Map | None, curves: Array
) -> tuple[ArterialInput, list[str]]:  # fmt: skip
    """Plasma curve on the clock of the scan, and what was assumed of its arrival."""
    acquisition, notes, blood = series.acquisition, list[str](), None
    t, arrival = acquisition.frame_times_s, acquisition.bolus_arrival_s
    if arrival is None:
        arrival = bolus_arrival(np.median(curves, axis=1), t, C.baseline[1])
        if inputs.aif in POPULATIONS:
            notes.append(f"Bolus arrival was detected at {arrival:.1f} s.")
    if needs_images(inputs.aif):
        blood = C
        if not acquisition.is_concentration:
            T1 = value("T10_b") if inputs.blood_t1_s is None else inputs.blood_t1_s
            blood = _concentration(inputs, series, np.full(series.shape, T1), None, B1)
            notes.append(f"Native T1 of blood is taken as {T1:g} s.")
    found = load_aif(
        inputs.aif, frame_times_s=t, bolus_arrival_s=arrival, hematocrit=acquisition.hematocrit,
        dose_mmol_per_kg=acquisition.dose_mmol_per_kg, blood=blood, affine=series.affine,
    )  # fmt: skip
    return found, notes


def _arrived(inputs: ImagingInputs, aif: PlasmaCurve, curves: Array, t: Array) -> tuple[PlasmaCurve, float, list[str]]:
    """The curve as it reaches the tumour: dispersed and delayed."""
    notes = []
    if inputs.aif_dispersion_s > 0:
        aif = aif.dispersed(inputs.aif_dispersion_s)
        notes.append(f"The arterial input is dispersed by a mixing time of {inputs.aif_dispersion_s:g} s on its way.")
    if not isinstance(inputs.delay, str):
        notes.append(f"The tumour's arrival delay was given: {inputs.delay:+g} s.")
        return aif.delayed(float(inputs.delay)), float(inputs.delay), notes
    delay = best_delay(MODELS[inputs.model if inputs.model != "auto" else "etofts"], aif, curves, t)
    more = "; each voxel's own is fitted around it" if inputs.delay == "voxel" else ""
    notes.append(f"One arrival delay was fitted for the tumour: {delay:+.1f} s{more}.")
    if abs(delay) > 0.95 * DELAY_WINDOW_S:
        notes.append("That delay is at the edge of what is sought: check the bolus arrival and the frame times.")
    return aif.delayed(delay), delay, notes


def _ph(inputs: ImagingInputs, series: Series, mask: NDArray[np.bool_], B1: B1Map | None, onto: Placement, needed: bool) -> PhMap:
    if inputs.cest is not None:
        chosen, orientation = inputs.cest_choices, inputs.orientation
        return load_ph(inputs.cest, series.affine, mask, chosen=chosen, B1=B1, orientation=orientation, onto=onto)
    if inputs.assume_ph is None and not needed:
        return PhMap.nowhere(np.full(series.shape, np.nan), float("nan"), "No pH was given: there is no pH map.")
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
    if not known.any():
        return C.noise_sd_mM, ["No tumour voxel enhances, or none could be fitted: check the mask and the bolus; status says why."]
    excess = float(np.sqrt((left[known] ** 2).sum() / (noise[known] ** 2).sum()))
    if excess < _EXCESS_NOTED:
        return C.noise_sd_mM, []
    return C.noise_sd_mM * excess, [
        f"Kinetic fits leave {excess:.1f} times the noise before contrast; the noise was taken as that large, "
        "so what the model cannot describe counts as noise."
    ]
