"""A finished fit as a file: its answer, and the problem as it stood, so that it can be checked,
profiled or taken up again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.aif_scale import AifScaleProblem
from nanopinn.inference.multistart import StartResult
from nanopinn.inference.problem import EngineFit, Linearisation, Objective, ResidualProblem
from nanopinn.inference.tumour_problem import SERIALISABLE_PARTS, InverseProblem
from nanopinn.inference.uncertainty.profile import Profile
from nanopinn.io import serialize as saving
from nanopinn.io.safe_open import is_file, read_bytes
from nanopinn.results import fit_result as result
from nanopinn.results.fit_result import FitResult, StrongestCorrelation

Array = NDArray[np.float64]

#: The file of a fit in its result folder.
FILE = "fit.safetensors"


@dataclass(frozen=True)
class FittedProblem:
    """Where a fit ended: the problem as it stood, and the coordinates of the estimate."""

    problem: InverseProblem
    theta: Array
    aif_sd: float = 0.0
    """Prior sd of ln of the arterial input's scale where that was an unknown; ``log_scale`` is its
    estimate.
    """
    log_scale: float = 0.0
    expansion: Linearisation | None = field(
        default=None, repr=False, compare=False, metadata={"saved": False}
    )
    """Residual and tangents at the estimate, where they are at hand; see :meth:`tangents`."""

    @classmethod
    def of(cls, fitted: EngineFit) -> FittedProblem:
        """Where an engine ended."""
        # a descent that ran out of iterations ends a step beyond its last tangents
        known = Linearisation.of(fitted.prediction) if fitted.run.converged else None
        return cls(fitted.problem, fitted.theta, expansion=known)

    @property
    def full_problem(self) -> ResidualProblem:
        """The problem with every unknown of the fit; its estimate is :attr:`point`."""
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
        """Residual and tangents at the estimate, worked out once."""
        return self.expansion or Objective(self.full_problem).expand(self.full_theta)

    def to_bytes(self) -> bytes:
        """Serialise; arrays and plain values only, so that reading runs no code."""
        return saving.to_bytes(self, _SERIALISABLE_CLASSES)

    @classmethod
    def from_bytes(cls, content: bytes) -> FittedProblem:
        """The inverse of :meth:`to_bytes`.

        Raises:
            ValueError: not a checkpoint, spoiled, or one of another version.
        """
        return _require_type(cls, saving.from_bytes(content, _SERIALISABLE_CLASSES))


_RESULTS = (
    result.CheckItem,
    result.CheckResult,
    result.Curve,
    result.EngineRun,
    result.FieldEstimate,
    result.FitResult,
    result.MapEstimate,
    result.ScalarEstimate,
    result.VectorEstimate,
    Profile,
    StrongestCorrelation,
    StartResult,
)

#: Everything a file may hold.
_SERIALISABLE_CLASSES: tuple[type, ...] = (
    FittedProblem,
    *SERIALISABLE_PARTS,
    *_RESULTS,
)


def fit_to_bytes(fit: FitResult) -> bytes:
    """A fit as the content of a safetensors file."""
    return saving.to_bytes(fit, _SERIALISABLE_CLASSES)


def load_fit(path: str | Path) -> FitResult:
    """A fit that was saved, from its file or from the folder it lies in.

    Raises:
        InputError: there is none, or the file is spoiled or of another version.
    """
    found: FitResult = _read(path, FitResult)
    return found


def load_fitted_problem(path: str | Path) -> FittedProblem:
    """Problem and estimate of a fit that was saved, from its file or from the folder it lies in.

    Raises:
        InputError: there is none, or the file is spoiled or of another version.
    """
    value = _read(path, (FitResult, FittedProblem))
    fitted_problem: FittedProblem | None = (
        value.fitted_problem if isinstance(value, FitResult) else value
    )
    if fitted_problem is None:
        raise InputError(
            "the saved fit does not hold its problem", file=path, remedy="Give the --out of a fit."
        )
    return fitted_problem


def _read(path: str | Path, kind: Any) -> Any:
    file = fit_file_path(path)
    if not is_file(file):
        raise InputError(
            "not a result folder", file=path, expected=FILE, remedy="Give the --out of a fit."
        )
    try:
        return _require_type(
            kind, saving.from_bytes(read_bytes(file, saving.MAX_FILE_BYTES), _SERIALISABLE_CLASSES)
        )
    except ValueError as error:
        raise InputError(
            "the fit cannot be read",
            file=file,
            found=str(error),
            remedy="Run the fit again with this version.",
        ) from error


def fit_file_path(path: str | Path) -> Path:
    """The file of a fit: itself, or the one in a folder."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / FILE


def _require_type(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"not a file of a fit: it holds a {type(value).__name__}")
    return value
