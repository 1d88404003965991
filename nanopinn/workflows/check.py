"""The finite-volume check again, on the folder of a finished fit."""

from __future__ import annotations

from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.inference.check import check_fit
from nanopinn.inference.checkpoint import load_fitted_problem
from nanopinn.inference.result import CheckResult
from nanopinn.progress import Progress, ignore_progress


def run_check(
    folder: str | Path, *, refine: int = 2, progress: Progress | None = None
) -> CheckResult:
    """Solve every field of a fit again on a finer grid by another time scheme, and compare.

    Args:
        folder: the ``--out`` of a fit.
        refine: how much finer than the fit's grid, 2 or more.

    Raises:
        InputError: not a result folder, or ``refine`` is below 2.
    """
    if refine < 2:
        raise InputError(
            "the check needs a finer grid than the fit's",
            field="--refine",
            found=refine,
            expected="2 or more",
        )
    saved = load_fitted_problem(folder)
    show = progress or ignore_progress
    show("check: the fit's own fields", 0.0, {})
    fitted = saved.problem.predict(saved.theta, saved.problem.forward(), tangents=True)
    return check_fit(saved.problem, saved.theta, fitted, refine=refine, progress=show)
