"""One verification case, the order of convergence, and the small tissues of the cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.tissue_setting import TissueSetting


@dataclass(frozen=True)
class VerificationCase:
    """One observed value with its reference.

    Attributes:
        id: number of the case, or the kind of its reference.
        name: what is computed.
        quantity: that is compared, with its unit.
        observed: value that the package computes.
        reference: value that is known.
        tolerance: largest accepted difference, absolute.
        source: of the reference.
        kind: ``value`` if the package must reproduce the reference, which is an analytic value, a
            published formula or an invariant. ``bracket`` if the reference is a measurement or
            another model of another tumour, animal or treatment; such a case cannot fail.
    """

    id: str
    name: str
    quantity: str
    observed: float
    reference: float
    tolerance: float
    source: str
    kind: Literal["value", "bracket"] = "value"

    @property
    def passed(self) -> bool:
        """Whether the observed value lies within the tolerance."""
        return bool(abs(self.observed - self.reference) <= self.tolerance)

    @property
    def failed(self) -> bool:
        """Whether the package does not reproduce a reference that it must reproduce."""
        return self.kind == "value" and not self.passed


def order_of_convergence(coarse: float, fine: float) -> float:
    """Order at which an error falls when the step is halved, ``log2(coarse / fine)``.

    Args:
        coarse: error with the longer step.
        fine: error with half of that step.
    """
    return float(np.log2(coarse / fine))


def ball(radius: float, widen: float, n: int) -> tuple[Grid, torch.Tensor]:
    """A cube of n^3 cells around a ball, and the distance of every cell from its centre, m.

    Args:
        radius: of the ball, m.
        widen: edge of the cube over the diameter of the ball.
        n: cells along each axis.
    """
    h = 2 * radius * widen / n
    x = (torch.arange(n, dtype=torch.float64) + 0.5) * h - radius * widen
    r = torch.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2)
    return Grid((n, n, n), (h, h, h)), r


def small_tissue() -> tuple[TissueSetting, PlasmaCurve, np.ndarray]:
    """A heterogeneous ball of tumour in 12^3 voxels, a sharp bolus, and 30 frame times (s)."""
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
    return TissueSetting(maps, grid, 1), aif, np.cumsum(np.linspace(4.0, 18.0, 30))
