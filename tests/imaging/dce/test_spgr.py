"""The signal equation and its inversion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanopinn.imaging.dce.signal import (
    concentration_from_signal,
    signal_from_concentration,
    spgr_signal,
)

pytestmark = pytest.mark.dce


@given(
    C=st.floats(-0.1, 8.0),
    T1=st.floats(0.2, 3.0),
    TR=st.floats(0.002, 0.02),
    flip=st.floats(3, 60),
    r1=st.floats(3, 6),
    base=st.floats(1, 1e4),
)
def test_inversion_returns_the_concentration_that_made_the_signal(
    C: float, T1: float, TR: float, flip: float, r1: float, base: float
) -> None:
    S = signal_from_concentration(np.array(C), np.array(base), np.array(T1), TR, flip, r1)
    found = concentration_from_signal(S, np.array(base), np.array(T1), TR, flip, r1)
    # the signal flattens like exp(-TR R1): round-off grows by its inverse
    assert abs(found - C) < 1e-9 * np.exp(TR * (1 / T1 + r1 * C)) / (TR * r1)


def test_the_signal_equals_the_iterated_bloch_recursion() -> None:
    """Longitudinal magnetisation pulse by pulse, relaxing between, until it is steady."""
    T1, TR, flip = 1.1, 0.006, 12.0
    a, Mz = np.deg2rad(flip), 1000.0
    for _ in range(20000):
        transverse, Mz = Mz * np.sin(a), Mz * np.cos(a)
        Mz = 1000.0 + (Mz - 1000.0) * np.exp(-TR / T1)
    assert abs(spgr_signal(1000.0, T1, TR, flip) - transverse) < 1e-9 * transverse


def test_a_signal_beyond_any_t1_is_nan() -> None:
    ceiling = spgr_signal(1.0, 1e-9, 0.005, 15.0) / spgr_signal(1.0, 1.3, 0.005, 15.0)
    found = concentration_from_signal(
        np.array([0.999, 1.001]) * ceiling, np.array(1.0), np.array(1.3), 0.005, 15.0, 4.5
    )
    assert np.isfinite(found[0])
    assert np.isnan(found[1])


def test_a_signal_beyond_any_t1_gives_no_concentration_however_large() -> None:
    base, T1, TR, flip = 100.0, 1.4, 0.005, 15.0
    most = base / ((1 - np.exp(-TR / T1)) / (1 - np.exp(-TR / T1) * np.cos(np.deg2rad(flip))))
    S = most * np.array([0.99, 1.001, 1 / np.cos(np.deg2rad(flip)) + 0.01, 1e3, 1e9])
    C = concentration_from_signal(S, np.array(base), np.array(T1), TR, flip, 4.5)
    assert np.isfinite(C).tolist() == [True, False, False, False, False]
