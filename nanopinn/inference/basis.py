"""Unknowns that are more than a number: fields of space, and functions of pH."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.parameters.model_scalars import INFLOW, MULTIPLIERS, RELEASE_LAW
from nanopinn.physics.release import PH_WARP_KNOTS

Array = NDArray[np.float64]

#: Kinds of shapes that a field is made of.
Kind = Literal["bumps", "neural"]


@dataclass(frozen=True)
class FunctionUnknown:
    """A function with a Gaussian prior, ``f = sum_k w_k s_k``, whose weights are coordinates of a
    fit.

    Attributes:
        name: key among the model's scalars, whose value there is the weights.
        label: what it is called for the reader.
        argument: of what it is a function.
        count: weights.
        weight_sd: prior standard deviation of each weight, about zero.
        prior_sd: of the function, where it has one.
        kind: of its shapes.
        length_m: over which it is smooth, if it is a field.
    """

    name: str
    label: str
    argument: Literal["space", "pH"]
    count: int
    weight_sd: float
    prior_sd: float
    kind: Kind = "bumps"
    length_m: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Of its coordinates."""
        return tuple(f"{self.name}[{k}]" for k in range(self.count))


def field_unknown(
    name: str, shapes: Tensor, prior_sd: float, length_m: float, kind: Kind = "bumps"
) -> FunctionUnknown:
    """The logarithm of a multiplier in space, by shapes ``(k, x, y, z)`` to be weighed with unit
    variance.
    """
    return FunctionUnknown(
        name, f"{MULTIPLIERS[name]}, relative", "space", len(shapes), 1.0, prior_sd, kind, length_m
    )


def inflow_unknown(shapes: Tensor, prior_sd: float, length_m: float) -> FunctionUnknown:
    """Flow through the faces that cut a tumour, over ``q l``, by shapes ``(k, x, y, z)`` at the
    cells there.
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


#: Of the logarithm of the release law's steepness at each knot: within 1.5 of the stated one.
RELEASE_LAW_SD = 0.4


def release_law_unknown() -> FunctionUnknown:
    """The steepness of the release law along pH; every law it holds is monotone."""
    return FunctionUnknown(
        RELEASE_LAW,
        "release law's steepness along pH",
        "pH",
        len(PH_WARP_KNOTS),
        RELEASE_LAW_SD,
        RELEASE_LAW_SD,
    )


def gaussian_radial_basis(
    inside: NDArray[np.bool_], voxel_m: Array, size_m: float, most: int = 400
) -> Array:
    """Bumps of a size that cover a region ``(k, x, y, z)``; with random weights their sum has unit
    variance everywhere.

    Args:
        inside: the region, ``(x, y, z)``. voxel_m: ``(3,)``.
        size_m: distance between their centres; longer if there would be more than ``most``.
    """
    spacing = np.asarray(voxel_m, dtype=np.float64)
    where = np.argwhere(inside) * spacing
    size = max(size_m, float((len(where) * spacing.prod() / most) ** (1 / 3)))
    cells = np.unique(np.floor(where / size).astype(int), axis=0)
    centres = (cells + 0.5) * size
    points = np.moveaxis(np.indices(inside.shape), 0, -1) * spacing
    distance2 = ((points[None] - centres[:, None, None, None]) ** 2).sum(-1)
    bumps = np.exp(-distance2 / (2 * (0.7 * size) ** 2)) * inside
    bumps[bumps < 1e-3] = 0.0
    height = np.sqrt((bumps**2).sum(0, keepdims=True))
    return np.asarray(bumps / np.where(height > 0, height, 1.0))


def centre_shapes(shapes: Tensor, inside: Tensor, prior_sd: float) -> Tensor:
    """Shapes of a field ``(k, x, y, z)`` without their means over a region, scaled to a mean prior
    variance there.

    The mean of a multiplier's logarithm belongs to the scalar that it multiplies: the two would be
    one ridge.

    Args:
        inside: the region, bool ``(x, y, z)``; the shapes are zero beyond it. prior_sd: of the
            field.
    """
    mean = shapes[:, inside].mean(dim=1)
    free = torch.where(inside, shapes - mean[:, None, None, None], 0.0)
    return free * (prior_sd / free[:, inside].square().sum(dim=0).mean().sqrt())


@dataclass(frozen=True)
class FieldPosterior:
    """What a fit says of a field: logarithm of the multiplier, ``(x, y, z)``.

    Attributes:
        mean, sd: posterior. prior_sd: before any image.
    """

    mean: Tensor
    sd: Tensor
    prior_sd: Tensor

    @property
    def contraction(self) -> Tensor:
        """``1 - sd/prior_sd``; 0 where the images said nothing."""
        return 1 - self.sd / torch.where(self.prior_sd > 0, self.prior_sd, 1.0)


def field_posterior(shapes: Tensor, weights: Tensor, covariance: Tensor) -> FieldPosterior:
    """Posterior of ``sum_k w_k s_k`` under unit prior variance.

    Args:
        shapes: ``(k, x, y, z)``. weights: ``(k,)``. covariance: ``(k, k)``.
    """
    mean = torch.einsum("k,kxyz->xyz", weights, shapes)
    variance = torch.einsum("kxyz,kl,lxyz->xyz", shapes, covariance, shapes)
    return FieldPosterior(mean, variance.clamp_min(0.0).sqrt(), shapes.square().sum(dim=0).sqrt())
