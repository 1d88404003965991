"""Detection of the end of the baseline on fast scans."""

from __future__ import annotations

import numpy as np
import pytest

from nanopinn.imaging.acquisition import DceAcquisition
from nanopinn.imaging.dce.bolus import baseline_frames

pytestmark = pytest.mark.dce
TIMES = np.arange(200) * 1.0


def scan(rise: np.ndarray, noise: float, seed: int = 0) -> np.ndarray:
    """400 voxels, a fifth of which rise, ``(t, x, y, z)``."""
    rng = np.random.default_rng(seed)
    series = np.full((len(TIMES), 20, 20, 1), 100.0)
    series[:, :4] += rise[:, None, None, None]
    return series + noise * rng.standard_normal(series.shape)


ACQUISITION = DceAcquisition(
    frame_times_s=TIMES,
    repetition_time_s=0.005,
    flip_angle_deg=15.0,
    relaxivity=4.5,
    hematocrit=0.42,
    dose_mmol_per_kg=0.1,
    is_concentration=False,
    baseline_frames=None,
    bolus_arrival_s=None,
    assumptions=(),
)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("seconds", [10.0, 80.0])
def test_the_baseline_ends_where_the_rise_begins(noise: float, seconds: float) -> None:
    """A rise over 80 s passes a tenth of its range after 8 frames; none of those may be in the
    baseline.
    """
    rise = 50 * np.clip((TIMES - 40) / seconds, 0, 1)
    first, after = baseline_frames(scan(rise, noise), ACQUISITION)
    assert first == 0
    # the noise hides the first of a slow rise: 3 standard deviations of a median of 20 voxels
    assert 30 <= after <= 41 + (3 if noise else 0)


def test_noise_does_not_shorten_a_constant_baseline() -> None:
    lengths = [
        baseline_frames(scan(50 * (TIMES > 60), 2.0, seed), ACQUISITION)[1] for seed in range(10)
    ]
    assert min(lengths) >= 55
