"""Unknown functions of a tumour problem: fields of space, the release law, the release rate in
time, the flow through cut faces and the model error, with their maps after a fit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.basis import (
    BasisKind,
    FunctionUnknown,
    centre_shapes,
    field_posterior,
    field_unknown,
    gaussian_radial_basis,
    inflow_unknown,
    release_law_unknown,
)
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.model_error import BALANCES, map_model_error
from nanopinn.inference.neural_field import evaluate_shapes, field_network
from nanopinn.inference.problem import EngineFit
from nanopinn.inference.systematic import ModelError
from nanopinn.inference.unknowns import RELEASE_SD, release_rate_unknowns
from nanopinn.parameters import HOUR, INFLOW, MULTIPLIERS, RELEASE_LAW, release_multiplier_name
from nanopinn.results import MapEstimate
from nanopinn.settings import FitSettings
from nanopinn.solvers.grid import Domain

Array = NDArray[np.float64]

#: Prior standard deviation of the logarithm of a multiplier (an assumption: within a factor of 2.7
#: of the tumour mean), and its correlation length.
FIELD_SD, FIELD_LENGTH_M = 0.5, 2.0e-3
#: Functions that affect only drug images.
DRUG_FUNCTIONS = frozenset({"permeability", "release", RELEASE_LAW})
#: Hours after the dose at which drug fields are returned, in addition to the times of the images.
OUTPUT_HOURS = (1.0, 6.0, 24.0, 48.0)
#: Correlation length of the model error (an assumption).
MODEL_ERROR_LENGTH_M = 2.0e-3
#: Largest number of basis functions of one field, because each costs a tangent of every pool. Large
#: tumours get wider basis functions.
MAX_BASIS_FUNCTIONS = 40
#: Prior standard deviation of the velocity at a cut face relative to ``q l``, the velocity at the
#: rim of a large tumour (an assumption: it is reached where a face cuts the rim, and is almost zero
#: where a face cuts the core).
INFLOW_SD = 0.5


def parse_field(text: str) -> tuple[str, BasisKind]:
    """Name and kind of an unknown field.

    Args:
        text: ``NAME`` or ``NAME:KIND``.

    Returns:
        Name of the multiplier, and kind of the basis functions.

    Raises:
        InputError: there is no such field or kind.
    """
    name, _, kind = text.partition(":")
    if name not in MULTIPLIERS:
        raise InputError(
            "there is no such field", field="field", found=name, expected=", ".join(MULTIPLIERS)
        )
    if kind not in ("", "bumps", "neural"):
        raise InputError(
            "a field has no such kind", field="field", found=kind, expected="bumps or neural"
        )
    return name, "neural" if kind == "neural" else "bumps"


def add_unknown_functions(
    problem: InverseProblem, settings: FitSettings
) -> tuple[InverseProblem, list[str]]:
    """Add the unknown functions that the settings name to a problem.

    Args:
        problem: problem with scalar unknowns.
        settings: settings of the fit.

    Returns:
        The problem with unknown functions, and their assumptions as sentences.

    Raises:
        InputError: a field is named twice or does not exist, or release times are not usable.
    """
    fields = [parse_field(text) for text in settings.field]
    if len({name for name, _ in fields}) < len(fields):
        raise InputError("a field is given twice", field="field", found=", ".join(settings.field))
    notes: list[str] = []
    shapes: dict[str, torch.Tensor] = {}
    functions: list[FunctionUnknown] = []
    for name, kind in fields:
        neural = [f for f in functions if f.kind == "neural"]
        shapes[name] = (
            _untrained_network_basis(problem, settings.seed + len(neural))
            if kind == "neural"
            else centred_tumour_basis(problem)
        )
        functions.append(field_unknown(name, shapes[name], FIELD_SD, FIELD_LENGTH_M, kind))
    if settings.inflow:
        shapes[INFLOW] = inflow_radial_basis(problem)
        functions.append(inflow_unknown(shapes[INFLOW], INFLOW_SD, FIELD_LENGTH_M))
    if settings.release_in_time is not None:
        problem, release_notes = add_time_varying_release(problem, settings)
        notes += release_notes
    if settings.release_law:
        functions.append(release_law_unknown())
    maps = replace(problem.setting.maps, shapes={**problem.setting.maps.shapes, **shapes})
    problem = replace(
        problem,
        setting=replace(problem.setting, maps=maps),
        unknowns=replace(problem.unknowns, functions=tuple(functions)),
    )
    notes += [_describe_function(f) for f in functions]
    drug_only = [f.label for f in functions if f.name in DRUG_FUNCTIONS and not problem.drug]
    if drug_only:
        notes.append(f"No drug image was given: {', '.join(drug_only)} keep their priors.")
    if settings.model_error > 0:
        problem, note = _add_model_error(problem, settings.model_error)
        notes.append(note)
    return problem, notes


def _add_model_error(problem: InverseProblem, sd: float) -> tuple[InverseProblem, str]:
    """The problem with a model error of a prior sd, and its assumption as a sentence."""
    basis = sd * tumour_radial_basis(problem, MODEL_ERROR_LENGTH_M)
    note = (
        "The mass balances of contrast agent, encapsulated drug and free drug have a model error of"
        f" {sd:.0%} (1 sd) of the influx through the wall or of the release, with a correlation"
        f" length of {MODEL_ERROR_LENGTH_M * 1e3:g} mm."
    )
    return replace(problem, model_error=ModelError(basis, sd, MODEL_ERROR_LENGTH_M)), note


def add_time_varying_release(
    problem: InverseProblem, settings: FitSettings
) -> tuple[InverseProblem, list[str]]:
    """Add a release rate that jumps at the hours of the settings.

    Args:
        problem: problem with scalar unknowns.
        settings: settings of the fit, with ``release_in_time``.

    Returns:
        The problem with one factor for each later time segment, and the assumptions as sentences.

    Raises:
        InputError: the hours are not within the time range of the results, or there is a model
            error.
    """
    if settings.model_error > 0:
        raise InputError(
            "a model error cannot be combined with a release rate that jumps in time",
            field="release_in_time",
            remedy="Set `model_error` to 0.",
        )
    hours = settings.release_in_time or ()
    jumps = tuple(3600 * h for h in hours)
    segments = release_rate_unknowns(jumps)
    images = [d.time_s for d in problem.drug]
    last = max(3600 * OUTPUT_HOURS[-1], *images, 0.0)
    if jumps[-1] >= last:
        raise InputError(
            "the release rate jumps after the last time of the results",
            field="release_in_time",
            found=f"{hours[-1]:g} h",
            expected=f"below {last / HOUR:g} h",
        )
    unobserved = [
        u.label for u, t in zip(segments, jumps, strict=True) if t >= max(images, default=0.0)
    ]
    notes = [
        f"The release rate may jump at {', '.join(f'{h:g}' for h in hours)} h after the dose. In"
        " each later time segment it is the rate of the first segment times a constant that differs"
        f" from 1 by {np.exp(RELEASE_SD) - 1:.0%} (1 sd, an assumption). The release map shows the"
        " first segment."
    ]
    if unobserved:
        notes.append(
            "No drug image was taken after the start of these time segments, so they keep their"
            f" priors: {'; '.join(unobserved)}."
        )
    unknowns = replace(problem.unknowns, items=(*problem.unknowns.items, *segments))
    return (
        replace(
            problem, unknowns=unknowns, setting=replace(problem.setting, release_jump_times_s=jumps)
        ),
        notes,
    )


def without_unknown_functions(problem: InverseProblem) -> InverseProblem:
    """Remove the unknown functions of space, pH and time from a problem.

    Args:
        problem: problem with unknown functions.
    """
    segments = frozenset(
        release_multiplier_name(k + 1) for k in range(len(problem.setting.release_jump_times_s))
    )
    unknowns = replace(problem.unknowns.without(segments), functions=())
    return replace(
        problem, unknowns=unknowns, setting=replace(problem.setting, release_jump_times_s=())
    )


def truncating_faces(mask: NDArray[np.bool_], settings: FitSettings) -> tuple[tuple[int, int], ...]:
    """Faces of the image beyond which the tumour extends.

    Args:
        mask: tumour mask, ``(x, y, z)``.
        settings: settings of the fit.

    Returns:
        Axis and side of each face: of every face that the tumour touches where the flow there is
        unknown, else of those that cut it.

    Raises:
        InputError: the settings ask for an unknown inflow, but no face cuts the tumour.
    """
    cut = Domain.cut_faces(mask, 0.0) if settings.inflow else Domain.cut_faces(mask)
    if settings.inflow and not cut:
        raise InputError(
            "no face of the image cuts the tumour, so there is no inflow through a face",
            field="inflow",
            remedy="Remove `inflow`: normal tissue surrounds the tumour.",
        )
    return cut


def _untrained_network_basis(problem: InverseProblem, seed: int) -> torch.Tensor:
    """Basis functions of an untrained network, ``(k, x, y, z)``."""
    return evaluate_shapes(
        field_network(problem.setting, FIELD_LENGTH_M, seed), problem.setting, FIELD_SD
    ).detach()


def inflow_radial_basis(problem: InverseProblem) -> torch.Tensor:
    """Basis functions of the inflow on the tumour's cells at the cut faces.

    Args:
        problem: problem with cut faces.

    Returns:
        Basis functions, ``(k, x, y, z)``.
    """
    maps, spacing = problem.setting.maps, np.array(problem.setting.grid.spacing)
    tumour = maps.tumour.cpu().numpy() > 0.5
    bases = []
    for axis, side in maps.cut:
        layer = np.zeros_like(tumour)
        index = [slice(None)] * 3
        index[axis] = slice(-1, None) if side else slice(0, 1)
        layer[tuple(index)] = tumour[tuple(index)]
        bases.append(gaussian_radial_basis(layer, spacing, FIELD_LENGTH_M, MAX_BASIS_FUNCTIONS))
    basis = np.concatenate(bases)
    # cells at the edge between two cut faces belong to both
    sd = np.sqrt((basis**2).sum(axis=0))
    return INFLOW_SD * torch.as_tensor(
        basis / np.where(sd > 0, sd, 1.0),
        dtype=maps.tumour.dtype,
        device=maps.tumour.device,
    )


def centred_tumour_basis(problem: InverseProblem) -> torch.Tensor:
    """Radial basis functions in the tumour with the prior variance and zero mean of a field.

    Args:
        problem: problem with its tissue maps.

    Returns:
        Basis functions, ``(k, x, y, z)``.
    """
    return centre_shapes(
        tumour_radial_basis(problem, FIELD_LENGTH_M), problem.setting.maps.tumour > 0.5, FIELD_SD
    )


def tumour_radial_basis(problem: InverseProblem, length_m: float) -> torch.Tensor:
    """Radial basis functions in the tumour whose sum with weights of unit variance has unit
    variance.

    Args:
        problem: problem with its tissue maps.
        length_m: distance between centres, m; larger if there would be more than
            ``MAX_BASIS_FUNCTIONS``.

    Returns:
        Basis functions, ``(k, x, y, z)``.
    """
    tumour = problem.setting.maps.tumour
    inside, spacing = tumour.cpu().numpy() > 0.5, np.array(problem.setting.grid.spacing)
    basis = gaussian_radial_basis(inside, spacing, length_m)
    while len(basis) > MAX_BASIS_FUNCTIONS:
        length_m *= 1.1
        basis = gaussian_radial_basis(inside, spacing, length_m)
    return torch.as_tensor(basis, dtype=tumour.dtype, device=tumour.device)


def _describe_function(f: FunctionUnknown) -> str:
    """The prior of an unknown function as a sentence."""
    if f.argument == "pH":
        return (
            "The steepness of the release law may differ from the stated law by"
            f" {np.exp(f.prior_sd) - 1:.0%} (1 sd) at each of {f.count} knots of pH."
        )
    if f.name == INFLOW:
        return (
            "The tumour extends beyond the image. Fluid crosses the cut faces at an unknown"
            f" velocity with a prior of 0 +- {f.prior_sd:g} q l (1 sd) and a correlation length of"
            f" {f.length_m * 1e3:g} mm (assumptions), and carries the concentration of the voxels"
            " there."
        )
    kind = "Gaussian radial basis functions" if f.kind == "bumps" else "a neural field"
    return (
        f"{f.label[0].upper()}{f.label[1:]}, varies in the tumour as {kind} with {f.count} weights,"
        f" by {np.exp(f.prior_sd) - 1:.0%} (1 sd) over {f.length_m * 1e3:g} mm (assumptions)."
    )


def field_maps(fit: EngineFit, domain: Domain) -> list[MapEstimate]:
    """Maps of each unknown field: the multiplier with its standard deviation, and its contraction.

    Args:
        fit: fit with unknown fields.
        domain: box of the fit within the grid of the scan.
    """
    problem, found = fit.problem, []
    for f in problem.unknowns.functions:
        if f.name not in MULTIPLIERS:
            continue
        at = problem.unknowns.where(f.name)
        shapes = problem.setting.maps.shapes[f.name]
        posterior = field_posterior(
            shapes, problem.tensor(fit.theta[at]), problem.tensor(fit.run.covariance[at, at])
        )
        median, sd, contraction = (
            _map_inside_tumour(problem, t, domain)
            for t in (posterior.mean.exp(), posterior.sd, posterior.contraction)
        )
        source = f"prior sd {f.prior_sd:g} of its logarithm over {f.length_m * 1e3:g} mm, {f.kind}"
        found += [
            MapEstimate(
                f"{f.name}_factor",
                "1",
                f"{f.label}; {source}",
                "images and prior",
                median,
                median * sd,
            ),
            MapEstimate(
                f"{f.name}_contraction",
                "1",
                f"contraction 1 - posterior sd / prior sd of {f.label}",
                "images and prior",
                contraction,
            ),
        ]
    return found


def inflow_map(fit: EngineFit, domain: Domain) -> list[MapEstimate]:
    """Velocity into the image through the faces that cut the tumour, in the voxels at these faces.

    Args:
        fit: fit with unknown inflow.
        domain: box of the fit within the grid of the scan.

    Returns:
        One map, or none if the inflow is no unknown.
    """
    problem = fit.problem
    if not any(f.name == INFLOW for f in problem.unknowns.functions):
        return []
    at = problem.unknowns.where(INFLOW)
    shapes = problem.setting.maps.shapes[INFLOW]
    posterior = field_posterior(
        shapes, problem.tensor(fit.theta[at]), problem.tensor(fit.run.covariance[at, at])
    )
    scalars = problem.scalars(fit.theta)
    um_per_s = scalars["q"] * scalars["l"] * 1e6
    at_faces = posterior.prior_sd > 0
    mean, sd = (
        domain.embed(torch.where(at_faces, um_per_s * t, torch.nan).cpu().numpy())
        for t in (posterior.mean, posterior.sd)
    )
    return [
        MapEstimate(
            "inflow",
            "um/s",
            "velocity of fluid that enters through a face of the image that cuts the tumour",
            "images and prior",
            mean,
            sd,
        )
    ]


def model_error_maps(fit: EngineFit, domain: Domain) -> list[MapEstimate]:
    """Conditional estimate of the model error of each balance, relative to the flux of the balance.

    Args:
        fit: fit with a model error.
        domain: box of the fit within the grid of the scan.

    Returns:
        One map for each balance, or none if the problem has no model error.
    """
    found = []
    for m in map_model_error(fit.problem, fit.prediction.fields):
        e, sd = (_map_inside_tumour(fit.problem, t, domain) for t in (m.relative, m.sd))
        substance = "contrast agent" if m.balance == "contrast" else f"{m.balance} drug"
        text = (
            f"model error of the balance of {substance} over {BALANCES[m.balance]}; its sd"
            " is conditional on the fitted unknowns"
        )
        found.append(MapEstimate(f"model_error_{m.balance}", "1", text, "images and prior", e, sd))
    return found


def _map_inside_tumour(problem: InverseProblem, values: torch.Tensor, domain: Domain) -> Array:
    """A field on the grid of the scan, NaN outside the tumour."""
    return domain.embed(
        torch.where(problem.setting.maps.tumour > 0.5, values, torch.nan).cpu().numpy()
    )
