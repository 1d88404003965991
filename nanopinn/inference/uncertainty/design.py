"""What observations would tell of the unknowns, before they are made: Fisher information, with
every systematic error in it.

With whitened tangents J, errors of its own O and errors P that images share (all of unit variance),
an observation adds

    G = [J P]' (1 + O O')^-1 [J P]

and observations add up. Under normal priors the expected posterior covariance of the unknowns is
their block of ``(diag(prior precision, 1) + sum G)^-1``. No datum enters: only where the unknowns
are.
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

from nanopinn.inference.relinearise import closure_error_effects
from nanopinn.inference.systematic import SharedError
from nanopinn.inference.tumour_problem import Fields, InverseProblem

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FisherInformation:
    """Information of observations about ``unknowns`` coordinates and about the errors that
    observations share.

    Attributes:
        gram: G above, ``(m + k, m + k)``.
        unknowns: m.
    """

    gram: Array
    unknowns: int

    def __repr__(self) -> str:
        return (
            f"Information({self.unknowns} unknowns, {len(self.gram) - self.unknowns} shared errors)"
        )

    @classmethod
    def of(cls, jacobian: Tensor, shared: Tensor, own: Tensor) -> FisherInformation:
        """Of one observation of ``n`` whitened numbers.

        Args:
            jacobian: by the unknowns, ``(n, m)``. shared: by the errors that images share, ``(n,
                k)``. own: by its own, ``(n, j)``.
        """
        rows = torch.cat([jacobian, shared], dim=1).T
        left = SharedError(own, own.new_zeros(own.shape[1])).eliminate_tangents(rows)
        return cls((left @ left.T).cpu().numpy(), jacobian.shape[1])

    def __add__(self, other: FisherInformation) -> FisherInformation:
        return FisherInformation(self.gram + other.gram, self.unknowns)

    def covariance(self, prior_sd: Array) -> Array:
        """Expected posterior covariance of the unknowns ``(m, m)``; shared errors are eliminated."""
        m = self.unknowns
        shared = self.gram[m:, m:] + np.eye(len(self.gram) - m)
        explained = self.gram[:m, m:] @ np.linalg.solve(shared, self.gram[m:, :m])
        return np.asarray(
            np.linalg.inv(self.gram[:m, :m] - explained + np.diag(prior_sd**-2.0)), dtype=np.float64
        )


def gain_nats(before: Array, after: Array) -> float:
    """Expected information gained, nats: half the fall of ln det of the posterior covariance
    (Lindley 1956).

    An unknown that no image can move adds nothing to it.
    """
    return float(np.linalg.slogdet(before)[1] - np.linalg.slogdet(after)[1]) / 2


@dataclass(frozen=True)
class ExperimentDesign:
    """A protocol and images that could be added to it, at one parameter vector.

    Attributes:
        prior_sd: ``(m,)``. protocol: of all that is measured anyway. candidates: of each image that
            could be added.
    """

    prior_sd: Array
    protocol: FisherInformation
    candidates: tuple[FisherInformation, ...]

    def covariance(self, added: Sequence[int] = ()) -> Array:
        """Expected posterior covariance with some candidates added, by their indices."""
        return reduce(add, (self.candidates[i] for i in added), self.protocol).covariance(
            self.prior_sd
        )

    def gains(self, added: Sequence[int] = ()) -> Array:
        """What each candidate would gain beside those added already, nats; 0 for these."""
        before = self.covariance(added)
        each = [
            0.0 if i in added else gain_nats(before, self.covariance((*added, i)))
            for i in range(len(self.candidates))
        ]
        return np.array(each)


def design(
    problem: InverseProblem, theta: Array, fields: Fields, candidates: int
) -> ExperimentDesign:
    """The design of a problem whose last ``candidates`` drug images are not taken yet.

    Args:
        problem: every image in it has its noise. theta: where. fields: there, with tangents.
    """
    curves, images = observation_informations(_with_errors(problem, theta, fields), fields)
    taken = len(images) - candidates
    return ExperimentDesign(
        problem.unknowns.prior_sd, reduce(add, images[:taken], curves), images[taken:]
    )


def _with_errors(problem: InverseProblem, theta: Array, fields: Fields) -> InverseProblem:
    """The problem with systematic errors at theta, closure left out: no two images share it, so it
    is made image by image.

    Twice, because the first time leaves out the grid.
    """
    bare = replace(problem, errors=None, closure_basis=problem.closure_basis[:0])
    weighed = bare.with_systematic_errors(theta, fields).with_systematic_errors(theta, fields)
    return replace(weighed, closure_basis=problem.closure_basis)


def observation_informations(
    problem: InverseProblem, fields: Fields
) -> tuple[FisherInformation, tuple[FisherInformation, ...]]:
    """Of the curves, and of every drug image of a problem whose errors hold all but the closure."""
    errors = problem.errors
    assert errors is not None
    assert fields.d_contrast is not None
    k = len(problem.pH_error_basis)
    counts = [d.count for d in problem.drug]
    tangents = replace(problem, errors=None).jacobian(fields.d_contrast, fields.d_pools)
    of_curves, *of_images = tangents.split([len(tangents) - sum(counts), *counts])
    curves = FisherInformation.of(
        of_curves, of_curves.new_zeros((len(of_curves), k)), errors.grid_on_contrast
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
    shared = errors.pH_on_drug.split(counts)
    return curves, tuple(
        FisherInformation.of(*each) for each in zip(of_images, shared, own, strict=True)
    )
