"""The interface between problems and engines, and the least-squares objective of a problem.

The states of a problem may be fields of voxels, compartments, or points on a line. The objective
has a linear and a quadratic model at a point.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor

from nanopinn.inference.unknowns import UnknownSet
from nanopinn.results import EngineRun, ScalarEstimate

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
        """From a prediction with its Jacobian."""
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


#: The solver of the states of a problem; it may store its last solution.
Solver = TypeVar("Solver")
#: The states of a problem at a point.
States = TypeVar("States")


@dataclass(frozen=True)
class Prediction(Generic[States]):
    """States and their whitened residual.

    Attributes:
        fields: the states.
        residual: of every observation, ``(N,)``.
        jacobian: derivative of the residual by the coordinates, ``(N, m)``, or None.
    """

    fields: States
    residual: Tensor
    jacobian: Tensor | None

    @property
    def chi2(self) -> float:
        """Sum of squared whitened residuals."""
        return float(self.residual @ self.residual)


@dataclass(frozen=True)
class Problem(ABC, Generic[Solver, States]):
    """Unknowns with priors, the states that they determine, and observations.

    A subclass defines how the states are solved and compared with the observations. Problems are
    immutable.

    Attributes:
        unknowns: in the order of the coordinates.
    """

    unknowns: UnknownSet

    @property
    @abstractmethod
    def observations(self) -> int:
        """Number of independent observations."""

    @abstractmethod
    def solver(self, before: Solver | None = None) -> Solver:
        """A solver of the states, which may start from the last solution of another solver."""

    @abstractmethod
    def solve(self, theta: Array, solver: Solver, *, tangents: bool = False) -> States:
        """The states at a point.

        Args:
            theta: coordinates, ``(m,)``.
            solver: from :meth:`solver`.
            tangents: with exact tangents.
        """

    @abstractmethod
    def compare(self, states: States) -> Prediction[States]:
        """The residual of states, with its Jacobian where they have tangents."""

    def update_linearisation(self, theta: Array, states: States) -> Self:
        """The problem linearised again at a point.

        Args:
            theta: coordinates, ``(m,)``.
            states: states at theta.

        Returns:
            A new problem, or this one where nothing changed.
        """
        return self

    def with_systematic_errors(self, theta: Array, states: States) -> Self:
        """The problem with the effect of its systematic errors at a point.

        Args:
            theta: coordinates, ``(m,)``.
            states: of this problem at theta.
        """
        return self

    def predict(
        self, theta: Array, solver: Solver, *, tangents: bool = False
    ) -> Prediction[States]:
        """Solve the states and compare them with the observations."""
        return self.compare(self.solve(theta, solver, tangents=tangents))

    def tensor(self, theta: Array) -> Tensor:
        """Coordinates as a tensor on the device of the states."""
        return torch.as_tensor(theta, dtype=torch.float64)

    def scalars(self, theta: Array) -> Mapping[str, float]:
        """Scalars of the model, SI."""
        return {k: float(v) for k, v in self.unknowns.scalars(self.tensor(theta)).items()}

    def prior_residual(self, theta: Array) -> Array:
        """Distance from the prior means in prior standard deviations, ``(m,)``."""
        return self.unknowns.prior_residual(theta)

    def objective(self, theta: Array, prediction: Prediction[States]) -> float:
        """``(chi2 + prior) / 2``."""
        prior = self.prior_residual(theta)
        return 0.5 * (prediction.chi2 + float(prior @ prior))

    def quadratic(self, theta: Array, prediction: Prediction[States]) -> QuadraticModel:
        """Normal equations of a prediction with its Jacobian."""
        expansion = Linearisation.from_prediction(prediction)
        return expansion.quadratic(self.prior_residual(theta), self.unknowns.prior_sd)


#: Any problem, for functions that return one of the same class.
AnyProblem = TypeVar("AnyProblem", bound=Problem[Any, Any])


@dataclass(frozen=True)
class EngineFit(Generic[AnyProblem]):
    """The estimate of an engine.

    Attributes:
        run: estimates and course of the run.
        theta: coordinates of the estimate, ``(m,)``.
        problem: as it was linearised last.
        prediction: states and residual at the last linearisation.
    """

    run: EngineRun
    theta: Array
    problem: AnyProblem
    prediction: Prediction[Any]


def describe_unaffected(scalars: tuple[ScalarEstimate, ...]) -> str:
    """A clause that names the unknowns on which no observation depends; empty where none is."""
    names = [s.label for s in scalars if s.unaffected_by_data]
    if not names:
        return ""
    verb, pronoun = ("does", "it keeps its") if len(names) == 1 else ("do", "they keep their")
    return f"; {', '.join(names)} {verb} not affect any observation; {pronoun} prior"


class ResidualProblem(Protocol):
    """What profile likelihoods and samplers need of a problem."""

    @property
    def unknowns(self) -> UnknownSet: ...

    def solver(self) -> Any: ...

    def predict(self, theta: Array, forward: Any, *, tangents: bool = False) -> Any: ...

    def scalars(self, theta: Array) -> Mapping[str, float]: ...


class Objective:
    """(chi2 + prior)/2 of a problem whose maps and systematic errors stay fixed.

    Args:
        problem: as it was linearised last.
    """

    def __init__(self, problem: ResidualProblem) -> None:
        self.problem = problem
        self.solver = problem.solver()
        self.solves = 0
        self.prior_sd = problem.unknowns.prior_sd

    def residual(self, theta: Array) -> Array:
        """Whitened residual of every observation, ``(N,)``, from a full solution."""
        self.solves += 1
        return np.asarray(
            self.problem.predict(theta, self.solver).residual.cpu().numpy(), dtype=np.float64
        )

    def expand(self, theta: Array) -> Linearisation:
        """Residual and Jacobian from a full solution with exact tangents."""
        self.solves += 1
        return Linearisation.from_prediction(
            self.problem.predict(theta, self.solver, tangents=True)
        )

    def prior_residual(self, theta: Array) -> Array:
        """Distance from the prior means in prior standard deviations, ``(m,)``."""
        return self.problem.unknowns.prior_residual(theta)

    def prior(self, theta: Array) -> float:
        """Half of the squared distance from the prior."""
        z = self.prior_residual(theta)
        return 0.5 * float(z @ z)

    def value(self, theta: Array) -> float:
        """The objective."""
        r = self.residual(theta)
        return 0.5 * float(r @ r) + self.prior(theta)

    def quadratic(self, theta: Array, expansion: Linearisation) -> QuadraticModel:
        """Normal equations of a linearisation."""
        return expansion.quadratic(self.prior_residual(theta), self.prior_sd)
