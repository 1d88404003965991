"""Several optimisation runs from draws of the prior: whether the estimate depends on the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import NanopinnError
from nanopinn.inference.unknowns import UnknownSet
from nanopinn.results import StartResult

Array = NDArray[np.float64]

#: Estimates closer than this, in posterior sd of every coordinate, are the same minimum.
SAME_MINIMUM_SD = 0.1
#: Estimates farther apart than this are two minima; in between a run stopped early.
DISTINCT_MINIMUM_SD = 0.5


def prior_draws(unknowns: UnknownSet, count: int, seed: int) -> list[Array]:
    """Coordinates drawn from the prior.

    Args:
        unknowns: with their priors.
        count: number of draws.
        seed: of the random numbers.

    Returns:
        Points, each ``(m,)``.
    """
    rng = np.random.default_rng(seed)
    return [
        unknowns.prior_mean + unknowns.prior_sd * rng.standard_normal(len(unknowns))
        for _ in range(count)
    ]


def fit_from_several_starts(
    fit: Callable[[Array], Any], unknowns: UnknownSet, first: Array, starts: int, seed: int
) -> Any:
    """The best of several optimisation runs.

    Args:
        fit: from a starting point to an :class:`~nanopinn.inference.problem.EngineFit`.
        unknowns: with their priors.
        first: starting point of the first run, ``(m,)``; the others start at draws from the prior.
        starts: number of runs.
        seed: of the draws.

    Returns:
        The fit with the lowest objective, whose run lists all of them.

    Raises:
        NanopinnError: every run failed; the error is that of the first.
    """
    tried = [
        (at, _fit_or_error(fit, at)) for at in (first, *prior_draws(unknowns, starts - 1, seed))
    ]
    ended = [f for _, f in tried if not isinstance(f, Exception)]
    if not ended:
        raise next(f for _, f in tried if isinstance(f, Exception))
    best = min(ended, key=lambda f: f.run.objective[-1])
    sd = np.sqrt(np.diag(best.run.covariance))
    every = tuple(_start_result(at, f, best, sd) for at, f in tried)
    return replace(
        best,
        run=replace(
            best.run, starts=every, message=f"{best.run.message}; {describe_starts(every)}"
        ),
    )


def _fit_or_error(fit: Callable[[Array], Any], at: Array) -> Any:
    try:
        return fit(at)
    except (NanopinnError, np.linalg.LinAlgError) as error:
        return error


def _start_result(at: Array, ended: Any, best: Any, sd: Array) -> StartResult:
    if isinstance(ended, Exception):
        return StartResult(
            at, np.full_like(at, np.nan), float("inf"), False, float("inf"), f"failed: {ended}"
        )
    distance = float(np.max(np.abs(ended.theta - best.theta) / sd))
    return StartResult(
        at,
        ended.theta,
        float(ended.run.objective[-1]),
        ended.run.converged,
        distance,
        ended.run.message,
    )


def describe_starts(starts: Sequence[StartResult]) -> str:
    """How many runs converged, and whether all of them found the same minimum."""
    converged = [s for s in starts if s.converged]
    best = min(s.objective for s in starts)
    text = f"{len(converged)} of {len(starts)} starts converged"
    if not converged:
        return text
    elsewhere = sorted(s.objective - best for s in converged if s.distance > DISTINCT_MINIMUM_SD)
    if elsewhere:
        return (
            f"{text}, {len(elsewhere)} of them to other minima, {elsewhere[0]:.2f} or more above"
            " the best in (chi2 + prior)/2"
        )
    far = max(s.distance for s in converged)
    same = "all" if far <= SAME_MINIMUM_SD else "not all"
    return f"{text}, {same} to the same minimum (within {far:.2f} posterior sd)"
