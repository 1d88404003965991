"""Profile likelihood: an unknown held at one value after another, all others fitted anew.

    f(x) = min over theta with theta_j = x of (chi2 + prior)/2

Points are found as :mod:`nanopinn.inference.walk` says. The 95 % interval is where f rises by 1.92 (Venzon and
Moolgavkar 1988, Appl. Stat. 37:87); an unknown whose misfit alone stays flat is not identifiable (Raue 2009,
Bioinformatics 25:1923).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.expansion import Linearisation, Objective, ResidualProblem
from nanopinn.inference.ridge import StrongestCorrelation, correlation_along_profile
from nanopinn.inference.walk import (
    SIGNIFICANT_DECREASE,
    BETTER_POINT_MESSAGE,
    OBJECTIVE_RISE_95,
    ProfilePoint,
    ProfileContinuation,
)
from nanopinn.progress import Progress, ignore_progress

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """The profile of one unknown; points in increasing order of its value.

    Attributes:
        values: in ``unit``, ``(k,)``.
        misfit, prior: the objective's two parts, ``(k,)``; chi2/2 and half the squared distance from the prior.
        theta: every coordinate at every point, ``(k, m)``.
        left: what another step of the others would still gain, about, ``(k,)``.
        estimate: which point is the fit's own.
        interval: 95 %, in ``unit``; 0 or infinite on a side that the profile did not close.
        laplace: the interval of the fit's own covariance.
        ridge: the unknown it is traded against along the profile.
        stopped: why a side ended early, in words, or nothing.
    """

    name: str
    label: str
    unit: str
    scale: Literal["log", "linear"]
    values: Array
    misfit: Array
    prior: Array
    theta: Array
    remaining_decrease: Array
    estimate: int
    interval: tuple[float, float]
    laplace: tuple[float, float]
    ridge: StrongestCorrelation | None
    solves: int
    seconds: float
    stopped: str = ""

    @property
    def objective(self) -> Array:
        """Misfit and prior together."""
        return self.misfit + self.prior

    @property
    def bounded(self) -> tuple[bool, bool]:
        """Whether the data alone, without the prior, exclude values below and above (by 1.92) in the range looked at."""
        best = self.misfit.min()
        return bool(self.misfit[0] - best > OBJECTIVE_RISE_95), bool(
            self.misfit[-1] - best > OBJECTIVE_RISE_95
        )

    def describe(self) -> str:
        """What the profile says."""
        sides = {
            (True, True): "the data bound it on both sides",
            (False, False): "flat: the data alone bound it on neither side",
            (True, False): "the data bound it from below only",
            (False, True): "the data bound it from above only",
        }
        low, high, unit = *self.interval, "" if self.unit == "1" else f" {self.unit}"
        text = f"{self.label}: {low:.3g} to {high:.3g}{unit} by its profile, {self.laplace[0]:.3g} to {self.laplace[1]:.3g} by Laplace"
        text += f"; {sides[self.bounded]}"
        if self.ridge is not None:
            text += f"; traded against {self.ridge.partner} ({self.ridge.strength:+.2f} sd per sd)"
        if self.objective.min() < self.objective[self.estimate] - SIGNIFICANT_DECREASE:
            text += f"; {BETTER_POINT_MESSAGE}"
        return text + (f"; {self.stopped}" if self.stopped else "")


def profile_likelihood(
    problem: ResidualProblem,
    theta: Array,
    name: str,
    *,
    expansion: Linearisation | None = None,
    exact: bool = False,
    progress: Progress = ignore_progress,
) -> Profile:
    """The profile of an unknown around an estimate.

    Args:
        problem: as the fit left it.
        theta: the estimate, ``(m,)``.
        expansion: residual and tangents there; solved for if None.
        exact: tangents anew at every point, about ten times the work.

    Raises:
        InputError: there is no such unknown.
    """
    names = problem.unknowns.names
    if name not in names:
        raise InputError(
            "no such unknown to profile", field="--profile", found=name, expected=", ".join(names)
        )
    began = time.perf_counter()
    continuation = ProfileContinuation(
        Objective(problem), names.index(name), theta, expansion, exact
    )
    down, up = (
        list(_report_points(continuation.trace_side(sign), progress, name, sign))
        for sign in (-1, 1)
    )
    return _build_profile(continuation, down, up, problem, time.perf_counter() - began)


def _report_points(
    points: Iterator[ProfilePoint], progress: Progress, name: str, sign: int
) -> Iterator[ProfilePoint]:
    for k, point in enumerate(points):
        progress(
            f"profile of {name}",
            (0.0 if sign < 0 else 0.5) + min(k + 1, 3) / 6,
            {"objective": point.objective},
        )
        yield point


def _build_profile(
    continuation: ProfileContinuation,
    down: list[ProfilePoint],
    up: list[ProfilePoint],
    problem: ResidualProblem,
    seconds: float,
) -> Profile:
    points = [*reversed(down), continuation.start, *up]
    unknown = problem.unknowns.items[continuation.j]
    theta = np.stack([p.theta for p in points])
    estimate = unknown.estimate(
        float(continuation.start.theta[continuation.j]), float(continuation.sd[continuation.j])
    )
    coordinates = theta[:, continuation.j]
    ends = _crossings(coordinates, np.array([p.objective for p in points]), len(down))
    moved = theta[-1] - theta[0]
    ridge = (
        correlation_along_profile(problem.unknowns.names, moved, continuation.sd, continuation.j)
        if len(points) > 1
        else None
    )

    def shown(x: float) -> float:
        return unknown.estimate(x, 0.0).median

    return Profile(
        name=unknown.name,
        label=unknown.label,
        unit=unknown.unit,
        scale=unknown.scale,
        values=np.array([shown(float(x)) for x in coordinates]),
        misfit=np.array([p.expansion.misfit for p in points]),
        prior=np.array([p.prior for p in points]),
        theta=theta,
        remaining_decrease=np.array([p.remaining_decrease for p in points]),
        estimate=len(down),
        interval=(shown(ends[0]), shown(ends[1])),
        laplace=estimate.interval(),
        ridge=ridge,
        solves=continuation.objective.solves,
        seconds=seconds,
        stopped=continuation.stopped,
    )


def _crossings(x: Array, objective: Array, start: int) -> tuple[float, float]:
    """Where the objective is 1.92 above its least, on both sides of it; infinite where it does not get there.

    Between points the root of the rise, which is straight for a parabola, is interpolated.
    """
    least = int(np.argmin(objective))
    centre = least if objective[least] < objective[start] - SIGNIFICANT_DECREASE else start
    root = np.sqrt(np.clip(objective - objective[centre], 0.0, None))
    return _crossing(x[centre::-1], root[centre::-1], -np.inf), _crossing(
        x[centre:], root[centre:], np.inf
    )


def _crossing(x: Array, root: Array, open_end: float) -> float:
    level = np.sqrt(OBJECTIVE_RISE_95)
    beyond = np.flatnonzero(root >= level)
    if not beyond.size:
        return float(open_end)
    k = int(beyond[0])
    return float(x[k - 1] + (x[k] - x[k - 1]) * (level - root[k - 1]) / (root[k] - root[k - 1]))
