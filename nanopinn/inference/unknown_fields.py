"""Unknown functions in a posed problem: fields of space in the tumour, the release law, and the
release rate in time.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.basis import (
    FunctionUnknown,
    Kind,
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
from nanopinn.parameters.model_scalars import (
    INFLOW,
    MULTIPLIERS,
    RELEASE_LAW,
    release_multiplier_name,
)
from nanopinn.results.fit_result import MapEstimate
from nanopinn.settings import FitSettings
from nanopinn.solvers.grid import Domain

Array = NDArray[np.float64]

#: Prior standard deviation of the logarithm of a multiplier (an assumption: within 2.7 of its
#: neighbours' mean), and the length over which it is smooth.
FIELD_SD, FIELD_LENGTH_M = 0.5, 2.0e-3
#: Functions that only drug images can touch.
DRUG_FUNCTIONS = frozenset({"permeability", "release", RELEASE_LAW})
#: Hours after the dose at which drug fields are given, beside the times of the images.
OUTPUT_HOURS = (1.0, 6.0, 24.0, 48.0)
#: Over which the error of the equations is smooth (an assumption).
MODEL_ERROR_LENGTH_M = 2.0e-3
#: Bumps of one field at most: each costs a tangent of every pool. They are wider in a tumour that
#: would take more.
MAX_BASIS_FUNCTIONS = 40
#: Prior standard deviation of the velocity at a cut face over ``q l``, which is that at the rim of
#: a large tumour (an assumption: a cut through the rim may carry it, one through the core carries
#: next to none).
INFLOW_SD = 0.5


def parse_field(text: str) -> tuple[str, Kind]:
    """Name and kind of a field, from ``NAME[:KIND]``.

    Raises:
        InputError: there is no such field or kind.
    """
    name, _, kind = text.partition(":")
    if name not in MULTIPLIERS:
        raise InputError(
            "there is no such field", field="--field", found=name, expected=", ".join(MULTIPLIERS)
        )
    if kind not in ("", "bumps", "neural"):
        raise InputError(
            "a field has no such kind", field="--field", found=kind, expected="bumps or neural"
        )
    return name, "neural" if kind == "neural" else "bumps"


def add_unknown_functions(
    problem: InverseProblem, settings: FitSettings
) -> tuple[InverseProblem, list[str]]:
    """The problem with the unknown functions that the settings ask for, and what they assume.

    Raises:
        InputError: a field is named twice, or there is no such field.
    """
    fields = [parse_field(text) for text in settings.field]
    if len({name for name, _ in fields}) < len(fields):
        raise InputError(
            "a field is asked for twice", field="--field", found=", ".join(settings.field)
        )
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
    if problem.setting.maps.cut:
        shapes[INFLOW] = inflow_radial_basis(problem)
        functions.append(inflow_unknown(shapes[INFLOW], INFLOW_SD, FIELD_LENGTH_M))
    if settings.release_in_time is not None:
        problem, in_time = add_time_varying_release(problem, settings)
        notes += in_time
    if settings.release_law:
        functions.append(release_law_unknown())
    maps = replace(problem.setting.maps, shapes={**problem.setting.maps.shapes, **shapes})
    problem = replace(
        problem,
        setting=replace(problem.setting, maps=maps),
        unknowns=replace(problem.unknowns, functions=tuple(functions)),
    )
    notes += [_describe_function(f) for f in functions]
    untouched = [f.label for f in functions if f.name in DRUG_FUNCTIONS and not problem.drug]
    if untouched:
        notes.append(f"No drug image was given: {', '.join(untouched)} keep their priors.")
    if settings.model_error > 0:
        basis = tumour_radial_basis(problem, MODEL_ERROR_LENGTH_M)
        problem = replace(
            problem,
            model_error=ModelError(
                settings.model_error * basis, settings.model_error, MODEL_ERROR_LENGTH_M
            ),
        )
        notes.append(
            "The balances of contrast agent, carrier and free drug may err by"
            f" {settings.model_error:.0%} (1 sd) of wall influx and release, smooth over"
            f" {MODEL_ERROR_LENGTH_M * 1e3:g} mm."
        )
    return problem, notes


def add_time_varying_release(
    problem: InverseProblem, settings: FitSettings
) -> tuple[InverseProblem, list[str]]:
    """The problem with a release rate that jumps at the hours that the settings give, and what is
    assumed and known of it.

    Raises:
        InputError: these are no increasing hours within what a fit shows, or the equations may err
            too.
    """
    if settings.model_error > 0:
        raise InputError(
            "the error of the equations is not worked out where release jumps in time",
            field="--release-in-time",
            remedy="Leave --model-error away.",
        )
    hours = settings.release_in_time or ()
    jumps = tuple(3600 * h for h in hours)
    segments = release_rate_unknowns(jumps)
    images = [d.time_s for d in problem.drug]
    last = max(3600 * OUTPUT_HOURS[-1], *images, 0.0)
    if jumps[-1] >= last:
        raise InputError(
            "the release rate jumps after all that a fit shows",
            field="--release-in-time",
            found=f"{hours[-1]:g} h",
            expected=f"below {last / 3600:g} h",
        )
    unseen = [
        u.label for u, t in zip(segments, jumps, strict=True) if t >= max(images, default=0.0)
    ]
    notes = [
        f"The release rate may jump at {', '.join(f'{h:g}' for h in hours)} h after the dose: in"
        " each later stretch it is that of the first times a constant, 1 within"
        f" {np.exp(RELEASE_SD) - 1:.0%} (1 sd, an assumption). The release map is that of the"
        " first."
    ]
    if unseen:
        notes.append(
            "No drug image was taken after the start of these stretches, so they keep their"
            f" priors: {'; '.join(unseen)}."
        )
    unknowns = replace(problem.unknowns, items=(*problem.unknowns.items, *segments))
    return (
        replace(
            problem, unknowns=unknowns, setting=replace(problem.setting, release_jump_times_s=jumps)
        ),
        notes,
    )


def without_unknown_functions(problem: InverseProblem) -> InverseProblem:
    """The problem without unknown functions of space, pH or time."""
    segments = frozenset(
        release_multiplier_name(k + 1) for k in range(len(problem.setting.release_jump_times_s))
    )
    unknowns = replace(problem.unknowns.without(segments), functions=())
    return replace(
        problem, unknowns=unknowns, setting=replace(problem.setting, release_jump_times_s=())
    )


def truncating_faces(mask: NDArray[np.bool_], settings: FitSettings) -> tuple[tuple[int, int], ...]:
    """Faces of the image beyond which the tumour goes on, if the settings say that it does.

    Raises:
        InputError: they do, but no face cuts it.
    """
    if not settings.inflow:
        return ()
    cut = Domain.cut_faces(mask)
    if not cut:
        raise InputError(
            "no face of the image cuts the tumour, so nothing can flow in there",
            field="--inflow",
            remedy="Leave --inflow away: normal tissue surrounds the tumour.",
        )
    return cut


def _untrained_network_basis(problem: InverseProblem, seed: int) -> torch.Tensor:
    """Shapes of a network that is not trained yet, ``(k, x, y, z)``."""
    return evaluate_shapes(
        field_network(problem.setting, FIELD_LENGTH_M, seed), problem.setting, FIELD_SD
    ).detach()


def inflow_radial_basis(problem: InverseProblem) -> torch.Tensor:
    """Bumps on the tumour's cells at the cut faces, ``(k, x, y, z)``."""
    maps, spacing = problem.setting.maps, np.array(problem.setting.grid.spacing)
    tumour = maps.tumour.cpu().numpy() > 0.5
    found = []
    for axis, side in maps.cut:
        layer = np.zeros_like(tumour)
        index = [slice(None)] * 3
        index[axis] = slice(-1, None) if side else slice(0, 1)
        layer[tuple(index)] = tumour[tuple(index)]
        found.append(gaussian_radial_basis(layer, spacing, FIELD_LENGTH_M, MAX_BASIS_FUNCTIONS))
    basis = np.concatenate(found)
    # cells at the edge of two cut faces belong to both
    height = np.sqrt((basis**2).sum(axis=0))
    return INFLOW_SD * torch.as_tensor(
        basis / np.where(height > 0, height, 1.0),
        dtype=maps.tumour.dtype,
        device=maps.tumour.device,
    )


