"""The drug part of an inverse problem: course of the treatment, unknowns, considered parameters and
observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from nanopinn.imaging.drug_image import DrugImage
from nanopinn.inference.observations import DrugObservation
from nanopinn.inference.tumour_problem import CONTRAST_SYMBOLS
from nanopinn.inference.unknowns import UnknownSet, scalar_unknowns
from nanopinn.parameters import (
    CONVENTIONS,
    MG,
    PARAMETERS,
    SCALARS,
    Number,
    Parameter,
    ParameterDistribution,
    multipliers_of,
)
from nanopinn.physics.drug_pools import TISSUE_DRUG_SYMBOLS, DrugPoolOptions, drug_detail_for
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.heat import HEAT_EFFECT_SYMBOLS
from nanopinn.physics.treatment import RADIATION_EFFECT_SYMBOLS, Treatment
from nanopinn.solvers.drug_course import DrugCourse
from nanopinn.solvers.grid import Domain

Array = NDArray[np.float64]

#: Prior sd of the logarithm of the scale that all images of a quantity share, of the scale of each
#: image, and of the shared scale where images are in arbitrary units.
SHARED_SCALE_SD, OWN_SCALE_SD, FREE_SCALE_SD = 0.10, 0.10, 5.0
#: Fewest voxels inside the border layer; with fewer, the border layer is used too although its
#: voxels contain both tissues.
MIN_CORE_VOXELS = 10


@dataclass(frozen=True)
class DrugSetup:
    """What the treatment adds to an inverse problem.

    Attributes:
        course: the treatment after the first dose; None without one.
        unknowns: scalars on which the study depends.
        considered: distributions of parameters that are not estimated, by symbol.
        notes: assumptions as sentences.
    """

    course: DrugCourse | None
    unknowns: UnknownSet
    considered: dict[str, ParameterDistribution] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def set_up_drug(treatment: Treatment | None, *, with_images: bool) -> DrugSetup:
    """Course, unknowns and considered parameters of a treatment.

    Args:
        treatment: of the subject; times as in its schedule.
        with_images: whether drug images were taken.
    """
    considered = _distributions(CONTRAST_SYMBOLS)
    if treatment is None:
        return DrugSetup(None, UnknownSet(scalar_unknowns()), considered)
    first = min(g.dose.start_s for g in treatment.doses)
    treatment = treatment.shifted(-first)
    fitted, priors, values = _as_fitted(treatment)
    treatment = replace(
        treatment,
        doses=tuple(
            replace(g, formulation=fitted) if g.formulation.circulation else g
            for g in treatment.doses
        ),
    )
    carrier = treatment.carrier
    heated = carrier is not None and carrier.responds_to_heat and bool(treatment.heatings)
    full = drug_detail_for(carrier)
    # Free drug in plasma is delivered no faster than blood brings it, which matters where most of
    # the released drug comes from plasma.
    vessels = heated or carrier is None or not carrier.responds_to_acid
    options = replace(full, vessels=vessels, saturable=carrier is None or heated)
    course = DrugCourse(treatment, options, None, values)
    unknowns = UnknownSet(scalar_unknowns(fitted, priors))
    if with_images:
        considered |= considered_parameters(treatment, options)
    return DrugSetup(course, unknowns, considered, tuple(_describe(treatment, options)))


def _as_fitted(
    treatment: Treatment,
) -> tuple[Formulation, dict[str, Parameter], dict[str, Number]]:
    given = treatment.carrier or treatment.doses[0].formulation
    return given.as_fitted()


def considered_parameters(
    treatment: Treatment, options: DrugPoolOptions
) -> dict[str, ParameterDistribution]:
    """Distributions of the parameters that drug images depend on and a fit does not estimate.

    They are the plasma kinetics of the population, or the samples where plasma was measured, and
    the constants of wall, tissue, cells and release.

    Args:
        treatment: with formulations as they are fitted.
        options: pools that are solved.
    """
    wanted: dict[str, ParameterDistribution] = _distributions(TISSUE_DRUG_SYMBOLS)
    measured = treatment.measured_plasma
    for formulation in dict.fromkeys(g.formulation for g in treatment.doses):
        in_plasma = set(formulation.plasma_symbols()) - {"fb", formulation.leak}
        for symbol in formulation.symbols():
            distribution = formulation.parameter(symbol).distribution()
            if distribution is not None and not (measured and symbol in in_plasma):
                wanted[symbol] = distribution
    if options.vessels:
        wanted |= _distributions(("tau_c",))
    if treatment.radiation.fractions:
        wanted |= _distributions(RADIATION_EFFECT_SYMBOLS)
    if treatment.heating_intervals_s:
        wanted |= _distributions(HEAT_EFFECT_SYMBOLS)
    if measured is not None:
        wanted |= measured.error_distributions()
    scalars = {s.symbol for s in SCALARS.values()} | set(SCALARS)
    return {
        s: _without_truncation(d)
        for s, d in wanted.items()
        if s not in scalars and s not in CONVENTIONS and not _is_estimated(s, treatment)
    }


def _without_truncation(distribution: ParameterDistribution) -> ParameterDistribution:
    """A positive parameter without the truncation to its range.

    Near the ends of the range a deviate would hardly change the value, and its effect could not be
    linearised.
    """
    return replace(distribution, truncation_z=np.inf) if distribution.logarithmic else distribution


def _is_estimated(symbol: str, treatment: Treatment) -> bool:
    """Whether an unknown of this treatment multiplies a parameter."""
    free = treatment.carrier is None
    acting = [SCALARS[name].needs for name in multipliers_of(symbol)]
    return any(n == "any" or (n == "free") == free for n in acting)


def _distributions(symbols: Sequence[str]) -> dict[str, ParameterDistribution]:
    found = {s: PARAMETERS[s].distribution() for s in symbols}
    return {s: _without_truncation(d) for s, d in found.items() if d is not None}


def drug_observation(
    image: DrugImage,
    mask: NDArray[np.bool_],
    domain: Domain,
    device: str,
    course: DrugCourse,
) -> DrugObservation:
    """A drug image without the border layer of the tumour, whose voxels contain two tissues.

    Args:
        image: on the grid of the scan.
        mask: tumour, ``(x, y, z)``.
        domain: box of the problem.
        device: of the tensors.
        course: of the treatment.
    """
    core = binary_erosion(mask, border_value=1)  # the tumour continues beyond the image
    usable = (core if core.sum() >= MIN_CORE_VOXELS else mask) & np.isfinite(image.values)
    known = np.nan_to_num(image.values)

    def box(values: Array, beyond: float) -> torch.Tensor:
        return torch.as_tensor(domain.crop(values, beyond), dtype=torch.float64, device=device)

    noise = torch.full(domain.shape, image.noise_sd, dtype=torch.float64, device=device)
    shared = FREE_SCALE_SD if image.relative else SHARED_SCALE_SD
    return DrugObservation(
        image.time_s,
        image.quantity,
        box(known, 0.0),
        noise,
        noise,
        box(usable.astype(float), 0.0) > 0.5,
        course.options.pools,
        shared_scale_sd=shared if image.scale_sd is None else image.scale_sd,
        own_scale_sd=OWN_SCALE_SD,
        relative=image.relative,
    )


def _describe(treatment: Treatment, options: DrugPoolOptions) -> list[str]:
    doses = ", ".join(
        f"{g.dose.amount_kg / MG:.4g} mg of {g.formulation.short_name}"
        f" at {g.dose.start_s / 3600:g} h"
        + (f" over {g.dose.infusion_s / 60:g} min" if g.dose.infusion_s else "")
        for g in treatment.doses
    )
    species = treatment.subject.species.name
    plasma = (
        "Plasma concentrations were measured; the errors of their samples are part of the"
        " intervals."
        if treatment.measured_plasma is not None
        else f"Plasma concentrations are those of the population ({species}); the spread of its"
        " kinetics is part of the intervals."
    )
    notes = [f"The subject ({species}) was given {doses}.", plasma, *treatment.assumptions]
    carrier = treatment.carrier
    if treatment.heatings and (carrier is None or not carrier.responds_to_heat):
        notes.append(
            "The release of the given drug does not respond to heat: the heating acts on pressure"
            " and vessel walls only."
        )
    if treatment.changes_tissue:
        notes.append(
            "The DCE-MRI is taken to show the tumour before heating and radiation, whose effects"
            " on pressure and vessel walls have wide priors."
        )
    uptake = (
        "Uptake by cells saturates."
        if options.saturable
        else "Uptake by cells is linear, because free drug is far below K_e (see the check)."
    )
    return [*notes, uptake]
