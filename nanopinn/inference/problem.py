"""What an engine asks of a problem, whatever its states are: voxels, compartments or points on a
line.

A problem seen as a least-squares objective of its coordinates, one full solve a time.
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

#: What solves the states of a problem, and may remember where it was last.
Solver = TypeVar("Solver")
#: The states of a problem at a parameter vector.
States = TypeVar("States")


@dataclass(frozen=True)
class Prediction(Generic[States]):
    """States and what the observations make of them.

    Attributes:
        residual: whitened misfit of every observation, ``(N,)``.
        jacobian: its derivative, ``(N, m)``, or None.
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
    """Unknowns with priors, states that follow from them, and observations; immutable.

    A problem says how its states are solved and compared with what was measured. Everything else
    that Gauss-Newton needs follows.
    """

    unknowns: UnknownSet

    @property
    @abstractmethod
    def observations(self) -> int:
        """Independent numbers measured."""

    @abstractmethod
    def solver(self, before: Solver | None = None) -> Solver:
        """What solves the states; it may go on from one that solved a problem nearby."""

    @abstractmethod
    def solve(self, theta: Array, solver: Solver, *, tangents: bool = False) -> States:
        """The states at a parameter vector, with exact tangents on request."""

    @abstractmethod
    def compare(self, states: States) -> Prediction[States]:
        """States against the observations, with the Jacobian where they carry tangents."""

    def update_linearisation(self, theta: Array, here: States) -> Self:
        """The problem with what it takes from the states at theta brought up to date; itself where
        none of it changed.
        """
        return self

    def with_systematic_errors(self, theta: Array, states: States) -> Self:
        """The problem with the effect that systematic errors have at theta, where ``states`` are
        its own.
        """
        return self

    def predict(
        self, theta: Array, solver: Solver, *, tangents: bool = False
    ) -> Prediction[States]:
        """Solve the states and compare them with the observations."""
        return self.compare(self.solve(theta, solver, tangents=tangents))

    def tensor(self, theta: Array) -> Tensor:
        """A coordinate vector as a tensor where the states live."""
        return torch.as_tensor(theta, dtype=torch.float64)

    def scalars(self, theta: Array) -> Mapping[str, float]:
        """Model scalars in SI as floats."""
        return {k: float(v) for k, v in self.unknowns.scalars(self.tensor(theta)).items()}

    def prior_residual(self, theta: Array) -> Array:
        """Coordinates in prior standard deviations from their prior means."""
        return (theta - self.unknowns.prior_mean) / self.unknowns.prior_sd

    def objective(self, theta: Array, prediction: Prediction[States]) -> float:
        """``(chi2 + prior) / 2``."""
        prior = self.prior_residual(theta)
        return 0.5 * (prediction.chi2 + float(prior @ prior))

    def quadratic(self, theta: Array, prediction: Prediction[States]) -> QuadraticModel:
        """Normal equations of a prediction that carries its Jacobian."""
        assert prediction.jacobian is not None
        residual, jacobian = (t.cpu().numpy() for t in (prediction.residual, prediction.jacobian))
        return QuadraticModel.from_residual(
            residual, jacobian, self.prior_residual(theta), self.unknowns.prior_sd
        )


#: A problem of some kind, for what hands it back.
AnyProblem = TypeVar("AnyProblem", bound=Problem[Any, Any])


@dataclass(frozen=True)
class EngineFit(Generic[AnyProblem]):
    """Where an engine ended: its run, and the problem and prediction at its estimate."""

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
    """What the uncertainty of a fit asks of its problem: voxels, or anything else with a residual."""

    @property
    def unknowns(self) -> UnknownSet: ...

    def solver(self) -> Any: ...

    def predict(self, theta: Array, forward: Any, *, tangents: bool = False) -> Any: ...

    def scalars(self, theta: Array) -> Mapping[str, float]: ...


class Objective:
    """Half of ``chi2 + prior`` of a problem as it stands: maps and systematic errors are not
    brought up to date on the way.
    """

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
        return Linearisation.from_prediction(
            self.problem.predict(theta, self.solver, tangents=True)
        )

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
