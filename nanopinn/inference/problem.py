"""The interface between problems and engines, and the least-squares objective of a problem.

The states of a problem may be fields of voxels, compartments, or points on a line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.quadratic_model import Linearisation, QuadraticModel
from nanopinn.inference.unknowns import UnknownSet
from nanopinn.results.fit_result import EngineRun, ScalarEstimate

Array = NDArray[np.float64]

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

    def update_linearisation(self, theta: Array, here: States) -> Self:
        """The problem linearised again at a point.

        Args:
            theta: coordinates, ``(m,)``.
            here: states at theta.

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
        """Normal equations of a prediction that carries its Jacobian."""
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
