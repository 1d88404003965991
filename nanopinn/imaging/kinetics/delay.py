"""When contrast reaches the tumour, as all its voxels together see it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from nanopinn.imaging.aif.curve import PlasmaCurve
from nanopinn.imaging.kinetics.curve import InputCurve
from nanopinn.imaging.kinetics.fit import fit_kinetics
from nanopinn.imaging.kinetics.response import KineticModel

Array = NDArray[np.float64]

#: The tumour's arrival is sought within this of the artery's, either way: a frame or two of most protocols.
DELAY_WINDOW_S = 12.0


def fit_delay(
    model: KineticModel,
    aif: PlasmaCurve,
    curves: Array,
    frame_times_s: Array,
    window_s: float = DELAY_WINDOW_S,
) -> float:
    """Shift of the plasma curve with which a model best fits a sample of voxels, each by itself, s.

    A mean curve would not do: a mixture of voxels is no Tofts curve, and a delay would make up for it.

    Args:
        curves: ``(t, n)`` mM, finite.
        window_s: the shift is sought within this, either way.
    """
    pick = np.linspace(0, curves.shape[1] - 1, min(200, curves.shape[1])).astype(int)
    C, curve = torch.as_tensor(curves[:, pick].T.copy()), InputCurve(aif, frame_times_s)

    def misfit(shift: float) -> float:
        fit = fit_kinetics(model, C, curve.shifted(shift))
        return float(fit.residual_sd.square().sum())

    grid = np.arange(-window_s, window_s + 0.1, 3.0)
    best = float(grid[int(np.argmin([misfit(s) for s in grid]))])
    refined = minimize_scalar(
        misfit, bounds=(best - 3.0, best + 3.0), method="bounded", options={"xatol": 0.05}
    )
    return float(refined.x)
