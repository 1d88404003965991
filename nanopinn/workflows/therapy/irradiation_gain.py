"""What radiation adds to an arm: the same draws with it and without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.parameters import value
from nanopinn.physics.radiation import RadiationCourse
from nanopinn.report.compared import Gain, RadiationGain, spread
from nanopinn.solvers.exposure import Exposure
from nanopinn.workflows.therapy.arms import Arm
from nanopinn.workflows.therapy.exchange import cluster_flow
from nanopinn.workflows.therapy.exposed import Exposed, as_arrays
from nanopinn.workflows.therapy.outcomes import outcomes_of
from nanopinn.workflows.treatment import HOUR, Treatment

Array = NDArray[np.float64]
#: Outcomes that are compared.
OUTCOMES = ("area", "peak at wall", "lethal all, peak", "lethal all, rate", "lethal all, area")


def radiation_gain(
    arm: Arm, exposed: Exposed, irradiated: Exposure, lethal: float
) -> RadiationGain | None:
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
    found = {"with": irradiated, "without": exposed.to(plain)}
    outcomes = {o.name: o for o in outcomes_of(found, exposed.voxels, lethal)}
    at = min(arm.treatment.end_s, max(f.time_s for f in fractions) + value("RT_t_peak"))
    pressure = [_pressure(t, exposed, at) for t in (arm.treatment, plain.treatment)]
    rows = [_gain("interstitial pressure", "mmHg", *pressure)]
    rows += [
        _gain(o.words, o.unit, o.values["with"], o.values["without"])
        for o in (outcomes[name] for name in OUTCOMES)
    ]
    return RadiationGain(arm.name, at / HOUR, tuple(rows))


def _pressure(treatment: Treatment, exposed: Exposed, t: float) -> Array:
    """Tumour mean at a time for every draw, Pa."""
    drawn = treatment.under({n: torch.as_tensor(v) for n, v in exposed.draws.values.items()})
    p = cluster_flow(
        exposed.patient,
        exposed.draws,
        exposed.labels,
        as_arrays(drawn.factors(t), len(exposed.draws)),
    )[2]
    return np.asarray(p @ exposed.voxels / exposed.voxels.sum())


def _gain(words: str, unit: str, there: Array, without: Array) -> Gain:
    changed = there - without if unit == "1" else there / np.where(without > 0, without, np.nan)
    median, low, high = spread(changed)
    drawn = slice(1, None) if len(there) > 1 else slice(None)
    return Gain(
        words,
        unit,
        (float(median), float(low), float(high)),
        float((there[drawn] > without[drawn]).mean()),
    )
