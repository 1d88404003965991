"""Prior against data: how far the estimates of unknowns and of systematic errors lie from their
priors, and whether the data contradict the priors.

With whitened tangents A of all unknowns and errors, in prior standard deviations, the posterior
precision is ``H = 1 + A'A``. If the model and its priors hold, the posterior mean m of a subset S
has the prior-predictive covariance ``V = (1 - H^-1)_SS``, so that

    T = m_S' V^-1 m_S

is chi-squared with as many degrees of freedom as V has directions. Each component is compared as
``m_j / sqrt(V_jj)`` with a standard normal. S holds the unknowns, the scales of images and the
shared error of the pH map. Considered parameters are compared with their prior, ``V_jj = 1``, which
is conservative: most act in proportion to their value, so that V at the estimate is too small where
they became small.

A wrong dose moves all drug images together, and several shifts share it. It has a test of its own:
with the effect v of the logarithm of the dose on the residual, the residual e at the estimate and
``S = 1 + AA'``, the estimate of that logarithm is ``v'e / v' S^-1 v``, and its square over its
variance is chi-squared with one degree of freedom (a score test).

References:
    Evans and Moshonov, Bayesian Analysis 1:893 (2006): checking for prior-data conflict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2, norm
from torch import Tensor

from nanopinn.inference.error_effects import scaled_quantities
from nanopinn.inference.problem import Prediction
from nanopinn.inference.systematic import SharedError
from nanopinn.inference.tumour_problem import Fields, TumourProblem
from nanopinn.parameters import PARAMETERS
from nanopinn.results import PriorShift

Array = NDArray[np.float64]

#: Probability of a larger statistic below which a fit is in conflict with its priors.
CONFLICT_PROBABILITY = 1e-3
#: Share of its prior variance below which the data say nothing about a direction.
MIN_INFORMED_SHARE = 0.02


@dataclass(frozen=True)
class ConsideredPosterior:
    """Posterior of the considered parameters, in standard normal deviates of their distributions.

    Attributes:
        symbols: of the parameters.
        mean: ``(k,)``.
        covariance: ``(k, k)``, the unknowns eliminated.
    """

    symbols: tuple[str, ...]
    mean: Array
    covariance: Array


@dataclass(frozen=True)
class PriorConflict:
    """Comparison of the estimates with their priors.

    Attributes:
        shifts: of every unknown and shared error.
        statistic: T.
        degrees: of freedom of T.
        statistic_limit: value of T that is exceeded with :data:`CONFLICT_PROBABILITY`.
        largest: largest shift over its prior-predictive standard deviation.
        worst: that shift.
        largest_limit: of that, for all shifts together.
        dose_factor: dose that the images ask for, over the stated one; 1 without drug images.
        dose_z: distance of its logarithm from 0 in predictive standard deviations.
        considered: posterior of the considered parameters.
    """

    shifts: tuple[PriorShift, ...]
    statistic: float
    degrees: int
    statistic_limit: float
    largest: float
    worst: PriorShift
    largest_limit: float
    dose_factor: float
    dose_z: float
    considered: ConsideredPosterior


def compare_with_priors(
    problem: TumourProblem, theta: Array, fitted: Prediction[Fields]
) -> PriorConflict:
    """Compare the estimates of a fit with their priors.

    Args:
        problem: with its systematic errors at the end of the fit.
        theta: estimate, ``(m,)``.
        fitted: fields with their tangents.
    """
    errors, fields, unknowns = problem.errors, fitted.fields, problem.unknowns
    assert errors is not None
    assert fields.d_contrast is not None
    J = replace(problem, errors=None).jacobian(fields.d_contrast, fields.d_pools)
    J = J * problem.tensor(unknowns.prior_sd)
    curves = problem.contrast.residual(fields.contrast).reshape(-1)
    blocks = [
        _Block.build(J[: len(curves)], errors.contrast, curves, curves.new_zeros(len(curves)))
    ]
    if fields.pools is not None:
        images = problem.drug_misfit(fields.pools)
        blocks.append(
            _Block.build(J[len(curves) :], errors.drug, images, _dose_effect(problem, fields))
        )
    gram, along_dose = _join(blocks, len(unknowns))
    precision = np.eye(len(gram)) + gram
    dose_factor, dose_z = _dose_score(blocks, precision, along_dose)
    mean = np.concatenate(
        [
            (theta - unknowns.prior_mean) / unknowns.prior_sd,
            *(b.estimate.cpu().numpy() for b in blocks),
        ]
    )
    posterior = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    at, shifts = _shared(problem, mean, posterior)
    direct = at[: len(at) - len(_parameter_columns(problem))]
    predictive = np.eye(len(direct)) - posterior[np.ix_(direct, direct)]
    shares, axes = np.linalg.eigh(predictive)
    known = shares > MIN_INFORMED_SHARE
    statistic = float(((axes.T @ mean[direct])[known] ** 2 / shares[known]).sum())
    degrees = int(known.sum())
    variance = np.ones(len(at))
    variance[: len(direct)] = np.diag(predictive)
    seen = variance > MIN_INFORMED_SHARE
    z = np.abs(mean[at][seen]) / np.sqrt(variance[seen])
    return PriorConflict(
        shifts,
        statistic,
        degrees,
        float(chi2.isf(CONFLICT_PROBABILITY, max(degrees, 1))),
        float(z.max(initial=0.0)),
        shifts[int(np.flatnonzero(seen)[z.argmax()])] if len(z) else shifts[0],
        float(norm.isf(CONFLICT_PROBABILITY / 2 / max(int(seen.sum()), 1))),
        dose_factor,
        dose_z,
        _considered_posterior(problem, mean, posterior),
    )


#: Probability of a larger distance of the dose below which a fit is in conflict with it, and that
#: distance in predictive standard deviations. A wrong dose is the most usual error, and is hidden
#: by the spread of plasma kinetics.
DOSE_PROBABILITY = 1e-2
DOSE_LIMIT = float(norm.isf(DOSE_PROBABILITY / 2))


@dataclass(frozen=True)
class _Block:
    """Observations that share no error with others.

    Attributes:
        tangents: by unknowns and errors in prior standard deviations, ``(n, m + k)``.
        estimate: of the errors, ``(k,)``.
        left: residual at the estimate of the errors, ``(n,)``.
        dose_effect: of the logarithm of the dose, ``(n,)``.
    """

    tangents: Tensor
    estimate: Tensor
    left: Tensor
    dose_effect: Tensor

    @classmethod
    def build(cls, J: Tensor, errors: SharedError, residual: Tensor, dose: Tensor) -> _Block:
        estimate = errors.conditional_estimate(residual)
        left = residual + errors.effect @ (estimate - errors.reference)
        return cls(torch.cat([J, errors.effect], dim=1), estimate, left, dose)


def _join(blocks: list[_Block], m: int) -> tuple[Array, Array]:
    """Gram matrix of all tangents, and their product with the effect of the dose."""
    sizes = [b.tangents.shape[1] - m for b in blocks]
    total = m + sum(sizes)
    gram, along = np.zeros((total, total)), np.zeros(total)
    first = m
    for block, size in zip(blocks, sizes, strict=True):
        at = np.r_[0:m, first : first + size]
        gram[np.ix_(at, at)] += (block.tangents.T @ block.tangents).cpu().numpy()
        along[at] += (block.tangents.T @ block.dose_effect).cpu().numpy()
        first += size
    return gram, along


def _dose_effect(problem: TumourProblem, fields: Fields) -> Tensor:
    """Effect of the logarithm of the dose on the whitened drug images, ``(n,)``."""
    assert fields.pools is not None
    return torch.cat(
        [
            d.whiten(
                d.predict(
                    fields.pools[problem.node_index(d)],
                    problem.setting.maps,
                    problem.plasma_at(d.time_s),
                )
            )
            for d in problem.drug
        ]
    )


def _dose_score(blocks: list[_Block], precision: Array, along: Array) -> tuple[float, float]:
    """Factor on the dose that the images ask for, and its distance from 1."""
    square = sum(float(b.dose_effect @ b.dose_effect) for b in blocks)
    if square == 0:
        return 1.0, 0.0
    information = square - float(along @ np.linalg.solve(precision, along))
    score = -sum(float(b.dose_effect @ b.left) for b in blocks)
    return float(np.exp(np.clip(score / information, -9, 9))), abs(score) / information**0.5


def _first_columns(problem: TumourProblem) -> tuple[int, int]:
    """Number of the first column of the errors of the curves, and of those of the images."""
    assert problem.errors is not None
    m = len(problem.unknowns)
    return m, m + problem.errors.contrast.effect.shape[1]


def _parameter_columns(problem: TumourProblem) -> dict[str, int]:
    """Column of every considered parameter whose effect is known."""
    errors = problem.errors
    assert errors is not None
    first, drug = _first_columns(problem)
    found: dict[str, int] = {}
    if errors.parameters_on_contrast.shape[1]:
        start = first + errors.contrast_columns["parameters"].start
        found |= {s: start + i for i, s in enumerate(problem.considered_on_contrast)}
    if problem.drug and errors.parameters_on_drug.shape[1]:
        start = drug + errors.drug_columns["parameters"].start
        found |= {s: start + i for i, s in enumerate(problem.considered_on_drug)}
    return found


def _shared(
    problem: TumourProblem, mean: Array, posterior: Array
) -> tuple[NDArray[np.int64], tuple[PriorShift, ...]]:
    """Columns of the unknowns and the shared errors, and their shifts."""
    errors, unknowns = problem.errors, problem.unknowns
    assert errors is not None
    _, drug = _first_columns(problem)
    rows: list[tuple[int, str, str, str]] = [
        (i, u.name, u.label, _MEANINGS.get(u.name, "the assumptions of the model"))
        for i, u in enumerate(unknowns.items)
    ]
    if problem.drug:
        columns = errors.drug_columns
        start = drug + columns["scale"].start
        quantities = scaled_quantities(problem.drug)
        rows += [
            (
                start + i,
                f"scale_{q}",
                f"scale of all images of {q} drug",
                "the dose, the calibration of these images, or the plasma kinetics",
            )
            for i, q in enumerate(quantities)
        ]
        rows += [
            (
                start + len(quantities) + i,
                f"scale_{d.quantity}_{d.time_s / 3600:g}h",
                f"scale of the image of {d.name}",
                "the calibration of this image",
            )
            for i, d in enumerate(problem.drug)
        ]
        common = drug + columns["pH"].stop - 1
        rows.append(
            (common, "pH_shared", "shared error of the pH map", "the calibration of the pH map")
        )
    in_plasma = _plasma_symbols(problem)
    for symbol, column in _parameter_columns(problem).items():
        label = PARAMETERS[symbol].name if symbol in PARAMETERS else symbol.replace("_", " ")
        meaning = "the plasma kinetics or the dose" if symbol in in_plasma else "this constant"
        rows.append((column, symbol, label, meaning))
    shifts = tuple(
        PriorShift(name, label, float(mean[i]), float(np.sqrt(posterior[i, i])), meaning)
        for i, name, label, meaning in rows
    )
    return np.array([row[0] for row in rows], dtype=np.int64), shifts


def _plasma_symbols(problem: TumourProblem) -> frozenset[str]:
    if problem.course is None:
        return frozenset()
    formulations = {g.formulation for g in problem.course.treatment.doses}
    found = {s for f in formulations for s in f.plasma_symbols()}
    return frozenset(found | {s for s in problem.considered if s.startswith("plasma_")})


_MEANINGS = {
    "l": "the mask, the kinetic maps, or the calibration of the drug images",
    "q": "the arterial input, the kinetic maps, or the dose",
    "PS_l": "the dose, the calibration of the drug images, or the plasma kinetics",
    "leak_l": "the dose, the calibration of the drug images, or the plasma kinetics",
    "P_f_factor": "the dose, the calibration of the drug images, or the plasma kinetics",
    "krel_ref": "the pH map, or the release law of the formulation",
    "pK_rel": "the pH map, or the release law of the formulation",
    "leak_factor": "the release law of the formulation",
    "k_on_DNA": "uptake by the cells, or the calibration of the images of released drug",
}


def _considered_posterior(
    problem: TumourProblem, mean: Array, posterior: Array
) -> ConsideredPosterior:
    columns = _parameter_columns(problem)
    at = np.array(list(columns.values()), dtype=np.int64)
    return ConsideredPosterior(tuple(columns), mean[at], posterior[np.ix_(at, at)])
