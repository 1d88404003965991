"""Batched non-linear least squares of kinetic models: linear start, Levenberg-Marquardt, bounds, errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.aif import PlasmaCurve
from nanopinn.imaging.convolution import ExponentialTable, convolve_exponential

Array = NDArray[np.float64]


class InputCurve:
    """A plasma curve seen at the frames: its values, its running integral, its exponential convolutions."""

    def __init__(self, aif: PlasmaCurve, frame_times_s: Array, device: str = "cpu") -> None:
        t, c, at = (torch.as_tensor(np.asarray(v, dtype=np.float64), device=device) for v in (aif.times_s, aif.plasma_mM, frame_times_s))
        self.times = at
        self.plasma = torch.as_tensor(np.interp(frame_times_s, aif.times_s, aif.plasma_mM, left=0.0), device=device)[None]
        self.area = convolve_exponential(t, c, at.new_zeros(()), at)[None]
        self.table = ExponentialTable(t, c, at)

    def linear_fit(self, C: Tensor, *, with_plasma: bool) -> Tensor:
        """Coefficients of ``int(Cp)``, ``-int(C)`` and, on request, ``Cp`` that best give ``C`` ``(n, t)``."""
        steps = self.times.diff()
        pieces = steps * (C[:, 1:] + C[:, :-1]) / 2
        running = torch.cat([torch.zeros_like(C[:, :1]), pieces.cumsum(1)], dim=1)
        columns = [self.area.expand_as(C), -running] + ([self.plasma.expand_as(C)] if with_plasma else [])
        X = torch.stack(columns, dim=-1)
        scale = X.square().sum(1, keepdim=True).sqrt().clamp_min(1e-30)
        X = X / scale
        normal = X.transpose(1, 2) @ X
        normal = normal + 1e-9 * torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
        right = (X * C[..., None]).sum(1)
        return torch.linalg.solve(normal, right) / scale[:, 0]


class KineticModel(Protocol):
    """A module that holds one model: its parameters, their bounds (Ktrans in 1/s), its curve and Jacobian."""

    NAMES: tuple[str, ...]
    LOWER: tuple[float, ...]
    UPPER: tuple[float, ...]

    def evaluate(self, parameters: Tensor, curve: InputCurve) -> tuple[Tensor, Tensor]: ...

    def linear_start(self, C: Tensor, curve: InputCurve) -> Tensor: ...


@dataclass(frozen=True)
class KineticFit:
    """Parameters ``(n, p)`` (Ktrans in 1/s), covariance ``(n, p, p)``, and how each fit went.

    Attributes:
        at_bound: ``(n, p)`` bool. converged: ``(n,)`` bool. r2: ``(n,)``. residual_sd: ``(n,)`` mM.
    """

    parameters: Tensor
    covariance: Tensor
    at_bound: Tensor
    converged: Tensor
    r2: Tensor
    residual_sd: Tensor


def fit_kinetics(
    model: KineticModel, C: Tensor, curve: InputCurve, *, shared: Tensor | None = None, iterations: int = 30, chunk: int = 16384
) -> KineticFit:
    """Fit every curve ``(n, t)``; memory is bounded by ``chunk`` curves at a time.

    A curve that is not finite gives NaN and touches no other.

    Args:
        shared: ``(n, t)``, one standard deviation of an error that all frames of a curve share; it widens the
            covariance beyond what the frames' own noise gives.
    """
    common = torch.zeros_like(C) if shared is None else shared
    parts = [_fit_chunk(model, C[i : i + chunk], common[i : i + chunk], curve, iterations) for i in range(0, len(C), chunk)]
    return KineticFit(*(torch.cat(p) for p in zip(*parts, strict=True)))


def _fit_chunk(model: KineticModel, C: Tensor, shared: Tensor, curve: InputCurve, iterations: int) -> tuple[Tensor, ...]:
    finite = torch.isfinite(C).all(dim=1)
    C = torch.where(finite[:, None], C, 0.0)
    lower, upper = (C.new_tensor(b) for b in (model.LOWER, model.UPPER))
    theta = torch.minimum(torch.maximum(torch.nan_to_num(model.linear_start(C, curve)), lower + 1e-6), upper * 0.95)
    damping = torch.full((len(C),), 1e-3, dtype=C.dtype, device=C.device)
    f, J = model.evaluate(theta, curve)
    cost = (C - f).square().sum(1)
    converged = ~finite
    active = torch.nonzero(finite)[:, 0]
    for _ in range(iterations):
        if len(active) == 0:
            break
        step = _bounded_step(J[active], C[active] - f[active], theta[active], damping[active], lower, upper)
        trial = torch.minimum(torch.maximum(theta[active] + step, lower), upper)
        f_trial, J_trial = model.evaluate(trial, curve)
        cost_trial = (C[active] - f_trial).square().sum(1)
        better = cost_trial <= cost[active]
        size = (step.abs() / (theta[active].abs() + 1e-4 * upper)).amax(1)
        accepted = active[better]
        theta[accepted], f[accepted], J[accepted] = trial[better], f_trial[better], J_trial[better]
        cost[accepted] = cost_trial[better]
        damping[active] = torch.where(better, damping[active] / 8, damping[active] * 6)
        done = (size < 1e-5) | (damping[active] > 1e8)
        converged[active[done]] = True
        active = active[~done]
    at_bound = (theta <= lower + 1e-9) | (theta >= upper - 1e-9)
    return _summary(C, J, torch.nan_to_num(shared), cost, theta, at_bound, converged, finite)


def _bounded_step(J: Tensor, r: Tensor, theta: Tensor, damping: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Damped Gauss-Newton step of the parameters that are free to move."""
    H = J.transpose(1, 2) @ J
    g = (J * r[..., None]).sum(1)
    free = ~(((theta <= lower) & (g < 0)) | ((theta >= upper) & (g > 0)))
    mask = free.to(J.dtype)
    diagonal = H.diagonal(dim1=1, dim2=2)
    H = H * mask[:, :, None] * mask[:, None, :]
    H = H + torch.diag_embed(torch.where(free, damping[:, None] * diagonal + 1e-18, 1.0))
    scale = H.diagonal(dim1=1, dim2=2).rsqrt()
    return torch.linalg.solve(scale[:, :, None] * H * scale[:, None, :], scale * g * mask) * scale


