"""What a study gives the imaging: its files, and the choices that may be made about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError
from nanopinn.imaging.cest.calibration import is_calibration_file
from nanopinn.imaging.cest.ph_scan import CestOptions, PhMethod
from nanopinn.imaging.cest.ratiometric import Contrast
from nanopinn.imaging.dce.aif import AIF_NAMES, list_aif_files
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.dce.signal import Relation
from nanopinn.imaging.dce.t1 import T1Source
from nanopinn.imaging.dce.t1_estimation import T1FitMethod
from nanopinn.imaging.registration import REGISTRATION_METHODS, RegistrationMethod
from nanopinn.io.dicom import list_scan_files
from nanopinn.io.nifti import Orientation

DELAY_MODES = ("tumour", "voxel")


@dataclass(frozen=True)
class ImagingInputs:
    """Files and choices of one study.

    Attributes:
        dce: 4-D series, or a folder with one. mask: tumour.
        cest: 3-D pH map, or 4-D Z-spectra. cest_pre: the same before injection. cest_power2: the
            same at another power, for agents with one frequency. cest_offsets: a table that wins
            over the sidecar. cest_b0: map of water's place, ppm. agent: name or TOML file.
            cest_contrast: ``rex`` or ``st``.
        ph_calibration: ``bloch``, a published line by name, or a TOML file. ph_method: ``ratio`` or
            ``spectrum``.
        register: how CEST, VFA, IR, T1 map and drug images are brought over the DCE scan: ``none``,
            ``rigid`` or ``affine``.
        vfa: one volume per flip angle. ir: one per inversion time. t1: seconds, or a T1 map.
            t1_method: of ``vfa``.
        b1: map of true over nominal flip angle. relation: of signal and concentration.
        aif: ``parker``, ``georgiou``, ``weinmann``, ``preclinical``, ``auto``, ``mask:FILE`` or a
            TSV/CSV file.
        aif_dispersion_s: mean transit time of a mixing chamber before the tissue. blood_t1_s:
            native T1 of blood for arterial inputs that are measured in the scan; None: tabulated.
        model: of :data:`MODELS`, or ``auto``. delay: ``tumour`` (one, fitted), ``voxel`` (each
            fitted) or s.
        smooth: voxels learn from their neighbours. motion: undo rigid motion of the series first.
        assume_ph: where no CEST was measured. overrides: keys of the sidecar that win over it.
        orientation: sform or qform where they disagree.
    """

    dce: str | Path
    cest: str | Path | None = None
    cest_pre: str | Path | None = None
    cest_power2: str | Path | None = None
    cest_offsets: str | Path | None = None
    cest_b0: str | Path | None = None
    agent: str = "iopamidol"
    cest_contrast: Contrast = "rex"
    ph_calibration: str = "bloch"
    ph_method: PhMethod = "ratio"
    register: RegistrationMethod = "none"
    mask: str | Path | None = None
    vfa: tuple[str | Path, ...] = ()
    ir: tuple[str | Path, ...] = ()
    t1: float | str | Path | None = None
    t1_method: T1FitMethod = "nonlinear"
    b1: str | Path | None = None
    relation: Relation = "spgr"
    aif: str = "parker"
    aif_dispersion_s: float = 0.0
    blood_t1_s: float | None = None
    model: str = "etofts"
    delay: str | float = "tumour"
    smooth: bool = False
    motion: bool = False
    assume_ph: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    orientation: Orientation | None = None

    def __post_init__(self) -> None:
        """Refuse choices that do not exist, before anything is read.

        Raises:
            InputError: which choice, and which there are.
        """
        _check_choice("--model", self.model, (*MODELS, "auto"))
        _check_choice("--relation", self.relation, ("spgr", "linear"))
        _check_choice("--cest-contrast", self.cest_contrast, ("rex", "st"))
        _check_choice("--ph-method", self.ph_method, ("ratio", "spectrum"))
        _check_choice("--t1-method", self.t1_method, ("nonlinear", "linear"))
        _check_choice("--register", self.register, REGISTRATION_METHODS)
        _check_choice("--orientation", self.orientation, ("sform", "qform", None))
        if isinstance(self.delay, str):
            _check_choice("--delay", self.delay, (*DELAY_MODES, "a number of s"))
        _check_range("--aif-dispersion", self.aif_dispersion_s, 0.0, 60.0)
        if self.blood_t1_s is not None:
            _check_range("--blood-t1", self.blood_t1_s, 0.5, 4.0)
        if self.smooth and self.delay == "voxel":
            raise InputError(
                "a fit cannot be smoothed and have a delay of every voxel",
                field="--smooth, --delay",
                found="both",
                expected="one",
                remedy="Leave one of the two out.",
            )

    @property
    def cest_options(self) -> CestOptions:
        """What was chosen about the CEST scan."""
        files = (self.cest_pre, self.cest_power2, self.cest_offsets, self.cest_b0)
        return CestOptions(
            *files, self.agent, self.cest_contrast, self.ph_calibration, self.ph_method
        )

    @property
    def t1_source(self) -> T1Source:
        """Where native T1 comes from."""
        return T1Source(tuple(self.vfa), tuple(self.ir), self.t1, self.t1_method)

    def to_config(self) -> dict[str, dict[str, Any]]:
        """What was chosen, without files, as tables for a configuration."""
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
        table |= (
            {}
            if is_calibration_file(self.ph_calibration)
            else {"ph_calibration": self.ph_calibration}
        )
        table |= {"aif": self.aif} if self.aif in AIF_NAMES else {}
        table |= {"t1": self.t1} if isinstance(self.t1, (int, float)) else {}
        return {"imaging": table, "imaging.overrides": dict(self.overrides)}

    def files(self) -> list[Path]:
        """Every file that is read."""
        given = [Path(f) for f in (self.cest, self.mask, self.b1) if f is not None]
        cest = [] if self.cest is None else self.cest_options.files()
        return [
            *list_scan_files(Path(self.dce)),
            *given,
            *cest,
            *self.t1_source.files(),
            *list_aif_files(self.aif),
        ]


def _check_choice(option: str, found: Any, allowed: tuple[Any, ...]) -> None:
    if found not in allowed:
        names = ", ".join(str(a) for a in allowed if a is not None)
        raise InputError(
            "this choice does not exist",
            field=option,
            found=found,
            expected=names,
            remedy="Give one of these.",
        )


def _check_range(option: str, seconds: float, low: float, high: float) -> None:
    if not low <= seconds <= high:
        raise InputError(
            "out of range",
            field=option,
            found=seconds,
            expected=f"{low:g} to {high:g} s",
            remedy="Check the unit.",
        )
