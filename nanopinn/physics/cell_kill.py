"""Uptake of free doxorubicin by cells, and three models of the cells that survive it.

    Uptake:                       rho Vmax s(pHe) / K_e F,    s = 10^(-g (7.4 - pHe))
    Hill (C_max) model:           S = 1 / (1 + (C_max / (q EC50))^m)
    time-integrated E_max model:  S = exp(-integral (f_max / q) C / (EC50 + C) dt)
    AUC model:                    S = exp(-(k_kill / q) integral F dt)

C is drug in cells in kg per 1e5 cells, F free drug in the interstitium in kg/m3. Surviving
fractions are of untreated cells that went on growing, so that growth cancels. The resistance q of
quiescent cells counts once in each model. The three models rank treatments differently, which is
why results show all of them.

The integrals of the E_max and the AUC model add up over time. The share of one step is exact where
the concentration is linear in time, so that a shorter step changes only how well the line follows
the curve.

References:
    El-Kareh and Secomb, Neoplasia 7:705 (2005): Hill model (from memory).
    Eliaz et al., Cancer Res. 64:711 (2004): E_max model, as Zhan uses it (from memory).
    Harashima et al., J. Control. Release 61:93 (1999): AUC model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nanopinn.parameters import Number, Values, parameter_lookup

#: Cells to which the intracellular constants of the table refer.
CELLS_PER_UNIT = 1e5


def uptake_rate(pHe: Tensor, values: Values | None = None) -> Tensor:
    """Uptake per tissue volume and interstitial concentration, ``rho Vmax s(pHe) / K_e``, 1/s.

    This is the linear range of a saturable transporter (F well below K_e, 0.2 ug/mL; the check of a
    fit reports the largest F/K_e). ``s = 10^(-g (7.4 - pHe))``: acid keeps the weak base outside.

    Args:
        pHe: extracellular pH, any shape.
        values: of parameters by symbol, in place of the table's.

    References:
        El-Kareh and Secomb, Neoplasia 2:325 (2000).
    """
    value = parameter_lookup(values)
    per_volume = value("rho_c") / CELLS_PER_UNIT * value("Vmax") / value("K_e")
    return per_volume * 10.0 ** (-value("g_pH") * (7.4 - pHe).clamp_min(0.0))


def efflux_rate(values: Values | None = None) -> Number:
    """Efflux from the intracellular pool, ``Vmax / K_i``, 1/s.

    Args:
        values: of parameters by symbol, in place of the table's.
    """
    value = parameter_lookup(values)
    return value("Vmax") / value("K_i")


@dataclass(frozen=True)
class CellKillParameters:
    """Parameters of the kill models; numbers, or tensors that broadcast with the concentrations.

    Attributes:
        EC50: drug in cells for half the effect, kg per 1e5 cells.
        m: Hill exponent.
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
        """Parameters of the table, or those given by symbol."""
        v = parameter_lookup(values)
        return cls(v("EC50_i"), v("m_hill"), v("f_max"), v("k_kill_H"), v("res_q"))


def hill_survival(C_max: Tensor, EC50: Number, m: Number, resistance: Number = 1.0) -> Tensor:
    """Surviving fraction by the Hill model, ``S = 1 / (1 + (C_max / (q EC50))^m)``.

    Args:
        C_max: peak intracellular concentration, kg per 1e5 cells.
        EC50: kg per 1e5 cells.
        m: Hill exponent.
        resistance: q.
    """
    return 1 / (1 + (C_max.clamp_min(0.0) / (resistance * EC50)) ** m)


