"""Engine ``pinn``: inverse physics-informed neural networks, on the voxel lattice and for systems of equations."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.contract import Fitted
from nanopinn.inference.pinn.engine import PinnSettings
from nanopinn.inference.pinn.engine import fit_pinn as fit_voxel_pinn
from nanopinn.inference.pinn.systems import SystemPinnSettings, fit_system_pinn
from nanopinn.inference.problem import InverseProblem
from nanopinn.inference.resume import Keeper
from nanopinn.inference.systems import SystemProblem
from nanopinn.progress import Progress, silent

__all__ = ["PinnSettings", "SystemPinnSettings", "fit_pinn"]

Array = NDArray[np.float64]


@overload
def fit_pinn(
    problem: InverseProblem,
    start: Array | None = None,
    *,
    settings: PinnSettings | None = None,
    seed: int = 0,
    keeper: Keeper | None = None,
    progress: Progress = silent,
) -> Fitted[InverseProblem]: ...
@overload
def fit_pinn(
    problem: SystemProblem,
    start: Array | None = None,
    *,
    settings: SystemPinnSettings | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Fitted[SystemProblem]: ...
def fit_pinn(
    problem: Any, start: Array | None = None, *, settings: Any = None, seed: int = 0, **shared: Any
) -> Any:
    """Fit the unknowns with the inverse PINN of the problem's kind.

    Args:
        start: coordinates to start from; the prior means if None.
        seed: of the initial weights.
        shared: ``progress``; ``keeper`` of the state of a fit through voxels.
    """
    fit = fit_system_pinn if isinstance(problem, SystemProblem) else fit_voxel_pinn
    return fit(problem, start, settings=settings, seed=seed, **shared)
