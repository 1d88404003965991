"""Settings of fits, phantoms, simulations, comparisons and plans.

Every run writes its settings to its result folder, from which they can be read back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nanopinn.errors import InputError


class DoseAmount(BaseModel):
    """Amount of drug, absolute, per body surface or per body weight; exactly one of the three.

    Attributes:
        amount_mg: mg.
        mg_per_m2: mg per m2 of body surface.
        mg_per_kg: mg per kg of body weight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    amount_mg: float | None = None
    mg_per_m2: float | None = None
    mg_per_kg: float | None = None

    def __str__(self) -> str:
        units = {"mg": self.amount_mg, "mg/m2": self.mg_per_m2, "mg/kg": self.mg_per_kg}
        given = [f"{amount:g} {unit}" for unit, amount in units.items() if amount is not None]
        return " and ".join(given) or "nothing"


_DOSE = re.compile(
    r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(mg/kg|mg/m2|mg/m\^2|mg)", re.ASCII
)
_DOSE_FIELDS = {"mg": "amount_mg", "mg/kg": "mg_per_kg"}


def parse_dose(text: str, field: str = "dose") -> DoseAmount:
    """Parse a dose, ``5mg/kg``, ``50mg/m2`` or ``90mg``.

    Args:
        text: amount and unit.
        field: name of the parameter in errors.

    Raises:
        InputError: the text is none of them.
    """
    found = _DOSE.fullmatch(text.strip())
    if found is None:
        raise InputError(
            "the dose cannot be read",
            field=field,
            found=text,
            expected='"5mg/kg", "50mg/m2" or "90mg"',
            remedy=(
                "Amounts are in mg: usual doses of doxorubicin are 20 to 60 mg/m2 in humans and 1"
                " to 20 mg/kg in mice."
            ),
        )
    return DoseAmount(**{_DOSE_FIELDS.get(found[2], "mg_per_m2"): float(found[1])})


