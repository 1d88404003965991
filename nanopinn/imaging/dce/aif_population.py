"""Population arterial inputs by their formulas, with their fluid, dose and sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from nanopinn.imaging.dce.impulse_response import PlasmaCurve, plasma_from_blood
from nanopinn.parameters import value

Array = NDArray[np.float64]


def parker(t: Array) -> Array:
    """Human, whole blood, mM, ``t`` seconds after arrival (Parker 2006, MRM 56:993).

    Two Gaussians and an exponential under a sigmoid; zero before arrival.
    """
    arrived = np.asarray(t, dtype=np.float64) >= 0
    t = np.where(arrived, t, 0.0)
    peaks = sum(
        value(f"AIF_A{i}")
        / (value(f"AIF_s_{i}") * np.sqrt(2 * np.pi))
        * np.exp(-((t - value(f"AIF_T_{i}")) ** 2) / (2 * value(f"AIF_s_{i}") ** 2))
        for i in (1, 2)
    )
    tail = value("AIF_exp_alpha") * np.exp(-value("AIF_exp_beta") * t)
    tail = tail / (1 + np.exp(-value("AIF_exp_s") * (t - value("AIF_exp_tau"))))
    return np.where(arrived, peaks + tail, 0.0)


def georgiou(t: Array) -> Array:
    """Human, whole blood, mM, ``t`` seconds after arrival (Georgiou 2019, MRM 81:3197).

    Three exponentials times the passages of a gamma-variate bolus, a recirculation time apart.
    """
    t = np.asarray(t, dtype=np.float64)
    shape, scale, period = value("Georgiou_alpha"), value("Georgiou_beta"), value("Georgiou_tau")
    decay = sum(
        value(f"Georgiou_A{i}") * np.exp(-value(f"Georgiou_m{i}") * np.maximum(t, 0.0))
        for i in (1, 2, 3)
    )
    passages = np.zeros_like(t)
    for k in range(int(max(float(np.max(t, initial=0.0)), 0.0) / period) + 1):
        a, u = (k + 1) * shape + k, np.maximum(t - k * period, 1e-12)
        passages += np.where(
            t > k * period, np.exp(a * np.log(u / scale) - u / scale - gammaln(a + 1)) / scale, 0.0
        )
    return np.asarray(decay * passages)


def weinmann(t: Array) -> Array:
    """Human, **plasma**, mM at 0.1 mmol/kg, ``t`` seconds after arrival (Weinmann 1984; Tofts and
    Kermode 1991).

    Two exponentials from an instant rise: no first pass, so it is for slow scans only.
    """
    t = np.asarray(t, dtype=np.float64)
    later = np.maximum(t, 0.0)
    curve = sum(value(f"Weinmann_a{i}") * np.exp(-value(f"Weinmann_m{i}") * later) for i in (1, 2))
    return np.where(t >= 0, value("dose_Gd") * curve, 0.0)


def mcgrath(t: Array) -> Array:
    """Rat, whole blood, mM, ``t`` seconds after arrival (McGrath 2009, MRM 61:1173, model B): a
    ramp, then two exponentials.
    """
    t = np.asarray(t, dtype=np.float64)
    rise = value("McGrath_t0")
    amplitudes = [value(f"McGrath_A{i}") for i in (1, 2)]
    rates = [value(f"McGrath_k{i}") for i in (1, 2)]
    late = sum(
        a * np.exp(-k * np.maximum(t - rise, 0.0)) for a, k in zip(amplitudes, rates, strict=True)
    )
    return np.where(t < 0, 0.0, np.where(t <= rise, sum(amplitudes) * t / rise, late))


@dataclass(frozen=True)
class PopulationCurve:
    """A population curve.

    Attributes:
        formula: mM at seconds after arrival.
        fluid: of the concentrations.
        source: for the report.
        step_s: spacing of the nodes of the first pass, s, for which linear interpolation is
            accurate to 1e-4 of the peak (verified by a test).
        kinks_s: times that must be nodes, s.
    """

    formula: Callable[[Array], Array]
    fluid: Literal["blood", "plasma"]
    source: str
    step_s: float
    kinks_s: tuple[float, ...] = ()

    def plasma(
        self, *, arrival_s: float, until_s: float, hematocrit: float, dose_mmol_per_kg: float
    ) -> PlasmaCurve:
        """The plasma curve from its arrival on, evaluated on a fine grid and scaled to the dose.

        Args:
            arrival_s: bolus arrival, s.
            until_s: end of the scan, s.
            hematocrit: fraction, which converts blood to plasma.
            dose_mmol_per_kg: dose of the contrast agent, mmol/kg.
        """
        span = max(until_s - arrival_s, 0.0) + 60.0
        pieces = [
            np.arange(0.0, 45.0, self.step_s),
            np.arange(45.0, 120.0, 0.5),
            np.arange(120.0, span + 4.0, 2.0),
        ]
        t = np.unique(np.concatenate([*pieces, np.asarray(self.kinks_s)]))
        C = self.formula(t) * dose_mmol_per_kg / value("dose_Gd")
        return PlasmaCurve(
            t + arrival_s, plasma_from_blood(C, hematocrit) if self.fluid == "blood" else C
        )


POPULATION_CURVES = {
    "parker": PopulationCurve(parker, "blood", "Parker's population curve", 0.09),
    "georgiou": PopulationCurve(georgiou, "blood", "Georgiou's population curve", 0.06),
    "weinmann": PopulationCurve(
        weinmann, "plasma", "Weinmann's population curve (plasma, no first pass)", 1.0
    ),
    "preclinical": PopulationCurve(
        mcgrath, "blood", "McGrath's population curve of rats", 0.5, (7.0,)
    ),
}
