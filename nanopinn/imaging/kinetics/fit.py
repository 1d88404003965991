"""Batched non-linear least squares of kinetic models: Levenberg-Marquardt within bounds, with errors and priors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nanopinn.imaging.kinetics.convolution import ExponentialTable
from nanopinn.imaging.kinetics.curve import InputCurve
from nanopinn.imaging.kinetics.response import KineticModel, evaluate

Curves = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class KineticFit:
    """Parameters ``(n, p)`` (flows in 1/s, with a fitted delay in s as the last), covariance ``(n, p, p)``, and how each fit went.

    Attributes:
        names: of the parameters. at_bound: ``(n, p)`` bool. converged: ``(n,)`` bool. r2, aicc: ``(n,)``.
        residual_sd: ``(n,)`` mM. curves: ``(n, t)`` mM, fitted.
    """

    names: tuple[str, ...]
    parameters: Tensor
    covariance: Tensor
    at_bound: Tensor
    converged: Tensor
    r2: Tensor
    aicc: Tensor
    residual_sd: Tensor
    curves: Tensor


@dataclass(frozen=True)
class NormalPrior:
    """What is known of each voxel's parameters before its curve is seen.

    Attributes:
        mean: ``(n, p)``. precision: ``(n, p, p)``. noise_sd: ``(n,)`` mM, of a frame, against which it is weighed.
    """

    mean: Tensor
    precision: Tensor
    noise_sd: Tensor

    def part(self, at: slice | Tensor) -> NormalPrior:
        """That of some voxels."""
        return NormalPrior(self.mean[at], self.precision[at], self.noise_sd[at])


def fit_kinetics(
    model: KineticModel, C: Tensor, curve: InputCurve, *, shared: Tensor | None = None, prior: NormalPrior | None = None,
    delay_window_s: float | None = None, iterations: int = 100, chunk: int = 16384,
) -> KineticFit:  # fmt: skip
    """Fit every curve ``(n, t)``; memory is bounded by ``chunk`` curves at a time.

    A curve that is not finite gives NaN and touches no other.

    Args:
        shared: ``(n, t)`` or ``(n, k, t)``, one standard deviation of each of ``k`` errors that all frames of a curve
            share; they widen the covariance beyond what the frames' own noise gives.
        prior: on the parameters, without a delay.
        delay_window_s: fit each voxel's arrival too, within this of the curve's, either way; None: it arrives with it.
    """
    common = C.new_zeros((len(C), 0, C.shape[1])) if shared is None else shared.reshape(len(C), -1, C.shape[1])
    parts = [
        _fit_chunk(model, C[i : i + chunk], common[i : i + chunk], curve, None if prior is None else prior.part(slice(i, i + chunk)),
                   delay_window_s, iterations)
        for i in range(0, len(C), chunk)
    ]  # fmt: skip
    names = model.NAMES if delay_window_s is None else (*model.NAMES, "delay")
    return KineticFit(names, *(torch.cat(p) for p in zip(*parts, strict=True)))


def _fit_chunk(
    model: KineticModel, C: Tensor, shared: Tensor, curve: InputCurve, prior: NormalPrior | None, window: float | None, iterations: int
) -> tuple[Tensor, ...]:  # fmt: skip
    finite = torch.isfinite(C).all(dim=1)
    C = torch.where(finite[:, None], C, 0.0)
    bounds = _Bounds.of(model, C, window)
    starts = _late_starts(model, C, curve, window) if window else model.starts(C, curve)
    found = [_descend(lambda p: evaluate(model, p, curve, with_delay=window is not None), C, s, bounds, finite, prior, iterations)
             for s in starts]  # fmt: skip
    best = found[0]
    for other in found[1:]:
        best = best.where_lower(other)
    return _summary(C, best, torch.nan_to_num(shared), bounds, finite, prior)


@dataclass(frozen=True)
class _Bounds:
    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, model: KineticModel, C: Tensor, window: float | None) -> _Bounds:
        late = () if window is None else (window,)
        return cls(C.new_tensor((*model.LOWER, *(-w for w in late))), C.new_tensor((*model.UPPER, *late)))

    def clip(self, theta: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(theta, self.lower), self.upper)

    def inside(self, theta: Tensor) -> Tensor:
        """A start that no bound holds."""
        width = self.upper - self.lower
        return torch.minimum(torch.maximum(torch.nan_to_num(theta), self.lower + 1e-6 * width), self.upper - 0.05 * width)


@dataclass(frozen=True)
class _Descent:
    """Where a descent ended: parameters, curves, Jacobian ``(n, p, t)``, cost with and without the prior."""

    theta: Tensor
    f: Tensor
    J: Tensor
    cost: Tensor
    converged: Tensor

    def where_lower(self, other: _Descent) -> _Descent:
        """Voxel by voxel the better of the two."""
        take = other.cost < self.cost * (1 - 1e-9)
        return _Descent(
            *(torch.where(take.reshape(-1, *[1] * (a.ndim - 1)), b, a)
              for a, b in ((getattr(self, n), getattr(other, n)) for n in ("theta", "f", "J", "cost", "converged")))
        )  # fmt: skip


def _late_starts(model: KineticModel, C: Tensor, curve: InputCurve, window: float) -> tuple[Tensor, ...]:
    """One start: of a few arrivals, the one whose fit at fixed arrival is best."""
    everyone = torch.ones(len(C), dtype=torch.bool, device=C.device)
    bounds, best = _Bounds.of(model, C, None), None
    for shift in torch.linspace(-0.9 * window, 0.9 * window, 9).tolist():
        for start in model.starts(C, curve.shifted(shift)):
            end = _descend(partial(_arrived, model, curve, shift), C, start, bounds, everyone, None, 8)
            late = torch.cat([end.theta, torch.full_like(end.theta[:, :1], shift)], dim=1)
            here = _Descent(late, end.f, end.J, end.cost, end.converged)
            best = here if best is None else best.where_lower(here)
    assert best is not None
    return (best.theta,)


def _arrived(model: KineticModel, curve: InputCurve, shift: float, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Curves and Jacobian with the input later by ``shift``; a table of its own pays for more voxels than it has nodes."""
    if len(parameters) > ExponentialTable.nodes:
        return evaluate(model, parameters, curve.shifted(shift))
    f, J = evaluate(model, torch.cat([parameters, torch.full_like(parameters[:, :1], shift)], dim=1), curve, with_delay=True)
    return f, J[:, :-1]