def _summary(
    C: Tensor, J: Tensor, shared: Tensor, cost: Tensor, theta: Tensor, at_bound: Tensor, converged: Tensor, finite: Tensor
) -> tuple[Tensor, ...]:  # fmt: skip
    t, p = C.shape[1], theta.shape[1]
    sd = (cost / max(1, t - p)).sqrt()
    H = J.transpose(1, 2) @ J
    scale = H.diagonal(dim1=1, dim2=2).clamp_min(1e-30).rsqrt()
    # a ridge at round-off keeps curves without information from spoiling their batch
    scaled = scale[:, :, None] * H * scale[:, None, :] + 1e-12 * torch.eye(p, dtype=C.dtype, device=C.device)
    inverse = scale[:, :, None] * torch.linalg.inv(scaled) * scale[:, None, :]
    moved = torch.einsum("npq,ntq,nt->np", inverse, J, shared)
    covariance = inverse * sd.square()[:, None, None] + moved[:, :, None] * moved[:, None, :]
    spread = (C - C.mean(1, keepdim=True)).square().sum(1)
    r2 = 1 - cost / spread.clamp_min(1e-30)
    nan = torch.tensor(float("nan"), dtype=C.dtype, device=C.device)
    return (
        torch.where(finite[:, None], theta, nan), torch.where(finite[:, None, None], covariance, nan),
        at_bound & finite[:, None], converged & finite, torch.where(finite, r2, nan), torch.where(finite, sd, nan),
    )  # fmt: skip
