"""Effect of radiation from the fits of one tumour before and after it
(:mod:`nanopinn.inference.radiation_effect`), and an arm with and without its radiation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.nuisance_scales import AIF_SCALE
from nanopinn.inference.radiation_effect import (
    RadiationEffect,
    ScanInformation,
    infer_radiation_effect,
)
from nanopinn.inference.saved_fit import FittedProblem, fitted_problem_of, load_fit
from nanopinn.parameters import HOUR, MM, value
from nanopinn.physics.flow import permeability_from_ktrans
from nanopinn.physics.treatment import Fraction, RadiationCourse, Treatment
from nanopinn.results import FitResult, OutcomeChange, RadiationComparison, median_and_interval
from nanopinn.solvers.krogh_exposure import Exposure
from nanopinn.studies.arms.arm_specs import Arm
from nanopinn.studies.arms.microscale import ExposureModel, cluster_flow, expand_factors_to_draws
from nanopinn.studies.arms.outcomes import compute_outcomes

Array = NDArray[np.float64]

#: Unknowns of a fit that depend on the effect of radiation on the flow.
FLOW_UNKNOWNS = ("l", "q")
#: Step of their logarithms in the derivative of solvent drag.
LOG_STEP = 0.02
#: Outcomes that are compared.
COMPARED_OUTCOMES = (
    "area",
    "peak at wall",
    "lethal all, peak",
    "lethal all, rate",
    "lethal all, area",
)


def estimate_radiation_effect(
    before: str | Path,
    after: str | Path,
    *,
    scan_h: float,
    fractions: Sequence[Fraction] | None = None,
    shared_sd: float = 0.0,
) -> RadiationEffect:
    """Estimate the effect of radiation from two fits of one tumour, before and after it.

    Args:
        before: result folder of the fit before radiation.
        after: result folder of the fit after radiation.
        scan_h: time of the second scan, on the clock of the fractions, h.
        fractions: given between the scans; one of RT_D at 0 h if None.
        shared_sd: sd of the error of ln Ktrans that all voxels of a scan share (its arterial
            input), independent for the two scans.

    Raises:
        InputError: a folder holds no fit, both are the same, the second scan is not after a
            fraction, or the sd is negative.
    """
    course = tuple(fractions) if fractions is not None else (Fraction(0.0, value("RT_D")),)
    if not any(f.time_s < scan_h * HOUR for f in course):
        raise InputError(
            "the second scan is not after radiation",
            field="scan_h",
            found=scan_h,
            expected="later than the first fraction",
        )
    if not 0 <= shared_sd < np.inf:
        raise InputError(
            "a standard deviation is not negative",
            field="shared_sd",
            found=shared_sd,
            expected="0 or more",
        )
    if Path(before).resolve() == Path(after).resolve():
        raise InputError(
            "the scans before and after radiation are the same",
            file=after,
            remedy="Give two results.",
        )
    fits = [load_fit(before), load_fit(after)]
    scans = [summarise_scan(fit, shared_sd) for fit in fits]
    priors = [_flow_prior(fit, path) for fit, path in zip(fits, (before, after), strict=True)]
    if not np.allclose(priors[0], priors[1]):
        raise InputError(
            "the two fits have different priors",
            file=after,
            field="l, q",
            remedy="Fit both with this version.",
        )
    return infer_radiation_effect(
        scans[0], scans[1], course, scan_h * HOUR, priors[0], notes=_notes(fits, shared_sd)
    )


def summarise_scan(fit: FitResult, shared_sd: float = 0.0) -> ScanInformation:
    """Information of one fit about the flow of its tumour.

    Args:
        fit: with its problem.
        shared_sd: see :func:`estimate_radiation_effect`.

    Raises:
        InputError: flow is not among its unknowns, or it does not hold its problem.
    """
    fitted = fitted_problem_of(fit, "the effect of radiation")
    prior_mean, prior_sd = _flow_prior(fit, "the fit")
    names = [s.name for s in fit.scalars]
    i = [names.index(n) for n in FLOW_UNKNOWNS]
    precision = np.asarray(np.linalg.inv(fit.covariance[np.ix_(i, i)]), dtype=np.float64)
    information: Array = precision - np.diag(1 / prior_sd**2)
    mean = fitted.theta[i]
    PS, drag = _permeability(fitted, i)
    return ScanInformation(
        information,
        precision @ mean - prior_mean / prior_sd**2,
        mean,
        PS,
        _ktrans_error(fit, shared_sd),
        drag,
    )


def _permeability(ended: FittedProblem, of_flow: Sequence[int]) -> tuple[float, Array]:
    """ln of the tumour's mean PS at the estimate, and its derivative by (ln l, ln q) through the
    solvent drag in Ktrans.
    """
    problem = ended.problem
    forward, inside = problem.forward(), problem.setting.maps.tumour > 0.5

    def log_mean(theta: Array) -> float:
        J_v = forward.solve_flow(problem.tensor(theta)).J_v
        return float(permeability_from_ktrans(problem.local_kinetics[0], J_v)[inside].mean().log())

    here = log_mean(ended.theta)
    along = [log_mean(ended.theta + LOG_STEP * np.eye(len(ended.theta))[j]) for j in of_flow]
    return here, (np.array(along) - here) / LOG_STEP


def _ktrans_error(fit: FitResult, shared_sd: float) -> float:
    """sd of ln of the tumour's mean Ktrans, with independent voxels and a shared arterial input."""
    found = fit.maps["Ktrans"]
    assert found.std is not None
    known = fit.mask & np.isfinite(found.values) & np.isfinite(found.std)
    mean, n = float(found.values[known].mean()), int(known.sum())
    voxels = float(np.sqrt((found.std[known] ** 2).sum())) / n / mean
    scale = float(fit.covariance[-1, -1]) if AIF_SCALE in [s.name for s in fit.scalars] else 0.0
    return float(np.sqrt(voxels**2 + shared_sd**2 + scale))


