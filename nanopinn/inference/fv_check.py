"""Finite-volume check after every fit: an independent solution that shares only the equations and
the estimate with the fit.

The check uses a grid twice as fine, a third-order time scheme instead of the second-order one, and
no model error. It fails if the model does not describe the data, because the misfit then exceeds
the noise, and if the engine or the grid of the fit is not accurate enough, because then the fields
differ or the scalars shift.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.model_error import (
    BALANCES,
    ModelErrorMap,
    map_model_error,
    without_model_error,
)
from nanopinn.inference.problem import Prediction
from nanopinn.inference.systematic import ModelError
from nanopinn.inference.tumour_problem import Fields
from nanopinn.inference.uncertainty.prior_conflict import (
    DOSE_LIMIT,
    PriorConflict,
    compare_with_priors,
)
from nanopinn.parameters import value
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results import CheckItem, CheckResult
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.runge_kutta import SDIRK3

Array = NDArray[np.float64]

#: Relative residual of the linear solves, below the limit of the mass balance and far below the
#: other limits.
CHECK_SOLVER_TOLERANCE = 1e-8
#: Limits of the relative L2 difference of pressure and contrast agent, and of drug.
FIELD_LIMIT, DRUG_LIMIT = 0.05, 0.10
#: Limit of the misfit per observation, which allows for the coarse description of the tissue.
MISFIT_LIMIT = 1.5
#: Limit of the shift of the scalars on the refined grid, posterior standard deviations.
SHIFT_LIMIT = 2.0
#: Limit of the relative error of the drug mass balance.
BALANCE_LIMIT = 1e-6
#: Limit of the estimated model error, prior standard deviations.
MODEL_ERROR_LIMIT = 1.0
#: Limit of free drug over K_e in the mean of all uptake, at which the deviation of the uptake from
#: the linear one is below ten per cent.
LINEAR_LIMIT = 0.1


def check_fit(
    problem: InverseProblem,
    theta: Array,
    fitted: Prediction[Fields],
    *,
    refine: int = 2,
    progress: Progress = ignore_progress,
) -> CheckResult:
    """Solve again on a refined grid at the estimate, and compare with the fit and the data.

    Args:
        problem: problem as it is at the end of the fit.
        theta: estimate, ``(m,)``.
        fitted: fields of the fit, with the Jacobian of the observations.
        refine: refinement factor relative to the grid of the fit.
        progress: receives the state of the check.

    Returns:
        All comparisons with their limits.
    """
    began = time.perf_counter()
    progress("check: refined finite volumes", 0.1, {})
    course = problem.course and problem.course.refined(refine)
    finer = replace(problem, setting=problem.setting.refined(refine), course=course)
    forward = finer.forward()
    fields = finer.solve(theta, forward, scheme=SDIRK3, tol=CHECK_SOLVER_TOLERANCE)
    on_voxels = fields.on_parents(refine)
    contrast, pools = on_voxels.contrast, on_voxels.pools
    fit_p = average_subcells(fitted.fields.flow.p, problem.setting.flow_refine)
    p = average_subcells(fields.flow.p, refine * problem.setting.flow_refine)
    inside = problem.contrast.voxels
    items = [
        _field("pressure", fit_p[inside], p[inside]),
        _field("contrast agent", fitted.fields.contrast[:, inside], contrast[:, inside]),
    ]
    if pools is not None and fitted.fields.pools is not None:
        nodes = [problem.node_index(d) for d in problem.drug]
        assert problem.course is not None
        options = problem.course.options
        items += [
            _field(
                f"{name} drug", fitted.fields.pools[nodes, i][:, inside], pools[nodes, i][:, inside]
            )
            for i, name in enumerate(options.pools)
            if name in ("encapsulated", "nuclear")
        ]
        items.append(_balance(fields.balance))
        if not options.saturable:
            free = pools[:, options.pools.index("free")][:, inside]
            items.append(_linearity(uptake_saturation(free, problem.drug_times)))
    items += _prior_conflict(compare_with_priors(problem, theta, fitted))
    exact = without_model_error(problem)
    items += [_misfit(name, chi2, n) for name, (chi2, n) in exact.blocks(on_voxels).items()]
    items += [_model_error(m, problem.model_error) for m in map_model_error(problem, fitted.fields)]
    items.append(_shift(problem, theta, fitted, on_voxels))
    return CheckResult(tuple(items), time.perf_counter() - began)


def _item(name: str, found: float, limit: float, meaning: str) -> CheckItem:
    """A comparison that passes up to its limit."""
    return CheckItem(name, found, limit, bool(found <= limit), meaning)


def _field(name: str, fit: Tensor, other: Tensor) -> CheckItem:
    """Relative L2 difference of a field."""
    error = float((fit - other).norm() / other.norm())
    limit = DRUG_LIMIT if name.endswith("drug") else FIELD_LIMIT
    return _item(
        f"{name}, relative L2",
        error,
        limit,
        "difference between the fit and the refined solution in the tumour",
    )


def _model_error(found: ModelErrorMap, allowed: ModelError | None) -> CheckItem:
    """Size of the estimated model error of a balance."""
    assert allowed is not None
    flux = BALANCES[found.balance]
    limit = MODEL_ERROR_LIMIT * allowed.prior_sd
    return _item(
        f"model error of {found.balance}, over fluxes",
        found.size,
        limit,
        f"root mean square in the tumour relative to {flux}",
    )


def _misfit(name: str, chi2: float, n: int) -> CheckItem:
    """Misfit per observation, with an allowance for its random variation."""
    limit = MISFIT_LIMIT + 4 * (2 / n) ** 0.5
    return _item(f"misfit of {name}, chi2/N", chi2 / n, limit, "residual of the refined solution")


def _shift(
    problem: InverseProblem, theta: Array, fitted: Prediction[Fields], refined: Fields
) -> CheckItem:
    """Gauss-Newton step of the scalars if the refined solution were exact, in posterior standard
    deviations of the fit, which include the discretisation error.
    """
    assert problem.errors is not None
    exact = replace(problem, errors=problem.errors.without_grid())
    jacobian = exact.compare(fitted.fields).jacobian
    residual = exact.residual(refined.contrast, refined.pools)
    quadratic = exact.quadratic(theta, replace(fitted, residual=residual, jacobian=jacobian))
    step = np.linalg.solve(quadratic.hessian, quadratic.gradient)
    found = float(
        np.max(np.abs(step) / np.sqrt(np.diag(problem.quadratic(theta, fitted).covariance)))
    )
    return _item(
        "shift of the scalars, posterior sd",
        found,
        SHIFT_LIMIT,
        "Gauss-Newton step on the refined grid",
    )


def _prior_conflict(found: PriorConflict) -> list[CheckItem]:
    """Whether the data contradict the priors of unknowns and shared errors."""
    worst = found.worst
    where = (
        f"largest shift: {worst.label}, {worst.shift:+.1f} prior sd; it may come from"
        f" {worst.meaning}"
    )
    dose = (
        []
        if not found.dose_z
        else [
            _item(
                "stated dose against data, predictive sd",
                found.dose_z,
                DOSE_LIMIT,
                "with the priors of everything else the images ask for"
                f" {found.dose_factor:.2g} times the stated dose; if it fails, check the dose, the"
                " calibration of the images and the plasma kinetics",
            )
        ]
    )
    return [
        *dose,
        _item(
            f"prior against data, chi2 of {found.degrees} directions",
            found.statistic,
            found.statistic_limit,
            where,
        ),
        _item(
            "largest shift from a prior, predictive sd", found.largest, found.largest_limit, where
        ),
    ]


def _balance(error: float) -> CheckItem:
    """Mass balance of the drug."""
    return _item(
        "drug mass balance",
        error,
        BALANCE_LIMIT,
        "relative error of entered = reacted + outflow + stored",
    )


def uptake_saturation(free: Tensor, times_s: Array) -> float:
    """Free drug over K_e in the mean of all uptake, ``integral F^2 / (K_e integral F)``.

    Args:
        free: concentration at the time nodes in the voxels of the tumour, ``(n, voxel)``, kg/m3.
        times_s: of the nodes, ``(n,)``.
    """
    weights = torch.as_tensor(np.gradient(times_s), dtype=free.dtype, device=free.device)[:, None]
    amount = float((weights * free).sum())
    return float((weights * free.square()).sum()) / (amount * value("K_e")) if amount > 0 else 0.0


def _linearity(found: float) -> CheckItem:
    """Free drug relative to the constant of saturable uptake."""
    return _item(
        "free drug over K_e, mean of the uptake",
        found,
        LINEAR_LIMIT,
        "uptake is linear for concentrations well below K_e",
    )
