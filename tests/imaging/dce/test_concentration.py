"""From signal to concentration: both relations, series that are concentration already, and the
errors that are carried.
"""

from __future__ import annotations

import numpy as np
import pytest

from nanopinn.errors import InputError
from nanopinn.imaging.acquisition import DceAcquisition
from nanopinn.imaging.dce.signal import (
    estimate_concentration,
    select_enhancement_model,
    signal_from_concentration,
    wrap_measured_concentration,
)
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.imaging.pipeline import make_maps
from nanopinn.imaging.voxel_status import Status

from ..conftest import RELAXIVITY, T10_S, Study, save, tissue_curve

pytestmark = pytest.mark.dce
TIMES = np.arange(40) * 5.0
ACQUISITION = DceAcquisition(
    frame_times_s=TIMES,
    repetition_time_s=0.005,
    flip_angle_deg=15.0,
    relaxivity=4.5,
    hematocrit=0.42,
    dose_mmol_per_kg=0.1,
    is_concentration=False,
    baseline_frames=10,
    bolus_arrival_s=None,
    assumptions=(),
)


def scan(C: np.ndarray, voxels: int, sd: float, T1: float = 1.3) -> np.ndarray:
    """Noisy signals ``(t, voxels, 1, 1)`` of tissue that all follows ``C``."""
    clean = signal_from_concentration(
        C[:, None, None, None], np.array(100.0), np.array(T1), 0.005, 15.0, 4.5
    )
    return clean + sd * np.random.default_rng(0).standard_normal((len(C), voxels, 1, 1))


def test_stated_noise_and_shared_errors_equal_the_scatter_of_curves() -> None:
    C = np.where(
        TIMES < 50, 0.0, np.where(TIMES < 100, 1.6, 0.8)
    )  # its mean is its late level, where noise is stated
    T1 = 1.3 + 0.05 * np.random.default_rng(1).standard_normal((20000, 1, 1))
    found = estimate_concentration(
        scan(C, 20000, 0.5),
        select_enhancement_model(T1, ACQUISITION),
        ACQUISITION,
        np.full(T1.shape, 0.05),
    )
    late = found.mM[20:]
    apart = (late[1:] - late[:-1]).std() / np.sqrt(2)  # what frames do not share
    # a sample sd of ten frames is 3 % low on average, and T1 scatters
    assert apart == pytest.approx(np.median(found.noise_sd_mM), rel=0.06)
    shared = np.sqrt((found.shared_error_mM[:, 20:] ** 2).sum(axis=0).mean())
    assert late.mean(axis=0).std() == pytest.approx(np.sqrt(shared**2 + apart**2 / 20), rel=0.03)


def test_the_linear_relation_is_the_limit_of_small_concentrations() -> None:
    T1 = np.full((1, 1, 1), 1.3)
    linear, exact = (
        select_enhancement_model(T1, ACQUISITION, relation=r) for r in ("linear", "spgr")
    )
    np.testing.assert_allclose(linear.concentration(linear.relative_signal(np.array(0.7))), 0.7)
    # R1 TR stays small: the steady state is nearly proportional to R1 only for flips far above
    # Ernst's
    ratio = exact.relative_signal(np.array([[[[1e-3]]], [[[3.0]]]]))
    C = linear.concentration(ratio).ravel()
    assert C[0] < 1e-3
    assert C[1] < 0.8 * 3.0


def test_a_series_in_mM_needs_neither_t1_nor_flip_angle(own_study: Study) -> None:
    t = own_study.frame_times
    C = tissue_curve(
        own_study.Ktrans, own_study.ve, np.where(own_study.mask, own_study.vp, 0.0), t, 40.0
    )
    C = C + 1e-4 * np.random.default_rng(0).standard_normal(C.shape)
    save(
        own_study.dce,
        np.moveaxis(C, 0, -1),
        own_study.affine,
        {"VolumeTiming": t.tolist(), "Units": "mM", "Hematocrit": 0.42},
    )
    maps = make_maps(
        ImagingInputs(dce=own_study.dce, mask=own_study.folder / "mask.nii.gz"), require_ph=False
    )
    inside = own_study.mask
    np.testing.assert_allclose(maps.ktrans_per_min[inside], own_study.Ktrans[inside], rtol=0.02)
    assert np.isnan(maps.t1_s).all()
    assert not (maps.status & int(Status.NO_T1)).any()


def test_impossible_concentrations_in_mM_are_refused(own_study: Study) -> None:
    data = np.random.default_rng(0).random((4, 4, 3, 20)) * 1000
    save(own_study.dce, data, own_study.affine, {"RepetitionTime": 5.0, "Units": "mM"})
    with pytest.raises(InputError, match="not concentrations in mM"):
        make_maps(ImagingInputs(dce=own_study.dce), require_ph=False)


def test_a_decreasing_signal_is_flagged_as_negative() -> None:
    from nanopinn.imaging.dce.kinetic_maps import classify_before_fit

    S = np.full((40, 3, 1, 1), 100.0) + 0.1 * np.random.default_rng(0).standard_normal(
        (40, 3, 1, 1)
    )
    S[12:, 1] *= 0.9
    S[12:, 2] *= 1.3
    status = classify_before_fit(
        estimate_concentration(
            S, select_enhancement_model(np.full((3, 1, 1), T10_S), ACQUISITION), ACQUISITION
        )
    ).ravel()
    assert Status(int(status[0])) == Status.NOT_ENHANCING
    assert Status(int(status[1])) == Status.NOT_ENHANCING | Status.NEGATIVE
    assert Status(int(status[2])) == Status.OK


def test_relaxivity_off_by_a_thousand_is_refused(study: Study) -> None:
    for wrong in (RELAXIVITY * 1000, RELAXIVITY / 1000):
        with pytest.raises(InputError) as caught:
            make_maps(ImagingInputs(**study.given(overrides={"ContrastRelaxivity": wrong})))
        assert caught.value.field == "ContrastRelaxivity"


def test_ready_concentration_keeps_every_value() -> None:
    C = np.random.default_rng(0).random((40, 2, 2, 2))
    assert np.array_equal(wrap_measured_concentration(C, ACQUISITION).mM, C)
