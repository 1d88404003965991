"""What the imaging of one study takes and gives.

:class:`ImagingInputs` holds the volumes, as files or arrays, and the choices;
:class:`ImagingMaps` holds the kinetic maps, pH and every assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.cest.calibration import is_calibration_file
from nanopinn.imaging.cest.ph_scan import CestOptions, PhMethod
from nanopinn.imaging.cest.ratiometric import Contrast
from nanopinn.imaging.dce.aif import AIF_NAMES, AifSource, ArterialVoxels, list_aif_files
from nanopinn.imaging.dce.impulse_response import KINETIC_QUANTITIES, KineticQuantity, PlasmaCurve
from nanopinn.imaging.dce.kinetic_maps import KineticMaps
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.dce.signal import Relation
from nanopinn.imaging.dce.t1 import T1Source
from nanopinn.imaging.dce.t1_estimation import T1FitMethod
from nanopinn.imaging.motion import MotionTrace
from nanopinn.imaging.registration import REGISTRATION_METHODS, Coregistration, RegistrationMethod
from nanopinn.imaging.voxel_status import INVALID, STATUS_TEXTS
from nanopinn.io.array_volume import (
    ArrayVolume,
    VolumeLike,
    as_file,
    as_json_value,
    as_volume_source,
)
from nanopinn.io.dicom import list_scan_files
from nanopinn.io.nifti import Orientation
from nanopinn.io.tables import Table, table_from_columns

DELAY_MODES = ("tumour", "voxel")
#: Arterial input where none is given and no species is stated.
DEFAULT_AIF = "parker"
#: Fields that hold one volume each.
_VOLUMES = ("cest", "cest_pre", "cest_power2", "cest_b0", "mask", "b1")


@dataclass(frozen=True)
class ImagingInputs:
    """Volumes of one study and the choices about them.

    A volume is a path; a NumPy array, torch tensor or monai MetaTensor, ``(x, y, z)`` or
    ``(t, x, y, z)``; a nibabel image; or a pair of one of these and a mapping with the keys of a
    sidecar (:data:`nanopinn.io.array_volume.VolumeLike`). Volumes in memory are held as
    :class:`nanopinn.io.array_volume.ArrayVolume`.

    Attributes:
        dce: 4-D series, or a folder with one; None for pH maps alone.
        cest: 3-D pH map, or 4-D Z-spectra.
        cest_pre: Z-spectra before injection.
        cest_power2: Z-spectra at another saturation power, for agents with one frequency.
        cest_offsets: table of saturation offsets that replaces those of the sidecar.
        cest_b0: map of the water resonance offset (B0 shift), ppm.
        agent: CEST agent by name, or a TOML file.
        cest_contrast: ``rex`` or ``st``.
        ph_calibration: ``bloch``, a published linear calibration by name, or a TOML file.
        ph_method: ``ratio`` or ``spectrum``.
        register: how CEST, VFA, IR, T1 map and drug images are registered to the DCE scan:
            ``none``, ``rigid`` or ``affine``.
        mask: tumour.
        vfa: variable-flip-angle set, one volume per flip angle.
        ir: inversion-recovery set, one volume per inversion time.
        t1: native T1, s, or a T1 map, s.
        t1_method: fit of ``vfa``, ``nonlinear`` or ``linear``.
        b1: map of true over nominal flip angle.
        relation: of signal and concentration, ``spgr`` or ``linear``.
        aif: ``parker``, ``georgiou``, ``weinmann``, ``preclinical``, ``auto``, ``mask:FILE``, a
            TSV/CSV file, a mapping of its columns, a :class:`PlasmaCurve`, or an arterial mask;
            None: ``parker``, or that of the species of a fit.
        aif_dispersion_s: mean transit time of a mixing chamber before the tissue, s.
        blood_t1_s: native T1 of blood for arterial inputs measured in the scan, s; None: tabulated.
        model: one of :data:`MODELS`, or ``auto``.
        delay: ``tumour`` (one, fitted), ``voxel`` (each fitted) or a number of s.
        smooth: fit with spatial regularisation (Markov random field prior).
        motion: correct rigid motion of the series first.
        assume_ph: pH of the tumour where no CEST scan was made.
        overrides: facts of the acquisition under the keys of the sidecar, which they replace.
        default_hematocrit: fraction where neither the sidecar nor ``overrides`` states one.
        drug: post-dose images of the drug beside those of the settings of a fit.
        orientation: ``sform`` or ``qform``, where they disagree.
        affine: ``(4, 4)`` to RAS mm, of arrays without one; those of the DCE series if absent.

    Raises:
        InputError: a choice does not exist, or a value is not a volume.
    """

    dce: VolumeLike = None
    cest: VolumeLike = None
    cest_pre: VolumeLike = None
    cest_power2: VolumeLike = None
    cest_offsets: str | Path | None = None
    cest_b0: VolumeLike = None
    agent: str = "iopamidol"
    cest_contrast: Contrast = "rex"
    ph_calibration: str = "bloch"
    ph_method: PhMethod = "ratio"
    register: RegistrationMethod = "none"
    mask: VolumeLike = None
    vfa: tuple[VolumeLike, ...] = ()
    ir: tuple[VolumeLike, ...] = ()
    t1: float | VolumeLike = None
    t1_method: T1FitMethod = "nonlinear"
    b1: VolumeLike = None
    relation: Relation = "spgr"
    aif: str | VolumeLike = None
    aif_dispersion_s: float = 0.0
    blood_t1_s: float | None = None
    model: str = "etofts"
    delay: str | float = "tumour"
    smooth: bool = False
    motion: bool = False
    assume_ph: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    default_hematocrit: float | None = None
    orientation: Orientation | None = None
    drug: tuple[VolumeLike, ...] = ()
    affine: InitVar[Any] = None

    def __post_init__(self, affine: Any) -> None:
        """Refuse choices that do not exist, before anything is read; hold arrays as volumes."""
        _check_choice("model", self.model, (*MODELS, "auto"))
        _check_choice("relation", self.relation, ("spgr", "linear"))
        _check_choice("cest_contrast", self.cest_contrast, ("rex", "st"))
        _check_choice("ph_method", self.ph_method, ("ratio", "spectrum"))
        _check_choice("t1_method", self.t1_method, ("nonlinear", "linear"))
        _check_choice("register", self.register, REGISTRATION_METHODS)
        _check_choice("orientation", self.orientation, ("sform", "qform", None))
        if isinstance(self.delay, str):
            _check_choice("delay", self.delay, (*DELAY_MODES, "a number of s"))
        _check_range("aif_dispersion_s", self.aif_dispersion_s, 0.0, 60.0)
        if self.blood_t1_s is not None:
            _check_range("blood_t1_s", self.blood_t1_s, 0.5, 4.0)
        if self.smooth and self.delay == "voxel":
            raise InputError(
                "spatial regularisation and a delay of every voxel exclude each other",
                field="smooth, delay",
                found="both",
                expected="one",
                remedy="Leave `smooth` out, or give another `delay`.",
            )
        self._hold_arrays(affine)

    def _hold_arrays(self, affine: Any) -> None:
        """Replace every value in memory by an :class:`ArrayVolume` or a table."""

        def hold(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        hold("overrides", {key: as_json_value(v) for key, v in self.overrides.items()})
        shape: tuple[int, ...] | None = None
        # arrays without an affine lie on the grid of the series, or else of the CEST scan
        first = "cest" if self.dce is None else "dce"
        if (given := getattr(self, first)) is not None:
            source = as_volume_source(given, first, affine=affine, orientation=self.orientation)
            hold(first, source)
            if isinstance(source, ArrayVolume):
                affine, shape = source.affine if affine is None else affine, source.values.shape[:3]

        def volume(given: VolumeLike, name: str) -> Any:
            return as_volume_source(
                given, name, affine=affine, shape=shape, orientation=self.orientation
            )

        for name in _VOLUMES:
            if getattr(self, name) is not None:
                hold(name, volume(getattr(self, name), name))
        for name in ("vfa", "ir", "drug"):
            given = getattr(self, name)
            hold(name, tuple(volume(v, f"{name}[{i}]") for i, v in enumerate(given)))
        if isinstance(self.t1, np.generic) or (hasattr(self.t1, "ndim") and self.t1.ndim == 0):
            hold("t1", float(self.t1))
        elif self.t1 is not None and not isinstance(self.t1, (int, float)):
            hold("t1", volume(self.t1, "t1"))
        if isinstance(self.aif, PlasmaCurve):
            columns = {"time_s": self.aif.times_s, "plasma_mM": self.aif.plasma_mM}
            hold("aif", table_from_columns(columns, "aif"))
        elif isinstance(self.aif, Mapping):
            hold("aif", table_from_columns(self.aif, "aif"))
        elif self.aif is not None and not isinstance(self.aif, (str, Table)):
            hold("aif", str(self.aif) if isinstance(self.aif, Path) else volume(self.aif, "aif"))

    @property
    def aif_source(self) -> AifSource:
        """Where the arterial input comes from."""
        found: AifSource = DEFAULT_AIF if self.aif is None else self.aif
        return found

    @property
    def cest_options(self) -> CestOptions:
        """Choices about the CEST scan."""
        files = (self.cest_pre, self.cest_power2, self.cest_offsets, self.cest_b0)
        return CestOptions(
            *files, self.agent, self.cest_contrast, self.ph_calibration, self.ph_method
        )

    @property
    def t1_source(self) -> T1Source:
        """Where native T1 comes from."""
        return T1Source(tuple(self.vfa), tuple(self.ir), self.t1, self.t1_method)

    def to_config(self) -> dict[str, dict[str, Any]]:
        """Choices, without files and arrays, as tables for a configuration."""
        dce = (
            "t1_method",
            "relation",
            "aif_dispersion_s",
            "blood_t1_s",
            "model",
            "delay",
            "smooth",
            "motion",
        )
        cest = ("assume_ph", "cest_contrast", "ph_method")
        names = (*dce, *cest, "register", "orientation")
        table = {n: getattr(self, n) for n in names}
        if not is_calibration_file(self.ph_calibration):
            table["ph_calibration"] = self.ph_calibration
        if isinstance(self.aif, str) and self.aif in AIF_NAMES:
            table["aif"] = self.aif
        if isinstance(self.t1, (int, float)):
            table["t1"] = self.t1
        return {"imaging": table, "imaging.overrides": dict(self.overrides)}

    def files(self) -> list[Path | ArrayVolume | Table]:
        """Every file that the imaging reads, and every volume and table in memory."""
        given = [as_file(f) for f in (self.cest, self.mask, self.b1) if f is not None]
        cest = [] if self.cest is None else self.cest_options.files()
        if self.dce is None:
            return [*given, *cest]
        return [
            *list_scan_files(self.dce),
            *given,
            *cest,
            *self.t1_source.files(),
            *list_aif_files(self.aif_source),
        ]


def _check_choice(name: str, found: Any, allowed: tuple[Any, ...]) -> None:
    if found not in allowed:
        names = ", ".join(str(a) for a in allowed if a is not None)
        raise InputError(
            "this choice does not exist",
            field=name,
            found=found,
            expected=names,
            remedy="Give one of these.",
        )


def _check_range(name: str, seconds: float, low: float, high: float) -> None:
    if not low <= seconds <= high:
        raise InputError(
            "out of range",
            field=name,
            found=seconds,
            expected=f"{low:g} to {high:g} s",
            remedy="Check the unit.",
        )


Array = NDArray[np.float64]


@dataclass(frozen=True)
class ImagingMaps:
    """Maps of one study on the DCE grid, ``(x, y, z)``, NaN where unknown.

    Without a DCE series they are on the grid of the CEST scan, there are no kinetic parameters, and
    the curves have no times.

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

    @property
    def has_dce(self) -> bool:
        """Whether there is a DCE series."""
        return len(self.frame_times_s) > 0

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
        """Bits of :class:`nanopinn.imaging.voxel_status.Status`."""
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
    return [(KINETIC_QUANTITIES[n], np.asarray(m)) for n, m in imaging.kinetics.values.items()]


def format_imaging_summary(imaging: ImagingMaps) -> str:
    """Medians over the tumour as text of two lines, or three with kinetic maps."""

    def median(values: Array) -> str:
        return f"{tumour_median(imaging, values):.3g}"

    ph = f"pH: measured in {imaging.ph_coverage:.0%} of the tumour"
    if np.isfinite(imaging.ph[imaging.mask]).any():
        ph += f", median {median(imaging.ph)}"
    if not imaging.has_dce:
        return f"tumour: {int(imaging.mask.sum())} voxels\n{ph}"
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
            ph,
        ]
    )


def status_counts(imaging: ImagingMaps) -> list[tuple[str, int]]:
    """Status flags of the tumour's voxels in words, each with its number of voxels."""
    inside = imaging.status[imaging.mask]
    counts = [(words, int(((inside & int(bit)) != 0).sum())) for bit, words in STATUS_TEXTS.items()]
    return [(words, n) for words, n in counts if n]
