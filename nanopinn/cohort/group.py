"""Group statistics of a cohort: random-effects means and outliers of the fitted parameters.

Only studies whose check passed are counted, and only parameters that the images inform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from nanopinn.cohort.study_status import read_study_summaries
from nanopinn.results import (
    CohortParameter,
    CohortSummary,
    ScalarEstimate,
    StudyEstimate,
    StudySummary,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RandomEffects:
    """Pooled mean of a random-effects model.

    Attributes:
        mean: Pooled mean.
        se: Standard error of the mean.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        between_variance: Variance between subjects.
    """

    mean: float
    se: float
    low: float
    high: float
    between_variance: float


def random_effects(y: Array, variance: Array) -> RandomEffects:
    """Fit a random-effects model by restricted maximum likelihood (REML).

    The model is ``y_i = mu + b_i + e_i`` with ``b_i ~ N(0, tau2)`` and ``e_i ~ N(0, v_i)``. With
    ``w_i = 1/(v_i + tau2)`` the estimate is ``mu = sum(w y)/sum(w)``, and ``tau2`` is the fixed
    point of ``tau2 = sum(w^2 ((y - mu)^2 - v))/sum(w^2) + 1/sum(w)``, truncated at 0. The interval
    is that of Hartung and Knapp; its variance is at least ``1/sum(w)``.

    Args:
        y: Estimates ``(n,)``, n at least 2.
        variance: Error variances of the estimates ``(n,)``.

    References:
        Veroniki et al. 2016, Research Synthesis Methods 7, 55 (REML). Hartung and Knapp 2001,
        Stat. Med. 20, 3875. Rover et al. 2015, BMC Med. Res. Methodol. 15, 99 (lower limit).
    """
    tau2 = max(0.0, float(np.var(y, ddof=1) - variance.mean()))
    for _ in range(10_000):
        w, before = 1 / (variance + tau2), tau2
        mean = (w * y).sum() / w.sum()
        tau2 = max(
            0.0, float((w**2 * ((y - mean) ** 2 - variance)).sum() / (w**2).sum() + 1 / w.sum())
        )
        if abs(tau2 - before) <= 1e-12 + 1e-10 * tau2:
            break
    w = 1 / (variance + tau2)
    mean = float((w * y).sum() / w.sum())
    weighted_variance = float((w * (y - mean) ** 2).sum() / (len(y) - 1))
    se = float(np.sqrt(max(1.0, weighted_variance) / w.sum()))
    half_width = float(student.ppf(0.975, len(y) - 1)) * se
    return RandomEffects(mean, se, mean - half_width, mean + half_width, tau2)


def remove_prior(y: float, s: float, prior_y: float, prior_s: float) -> tuple[float, float]:
    """Divide the prior out of a normal posterior.

    ``1/s_data^2 = 1/s^2 - 1/s_prior^2`` and ``y_data = s_data^2 (y/s^2 - y_prior/s_prior^2)``. An
    average of n posteriors would count the prior n times.

    Args:
        y: Posterior mean.
        s: Posterior standard deviation, below ``prior_s``.
        prior_y: Prior mean.
        prior_s: Prior standard deviation.

    Returns:
        Estimate and standard deviation from the data alone.
    """
    precision = 1 / s**2 - 1 / prior_s**2
    return (y / s**2 - prior_y / prior_s**2) / precision, float(precision**-0.5)


def robust_z(y: Array, variance: Array) -> Array:
    """Compute the robust z score of each subject.

    ``z_i = (y_i - med)/sqrt(tau2 + v_i)`` with ``tau2 = max(0, (1.4826 MAD)^2 - median(v))``. The
    median absolute deviation (MAD) is not inflated by the outlier itself.

    Args:
        y: Estimates ``(n,)``.
        variance: Error variances of the estimates ``(n,)``.

    References:
        Iglewicz and Hoaglin 1993 (modified z score by the MAD, threshold 3.5); the error variance
        of each subject is added here.
    """
    centre = np.median(y)
    tau2 = max(0.0, float((1.4826 * np.median(np.abs(y - centre))) ** 2 - np.median(variance)))
    return np.asarray((y - centre) / np.sqrt(tau2 + variance))


#: Robust z score beyond which a study is an outlier (Iglewicz and Hoaglin 1993).
OUTLIER_THRESHOLD = 3.5
#: Outliers are tested only if the images inform a parameter in this many studies.
MIN_INFORMED_STUDIES = 5


def run_group(dataset: str | Path) -> CohortSummary:
    """Compute the group statistics of a cohort.

    Args:
        dataset: Dataset of derivatives that the cohort workflow wrote.

    Raises:
        InputError: The dataset holds no study.
    """
    studies = read_study_summaries(Path(dataset))
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
    tested = len(informed) >= MIN_INFORMED_STUDIES
    z = robust_z(y, s**2) if tested else np.full(len(y), np.nan)
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
        tested,
    )
    return _add_random_effects(group, y, s) if group.is_averaged else group


def _add_random_effects(group: CohortParameter, y: np.ndarray, s: np.ndarray) -> CohortParameter:
    """Add the pooled mean and the standard deviation between subjects."""
    found = random_effects(y, s**2)
    mean, low, high = (
        float(np.exp(v)) if group.scale == "log" else v for v in (found.mean, found.low, found.high)
    )
    return replace(group, mean=mean, low=low, high=high, between_sd=found.between_variance**0.5)


def _is_informed(x: ScalarEstimate) -> bool:
    """Whether the images inform the parameter, and its values are finite and positive."""
    return (
        x.informed
        and x.sd > 0
        and bool(np.isfinite([x.median, x.prior_median]).all())
        and (x.scale != "log" or x.median > 0)
    )


def _estimate_without_prior(x: ScalarEstimate) -> tuple[float, float]:
    """Estimate and standard deviation without the prior, in the coordinate of the parameter."""
    coordinate = np.log if x.scale == "log" else float
    return remove_prior(
        float(coordinate(x.median)), x.sd, float(coordinate(x.prior_median)), x.prior_sd
    )
