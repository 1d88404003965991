"""Engine ``krylov``: Gauss-Newton with tangents by Krylov methods in a reduced time basis.

The states at each iterate are solved by finite volumes without tangents. The tangents solve the
linearised finite-volume equations in a basis of responses to the plasma curves
(:mod:`~nanopinn.inference.krylov.time_basis`), by conjugate gradients for the pressure and
ORTHOMIN(4) for the pools (:mod:`~nanopinn.inference.krylov.orthomin`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.engine_driver import IterationLog, TangentMethod, fit_gauss_newton
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.krylov.orthomin import KrylovSolver
from nanopinn.inference.krylov.tangent_solver import TangentSolver
from nanopinn.inference.problem import EngineFit, Prediction
from nanopinn.inference.quadratic_model import QuadraticModel
from nanopinn.inference.tumour_problem import Fields
from nanopinn.io.checkpoint_store import CheckpointStore
from nanopinn.progress import Progress, ignore_progress
from nanopinn.solvers.forward import ForwardModel

Array = NDArray[np.float64]

#: Linear systems per Gauss-Newton iteration, for progress: pressure, contrast agent, carrier and
#: released drug, and the states.
_PARTS_PER_ITERATION = 5


@dataclass(frozen=True)
class KrylovSettings:
    """Size of the time basis and effort of the solution.

    Attributes:
        rank: dimension of the time basis of each pool system.
        rates: number of random rate constants per plasma curve from which the basis is formed.
        solver: of the linear systems.
        ensemble: number of further time bases, of other seeds and a dimension smaller by two, by
            which the error of the basis is estimated.
        iterations: largest number of Gauss-Newton iterations.
        tolerance: the fit ends when a full step is below this many posterior sd.
    """

    rank: int = 12
    rates: int = 24
    solver: KrylovSolver = field(default_factory=lambda: KrylovSolver(max_iterations=400))
    ensemble: int = 3
    iterations: int = 10
    tolerance: float = 0.1


def fit_krylov(
    problem: InverseProblem,
    start: Array | None = None,
    *,
    settings: KrylovSettings | None = None,
    seed: int = 0,
    checkpoint_store: CheckpointStore | None = None,
    progress: Progress = ignore_progress,
) -> EngineFit[InverseProblem]:
    """Fit the unknowns of a voxel problem with tangents in a reduced time basis.

    The posterior is the Laplace approximation with the estimated error of the time basis added.

    Args:
        problem: unknowns, tissue and observations.
        start: coordinates, ``(m,)``; the prior means if None.
        settings: size of the time basis and effort of the solution.
        seed: of the rate constants of the time basis.
        checkpoint_store: of the state before every iteration; an interrupted fit continues from it.
        progress: called with the state of the work.
    """
    settings = settings or KrylovSettings()
    return fit_gauss_newton(
        problem,
        ReducedBasisTangents(settings, seed, progress),
        start,
        iterations=settings.iterations,
        tolerance=settings.tolerance,
        checkpoint_store=checkpoint_store,
        progress=progress,
    )


@dataclass(frozen=True)
class _Base:
    """The point of the last tangents, with what computes further ones."""

    theta: Array
    solver: ForwardModel
    log: IterationLog


class ReducedBasisTangents(TangentMethod[ForwardModel, Fields]):
    """Tangents by Krylov methods in a reduced time basis."""

    engine = "krylov"
    stage = "krylov: tangents and Gauss-Newton"

    def __init__(
        self, settings: KrylovSettings, seed: int, progress: Progress = ignore_progress
    ) -> None:
        self.settings, self.seed, self.progress = settings, seed, progress
        self.base: _Base
        self.tangent_solver: TangentSolver

    def solve(
        self,
        problem: InverseProblem,
        theta: Array,
        solver: ForwardModel,
        states: Fields | None,
        log: IterationLog,
    ) -> Fields:
        here = problem.solve(theta, solver) if states is None else states
        self.base = _Base(theta.copy(), solver, log)

        def on_solved(name: str, residual: float) -> None:
            share = len(self.tangent_solver.residuals) / _PARTS_PER_ITERATION
            log.report(share, {f"residual {name}": residual})

        self.tangent_solver = replace(
            self.build_tangent_solver(problem, self.seed, self.settings.rank), on_solved=on_solved
        )
        return self.tangent_solver.tangents(problem.tensor(theta), here)

    def build_tangent_solver(self, problem: InverseProblem, seed: int, rank: int) -> TangentSolver:
        """A solver of the tangents at the base point.

        Args:
            problem: linearised there.
            seed: of the rate constants.
            rank: dimension of the time basis.
        """
        s = self.settings
        return TangentSolver(
            problem, self.base.solver, rank, s.rates, seed, s.solver, self.base.log.event
        )

    def error_covariance(
        self, problem: InverseProblem, prediction: Prediction[Any], quadratic: QuadraticModel
    ) -> Array:
        """The error of the time basis in the unknowns, as a covariance, ``(m, m)``.

        Further bases of other rate constants, smaller by two functions, give other full steps from
        the same point. The mean square difference from the engine's own full step is the estimate;
        it errs to the large side because these bases are smaller.
        """
        m, theta, fields = len(quadratic.gradient), self.base.theta, prediction.fields
        bare = replace(fields, flow=fields.flow_without_tangents, d_contrast=None, d_pools=None)
        total, own_step = np.zeros((m, m)), quadratic.full_step
        for k in range(self.settings.ensemble):
            self.progress("krylov: error of the time basis", k / self.settings.ensemble, {})
            member = self.build_tangent_solver(problem, self.seed + 1 + k, self.settings.rank - 2)
            other = problem.compare(member.tangents(problem.tensor(theta), bare))
            difference = problem.quadratic(theta, other).full_step - own_step
            total += np.outer(difference, difference)
        return total / max(self.settings.ensemble, 1)

    def numbers(self) -> dict[str, float]:
        return {f"residual {name}": r for name, r in self.tangent_solver.residuals.items()}

    def statistics(self, names: tuple[str, ...], error_share: Array) -> dict[str, Any]:
        solver = self.tangent_solver
        return {
            "coefficients": solver.coefficients,
            "seed": self.seed,
            "ensemble": self.settings.ensemble,
            **{f"residual of {name}": r for name, r in solver.residuals.items()},
            **{f"iterations of {name}": n for name, n in solver.iterations.items()},
            **{
                f"error of the reduced time basis, {name}, posterior sd": float(s)
                for name, s in zip(names, error_share, strict=True)
            },
        }

    def describe_accuracy(self, names: tuple[str, ...], error_share: Array) -> str:
        residuals = ", ".join(f"{n} {r:.0e}" for n, r in self.tangent_solver.residuals.items())
        return (
            f"; relative residual of the tangent systems: {residuals}; error of the reduced time"
            f" basis at most {error_share.max():.2f} posterior sd"
            f" ({names[int(error_share.argmax())]}), included in the posterior"
        )
