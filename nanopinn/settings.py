"""What a run may be told beside its input files; every run dumps these, and they can be read back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class FitSettings(BaseModel):
    """Settings of one fit.

    ``drug`` holds the paths of post-dose volumes; each has a sidecar with ``TimeAfterDose`` (s),
    ``Quantity`` (encapsulated, released, free or total), ``NoiseSD`` and ``Units``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: Literal["auto", "fv", "krylov", "pinn"] = Field(
        default="auto",
        description=(
            "auto (fv), fv, or krylov (polished by fv, with the distance of the two); pinn runs"
            " krylov"
        ),
    )
    preset: Literal["fast", "default", "accurate"] = "default"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    formulation: Literal["ph"] = "ph"
    drug: tuple[str, ...] = ()
    field: tuple[str, ...] = Field(
        default=(), description="unknown fields of space, NAME[:bumps|neural]"
    )
    inflow: bool = Field(
        default=False,
        description=(
            "the tumour goes on beyond the faces of the image that cut it, with unknown flow there"
        ),
    )
    model_error: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="prior sd of the equations' error over their fluxes; 0: they are exact",
    )
    release_law: bool = Field(
        default=False, description="let the release law's steepness vary along pH"
    )
    release_in_time: tuple[float, ...] | None = Field(
        default=None,
        description=(
            "hours after the dose at which the release rate may jump; constant between them"
        ),
    )
    starts: int = Field(
        default=1,
        ge=1,
        le=100,
        description="descents of fv; all but the first begin at draws of the prior",
    )
    noise: Literal["given", "estimated"] = Field(
        default="given", description="whether what a fit leaves over may correct the stated noise"
    )
    aif_sd: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="sd of ln of the arterial input's scale, an unknown then; 0 trusts it",
    )
    profile: tuple[str, ...] = Field(
        default=(), description="unknowns whose profile likelihood is worked out"
    )

    @field_validator("release_in_time", mode="before")
    @classmethod
    def _split_hours(cls, given: object) -> object:
        """Hours as the command line has them, ``6,24``."""
        return tuple(h for h in given.split(",") if h.strip()) if isinstance(given, str) else given


class PhantomSettings(BaseModel):
    """Settings of one synthetic study."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    shape: tuple[int, int, int] = (24, 24, 12)
    voxel_mm: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tumour_mm: tuple[float, float, float] | None = Field(
        default=None, description="diameters; 54 to 60 % of the field of view when not given"
    )
    frames: int = Field(default=60, ge=10)
    frame_spacing_s: float = Field(default=10.0, gt=0)
    snr: float = Field(
        default=60.0, gt=0, description="baseline signal over noise sd, per voxel and frame"
    )
    ph_noise: float = Field(default=0.1, ge=0)
    length_scale_mm: float | None = Field(
        default=None, gt=0, description="l; drawn from its prior when not given"
    )
    drug_times_h: tuple[float, ...] = (2.0, 24.0)
    drug_noise: float = Field(
        default=0.05, ge=0, description="noise sd over the largest value of each drug image"
    )
    refine: int = Field(
        default=3, ge=2, le=4, description="how much finer than the voxels the truth is solved"
    )
    conductivity_sd: float = Field(
        default=0.0, ge=0, description="spread of ln K over the tumour, smooth over 1.5 mm"
    )
    release_sd: float = Field(
        default=0.0,
        ge=0,
        description="spread of the ln of the release rate beside its law of pH, smooth over 1.5 mm",
    )
    pore_error: float = Field(
        default=0.0,
        gt=-0.5,
        lt=0.5,
        description="contrast agent fills so much more than the pores that carry drug",
    )
    factors: dict[Literal["p_e", "Lp", "K", "P", "SV"], Annotated[float, Field(gt=0)]] = Field(
        default={},
        description=(
            "on the tumour's properties, as after radiation; the noise is then another than without"
        ),
    )
    cut_voxels: int = Field(
        default=0,
        ge=0,
        description=(
            "voxels by which the field of view ends early along x, through the tumour if many"
        ),
    )

    @model_validator(mode="after")
    def _require_tumour_in_field_of_view(self) -> PhantomSettings:
        if self.tumour_mm is not None and any(
            not 0 < d <= 0.8 * n * h
            for d, n, h in zip(self.tumour_mm, self.shape, self.voxel_mm, strict=True)
        ):
            raise ValueError(
                "the tumour's diameters are positive and up to 80 % of the field of view, so that"
                " its waves fit in"
            )
        return self


class SimulationSettings(BaseModel):
    """Settings of one forward run; ``tolerance`` is the error a time step may make in a pool, over
    the pool's largest mass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-4
    refine: Annotated[int, Field(ge=1, le=4, description="cells of the flow per voxel edge")] = 2
    rim_mm: Annotated[
        float | None,
        Field(ge=0, description="cut only voxels so near to the tumour's edge; None cuts all"),
    ] = None
    advection: Literal["fitted", "central", "upwind", "limited"] = "fitted"
    assume_ph: float | None = None


