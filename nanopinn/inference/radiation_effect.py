"""What radiation did to a tumour by a scan before and one after: the table's wide priors, narrowed
where images can see.

Logarithms of the factors x = (p_e, Lp, K, P, SV) at their peak after one fraction of RT_D have the
RT rows' priors. At the second scan every logarithm stands at s x, with s the course's effect then.
Images see three combinations:

    ln PS_2/PS_1 = s (P + SV),    ln q_2/q_1 = s (Lp + SV + p_e),    2 ln l_2/l_1 = s (K - Lp - SV)

PS is Ktrans less the solvent drag, which depends on (l, q): an error of these is an error of PS,
and counts as such. Each fit's posterior of (ln l, ln q) holds the prior of the fit. It is divided
out (precisions and their information vectors are subtracted), the tumour before has that prior
once, and everything is linear and Gaussian from there on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.uncertainty.profile import strongest_correlation
from nanopinn.parameters import PARAMETERS, value
from nanopinn.physics.radiation import RADIATION_FACTOR_SYMBOLS, Fraction, rise_and_recovery

Array = NDArray[np.float64]

NAMES = tuple(RADIATION_FACTOR_SYMBOLS)
#: ln l and ln q by the logarithms of the factors, and ln PS.
FLOW_SENSITIVITY = np.array([[0.0, -0.5, 0.5, 0.0, -0.5], [1.0, 1.0, 0.0, 0.0, 1.0]])
PS_SENSITIVITY = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
#: What images can see, for the reader.
OBSERVABLE_COMBINATIONS = {
    "P SV (Ktrans)": PS_SENSITIVITY,
    "Lp SV p_e (q)": FLOW_SENSITIVITY[1],
    "K/(Lp SV) (l squared)": 2 * FLOW_SENSITIVITY[0],
}
PRESSURE_EVIDENCE_CAVEAT = (
    "The effect of radiation on interstitial pressure is inconsistent in the literature: up to 40"
    " Gy it fell in some tumours and rose in others (Multhoff and Vaupel 2012; Roh 1991)."
)


@dataclass(frozen=True)
class ScanInformation:
    """What one scan says of a tumour by itself, priors divided out.

    Attributes:
        information, vector: of (ln l, ln q): precision ``(2, 2)`` and precision times mean
            ``(2,)``.
        at: (ln l, ln q) of the estimate, ``(2,)``.
        PS, PS_sd: ln of the tumour's mean PS (1/s) there, and its standard deviation if the flow
            were known.
        drag: derivative of ln PS by (ln l, ln q), ``(2,)``: what more flow leaves less of Ktrans
            for PS.
    """

    information: Array
    vector: Array
    at: Array
    PS: float
    PS_sd: float
    drag: Array


@dataclass(frozen=True)
class RadiationEffect:
    """Logarithms of the factors at their peak after one fraction of RT_D, before and after the two
    scans.

    Attributes:
        prior_mean, prior_sd: ``(5,)``, in the order of ``names``. mean, covariance: with the scans,
            for the table's time of the peak.
        before, after: what each scan says. flow_mean, flow_sd: prior of (ln l, ln q) before
            radiation, ``(2,)``.
        fractions: given between the scans. scan_s: when the second was made, on their clock.
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
        """Posterior, ``(5,)``."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    @property
    def contraction(self) -> Array:
        """``1 - sd/prior_sd``: 0 where the scans said nothing, ``(5,)``."""
        return 1 - self.sd / self.prior_sd

    def effect(self, t_peak_s: float) -> float:
        """s: share of the logarithms that stands at the second scan, for a time of the peak."""
        return effect_at(self.fractions, self.scan_s, t_peak_s)

    def posterior(self, t_peak_s: float) -> tuple[Array, Array]:
        """Mean ``(5,)`` and covariance for a time of the peak."""
        return _update_posterior(
            self.before,
            self.after,
            self.effect(t_peak_s),
            self.prior_mean,
            self.prior_sd,
            self.flow_mean,
            self.flow_sd,
        )

    def draw(self, z: Array, t_peak_s: Array) -> Array:
        """Logarithms of the factors ``(n, 5)`` at standard normal deviates ``(n, 5)``, each for its
        own time of the peak ``(n,)``.
        """
        found = []
        for one, t in zip(z, t_peak_s, strict=True):
            mean, covariance = self.posterior(float(t))
            variances, axes = np.linalg.eigh(covariance)
            found.append(mean + (axes * np.sqrt(variances.clip(0.0))) @ axes.T @ one)
        return np.array(found)

    def observable_combinations(self) -> dict[str, tuple[float, float, float]]:
        """Posterior mean and sd of the logarithm of every combination that images see, and its
        contraction.
        """
        rows = {}
        for name, a in OBSERVABLE_COMBINATIONS.items():
            prior = float(np.sqrt((a**2 * self.prior_sd**2).sum()))
            sd = float(np.sqrt(a @ self.covariance @ a))
            rows[name] = (float(a @ self.mean), sd, 1 - sd / prior)
        return rows

    def summary(self) -> str:
        """Prior beside posterior of every factor, and of what images see."""
        lines = [
            f"{'factor at its peak':24s}{'prior (95 %)':>22s}{'with the scans (95 %)':>30s}{'contraction':>13s} "
            " traded against"
        ]
        for i, name in enumerate(self.names):
            ridge = strongest_correlation(self.names, self.covariance, name)
            told = "none" if ridge is None else f"{ridge.partner} ({ridge.strength:+.2f})"
            prior, post = (
                _interval(m[i], s[i])
                for m, s in ((self.prior_mean, self.prior_sd), (self.mean, self.sd))
            )
            lines.append(
                f"{name:24s}{prior:>22s}{f'{np.exp(self.mean[i]):.2f} ({post})':>30s}{self.contraction[i]:13.2f} "
                f" {told}"
            )
        for name, (mean, sd, contraction) in self.observable_combinations().items():
            lines.append(
                f"{name:24s}{'':22s}{f'{np.exp(mean):.2f} ({_interval(mean, sd)})':>30s}{contraction:13.2f}"
            )
        return "\n".join([*lines, self.describe()])

    def describe(self) -> str:
        """What the scans informed, what they cannot, and what is assumed."""
        known = [n for n, c in zip(self.names, self.contraction, strict=True) if c >= 0.5]
        seen = [n for n, (_, _, c) in self.observable_combinations().items() if c >= 0.5]
        return " ".join(
            [
                (
                    "Radiation's effect is taken from two scans, the second at"
                    f" {self.scan_s / 3600:g} h of its course. Of single factors they inform"
                    f" {', '.join(known) or 'none'}; of combinations {', '.join(seen) or 'none'}:"
                    " factors that trade against each other within a combination stay near their"
                    " priors."
                ),
                PRESSURE_EVIDENCE_CAVEAT,
                *self.notes,
            ]
        )


def infer_radiation_effect(
    before: ScanInformation,
    after: ScanInformation,
    fractions: tuple[Fraction, ...],
    scan_s: float,
    flow_prior: tuple[Array, Array],
    notes: tuple[str, ...] = (),
) -> RadiationEffect:
    """The same from what each scan says by itself.

    Args:
        flow_prior: mean and sd of (ln l, ln q) before radiation, ``(2,)`` each.
    """
    rows = [PARAMETERS[symbol] for symbol in RADIATION_FACTOR_SYMBOLS.values()]
    prior_mean = np.log([p.value for p in rows])
    prior_sd = np.array([p.prior.sd for p in rows if p.prior is not None])
    s = effect_at(fractions, scan_s, value("RT_t_peak"))
    mean, covariance = _update_posterior(before, after, s, prior_mean, prior_sd, *flow_prior)
    return RadiationEffect(
        NAMES,
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
    """``sum_i (D_i/D_ref) s(t - t_i)`` (see :mod:`nanopinn.physics.radiation`)."""
    return sum(
        f.dose_Gy / value("RT_D") * float(rise_and_recovery(t - f.time_s, t_peak_s))
        for f in fractions
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
    """Posterior of the logarithms at their peak: unknowns are (ln l, ln q) before, and x."""
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


def _interval(mean: float, sd: float) -> str:
    return f"{np.exp(mean - 1.96 * sd):.2f} .. {np.exp(mean + 1.96 * sd):.2f}"
