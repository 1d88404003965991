"""Fits of kinetic models to many curves, with or without a delay or a spatial prior.

The spatial prior is a Markov random field (Schmid 2006, IEEE TMI 25:1627). Differences between
neighbouring voxels have a heavy-tailed distribution, whose variance is estimated from independent
fits. Each voxel is fitted with the prior of its neighbours in a chequerboard sweep; a neighbour has
the weight 1/(variance of the difference + its own variance), reduced for large differences, which
preserves edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from nanopinn.imaging.dce.convolution import ExponentialTable
from nanopinn.imaging.dce.impulse_response import InputCurve, KineticModel, PlasmaCurve, evaluate
from nanopinn.imaging.least_squares import (
    Bounds,
    LeastSquaresFit,
    NormalPrior,
    fit_levenberg_marquardt,
    invert_normal_matrix,
)

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


@dataclass(frozen=True)
class KineticFit:
    """Fits of ``n`` curves.

    Attributes:
        names: of the parameters.
        parameters: ``(n, p)``; flows in 1/s; a fitted delay (s) is the last.
        covariance: ``(n, p, p)``.
        at_bound: ``(n, p)`` bool.
        converged: ``(n,)`` bool.
        r2: coefficient of determination, ``(n,)``.
        aicc: corrected Akaike information criterion, ``(n,)``.
        residual_sd: ``(n,)``, mM.
        curves: fitted curves, ``(n, t)``, mM.
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


def fit_kinetics(
    model: KineticModel,
    C: Tensor,
    curve: InputCurve,
    *,
    shared: Tensor | None = None,
    prior: NormalPrior | None = None,
    delay_window_s: float | None = None,
    iterations: int = 100,
    chunk: int = 16384,
) -> KineticFit:
    """Fit a model to every curve; a curve that is not finite gives NaN.

    Args:
        model: kinetic model.
        C: tissue concentration, ``(n, t)``, mM.
        curve: plasma curve and frames.
        shared: effect of one standard deviation of each of ``k`` errors that all frames of a curve
            share, ``(n, t)`` or ``(n, k, t)``, mM; added to the covariance.
        prior: of the parameters, without a delay.
        delay_window_s: fit the delay of every curve too, within this either way, s; None: no delay.
        iterations: largest number of steps.
        chunk: curves that are fitted together, which bounds the memory.
    """
    common = (
        C.new_zeros((len(C), 0, C.shape[1]))
        if shared is None
        else shared.reshape(len(C), -1, C.shape[1])
    )
    parts = [
        _fit_chunk(
            model,
            C[i : i + chunk],
            common[i : i + chunk],
            curve,
            None if prior is None else prior.select(slice(i, i + chunk)),
            delay_window_s,
            iterations,
        )
        for i in range(0, max(1, len(C)), chunk)
    ]
    names = model.NAMES if delay_window_s is None else (*model.NAMES, "delay")
    return KineticFit(names, *(torch.cat(p) for p in zip(*parts, strict=True)))


def _fit_chunk(
    model: KineticModel,
    C: Tensor,
    shared: Tensor,
    curve: InputCurve,
    prior: NormalPrior | None,
    window: float | None,
    iterations: int,
) -> tuple[Tensor, ...]:
    finite = torch.isfinite(C).all(dim=1)
    C = torch.where(finite[:, None], C, 0.0)
    bounds = _parameter_bounds(model, C, window)
    initial_guesses = (
        _initial_guesses_with_delay(model, C, curve, window)
        if window
        else model.initial_guesses(C, curve)
    )
    found = [
        fit_levenberg_marquardt(
            lambda p, _: evaluate(model, p, curve, with_delay=window is not None),
            C,
            s,
            bounds,
            finite,
            prior,
            iterations,
        )
        for s in initial_guesses
    ]
    best = found[0]
    for other in found[1:]:
        best = best.select_lower_cost(other)
    return _summarise_fit(C, best, torch.nan_to_num(shared), bounds, finite, prior)


def _parameter_bounds(model: KineticModel, C: Tensor, window: float | None) -> Bounds:
    late = () if window is None else (window,)
    return Bounds(
        C.new_tensor((*model.LOWER, *(-w for w in late))), C.new_tensor((*model.UPPER, *late))
    )


def _initial_guesses_with_delay(
    model: KineticModel, C: Tensor, curve: InputCurve, window: float
) -> tuple[Tensor, ...]:
    """Initial parameters and delay: the best of fits at a few fixed delays."""
    everyone = torch.ones(len(C), dtype=torch.bool, device=C.device)
    bounds, best = _parameter_bounds(model, C, None), None
    for shift in torch.linspace(-0.9 * window, 0.9 * window, 9).tolist():
        for start in model.initial_guesses(C, curve.shifted(shift)):
            end = fit_levenberg_marquardt(
                partial(_evaluate_delayed, model, curve, shift), C, start, bounds, everyone, None, 8
            )
            late = torch.cat([end.theta, torch.full_like(end.theta[:, :1], shift)], dim=1)
            here = LeastSquaresFit(late, end.f, end.J, end.cost, end.converged)
            best = here if best is None else best.select_lower_cost(here)
    assert best is not None
    return (best.theta,)