class DoseAmount(BaseModel):
    """Amount of drug, absolute or per body surface; exactly one of the two.

    Attributes:
        amount_mg: mg.
        mg_per_m2: mg per m2 of body surface.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    amount_mg: float | None = None
    mg_per_m2: float | None = None


class HeatingSpec(BaseModel):
    """One heating of the tumour, to a temperature or as a thermometry file measured it.

    Attributes:
        temperature_C: temperature that is reached, degrees C.
        minutes: duration; that of the file if None.
        start_h: hours from the start of the treatment.
        ramp_min: duration of the rise and of the fall, min.
        file: thermometry, in place of a temperature.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature_C: float | None = None
    minutes: float | None = None
    start_h: float = 0.0
    ramp_min: float = 0.0
    file: Path | None = None


class FractionSpec(BaseModel):
    """One fraction of radiation.

    Attributes:
        dose_Gy: Gy.
        time_h: hours from the start of the treatment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dose_Gy: float
    time_h: float


class SecondScan(BaseModel):
    """Result of a fit to a scan after radiation.

    Attributes:
        folder: result folder of the fit.
        time_h: time of the scan, hours from the start of the treatment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    folder: Path
    time_h: float


class ComparisonSettings(BaseModel):
    """Arms of treatment through one tumour, for ``draws`` draws of the uncertain inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    arms: tuple[str, ...] = ("free", "pld", "tsl")
    dose: DoseAmount = DoseAmount(mg_per_m2=50.0)
    body_surface_m2: Annotated[float, Field(ge=0.1, le=4)] = 1.8
    infusion_min: Annotated[float, Field(ge=0)] = 0.0
    heat: tuple[HeatingSpec, ...] = ()
    radiation: tuple[FractionSpec, ...] = ()
    radiation_from: Annotated[
        SecondScan | None, Field(description="a fit of the tumour after the first fraction")
    ] = None
    end_h: Annotated[float, Field(gt=0)] = 72.0
    imaging_h: tuple[float, ...] = (1.0, 4.0, 24.0, 48.0, 72.0)
    heat_effects: Annotated[
        bool, Field(description="heat changes pressure and the walls' permeability to carriers")
    ] = True
    heat_all: Annotated[bool, Field(description="heat the arms that do not answer to it too")] = (
        False
    )
    draws: Annotated[int, Field(ge=0, le=2000)] = 100
    groups: Annotated[int, Field(ge=1, le=50, description="groups of voxels that are alike")] = 8
    limit_um: Annotated[float, Field(gt=0, le=140)] = 50.0
    lethal: Annotated[
        float,
        Field(gt=0, lt=1, description="surviving fraction at or below which an exposure is lethal"),
    ] = 0.5
    heating_min: Annotated[
        tuple[float, ...], Field(description="lengths of heating to compare; none: not compared")
    ] = (
        15.0,
        30.0,
        60.0,
    )
    sensitivity: bool = True
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    tolerance: Annotated[
        float,
        Field(
            gt=0, le=0.1, description="of a time step on the voxel grid, over a pool's largest mass"
        ),
    ] = 1e-3
    refine: Annotated[int, Field(ge=1, le=4, description="cells of the flow per voxel edge")] = 2


class PlanSettings(BaseModel):
    """A protocol before the scan; images are written ``QUANTITY@HOURS[:NOISE]``, NOISE a share of
    the largest value or with a unit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tumour_mm: tuple[float, float, float] = (6.0, 6.0, 4.0)
    voxel_mm: tuple[float, float, float] = (0.5, 0.5, 0.5)
    frames: Annotated[int, Field(ge=1)] = 60
    frame_spacing_s: Annotated[float, Field(gt=0)] = 10.0
    snr: Annotated[
        float, Field(gt=0, description="baseline signal over noise sd, per voxel and frame")
    ] = 60.0
    t1_noise: Annotated[
        float, Field(ge=0, lt=0.5, description="relative sd of a voxel's native T1")
    ] = 0.01
    ph: Annotated[bool, Field(description="a pH map is measured; else one value is assumed")] = True
    ph_noise: Annotated[float, Field(gt=0, lt=2, description="sd of a voxel of the pH map")] = 0.1
    ph_shared_noise: Annotated[
        float,
        Field(ge=0, lt=2, description="error that the whole pH map shares, of its calibration"),
    ] = 0.0
    drug: tuple[str, ...] = ()
    candidates: Annotated[
        tuple[str, ...],
        Field(description="encapsulated and released from 0.5 to 72 h where none are given"),
    ] = ()
    image_noise: Annotated[
        float, Field(gt=0, le=1, description="of an image without its own, over its largest value")
    ] = 0.05
    aif: str = "parker"
    preset: Literal["fast", "default", "accurate"] = "fast"
    draws: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="tumours and parameters to average over; the first at prior medians",
        ),
    ] = 3
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"

    @field_validator("tumour_mm", "voxel_mm", mode="before")
    @classmethod
    def _expand_to_three_axes(cls, given: object) -> object:
        """One number stands for all three axes."""
        sizes = list(given) if isinstance(given, (tuple, list)) else [given]
        if len(sizes) not in (1, 3):
            raise ValueError("one number, or one for each of three axes")
        return tuple(sizes * (3 // len(sizes)))

    @field_validator("tumour_mm", "voxel_mm")
    @classmethod
    def _require_positive_sizes(
        cls, given: tuple[float, float, float]
    ) -> tuple[float, float, float]:
        if not all(0 < v < 1000 for v in given):
            raise ValueError("sizes in mm are positive")
        return given