def emax_increment(
    C_0: Tensor, C_1: Tensor, dt: Number, f_max: Number, EC50: Number, resistance: Number = 1.0
) -> Tensor:
    """Increment of ``-ln S`` by the E_max model over one step, exact for C linear in time.

        (f_max/q) dt (1 - E/(E + C_0) ln(1 + x)/x),    x = (C_1 - C_0)/(E + C_0),    E = EC50

    Args:
        C_0: drug in cells at the start of the step, kg per 1e5 cells.
        C_1: drug in cells at its end, kg per 1e5 cells.
        dt: length of the step, s.
        f_max: largest kill rate, 1/s.
        EC50: kg per 1e5 cells.
        resistance: q.
    """
    C_0, C_1 = C_0.clamp_min(0.0), C_1.clamp_min(0.0)
    x = (C_1 - C_0) / (EC50 + C_0)
    small = x.abs() < 1e-4
    safe = torch.where(small, 1.0, x)
    slope = torch.where(small, 1 - x / 2 + x * x / 3, torch.log1p(safe) / safe)
    return f_max / resistance * dt * (1 - EC50 / (EC50 + C_0) * slope)


def auc_increment(F_0: Tensor, F_1: Tensor, dt: Number) -> Tensor:
    """Increment of the area under a concentration over one step, ``(F_0 + F_1)/2 dt``.

    Args:
        F_0: concentration at the start of the step, kg/m3.
        F_1: concentration at its end, kg/m3.
        dt: length of the step, s.

    Returns:
        kg s/m3.
    """
    return (F_0 + F_1) / 2 * dt


def emax_survival(integrated_kill_rate: Tensor, resistance: Number = 1.0) -> Tensor:
    """Surviving fraction by the E_max model, ``S = exp(-K/q)``.

    Args:
        integrated_kill_rate: K, sum of :func:`emax_increment` without resistance.
        resistance: q.
    """
    return torch.exp(-(integrated_kill_rate / resistance))


def auc_survival(auc: Tensor, k_kill: Number, resistance: Number = 1.0) -> Tensor:
    """Surviving fraction by the AUC model, ``S = exp(-k_kill/q AUC)``.

    Args:
        auc: area under free drug in interstitial fluid, kg s/m3.
        k_kill: m3/(kg s).
        resistance: q.
    """
    return torch.exp(-k_kill / resistance * auc)


@dataclass(frozen=True)
class KillModel:
    """A model of the surviving fraction, and the exposure that it depends on.

    Attributes:
        key: in result files, in names of outcomes and in folders.
        name: for text and figures.
        concentration: which concentration drives it: drug in cells (kg per 1e5 cells) or free drug
            in the interstitium (kg/m3).
        initial: exposure at the first concentration.
        accumulate: exposure after a step, from the exposure before it, the concentrations at both
            ends, the length of the step (s) and the parameters of proliferating cells.
        survival: surviving fraction of an exposure, with parameters and resistance.
    """

    key: str
    name: str
    concentration: Literal["intracellular", "free"]
    initial: Callable[[Tensor], Tensor]
    accumulate: Callable[[Tensor, Tensor, Tensor, float, CellKillParameters], Tensor]
    survival: Callable[[Tensor, CellKillParameters, Number], Tensor]


#: The kill models of every result, in the order in which results show them. Another model is added
#: by one entry.
KILL_MODELS: dict[str, KillModel] = {
    model.key: model
    for model in (
        KillModel(
            "peak",
            "Hill (C_max) model",
            "intracellular",
            torch.clone,
            lambda peak, C_0, C_1, dt, k: torch.maximum(peak, C_1),
            lambda peak, k, q: hill_survival(peak, k.EC50, k.m, q),
        ),
        KillModel(
            "rate",
            "time-integrated E_max model",
            "intracellular",
            torch.zeros_like,
            lambda K, C_0, C_1, dt, k: K + emax_increment(C_0, C_1, dt, k.f_max, k.EC50),
            lambda K, k, q: emax_survival(K, q),
        ),
        KillModel(
            "area",
            "AUC model",
            "free",
            torch.zeros_like,
            lambda auc, F_0, F_1, dt, k: auc + auc_increment(F_0, F_1, dt),
            lambda auc, k, q: auc_survival(auc, k.k_kill, q),
        ),
    )
}
