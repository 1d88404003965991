"""Identifiability analysis before a fit, and validation of the problem that is to be fitted.

Structural rules follow from the list of observations and give the reason of a limit. The Jacobian
at the prior, whitened by the prior, finds every direction on which the observations do not depend.
A problem is refused if its priors contradict themselves or the parameter table, or if its data are
not finite, have no noise or lie outside the scan.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.observations import DrugObservation, nearest_nodes
from nanopinn.inference.problem import Linearisation
from nanopinn.inference.unknowns import Unknown, UnknownSet
from nanopinn.parameters import PARAMETERS, SCALARS, drug_only_scalars, scalars_in_group
from nanopinn.solvers.drug_forward import solve_drug
from nanopinn.solvers.integrate import COARSE_STEP_OPTIONS

Array = NDArray[np.float64]

#: Information about a direction, in units of its prior precision, below which the direction counts
#: as not identifiable: the standard deviation falls by half a percent.
MIN_INFORMATION = 0.01
#: Relative residual of the linear solves in this module.
COARSE_TOLERANCE = 1e-3
#: An unknown belongs to a direction if its component is at least this fraction of the largest one.
MIN_LOADING = 0.3
#: Expected contraction below which the images count as uninformative about an unknown.
MIN_EXPECTED_CONTRACTION = 0.1
#: Median relative standard deviation of a voxel's Ktrans or ve above which the map is reported as
#: imprecise.
MAX_MAP_SD = 0.25


@dataclass(frozen=True)
class IdentifiabilityLimit:
    """A limit of what the observations can identify.

    Attributes:
        unknowns: names of the unknowns that are not identifiable, each alone or in combination.
        separately: whether each of them keeps its prior; otherwise a combination of them does.
        explanation: the reason as a sentence.
    """

    unknowns: tuple[str, ...]
    separately: bool
    explanation: str


def structural_limits(problem: InverseProblem) -> tuple[IdentifiabilityLimit, ...]:
    """Limits of identifiability that follow from the list of observations alone.

    Args:
        problem: problem with its observations.

    Returns:
        The limits, each with its reason.
    """
    labels = {u.name: u.label for u in problem.unknowns.items}
    return tuple(
        IdentifiabilityLimit(
            tuple(n for n in names if n in labels),
            separately,
            template.format(", ".join(labels[n] for n in names if n in labels)),
        )
        for names, separately, template in _structural_rules(problem)
        if any(n in labels for n in names)
    )


def _structural_rules(problem: InverseProblem) -> list[tuple[tuple[str, ...], bool, str]]:
    """Names of unknowns, whether each keeps its prior, and the sentence with a gap for their
    labels.
    """
    scaling = (
        "{} does not affect any image: replacing (K, Lp, p_e) by (aK, aLp, p_e/a) leaves all images"
        " unchanged, so the absolute pressure is determined by its prior."
    )
    found: list[tuple[tuple[str, ...], bool, str]] = [(("p_e",), True, scaling)]
    quantities = {d.quantity for d in problem.drug}
    law, carrier = scalars_in_group("release"), scalars_in_group("carrier")
    cells = scalars_in_group("cells")
    if not quantities:
        template = (
            "No drug image was given: {} keep their priors, and every drug field follows from them."
        )
        return [*found, (tuple(sorted(drug_only_scalars())), True, template)]
    if quantities == {"encapsulated"}:
        template = (
            "The drug images show only encapsulated drug: {} keeps its prior, because no released"
            " drug is observed."
        )
        found.append((cells, True, template))
        template = (
            "The drug images show only encapsulated drug: {} are determined only through the loss"
            " of encapsulated drug."
        )
        found.append((law, False, template))
    if quantities <= {"released", "free"}:
        template = (
            "No image shows encapsulated drug: only the product of {} is observed, because released"
            " drug is proportional to the amount that entered and to its release rate."
        )
        found.append(((*carrier, *law), False, template))
    if quantities == {"total"}:
        template = (
            "The drug images show encapsulated and released drug together: {} are determined only"
            " by how fast released drug is washed out."
        )
        found.append(((*law, *cells), False, template))
    if len({d.time_s for d in problem.drug}) == 1:
        template = (
            "All drug images were taken at one time: {} are determined only through one amount, not"
            " through a time course."
        )
        found.append(((*carrier, *law), False, template))
    return found


def numerical_limits(
    unknowns: UnknownSet, expansion: Linearisation
) -> tuple[IdentifiabilityLimit, ...]:
    """Directions in the space of the unknowns on which the observations do not depend, by the
    Jacobian.

    Args:
        unknowns: unknowns with their priors.
        expansion: residual and Jacobian at the point of interest, usually the prior mean.

    Returns:
        One limit for all unknowns without effect, and one for each further direction.
    """
    whitened = expansion.jacobian * unknowns.prior_sd
    names, labels = np.array(unknowns.names), np.array(unknowns.labels)
    affecting = (whitened**2).sum(axis=0) > MIN_INFORMATION
    limits = []
    if not affecting.all():
        limits.append(
            IdentifiabilityLimit(
                tuple(names[~affecting]),
                True,
                f"At the prior no observation depends on {', '.join(labels[~affecting])}.",
            )
        )
    information, directions = np.linalg.eigh(whitened[:, affecting].T @ whitened[:, affecting])
    for value, v in zip(information, directions.T, strict=True):
        if value < MIN_INFORMATION:
            limits.append(_describe_null_direction(names[affecting], labels[affecting], v))
    return tuple(limits)


def _describe_null_direction(
    names: NDArray[np.str_], labels: NDArray[np.str_], v: Array
) -> IdentifiabilityLimit:
    """The limit that belongs to a null direction of the Jacobian."""
    loading = v / v[np.argmax(np.abs(v))]
    part = np.abs(loading) >= MIN_LOADING
    if part.sum() == 1:
        return IdentifiabilityLimit(
            tuple(names[part]),
            False,
            f"At the prior the observations hardly depend on {labels[int(np.argmax(part))]}.",
        )
    moves = [
        f"{labels[i]} {'up' if loading[i] > 0 else 'down'} ({loading[i]:+.2f} prior sd)"
        for i in np.flatnonzero(part)
    ]
    return IdentifiabilityLimit(
        tuple(names[part]),
        False,
        f"At the prior the observations do not change with {' and '.join(moves)}: only other"
        " combinations of these unknowns are identifiable.",
    )


def expected_contraction(unknowns: UnknownSet, expansion: Linearisation) -> Array:
    """Expected contraction ``1 - sd_post/sd_prior`` of every unknown in the linearised model
    without errors of the kinetic maps, which is an upper bound.

    Args:
        unknowns: unknowns with their priors.
        expansion: residual and Jacobian.

    Returns:
        Contraction, ``(m,)``.
    """
    whitened = expansion.jacobian * unknowns.prior_sd
    covariance = np.linalg.inv(np.eye(len(unknowns)) + whitened.T @ whitened)
    return np.asarray(1 - np.sqrt(np.diag(covariance)))


def linearise_at_prior(problem: InverseProblem) -> Linearisation:
    """Residual and Jacobian at the prior means from coarse solves: an unrefined flow grid, few time
    steps of the drug pools and loose linear solves.

    This accuracy is enough to find the directions on which the observations do not depend, and it
    takes a small part of the time of a fit.

    Args:
        problem: problem to linearise.

    Returns:
        The linearisation at the prior means.
    """
    coarse = replace(problem, setting=replace(problem.setting, flow_refine=1))
    forward, theta = coarse.forward(), coarse.tensor(coarse.unknowns.prior_mean)
    flow = forward.solve_flow(theta, tangents=True)
    C, dC, _ = forward.solve_contrast(
        theta, flow, coarse.aif, coarse.frame_times, tol=COARSE_TOLERANCE
    )
    assert dC is not None
    residual, tangents = (
        [coarse.contrast.residual(C).reshape(-1)],
        [coarse.contrast.whiten(dC.transpose(0, 1)).flatten(1)],
    )
    if coarse.drug:
        nodes = coarse.drug_nodes([d.time_s for d in coarse.drug], **COARSE_STEP_OPTIONS)
        at_images = nearest_nodes(nodes, [d.time_s for d in coarse.drug])
        run = solve_drug(forward, theta, flow, nodes, tol=COARSE_TOLERANCE, tangents_at=at_images)
        assert run.tangents is not None
        for d, at, d_pools in zip(coarse.drug, at_images, run.tangents, strict=True):
            residual.append(
                d.whiten(
                    d.predict(run.U[at], coarse.setting.maps, coarse.plasma_at(d.time_s))
                    - d.measured
                )
            )
            tangents.append(d.whiten(d.linear(d_pools, coarse.setting.maps)))
    return Linearisation(
        torch.cat(residual).cpu().numpy(), torch.cat(tangents, dim=1).T.cpu().numpy()
    )


def predict_drug_at_prior(problem: InverseProblem) -> list[Tensor]:
    """Every drug image at the prior means by coarse solves, ``(x, y, z)`` each.

    Args:
        problem: with drug images.
    """
    coarse = replace(problem, setting=replace(problem.setting, flow_refine=1))
    forward, theta = coarse.forward(), coarse.tensor(coarse.unknowns.prior_mean)
    nodes = coarse.drug_nodes([d.time_s for d in coarse.drug], **COARSE_STEP_OPTIONS)
    at_images = nearest_nodes(nodes, [d.time_s for d in coarse.drug])
    run = solve_drug(forward, theta, forward.solve_flow(theta), nodes, tol=COARSE_TOLERANCE)
    return [
        d.predict(run.U[at], coarse.setting.maps, coarse.plasma_at(d.time_s))
        for d, at in zip(coarse.drug, at_images, strict=True)
    ]


def describe_limits(problem: InverseProblem, expansion: Linearisation) -> tuple[str, ...]:
    """Every limit of identifiability as a sentence, structural reasons first. Numerical limits that
    a structural rule explains are left out.

    Args:
        problem: problem with its observations.
        expansion: residual and Jacobian at the prior means.

    Returns:
        The sentences.
    """
    limits = list(structural_limits(problem))
    explained = {n for limit in limits for n in limit.unknowns if limit.separately}
    limits += [
        limit
        for limit in numerical_limits(problem.unknowns, expansion)
        if not set(limit.unknowns) <= explained
    ]
    sentences = [limit.explanation for limit in limits]
    single = {limit.unknowns[0] for limit in limits if len(limit.unknowns) == 1} | explained
    # weights of unknown functions follow the scalars
    contraction = expected_contraction(problem.unknowns, expansion)[: len(problem.unknowns.items)]
    weak = [
        u.label
        for u, c in zip(problem.unknowns.items, contraction, strict=True)
        if c < MIN_EXPECTED_CONTRACTION and u.name not in single
    ]
    if weak:
        sentences.append(
            "Even in the best case these images contain little information (expected contraction"
            f" below {MIN_EXPECTED_CONTRACTION:g}) about {', '.join(weak)}."
        )
    return (*sentences, *imprecise_maps(problem))


def imprecise_maps(problem: InverseProblem) -> tuple[str, ...]:
    """A sentence on the kinetic maps that the frames determine only imprecisely, or nothing.

    Args:
        problem: problem with the covariance of its kinetic maps.
    """
    inside = problem.setting.maps.tumour > 0.5
    sds = {
        name: float(problem.kinetic_covariance[i, i][inside].sqrt().median())
        for i, name in enumerate(("Ktrans", "ve"))
    }
    imprecise = [f"{name} (median error {sd:.0%})" for name, sd in sds.items() if sd > MAX_MAP_SD]
    if not imprecise:
        return ()
    return (
        f"The kinetic maps are imprecise: {' and '.join(imprecise)} in one voxel. All fields depend"
        " on these maps, and errors that voxels share are not included in the intervals, so the"
        " intervals may be too narrow. Frames that start before the bolus, a longer scan or less"
        " noise would make the maps more precise.",
    )


def validate_problem(problem: InverseProblem) -> None:
    """Refuse a problem that cannot be fitted.

    Args:
        problem: problem to validate.

    Raises:
        InputError: a prior is doubled or outside the range of its parameter, times do not fit
            together, or a value or its noise is not usable.
    """
    validate_priors(problem.unknowns)
    for u in problem.unknowns.items:
        _validate_prior_range(u)
    _validate_curves(problem)
    for d in problem.drug:
        _validate_drug_image(d)


def validate_priors(unknowns: UnknownSet) -> None:
    """Refuse a set of unknowns in which one appears twice.

    Args:
        unknowns: unknowns with their priors.

    Raises:
        InputError: an unknown appears twice.
    """
    twice = [name for name, n in Counter(unknowns.names).items() if n > 1]
    if twice:
        raise InputError("an unknown has two priors", field=twice[0], remedy="Remove one of them.")


def _validate_prior_range(u: Unknown) -> None:
    """Refuse a prior whose 95 % interval lies outside the range of its parameter in the table."""
    scalar = SCALARS.get(u.name)
    if scalar is None or scalar.symbol is None or scalar.factor_symbol is not None:
        return  # no row of the table, or a product of two rows
    row = PARAMETERS[scalar.symbol]
    low, high = u.estimate(u.prior_mean, u.prior_sd).prior_interval()
    below = row.high is not None and low / u.per_unit > row.high
    above = row.low is not None and high / u.per_unit < row.low
    if below or above:
        raise InputError(
            "a prior contradicts the range of its parameter",
            field=f"prior of {u.name}",
            found=f"{low:.3g} to {high:.3g} {u.unit} (95 %)",
            expected=(
                f"something within {_format_bound(row.low, u)} to"
                f" {_format_bound(row.high, u)} {u.unit}"
            ),
            remedy="Correct the median or its unit.",
        )


def _format_bound(value: float | None, u: Unknown) -> str:
    """A bound of the table in the unit of an unknown."""
    return "any" if value is None else f"{value * u.per_unit:.3g}"


def _validate_curves(problem: InverseProblem) -> None:
    """Refuse frame times, an arterial input function or curves that are not usable."""
    times, aif = problem.frame_times, problem.aif
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise InputError(
            "frame times must increase", field="frame_times", expected="finite, increasing seconds"
        )
    spacing = float(np.diff(times).max()) if len(times) > 1 else 0.0
    if times[-1] > aif.times_s[-1] + spacing or times[-1] < aif.times_s[0]:
        raise InputError(
            "frames lie outside the time range of the arterial input function",
            field="aif",
            found=f"frames until {times[-1]:g} s",
            expected=f"{aif.times_s[0]:g} to {aif.times_s[-1]:g} s",
            remedy="Give an arterial input function that covers the whole scan.",
        )
    if not np.isfinite(aif.plasma_mM).all():
        raise InputError(
            "the arterial input function is not finite", field="aif", expected="finite values"
        )
    _validate_noise("contrast agent", problem.contrast.noise_sd)
    _validate_values("contrast agent", problem.contrast.measured)


def _validate_drug_image(d: DrugObservation) -> None:
    """Refuse a drug image whose time, noise or values are not usable."""
    if not (np.isfinite(d.time_s) and d.time_s > 0):
        raise InputError(
            f"the time of the {d.quantity} drug image is not after the dose",
            field="drug",
            found=f"{d.time_s:g} s",
            expected="above 0 s",
        )
    _validate_noise(d.name, d.noise_sd[d.voxels])
    _validate_values(d.name, d.measured[d.voxels])


def _validate_noise(name: str, sd: Tensor) -> None:
    """Refuse noise that is not positive and finite."""
    bad = int((~(torch.isfinite(sd) & (sd > 0))).sum())
    if bad:
        raise InputError(
            "an observation without noise would have infinite weight",
            field=f"noise of {name}",
            found=f"{bad} voxels with sd not above 0",
            expected="a positive standard deviation in every voxel of the mask",
            remedy="Give the noise, or remove these voxels from the mask.",
        )


def _validate_values(name: str, values: Tensor) -> None:
    """Refuse values that are not finite."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise InputError(
            "an observation is not finite",
            field=name,
            found=f"{bad} values NaN or infinite",
            expected="finite values in every voxel of the mask",
            remedy="Remove these voxels from the mask.",
        )
