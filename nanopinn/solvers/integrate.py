"""The integrator: any implicit Runge-Kutta method through time segments, with steps that are given
or controlled by the error.

A step never crosses the end of a segment or a time mark; at the start of a segment the rate is
evaluated again, because coefficients may jump there. The time nodes of fits, between image frames
and between drug images, are chosen here too.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.runge_kutta import (
    RungeKuttaStep,
    Scheme,
    StageEquations,
    State,
    accumulate,
    estimate_error,
    take_step,
)


@dataclass(frozen=True)
class StepController:
    """Step size by the error per step: ``dt (0.9 / error^(1/(order + 1)))``, within limits.

    Attributes:
        first_step: length of the first step after an event, s.
        max_step: s.
        most_growth, least_growth: limits of the factor between steps.
        least_reduction: limit of the factor after a rejected step.
        reuse_below: a step that could grow by a smaller factor keeps its size, and with it its
            matrix.
        min_step: below which the integration fails, s.
        min_relative_step: the same, over the time since 0.
        retry_failed: whether a step whose stage cannot be solved is rejected, not an error.
        max_steps: of one segment, rejected ones included.
    """

    first_step: float
    max_step: float = float("inf")
    most_growth: float = 5.0
    least_growth: float = 0.2
    least_reduction: float = 0.8
    reuse_below: float = 1.2
    min_step: float = 1e-9
    min_relative_step: float = 1e-9
    retry_failed: bool = False
    max_steps: int = 100_000

    def next_step(self, dt: float, left: float) -> float:
        """The step to try with ``left`` to go: no tiny last step is left over."""
        if left <= 1.0001 * dt:
            return left
        return left / 2 if left < 2 * dt else dt

    def factor(self, error: float, order: int) -> float:
        """The factor by which a step with this error could be longer."""
        return 0.9 * max(error, 1e-10) ** (-1 / (order + 1))

    def after_accepted(self, dt: float, factor: float) -> float:
        """The step after an accepted one."""
        if 1 <= factor <= self.reuse_below:
            return dt
        return min(self.max_step, dt * min(self.most_growth, max(self.least_growth, factor)))

    def after_rejected(self, dt: float, factor: float) -> float:
        """The step to try after a rejected one."""
        return dt * max(self.least_growth, min(self.least_reduction, factor))

    def too_small(self, dt: float, t: float) -> bool:
        """Whether steps have become too small."""
        return dt < max(self.min_step, self.min_relative_step * t)


@dataclass(frozen=True)
class AcceptedStep:
    """One accepted step; its tensors may be written to again once it was processed, but for the
    states.

    Attributes:
        segment: number of its segment.
        t, dt, end: start, length and end, s.
        first_stage_evaluated: whether the rate at the start was evaluated, not taken over from the
            step before.
        start, state: the states at its start and end.
        start_rate, end_rate: the rates there; the first None if the method does not need it.
        stages: those that were solved for, if kept.
    """

    segment: int
    t: float
    dt: float
    end: float
    first_stage_evaluated: bool
    start: State
    state: State
    start_rate: State | None
    end_rate: State
    stages: tuple[State, ...]


@dataclass(frozen=True)
class IntegrationResult:
    """The end of an integration.

    Attributes:
        t: s.
        state: there.
        integrals: of what was integrated beside the state.
        rejected: steps that were tried again.
    """

    t: float
    state: State
    integrals: tuple[Tensor, ...]
    rejected: int


def integrate(
    segments: Iterable[StageEquations],
    start: State,
    on_step: Callable[[AcceptedStep], None],
    *,
    scheme: Scheme,
    marks: Sequence[float],
    controller: StepController | Callable[[StageEquations, State, State], StepController] | None,
    keep_stages: bool = False,
) -> IntegrationResult:
    """Integrate from the start of the first segment to the end of the last.

    Args:
        segments: the equations in order, each beginning where the last ended; an iterator builds
            each when it is reached, and none is kept.
        start: the state at the first segment's start.
        on_step: called after each accepted step.
        scheme: the method.
        marks: increasing times on which steps land, s.
        controller: of the step size, or what makes it of a segment, the state and the rate at its
            start; None to step from mark to mark.
        keep_stages: whether ``on_step`` is given the stages.

    Raises:
        SolverError: steps became too small, or a stage could not be solved.
        ValueError: there is no segment, or one does not begin where the last ended.
    """
    following = iter(segments)
    equations = next(following, None)
    if equations is None:
        raise ValueError("there is no time segment to integrate over")
    run = _Run(scheme, controller, equations.start, start, on_step, keep_stages)
    while equations is not None:
        if equations.start != run.t:
            raise ValueError(
                f"a time segment ends at {run.t} s and the next begins at {equations.start} s"
            )
        run.begin(equations)
        first, last = (bisect_right(marks, t) for t in (equations.start, equations.end))
        run.advance(equations, marks[first:last])
        # release this segment before the next is built: each may hold hundreds of fields
        run.rate = None
        equations.buffers.clear()
        equations = None
        equations = next(following, None)
        run.number += 1
    return IntegrationResult(run.t, run.state, tuple(run.integrals), run.rejected)


class _Run:
    """The state of an integration, advanced segment by segment."""

    def __init__(
        self,
        scheme: Scheme,
        controller: StepController
        | Callable[[StageEquations, State, State], StepController]
        | None,
        t: float,
        state: State,
        on_step: Callable[[AcceptedStep], None],
        keep_stages: bool,
    ) -> None:
        self.scheme, self.make_controller = scheme, controller
        self.controller = controller if isinstance(controller, StepController) else None
        self.t, self.state, self.on_step, self.keep_stages = t, state, on_step, keep_stages
        self.dt = float("inf")
        self.number = self.rejected = 0
        self.rate: State | None = None
        self.integrals: list[Tensor] = []

    def begin(self, equations: StageEquations) -> None:
        """Evaluate the rate at the start of a segment, and choose the first step."""
        self.fresh = True
        if self.scheme.explicit_first or equations.needs_start_rate:
            self.rate = equations.rate(self.t, self.state)
        if callable(self.make_controller):
            assert self.rate is not None
            self.controller = self.make_controller(equations, self.state, self.rate)
        if self.controller is not None and equations.starts_at_event:
            self.dt = min(self.dt, self.controller.first_step)

    def advance(self, equations: StageEquations, marks: Sequence[float]) -> None:
        """Through a segment, by way of its marks."""
        tried = 0
        for mark in marks if marks and marks[-1] == equations.end else [*marks, equations.end]:
            while self.t < mark:
                tried += self._advance_one_step(equations, mark)
                if self.controller is not None and tried > self.controller.max_steps:
                    raise SolverError(f"more than {self.controller.max_steps} time steps")

    def _advance_one_step(self, equations: StageEquations, mark: float) -> int:
        """One accepted step, not beyond the mark; returns how many were tried."""
        left, control = mark - self.t, self.controller
        if control is None:
            self._accept(equations, left, mark, self._take(equations, left, self.integrals))
            return 1
        tried = 0
        while True:
            tried += 1
            dt = control.next_step(self.dt, left)
            step, error = self._try(equations, dt)
            factor = control.factor(error, self.scheme.order)
            if step is not None and error <= 1:
                break
            if step is not None:
                own = step.rates[1:] if self.scheme.explicit_first else step.rates
                equations.buffers.release(step.state, *own)
            del step
            self.rejected += 1
            self.dt = control.after_rejected(dt, factor)
            if control.too_small(self.dt, self.t):
                raise SolverError(
                    f"the time step became too small at t = {self.t:.6g} s"
                    f"{equations.describe_failure()}"
                )
        lands = dt == left or left - dt < 1e-9 * max(1.0, mark)
        accumulate(self.integrals, step.integrals, 1.0)
        self._accept(equations, dt, mark if lands else self.t + dt, step)
        self.dt = control.after_accepted(dt, factor)
        return tried

    def _try(self, equations: StageEquations, dt: float) -> tuple[RungeKuttaStep | None, float]:
        """A step and its error over what is allowed."""
        assert self.controller is not None
        try:
            step = self._take(equations, dt, [])
        except SolverError:
            if not self.controller.retry_failed:
                raise
            return None, 1e3
        raw = estimate_error(self.scheme, step, dt, equations.buffers)
        error = equations.error_norm(raw, self.state[0], step.state[0], step.w)
        equations.buffers.release((raw,))
        return step, error

    def _take(
        self, equations: StageEquations, dt: float, integrals: list[Tensor]
    ) -> RungeKuttaStep:
        return take_step(
            self.scheme,
            equations,
            self.t,
            dt,
            self.state,
            self.rate,
            integrals=integrals,
            keep_stages=self.keep_stages,
        )

    def _accept(
        self, equations: StageEquations, dt: float, end: float, step: RungeKuttaStep
    ) -> None:
        accepted = AcceptedStep(
            self.number,
            self.t,
            dt,
            end,
            self.fresh,
            self.state,
            step.state,
            self.rate,
            step.rates[-1],
            step.stages,
        )
        self.t, self.state, self.fresh = end, step.state, False
        self.rate = (
            step.rates[-1] if self.scheme.explicit_first or equations.needs_start_rate else None
        )
        self.on_step(accepted)
        equations.buffers.release(*step.rates[:-1])


def frame_nodes(
    frame_times: np.ndarray, onset: float, substeps: int
) -> tuple[list[float], list[int]]:
    """Time nodes of the contrast agent: frames, substeps and a start no later than the onset.

    Where frames are missing, steps keep the median spacing of the frames.

    Args:
        frame_times: s.
        onset: of the plasma curve, s.
        substeps: steps per frame.

    Returns:
        The nodes, s, and the index of each frame among them.
    """
    spacing = float(np.median(np.diff(frame_times)))
    start = min(float(frame_times[0]), onset)
    marks = [start] * (start < float(frame_times[0])) + [float(t) for t in frame_times]
    nodes = [marks[0]]
    at = [0]
    for a, b in itertools.pairwise(marks):
        count = substeps * max(1, round((b - a) / spacing))
        nodes += [a + (b - a) * (i + 1) / count for i in range(count)]
        at.append(len(nodes) - 1)
    return nodes, at[len(marks) - len(frame_times) :]


#: Options of :func:`drug_nodes` for about eighteen steps; results are compared only with those of
#: the same steps.
COARSE_STEP_OPTIONS: dict[str, Any] = {"first_step_s": 300.0, "growth": 2.0, "longest_s": 10000.0}


def drug_nodes(
    images_s: Sequence[float],
    first_step_s: float = 120.0,
    growth: float = 1.3,
    longest_s: float = 5400.0,
    jumps_s: Sequence[float] = (),
    marks_s: Sequence[float] = (),
) -> np.ndarray:
    """Time nodes of the drug: steps that grow from the dose on and land on every image.

    Several steps share a size, and with it their matrix. Where a coefficient or the plasma curve
    jumps, steps begin small again.

    Args:
        images_s: times of the images, s.
        first_step_s: s.
        growth: factor between steps.
        longest_s: s.
        jumps_s: times after the dose at which coefficients or plasma curves jump, s.
        marks_s: further times on which steps land, s.
    """
    nodes, step, repeat = [0.0], first_step_s, 0
    last = max(images_s)
    for mark in sorted({*images_s, *(t for t in (*jumps_s, *marks_s) if 0 < t < last)}):
        while nodes[-1] < mark - 1e-6:
            left = mark - nodes[-1]
            count = int(np.ceil(left / step))
            if count <= 4:
                nodes += [mark - left * (1 - (i + 1) / count) for i in range(count)]
                break
            nodes.append(nodes[-1] + step)
            repeat += 1
            if repeat % 3 == 0:
                step = min(step * growth**3, longest_s)
        if mark in jumps_s:
            step, repeat = first_step_s, 0
    return np.array(nodes)


def split_at_jumps(nodes: np.ndarray, jumps: Sequence[float]) -> list[list[float]]:
    """Nodes of every time segment between jumps; each jump ends a segment and begins the next.

    Raises:
        ValueError: a jump is not among the nodes.
    """
    times = [float(t) for t in nodes]
    at = [0]
    for jump in jumps:
        if times[0] < jump < times[-1]:
            if jump not in times:
                raise ValueError(f"a time node is required at each coefficient jump, at {jump:g} s")
            at.append(times.index(jump))
    return [times[a : b + 1] for a, b in itertools.pairwise([*at, len(times) - 1])]


def stage_times(nodes: list[float], scheme: Scheme) -> list[float]:
    """Times of all stages of the steps between nodes, increasing, s."""
    stages = {
        time_key(t0 + c * (t1 - t0)): t0 + c * (t1 - t0)
        for t0, t1 in itertools.pairwise(nodes)
        for c in (0.0, 1.0, *scheme.nodes)
    }
    return [stages[k] for k in sorted(stages)]


def time_key(t: float) -> int:
    """The time in microseconds, by which times that differ by rounding are equal."""
    return round(t * 1e6)
