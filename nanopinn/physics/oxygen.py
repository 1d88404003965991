"""Oxygen around a vessel: the Krogh cylinder with constant consumption, and the zones it leaves.

    D (1/r) d/dr (r dp/dr) = M,    p(R_c) = p_0,    dp/dr = 0 at the edge of what is supplied

Source: Krogh, J. Physiol. 52:409 (1919), with the solution of Erlang. The edge is the cylinder's
own, R_t, unless the demand exceeds the supply; then oxygen ends at a free boundary r_a < R_t where
both p and dp/dr vanish, and the cells beyond it have none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.parameters.table import Number, Values, parameter_lookup


def _bisect(f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The root of a decreasing function, to the last digits; an end where it has none."""
    for _ in range(60):
        middle = (low + high) / 2
        positive = f(middle) > 0
        low, high = torch.where(positive, middle, low), torch.where(positive, high, middle)
    return (low + high) / 2


def _scaled_pressure_drop(x: Tensor, edge: Tensor) -> Tensor:
    """Fall of p from the wall to ``x = r^2/R_c^2`` in units of ``M R_c^2 / 4D``: ``edge ln x - x +
    1``.
    """
    return edge * torch.log(x) - (x - 1)


def supplied_radius(R_t: Tensor, R_c: Number, D: Number, M: Number, p_0: Number) -> Tensor:
    """How far oxygen reaches: R_t, or the free boundary r_a before it, m.

        x ln x - x + 1 = 4 D p_0 / (M R_c^2),    x = (r_a / R_c)^2

    Args:
        R_t: radius of the tissue cylinder, any shape, m.
        R_c: radius of the vessel, m.
        D: diffusivity of oxygen, m2/s.
        M: consumption over solubility, Pa/s.
        p_0: oxygen pressure at the vessel, Pa.
    """
    supply = 4 * D * p_0 / (M * R_c**2)
    edge = (R_t / R_c) ** 2
    x = _bisect(lambda x: supply - _scaled_pressure_drop(x, x), torch.ones_like(edge), edge)
    return torch.where(_scaled_pressure_drop(edge, edge) <= supply, R_t, R_c * x.sqrt())


def oxygen_pressure(
    r: Tensor, R_t: Tensor, R_c: Number, D: Number, M: Number, p_0: Number
) -> Tensor:
    """Oxygen pressure at a distance r from the vessel's axis, Pa; zero beyond the supplied radius.

        p(r) = p_0 + M/(4D) (r^2 - R_c^2) - M r_a^2/(2D) ln(r / R_c)

    Args:
        r: m, broadcast against R_t.
        R_t, R_c, D, M, p_0: as in :func:`supplied_radius`.
    """
    r_a = supplied_radius(R_t, R_c, D, M, p_0)
    p = p_0 - M * R_c**2 / (4 * D) * _scaled_pressure_drop((r / R_c) ** 2, (r_a / R_c) ** 2)
    return torch.where(r < r_a, p, torch.where(r_a < R_t, 0.0, p)).clamp_min(0.0)


def radius_at_pressure(
    p: Number, R_t: Tensor, R_c: Number, D: Number, M: Number, p_0: Number
) -> Tensor:
    """Where oxygen pressure has fallen to p, m; R_t where it never does, R_c where it always is
    below.
    """
    r_a = supplied_radius(R_t, R_c, D, M, p_0)
    edge, fall = (r_a / R_c) ** 2, (p_0 - p) * 4 * D / (M * R_c**2)
    x = _bisect(lambda x: fall - _scaled_pressure_drop(x, edge), torch.ones_like(edge), edge)
    never = (r_a == R_t) & (_scaled_pressure_drop(edge, edge) <= fall)
    return torch.where(never, R_t, R_c * x.sqrt())


@dataclass(frozen=True)
class OxygenZones:
    """Area fractions of the tissue around a vessel; they sum to one. Radii where one zone ends, m.

    Attributes:
        proliferating: enough oxygen to divide.
        quiescent: hypoxic, alive.
        necrotic: without oxygen.
        r_hypoxia: outer radius of the proliferating zone.
        r_necrosis: outer radius of the living zone.
    """

    proliferating: Tensor
    quiescent: Tensor
    necrotic: Tensor
    r_hypoxia: Tensor
    r_necrosis: Tensor


def oxygen_zones(
    R_t: Tensor,
    R_c: Number,
    D: Number,
    M: Number,
    p_0: Number,
    p_hypoxia: Number,
    p_necrosis: Number,
) -> OxygenZones:
    """Zones of proliferating, quiescent and necrotic cells by two thresholds of oxygen pressure.

    Args:
        R_t: any shape, m; the tissue is the ring from R_c to R_t.
        R_c, D, M, p_0: as in :func:`supplied_radius`.
        p_hypoxia: below it cells do not divide, Pa.
        p_necrosis: below it they die, Pa; at least 0 (0: the anoxic core).
    """
    r_h, r_n = (radius_at_pressure(p, R_t, R_c, D, M, p_0) for p in (p_hypoxia, p_necrosis))
    ring = R_t**2 - R_c**2
    return OxygenZones(
        (r_h**2 - R_c**2) / ring, (r_n**2 - r_h**2) / ring, (R_t**2 - r_n**2) / ring, r_h, r_n
    )


@dataclass(frozen=True)
class OxygenSupply:
    """Oxygen of a tissue: diffusivity (m2/s), consumption over solubility (Pa/s), pressures at the
    vessel and of the zones' ends (Pa).

    Each one number, or a tensor that broadcasts over radii.
    """

    D: Number
    M: Number
    p_0: Number
    p_hypoxia: Number
    p_necrosis: Number

    @classmethod
    def from_values(cls, values: Values | None = None) -> OxygenSupply:
        """The table's, but for the values given by symbol."""
        return cls(
            *(
                parameter_lookup(values)(symbol)
                for symbol in ("D_O2", "M_O2", "p_O2_v", "p_O2_hyp", "p_O2_nec")
            )
        )

    def zones(self, R_t: Tensor, R_c: Number) -> OxygenZones:
        """Zones of the tissue between R_c and R_t."""
        return oxygen_zones(R_t, R_c, self.D, self.M, self.p_0, self.p_hypoxia, self.p_necrosis)