def _descend(
    curves: Curves, C: Tensor, start: Tensor, bounds: _Bounds, wanted: Tensor, prior: NormalPrior | None, iterations: int
) -> _Descent:  # fmt: skip
    theta = bounds.inside(start)
    damping = torch.full((len(C),), 1e-3, dtype=C.dtype, device=C.device)
    f, J = curves(theta)
    cost = (C - f).square().sum(1) + _of_prior(theta, prior)
    converged = ~wanted
    active = torch.nonzero(wanted)[:, 0]
    for _ in range(iterations):
        if len(active) == 0:
            break
        old, local = theta[active], None if prior is None else prior.part(active)
        step = _bounded_step(J[active], C[active] - f[active], old, damping[active], bounds, local)
        trial = bounds.clip(old + step)
        f_trial, J_trial = curves(trial)
        cost_trial = (C[active] - f_trial).square().sum(1) + _of_prior(trial, local)
        better = cost_trial <= cost[active]
        size = (step.abs() / (old.abs() + 1e-4 * bounds.upper)).amax(1)
        accepted = active[better]
        theta[accepted], f[accepted], J[accepted] = trial[better], f_trial[better], J_trial[better]
        cost[accepted] = cost_trial[better]
        # a floor: parallel columns must not make the step singular
        damping[active] = torch.where(better, damping[active] / 8, damping[active] * 6).clamp_min(1e-10)
        done = (size < 1e-5) | (damping[active] > 1e8)
        converged[active[done]] = True
        active = active[~done]
    return _Descent(theta, f, J, cost, converged)


def _of_prior(theta: Tensor, prior: NormalPrior | None) -> Tensor:
    """Cost of a departure from the prior, in the unit of squared residuals."""
    if prior is None:
        return theta.new_zeros(len(theta))
    away = theta - prior.mean
    return prior.noise_sd**2 * torch.einsum("np,npq,nq->n", away, prior.precision, away)


def _bounded_step(J: Tensor, r: Tensor, theta: Tensor, damping: Tensor, bounds: _Bounds, prior: NormalPrior | None) -> Tensor:
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


def _summary(C: Tensor, end: _Descent, shared: Tensor, bounds: _Bounds, finite: Tensor, prior: NormalPrior | None) -> tuple[Tensor, ...]:
    n, t, p = len(C), C.shape[1], end.theta.shape[1]
    rss = (C - end.f).square().sum(1)
    sd = (rss / max(1, t - p)).sqrt() if prior is None else prior.noise_sd
    H = end.J @ end.J.transpose(1, 2)
    if prior is not None:
        H = H + prior.noise_sd.square()[:, None, None] * prior.precision
    scale = H.diagonal(dim1=1, dim2=2).clamp_min(1e-30).rsqrt()
    # a ridge at round-off keeps curves without information from spoiling their batch
    scaled = scale[:, :, None] * H * scale[:, None, :] + 1e-12 * torch.eye(p, dtype=C.dtype, device=C.device)
    inverse = scale[:, :, None] * torch.linalg.inv(scaled) * scale[:, None, :]
    moved = inverse @ end.J @ shared.transpose(1, 2)
    covariance = inverse * sd.square()[:, None, None] + moved @ moved.transpose(1, 2)
    spread = (C - C.mean(1, keepdim=True)).square().sum(1)
    at_bound = (end.theta <= bounds.lower + 1e-9) | (end.theta >= bounds.upper - 1e-9)
    nan = torch.tensor(float("nan"), dtype=C.dtype, device=C.device)
    known = finite.reshape(n, 1)
    return (
        torch.where(known, end.theta, nan), torch.where(known[..., None], covariance, nan), at_bound & known, end.converged & finite,
        torch.where(finite, 1 - rss / spread.clamp_min(1e-30), nan), torch.where(finite, aicc(rss, t, p), nan),
        torch.where(finite, (rss / max(1, t - p)).sqrt(), nan), torch.where(known, end.f, nan),
    )  # fmt: skip


def aicc(rss: Tensor, frames: int, parameters: int) -> Tensor:
    """Akaike's criterion with the correction for short series (Hurvich and Tsai 1989); the noise counts as a parameter."""
    k = parameters + 1
    if frames - k - 1 <= 0:
        return torch.full_like(rss, float("inf"))
    return frames * torch.log(rss.clamp_min(1e-30) / frames) + 2 * k + 2 * k * (k + 1) / (frames - k - 1)
