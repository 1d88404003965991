"""The small tissues on which cases are run."""

from __future__ import annotations

import numpy as np
import torch

from nanopinn.imaging.aif.curve import PlasmaCurve
from nanopinn.physics.model import TissueMaps
from nanopinn.solvers.forward import Setting
from nanopinn.solvers.grid import Grid


def ball(radius: float, widen: float, n: int) -> tuple[Grid, torch.Tensor]:
    """A cube of n^3 cells around a ball, and each cell's distance from the centre, m."""
    h = 2 * radius * widen / n
    x = (torch.arange(n, dtype=torch.float64) + 0.5) * h - radius * widen
    r = torch.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2)
    return Grid((n, n, n), (h, h, h)), r


def small_tissue() -> tuple[Setting, PlasmaCurve, np.ndarray]:
    """A heterogeneous ball of tumour in 12^3 voxels of 0.5 mm, a sharp bolus, and 30 uneven frames."""
    generator = torch.Generator().manual_seed(3)
    grid, r = ball(2e-3, 1.5, 12)
    tumour = (r < 2e-3).double()

    def rough(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(r.shape, generator=generator, dtype=torch.float64)

    maps = TissueMaps(
        tumour, rough(5e-4, 3e-3), rough(0.15, 0.4), rough(0.01, 0.05), rough(6.5, 7.2)
    )
    t = np.concatenate([[20.0, 22.0], np.arange(24.0, 400.0, 2.0)])
    aif = PlasmaCurve(
        times_s=t, plasma_mM=np.where(t > 20, 6.0 * np.exp(-(t - 22) / 60) + 1.0, 0.0)
    )
    return Setting(maps, grid, 1), aif, np.cumsum(np.linspace(4.0, 18.0, 30))
