"""The problem as it was at the end of a fit, from which the check, profiles and samples start."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.nuisance_scales import AifScaleProblem
from nanopinn.inference.problem import EngineFit, Linearisation, Objective, ResidualProblem
from nanopinn.results.fit_result import FitResult

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FittedProblem:
    """A problem with its kinetic maps and systematic errors at the estimate, and the estimate.

    Attributes:
        problem: as the engine left it.
        theta: coordinates of the estimate, ``(m,)``.
        aif_sd: prior sd of the logarithm of the arterial input's scale where that is an unknown; 0
            otherwise.
        log_scale: its estimate.
        expansion: residual and Jacobian at the estimate, where they are at hand; see
            :attr:`tangents`.
    """

    problem: InverseProblem
    theta: Array
    aif_sd: float = 0.0
    log_scale: float = 0.0
    expansion: Linearisation | None = field(
        default=None, repr=False, compare=False, metadata={"saved": False}
    )

    @classmethod
    def from_fit(cls, fitted: EngineFit[InverseProblem]) -> FittedProblem:
        """The problem at the estimate of an engine."""
        # a run that reached its largest number of iterations ends one step after its last Jacobian
        known = Linearisation.from_prediction(fitted.prediction) if fitted.run.converged else None
        return cls(fitted.problem, fitted.theta, expansion=known)

    @property
    def full_problem(self) -> ResidualProblem:
        """The problem with every unknown of the fit, the arterial input's scale included."""
        return (
            AifScaleProblem(self.problem, self.aif_sd, self.log_scale)
            if self.aif_sd
            else self.problem
        )

    @property
    def full_theta(self) -> Array:
        """The estimate of every unknown, ``(m,)``."""
        return np.append(self.theta, self.log_scale) if self.aif_sd else self.theta

    @cached_property
    def tangents(self) -> Linearisation:
        """Residual and Jacobian at the estimate, computed once."""
        return self.expansion or Objective(self.full_problem).expand(self.full_theta)


def fitted_problem_of(fit: FitResult, purpose: str) -> FittedProblem:
    """The problem that a fit result holds.

    Args:
        fit: of one study.
        purpose: what needs it, for the message.

    Raises:
        InputError: the result was stored without its problem.
    """
    if not isinstance(fit.fitted_problem, FittedProblem):
        raise InputError(
            f"the fit result does not hold its problem, which {purpose} needs",
            remedy="Use the result that `run_fit` or `load_fit` returns.",
        )
    return fit.fitted_problem
