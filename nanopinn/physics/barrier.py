"""Barriers between blood and tissue, such as the blood-brain barrier, as thin interfaces.

    J = P (fu C_plasma - fu_t C_tissue) - Vmax C_u / (Km + C_u),    C_u = fu_t C_tissue

A barrier is a conductance per area between two cells, not a slab of low diffusivity. A slab would
store drug, would need cells thinner than itself, and its permeability would depend on the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nanopinn.parameters import Number


def passive_flux(P: Number, fu: Number, C_plasma: Number, fu_t: Number, C_tissue: Number) -> Number:
    """Passive flux of unbound drug into tissue, mol/(m2 s).

        J = P (fu C_plasma - fu_t C_tissue)

    Args:
        P: permeability, m/s.
        fu: unbound fraction in plasma.
        C_plasma: total concentration in plasma, mol/m3.
        fu_t: unbound fraction in tissue.
        C_tissue: total concentration in tissue, mol/m3.
    """
    return P * (fu * C_plasma - fu_t * C_tissue)


def surface_efflux(Vmax: Number, Km: Number, C: Number) -> Number:
    """Active efflux to plasma by pumps of the barrier, ``Vmax C / (Km + C)``, mol/(m2 s).

    Args:
        Vmax: capacity per area of barrier, mol/(m2 s).
        Km: unbound concentration in tissue at half the capacity, mol/m3; positive.
        C: unbound concentration on the tissue side, mol/m3.
    """
    return Vmax * C / (Km + C)


def barrier_flux(
    P: Number,
    fu: Number,
    C_plasma: Number,
    fu_t: Number,
    C_tissue: Number,
    Vmax: Number,
    Km: Number,
) -> Number:
    """Net flux into tissue through a barrier with pumps, mol/(m2 s).

        J = P (fu C_plasma - fu_t C_tissue) - Vmax C_u / (Km + C_u),    C_u = fu_t C_tissue

    Where it vanishes far below Km, the ratio of unbound concentrations in tissue and plasma is
    ``Kp,uu = P / (P + Vmax/Km)``.

    Args:
        P: permeability, m/s.
        fu: unbound fraction in plasma.
        C_plasma: total concentration in plasma, mol/m3.
        fu_t: unbound fraction in tissue.
        C_tissue: total concentration in tissue, mol/m3.
        Vmax: capacity of the pumps per area, mol/(m2 s).
        Km: unbound concentration in tissue at half the capacity, mol/m3.
    """
    return passive_flux(P, fu, C_plasma, fu_t, C_tissue) - surface_efflux(Vmax, Km, fu_t * C_tissue)


def series_conductance(*conductances: Number) -> Tensor:
    """Conductance of parts in series, ``1 / sum(1/g)``; 0 where a part has none.

    Args:
        conductances: g of the parts, in one unit, broadcasting with one another.
    """
    parts = [torch.as_tensor(g, dtype=torch.float64) for g in conductances]
    # 1/0 is inf and 1/inf is 0: one impermeable part makes the whole impermeable
    return 1.0 / torch.stack([1.0 / g for g in torch.broadcast_tensors(*parts)]).sum(0)


def layered_permeability(
    layers: Sequence[tuple[float, float]], interfaces: Sequence[float]
) -> float:
    """Permeability of layers and thin interfaces in series, ``1 / (sum L/D + sum 1/P)``, m/s.

    Args:
        layers: thickness (m) and diffusivity (m2/s) of every layer.
        interfaces: permeability of every thin interface, m/s.
    """
    resistance = math.fsum([L / D for L, D in layers] + [1 / P for P in interfaces])
    return 1 / resistance
