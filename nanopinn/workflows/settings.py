"""What a run may be told beside its input files; every run dumps these, and they can be read back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class FitSettings(BaseModel):
    """Settings of one fit.

    ``drug`` holds the paths of post-dose volumes; each has a sidecar with ``TimeAfterDose`` (s),
    ``Quantity`` (encapsulated, released, free or total), ``NoiseSD`` and ``Units``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["auto", "pinn", "fv"] = "auto"
    preset: Literal["fast", "default", "accurate"] = "default"
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    seed: int = Field(0, ge=0)
    formulation: Literal["ph"] = "ph"
    drug: tuple[str, ...] = ()
    starts: int = Field(1, ge=1, le=100, description="descents of fv; all but the first begin at draws of the prior")
    noise: Literal["given", "estimated"] = Field("given", description="whether what a fit leaves over may correct the stated noise")
    aif_sd: float = Field(0.0, ge=0, le=1, description="sd of ln of the arterial input's scale, an unknown then; 0 trusts it")
    profile: tuple[str, ...] = Field((), description="unknowns whose profile likelihood is worked out")


class PhantomSettings(BaseModel):
    """Settings of one synthetic study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    shape: tuple[int, int, int] = (24, 24, 12)
    voxel_mm: tuple[float, float, float] = (0.5, 0.5, 0.5)
    frames: int = Field(60, ge=10)
    frame_spacing_s: float = Field(10.0, gt=0)
    snr: float = Field(60.0, gt=0, description="baseline signal over noise sd, per voxel and frame")
    ph_noise: float = Field(0.1, ge=0)
    length_scale_mm: float | None = Field(None, gt=0, description="l; drawn from its prior when not given")
    drug_times_h: tuple[float, ...] = (2.0, 24.0)
    drug_noise: float = Field(0.05, ge=0, description="noise sd over the largest value of each drug image")
    refine: int = Field(3, ge=2, le=4, description="how much finer than the voxels the truth is solved")


class SimulationSettings(BaseModel):
    """Settings of one forward run; ``tolerance`` is the error a time step may make in a pool, over the pool's largest mass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-4
    refine: Annotated[int, Field(ge=1, le=4, description="cells of the flow per voxel edge")] = 2
    advection: Literal["fitted", "central", "upwind", "limited"] = "fitted"
    assume_ph: float | None = None
