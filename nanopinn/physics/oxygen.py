"""Oxygen around a vessel: the Krogh cylinder with constant consumption, and its oxygen zones.

    D (1/r) d/dr (r dp/dr) = M,    p(R_c) = p_0,    dp/dr = 0 at r_a

The supplied radius r_a is that of the cylinder, R_t, unless consumption exceeds supply. Then r_a is
a free boundary below R_t at which both p and dp/dr vanish, and the cells beyond it have no oxygen.

References:
    Krogh, J. Physiol. 52:409 (1919), with the solution of Erlang.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.parameters import Number, Values, parameter_lookup


def _bisect(f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Root of a decreasing function to round-off; an end of the interval where it has no root."""
    for _ in range(60):
        middle = (low + high) / 2
        positive = f(middle) > 0
        low, high = torch.where(positive, middle, low), torch.where(positive, high, middle)
    return (low + high) / 2


def _scaled_pressure_drop(x: Tensor, edge: Tensor) -> Tensor:
    """Fall of p from the wall to ``x = r^2/R_c^2`` over ``M R_c^2 / 4D``, ``edge ln x - x + 1``."""
    return edge * torch.log(x) - (x - 1)


def supplied_radius(R_t: Tensor, R_c: Number, D: Number, M: Number, p_0: Number) -> Tensor:
    """Radius up to which tissue has oxygen, R_t or the free boundary r_a < R_t, m.

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
    """Oxygen pressure at a distance from the axis of the vessel, Pa; 0 beyond the supplied radius.

        p(r) = p_0 + M/(4D) (r^2 - R_c^2) - M r_a^2/(2D) ln(r / R_c)

    Args:
        r: distance from the axis, m, broadcasting with R_t.
        R_t: radius of the tissue cylinder, m.
        R_c: radius of the vessel, m.
        D: diffusivity of oxygen, m2/s.
        M: consumption over solubility, Pa/s.
        p_0: oxygen pressure at the vessel, Pa.
    """
    r_a = supplied_radius(R_t, R_c, D, M, p_0)
    p = p_0 - M * R_c**2 / (4 * D) * _scaled_pressure_drop((r / R_c) ** 2, (r_a / R_c) ** 2)
    return torch.where(r < r_a, p, torch.where(r_a < R_t, 0.0, p)).clamp_min(0.0)


def radius_at_pressure(
    p: Number, R_t: Tensor, R_c: Number, D: Number, M: Number, p_0: Number
) -> Tensor:
    """Radius at which the oxygen pressure has fallen to p, m.

    Args:
        p: oxygen pressure, Pa.
        R_t: radius of the tissue cylinder, any shape, m.
        R_c: radius of the vessel, m.
        D: diffusivity of oxygen, m2/s.
        M: consumption over solubility, Pa/s.
        p_0: oxygen pressure at the vessel, Pa.

    Returns:
        R_t where the pressure stays above p, R_c where it is below p at the vessel.
    """
    r_a = supplied_radius(R_t, R_c, D, M, p_0)
    edge, fall = (r_a / R_c) ** 2, (p_0 - p) * 4 * D / (M * R_c**2)
    x = _bisect(lambda x: fall - _scaled_pressure_drop(x, edge), torch.ones_like(edge), edge)
    never = (r_a == R_t) & (_scaled_pressure_drop(edge, edge) <= fall)
    return torch.where(never, R_t, R_c * x.sqrt())


@dataclass(frozen=True)
class OxygenZones:
    """Oxygen zones of the tissue around a vessel, as fractions of its area that sum to one.

    Attributes:
        proliferating: fraction with enough oxygen to divide.
        quiescent: fraction that is hypoxic and alive.
        necrotic: fraction that died from lack of oxygen.
        r_hypoxia: outer radius of the proliferating zone, m.
        r_necrosis: outer radius of the living zone, m.
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
        R_t: outer radius of the tissue, any shape, m.
        R_c: radius of the vessel, m.
        D: diffusivity of oxygen, m2/s.
        M: consumption over solubility, Pa/s.
        p_0: oxygen pressure at the vessel, Pa.
        p_hypoxia: below it cells do not divide, Pa.
        p_necrosis: below it cells die, Pa; 0 for the anoxic core.
    """
    r_h, r_n = (radius_at_pressure(p, R_t, R_c, D, M, p_0) for p in (p_hypoxia, p_necrosis))
    ring = R_t**2 - R_c**2
    return OxygenZones(
        (r_h**2 - R_c**2) / ring, (r_n**2 - r_h**2) / ring, (R_t**2 - r_n**2) / ring, r_h, r_n
    )


@dataclass(frozen=True)
class OxygenSupply:
    """Oxygen parameters of a tissue; numbers, or tensors that broadcast with radii.

    Attributes:
        D: diffusivity, m2/s.
        M: consumption over solubility, Pa/s.
        p_0: pressure at the vessel, Pa.
        p_hypoxia: pressure below which cells do not divide, Pa.
        p_necrosis: pressure below which cells die, Pa.
    """

    D: Number
    M: Number
    p_0: Number
    p_hypoxia: Number
    p_necrosis: Number

    @classmethod
    def from_values(cls, values: Values | None = None) -> OxygenSupply:
        """Parameters of the table, or those given by symbol."""
        return cls(
            *(
                parameter_lookup(values)(symbol)
                for symbol in ("D_O2", "M_O2", "p_O2_v", "p_O2_hyp", "p_O2_nec")
            )
        )

    def zones(self, R_t: Tensor, R_c: Number) -> OxygenZones:
        """Oxygen zones of the tissue between R_c and R_t.

        Args:
            R_t: outer radius of the tissue, any shape, m.
            R_c: radius of the vessel, m.
        """
        return oxygen_zones(R_t, R_c, self.D, self.M, self.p_0, self.p_hypoxia, self.p_necrosis)
