"""Noise of each kind of observation, estimated from the residuals of a fit.

With whitened residuals r, systematic errors of effect E, and voxels whose stated noise n and other
variance v add up to ``sd^2 = n^2 + v``, the residual is Gaussian with covariance
``C = diag((s^2 n^2 + v)/sd^2) + E E'``. The scales s, one for each kind, maximise the likelihood
with a log-normal prior; systematic errors are eliminated and do not count as noise. The standard
deviations follow from the curvature at the maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.systematic import SharedError
from nanopinn.inference.tumour_problem import Fields
from nanopinn.results.fit_result import central_interval

#: Prior standard deviation of ln s: the stated noise is correct within a factor of seven (95 %).
PRIOR_SD = 1.0


@dataclass(frozen=True)
class NoiseScale:
    """Ratio of the estimated to the stated noise of one kind of observation.

    Attributes:
        kind: kind of observation, for messages.
        scale: estimated ratio.
        sd: posterior standard deviation of its logarithm.
    """

    kind: str
    scale: float
    sd: float

    def describe(self) -> str:
        """The estimate as a sentence."""
        low, high = central_interval(self.scale, self.sd, "log")
        return (
            f"The noise of {self.kind} was estimated as {self.scale:.2f} times the stated noise"
            f" (95 % interval {low:.2f} to {high:.2f})."
        )


def noise_scales(problem: InverseProblem, fields: Fields) -> tuple[NoiseScale, ...]:
    """Estimate the noise scale of every kind of observation.

    Args:
        problem: problem as it is at the end of the fit.
        fields: fields at the estimate.

    Returns:
        One scale for contrast agent and one for each quantity of drug image.
    """
    contrast = problem.contrast
    r = contrast.residual(fields.contrast).reshape(-1)
    projected = len(r) - contrast.count  # directions that were projected out contain no noise
    one, none = torch.ones_like(r), torch.zeros_like(r)
    groups = torch.zeros(len(r), dtype=torch.long, device=r.device)
    found = _estimate_noise_scales(
        ("contrast agent",),
        groups,
        one,
        none,
        *_split_systematic_errors(problem, "contrast", r),
        projected,
    )
    if fields.pools is None:
        return found
    kinds = tuple(sorted({d.quantity for d in problem.drug}))
    share = torch.cat([(d.noise_sd / d.sd).square()[d.voxels] for d in problem.drug])
    group_of_voxel = [
        torch.full((d.count,), kinds.index(d.quantity), device=r.device) for d in problem.drug
    ]
    names = tuple(f"{k} drug" for k in kinds)
    return found + _estimate_noise_scales(
        names,
        torch.cat(group_of_voxel),
        share,
        1 - share,
        *_split_systematic_errors(problem, "drug", problem.drug_misfit(fields.pools)),
        0,
    )


def _split_systematic_errors(
    problem: InverseProblem, block: str, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Residual for systematic errors of zero, and their effect."""
    if problem.errors is None:
        return residual, residual.new_zeros((len(residual), 0))
    shared = problem.errors.contrast if block == "contrast" else problem.errors.drug
    return residual - shared.effect @ shared.reference, shared.effect


def _estimate_noise_scales(
    kinds: tuple[str, ...],
    group: Tensor,
    noise: Tensor,
    other: Tensor,
    r: Tensor,
    E: Tensor,
    projected: int,
) -> tuple[NoiseScale, ...]:
    """Maximum a posteriori estimate of the noise scales of groups of residuals.

    Args:
        kinds: name of each group.
        group: group of every residual, ``(n,)``.
        noise: fraction of the variance that is noise, ``(n,)``.
        other: remaining fraction of the variance, ``(n,)``.
        r: whitened residuals for systematic errors of zero, ``(n,)``.
        E: effect of the systematic errors, ``(n, k)``.
        projected: number of directions projected out of the first group.
    """

    def cost(log_s: Tensor) -> Tensor:
        variance = torch.exp(2 * log_s)[group] * noise + other
        sd = variance.sqrt()
        shared = SharedError(E / sd[:, None], E.new_zeros(E.shape[1]))
        log_determinant = (
            torch.log(variance).sum() - 2 * projected * log_s[0] + torch.logdet(shared.precision)
        )
        misfit = shared.eliminate(r / sd).square().sum()
        return 0.5 * (log_determinant + misfit + (log_s / PRIOR_SD).square().sum())

    def cost_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(x, dtype=r.dtype, device=r.device, requires_grad=True)
        c = cost(at)
        c.backward()
        assert at.grad is not None
        return float(c.detach()), at.grad.cpu().numpy().astype(np.float64)

    start = [0.5 * float(torch.log(r[group == k].square().mean())) for k in range(len(kinds))]
    best = minimize(cost_and_gradient, np.clip(start, -3, 3), jac=True, method="BFGS").x
    curvature = torch.autograd.functional.hessian(
        cost, torch.tensor(best, dtype=r.dtype, device=r.device)
    )
    sd = torch.linalg.inv(curvature).diagonal().sqrt().cpu().numpy()
    return tuple(
        NoiseScale(k, float(np.exp(x)), float(s)) for k, x, s in zip(kinds, best, sd, strict=True)
    )


def scale_noise(problem: InverseProblem, scales: Mapping[str, float]) -> InverseProblem:
    """Scale the stated noise of a problem.

    Args:
        problem: problem before its fit.
        scales: factor of each kind of observation; 1 for kinds that are not named.

    Returns:
        The problem with scaled noise.
    """
    contrast = replace(
        problem.contrast, noise_sd=problem.contrast.noise_sd * scales.get("contrast agent", 1.0)
    )
    drug = []
    for d in problem.drug:
        s = scales.get(f"{d.quantity} drug", 1.0)
        drug.append(replace(d, noise_sd=d.noise_sd * s, sd=d.noise_sd * s))
    return replace(problem, contrast=contrast, drug=tuple(drug))
