"""Uptake of free doxorubicin by cells, in the linear range of its transporters.

What drug does to cells: three laws of the surviving fraction, because the choice between them
changes rankings.

    peak:  S = 1/(1 + (C_peak/EC50)^m)                       C: drug in cells, kg per 1e5 cells
    rate:  S = exp(-integral f_max C/(EC50 + C) dt)
    area:  S = exp(-k_kill integral F dt)                    F: free drug in the interstitium, kg/m3

Fractions are of untreated cells that went on growing, so that growth cancels. A resistance q (of
quiescent cells) counts once in each law: it multiplies the peak law's EC50 and divides f_max and
k_kill.

The rate and the area law add up over time. A step's share of their integrals is exact where the
concentration is linear in time over it, so that cutting a step changes nothing but how well the
line follows the curve.

Sources: peak, El-Kareh and Secomb, Neoplasia 7:705 (2005); rate, Eliaz et al., Cancer Res. 64:711
(2004), as Zhan uses it (both from memory); area, Harashima et al., J. Control. Release 61:93
(1999).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.parameters.table import Number, Values, parameter_lookup

#: Cells to which the intracellular constants of the table refer.
CELLS_PER_UNIT = 1e5


def uptake_rate(pHe: Tensor, values: Values | None = None) -> Tensor:
    """Uptake per tissue volume and interstitial concentration, ``rho Vmax s(pHe) / K_e``, 1/s.

    Linear range of El-Kareh and Secomb's saturable uptake (F well below K_e, 0.2 ug/mL: the check
    reports the largest F/K_e). ``s = 10^(-g (7.4 - pHe))``: acid keeps the weak base outside.
    """
    value = parameter_lookup(values)
    per_volume = value("rho_c") / CELLS_PER_UNIT * value("Vmax") / value("K_e")
    return per_volume * 10.0 ** (-value("g_pH") * (7.4 - pHe).clamp_min(0.0))


def efflux_rate(values: Values | None = None) -> Number:
    """Efflux from the intracellular pool, ``Vmax / K_i``, 1/s."""
    value = parameter_lookup(values)
    return value("Vmax") / value("K_i")


@dataclass(frozen=True)
class CellKillParameters:
    """Constants of the three laws; numbers, or tensors that broadcast with the concentrations.

    Attributes:
        EC50: drug in cells for half an effect, kg per 1e5 cells.
        m: Hill exponent of the peak law.
        f_max: largest kill rate, 1/s.
        k_kill: kill rate per free drug, m3/(kg s).
        resistance: of quiescent over proliferating cells, 1 or more.
    """

    EC50: Number
    m: Number
    f_max: Number
    k_kill: Number
    resistance: Number

    @classmethod
    def from_values(cls, values: Values | None = None) -> CellKillParameters:
        """The table's, or those given by symbol."""
        v = parameter_lookup(values)
        return cls(v("EC50_i"), v("m_hill"), v("f_max"), v("k_kill_H"), v("res_q"))


def hill_survival(C_peak: Tensor, EC50: Number, m: Number, resistance: Number = 1.0) -> Tensor:
    """Surviving fraction after a largest concentration, ``S = 1/(1 + (C_peak/(q EC50))^m)``.

    Args:
        C_peak: drug in cells, kg per 1e5 cells.
        EC50: in the same unit. m: Hill exponent. resistance: q.
    """
    return 1 / (1 + (C_peak.clamp_min(0.0) / (resistance * EC50)) ** m)


def emax_increment(
    C_0: Tensor, C_1: Tensor, dt: Number, f_max: Number, EC50: Number, resistance: Number = 1.0
) -> Tensor:
    """What a step adds to ``-ln S`` in the rate law, ``integral f_max/q C/(EC50 + C) dt``, exact
    for C linear over the step.

        (f_max/q) dt (1 - E/(E + C_0) ln(1 + x)/x),    x = (C_1 - C_0)/(E + C_0),    E = EC50

    Args:
        C_0, C_1: drug in cells at the ends of the step, kg per 1e5 cells.
        dt: s. f_max: 1/s. EC50: kg per 1e5 cells. resistance: q.
    """
    C_0, C_1 = C_0.clamp_min(0.0), C_1.clamp_min(0.0)
    x = (C_1 - C_0) / (EC50 + C_0)
    small = x.abs() < 1e-4
    safe = torch.where(small, 1.0, x)
    slope = torch.where(small, 1 - x / 2 + x * x / 3, torch.log1p(safe) / safe)
    return f_max / resistance * dt * (1 - EC50 / (EC50 + C_0) * slope)


def auc_increment(F_0: Tensor, F_1: Tensor, dt: Number) -> Tensor:
    """What a step adds to the area under a concentration, ``(F_0 + F_1)/2 dt``, kg s/m3 of kg/m3."""
    return (F_0 + F_1) / 2 * dt


def emax_survival(killed: Tensor) -> Tensor:
    """Surviving fraction by the rate law, ``S = exp(-K)``, K the sum of :func:`emax_increment`."""
    return torch.exp(-killed)


def auc_survival(area: Tensor, k_kill: Number, resistance: Number = 1.0) -> Tensor:
    """Surviving fraction by the area law, ``S = exp(-k_kill/q area)``.

    Args:
        area: of free drug in interstitial fluid, kg s/m3.
        k_kill: m3/(kg s). resistance: q.
    """
    return torch.exp(-k_kill / resistance * area)
