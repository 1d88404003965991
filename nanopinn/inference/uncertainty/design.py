"""Expected information of observations that have not been made, by Fisher information with every
systematic error included (Bayesian experimental design).

With whitened tangents J, errors O of one observation and errors P that several observations share
(all of unit variance), an observation adds

    G = [J P]' (1 + O O')^-1 [J P]

and the information of independent observations adds up. Under Gaussian priors the expected
posterior covariance of the unknowns is their block of ``(diag(prior precision, 1) + sum G)^-1``.
It depends on the parameter vector at which the tangents are taken, and on no measured value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.error_effects import closure_error_effects
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.systematic import SharedError, marginal_precision
from nanopinn.inference.tumour_problem import Fields

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FisherInformation:
    """Fisher information of observations about the unknowns and about the errors that observations
    share.

    Attributes:
        gram: the matrix G of the module docstring, ``(m + k, m + k)``.
        unknowns: number of unknowns, m.
    """

    gram: Array
    unknowns: int

    def __repr__(self) -> str:
        return (
            f"FisherInformation({self.unknowns} unknowns,"
            f" {len(self.gram) - self.unknowns} shared errors)"
        )

    @classmethod
    def from_jacobian(cls, jacobian: Tensor, shared: Tensor, own: Tensor) -> FisherInformation:
        """Information of one observation that consists of ``n`` whitened values.

        Args:
            jacobian: derivative with respect to the unknowns, ``(n, m)``.
            shared: effect of the errors that observations share, ``(n, k)``.
            own: effect of the errors of this observation alone, ``(n, j)``.

        Returns:
            The information, with the observation's own errors eliminated.
        """
        rows = torch.cat([jacobian, shared], dim=1).T
        reduced = SharedError(own, own.new_zeros(own.shape[1])).eliminate_tangents(rows)
        return cls((reduced @ reduced.T).cpu().numpy(), jacobian.shape[1])

    def __add__(self, other: FisherInformation) -> FisherInformation:
        return FisherInformation(self.gram + other.gram, self.unknowns)

    def covariance(self, prior_sd: Array) -> Array:
        """Expected posterior covariance of the unknowns with the shared errors eliminated.

        Args:
            prior_sd: prior standard deviations of the unknowns, ``(m,)``.

        Returns:
            Covariance, ``(m, m)``.
        """
        shared = np.arange(self.unknowns, len(self.gram))
        prior = np.diag(np.concatenate([prior_sd**-2.0, np.ones(len(shared))]))
        precision = marginal_precision(self.gram + prior, shared)
        return np.asarray(np.linalg.inv(precision), dtype=np.float64)


def gain_nats(before: Array, after: Array) -> float:
    """Expected information gain: half the decrease of ln det of the posterior covariance.

    An unknown that the added observation does not affect contributes nothing.

    Args:
        before: covariance without the observation, ``(m, m)``.
        after: covariance with it, ``(m, m)``.

    Returns:
        Gain in nats.

    References:
        Lindley 1956, Ann. Math. Stat. 27:986.
    """
    return float(np.linalg.slogdet(before)[1] - np.linalg.slogdet(after)[1]) / 2


@dataclass(frozen=True)
class ExperimentDesign:
    """Information of a protocol and of images that could be added to it, at one parameter vector.

    Attributes:
        prior_sd: prior standard deviations of the unknowns, ``(m,)``.
        protocol: information of everything that is measured in any case.
        candidates: information of each image that could be added.
    """

    prior_sd: Array
    protocol: FisherInformation
    candidates: tuple[FisherInformation, ...]

    def covariance(self, added: Sequence[int] = ()) -> Array:
        """Expected posterior covariance with some candidates added.

        Args:
            added: indices of the added candidates.

        Returns:
            Covariance, ``(m, m)``.
        """
        return reduce(add, (self.candidates[i] for i in added), self.protocol).covariance(
            self.prior_sd
        )

    def gains(self, added: Sequence[int] = ()) -> Array:
        """Expected information gain of each candidate beyond those that are added already.

        Args:
            added: indices of the candidates that are added already; their gain is 0.

        Returns:
            Gain of every candidate in nats.
        """
        before = self.covariance(added)
        each = [
            0.0 if i in added else gain_nats(before, self.covariance((*added, i)))
            for i in range(len(self.candidates))
        ]
        return np.array(each)


def build_experiment_design(
    problem: InverseProblem, theta: Array, fields: Fields, candidates: int
) -> ExperimentDesign:
    """Build the design of a problem whose last ``candidates`` drug images have not been taken.

    Args:
        problem: problem with all images, each with its noise.
        theta: coordinates at which the information is evaluated, ``(m,)``.
        fields: fields at ``theta`` with tangents.
        candidates: number of drug images at the end of the list that are not taken yet.

    Returns:
        The protocol, which holds every other observation, and the candidates.
    """
    curves, images = observation_informations(_with_errors(problem, theta, fields), fields)
    measured = len(images) - candidates
    return ExperimentDesign(
        problem.unknowns.prior_sd, reduce(add, images[:measured], curves), images[measured:]
    )


def _with_errors(problem: InverseProblem, theta: Array, fields: Fields) -> InverseProblem:
    """Add the systematic errors at theta, except the closure error, which no two images share and
    which is added image by image. Two passes, because the first leaves out the discretisation
    error.
    """
    without_errors = replace(problem, errors=None, closure_basis=problem.closure_basis[:0])
    with_errors = without_errors.with_systematic_errors(theta, fields)
    with_errors = with_errors.with_systematic_errors(theta, fields)
    return replace(with_errors, closure_basis=problem.closure_basis)


def observation_informations(
    problem: InverseProblem, fields: Fields
) -> tuple[FisherInformation, tuple[FisherInformation, ...]]:
    """Information of the curves and of every drug image.

    Args:
        problem: problem whose systematic errors include all but the closure error.
        fields: fields at the point of the errors, with tangents.

    Returns:
        Information of the contrast-agent curves, and of each drug image in order.
    """
    errors = problem.errors
    assert errors is not None
    assert fields.d_contrast is not None
    counts = [d.count for d in problem.drug]
    tangents = replace(problem, errors=None).jacobian(fields.d_contrast, fields.d_pools)
    curve_tangents, *image_tangents = tangents.split([len(tangents) - sum(counts), *counts])
    every = (errors.pH_on_drug, errors.scale_on_drug, errors.parameters_on_drug)
    k = sum(e.shape[1] for e in every) if problem.drug else len(problem.pH_error_basis)
    curves = FisherInformation.from_jacobian(
        curve_tangents,
        curve_tangents.new_zeros((len(curve_tangents), k)),
        torch.cat([errors.grid_on_contrast, errors.parameters_on_contrast], dim=1),
    )
    if not problem.drug:
        return curves, ()
    own = [
        torch.cat([c, g[:, i : i + 1]], dim=1)
        for i, (c, g) in enumerate(
            zip(
                closure_error_effects(problem, fields),
                errors.grid_on_drug.split(counts),
                strict=True,
            )
        )
    ]
    shared = torch.cat(every, dim=1).split(counts)
    return curves, tuple(
        FisherInformation.from_jacobian(*each)
        for each in zip(image_tangents, shared, own, strict=True)
    )