def _evaluate_delayed(
    model: KineticModel, curve: InputCurve, shift: float, parameters: Tensor, which: Tensor
) -> tuple[Tensor, Tensor]:
    """Curves and Jacobian with the input delayed by ``shift``; a separate table is faster for more
    voxels than it has nodes.
    """
    if len(parameters) > ExponentialTable.nodes:
        return evaluate(model, parameters, curve.shifted(shift))
    f, J = evaluate(
        model,
        torch.cat([parameters, torch.full_like(parameters[:, :1], shift)], dim=1),
        curve,
        with_delay=True,
    )
    return f, J[:, :-1]


def _summarise_fit(
    C: Tensor,
    end: LeastSquaresFit,
    shared: Tensor,
    bounds: Bounds,
    finite: Tensor,
    prior: NormalPrior | None,
) -> tuple[Tensor, ...]:
    n, t, p = len(C), C.shape[1], end.theta.shape[1]
    rss = (C - end.f).square().sum(1)
    sd = (rss / max(1, t - p)).sqrt() if prior is None else prior.noise_sd
    H = end.J @ end.J.transpose(1, 2)
    if prior is not None:
        H = H + prior.noise_sd.square()[:, None, None] * prior.precision
    inverse = invert_normal_matrix(H)
    moved = inverse @ end.J @ shared.transpose(1, 2)
    covariance = inverse * sd.square()[:, None, None] + moved @ moved.transpose(1, 2)
    total_square = (C - C.mean(1, keepdim=True)).square().sum(1)
    at_bound = (end.theta <= bounds.lower + 1e-9) | (end.theta >= bounds.upper - 1e-9)
    nan = torch.tensor(float("nan"), dtype=C.dtype, device=C.device)
    known = finite.reshape(n, 1)
    return (
        torch.where(known, end.theta, nan),
        torch.where(known[..., None], covariance, nan),
        at_bound & known,
        end.converged & finite,
        torch.where(finite, 1 - rss / total_square.clamp_min(1e-30), nan),
        torch.where(finite, aicc(rss, t, p), nan),
        torch.where(finite, (rss / max(1, t - p)).sqrt(), nan),
        torch.where(known, end.f, nan),
    )


def aicc(rss: Tensor, frames: int, parameters: int) -> Tensor:
    """Akaike information criterion corrected for short series (Hurvich and Tsai 1989, Biometrika
    76:297).

    Args:
        rss: residual sum of squares, ``(n,)``.
        frames: number of data points.
        parameters: number of parameters, to which the noise is added.
    """
    k = parameters + 1
    if frames - k - 1 <= 0:
        return torch.full_like(rss, float("inf"))
    return (
        frames * torch.log(rss.clamp_min(1e-30) / frames)
        + 2 * k
        + 2 * k * (k + 1) / (frames - k - 1)
    )


Array = NDArray[np.float64]

#: Search range of the delay between artery and tumour, either way, s: a frame or two of most
#: protocols.
DELAY_WINDOW_S = 12.0


def fit_delay(
    model: KineticModel,
    aif: PlasmaCurve,
    curves: Array,
    frame_times_s: Array,
    window_s: float = DELAY_WINDOW_S,
) -> float:
    """Common delay of a sample of voxels, s, each fitted with parameters of its own.

    The mean curve is not fitted, because a mixture of voxels is not described by one model, and the
    delay would be biased.

    Args:
        model: kinetic model.
        aif: plasma curve.
        curves: finite tissue curves, ``(t, n)``, mM.
        frame_times_s: ``(t,)``, s.
        window_s: search range either way, s.
    """
    pick = np.linspace(0, curves.shape[1] - 1, min(200, curves.shape[1])).astype(int)
    C, curve = torch.as_tensor(curves[:, pick].T.copy()), InputCurve(aif, frame_times_s)

    def misfit(shift: float) -> float:
        fit = fit_kinetics(model, C, curve.shifted(shift))
        return float(fit.residual_sd.square().sum())

    grid = np.arange(-window_s, window_s + 0.1, 3.0)
    best = float(grid[int(np.argmin([misfit(s) for s in grid]))])
    refined = minimize_scalar(
        misfit, bounds=(best - 3.0, best + 3.0), method="bounded", options={"xatol": 0.05}
    )
    return float(refined.x)
