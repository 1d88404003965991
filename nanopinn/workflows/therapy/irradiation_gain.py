"""What radiation adds to an arm: the same draws with it and without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.parameters import value
from nanopinn.physics.radiation import RadiationCourse
from nanopinn.report.compared import OutcomeChange, RadiationComparison, median_and_interval
from nanopinn.solvers.exposure import Exposure
from nanopinn.workflows.therapy.arms import Arm
from nanopinn.workflows.therapy.exchange import cluster_flow
from nanopinn.workflows.therapy.exposed import ExposureModel, expand_factors_to_draws
from nanopinn.workflows.therapy.outcomes import compute_outcomes
from nanopinn.workflows.treatment import HOUR, Treatment

Array = NDArray[np.float64]
#: Outcomes that are compared.
COMPARED_OUTCOMES = (
    "area",
    "peak at wall",
    "lethal all, peak",
    "lethal all, rate",
    "lethal all, area",
)


def radiation_gain(
    arm: Arm, exposure_model: ExposureModel, irradiated: Exposure, lethal: float
) -> RadiationComparison | None:
    """An arm against itself without its radiation, draw by draw; None where there is none.

    Args:
        irradiated: what the arm does with it.
    """
    fractions = arm.treatment.radiation.fractions
    if not fractions:
        return None
    plain = Arm(
        f"{arm.name}_without_radiation", replace(arm.treatment, radiation=RadiationCourse())
    )
    found = {"with": irradiated, "without": exposure_model.to(plain)}
    outcomes = {o.name: o for o in compute_outcomes(found, exposure_model.voxels, lethal)}
    at = min(arm.treatment.end_s, max(f.time_s for f in fractions) + value("RT_t_peak"))
    pressure = [_pressure(t, exposure_model, at) for t in (arm.treatment, plain.treatment)]
    rows = [_gain("interstitial pressure", "mmHg", *pressure)]
    rows += [
        _gain(o.description, o.unit, o.values["with"], o.values["without"])
        for o in (outcomes[name] for name in COMPARED_OUTCOMES)
    ]
    return RadiationComparison(arm.name, at / HOUR, tuple(rows))


def _pressure(treatment: Treatment, exposure_model: ExposureModel, t: float) -> Array:
    """Tumour mean at a time for every draw, Pa."""
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


def _gain(words: str, unit: str, with_radiation: Array, without: Array) -> OutcomeChange:
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
