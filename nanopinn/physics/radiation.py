"""What radiation does to vessels and pressure: a multiplier of each property over time, with a wide
prior.

    ln m(t) = sum over fractions of (D_i/D_ref) ln m_peak s(t - t_i),    s(t) = (t/t_p) e^{1 -
    t/t_p} for t > 0

The literature disagrees even on the direction (IFP falls in some tumours and rises in others up to
40 Gy, Multhoff and Vaupel 2012), so every m_peak is a parameter with a log-normal prior, never a
fixed number. That effects of fractions add in the logarithm and are proportional to dose is an
assumption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from nanopinn.errors import InputError
from nanopinn.parameters import PARAMETERS, value
from nanopinn.parameters.table import Number, Values, parameter_lookup

#: Properties that radiation changes, and the symbol of the factor at its peak after one fraction of
#: RT_D: driving pressure, the wall's conductivity, the tissue's, the wall's permeability, vessel
#: surface.
RADIATION_FACTOR_SYMBOLS = {"p_e": "RT_IFP", "Lp": "RT_Lp", "K": "RT_K", "P": "RT_P", "SV": "RT_SV"}


@dataclass(frozen=True)
class Fraction:
    """One irradiation.

    Raises:
        InputError: its time is not finite or its dose not positive.
    """

    time_s: float
    dose_Gy: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.time_s):
            raise InputError(
                "a fraction has no time",
                field="time_s",
                found=self.time_s,
                expected="a finite number of seconds",
            )
        if not 0 < self.dose_Gy < math.inf:
            raise InputError(
                "a fraction gives nothing",
                field="dose_Gy",
                found=self.dose_Gy,
                expected="a positive dose",
            )


def rise_and_recovery(t: float, t_peak: Number) -> Number:
    """``s(t) = (t/t_p) e^{1 - t/t_p}``: 0 before the fraction, 1 at t_peak, half again after 1.7
    t_peak more.
    """
    x = max(t, 0.0) / t_peak
    return x * math.e ** (1.0 - x)


def default_radiation_peaks() -> dict[str, Number]:
    """Median of every factor at its peak."""
    return {name: value(symbol) for name, symbol in RADIATION_FACTOR_SYMBOLS.items()}


@dataclass(frozen=True)
class RadiationCourse:
    """Fractions and what they do; factors and time are numbers, or tensors of one value for each
    draw.

    Attributes:
        fractions: in any order.
        peaks: factor of each property at its peak after one fraction of RT_D; the table's medians
            by default.
        t_peak_s: when the peak is reached, s.
    """

    fractions: tuple[Fraction, ...] = ()
    peaks: Mapping[str, Number] = field(default_factory=default_radiation_peaks)
    t_peak_s: Number = field(default_factory=lambda: value("RT_t_peak"))

    def with_values(self, values: Values) -> RadiationCourse:
        """The same with the numbers or draws that are given by symbol (RT_IFP, RT_Lp, RT_K, RT_P,
        RT_SV, RT_t_peak).
        """
        v = parameter_lookup(
            {
                **{RADIATION_FACTOR_SYMBOLS[n]: p for n, p in self.peaks.items()},
                "RT_t_peak": self.t_peak_s,
                **values,
            }
        )
        return replace(
            self,
            peaks={n: v(RADIATION_FACTOR_SYMBOLS[n]) for n in self.peaks},
            t_peak_s=v("RT_t_peak"),
        )

    def effect(self, t: float) -> Number:
        """``sum_i (D_i/D_ref) s(t - t_i)``, the common course of every logarithm."""
        return sum(
            (
                f.dose_Gy / value("RT_D") * rise_and_recovery(t - f.time_s, self.t_peak_s)
                for f in self.fractions
            ),
            0.0,
        )

    def modifiers(self, t: float) -> Mapping[str, Number]:
        """Factors on ``p_e``, ``Lp``, ``K``, ``P`` (the wall's permeability to every solute) and
        ``SV`` at a time, s.
        """
        effect = self.effect(t)
        return {name: peak**effect for name, peak in self.peaks.items()}

    def sample_from_prior(self, generator: torch.Generator) -> RadiationCourse:
        """The same fractions with every factor and the time of the peak drawn from their priors."""
        peaks = {
            name: _sample_prior(symbol, generator)
            for name, symbol in RADIATION_FACTOR_SYMBOLS.items()
        }
        return replace(self, peaks=peaks, t_peak_s=_sample_prior("RT_t_peak", generator))

    def events(self) -> tuple[float, ...]:
        """Times of the fractions, s, increasing."""
        return tuple(sorted({f.time_s for f in self.fractions}))


def _sample_prior(symbol: str, generator: torch.Generator) -> float:
    prior = PARAMETERS[symbol].prior
    assert prior is not None  # a test holds every row to it
    assert prior.kind == "lognormal"
    normal = float(
        torch.randn((), generator=generator, dtype=torch.float64, device=generator.device)
    )
    return value(symbol) * math.exp(prior.sd * normal)
