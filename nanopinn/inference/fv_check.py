"""The check after every fit: a finite-volume solve that shares nothing with it but the equations.

Grid refined twice over the fit's, a third-order time scheme in place of its second-order one, no
model error, no network. It can fail: for wrong physics the misfit stays above the noise; for a
network or a grid that is not good enough the fields differ, or the scalars would move.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
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
from nanopinn.parameters import value
from nanopinn.physics.drug_pools import LINEAR_POOLS
from nanopinn.progress import Progress, ignore_progress
from nanopinn.results.fit_result import CheckItem, CheckResult
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.runge_kutta import SDIRK3

Array = NDArray[np.float64]

#: Relative residual of its linear solves: below the limit on the balance, and far below the others.
SOLVER_TOLERANCE = 1e-8
FIELD_LIMIT, DRUG_LIMIT = 0.05, 0.10
#: Misfit per observation that noise and the coarse description of tissue may leave, and no more.
MISFIT_LIMIT = 1.5
SHIFT_LIMIT = 2.0
BALANCE_LIMIT = 1e-6
#: Prior standard deviations of the model's error that images may ask for.
MODEL_ERROR_LIMIT = 1.0
#: Uptake is linear while free drug is well below K_e; a tenth bends it by less than ten percent.
LINEAR_LIMIT = 0.1


def check_fit(
    problem: InverseProblem,
    theta: Array,
    fitted: Prediction[Fields],
    *,
    refine: int = 2,
    progress: Progress = ignore_progress,
) -> CheckResult:
    """Solve again, independently, at the estimate, and compare.

    Args:
        problem: as the fit left it.
        theta: the estimate.
        fitted: the fit's own fields, with the Jacobian of its observations.
        refine: how much finer than the fit's grid.
    """
    began = time.perf_counter()
    progress("check: refined finite volumes", 0.1, {})
    finer = replace(problem, setting=problem.setting.refined(refine))
    forward = ForwardModel(finer.setting, problem.unknowns.scalars)
    fields = finer.solve(theta, forward, scheme=SDIRK3, tol=SOLVER_TOLERANCE)
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
        items += [
            _field(
                f"{name} drug", fitted.fields.pools[nodes, i][:, inside], pools[nodes, i][:, inside]
            )
            for name in ("encapsulated", "nuclear")
            for i in (LINEAR_POOLS.pools.index(name),)
        ]
        items += [
            _balance(fields.balance),
            _linearity(pools[:, LINEAR_POOLS.pools.index("free")][:, inside]),
        ]
    exact = without_model_error(problem)
    items += [_misfit(name, chi2, n) for name, (chi2, n) in exact.blocks(on_voxels).items()]
    items += [_model_error(m, problem.model_error) for m in map_model_error(problem, fitted.fields)]
    items.append(_shift(problem, theta, fitted, on_voxels))
    return CheckResult(tuple(items), time.perf_counter() - began)


def _item(name: str, found: float, limit: float, meaning: str) -> CheckItem:
    return CheckItem(name, found, limit, bool(found <= limit), meaning)


def _field(name: str, fit: Tensor, other: Tensor) -> CheckItem:
    error = float((fit - other).norm() / other.norm())
    limit = DRUG_LIMIT if name.endswith("drug") else FIELD_LIMIT
    return _item(
        f"{name}, relative L2",
        error,
        limit,
        "field of the fit against the refined solution, in the tumour",
    )


def _model_error(found: ModelErrorMap, allowed: ModelError | None) -> CheckItem:
    assert allowed is not None
    flux = BALANCES[found.balance]
    limit = MODEL_ERROR_LIMIT * allowed.prior_sd
    return _item(
        f"model error of {found.balance}, over fluxes",
        found.size,
        limit,
        f"root mean square in the tumour, over {flux}",
    )


def _misfit(name: str, chi2: float, n: int) -> CheckItem:
    limit = MISFIT_LIMIT + 4 * (2 / n) ** 0.5
    return _item(f"misfit of {name}, chi2/N", chi2 / n, limit, "refined solution against the data")


def _shift(
    problem: InverseProblem, theta: Array, fitted: Prediction[Fields], refined: Fields
) -> CheckItem:
    """Step on the refined grid as if that were exact, over the sd that the fit states (which allows
    for its grid).
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
        "how far Gauss-Newton would move on the refined grid",
    )


def _balance(error: float) -> CheckItem:
    return _item(
        "drug mass balance", error, BALANCE_LIMIT, "entered = reacted + outflow + stored, relative"
    )


def _linearity(free: Tensor) -> CheckItem:
    return _item(
        "free drug over K_e",
        float(free.max()) / value("K_e"),
        LINEAR_LIMIT,
        "uptake is linear well below K_e",
    )
