"""Effect of radiation on the microenvironment of a tumour, inferred from one scan before and one
scan after irradiation.

The unknowns are the logarithms x of the factors on (p_e, Lp, K, P, SV) at their peak after one
fraction of RT_D, with the priors of the parameter table. At the second scan every logarithm equals
s x, where s is the share of the effect that remains at that time. The scans determine three
combinations:

    ln PS_2/PS_1 = s (P + SV),    ln q_2/q_1 = s (Lp + SV + p_e),    2 ln l_2/l_1 = s (K - Lp - SV)

PS is Ktrans minus the solvent drag, which depends on (l, q), so an error of (l, q) is propagated to
PS. The posterior of (ln l, ln q) of each fit contains the prior of the fit. This prior is removed
by subtraction of precisions and information vectors, and applied once to the tumour before
radiation. The remaining problem is linear and Gaussian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nanopinn.parameters import HOUR, PARAMETERS, value
from nanopinn.physics.treatment import RADIATION_FACTOR_SYMBOLS, Fraction, rise_and_recovery

Array = NDArray[np.float64]

FACTOR_NAMES = tuple(RADIATION_FACTOR_SYMBOLS)
#: Derivatives of (ln l, ln q) and of ln PS by the logarithms of the factors.
FLOW_SENSITIVITY = np.array([[0.0, -0.5, 0.5, 0.0, -0.5], [1.0, 1.0, 0.0, 0.0, 1.0]])
PS_SENSITIVITY = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
#: Combinations of factors that the scans determine, as coefficients of the logarithms.
OBSERVABLE_COMBINATIONS = {
    "P SV (Ktrans)": PS_SENSITIVITY,
    "Lp SV p_e (q)": FLOW_SENSITIVITY[1],
    "K/(Lp SV) (l squared)": 2 * FLOW_SENSITIVITY[0],
}
PRESSURE_EVIDENCE_CAVEAT = (
    "The effect of radiation on interstitial pressure is inconsistent in the literature: up to 40"
    " Gy it fell in some tumours and rose in others (Multhoff and Vaupel 2012; Roh 1991)."
)
#: Contraction from which a factor or a combination counts as informed by the scans.
MIN_FACTOR_CONTRACTION = 0.5


@dataclass(frozen=True)
class ScanInformation:
    """Information of one scan about a tumour, without the prior of the fit.

    Attributes:
        information: precision of (ln l, ln q), ``(2, 2)``.
        vector: precision times mean of (ln l, ln q), ``(2,)``.
        at: estimate of (ln l, ln q), ``(2,)``.
        PS: logarithm of the tumour's mean PS (1/s) at the estimate.
        PS_sd: standard deviation of ln PS for known flow.
        drag: derivative of ln PS by (ln l, ln q), ``(2,)``, because more flow leaves a smaller part
            of Ktrans for PS.
    """

    information: Array
    vector: Array
    at: Array
    PS: float
    PS_sd: float
    drag: Array


@dataclass(frozen=True)
class RadiationEffect:
    """Prior and posterior of the logarithms of the factors at their peak after one fraction of
    RT_D.

    Attributes:
        names: names of the factors.
        prior_mean: prior means, ``(5,)``, in the order of ``names``.
        prior_sd: prior standard deviations, ``(5,)``.
        mean: posterior means for the time of the peak in the parameter table, ``(5,)``.
        covariance: posterior covariance for that time, ``(5, 5)``.
        before: information of the scan before radiation.
        after: information of the scan after radiation.
        flow_mean: prior means of (ln l, ln q) before radiation, ``(2,)``.
        flow_sd: prior standard deviations of (ln l, ln q) before radiation, ``(2,)``.
        fractions: fractions given between the scans.
        scan_s: time of the second scan on the clock of the fractions, s.
        notes: assumptions as sentences.
    """

    names: tuple[str, ...]
    prior_mean: Array
    prior_sd: Array
    mean: Array
    covariance: Array
    before: ScanInformation
    after: ScanInformation
    flow_mean: Array
    flow_sd: Array
    fractions: tuple[Fraction, ...]
    scan_s: float
    notes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def sd(self) -> Array:
        """Posterior standard deviations, ``(5,)``."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    @property
    def contraction(self) -> Array:
        """``1 - sd/prior_sd``, ``(5,)``; 0 for a factor about which the scans contain no
        information.
        """
        return 1 - self.sd / self.prior_sd


def infer_radiation_effect(
    before: ScanInformation,
    after: ScanInformation,
    fractions: tuple[Fraction, ...],
    scan_s: float,
    flow_prior: tuple[Array, Array],
    notes: tuple[str, ...] = (),
) -> RadiationEffect:
    """Infer the effect of radiation from the information of two scans.

    Args:
        before: information of the scan before radiation.
        after: information of the scan after radiation.
        fractions: fractions given between the scans.
        scan_s: time of the second scan on the clock of the fractions, s.
        flow_prior: prior means and standard deviations of (ln l, ln q) before radiation, ``(2,)``
            each.
        notes: assumptions as sentences.

    Returns:
        Prior and posterior of the factors.
    """
    rows = [PARAMETERS[symbol] for symbol in RADIATION_FACTOR_SYMBOLS.values()]
    prior_mean = np.log([p.value for p in rows])
    prior_sd = np.array([p.prior.sd for p in rows if p.prior is not None])
    s = effect_at(fractions, scan_s, value("RT_t_peak"))
    mean, covariance = _update_posterior(before, after, s, prior_mean, prior_sd, *flow_prior)
    return RadiationEffect(
        FACTOR_NAMES,
        prior_mean,
        prior_sd,
        mean,
        covariance,
        before,
        after,
        *flow_prior,
        fractions,
        scan_s,
        notes,
    )


