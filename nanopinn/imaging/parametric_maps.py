"""Result of the imaging of one study: kinetic maps, pH, and every assumption; and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nanopinn.imaging.dce.aif import ArterialVoxels
from nanopinn.imaging.dce.impulse_response import QUANTITIES, KineticQuantity
from nanopinn.imaging.dce.kinetic_maps import KineticMaps
from nanopinn.imaging.dce.plasma_curve import PlasmaCurve
from nanopinn.imaging.motion import MotionTrace
from nanopinn.imaging.registration import Coregistration
from nanopinn.imaging.voxel_status import INVALID, STATUS_TEXTS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ImagingMaps:
    """Maps of one study on the DCE grid, ``(x, y, z)``, NaN where unknown.

    Attributes:
        affine: ``(4, 4)`` RAS mm.
        voxel_size_m: ``(3,)``, m.
        mask: tumour.
        kinetics: kinetic parameters with their standard deviations and the status of every fit.
        t1_s: native T1, s.
        t1_std_s: its standard deviation, s.
        concentration_mM: contrast agent, ``(t, x, y, z)``, mM.
        concentration_sd_mM: noise of one frame, mM.
        baseline_sensitivity_mM: change of the fitted curves per relative error of the baseline
            signal, ``(t, x, y, z)``, mM.
        frame_times_s: ``(t,)``, s.
        aif: plasma curve at the tumour's arrival.
        arterial_voxels: where it was measured; None where it was not measured in this scan.
        delay_s: fitted or given delay, s, already in ``aif``.
        motion: of the series; None where it was not corrected.
        ph: extracellular pH, NaN outside the scanned slab.
        ph_std: its standard deviation.
        ph_filled: pH without holes, for the physics.
        ph_fill_value: pH of tumour voxels that were not measured.
        ph_common_std: part of ``ph_std`` that all voxels share.
        ph_coverage: measured share of the tumour.
        ph_validity: bits of :class:`nanopinn.imaging.cest.ph_map.Validity`.
        coregistration: registers scans that are read later (drug images) to the DCE scan.
        assumptions: one sentence each.
        file_hashes: SHA-256 of files and arrays by name.
    """

    affine: Array
    voxel_size_m: Array
    mask: NDArray[np.bool_]
    kinetics: KineticMaps
    t1_s: Array
    t1_std_s: Array
    concentration_mM: Array
    concentration_sd_mM: Array
    baseline_sensitivity_mM: Array
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
    coregistration: Coregistration
    assumptions: tuple[str, ...]
    file_hashes: Mapping[str, str] = field(default_factory=dict)

    def _kinetic_map(self, name: str, kind: str = "values") -> Array:
        found = getattr(self.kinetics, kind).get(name)
        return np.full(self.mask.shape, np.nan) if found is None else np.asarray(found)

    @property
    def ktrans_per_min(self) -> Array:
        """Ktrans, 1/min."""
        return self._kinetic_map("Ktrans")

    @property
    def ktrans_std(self) -> Array:
        """Standard deviation of Ktrans, 1/min."""
        return self._kinetic_map("Ktrans", "std")

    @property
    def ve(self) -> Array:
        """Extravascular extracellular volume fraction; NaN everywhere if the model has none."""
        return self._kinetic_map("ve")

    @property
    def ve_std(self) -> Array:
        """Standard deviation of ve."""
        return self._kinetic_map("ve", "std")

    @property
    def vp(self) -> Array:
        """Plasma volume fraction; NaN everywhere if the model has none."""
        return self._kinetic_map("vp")

    @property
    def vp_std(self) -> Array:
        """Standard deviation of vp."""
        return self._kinetic_map("vp", "std")

    @property
    def status(self) -> NDArray[np.int32]:
        """Bits of :class:`Status`."""
        return self.kinetics.status

    @property
    def valid_fraction(self) -> float:
        """Share of tumour voxels with a valid kinetic fit."""
        return float(((self.status[self.mask] & int(INVALID)) == 0).mean())


def tumour_median(imaging: ImagingMaps, values: Array) -> float:
    """Median of a map over the tumour, NaN where it is known nowhere."""
    inside = values[imaging.mask]
    return float(np.nanmedian(inside)) if np.isfinite(inside).any() else float("nan")


def kinetic_quantities(imaging: ImagingMaps) -> list[tuple[KineticQuantity, Array]]:
    """Every kinetic quantity of the model, with its map."""
    return [(QUANTITIES[n], np.asarray(m)) for n, m in imaging.kinetics.values.items()]


def format_imaging_summary(imaging: ImagingMaps) -> str:
    """Medians over the tumour as text of three lines."""

    def median(values: Array) -> str:
        return f"{tumour_median(imaging, values):.3g}"

    found = ", ".join(
        f"{q.name} {median(m)}{'' if q.unit == '1' else ' ' + q.unit}"
        for q, m in kinetic_quantities(imaging)
    )
    return "\n".join(
        [
            (
                f"tumour: {int(imaging.mask.sum())} voxels, {imaging.valid_fraction:.1%} with a"
                f" valid kinetic fit ({imaging.kinetics.model})"
            ),
            (
                f"median T1 {median(imaging.t1_s)} s, {found}, R2"
                f" {tumour_median(imaging, imaging.kinetics.r2):.3f}"
            ),
            f"pH: measured in {imaging.ph_coverage:.0%} of the tumour",
        ]
    )


def status_counts(imaging: ImagingMaps) -> list[tuple[str, int]]:
    """Status flags of the tumour's voxels in words, each with its number of voxels."""
    inside = imaging.status[imaging.mask]
    counts = [(words, int(((inside & int(bit)) != 0).sum())) for bit, words in STATUS_TEXTS.items()]
    return [(words, n) for words, n in counts if n]
