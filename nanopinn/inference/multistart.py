"""Several descents from draws of the prior: whether an estimate depends on where its descent began."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import NanopinnError
from nanopinn.inference.unknowns import UnknownSet
from nanopinn.results.fit_result import StartResult

Array = NDArray[np.float64]

#: Ends closer than this, in posterior standard deviations of every coordinate, are one answer.
SAME_MINIMUM_SD = 0.1
#: Ends farther apart than this are two minima; between the two a descent merely stopped early.
DISTINCT_MINIMUM_SD = 0.5


def prior_draws(unknowns: UnknownSet, count: int, seed: int) -> list[Array]:
    """Coordinates drawn from the prior, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [
        unknowns.prior_mean + unknowns.prior_sd * rng.standard_normal(len(unknowns))
        for _ in range(count)
    ]


def fit_from_several_starts(
    descend: Callable[[Array], Any], unknowns: UnknownSet, first: Array, starts: int, seed: int
) -> Any:
    """The best of several descents (a :class:`Fitted`), whose run lists all of them.

    Args:
        descend: from coordinates to where it ended.
        first: where the first begins; the others begin at draws of the prior.

    Raises:
        NanopinnError: every descent failed; the first one's.
    """
    tried = [
        (at, _fit_or_error(descend, at)) for at in (first, *prior_draws(unknowns, starts - 1, seed))
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


def _fit_or_error(descend: Callable[[Array], Any], at: Array) -> Any:
    try:
        return descend(at)
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


def distinct_minima(starts: Sequence[StartResult], sd: Array) -> list[StartResult]:
    """One descent for every minimum that was found, the best first.

    Args:
        sd: posterior standard deviations, ``(m,)``.
    """
    found: list[StartResult] = []
    for s in sorted((s for s in starts if s.converged), key=lambda s: s.objective):
        if all(np.max(np.abs(s.end - f.end) / sd) > DISTINCT_MINIMUM_SD for f in found):
            found.append(s)
    return found


def describe_starts(starts: Sequence[StartResult]) -> str:
    """How many arrived, and whether all say the same."""
    arrived = [s for s in starts if s.converged]
    best = min(s.objective for s in starts)
    text = f"{len(arrived)} of {len(starts)} starts converged"
    if not arrived:
        return text
    elsewhere = sorted(s.objective - best for s in arrived if s.distance > DISTINCT_MINIMUM_SD)
    if elsewhere:
        return (
            f"{text}, {len(elsewhere)} of them to other minima, {elsewhere[0]:.2f} or more above"
            " the best in (chi2 + prior)/2"
        )
    far = max(s.distance for s in arrived)
    return (
        f"{text},"
        f" {'all to the same minimum' if far <= SAME_MINIMUM_SD else 'not all to the same minimum'} (within"
        f" {far:.2f} posterior sd)"
    )
