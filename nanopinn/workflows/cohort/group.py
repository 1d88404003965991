"""What the images say of the tumours of a cohort together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nanopinn.inference.result import ScalarEstimate
from nanopinn.report.grouped import CohortSummary, StudyEstimate, CohortParameter, StudySummary
from nanopinn.workflows.cohort.ended import read_study_ends
from nanopinn.workflows.cohort.random_effects import random_effects, robust_z, remove_prior

#: Of the robust z, beyond which a study is an outlier (Iglewicz and Hoaglin 1993), and informed studies from which that is judged.
OUTLIER_THRESHOLD, MIN_INFORMED_STUDIES = 3.5, 5


def run_group(dataset: str | Path) -> CohortSummary:
    """Gather a cohort; only studies whose check passed are counted, and only values that the images inform.

    Args:
        dataset: what ``nanopinn cohort`` wrote.

    Raises:
        InputError: it holds no study.
    """
    studies = read_study_ends(Path(dataset))
    passed = [s for s in studies if s.status == "passed"]
    failed = [s for s in studies if s.status == "check failed" and s.scalars]
    firsts = {x.name: x for s in (*passed, *failed) for x in s.scalars}
    return CohortSummary(
        studies,
        tuple(_group_parameter(first, passed, failed) for first in firsts.values()),
        OUTLIER_THRESHOLD,
        MIN_INFORMED_STUDIES,
    )


def _group_parameter(
    first: ScalarEstimate, passed: Sequence[StudySummary], failed: Sequence[StudySummary]
) -> CohortParameter:
    having = [(s.id, x) for s in passed for x in s.scalars if x.name == first.name]
    informed = [(study, x) for study, x in having if _is_informed(x)]
    y, s = (
        (np.array(v) for v in zip(*(_estimate_without_prior(x) for _, x in informed), strict=True))
        if informed
        else (np.zeros(0), np.zeros(0))
    )
    judged = len(informed) >= MIN_INFORMED_STUDIES
    z = robust_z(y, s**2) if judged else np.full(len(y), np.nan)
    members = tuple(
        StudyEstimate(study, x, float(a), float(b), float(c))
        for (study, x), a, b, c in zip(informed, y, s, z, strict=True)
    )
    medians = np.array([x.median for _, x in informed])
    q1, q2, q3 = np.quantile(medians, [0.25, 0.5, 0.75]) if informed else (np.nan,) * 3
    group = CohortParameter(
        first.name,
        first.label,
        first.unit,
        first.scale,
        first.prior_median,
        first.prior_sd,
        len(having),
        members,
        tuple(
            (f.id, x) for f in failed for x in f.scalars if x.name == first.name and _is_informed(x)
        ),
        float(q2),
        (float(q1), float(q3)),
        *(float("nan"),) * 4,
        tuple(m for m in members if abs(m.z) > OUTLIER_THRESHOLD),
        judged,
    )
    return _add_random_effects(group, y, s) if group.is_averaged else group


def _add_random_effects(group: CohortParameter, y: np.ndarray, s: np.ndarray) -> CohortParameter:
    """The same with its typical value and the spread between subjects."""
    found = random_effects(y, s**2)
    mean, low, high = (
        float(np.exp(v)) if group.scale == "log" else v for v in (found.mean, found.low, found.high)
    )
    return replace(group, mean=mean, low=low, high=high, between_sd=found.between_variance**0.5)


def _is_informed(x: ScalarEstimate) -> bool:
    """Whether the images inform it, and its numbers are numbers."""
    return (
        x.informed
        and x.sd > 0
        and bool(np.isfinite([x.median, x.prior_median]).all())
        and (x.scale != "log" or x.median > 0)
    )


def _estimate_without_prior(x: ScalarEstimate) -> tuple[float, float]:
    """Estimate and standard deviation without the prior, in the coordinate of the unknown."""
    place = np.log if x.scale == "log" else float
    return remove_prior(float(place(x.median)), x.sd, float(place(x.prior_median)), x.prior_sd)
