"""Unknown functions: fields of space and functions of pH, as sums of basis functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.parameters import INFLOW, MULTIPLIERS, RELEASE_LAW
from nanopinn.physics.release import PH_WARP_KNOTS

Array = NDArray[np.float64]

#: Kinds of basis functions of a field: Gaussian radial basis functions, or features of a network.
BasisKind = Literal["bumps", "neural"]


@dataclass(frozen=True)
class FunctionUnknown:
    """An unknown function ``f = sum_k w_k s_k`` with Gaussian weights, which are coordinates of a
    fit.

    Attributes:
        name: key among the model's scalars, where the value is the vector of weights.
        label: name for messages and tables.
        argument: the variable that it is a function of.
        count: number of weights.
        weight_sd: prior standard deviation of each weight; the prior mean is zero.
        prior_sd: prior standard deviation of the function.
        kind: kind of its basis functions.
        length_m: correlation length of a field, m.
    """

    name: str
    label: str
    argument: Literal["space", "pH"]
    count: int
    weight_sd: float
    prior_sd: float
    kind: BasisKind = "bumps"
    length_m: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its coordinates."""
        return tuple(f"{self.name}[{k}]" for k in range(self.count))


def field_unknown(
    name: str, shapes: Tensor, prior_sd: float, length_m: float, kind: BasisKind = "bumps"
) -> FunctionUnknown:
    """The logarithm of a multiplier in space as an unknown.

    Args:
        name: name of the multiplier.
        shapes: basis functions for weights of unit variance, ``(k, x, y, z)``.
        prior_sd: prior standard deviation of the field.
        length_m: correlation length, m.
        kind: kind of the basis functions.
    """
    return FunctionUnknown(
        name, f"{MULTIPLIERS[name]}, relative", "space", len(shapes), 1.0, prior_sd, kind, length_m
    )


def inflow_unknown(shapes: Tensor, prior_sd: float, length_m: float) -> FunctionUnknown:
    """The velocity through the faces of the image that cut a tumour, relative to ``q l``, as an
    unknown.

    Args:
        shapes: basis functions at the cells of the faces, ``(k, x, y, z)``.
        prior_sd: prior standard deviation of the velocity relative to ``q l``.
        length_m: correlation length, m.
    """
    return FunctionUnknown(
        INFLOW,
        "inflow at the cut face, over q l",
        "space",
        len(shapes),
        1.0,
        prior_sd,
        "bumps",
        length_m,
    )


#: Prior standard deviation of the logarithm of the release law's steepness at each knot: within a
#: factor of 1.5 of the stated law.
RELEASE_LAW_SD = 0.4


def release_law_unknown() -> FunctionUnknown:
    """The steepness of the release law along pH as an unknown; every such law is monotone."""
    return FunctionUnknown(
        RELEASE_LAW,
        "release law's steepness along pH",
        "pH",
        len(PH_WARP_KNOTS),
        RELEASE_LAW_SD,
        RELEASE_LAW_SD,
    )


def gaussian_radial_basis(
    inside: NDArray[np.bool_], voxel_m: Array, size_m: float, max_count: int = 400
) -> Array:
    """Gaussian radial basis functions that cover a region, normalised so that their sum with
    weights of unit variance has unit variance everywhere in it.

    Args:
        inside: the region, ``(x, y, z)``, bool.
        voxel_m: voxel size, ``(3,)``, m.
        size_m: distance between centres, m; larger if there would be more than ``max_count``.
        max_count: largest number of basis functions, approximately.

    Returns:
        Basis functions, ``(k, x, y, z)``.
    """
    spacing = np.asarray(voxel_m, dtype=np.float64)
    points_inside = np.argwhere(inside) * spacing
    size = max(size_m, float((len(points_inside) * spacing.prod() / max_count) ** (1 / 3)))
    cells = np.unique(np.floor(points_inside / size).astype(int), axis=0)
    centres = (cells + 0.5) * size
    points = np.moveaxis(np.indices(inside.shape), 0, -1) * spacing
    distance2 = ((points[None] - centres[:, None, None, None]) ** 2).sum(-1)
    basis = np.exp(-distance2 / (2 * (0.7 * size) ** 2)) * inside
    basis[basis < 1e-3] = 0.0
    sd = np.sqrt((basis**2).sum(0, keepdims=True))
    return np.asarray(basis / np.where(sd > 0, sd, 1.0))


def centre_shapes(shapes: Tensor, inside: Tensor, prior_sd: float) -> Tensor:
    """Basis functions of a field without their means over a region, scaled to a given mean prior
    variance.

    The mean of the logarithm of a multiplier is removed because it is not distinguishable from the
    scalar that is multiplied.

    Args:
        shapes: basis functions, ``(k, x, y, z)``.
        inside: the region, ``(x, y, z)``, bool; the result is zero outside.
        prior_sd: prior standard deviation of the field.

    Returns:
        Basis functions, ``(k, x, y, z)``.
    """
    mean = shapes[:, inside].mean(dim=1)
    centred = torch.where(inside, shapes - mean[:, None, None, None], 0.0)
    return centred * (prior_sd / centred[:, inside].square().sum(dim=0).mean().sqrt())


@dataclass(frozen=True)
class FieldPosterior:
    """Posterior of a field of space.

    Attributes:
        mean: posterior mean, ``(x, y, z)``.
        sd: posterior standard deviation, ``(x, y, z)``.
        prior_sd: prior standard deviation, ``(x, y, z)``.
    """

    mean: Tensor
    sd: Tensor
    prior_sd: Tensor

    @property
    def contraction(self) -> Tensor:
        """``1 - sd/prior_sd``; 0 where the images contain no information."""
        return 1 - self.sd / torch.where(self.prior_sd > 0, self.prior_sd, 1.0)


def field_posterior(shapes: Tensor, weights: Tensor, covariance: Tensor) -> FieldPosterior:
    """Posterior of a field ``sum_k w_k s_k`` whose weights have unit prior variance.

    Args:
        shapes: basis functions, ``(k, x, y, z)``.
        weights: posterior mean of the weights, ``(k,)``.
        covariance: posterior covariance of the weights, ``(k, k)``.

    Returns:
        Mean and standard deviation at every voxel.
    """
    mean = torch.einsum("k,kxyz->xyz", weights, shapes)
    variance = torch.einsum("kxyz,kl,lxyz->xyz", shapes, covariance, shapes)
    return FieldPosterior(mean, variance.clamp_min(0.0).sqrt(), shapes.square().sum(dim=0).sqrt())