class StudySettings(BaseModel):
    """What the subject of a study is given; base of the settings of fits, plans and phantoms.

    The doses are those of the options below, of one schedule, or of the sidecars of the drug
    images. Nothing of it is needed for a study without drug images.

    Attributes:
        formulation: of the drug, by name (free, pld, tsl, ph), or a TOML file.
        drug_dose: of the drug: ``5mg/kg``, ``50mg/m2`` or ``0.1mg``.
        species: of the subject: human, mouse or rat.
        body_weight_kg: body weight, kg; None: the typical weight of the species.
        body_surface_m2: body surface, m2; None: follows from the body weight.
        infusion_min: duration of the infusion, min; None or 0: a bolus.
        schedule: a file of doses, heatings and radiation, in place of the options above.
        plasma: measured concentrations in plasma, in place of those of the population.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    formulation: str | None = None
    drug_dose: DoseAmount | None = None
    species: str | None = None
    body_weight_kg: float | None = Field(default=None, gt=0)
    body_surface_m2: float | None = Field(default=None, gt=0)
    infusion_min: float | None = Field(default=None, ge=0, le=1_051_200)
    schedule: Path | None = None
    plasma: Path | None = None

    @field_validator("drug_dose", mode="before")
    @classmethod
    def _parse_dose(cls, given: object) -> object:
        """Parse a dose that is given as text."""
        return parse_dose(given, "drug_dose") if isinstance(given, str) else given


#: The treatment of plans and phantoms where none is given.
EXAMPLE_STUDY = StudySettings(
    formulation="ph", drug_dose=DoseAmount(amount_mg=90.0), species="human"
)


class FitSettings(StudySettings):
    """Settings of one fit.

    Attributes:
        engine: ``auto`` (fv), ``fv``, or ``krylov`` (followed by fv, with the distance between
            the two estimates); ``pinn`` runs krylov.
        preset: accuracy of the fit: ``fast``, ``default`` or ``accurate``.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        seed: of all random numbers.
        drug: paths of post-dose volumes, each with a sidecar of ``TimeAfterDose`` (s), ``Quantity``
            (encapsulated, released, free or total), ``NoiseSD`` and ``Units``.
        field: unknown fields of space, ``NAME[:bumps|neural]``.
        inflow: whether the tumour continues with unknown flow beyond the faces of the image that
            cut it.
        model_error: prior standard deviation of the error of the equations over their fluxes; 0:
            exact equations.
        release_law: whether the steepness of the release law varies along pH.
        release_in_time: hours after the dose at which the release rate may change; it is constant
            between them.
        starts: optimisation runs of fv; all but the first start at draws of the prior.
        noise: ``given``, or ``estimated`` from the residuals of the fit.
        aif_sd: prior standard deviation of ln of the scale of the arterial input; 0: no error.
        profile: unknowns whose profile likelihood is computed.
    """

    engine: Literal["auto", "fv", "krylov", "pinn"] = "auto"
    preset: Literal["fast", "default", "accurate"] = "default"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    drug: tuple[str, ...] = ()
    field: tuple[str, ...] = ()
    inflow: bool = False
    model_error: float = Field(default=0.0, ge=0, le=1)
    release_law: bool = False
    release_in_time: tuple[float, ...] | None = None
    starts: int = Field(default=1, ge=1, le=100)
    noise: Literal["given", "estimated"] = "given"
    aif_sd: float = Field(default=0.0, ge=0, le=1)
    profile: tuple[str, ...] = ()

    @field_validator("release_in_time", mode="before")
    @classmethod
    def _split_hours(cls, given: object) -> object:
        """Split hours given as text, ``6,24``."""
        return tuple(h for h in given.split(",") if h.strip()) if isinstance(given, str) else given


class PhantomSettings(StudySettings):
    """Settings of one synthetic study.

    Where nothing of the treatment is given it is :data:`EXAMPLE_STUDY`.

    Attributes:
        seed: of anatomy, parameters and noise.
        shape: voxels, ``(x, y, z)``.
        voxel_mm: voxel size, ``(x, y, z)``, mm.
        tumour_mm: diameters, mm; None: 54 to 60 % of the field of view.
        frames: of the DCE series.
        frame_spacing_s: s.
        snr: baseline signal over noise standard deviation, per voxel and frame.
        ph_noise: noise standard deviation of a voxel of the pH map.
        length_scale_mm: hydraulic length l, mm; None: drawn from its prior.
        drug_times_h: times of the drug images, hours after the first dose.
        drug_noise: noise standard deviation over the largest value of each drug image.
        drug_scale_sd: standard deviation of ln of the calibration error that all drug images of a
            quantity share, and of that of each image.
        drug_units: of the drug images: ``ug/mL``, or ``a.u.`` with an unknown factor for each
            quantity.
        draw_constants: whether the kinetics in plasma and the constants of wall, tissue, cells and
            release are drawn from their distributions, in place of the values of the table.
        refine: cells of the solution per voxel edge.
        conductivity_sd: standard deviation of ln K over the tumour, smooth over 1.5 mm.
        release_sd: standard deviation of ln of the release rate about its law of pH, smooth over
            1.5 mm.
        pore_error: relative excess of the contrast agent's distribution volume over the drug's.
        factors: factors on properties of the tumour, as after radiation; they change the noise too.
        cut_voxels: voxels by which the field of view is cut along x, through the tumour if many.
    """

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    shape: tuple[int, int, int] = (24, 24, 12)
    voxel_mm: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tumour_mm: tuple[float, float, float] | None = None
    frames: int = Field(default=60, ge=10)
    frame_spacing_s: float = Field(default=10.0, gt=0)
    snr: float = Field(default=60.0, gt=0)
    ph_noise: float = Field(default=0.1, ge=0)
    length_scale_mm: float | None = Field(default=None, gt=0)
    drug_times_h: tuple[Annotated[float, Field(gt=0, le=1440)], ...] = Field(
        default=(2.0, 24.0), min_length=1
    )
    drug_noise: float = Field(default=0.05, ge=0)
    drug_scale_sd: float = Field(default=0.0, ge=0, le=1)
    drug_units: Literal["ug/mL", "a.u."] = "ug/mL"
    draw_constants: bool = False
    refine: int = Field(default=3, ge=2, le=4)
    conductivity_sd: float = Field(default=0.0, ge=0)
    release_sd: float = Field(default=0.0, ge=0)
    pore_error: float = Field(default=0.0, gt=-0.5, lt=0.5)
    factors: dict[Literal["p_e", "Lp", "K", "P", "SV"], Annotated[float, Field(gt=0)]] = Field(
        default={}
    )
    cut_voxels: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _require_tumour_in_field_of_view(self) -> PhantomSettings:
        if self.tumour_mm is not None and any(
            not 0 < d <= 0.8 * n * h
            for d, n, h in zip(self.tumour_mm, self.shape, self.voxel_mm, strict=True)
        ):
            raise ValueError(
                "the tumour's diameters have to be positive and at most 80 % of the field of view,"
                " because its surface is uneven"
            )
        return self


class SimulationSettings(BaseModel):
    """Settings of one forward run.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        tolerance: error of a time step in a pool, over the largest mass of the pool.
        refine: cells of the flow per voxel edge.
        rim_mm: refine only voxels within this distance of the tumour's edge, mm; None: all.
        advection: discretisation of advective fluxes.
        assume_ph: pH of the tumour where there is no map.
        values: of scalars of the model and parameters of the table, in place of all others:
            numbers in SI, or texts with a unit, such as ``{"l": "0.8 mm"}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-4
    refine: Annotated[int, Field(ge=1, le=4)] = 2
    rim_mm: Annotated[
        float | None,
        Field(ge=0),
    ] = None
    advection: Literal["fitted", "central", "upwind", "limited"] = "fitted"
    assume_ph: float | None = None
    values: dict[str, float | str] = Field(default={})


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
    """Arms of treatment compared in one tumour.

    Attributes:
        arms: formulations by name, or TOML files.
        dose: of every arm: ``50mg/m2``, ``5mg/kg`` or ``90mg``; None: 50 mg/m2 in humans, while
            other species need one.
        species: of the subject: human, mouse or rat; None: human.
        body_weight_kg: body weight, kg; None: the typical weight of the species.
        body_surface_m2: body surface, m2; None: follows from the body weight.
        infusion_min: duration of the infusion, min; 0: a bolus.
        heat: heating of the arms that are sensitive to heat.
        radiation: fractions, of every arm.
        radiation_from: fit of the tumour after the first fraction, from which the effect of
            radiation is estimated.
        end_h: duration of the simulation, hours.
        imaging_h: times of the images of the drug, hours.
        heat_effects: whether heat changes pressure and wall permeability to carriers.
        heat_all: whether arms that are not sensitive to heat are heated too.
        draws: from posterior and priors, or from priors alone without a fit; 0: medians alone.
        groups: clusters of similar voxels, each with one microscale model.
        limit_um: distance from the vessel to which survival is reported, um.
        lethal: surviving fraction at or below which an exposure is lethal.
        heating_min: durations of heating to compare, min.
        sensitivity: whether inputs are ranked by their effect on the outcomes.
        seed: of the draws.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        tolerance: error of a time step on the voxel grid, over the largest mass of the pool.
        refine: cells of the flow per voxel edge.
        assume_ph: pH of the tumour where there is no map.
        values: of scalars of the model and parameters of the table, in place of all others and the
            same in every draw: numbers in SI, or texts with a unit, such as ``{"l": "0.8 mm"}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    arms: tuple[str, ...] = ("free", "pld", "tsl")
    dose: DoseAmount | None = None
    species: str | None = None
    body_weight_kg: Annotated[float | None, Field(gt=0)] = None
    body_surface_m2: Annotated[float | None, Field(gt=0)] = None
    infusion_min: Annotated[float, Field(ge=0)] = 0.0
    heat: tuple[HeatingSpec, ...] = ()
    radiation: tuple[FractionSpec, ...] = ()
    radiation_from: SecondScan | None = None
    end_h: Annotated[float, Field(gt=0)] = 72.0
    imaging_h: tuple[float, ...] = (1.0, 4.0, 24.0, 48.0, 72.0)
    heat_effects: bool = True
    heat_all: bool = False
    draws: Annotated[int, Field(ge=0, le=2000)] = 100
    groups: Annotated[int, Field(ge=1, le=50)] = 8
    limit_um: Annotated[float, Field(gt=0, le=140)] = 50.0
    lethal: Annotated[
        float,
        Field(gt=0, lt=1),
    ] = 0.5
    heating_min: tuple[float, ...] = (
        15.0,
        30.0,
        60.0,
    )
    sensitivity: bool = True
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    tolerance: Annotated[
        float,
        Field(gt=0, le=0.1),
    ] = 1e-3
    refine: Annotated[int, Field(ge=1, le=4)] = 2
    assume_ph: float | None = None
    values: dict[str, float | str] = Field(default={})

    @field_validator("dose", mode="before")
    @classmethod
    def _parse_dose(cls, given: object) -> object:
        """Parse a dose that is given as text."""
        return parse_dose(given) if isinstance(given, str) else given


class PlanSettings(StudySettings):
    """A protocol to evaluate before the scan.

    Where nothing of the treatment is given it is :data:`EXAMPLE_STUDY`. Drug images are written
    ``QUANTITY@HOURS[:NOISE]``, with the noise as a share of the largest value or with a unit.

    Attributes:
        tumour_mm: diameters, mm.
        voxel_mm: voxel size, mm.
        frames: of the DCE series.
        frame_spacing_s: s.
        snr: baseline signal over noise standard deviation, per voxel and frame.
        t1_noise: relative standard deviation of a voxel's native T1.
        ph: whether a pH map is measured; otherwise one value is assumed.
        ph_noise: noise standard deviation of a voxel of the pH map.
        ph_shared_noise: error of the calibration, which the whole pH map shares.
        drug: drug images of the protocol.
        candidates: drug images that could be added; none: encapsulated and released from 0.5 to
            72 h.
        image_noise: noise of images that state none, over their largest value.
        aif: arterial input by name, or a TSV/CSV file; None: that of the species.
        preset: accuracy of the solution.
        draws: tumours and parameters to average over; the first is at the prior medians.
        seed: of the draws.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
    """

    tumour_mm: tuple[float, float, float] = (6.0, 6.0, 4.0)
    voxel_mm: tuple[float, float, float] = (0.5, 0.5, 0.5)
    frames: Annotated[int, Field(ge=1)] = 60
    frame_spacing_s: Annotated[float, Field(gt=0)] = 10.0
    snr: Annotated[float, Field(gt=0)] = 60.0
    t1_noise: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    ph: bool = True
    ph_noise: Annotated[float, Field(gt=0, lt=2)] = 0.1
    ph_shared_noise: Annotated[
        float,
        Field(ge=0, lt=2),
    ] = 0.0
    drug: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    image_noise: Annotated[float, Field(gt=0, le=1)] = 0.05
    aif: str | None = None
    preset: Literal["fast", "default", "accurate"] = "fast"
    draws: Annotated[
        int,
        Field(ge=1, le=100),
    ] = 3
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"

    @field_validator("tumour_mm", "voxel_mm", mode="before")
    @classmethod
    def _expand_to_three_axes(cls, given: object) -> object:
        """Repeat a single number for all three axes."""
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
