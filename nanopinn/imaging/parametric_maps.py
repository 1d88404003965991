"""What the imaging of one study says: kinetic maps, pH and everything assumed on the way."""

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
    """What the images say; maps ``(x, y, z)`` on the DCE grid, NaN where nothing is known.

    Attributes:
        affine: ``(4, 4)`` RAS mm. voxel_size_m: ``(3,)``. mask: the tumour.
        kinetics: every kinetic parameter with its standard deviation, and how each voxel's fit
            went.
        t1_s, t1_std_s: NaN where not known.
        concentration_mM: ``(t, x, y, z)``; concentration_sd_mM: ``(x, y, z)``, noise of one frame.
        baseline_sensitivity_mM: ``(t, x, y, z)``, what a relative error of the signal before
            contrast does to the fitted curves.
        frame_times_s; aif: in plasma, as it reaches the tumour; arterial_voxels: where it was
        measured, if it was.
        delay_s: fitted or given, already in ``aif``. motion: of the series, if it was looked for.
        ph, ph_std: NaN outside the slab; ph_filled: for the physics; ph_fill_value; ph_coverage of
            the tumour.
        ph_common_std: part of ph_std that all voxels share. ph_validity: bits of
            :class:`nanopinn.imaging.cest.ph_map.Validity`.
        onto: how scans that are read later (drug images) come to lie on this one. assumptions: one
            sentence each.
        file_hashes: files and arrays by name with their SHA-256.
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

    def median(self, values: Array) -> float:
        """Median of a map over the tumour, NaN where it is known nowhere."""
        inside = values[self.mask]
        return float(np.nanmedian(inside)) if np.isfinite(inside).any() else float("nan")

    def summary(self) -> str:
        """Medians over the tumour, in words."""
        found = ", ".join(
            f"{q.name} {self.median(m):.3g}{'' if q.unit == '1' else ' ' + q.unit}"
            for q, m in self.quantities()
        )
        return "\n".join(
            [
                (
                    f"tumour: {int(self.mask.sum())} voxels, {self.valid_fraction:.1%} with a valid"
                    f" kinetic fit ({self.kinetics.model})"
                ),
                (
                    f"median T1 {self.median(self.t1_s):.3g} s, {found}, R2"
                    f" {self.median(self.kinetics.r2):.3f}"
                ),
                f"pH: measured in {self.ph_coverage:.0%} of the tumour",
            ]
        )

    def quantities(self) -> list[tuple[KineticQuantity, Array]]:
        """Every kinetic quantity that the model has, with its map."""
        return [(QUANTITIES[n], np.asarray(m)) for n, m in self.kinetics.values.items()]


def status_counts(imaging: ImagingMaps) -> list[tuple[str, int]]:
    """What is to be said against tumour voxels, in words, and of how many."""
    inside = imaging.status[imaging.mask]
    counts = [(words, int(((inside & int(bit)) != 0).sum())) for bit, words in STATUS_TEXTS.items()]
    return [(words, n) for words, n in counts if n]
