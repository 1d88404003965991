"""A fit as a file: its result, and the problem as it was at the estimate.

The check, profiles and samples start from :class:`FittedProblem`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.inverse_problem import SERIALISABLE_PARTS, InverseProblem
from nanopinn.inference.nuisance_scales import AifScaleProblem
from nanopinn.inference.problem import EngineFit, Linearisation, Objective, ResidualProblem
from nanopinn.inference.uncertainty.prior_conflict import ConsideredPosterior
from nanopinn.io.safe_open import is_file, read_bytes
from nanopinn.io.serialize import MAX_FILE_BYTES, from_bytes, to_bytes
from nanopinn.io.volumes import write_bytes
from nanopinn.results import (
    CheckItem,
    CheckResult,
    Curve,
    EngineRun,
    FieldEstimate,
    FitResult,
    MapEstimate,
    PriorShift,
    Profile,
    ScalarEstimate,
    StartResult,
    StrongestCorrelation,
    VectorEstimate,
)

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
        considered: posterior of the parameters that were considered and not estimated; None
            before the check of the fit.
        expansion: residual and Jacobian at the estimate, where they are at hand; see
            :attr:`tangents`.
    """

    problem: InverseProblem
    theta: Array
    aif_sd: float = 0.0
    log_scale: float = 0.0
    considered: ConsideredPosterior | None = None
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


#: The file of a fit in its result folder.
FILE = "fit.safetensors"

#: Every class that a file may hold.
_SERIALISABLE_CLASSES: tuple[type, ...] = (
    FittedProblem,
    *SERIALISABLE_PARTS,
    CheckItem,
    CheckResult,
    ConsideredPosterior,
    Curve,
    EngineRun,
    FieldEstimate,
    FitResult,
    MapEstimate,
    PriorShift,
    Profile,
    ScalarEstimate,
    StartResult,
    StrongestCorrelation,
    VectorEstimate,
)


def fit_to_bytes(fit: FitResult | FittedProblem) -> bytes:
    """A fit, or its problem alone, as the content of a safetensors file."""
    return to_bytes(fit, _SERIALISABLE_CLASSES)


def fit_from_bytes(content: bytes) -> FitResult | FittedProblem:
    """The inverse of :func:`fit_to_bytes`.

    Raises:
        ValueError: the content is not that of a fit, is damaged, or has another version.
    """
    value = from_bytes(content, _SERIALISABLE_CLASSES)
    problem = value.fitted_problem if isinstance(value, FitResult) else value
    if not isinstance(problem, FittedProblem | None) or value is None:
        raise ValueError(f"not a file of a fit: it holds a {type(problem).__name__}")
    found: FitResult | FittedProblem = value
    return found


def save_fit(fit: FitResult, path: str | Path) -> Path:
    """Write a whole fit as safetensors with JSON in its header.

    Args:
        fit: of one study.
        path: a file named ``.safetensors``, or a folder.

    Returns:
        The file, which :func:`load_fit` reads.

    Raises:
        OutputError: the file cannot be written.
    """
    file = fit_file_path(path)
    write_bytes(file, fit_to_bytes(fit))
    return file


def load_fit(path: str | Path) -> FitResult:
    """Read a fit.

    Args:
        path: the file, or the result folder that holds it.

    Raises:
        InputError: there is none, or the file is damaged or has another version.
    """
    value = _read(path)
    if not isinstance(value, FitResult):
        raise _unreadable_error(
            fit_file_path(path), f"it holds a {type(value).__name__} without its result"
        )
    return value


def load_fitted_problem(path: str | Path) -> FittedProblem:
    """Read the problem and the estimate of a fit.

    Args:
        path: the file, or the result folder that holds it.

    Raises:
        InputError: there is none, or the file is damaged or has another version.
    """
    value = _read(path)
    problem: Any = value.fitted_problem if isinstance(value, FitResult) else value
    if problem is None:
        raise InputError(
            "the saved fit does not hold its problem",
            file=path,
            remedy="Give the result folder of a fit.",
        )
    found: FittedProblem = problem
    return found


def fit_file_path(path: str | Path) -> Path:
    """The file of a fit: the path itself, or the file in a folder."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / FILE


def _read(path: str | Path) -> FitResult | FittedProblem:
    file = fit_file_path(path)
    if not is_file(file):
        raise InputError(
            "not a result folder",
            file=path,
            expected=FILE,
            remedy="Give the result folder of a fit.",
        )
    try:
        return fit_from_bytes(read_bytes(file, MAX_FILE_BYTES))
    except ValueError as error:
        raise _unreadable_error(file, str(error)) from error


def _unreadable_error(file: Path, found: str) -> InputError:
    return InputError(
        "the fit cannot be read",
        file=file,
        found=found,
        remedy="Run the fit again with this version.",
    )
