"""Kinetic fits regularised by a Markov random field (Schmid 2006, IEEE TMI 25:1627).

Differences between neighbouring voxels have a heavy-tailed distribution, whose variance is
estimated from independent fits. Each voxel is fitted with the prior of its neighbours in a
chequerboard sweep; a neighbour has the weight 1/(variance of the difference + its own variance),
reduced for large differences, which preserves edges.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.dce.impulse_response import KineticModel
from nanopinn.imaging.dce.plasma_curve import InputCurve
from nanopinn.imaging.dce.voxel_fit import KineticFit, fit_kinetics
from nanopinn.imaging.least_squares import NormalPrior

_SWEEPS = 4
#: Degrees of freedom of Student's t distribution of the difference between neighbours.
_DEGREES_OF_FREEDOM = 3.0
#: Median of the square of a standard normal number.
_MEDIAN_CHI2 = 0.4549


def fit_spatially_regularised(
    model: KineticModel,
    C: Tensor,
    curve: InputCurve,
    where: NDArray[np.int64],
    *,
    shared: Tensor | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> KineticFit:
    """Fit curves with the prior of their neighbours.

    Standard deviations are conditional on the neighbours, whose own variance is included.

    Args:
        model: kinetic model.
        C: tissue concentration, ``(n, t)``, mM.
        curve: plasma curve and frames.
        where: voxel indices, ``(n, 3)``.
        shared: as in :func:`fit_kinetics`.
        progress: called with the share done.
    """
    alone = fit_kinetics(model, C, curve, shared=shared)
    neighbours = _neighbours(where).to(C.device)
    step = _step_variance(alone, neighbours)
    if len(C) == 0 or not torch.isfinite(step).all():
        return alone
    noise = alone.residual_sd.nan_to_num()
    theta, variance, result = torch.nan_to_num(alone.parameters), _variance(alone), alone
    colour = torch.as_tensor(where.sum(axis=1) % 2, device=C.device)
    for sweep in range(_SWEEPS):
        for turn in (0, 1):
            at = torch.nonzero(colour == turn)[:, 0]
            prior = _prior(theta, variance, at, neighbours[at], step, noise[at])
            part = fit_kinetics(
                model, C[at], curve, shared=None if shared is None else shared[at], prior=prior
            )
            theta = theta.index_copy(0, at, torch.nan_to_num(part.parameters))
            variance = variance.index_copy(0, at, _variance(part))
            result = KineticFit(
                result.names,
                *(
                    getattr(result, n).index_copy(0, at, getattr(part, n))
                    for n in result.__dataclass_fields__
                    if n != "names"
                ),
            )
        progress((sweep + 1) / _SWEEPS)
    return result


def _neighbours(where: NDArray[np.int64]) -> Tensor:
    """Index of the six face neighbours of every voxel, ``(n, 6)``; -1 where there is none."""
    index = {tuple(v): i for i, v in enumerate(where.tolist())}
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    found = [
        [index.get((x + a, y + b, z + c), -1) for a, b, c in steps] for x, y, z in where.tolist()
    ]
    return torch.as_tensor(np.array(found, dtype=np.int64).reshape(-1, 6))


def _step_variance(fit: KineticFit, neighbours: Tensor) -> Tensor:
    """Variance of the difference between neighbours beyond the noise of both, ``(p,)``.

    It matches the median of the squared normalised differences to that of a normal distribution,
    which is robust to the edge of the tumour and to failed fits.
    """
    first, second = torch.nonzero(neighbours >= 0)[:, 0], neighbours[neighbours >= 0]
    good = fit.converged & torch.isfinite(fit.parameters).all(1) & ~fit.at_bound.any(1)
    keep = good[first] & good[second] & (first < second)
    first, second = first[keep], second[keep]
    if len(first) < 10:
        return fit.parameters.new_full((fit.parameters.shape[1],), float("nan"))
    apart = (fit.parameters[first] - fit.parameters[second]).square()
    noise = _variance(fit)[first] + _variance(fit)[second]
    high = apart.median(0).values / _MEDIAN_CHI2
    low = 1e-3 * high
    for _ in range(40):
        middle = (low * high).sqrt()
        wide = (apart / (middle + noise)).median(0).values > _MEDIAN_CHI2
        low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
    return high.clamp_min(1e-20)


def _variance(fit: KineticFit) -> Tensor:
    """Variance of every parameter, ``(n, p)``; 1e30 for a voxel without a fit."""
    return fit.covariance.diagonal(dim1=1, dim2=2).nan_to_num(nan=1e30)


def _prior(
    theta: Tensor, variance: Tensor, at: Tensor, neighbours: Tensor, step: Tensor, noise_sd: Tensor
) -> NormalPrior:
    """Prior of the voxels ``at`` by their neighbours."""
    other = neighbours.clamp_min(0)
    apart = (theta[other] - theta[at][:, None]).square()
    expected = step + variance[other]
    # Student's t: a neighbour many standard deviations apart is another tissue; half, because a
    # pair enters the prior of both of its voxels
    weight = (
        0.5
        * _DEGREES_OF_FREEDOM
        / (_DEGREES_OF_FREEDOM + apart / (expected + variance[at][:, None]))
    )
    precision = (neighbours >= 0).to(theta.dtype)[..., None] * weight / expected
    total = precision.sum(1)
    mean = (precision * theta[other]).sum(1) / total.clamp_min(1e-30)
    return NormalPrior(mean, torch.diag_embed(total), noise_sd)
