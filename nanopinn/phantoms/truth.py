"""Anatomy and truth of the digital phantom, on a grid finer than the voxels.

The anatomy is an irregular tumour with a necrotic core in normal tissue. The truth is solved by
another time scheme than fits use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from nanopinn.errors import InputError
from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.inference.unknowns import UnknownSet
from nanopinn.parameters import SCALARS, ParameterDistribution, draw_phantom_scalars, value
from nanopinn.physics.drug_pools import volume_fractions
from nanopinn.physics.flow import exchange_coefficients
from nanopinn.physics.heat import TemperatureCourse, scheduled_temperature
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.drug_course import DrugCourse
from nanopinn.solvers.drug_forward import solve_drug
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.grid import Domain, Grid
from nanopinn.solvers.integrate import drug_nodes
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.runge_kutta import SDIRK3
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.solvers.treatment_timeline import TreatmentTimeline

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Anatomy:
    """Tissue of the phantom, all ``(x, y, z)`` on the fine grid.

    Attributes:
        tumour: voxels of the tumour, necrosis included.
        necrosis: voxels of the necrotic core.
        PS: permeability times surface of the contrast agent, 1/s.
        phi: interstitial volume fraction.
        v_p: plasma volume fraction.
        pH: extracellular pH.
        T1: native T1, s.
        fields: logarithms of multipliers in space, by name.
    """

    tumour: NDArray[np.bool_]
    necrosis: NDArray[np.bool_]
    PS: Array
    phi: Array
    v_p: Array
    pH: Array
    T1: Array
    fields: Mapping[str, Array] = field(default_factory=dict)


def draw_anatomy(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    tumour_mm: tuple[float, float, float] | None = None,
) -> Anatomy:
    """Draw the anatomy of a phantom, with heterogeneity of 1 mm in size.

    Args:
        shape: cells of the fine grid.
        spacing_mm: size of the cells, mm.
        rng: of random numbers.
        tumour_mm: diameters of the ellipsoid whose volume the tumour has and about which its border
            varies; None for an ellipsoid of 54 to 60 % of each axis, whose volume varies with the
            border.
    """
    extent = [n * h for n, h in zip(shape, spacing_mm, strict=True)]
    radius = _radius(
        shape, spacing_mm, tumour_mm or (0.60 * extent[0], 0.54 * extent[1], 0.60 * extent[2]), rng
    )
    if tumour_mm is not None:
        radius = radius / np.quantile(radius, np.pi / 6 * np.prod(tumour_mm) / np.prod(extent))
    tumour = radius < 1
    necrosis = (radius < 0.42) & tumour

    def rough(sd: float) -> Array:
        return sd * _smooth_noise(shape, spacing_mm, 1.0, rng)

    PS = np.where(tumour, value("Ktrans_t"), value("Ktrans_n")) * np.exp(rough(0.3))
    PS = np.where(necrosis, 0.25 * PS, PS)
    phi = np.where(tumour, value("ve_t"), value("ve_n")) + rough(0.03) + 0.12 * necrosis
    v_p = (
        np.where(tumour, value("vp_t"), value("vp_n"))
        * np.exp(rough(0.3))
        * np.where(necrosis, 0.3, 1.0)
    )
    depth = np.clip(1 - radius, 0, 1)
    # protons diffuse, so that pH is smoother than the vessels
    pH = np.where(tumour, 7.1 - 0.6 * depth, value("pHe_n")) + 0.05 * _smooth_noise(
        shape, spacing_mm, 2.0, rng
    )
    T1 = np.where(tumour, value("T10_t"), 1.1) + rough(0.05)
    soft = 0.35 / min(spacing_mm)  # no border between tissues is sharper than the cells
    PS, phi, v_p, pH = (gaussian_filter(a, soft, mode="nearest") for a in (PS, phi, v_p, pH))
    return Anatomy(tumour, necrosis, PS, np.clip(phi, 0.08, 0.7), v_p, pH, T1)


#: Correlation length of multipliers in space, mm.
FIELD_MM = 1.5


def draw_fields(
    anatomy: Anatomy,
    spacing_mm: tuple[float, float, float],
    log_sds: Mapping[str, float],
    seed: int,
) -> Anatomy:
    """Add multipliers that vary over the tumour, with a mean logarithm of 0.

    They have random numbers of their own, so that all else of a seed does not depend on them.

    Args:
        anatomy: of the phantom.
        spacing_mm: size of the cells, mm.
        log_sds: standard deviation of the logarithm of each multiplier, by name; 0 for none.
        seed: of the phantom.
    """
    rng, fields = np.random.default_rng([seed, 1]), {}
    for name, sd in log_sds.items():
        noise = _smooth_noise((*anatomy.tumour.shape,), spacing_mm, FIELD_MM / 2, rng)
        inside = noise[anatomy.tumour]
        if sd > 0:
            fields[name] = np.where(
                anatomy.tumour, sd * (noise - inside.mean()) / inside.std(), 0.0
            )
    return replace(anatomy, fields=fields)


def _radius(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    diameters_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> Array:
    """Scaled radius of an ellipsoid with an irregular border, 1 at the border."""
    axes = [(np.arange(n) + 0.5) * h - n * h / 2 for n, h in zip(shape, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    half = [d / 2 for d in diameters_mm]
    radius = np.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2)
    return np.asarray(radius * (1 + 0.10 * _smooth_noise(shape, spacing_mm, 2.0, rng)))


def _smooth_noise(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    size_mm: float,
    rng: np.random.Generator,
) -> Array:
    """Gaussian field of unit variance and correlation length ``size_mm``, with a mean within 2."""
    field = gaussian_filter(
        rng.standard_normal(shape), [size_mm / h for h in spacing_mm], mode="wrap"
    )
    # a smooth field is nearly constant over a few mm: scaled by its standard deviation alone, its
    # mean could reach tens
    return np.asarray(field / max(field.std(), abs(field.mean()) / 2))


#: Standard deviation of ln of the scalars that only some formulations need, a part of their prior.
OWN_SCALAR_SD = 0.3
#: Relative residual of the linear solves, far below the error of the grid.
LINEAR_TOLERANCE = 1e-8
#: Error of a time step of drug, over the largest mass of the pool, where steps adapt to it.
STEP_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Truth:
    """True scalars (SI) and fields on the fine grid of the field of view.

    Attributes:
        scalars: of the model, by name, SI.
        contrast: contrast agent in tissue at the frames, ``(t, x, y, z)``, mM.
        drug: by pool, ``(t, x, y, z)`` at ``drug_times_s``, kg per m3 of tissue.
        drug_times_s: times after the dose, s.
        plasma_drug: encapsulated drug in plasma at ``drug_times_s``, kg/m3.
        pressure: interstitial pressure, ``(x, y, z)``, Pa.
        velocity: of the interstitial fluid, ``(3, x, y, z)``, m/s.
        Ktrans: influx per plasma concentration, by diffusion and solvent drag, ``(x, y, z)``, 1/s.
        release_rate: of the carrier, ``(x, y, z)``, 1/s.
        scheme: of the time integration of drug, in words.
    """

    scalars: Mapping[str, float]
    contrast: Array
    drug: Mapping[str, Array]
    drug_times_s: Array
    plasma_drug: Array
    pressure: Array
    velocity: Array
    Ktrans: Array
    release_rate: Array
    scheme: str = "SDIRK3"


def draw_scalars(rng: np.random.Generator, length_scale_m: float | None) -> dict[str, float]:
    """Scalars of one phantom, SI; the hydraulic length may be given."""
    given = {} if length_scale_m is None else {"l": length_scale_m}
    return draw_phantom_scalars(rng, given)


def scalars_of_formulation(
    scalars: Mapping[str, float], unknowns: UnknownSet, seed: int
) -> dict[str, float]:
    """Scalars of a phantom for the formulation that is given.

    Where the formulation states a quantity, its median replaces that of the registry and the
    drawn deviate is kept. Scalars that only this formulation needs are drawn here.

    Args:
        scalars: of the phantom, SI.
        unknowns: scalars of a study with the formulation.
        seed: of the phantom.
    """
    rng, found = np.random.default_rng([seed, 2]), dict(scalars)
    for u in unknowns.items:
        definition = SCALARS[u.name]
        if definition.phantom is None and definition.needs in ("free", "no acid"):
            found[u.name] = u.prior_median * float(np.exp(OWN_SCALAR_SD * rng.standard_normal()))
        elif u.scale == "log":
            found[u.name] *= u.prior_median / definition.default
        else:
            found[u.name] += u.prior_median - definition.default
    return found


def draw_constants(
    distributions: Mapping[str, ParameterDistribution], seed: int
) -> dict[str, float]:
    """True values of parameters that a fit does not estimate, such as the kinetics in plasma.

    They have random numbers of their own, so that all else of a seed does not depend on them.

    Args:
        distributions: by symbol.
        seed: of the phantom.
    """
    symbols = sorted(distributions)
    deviates = np.random.default_rng([seed, 3]).standard_normal(len(symbols))
    return {
        symbol: float(distributions[symbol].values_at_deviates(z))
        for symbol, z in zip(symbols, deviates, strict=True)
    }


def heat_tumour(course: DrugCourse, where: torch.Tensor) -> DrugCourse:
    """The course with the temperature of its heatings, uniform in the tumour.

    Args:
        course: of the treatment.
        where: tumour, ``(x, y, z)``.

    Raises:
        InputError: a temperature is not imposed.
    """
    temperature: TemperatureCourse | None = None
    for h in course.treatment.heatings:
        if h.temperature_K is None or h.mode != "imposed":
            raise InputError(
                "a phantom is heated to imposed temperatures alone",
                field="schedule",
                found=h.mode if h.file is None else h.file.name,
                expected="temperature_C with the mode imposed",
                remedy="Change the [[heat]] table.",
            )
        one = scheduled_temperature(where, h.temperature_K, h.start_s, h.end_s, h.ramp_s)
        temperature = one if temperature is None else temperature.merge(one)
    return replace(course, temperature=temperature)


def solve_truth(
    anatomy: Anatomy,
    spacing_m: tuple[float, float, float],
    scalars: Mapping[str, float],
    aif: PlasmaCurve,
    frame_times: Array,
    drug_times: Array,
    course: DrugCourse,
    pore_error: float = 0.0,
    factors: Mapping[str, float] | None = None,
    adaptive: bool = False,
) -> Truth:
    """Solve every field of the phantom, in a box with a wide margin of normal tissue.

    Args:
        anatomy: of the phantom.
        spacing_m: size of the cells, m.
        scalars: of the model, by name, SI.
        aif: plasma curve of the contrast agent.
        frame_times: of the DCE frames, s.
        drug_times: increasing, after the first dose, s.
        course: of the treatment, without its temperature, with the values of parameters in place of
            the table's.
        pore_error: relative excess of the volume that the contrast agent fills over the pores that
            carry drug.
        factors: on properties of the tumour (:class:`nanopinn.physics.tumour.TumourModel`).
        adaptive: whether drug is solved as a simulation does, with every pool and time steps that
            adapt to their error, in place of the pools of the course and given time steps.
    """
    domain = Domain.from_mask(anatomy.tumour, spacing_m, margin_m=3.0e-3)
    maps = TissueMaps(
        tumour=torch.as_tensor(domain.crop(anatomy.tumour.astype(float), 0.0)),
        PS=torch.as_tensor(domain.crop(anatomy.PS, value("Ktrans_n"))),
        phi=torch.as_tensor(domain.crop(anatomy.phi, value("ve_n"))),
        v_p=torch.as_tensor(domain.crop(anatomy.v_p, value("vp_n"))),
        pH=torch.as_tensor(domain.crop(anatomy.pH, value("pHe_n"))),
        shapes={
            name: torch.as_tensor(domain.crop(f, 0.0))[None] for name, f in anatomy.fields.items()
        },
    )
    setting = TissueSetting(maps, Grid(domain.shape, spacing_m), flow_refine=1)
    none = torch.zeros(0, dtype=torch.float64)
    numbers = {k: torch.tensor(v, dtype=torch.float64) for k, v in scalars.items()}
    numbers |= {name: torch.ones(1, dtype=torch.float64) for name in anatomy.fields}
    course = heat_tumour(course, maps.tumour)
    forward = ForwardModel(setting, lambda _: numbers, factors=factors, course=course)
    flow = forward.solve_flow(none)
    model: TumourModel = forward.model(none)
    contrast_setting = replace(setting, maps=replace(maps, phi=maps.phi * (1 + pore_error)))
    contrast, _, _ = ForwardModel(
        contrast_setting, lambda _: numbers, factors=factors, values=course.values
    ).solve_contrast(none, flow, aif, frame_times, SDIRK3, tol=LINEAR_TOLERANCE)
    pools, concentrations = (
        _solve_adaptively(setting, numbers, course, drug_times)
        if adaptive
        else _solve_in_given_steps(forward, flow, course, drug_times)
    )
    per_tissue = volume_fractions(pools, maps) * concentrations
    Ktrans, _ = exchange_coefficients(
        maps.PS * model.select_by_tissue(model.factor("P", "SV"), 1.0),
        flow.J_v,
        model.value("sigma_Gd"),
    )

    def on_image_grid(values: torch.Tensor, fill: float = np.nan) -> Array:
        return domain.embed(values.numpy(), fill)

    return Truth(
        scalars=dict(scalars),
        contrast=on_image_grid(contrast),
        drug={name: on_image_grid(per_tissue[:, i]) for i, name in enumerate(pools)},
        drug_times_s=np.asarray(drug_times),
        plasma_drug=np.array([course.encapsulated_at(t) for t in drug_times]),
        pressure=on_image_grid(flow.p),
        velocity=on_image_grid(flow.velocity(setting.grid)),
        Ktrans=on_image_grid(Ktrans),
        release_rate=on_image_grid(
            torch.zeros_like(maps.pH)
            if course.carrier is None
            else model.release_rate(course.carrier)
        ),
        scheme="TR-BDF2 with adaptive steps" if adaptive else "SDIRK3",
    )


def _solve_in_given_steps(
    forward: ForwardModel, flow: FlowSolution, course: DrugCourse, times: Array
) -> tuple[tuple[str, ...], torch.Tensor]:
    """Pools of the course at the given times by SDIRK3, with their names."""
    none = torch.zeros(0, dtype=torch.float64)
    nodes = drug_nodes(
        list(times),
        first_step_s=course.first_step_s / 3,
        growth=1.2,
        longest_s=3600.0,
        jumps_s=course.jumps(),
        marks_s=[s.start for s in course.segments(float(max(times)))],
    )
    run = solve_drug(forward, none, flow, nodes, SDIRK3, tol=LINEAR_TOLERANCE)
    at = [int(np.argmin(np.abs(nodes - t))) for t in times]
    return course.options.pools, run.U[at]


def _solve_adaptively(
    setting: TissueSetting,
    scalars: Mapping[str, torch.Tensor],
    course: DrugCourse,
    times: Array,
) -> tuple[tuple[str, ...], torch.Tensor]:
    """Every pool of the treatment at the given times, by steps that adapt to their error.

    Segments of constant coefficients are those of simulations, which are finer than those of fits.
    """
    timeline = TreatmentTimeline(
        setting,
        {name: np.asarray(v) for name, v in scalars.items()},
        replace(course.treatment, end_s=float(max(times))),
        course.temperature,
        values=course.values,
    )
    run = integrate_adaptive(
        timeline.intervals(),
        timeline.zero_pools(),
        [float(t) for t in times],
        tolerance=Tolerance(step=STEP_TOLERANCE, residual=LINEAR_TOLERANCE),
    )
    return timeline.detail.pools, run.U
