"""What the observations cannot tell, said before a fit starts: by the structure of the model, and
by its Jacobian at the prior.

Structural rules give the reason; the Jacobian, whitened by the prior, finds every direction that
the observations leave alone, whether a rule knows of it or not.

What no fit can start from: priors that contradict themselves, data that are no numbers or have no
noise, times outside the scan.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.inference.observations import DrugObservation
from nanopinn.inference.problem import Linearisation
from nanopinn.inference.tumour_problem import InverseProblem
from nanopinn.inference.unknowns import DRUG_ONLY, Unknown, UnknownSet
from nanopinn.parameters import PARAMETERS
from nanopinn.physics.tumour import SCALARS
from nanopinn.solvers.runge_kutta import COARSE_STEP_OPTIONS

Array = NDArray[np.float64]

#: Information of a direction, in units of its prior's, below which the observations leave it alone:
#: sd shrinks by half a percent.
MIN_INFORMATION = 0.01
#: Relative residual of linear solves here.
COARSE_TOLERANCE = 1e-3
#: Unknowns with at least this share of the largest take part in a direction.
MIN_LOADING = 0.3
#: Expected contraction below which images hardly help.
MIN_CONTRACTION = 0.1
#: Median relative standard deviation of a voxel's Ktrans or ve from which the frames are said to
#: hardly tell it.
MAX_MAP_SD = 0.25


@dataclass(frozen=True)
class IdentifiabilityLimit:
    """Something the observations cannot tell.

    Attributes:
        unknowns: that stay at their priors, or that only appear together.
        alone: whether each of them stays at its prior (else only some combination of them does).
        words: why.
    """

    unknowns: tuple[str, ...]
    alone: bool
    words: str


def structural_limits(problem: InverseProblem) -> tuple[IdentifiabilityLimit, ...]:
    """What follows from the list of observations alone."""
    labels = {u.name: u.label for u in problem.unknowns.items}
    return tuple(
        IdentifiabilityLimit(
            tuple(n for n in names if n in labels),
            alone,
            words.format(", ".join(labels[n] for n in names if n in labels)),
        )
        for names, alone, words in _structural_rules(problem)
        if any(n in labels for n in names)
    )


def _structural_rules(problem: InverseProblem) -> list[tuple[tuple[str, ...], bool, str]]:
    scaling = (
        "No image moves {}: (K, Lp, p_e) to (aK, aLp, p_e/a) leaves all of them as they are, so"
        " absolute pressure carries its prior."
    )
    found: list[tuple[tuple[str, ...], bool, str]] = [(("p_e",), True, scaling)]
    shown = {d.quantity for d in problem.drug}
    law, carrier = ("krel_ref", "pK_rel"), ("PS_l", "leak_l", "f_l")
    if not shown:
        words = (
            "No drug image was given: {} keep their priors, and every drug field follows from them."
        )
        return [*found, (tuple(sorted(DRUG_ONLY)), True, words)]
    if shown == {"encapsulated"}:
        found.append(
            (
                ("k_on_DNA",),
                True,
                (
                    "Drug images show carriers only: {} keeps its prior, for nothing that has left"
                    " them is seen."
                ),
            )
        )
        found.append(
            (
                law,
                False,
                "Drug images show carriers only: of {} they know what the loss of carriers says.",
            )
        )
    if shown <= {"released", "free"}:
        words = (
            "No image shows carriers: {} are seen as a product, for what is released is what came"
            " in times how fast it is released."
        )
        found.append(((*carrier, *law), False, words))
    if shown == {"total"}:
        words = (
            "Drug images show encapsulated and released drug together: {} are known only by how"
            " fast released drug is washed out."
        )
        found.append(((*law, "k_on_DNA"), False, words))
    if len({d.time_s for d in problem.drug}) == 1:
        words = "All drug images are of one time: {} are seen as one amount, not as a course."
        found.append(((*carrier, *law), False, words))
    return found


def numerical_limits(
    unknowns: UnknownSet, expansion: Linearisation
) -> tuple[IdentifiabilityLimit, ...]:
    """Directions that the observations leave at the prior, at the point of an expansion."""
    whitened = expansion.jacobian * unknowns.prior_sd
    names, labels = np.array(unknowns.names), np.array(unknowns.labels)
    touched = (whitened**2).sum(axis=0) > MIN_INFORMATION
    limits = []
    if not touched.all():
        said = ", ".join(labels[~touched])
        limits.append(
            IdentifiabilityLimit(
                tuple(names[~touched]), True, f"At the prior no observation touches {said}."
            )
        )
    information, directions = np.linalg.eigh(whitened[:, touched].T @ whitened[:, touched])
    for value, v in zip(information, directions.T, strict=True):
        if value < MIN_INFORMATION:
            limits.append(_describe_null_direction(names[touched], labels[touched], v))
    return tuple(limits)


def _describe_null_direction(
    names: NDArray[np.str_], labels: NDArray[np.str_], v: Array
) -> IdentifiabilityLimit:
    """A null direction in words: which unknowns go up and down together."""
    sizes = v / v[np.argmax(np.abs(v))]
    part = np.abs(sizes) >= MIN_LOADING
    if part.sum() == 1:
        return IdentifiabilityLimit(
            tuple(names[part]),
            False,
            f"At the prior the observations hardly touch {labels[int(np.argmax(part))]}.",
        )
    moves = [
        f"{labels[i]} {'up' if sizes[i] > 0 else 'down'} ({sizes[i]:+.2f} prior sd)"
        for i in np.flatnonzero(part)
    ]
    return IdentifiabilityLimit(
        tuple(names[part]),
        False,
        f"At the prior the observations cannot tell {' with '.join(moves)}: only other"
        " combinations.",
    )


def expected_contraction(unknowns: UnknownSet, expansion: Linearisation) -> Array:
    """1 - sd_post/sd_prior of every unknown, ``(m,)``, if the model were linear and its maps
    without error: at best.
    """
    whitened = expansion.jacobian * unknowns.prior_sd
    covariance = np.linalg.inv(np.eye(len(unknowns)) + whitened.T @ whitened)
    return np.asarray(1 - np.sqrt(np.diag(covariance)))


def linearise_at_prior(problem: InverseProblem) -> Linearisation:
    """Residual and tangents at the prior means, roughly: a coarse flow, few nodes of the drug
    march, no tight solves.

    Which directions are seen at all does not ask for more, and a fit should not wait for it.
    """
    coarse = replace(problem, setting=replace(problem.setting, flow_refine=1))
    forward, theta = coarse.forward(), coarse.tensor(coarse.unknowns.prior_mean)
    flow = forward.flow(theta, tangents=True)
    C, dC, _ = forward.contrast(theta, flow, coarse.aif, coarse.frame_times, tol=COARSE_TOLERANCE)
    assert dC is not None
    residual, tangents = (
        [coarse.contrast.residual(C).reshape(-1)],
        [coarse.contrast.whiten(dC.transpose(0, 1)).flatten(1)],
    )
    if coarse.drug:
        nodes = coarse.setting.drug_nodes([d.time_s for d in coarse.drug], **COARSE_STEP_OPTIONS)
        seen = [int(np.argmin(np.abs(nodes - d.time_s))) for d in coarse.drug]
        run = forward.drug(
            theta, flow, coarse.plasma, nodes, tol=COARSE_TOLERANCE, tangents_at=seen
        )
        assert run.tangents is not None
        for d, at, moved in zip(coarse.drug, seen, run.tangents, strict=True):
            residual.append(
                d.whiten(
                    d.predict(run.U[at], coarse.setting.maps, coarse.plasma_at(d.time_s))
                    - d.measured
                )
            )
            tangents.append(d.whiten(d.linear(moved, coarse.setting.maps)))
    return Linearisation(
        torch.cat(residual).cpu().numpy(), torch.cat(tangents, dim=1).T.cpu().numpy()
    )


def describe_limits(problem: InverseProblem, expansion: Linearisation) -> tuple[str, ...]:
    """Every limit in words, structure first; what a rule has explained is not said twice."""
    limits = list(structural_limits(problem))
    explained = {n for limit in limits for n in limit.unknowns if limit.alone}
    limits += [
        n for n in numerical_limits(problem.unknowns, expansion) if not set(n.unknowns) <= explained
    ]
    sentences = [limit.words for limit in limits]
    single = {limit.unknowns[0] for limit in limits if len(limit.unknowns) == 1} | explained
    weak = [
        u.label
        for u, c in zip(
            problem.unknowns.items, expected_contraction(problem.unknowns, expansion), strict=True
        )
        if c < MIN_CONTRACTION and u.name not in single
    ]
    if weak:
        sentences.append(
            "Even at best these images would hardly inform (contraction below"
            f" {MIN_CONTRACTION:g}): {', '.join(weak)}."
        )
    return (*sentences, *imprecise_maps(problem))


def imprecise_maps(problem: InverseProblem) -> tuple[str, ...]:
    """In words, which kinetic maps the frames hardly tell voxel by voxel."""
    inside = problem.setting.maps.tumour > 0.5
    sds = {
        name: float(problem.kinetic_covariance[i, i][inside].sqrt().median())
        for i, name in enumerate(("Ktrans", "ve"))
    }
    blurred = [f"{name} (median error {sd:.0%})" for name, sd in sds.items() if sd > MAX_MAP_SD]
    if not blurred:
        return ()
    return (
        (
            f"The frames hardly tell the {' and '.join(blurred)} of a voxel. All fields rest on"
            " these maps, and an error that voxels share is in no interval here: doubt the answer"
            " more than its intervals say. Frames from before the bolus on, a longer scan or less"
            " noise would help."
        ),
    )


#: Standard deviations of a prior that must leave something of the range in the table.
PRIOR_RANGE_SD = 1.96


def validate_problem(problem: InverseProblem) -> None:
    """Say what makes a problem impossible to fit, if anything does.

    Raises:
        InputError: naming the unknown or the observation.
    """
    validate_priors(problem.unknowns)
    for u in problem.unknowns.items:
        _validate_prior_range(u)
    _validate_curves(problem)
    for d in problem.drug:
        _validate_drug_image(d)


def validate_priors(unknowns: UnknownSet) -> None:
    """Priors that are none.

    Raises:
        InputError: an unknown stands twice.
    """
    twice = [name for name, n in Counter(unknowns.names).items() if n > 1]
    if twice:
        raise InputError("an unknown has two priors", field=twice[0], remedy="Keep one of them.")


def _validate_prior_range(u: Unknown) -> None:
    """A prior all of which lies outside the range of its row in the table."""
    row = PARAMETERS.get(SCALARS.get(u.name, ""))
    if row is None or u.name == "q":  # q is a product of two rows
        return
    low, high = u.estimate(u.prior_mean, u.prior_sd).interval(PRIOR_RANGE_SD)
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
    return "any" if value is None else f"{value * u.per_unit:.3g}"


def _validate_curves(problem: InverseProblem) -> None:
    times, aif = problem.frame_times, problem.aif
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise InputError(
            "frame times must increase", field="VolumeTiming", expected="finite, increasing seconds"
        )
    spacing = float(np.diff(times).max()) if len(times) > 1 else 0.0
    if times[-1] > aif.times_s[-1] + spacing or times[-1] < aif.times_s[0]:
        raise InputError(
            "frames lie outside the time of the arterial input",
            field="--aif",
            found=f"frames to {times[-1]:g} s",
            expected=f"{aif.times_s[0]:g} to {aif.times_s[-1]:g} s",
            remedy="Measure the input as long as the scan.",
        )
    if not np.isfinite(aif.plasma_mM).all():
        raise InputError("the arterial input is not finite", field="--aif", expected="numbers")
    _validate_noise("contrast agent", problem.contrast.noise_sd)
    _validate_values("contrast agent", problem.contrast.measured)


def _validate_drug_image(d: DrugObservation) -> None:
    if not (np.isfinite(d.time_s) and d.time_s > 0):
        raise InputError(
            "a drug image is not of a time after the dose",
            field=f"TimeAfterDose of {d.quantity}",
            found=d.time_s,
            expected="above 0 s",
        )
    _validate_noise(d.name, d.noise_sd[d.voxels])
    _validate_values(d.name, d.measured[d.voxels])


def _validate_noise(name: str, sd: Tensor) -> None:
    bad = int((~(torch.isfinite(sd) & (sd > 0))).sum())
    if bad:
        raise InputError(
            "an observation without noise would count infinitely",
            field=f"noise of {name}",
            found=f"{bad} voxels with sd not above 0",
            expected="a positive standard deviation in every voxel used",
            remedy="State the noise, or leave these voxels out of the mask.",
        )


def _validate_values(name: str, values: Tensor) -> None:
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise InputError(
            "an observation is not finite",
            field=name,
            found=f"{bad} values NaN or infinite",
            expected="numbers in every voxel used",
            remedy="Leave these voxels out.",
        )
