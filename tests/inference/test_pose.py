"""Sensitivity of the contrast curves of voxels to parameters that vary within a voxel."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from nanopinn.imaging.dce.aif import load_aif
from nanopinn.imaging.dce.impulse_response import InputCurve, evaluate
from nanopinn.imaging.dce.models import extended_tofts
from nanopinn.inference.pose import _curvature, _local_sensitivities


def test_the_second_derivative_explains_tissue_that_varies_within_a_voxel() -> None:
    frames = np.arange(0.0, 600.0, 10.0)
    aif = load_aif("parker", frame_times_s=frames, bolus_arrival_s=60.0, hematocrit=0.45).curve
    imaging = SimpleNamespace(aif=aif, frame_times_s=frames)

    def curve(Ktrans: float, ve: float) -> torch.Tensor:
        return evaluate(
            extended_tofts, torch.tensor([[Ktrans, ve, 0.03]]).double(), InputCurve(aif, frames)
        )[0]

    mixed = (curve(2.4e-3, 0.25) + curve(1.6e-3, 0.25) + curve(2e-3, 0.31) + curve(2e-3, 0.19)) / 4
    mean = (
        torch.tensor([2e-3]).double(),
        torch.tensor([0.25]).double(),
        torch.tensor([0.03]).double(),
    )
    bent = (mixed - curve(2e-3, 0.25))[0]

    def left(basis: torch.Tensor) -> float:
        Q = torch.linalg.qr(basis / basis.norm(dim=0))[0]
        return float((bent - Q @ (Q.T @ bent)).norm())

    local = _local_sensitivities(imaging, *mean)[0]  # type: ignore[arg-type]
    curvature = _curvature(imaging, *mean)[0]  # type: ignore[arg-type]
    assert left(torch.cat([local, curvature[:, None]], dim=1)) < 0.2 * left(local)
