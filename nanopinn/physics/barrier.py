"""Barriers between blood and tissue (blood-brain barrier and the like): thin interfaces, in series
with layers.

    J = P (fu C_plasma - fu_t C_tissue) - Vmax C_u / (Km + C_u),    C_u = fu_t C_tissue

A barrier is a conductance per area between two cells, never a slab of low diffusivity: a slab holds
drug it does not have, needs cells thinner than itself, and its P would change with the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Quantity = Tensor | float


def passive_flux(
    P: Quantity, fu: Quantity, C_plasma: Quantity, fu_t: Quantity, C_tissue: Quantity
) -> Quantity:
    """Passive flux of the unbound drug into tissue, ``J = P (fu C_plasma - fu_t C_tissue)``,
    mol/(m2 s).

    Args:
        P: permeability, m/s.
        fu: unbound fraction in plasma; ``fu_t`` the one in tissue.
        C_plasma: total concentration in plasma, mol/m3; ``C_tissue`` the one in tissue.
    """
    return P * (fu * C_plasma - fu_t * C_tissue)


def surface_efflux(Vmax: Quantity, Km: Quantity, C: Quantity) -> Quantity:
    """Transport back to plasma by pumps of the barrier, ``Vmax C / (Km + C)``, mol/(m2 s).

    Args:
        Vmax: capacity per area of barrier, mol/(m2 s).
        Km: unbound tissue concentration of half capacity, mol/m3; positive.
        C: unbound concentration on the tissue side, mol/m3.
    """
    return Vmax * C / (Km + C)


def barrier_flux(
    P: Quantity,
    fu: Quantity,
    C_plasma: Quantity,
    fu_t: Quantity,
    C_tissue: Quantity,
    Vmax: Quantity,
    Km: Quantity,
) -> Quantity:
    """Net flux into tissue through a barrier with pumps: :func:`passive_flux` less
    :func:`surface_efflux`.

    Where it vanishes far below Km, unbound tissue over unbound plasma is ``Kp,uu = P / (P +
    Vmax/Km)``.
    """
    return passive_flux(P, fu, C_plasma, fu_t, C_tissue) - surface_efflux(Vmax, Km, fu_t * C_tissue)


def series_conductance(*conductances: Quantity) -> Tensor:
    """Conductance of parts in series, ``1 / sum(1/g)``, in their unit; zero where one of them is
    zero.
    """
    parts = [torch.as_tensor(g, dtype=torch.float64) for g in conductances]
    # 1/0 is inf and 1/inf is 0: an impermeable part stops everything, a perfect one nothing
    return 1.0 / torch.stack([1.0 / g for g in torch.broadcast_tensors(*parts)]).sum(0)


def layered_permeability(
    layers: Sequence[tuple[float, float]], interfaces: Sequence[float]
) -> float:
    """Permeability of layers and thin interfaces in series, ``1 / (sum L/D + sum 1/P)``, m/s.

    Args:
        layers: thickness (m) and diffusivity (m2/s) of each.
        interfaces: permeability of each thin interface, m/s.
    """
    resistance = math.fsum([L / D for L, D in layers] + [1 / P for P in interfaces])
    return 1 / resistance
