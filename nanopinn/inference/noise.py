"""The noise of each kind of observation, estimated from what a fit leaves over.

With whitened residuals r, systematic errors of effect E and voxels whose stated noise n and other
variance v make up ``sd^2 = n^2 + v``, the misfit is Gaussian of covariance ``C = diag((s^2 n^2 +
v)/sd^2) + E E'``. The scales s, one per kind, are those of the largest likelihood (systematic
errors eliminated, not counted as noise), under a log-normal prior of one natural-log unit; their sd
follows from its curvature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.tumour_problem import Fields

#: Of ln s, before the data: the stated noise is right within a factor of seven.
PRIOR_SD = 1.0


@dataclass(frozen=True)
class NoiseScale:
    """True over stated noise of one kind of observation; ``sd`` is of its logarithm."""

    kind: str
    scale: float
    sd: float

    def describe(self) -> str:
        low, high = self.scale * np.exp(-1.96 * self.sd), self.scale * np.exp(1.96 * self.sd)
        return (
            f"The noise of {self.kind} was estimated: {self.scale:.2f} times what was stated"
            f" ({low:.2f} to {high:.2f})."
        )


def noise_scales(problem: InverseProblem, fields: Fields) -> tuple[NoiseScale, ...]:
    """Scales of every kind, from the fields of a fit.

    Args:
        problem: as the fit left it.
        fields: at its estimate.
    """
    contrast = problem.contrast
    r = contrast.residual(fields.contrast).reshape(-1)
    spare = len(r) - contrast.count  # directions that were projected out hold no noise
    one, none = torch.ones_like(r), torch.zeros_like(r)
    groups = torch.zeros(len(r), dtype=torch.long, device=r.device)
    found = _estimate_noise_scales(
        ("contrast agent",),
        groups,
        one,
        none,
        *_split_systematic_errors(problem, "contrast", r),
        spare,
    )
    if fields.pools is None:
        return found
    kinds = tuple(sorted({d.quantity for d in problem.drug}))
    share = torch.cat([(d.noise_sd / d.sd).square()[d.voxels] for d in problem.drug])
    of_kind = [
        torch.full((d.count,), kinds.index(d.quantity), device=r.device) for d in problem.drug
    ]
    names = tuple(f"{k} drug" for k in kinds)
    return found + _estimate_noise_scales(
        names,
        torch.cat(of_kind),
        share,
        1 - share,
        *_split_systematic_errors(problem, "drug", problem.drug_misfit(fields.pools)),
        0,
    )


def _split_systematic_errors(
    problem: InverseProblem, block: str, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """The residual as if systematic errors were zero, and their effect."""
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
    spare: int,
) -> tuple[NoiseScale, ...]:
    """Scales of the noise share of a variance in groups, by maximum a posteriori."""

    def cost(log_s: Tensor) -> Tensor:
        D = torch.exp(2 * log_s)[group] * noise + other
        weighed = E / D[:, None]
        gram = torch.eye(E.shape[1], dtype=E.dtype, device=E.device) + E.T @ weighed
        b = weighed.T @ r
        size = torch.log(D).sum() - 2 * spare * log_s[0] + torch.logdet(gram)
        return 0.5 * (
            size + (r / D) @ r - b @ torch.linalg.solve(gram, b) + (log_s / PRIOR_SD).square().sum()
        )

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(x, dtype=r.dtype, device=r.device, requires_grad=True)
        c = cost(at)
        c.backward()
        assert at.grad is not None
        return float(c.detach()), at.grad.cpu().numpy().astype(np.float64)

    start = [0.5 * float(torch.log(r[group == k].square().mean())) for k in range(len(kinds))]
    best = minimize(value, np.clip(start, -3, 3), jac=True, method="BFGS").x
    curvature = torch.autograd.functional.hessian(
        cost, torch.tensor(best, dtype=r.dtype, device=r.device)
    )
    sd = torch.linalg.inv(curvature).diagonal().sqrt().cpu().numpy()
    return tuple(
        NoiseScale(k, float(np.exp(x)), float(s)) for k, x, s in zip(kinds, best, sd, strict=True)
    )


def scale_noise(problem: InverseProblem, scales: Mapping[str, float]) -> InverseProblem:
    """The problem, as it was posed, with its stated noise scaled."""
    contrast = replace(
        problem.contrast, noise_sd=problem.contrast.noise_sd * scales.get("contrast agent", 1.0)
    )
    drug = []
    for d in problem.drug:
        s = scales.get(f"{d.quantity} drug", 1.0)
        drug.append(replace(d, noise_sd=d.noise_sd * s, sd=d.noise_sd * s))
    return replace(problem, contrast=contrast, drug=tuple(drug))
