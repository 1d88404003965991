"""Whether a 95 % interval holds the truth in 95 % of voxels: from noisy signals, through T1 and
baseline, to kinetics.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanopinn.imaging.acquisition import DceAcquisition
from nanopinn.imaging.dce.aif_population import POPULATION_CURVES
from nanopinn.imaging.dce.impulse_response import InputCurve, evaluate
from nanopinn.imaging.dce.kinetic_maps import fit_volume
from nanopinn.imaging.dce.models import MODELS
from nanopinn.imaging.dce.signal import (
    estimate_concentration,
    select_enhancement_model,
    signal_from_concentration,
    spgr_signal,
)
from nanopinn.imaging.dce.t1_estimation import fit_variable_flip_angles

pytestmark = pytest.mark.dce
VOXELS, FRAMES, T1_S, FLIPS = 5000, np.arange(60) * 5.0, 1.4, np.array([2.0, 5.0, 10.0, 15.0, 20.0])
SEQUENCE = (0.005, 15.0, 4.5)  # TR, flip angle, relaxivity


@pytest.mark.parametrize("noise", [0.005, 0.01, 0.02])
@pytest.mark.parametrize("measured_t1", [False, True], ids=["T1 known", "T1 measured"])
def test_95_per_cent_intervals_cover_the_truth_in_92_to_97_per_cent_of_voxels(
    noise: float, measured_t1: bool
) -> None:
    rng = np.random.default_rng(1)
    truth = np.stack(
        [
            rng.uniform(0.08, 0.4, VOXELS) / 60,
            rng.uniform(0.15, 0.5, VOXELS),
            rng.uniform(0.02, 0.08, VOXELS),
        ],
        axis=1,
    )
    aif = POPULATION_CURVES["parker"].plasma(
        arrival_s=42.3, until_s=300.0, hematocrit=0.42, dose_mmol_per_kg=0.1
    )
    C = (
        evaluate(MODELS["etofts"], torch.as_tensor(truth), InputCurve(aif, FRAMES))[0]
        .numpy()
        .T.reshape(-1, VOXELS, 1, 1)
    )
    before, T1 = spgr_signal(1000.0, T1_S, *SEQUENCE[:2]), np.full((VOXELS, 1, 1), T1_S)
    S = signal_from_concentration(C, before, T1, *SEQUENCE)
    S = S + noise * before * rng.standard_normal(S.shape)
    T1_std = None
    if measured_t1:
        images = spgr_signal(
            1000.0, T1_S, SEQUENCE[0], FLIPS
        ) + noise * before * rng.standard_normal((VOXELS, 1, 1, len(FLIPS)))
        fitted = fit_variable_flip_angles(images, FLIPS, SEQUENCE[0])
        T1, T1_std = fitted.T1, fitted.T1_std
    acquisition = DceAcquisition(FRAMES, *SEQUENCE[:2], SEQUENCE[2], 0.42, 0.1, False, 8, None, ())
    maps = fit_volume(
        estimate_concentration(S, select_enhancement_model(T1, acquisition), acquisition, T1_std),
        aif,
        FRAMES,
    )
    for i, (name, unit) in enumerate((("Ktrans", 60), ("ve", 1), ("vp", 1))):
        z = (maps.values[name].ravel() - unit * truth[:, i]) / maps.std[name].ravel()
        # 5000 voxels know a share of 95 % to 0.3 %
        assert 0.92 <= (np.abs(z) < 1.96).mean() <= 0.97, name
        assert abs(z.mean()) < 0.1, name
