"""Engine ``fv``: Gauss-Newton with exact tangents of the implicit finite-volume solution.

The states are eliminated: every iteration solves them together with their tangents, which are
further right-hand sides of the same matrices. The states are the pressure and the pools of voxels,
or a system of ordinary differential equations.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.engine_driver import IterationLog, TangentMethod, fit_gauss_newton
from nanopinn.inference.multistart import fit_from_several_starts
from nanopinn.inference.problem import AnyProblem, EngineFit
from nanopinn.io.checkpoint_store import CheckpointStore
from nanopinn.progress import Progress, ignore_progress

Array = NDArray[np.float64]


class ImplicitTangents(TangentMethod[Any, Any]):
    """States and tangents by the implicit solver of the problem."""

    engine = "fv"
    stage = "fv: Gauss-Newton"

    def solve(
        self, problem: Any, theta: Array, solver: Any, states: Any | None, log: IterationLog
    ) -> Any:
        return problem.solve(theta, solver, tangents=True)


def fit_fv(
    problem: AnyProblem,
    start: Array | None = None,
    *,
    iterations: int = 12,
    tolerance: float = 0.1,
    starts: int = 1,
    seed: int = 0,
    checkpoint_store: CheckpointStore | None = None,
    progress: Progress = ignore_progress,
) -> EngineFit[AnyProblem]:
    """Fit the unknowns with exact tangents; the posterior is the Laplace approximation.

    Args:
        problem: unknowns, states and observations.
        start: coordinates, ``(m,)``; the prior means if None.
        iterations: largest number of Gauss-Newton iterations.
        tolerance: the fit ends when a full step is below this many posterior sd.
        starts: number of optimisation runs. All but the first begin at draws from the prior; the
            best is returned, and its run lists all of them.
        seed: of these draws.
        checkpoint_store: of the state before every iteration, for voxel problems; an interrupted
            fit continues from it. Several starts store none.
        progress: called with the state of the work.
    """
    fit = partial(fit_gauss_newton, iterations=iterations, tolerance=tolerance, progress=progress)
    if starts == 1:
        return fit(problem, ImplicitTangents(), start, checkpoint_store=checkpoint_store)
    first = problem.unknowns.prior_mean if start is None else np.asarray(start, dtype=np.float64)
    found: EngineFit[AnyProblem] = fit_from_several_starts(
        lambda theta: fit(problem, ImplicitTangents(), theta),
        problem.unknowns,
        first,
        starts,
        seed,
    )
    return found
