"""A spatially regularised fit: voxels learn from their neighbours as far as the tissue is smooth.

The parameters of neighbours differ by a normal step whose variance is the tissue's own, estimated from independent
fits (a Gaussian Markov random field, as in Schmid 2006, IEEE TMI 25:1627). The most probable maps are found by
fitting every voxel under the prior that its neighbours make, in turns of a chequerboard.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.kinetics.curve import InputCurve
from nanopinn.imaging.kinetics.fit import KineticFit, NormalPrior, fit_kinetics
from nanopinn.imaging.kinetics.response import KineticModel

_SWEEPS = 4


def smooth_fit(
    model: KineticModel, C: Tensor, curve: InputCurve, where: NDArray[np.int64], *, shared: Tensor | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> KineticFit:  # fmt: skip
    """Fit curves ``(n, t)`` of voxels at ``where`` ``(n, 3)``, each under the prior of its neighbours.

    Standard deviations are those given the neighbours, so they hold what the prior adds.
    """
    alone = fit_kinetics(model, C, curve, shared=shared)
    beside = _neighbours(where).to(C.device)
    step = _step_variance(alone, beside)
    if len(C) == 0 or not torch.isfinite(step).all():
        return alone
    noise = alone.residual_sd.nan_to_num()
    theta, result = torch.nan_to_num(alone.parameters), alone
    colour = torch.as_tensor(where.sum(axis=1) % 2, device=C.device)
    for sweep in range(_SWEEPS):
        for turn in (0, 1):
            at = torch.nonzero(colour == turn)[:, 0]
            prior = _prior(theta, beside[at], step, noise[at])
            part = fit_kinetics(model, C[at], curve, shared=None if shared is None else shared[at], prior=prior)
            theta = theta.index_copy(0, at, torch.nan_to_num(part.parameters))
            result = KineticFit(
                result.names, *(getattr(result, n).index_copy(0, at, getattr(part, n)) for n in result.__dataclass_fields__ if n != "names")
            )
        progress((sweep + 1) / _SWEEPS)
    return result


def _neighbours(where: NDArray[np.int64]) -> Tensor:
    """Index of the six face neighbours of every voxel, ``(n, 6)``; -1 where there is none."""
    index = {tuple(v): i for i, v in enumerate(where.tolist())}
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    found = [[index.get((x + a, y + b, z + c), -1) for a, b, c in steps] for x, y, z in where.tolist()]
    return torch.as_tensor(np.array(found, dtype=np.int64).reshape(-1, 6))


def _step_variance(fit: KineticFit, beside: Tensor) -> Tensor:
    """Variance of the step between neighbours ``(p,)``: what their difference has beyond the noise of both.

    Medians: an edge of the tumour or a failed fit must not loosen the prior everywhere.
    """
    first, second = torch.nonzero(beside >= 0)[:, 0], beside[beside >= 0]
    good = fit.converged & torch.isfinite(fit.parameters).all(1) & ~fit.at_bound.any(1)
    keep = good[first] & good[second] & (first < second)
    first, second = first[keep], second[keep]
    if len(first) < 10:
        return torch.full_like(fit.parameters[0], float("nan"))
    variance = fit.covariance.diagonal(dim1=1, dim2=2)
    # 0.455 is the median of a squared standard normal
    seen = (fit.parameters[first] - fit.parameters[second]).square().median(0).values / 0.455
    noise = (variance[first] + variance[second]).median(0).values
    return torch.maximum(seen - noise, 0.02 * seen).clamp_min(1e-20)


def _prior(theta: Tensor, beside: Tensor, step: Tensor, noise_sd: Tensor) -> NormalPrior:
    known = (beside >= 0).to(theta.dtype)
    count = known.sum(1)
    mean = (theta[beside.clamp_min(0)] * known[..., None]).sum(1) / count.clamp_min(1.0)[:, None]
    return NormalPrior(mean, torch.diag_embed(count[:, None] / step), noise_sd)
