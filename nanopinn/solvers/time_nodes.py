"""Time nodes of a fit: the steps between image frames and between drug images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from nanopinn.solvers.runge_kutta import Scheme


def frame_nodes(
    frame_times: np.ndarray, onset: float, substeps: int
) -> tuple[list[float], list[int]]:
    """Nodes of the march: frames, cut into substeps, and a start no later than the onset of the
    plasma curve.

    Where frames are missing, steps stay as long as the frames usually are apart.
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


#: Of a march of drug in about eighteen steps, for what is compared with another of the same steps.
COARSE_STEP_OPTIONS: dict[str, Any] = {"first_step_s": 300.0, "growth": 2.0, "longest_s": 10000.0}


def drug_nodes(
    images_s: Sequence[float],
    first_step_s: float = 120.0,
    growth: float = 1.3,
    longest_s: float = 5400.0,
    jumps_s: Sequence[float] = (),
) -> np.ndarray:
    """March nodes for a drug run: steps that grow from the dose on and land on every imaging time.

    Steps are grouped so that several share a size, and with it their matrix. Where a coefficient
    jumps they start afresh.
    """
    nodes, step, repeat = [0.0], first_step_s, 0
    last = max(images_s)
    for mark in sorted({*images_s, *(t for t in jumps_s if t < last)}):
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
    """Nodes of every stretch between jumps within their span; each jump ends one stretch and begins
    the next.

    Raises:
        ValueError: a jump is no node.
    """
    times = [float(t) for t in nodes]
    at = [0]
    for jump in jumps:
        if times[0] < jump < times[-1]:
            if jump not in times:
                raise ValueError(f"a march needs a node where a coefficient jumps, at {jump:g} s")
            at.append(times.index(jump))
    return [times[a : b + 1] for a, b in itertools.pairwise([*at, len(times) - 1])]


def stage_times(nodes: list[float], scheme: Scheme) -> list[float]:
    stages = {
        time_key(t0 + c * (t1 - t0)): t0 + c * (t1 - t0)
        for t0, t1 in itertools.pairwise(nodes)
        for c in (0.0, 1.0, *scheme.nodes)
    }
    return [stages[k] for k in sorted(stages)]


def time_key(t: float) -> int:
    return round(t * 1e6)
