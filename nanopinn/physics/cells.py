"""Uptake of free doxorubicin by cells, in the linear range of its transporters."""

from __future__ import annotations

from torch import Tensor

from nanopinn.physics.values import Number, Values, parameter_lookup

#: Cells to which the intracellular constants of the table refer.
CELLS_PER_UNIT = 1e5


def uptake_rate(pHe: Tensor, values: Values | None = None) -> Tensor:
    """Uptake per tissue volume and interstitial concentration, ``rho Vmax s(pHe) / K_e``, 1/s.

    Linear range of El-Kareh and Secomb's saturable uptake (F well below K_e, 0.2 ug/mL: the check reports
    the largest F/K_e). ``s = 10^(-g (7.4 - pHe))``: acid keeps the weak base outside.
    """
    value = parameter_lookup(values)
    per_volume = value("rho_c") / CELLS_PER_UNIT * value("Vmax") / value("K_e")
    return per_volume * 10.0 ** (-value("g_pH") * (7.4 - pHe).clamp_min(0.0))


def efflux_rate(values: Values | None = None) -> Number:
    """Efflux from the intracellular pool, ``Vmax / K_i``, 1/s."""
    value = parameter_lookup(values)
    return value("Vmax") / value("K_i")
