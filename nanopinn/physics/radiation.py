"""Effect of radiation on vessels and pressure: a factor on each property over time.

    ln m(t) = sum over fractions of (D_i/D_ref) ln m_peak s(t - t_i)
    s(t) = (t/t_p) e^{1 - t/t_p} for t > 0

The literature disagrees even on the sign (IFP falls in some tumours and rises in others up to
40 Gy, Multhoff and Vaupel 2012). Every m_peak is therefore a parameter with a wide log-normal
prior. That effects of fractions add in the logarithm and are proportional to dose is an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from nanopinn.errors import InputError
from nanopinn.parameters import PARAMETERS, value
from nanopinn.parameters.table import Number, Values

#: Properties that radiation changes (driving pressure, conductivities of wall and tissue,
#: permeability of the wall, vessel surface) and the symbols of their factors at the peak of the
#: effect of one fraction of RT_D.
RADIATION_FACTOR_SYMBOLS = {"p_e": "RT_IFP", "Lp": "RT_Lp", "K": "RT_K", "P": "RT_P", "SV": "RT_SV"}


@dataclass(frozen=True)
class Fraction:
    """One fraction of a radiotherapy.

    Attributes:
        time_s: s from the beginning of the treatment.
        dose_Gy: absorbed dose, Gy.

    Raises:
        InputError: the time is not finite or the dose is not positive.
    """

    time_s: float
    dose_Gy: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.time_s):
            raise InputError(
                "the time of a fraction is not finite",
                field="time_s",
                found=self.time_s,
                expected="a finite number of seconds",
            )
        if not 0 < self.dose_Gy < math.inf:
            raise InputError(
                "the dose of a fraction is not positive",
                field="dose_Gy",
                found=self.dose_Gy,
                expected="a positive dose",
            )


def rise_and_recovery(t: float, t_peak: Number) -> Number:
    """Time course of the effect of a fraction, ``s(t) = (t/t_p) e^{1 - t/t_p}``.

    Args:
        t: time after the fraction, s.
        t_peak: time of the peak, s.

    Returns:
        0 before the fraction, 1 at t_peak, 1/2 at 2.7 t_peak.
    """
    x = max(t, 0.0) / t_peak
    return x * math.e ** (1.0 - x)


def default_radiation_peaks() -> dict[str, Number]:
    """Prior median of every factor at its peak."""
    return {name: value(symbol) for name, symbol in RADIATION_FACTOR_SYMBOLS.items()}


@dataclass(frozen=True)
class RadiationCourse:
    """Fractions and their effect; factors and times are numbers, or tensors of one value per draw.

    Attributes:
        fractions: in any order.
        peaks: factor on each property at the peak of the effect of one fraction of RT_D; prior
            medians by default.
        t_peak_s: time from a fraction to the peak of its effect, s.
    """

    fractions: tuple[Fraction, ...] = ()
    peaks: Mapping[str, Number] = field(default_factory=default_radiation_peaks)
    t_peak_s: Number = field(default_factory=lambda: value("RT_t_peak"))

    def with_values(self, values: Values) -> RadiationCourse:
        """The same course with other factors and times.

        Args:
            values: numbers or draws by symbol (RT_IFP, RT_Lp, RT_K, RT_P, RT_SV, RT_t_peak).
        """
        peaks = {n: values.get(RADIATION_FACTOR_SYMBOLS[n], p) for n, p in self.peaks.items()}
        return replace(self, peaks=peaks, t_peak_s=values.get("RT_t_peak", self.t_peak_s))

    def effect(self, t: float) -> Number:
        """Exponent of all factors, ``sum_i (D_i/D_ref) s(t - t_i)``.

        Args:
            t: s.
        """
        return sum(
            (
                f.dose_Gy / value("RT_D") * rise_and_recovery(t - f.time_s, self.t_peak_s)
                for f in self.fractions
            ),
            0.0,
        )

    def modifiers(self, t: float) -> Mapping[str, Number]:
        """Factors on ``p_e``, ``Lp``, ``K``, ``P`` (permeability to every solute) and ``SV``.

        Args:
            t: s.
        """
        effect = self.effect(t)
        return {name: peak**effect for name, peak in self.peaks.items()}

    def sample_from_prior(self, generator: torch.Generator) -> RadiationCourse:
        """The same fractions with factors and time of the peak sampled from their priors.

        Args:
            generator: of random numbers.
        """
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
