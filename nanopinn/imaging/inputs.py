"""Inputs of the imaging of one study: volumes, as files or arrays, and choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.errors import InputError
from nanopinn.imaging.cest.calibration import is_calibration_file
from nanopinn.imaging.cest.ph_scan import CestOptions, PhMethod
from nanopinn.imaging.cest.ratiometric import Contrast
from nanopinn.imaging.dce.aif import AIF_NAMES, AifSource, list_aif_files
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.dce.plasma_curve import PlasmaCurve
from nanopinn.imaging.dce.signal import Relation
from nanopinn.imaging.dce.t1 import T1Source
from nanopinn.imaging.dce.t1_estimation import T1FitMethod
from nanopinn.imaging.registration import REGISTRATION_METHODS, RegistrationMethod
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
        dce: 4-D series, or a folder with one.
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
            TSV/CSV file, a mapping of its columns, a :class:`PlasmaCurve`, or an arterial mask.
        aif_dispersion_s: mean transit time of a mixing chamber before the tissue, s.
        blood_t1_s: native T1 of blood for arterial inputs measured in the scan, s; None: tabulated.
        model: one of :data:`MODELS`, or ``auto``.
        delay: ``tumour`` (one, fitted), ``voxel`` (each fitted) or a number of s.
        smooth: fit with spatial regularisation (Markov random field prior).
        motion: correct rigid motion of the series first.
        assume_ph: pH of the tumour where no CEST scan was made.
        overrides: facts of the acquisition under the keys of the sidecar, which they replace.
        drug: post-dose images of the drug beside those of the settings of a fit.
        orientation: ``sform`` or ``qform``, where they disagree.
        affine: ``(4, 4)`` to RAS mm, of arrays that bring none; those of the DCE series if absent.

    Raises:
        InputError: a choice does not exist, or a value is not a volume.
    """

    dce: VolumeLike
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
    aif: str | VolumeLike = "parker"
    aif_dispersion_s: float = 0.0
    blood_t1_s: float | None = None
    model: str = "etofts"
    delay: str | float = "tumour"
    smooth: bool = False
    motion: bool = False
    assume_ph: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
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
        dce = as_volume_source(self.dce, "dce", affine=affine, orientation=self.orientation)
        hold("dce", dce)
        shape: tuple[int, ...] | None = None
        if isinstance(dce, ArrayVolume):
            affine, shape = dce.affine if affine is None else affine, dce.values.shape[:3]

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
        elif not isinstance(self.aif, (str, Table)):
            hold("aif", str(self.aif) if isinstance(self.aif, Path) else volume(self.aif, "aif"))

    @property
    def aif_source(self) -> AifSource:
        """Where the arterial input comes from."""
        found: AifSource = self.aif
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