def centred_tumour_basis(problem: InverseProblem) -> torch.Tensor:
    """Bumps in the tumour whose sum with weights of unit variance has the prior variance of a
    field, ``(k, x, y, z)``.
    """
    return centre_shapes(
        tumour_radial_basis(problem, FIELD_LENGTH_M), problem.setting.maps.tumour > 0.5, FIELD_SD
    )


def tumour_radial_basis(problem: InverseProblem, length_m: float) -> torch.Tensor:
    """Bumps in the tumour whose sum with random weights has unit variance, ``(k, x, y, z)``."""
    tumour = problem.setting.maps.tumour
    inside, spacing = tumour.cpu().numpy() > 0.5, np.array(problem.setting.grid.spacing)
    basis = gaussian_radial_basis(inside, spacing, length_m)
    while len(basis) > MAX_BASIS_FUNCTIONS:
        length_m *= 1.1
        basis = gaussian_radial_basis(inside, spacing, length_m)
    return torch.as_tensor(basis, dtype=tumour.dtype, device=tumour.device)


def _describe_function(f: FunctionUnknown) -> str:
    if f.argument == "pH":
        return (
            "The release law's steepness may differ from the stated one by"
            f" {np.exp(f.prior_sd) - 1:.0%} (1 sd) at {f.count} knots of pH."
        )
    if f.name == INFLOW:
        return (
            "The tumour goes on beyond the image: fluid enters or leaves there at an unknown"
            f" velocity, {f.prior_sd:g} q l (1 sd) over 2 mm about none (assumptions), and carries"
            " what the voxels there hold."
        )
    how = "smooth bumps" if f.kind == "bumps" else "a neural field"
    return (
        f"{f.label[0].upper()}{f.label[1:]}, varies in the tumour: {how}, {f.count} weights,"
        f" {np.exp(f.prior_sd) - 1:.0%} (1 sd) over {f.length_m * 1e3:g} mm (assumptions)."
    )


