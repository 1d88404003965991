"""Linear and quadratic models of a least-squares objective at a point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]


@dataclass(frozen=True)
class QuadraticModel:
    """Normal equations of whitened residuals ``r`` with Gaussian priors.

    Attributes:
        objective: (chi2 + prior)/2.
        chi2: squared norm of the residual.
        gradient: ``J' r`` + gradient of the prior, ``(m,)``.
        hessian: ``J' J`` + precision of the prior, ``(m, m)``.
    """

    objective: float
    chi2: float
    gradient: Array
    hessian: Array

    @classmethod
    def from_residual(
        cls, residual: Array, jacobian: Array, prior_residual: Array, prior_sd: Array
    ) -> QuadraticModel:
        """Normal equations of a residual.

        Args:
            residual: whitened, ``(N,)``.
            jacobian: of the residual, ``(N, m)``.
            prior_residual: distance from the prior mean in prior sd, ``(m,)``.
            prior_sd: ``(m,)``.
        """
        chi2 = float(residual @ residual)
        return cls(
            objective=0.5 * (chi2 + float(prior_residual @ prior_residual)),
            chi2=chi2,
            gradient=jacobian.T @ residual + prior_residual / prior_sd,
            hessian=jacobian.T @ jacobian + np.diag(prior_sd**-2.0),
        )

    def terms(self, observations: int) -> dict[str, float]:
        """chi2 per observation, and the squared distance from the prior, for progress."""
        return {"chi2/N": self.chi2 / observations, "prior": 2 * self.objective - self.chi2}

    @property
    def covariance(self) -> Array:
        """Covariance of the Laplace approximation: the inverse Hessian."""
        return np.asarray(np.linalg.inv(self.hessian), dtype=np.float64)

    @property
    def full_step(self) -> Array:
        """Step to the minimum of the model, ``(m,)``."""
        return np.asarray(-np.linalg.solve(self.hessian, self.gradient), dtype=np.float64)

    @property
    def predicted_decrease(self) -> float:
        """Decrease of the objective by the full step."""
        return -0.5 * float(self.gradient @ self.full_step)

    def restrict(self, free: NDArray[np.bool_]) -> QuadraticModel:
        """The model of some coordinates while the others stay fixed.

        Args:
            free: which coordinates stay, ``(m,)``.
        """
        return QuadraticModel(
            self.objective, self.chi2, self.gradient[free], self.hessian[np.ix_(free, free)]
        )

    def damped_step(self, damping: float, largest: Array, floor: float = 0.0) -> Array:
        """Levenberg-Marquardt step.

        Args:
            damping: multiplies the diagonal of the Hessian.
            largest: step length per coordinate above which the step is shortened, ``(m,)``.
            floor: added to the diagonal before damping, relative to its largest entry.

        Raises:
            numpy.linalg.LinAlgError: the damped Hessian is not positive definite.
        """
        diagonal = np.diag(self.hessian)
        damped = self.hessian + damping * np.diag(diagonal + floor * diagonal.max())
        step = -cho_solve(cho_factor(damped), self.gradient)
        return np.asarray(step / max(1.0, float(np.max(np.abs(step) / largest))), dtype=np.float64)


@dataclass(frozen=True)
class Linearisation:
    """The whitened residual at a point, ``(N,)``, and its Jacobian, ``(N, m)``."""

    residual: Array
    jacobian: Array

    @classmethod
    def from_prediction(cls, prediction: Any) -> Linearisation:
        """From a prediction that carries its Jacobian."""
        return cls(prediction.residual.cpu().numpy(), prediction.jacobian.cpu().numpy())

    @property
    def misfit(self) -> float:
        """Half of chi2."""
        return 0.5 * float(self.residual @ self.residual)

    def broyden_update(self, step: Array, residual: Array, sd: Array) -> Linearisation:
        """The linearisation after a step, its Jacobian by Broyden's rank-one update.

        Args:
            step: ``(m,)``.
            residual: after the step, ``(N,)``.
            sd: size of a step in each coordinate, ``(m,)``.
        """
        along = step / sd**2
        mismatch = residual - self.residual - self.jacobian @ step
        return Linearisation(
            residual, self.jacobian + np.outer(mismatch, along / float(step @ along))
        )

    def quadratic(self, prior_residual: Array, prior_sd: Array) -> QuadraticModel:
        """Normal equations with a Gaussian prior."""
        return QuadraticModel.from_residual(self.residual, self.jacobian, prior_residual, prior_sd)
