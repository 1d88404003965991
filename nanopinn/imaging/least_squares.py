"""Batched non-linear least squares: bounded Levenberg-Marquardt for many small problems at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: From parameters ``(m, p)`` of the problems with indices ``(m,)`` to curves ``(m, t)`` and their
#: Jacobian ``(m, p, t)``.
CurveFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class NormalPrior:
    """Normal prior of the parameters of every problem.

    Attributes:
        mean: ``(n, p)``.
        precision: inverse covariance, ``(n, p, p)``.
        noise_sd: standard deviation of one data point, ``(n,)``, unit of the data.
    """

    mean: Tensor
    precision: Tensor
    noise_sd: Tensor

    def select(self, at: slice | Tensor) -> NormalPrior:
        """The prior of some problems."""
        return NormalPrior(self.mean[at], self.precision[at], self.noise_sd[at])


@dataclass(frozen=True)
class Bounds:
    """Limits of every parameter ``(p,)``."""

    lower: Tensor
    upper: Tensor

    def clip(self, theta: Tensor) -> Tensor:
        """The nearest point within the bounds."""
        return torch.minimum(torch.maximum(theta, self.lower), self.upper)

    def move_off_bounds(self, theta: Tensor) -> Tensor:
        """A start strictly within the bounds."""
        width = self.upper - self.lower
        return torch.minimum(
            torch.maximum(torch.nan_to_num(theta), self.lower + 1e-6 * width),
            self.upper - 0.05 * width,
        )


@dataclass(frozen=True)
class LeastSquaresFit:
    """Result of a batch of fits.

    Attributes:
        theta: parameters, ``(n, p)``.
        f: fitted curves, ``(n, t)``.
        J: Jacobian, ``(n, p, t)``.
        cost: sum of squared residuals, the prior's term included, ``(n,)``.
        converged: ``(n,)`` bool.
    """

    theta: Tensor
    f: Tensor
    J: Tensor
    cost: Tensor
    converged: Tensor

    def select_lower_cost(self, other: LeastSquaresFit) -> LeastSquaresFit:
        """The fit of lower cost, problem by problem."""
        take = other.cost < self.cost * (1 - 1e-9)
        return LeastSquaresFit(
            *(
                torch.where(take.reshape(-1, *[1] * (a.ndim - 1)), b, a)
                for a, b in (
                    (getattr(self, n), getattr(other, n))
                    for n in ("theta", "f", "J", "cost", "converged")
                )
            )
        )


def fit_levenberg_marquardt(
    curves: CurveFunction,
    C: Tensor,
    start: Tensor,
    bounds: Bounds,
    fit_mask: Tensor,
    prior: NormalPrior | None,
    iterations: int,
) -> LeastSquaresFit:
    """Fit every curve by Levenberg-Marquardt; converged problems leave the batch.

    Args:
        curves: model.
        C: data, ``(n, t)``.
        start: initial parameters, ``(n, p)``.
        bounds: of the parameters.
        fit_mask: problems to fit, ``(n,)`` bool; the others keep their start.
        prior: of the parameters; None for least squares alone.
        iterations: largest number of steps.
    """
    theta = bounds.move_off_bounds(start)
    damping = torch.full((len(C),), 1e-3, dtype=C.dtype, device=C.device)
    f, J = curves(theta, torch.arange(len(C), device=C.device))
    cost = (C - f).square().sum(1) + _prior_cost(theta, prior)
    converged = ~fit_mask
    active = torch.nonzero(fit_mask)[:, 0]
    for _ in range(iterations):
        if len(active) == 0:
            break
        old, local = theta[active], None if prior is None else prior.select(active)
        step = _solve_bounded_step(
            J[active], C[active] - f[active], old, damping[active], bounds, local
        )
        trial = bounds.clip(old + step)
        f_trial, J_trial = curves(trial, active)
        cost_trial = (C[active] - f_trial).square().sum(1) + _prior_cost(trial, local)
        better = cost_trial <= cost[active]
        size = (step.abs() / (old.abs() + 1e-4 * bounds.upper)).amax(1)
        accepted = active[better]
        theta[accepted], f[accepted], J[accepted] = trial[better], f_trial[better], J_trial[better]
        cost[accepted] = cost_trial[better]
        # a floor: parallel columns must not make the step singular
        damping[active] = torch.where(better, damping[active] / 8, damping[active] * 6).clamp_min(
            1e-10
        )
        done = (size < 1e-5) | (damping[active] > 1e8)
        converged[active[done]] = True
        active = active[~done]
    return LeastSquaresFit(theta, f, J, cost, converged)


def invert_normal_matrix(H: Tensor, ridge: float = 1e-12) -> Tensor:
    """Inverse of normal matrices ``(n, p, p)``, scaled to a unit diagonal.

    Args:
        H: ``J J^T``, symmetric and not negative.
        ridge: added to the scaled diagonal, so that a problem without information does not make the
            whole batch singular.

    Returns:
        ``(n, p, p)``: the covariance of the parameters per unit variance of the data.
    """
    scale = H.diagonal(dim1=1, dim2=2).clamp_min(1e-30).rsqrt()
    scaled = scale[:, :, None] * H * scale[:, None, :] + ridge * torch.eye(
        H.shape[-1], dtype=H.dtype, device=H.device
    )
    return scale[:, :, None] * torch.linalg.inv(scaled) * scale[:, None, :]


def _prior_cost(theta: Tensor, prior: NormalPrior | None) -> Tensor:
    """Squared deviation from the prior mean, weighted to the unit of squared residuals."""
    if prior is None:
        return theta.new_zeros(len(theta))
    away = theta - prior.mean
    return prior.noise_sd**2 * torch.einsum("np,npq,nq->n", away, prior.precision, away)


def _solve_bounded_step(
    J: Tensor, r: Tensor, theta: Tensor, damping: Tensor, bounds: Bounds, prior: NormalPrior | None
) -> Tensor:
    """Damped Gauss-Newton step of the parameters that are free to move."""
    H = J @ J.transpose(1, 2)
    g = (J @ r[..., None])[..., 0]
    if prior is not None:
        weight = prior.noise_sd.square()[:, None, None] * prior.precision
        H, g = H + weight, g - (weight @ (theta - prior.mean)[..., None])[..., 0]
    free = ~(((theta <= bounds.lower) & (g < 0)) | ((theta >= bounds.upper) & (g > 0)))
    mask = free.to(J.dtype)
    diagonal = H.diagonal(dim1=1, dim2=2)
    H = H * mask[:, :, None] * mask[:, None, :]
    H = H + torch.diag_embed(torch.where(free, damping[:, None] * diagonal + 1e-18, 1.0))
    scale = H.diagonal(dim1=1, dim2=2).rsqrt()
    return torch.linalg.solve(scale[:, :, None] * H * scale[:, None, :], scale * g * mask) * scale
