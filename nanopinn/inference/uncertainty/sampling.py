"""Posterior samples by full solves, as a test of the Laplace approximation.

The sampler is Metropolis-Hastings. Most proposals come from a multivariate t distribution around
the estimate, whose scale matrix is the Laplace covariance (independence sampler): where the
approximation is good, most proposals are accepted and the autocorrelation is short. Every tenth
proposal is a local move, so that a chain also moves where the approximation is poor. Each proposal
is a full solve, and a hundred effective samples of ten unknowns need a few hundred solves. Maps and
systematic errors stay as they are at the end of the fit.

References:
    Foreman-Mackey et al. 2013, PASP 125:306 (emcee).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError, NanopinnError
from nanopinn.inference.problem import Linearisation, Objective, ResidualProblem
from nanopinn.inference.saved_fit import fitted_problem_of
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import FitResult, PosteriorSamples

Array = NDArray[np.float64]

#: Degrees of freedom of the independence proposals, and fraction of proposals that are local moves.
DEGREES_OF_FREEDOM, LOCAL_MOVE_FRACTION = 20.0, 0.1
#: Limits of reliable samples. Vehtari et al. 2021, Bayesian Analysis 16:667, recommend an R-hat
#: below 1.01 and an effective sample size above 400 for four chains.
R_HAT_LIMIT, ESS_LIMIT = 1.05, 100.0


def sample_posterior(
    fit: FitResult, draws: int = 400, *, seed: int = 0, progress: Progress = ignore_progress
) -> PosteriorSamples:
    """Sample the posterior of a fit by full solves.

    Args:
        fit: result of :func:`nanopinn.run_fit` or :func:`nanopinn.load_fit`.
        draws: number of samples in all chains together, each a full solve.
        seed: seed of the random numbers.
        progress: receives the state of the computation.

    Returns:
        Samples with their diagnostics.

    Raises:
        InputError: emcee is not installed, ``draws`` is too small, or the fit does not contain its
            problem.
    """
    fitted = fitted_problem_of(fit, "sampling")
    return sample_problem(
        fitted.full_problem,
        fitted.full_theta,
        expansion=fitted.tangents,
        draws=draws,
        seed=seed,
        progress=progress,
    )


def sample_problem(
    problem: ResidualProblem,
    theta: Array,
    *,
    expansion: Linearisation | None = None,
    draws: int = 400,
    chains: int = 4,
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> PosteriorSamples:
    """Sample the posterior of a problem around an estimate.

    Args:
        problem: problem as it is at the end of the fit.
        theta: estimate, ``(m,)``.
        expansion: residual and Jacobian at the estimate; computed if None.
        draws: number of samples in all chains together, each a full solve.
        chains: number of chains.
        seed: seed of the random numbers.
        progress: receives the state of the computation.

    Returns:
        Samples with their diagnostics.

    Raises:
        InputError: emcee is not installed, or ``draws`` is too small.
    """
    emcee = _import_emcee()
    if draws < 10 * chains:
        raise InputError(
            "too few draws",
            field="draws",
            found=draws,
            expected=f"{10 * chains} or more, for {chains} chains",
        )
    began, objective, rng = time.perf_counter(), Objective(problem), np.random.RandomState(seed)
    at = objective.expand(theta) if expansion is None else expansion
    covariance = objective.quadratic(theta, at).covariance
    root = np.linalg.cholesky(covariance)
    steps = draws // chains

    def log_posterior(z: Array) -> float:
        progress("posterior samples", min(1.0, objective.solves / draws), {})
        try:
            value = objective.value(theta + root @ z)
        except NanopinnError:
            return -np.inf  # the model has no solution there
        return -value if np.isfinite(value) else -np.inf

    local_move = emcee.moves.GaussianMove((1.0 / len(theta)) * np.eye(len(theta)))
    moves = [
        (emcee.moves.MHMove(_propose_from_t), 1 - LOCAL_MOVE_FRACTION),
        (local_move, LOCAL_MOVE_FRACTION),
    ]
    sampler = emcee.EnsembleSampler(chains, len(theta), log_posterior, moves=moves)
    sampler.random_state = rng.get_state()
    sampler.run_mcmc(_draw_t(rng, chains, len(theta)), steps, skip_initial_state_check=True)
    z = np.swapaxes(sampler.get_chain(), 0, 1)
    return PosteriorSamples(
        names=problem.unknowns.names,
        theta=theta + z @ root.T,
        log_posterior=sampler.get_log_prob().T,
        laplace_mean=theta,
        laplace_sd=np.sqrt(np.diag(covariance)),
        ess=effective_sample_size(z),
        r_hat=split_r_hat(z),
        acceptance=float(np.mean(sampler.acceptance_fraction)),
        solves=objective.solves,
        seconds=time.perf_counter() - began,
    )


def is_reliable(samples: PosteriorSamples) -> bool:
    """Whether the chains agree (R-hat) and are long enough (effective sample size).

    Args:
        samples: posterior samples.
    """
    return bool(samples.r_hat.max() < R_HAT_LIMIT and samples.ess.min() > ESS_LIMIT)


def describe_samples(samples: PosteriorSamples) -> str:
    """Quality of the samples and their largest difference from the Laplace approximation, as a
    sentence.

    Args:
        samples: posterior samples.
    """
    shift = (samples.mean - samples.laplace_mean) / samples.laplace_sd
    ratio = samples.flat.std(axis=0, ddof=1) / samples.laplace_sd
    i, j = int(np.argmax(np.abs(shift))), int(np.argmax(np.abs(np.log(ratio))))
    text = (
        f"{len(samples.flat)} samples by {samples.solves} solutions: effective sample size at least"
        f" {samples.ess.min():.0f}, R-hat at most {samples.r_hat.max():.3f},"
        f" {samples.acceptance:.0%} of the proposals accepted. Compared with the Laplace"
        f" approximation, the mean of {samples.names[i]} differs by {shift[i]:+.2f} sd, and the sd"
        f" of {samples.names[j]} is {ratio[j]:.2f} times as large."
    )
    return text if is_reliable(samples) else f"{text} Draw more samples before you use them."


def _import_emcee() -> Any:
    """The package emcee, which is optional."""
    try:
        import emcee
    except ImportError as error:
        raise InputError(
            "sampling needs the package emcee",
            field="draws",
            found="not installed",
            remedy="Install the extra nanopinn[sampling].",
        ) from error
    return emcee


def _draw_t(rng: Any, n: int, m: int) -> Array:
    """Samples of a standard multivariate t distribution, ``(n, m)``."""
    return np.asarray(
        rng.standard_normal((n, m))
        * np.sqrt(DEGREES_OF_FREEDOM / rng.chisquare(DEGREES_OF_FREEDOM, n))[:, None]
    )


def _log_density_t(z: Array) -> Array:
    """Logarithm of the density of this distribution up to a constant, ``(n,)``."""
    return np.asarray(
        -0.5 * (DEGREES_OF_FREEDOM + z.shape[1]) * np.log1p((z**2).sum(axis=1) / DEGREES_OF_FREEDOM)
    )


def _propose_from_t(z: Array, rng: Any) -> tuple[Array, Array]:
    """Independent proposals, and the logarithm of their Hastings factor."""
    proposed = _draw_t(rng, *z.shape)
    return proposed, _log_density_t(z) - _log_density_t(proposed)


def split_r_hat(chains: Array) -> Array:
    """Split R-hat: square root of the estimated total variance over the variance within half
    chains.

    Args:
        chains: samples, ``(chain, step, m)``.

    Returns:
        R-hat of every unknown, ``(m,)``; 1 if the chains agree.

    References:
        Gelman et al. 2013, Bayesian Data Analysis, 3rd ed., eq. 11.4.
    """
    half = chains.shape[1] // 2
    halves = np.concatenate([chains[:, :half], chains[:, half : 2 * half]])
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    between = halves.mean(axis=1).var(axis=0, ddof=1)
    return np.asarray(np.sqrt((half - 1) / half + between / within))


def effective_sample_size(chains: Array) -> Array:
    """Effective sample size from the autocorrelation of all chains, summed in pairs while these are
    positive and decreasing.

    Args:
        chains: samples, ``(chain, step, m)``.

    Returns:
        Effective sample size of every unknown, ``(m,)``.

    References:
        Geyer 1992, Stat. Sci. 7:473.
    """
    n, steps, m = chains.shape
    within = chains.var(axis=1, ddof=1).mean(axis=0)
    total = (steps - 1) / steps * within + chains.mean(axis=1).var(axis=0, ddof=1)
    centred = chains - chains.mean(axis=1, keepdims=True)
    out = np.empty(m)
    for j in range(m):
        autocovariance = [
            float((centred[:, : steps - k, j] * centred[:, k:, j]).sum() / (n * (steps - 1)))
            for k in range(steps - 1)
        ]
        rho = 1 - (within[j] - np.array(autocovariance)) / total[j]
        pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(axis=1)
        negative = np.flatnonzero(pairs <= 0)
        kept = np.minimum.accumulate(pairs[: negative[0] if negative.size else len(pairs)])
        out[j] = n * steps / max(2 * kept.sum() - 1, 1 / np.log10(n * steps))
    return np.minimum(out, n * steps)
