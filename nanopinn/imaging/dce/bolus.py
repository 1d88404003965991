"""Detection of the baseline frames and of the bolus arrival."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import DceAcquisition

Array = NDArray[np.float64]


def baseline_frames(series: Array, acquisition: DceAcquisition) -> tuple[int, int]:
    """First baseline frame and the frame after the last.

    They are given by ``BaselineFrames`` or by ``BolusArrivalTime``; else detected as the frames
    before the voxels of largest enhancement, or the vessels among them, exceed their early level.
    The first frame is left out where it is off steady state (more than 5 standard deviations of the
    others).

    Args:
        series: ``(t, x, y, z)``.
        acquisition: of the series.

    Raises:
        InputError: fewer than two frames are before contrast.
    """
    t = acquisition.frame_times_s
    curves = _rising_medians(series)
    if acquisition.baseline_frames is not None:
        after = acquisition.baseline_frames
    elif acquisition.bolus_arrival_s is not None:
        after = int(np.searchsorted(t, acquisition.bolus_arrival_s, side="right"))
    else:
        after = min(_detect_onset(c) for c in curves)
    if after < 2:
        raise InputError(
            "fewer than two frames are before contrast",
            field="BaselineFrames",
            found=after,
            expected="2 or more",
            remedy="Give BaselineFrames or BolusArrivalTime, or scan longer before injection.",
        )
    early = curves[0][:after]
    if after >= 4 and abs(early[0] - early[1:].mean()) > 5 * max(
        early[1:].std(ddof=1), 1e-3 * abs(early[1:].mean())
    ):
        return 1, after
    return 0, after


def _rising_medians(series: Array) -> list[Array]:
    """Median curve of the 5 % of voxels that rise most, and of the 0.5 %, which include vessels.

    A median is not affected by a single corrupt voxel.
    """
    flat = np.nan_to_num(series.reshape(len(series), -1))
    rise = flat.max(axis=0) - flat[:2].mean(axis=0)
    order = np.argsort(rise)[::-1]
    counts = (max(5, len(order) // 20), max(5, len(order) // 200))
    return [np.asarray(np.median(flat[:, order[:n]], axis=1)) for n in counts]


def _detect_onset(curve: Array) -> int:
    """Number of frames before the curve begins to rise.

    The onset is where the curve first exceeds a tenth of its range for two frames, moved back to
    where it exceeds its early level by more than its noise, because enhancement within the baseline
    biases every concentration. The frame before that is left out too where three others remain.
    """
    level = np.median(curve[: max(3, len(curve) // 10)])
    span = curve.max() - level
    high = curve > level + 0.1 * span
    both = high[:-1] & high[1:]
    onset = int(np.argmax(both)) if both.any() else 0
    quiet = curve[: max(3, onset // 2)]
    level, noise = np.median(quiet), quiet.std(ddof=1)
    while onset > 3 and curve[onset - 1] > level + max(3 * noise, 0.005 * span):
        onset -= 1
    return onset - 1 if onset > 3 else onset


def bolus_arrival(mean: Array, frame_times_s: Array, baseline: int) -> float:
    """Bolus arrival, s: where the line of the steepest early rise intersects the baseline.

    Args:
        mean: curve, ``(t,)``.
        frame_times_s: ``(t,)``, s.
        baseline: number of frames before contrast.
    """
    level = mean[:baseline].mean()
    peak = int(np.argmax(mean[: baseline + max(6, len(mean) // 4)]))
    steps = np.diff(mean[baseline - 1 : peak + 1]) / np.diff(frame_times_s[baseline - 1 : peak + 1])
    if len(steps) == 0 or steps.max() <= 0:
        return float(frame_times_s[baseline])
    i = baseline - 1 + int(np.argmax(steps))
    crossing = frame_times_s[i] - (mean[i] - level) / steps.max()
    return float(
        np.clip(
            crossing, frame_times_s[baseline - 1], frame_times_s[min(baseline + 1, len(mean) - 1)]
        )
    )