def field_maps(fit: EngineFit, domain: Domain) -> list[MapEstimate]:
    """Of each unknown field: the multiplier with its standard deviation, and its contraction."""
    problem, found = fit.problem, []
    for f in problem.unknowns.functions:
        if f.name not in MULTIPLIERS:
            continue
        at = problem.unknowns.where(f.name)
        shapes = problem.setting.maps.shapes[f.name]
        posterior = field_posterior(
            shapes, problem.tensor(fit.theta[at]), problem.tensor(fit.run.covariance[at, at])
        )
        value, sd, contraction = (
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
                value,
                value * sd,
            ),
            MapEstimate(
                f"{f.name}_contraction",
                "1",
                f"1 - sd after/before the images, of {f.label}",
                "images and prior",
                contraction,
            ),
        ]
    return found


def inflow_map(fit: EngineFit, domain: Domain) -> list[MapEstimate]:
    """Velocity into the image through the faces that cut the tumour, in the voxels there; nothing
    if none does.
    """
    problem = fit.problem
    if not problem.setting.maps.cut:
        return []
    at = problem.unknowns.where(INFLOW)
    shapes = problem.setting.maps.shapes[INFLOW]
    posterior = field_posterior(
        shapes, problem.tensor(fit.theta[at]), problem.tensor(fit.run.covariance[at, at])
    )
    scalars = problem.scalars(fit.theta)
    unit = scalars["q"] * scalars["l"] * 1e6
    there = posterior.prior_sd > 0
    mean, sd = (
        domain.put(torch.where(there, unit * t, torch.nan).cpu().numpy())
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
    """The model's error that the images ask for in each balance, over its flux; nothing where none
    was allowed.
    """
    found = []
    for m in map_model_error(fit.problem, fit.prediction.fields):
        e, sd = (_map_inside_tumour(fit.problem, t, domain) for t in (m.relative, m.sd))
        what = "contrast agent" if m.balance == "contrast" else f"{m.balance} drug"
        text = (
            f"error of the balance of {what}, over {BALANCES[m.balance]}; its sd is that at fixed"
            " unknowns"
        )
        found.append(MapEstimate(f"model_error_{m.balance}", "1", text, "images and prior", e, sd))
    return found


def _map_inside_tumour(problem: InverseProblem, values: torch.Tensor, domain: Domain) -> Array:
    return domain.put(
        torch.where(problem.setting.maps.tumour > 0.5, values, torch.nan).cpu().numpy()
    )