def effect_at(fractions: Sequence[Fraction], t: float, t_peak_s: float) -> float:
    """Share of the peak effect of one reference fraction at a time, ``sum_i (D_i/D_ref) s(t -
    t_i)``.

    Args:
        fractions: fractions with their times and doses.
        t: time on the clock of the fractions, s.
        t_peak_s: time from a fraction to its peak effect, s.

    Returns:
        The share s by which the logarithms of the factors are multiplied (see
        :mod:`nanopinn.physics.treatment`).
    """
    return sum(
        f.dose_Gy / value("RT_D") * float(rise_and_recovery(t - f.time_s, t_peak_s))
        for f in fractions
    )


def radiation_posterior(effect: RadiationEffect, t_peak_s: float) -> tuple[Array, Array]:
    """Posterior of the logarithms of the factors for a given time of the peak.

    Args:
        effect: effect of radiation with the information of both scans.
        t_peak_s: time from a fraction to its peak effect, s.

    Returns:
        Mean, ``(5,)``, and covariance, ``(5, 5)``.
    """
    return _update_posterior(
        effect.before,
        effect.after,
        effect_at(effect.fractions, effect.scan_s, t_peak_s),
        effect.prior_mean,
        effect.prior_sd,
        effect.flow_mean,
        effect.flow_sd,
    )


def draw_radiation_effect(effect: RadiationEffect, z: Array, t_peak_s: Array) -> Array:
    """Draw the logarithms of the factors from their posterior.

    Args:
        effect: effect of radiation with the information of both scans.
        z: standard normal deviates, ``(n, 5)``.
        t_peak_s: time from a fraction to its peak effect of every draw, ``(n,)``, s.

    Returns:
        Logarithms of the factors, ``(n, 5)``.
    """
    draws = []
    for deviates, t in zip(z, t_peak_s, strict=True):
        mean, covariance = radiation_posterior(effect, float(t))
        variances, axes = np.linalg.eigh(covariance)
        draws.append(mean + (axes * np.sqrt(variances.clip(0.0))) @ axes.T @ deviates)
    return np.array(draws)


def observable_combinations(effect: RadiationEffect) -> dict[str, tuple[float, float, float]]:
    """Posterior of the combinations of factors that the scans determine.

    Args:
        effect: effect of radiation.

    Returns:
        Posterior mean and standard deviation of the logarithm of each combination, and its
        contraction.
    """
    rows = {}
    for name, a in OBSERVABLE_COMBINATIONS.items():
        prior_sd = float(np.sqrt((a**2 * effect.prior_sd**2).sum()))
        sd = float(np.sqrt(a @ effect.covariance @ a))
        rows[name] = (float(a @ effect.mean), sd, 1 - sd / prior_sd)
    return rows


def describe_radiation_effect(effect: RadiationEffect) -> str:
    """Which factors and combinations the scans determine, and the assumptions, as sentences.

    Args:
        effect: effect of radiation.
    """
    factors = [
        name
        for name, c in zip(effect.names, effect.contraction, strict=True)
        if c >= MIN_FACTOR_CONTRACTION
    ]
    combinations = [
        name
        for name, (_, _, c) in observable_combinations(effect).items()
        if c >= MIN_FACTOR_CONTRACTION
    ]
    return " ".join(
        [
            "The effect of radiation is inferred from two scans, the second"
            f" {effect.scan_s / HOUR:g} h after the start of the course. They inform the single"
            f" factors: {', '.join(factors) or 'none'}. They inform the combinations:"
            f" {', '.join(combinations) or 'none'}. Factors that are correlated within a"
            " combination stay near their priors.",
            PRESSURE_EVIDENCE_CAVEAT,
            *effect.notes,
        ]
    )


def _update_posterior(
    before: ScanInformation,
    after: ScanInformation,
    s: float,
    prior_mean: Array,
    prior_sd: Array,
    flow_mean: Array,
    flow_sd: Array,
) -> tuple[Array, Array]:
    """Posterior of x; the unknowns are (ln l, ln q) before radiation, and x."""
    prior = np.concatenate([1 / flow_sd**2, 1 / prior_sd**2])
    precision, vector = np.diag(prior), prior * np.concatenate([flow_mean, prior_mean])
    for scan, to_flow in (
        (before, np.eye(2, 7)),
        (after, np.hstack([np.eye(2), s * FLOW_SENSITIVITY])),
    ):
        precision = precision + to_flow.T @ scan.information @ to_flow
        vector = vector + to_flow.T @ scan.vector
    row = np.concatenate(
        [before.drag - after.drag, s * (PS_SENSITIVITY - after.drag @ FLOW_SENSITIVITY)]
    )
    ratio = (after.PS - after.drag @ after.at) - (before.PS - before.drag @ before.at)
    weight = 1 / (before.PS_sd**2 + after.PS_sd**2)
    precision = precision + weight * np.outer(row, row)
    vector = vector + weight * row * ratio
    covariance = np.linalg.inv(precision)
    return (covariance @ vector)[2:], covariance[2:, 2:]
