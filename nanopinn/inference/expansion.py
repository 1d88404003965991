"""A problem seen as a least-squares objective of its coordinates, one full solve a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.gauss_newton import QuadraticModel
from nanopinn.inference.unknowns import UnknownSet

Array = NDArray[np.float64]


class ResidualProblem(Protocol):
    """What the uncertainty of a fit asks of its problem: voxels, or anything else with a residual."""

    @property
    def unknowns(self) -> UnknownSet: ...

    def solver(self) -> Any: ...

    def predict(self, theta: Array, forward: Any, *, tangents: bool = False) -> Any: ...

    def scalars(self, theta: Array) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Linearisation:
    """The whitened residual at a point, ``(N,)``, and its derivative, ``(N, m)``."""

    residual: Array
    jacobian: Array

    @classmethod
    def of(cls, prediction: Any) -> Linearisation:
        """From a prediction that carries its Jacobian."""
        return cls(prediction.residual.cpu().numpy(), prediction.jacobian.cpu().numpy())

    @property
    def misfit(self) -> float:
        """Half of chi2."""
        return 0.5 * float(self.residual @ self.residual)

    def broyden_update(self, step: Array, residual: Array, sd: Array) -> Linearisation:
        """After a step to where the residual is known: tangents brought in line with it (Broyden's rank-one update).

        Args:
            step: ``(m,)``. residual: there. sd: ``(m,)``, the size of a step in each coordinate.
        """
        along = step / sd**2
        mismatch = residual - self.residual - self.jacobian @ step
        return Linearisation(
            residual, self.jacobian + np.outer(mismatch, along / float(step @ along))
        )

    def quadratic(self, prior_residual: Array, prior_sd: Array) -> QuadraticModel:
        """Normal equations with a Gaussian prior."""
        return QuadraticModel.from_residual(self.residual, self.jacobian, prior_residual, prior_sd)


class Objective:
    """Half of ``chi2 + prior`` of a problem as it stands: maps and systematic errors are not brought up to date on the way."""

    def __init__(self, problem: ResidualProblem) -> None:
        self.problem = problem
        self.solver = problem.solver()
        self.solves = 0
        self.prior_mean, self.prior_sd = problem.unknowns.prior_mean, problem.unknowns.prior_sd

    def residual(self, theta: Array) -> Array:
        """Whitened misfit of every observation, from a full solve."""
        self.solves += 1
        return np.asarray(
            self.problem.predict(theta, self.solver).residual.cpu().numpy(), dtype=np.float64
        )

    def expand(self, theta: Array) -> Linearisation:
        """With exact tangents."""
        self.solves += 1
        return Linearisation.of(self.problem.predict(theta, self.solver, tangents=True))

    def prior_residual(self, theta: Array) -> Array:
        """Coordinates in prior standard deviations from their prior means."""
        return np.asarray((theta - self.prior_mean) / self.prior_sd)

    def prior(self, theta: Array) -> float:
        """Half of the squared distance from the prior."""
        z = self.prior_residual(theta)
        return 0.5 * float(z @ z)

    def value(self, theta: Array) -> float:
        """Misfit and prior together."""
        r = self.residual(theta)
        return 0.5 * float(r @ r) + self.prior(theta)

    def quadratic(self, theta: Array, expansion: Linearisation) -> QuadraticModel:
        """Normal equations at a point."""
        return expansion.quadratic(self.prior_residual(theta), self.prior_sd)
