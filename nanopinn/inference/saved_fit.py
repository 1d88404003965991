"""A fit as a file: its result, and the problem as it was at the estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanopinn.errors import InputError
from nanopinn.inference.fitted_problem import FittedProblem
from nanopinn.inference.inverse_problem import SERIALISABLE_PARTS
from nanopinn.io.safe_open import is_file, read_bytes
from nanopinn.io.serialize import MAX_FILE_BYTES, from_bytes, to_bytes
from nanopinn.io.volumes import write_bytes
from nanopinn.results.fit_result import (
    CheckItem,
    CheckResult,
    Curve,
    EngineRun,
    FieldEstimate,
    FitResult,
    MapEstimate,
    Profile,
    ScalarEstimate,
    StartResult,
    StrongestCorrelation,
    VectorEstimate,
)

#: The file of a fit in its result folder.
FILE = "fit.safetensors"

#: Every class that a file may hold.
_SERIALISABLE_CLASSES: tuple[type, ...] = (
    FittedProblem,
    *SERIALISABLE_PARTS,
    CheckItem,
    CheckResult,
    Curve,
    EngineRun,
    FieldEstimate,
    FitResult,
    MapEstimate,
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