def _flow_prior(fit: FitResult, path: str | Path) -> tuple[Array, Array]:
    """Prior mean and sd of (ln l, ln q), SI."""
    try:
        both = [fit[n] for n in FLOW_UNKNOWNS]
    except StopIteration as error:
        raise InputError(
            "the flow is not among the unknowns of the fit",
            file=path,
            expected="l and q",
            remedy="Give the result folder of a fit.",
        ) from error
    medians = [s.prior_median / per for s, per in zip(both, (1 / MM, HOUR), strict=True)]
    return np.log(medians), np.array([s.prior_sd for s in both])


def _notes(fits: Sequence[FitResult], shared_sd: float) -> tuple[str, ...]:
    notes = [
        (
            "Radiation is assumed to be the only change of the tumour between the scans; growth or"
            " another drug would be attributed to it."
        ),
        (
            "The time of the peak is drawn from its prior; the posterior of the peaks is computed"
            " for each draw."
        ),
    ]
    if not shared_sd and not all(AIF_SCALE in [s.name for s in f.scalars] for f in fits):
        notes.append(
            "The arterial inputs of both scans are assumed to be exact: an error in one scale"
            " appears as a change of Ktrans and q."
        )
    return tuple(notes)


def compare_without_radiation(
    arm: Arm, exposure_model: ExposureModel, irradiated: Exposure
) -> RadiationComparison | None:
    """Compare an arm with the same arm without radiation, draw by draw.

    Args:
        arm: the treatment.
        exposure_model: clusters and draws.
        irradiated: exposure under the arm.

    Returns:
        The comparison; None if the arm has no radiation.
    """
    fractions = arm.treatment.radiation.fractions
    if not fractions:
        return None
    plain = Arm(
        f"{arm.name}_without_radiation", replace(arm.treatment, radiation=RadiationCourse())
    )
    found = {"with": irradiated, "without": exposure_model.expose(plain)}
    outcomes = {o.name: o for o in compute_outcomes(found, exposure_model.voxels)}
    at = min(arm.treatment.end_s, max(f.time_s for f in fractions) + value("RT_t_peak"))
    pressure = [_pressure(t, exposure_model, at) for t in (arm.treatment, plain.treatment)]
    rows = [_outcome_change("interstitial pressure", "mmHg", *pressure)]
    rows += [
        _outcome_change(o.description, o.unit, o.values["with"], o.values["without"])
        for o in (outcomes[name] for name in COMPARED_OUTCOMES)
    ]
    return RadiationComparison(arm.name, at / HOUR, tuple(rows))


def _pressure(treatment: Treatment, exposure_model: ExposureModel, t: float) -> Array:
    """Mean pressure in the tumour at a time for every draw, Pa."""
    drawn = treatment.with_values(
        {n: torch.as_tensor(v) for n, v in exposure_model.draws.values.items()}
    )
    p = cluster_flow(
        exposure_model.patient,
        exposure_model.draws,
        exposure_model.labels,
        expand_factors_to_draws(drawn.factors(t), len(exposure_model.draws)),
    )[2]
    return np.asarray(p @ exposure_model.voxels / exposure_model.voxels.sum())


def _outcome_change(words: str, unit: str, with_radiation: Array, without: Array) -> OutcomeChange:
    changed = (
        with_radiation - without
        if unit == "1"
        else with_radiation / np.where(without > 0, without, np.nan)
    )
    median, low, high = median_and_interval(changed)
    drawn = slice(1, None) if len(with_radiation) > 1 else slice(None)
    return OutcomeChange(
        words,
        unit,
        (float(median), float(low), float(high)),
        float((with_radiation[drawn] > without[drawn]).mean()),
    )
