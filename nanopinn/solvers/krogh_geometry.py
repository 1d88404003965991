"""Krogh cylinders of tissue around vessels: their radii, and their division into annular cells.

Vessels of a voxel are unevenly spaced. Their tissue radii are log-normal, ``R_t = R_m exp(s z)``,
in classes at Gauss-Hermite nodes z. A class represents a fraction of the vessels (the weight of the
node) and hence of the tissue (weight times ring area). Means over a cluster are means over tissue
and weight classes by area. ``R_m`` follows from the blood volume fraction: ``R_c^2 / E[R_t^2] =
v_b``.

Cells are equal steps of ln r: thin where profiles are steep, and exact for the profile ``A + B ln
r`` of diffusion without sinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.parameters import UM, value

#: Smallest tissue radius of the narrowest class, in vessel radii, where the spread of radii is
#: limited.
MIN_RADIUS_RATIO = 1.25


@dataclass(frozen=True)
class KroghCylinders:
    """Annuli of tissue around vessels, divided into cells.

    Attributes:
        R_c: radius of the vessels, one or ``(cluster, 1)``, m.
        R_t: radius of the tissue, ``(cluster, class)``, m.
        vessels: fraction of the vessels in each class, ``(class,)``; sums to 1.
        cells: number of cells along r.
    """

    R_c: float | Tensor
    R_t: Tensor
    vessels: Tensor
    cells: int = 32

    def __post_init__(self) -> None:
        if not bool((self.R_t > self.R_c).all()):
            narrow = int((self.R_t - self.R_c).argmin())
            found, expected = (
                float(R.flatten()[narrow]) / UM for R in (self.R_t, self.wall_radius)
            )
            raise InputError(
                "a vessel is as wide as the tissue around it",
                field="R_t",
                found=f"{found:.1f} um",
                expected=f"above R_c = {expected:.1f} um",
                remedy="Check the blood volume fraction and the spread of radii.",
            )

    @classmethod
    def from_blood_volume(
        cls,
        v_b: Tensor,
        R_c: float | Tensor,
        log_radius_sd: float | Tensor,
        classes: int = 3,
        cells: int = 32,
    ) -> KroghCylinders:
        """Cylinders whose vessels fill a volume fraction of the tissue.

        Args:
            v_b: blood volume fraction, in (0, 1), ``(cluster,)``.
            R_c: vessel radius, one or ``(cluster,)``, m.
            log_radius_sd: standard deviation of ln R_t, one or ``(cluster,)``; with 0 one class is
                enough.
            classes: number of Gauss-Hermite nodes.
            cells: number of cells along r.

        Raises:
            InputError: a tissue radius would not exceed R_c.
        """
        z, vessels = _gauss_hermite_nodes(classes, v_b)
        R_c = R_c[:, None] if isinstance(R_c, Tensor) and R_c.dim() else R_c
        return cls(
            R_c,
            R_c
            * v_b.rsqrt()[:, None]
            * _relative_radii(
                torch.as_tensor(log_radius_sd, dtype=v_b.dtype, device=v_b.device).reshape(-1, 1),
                z,
                vessels,
            ),
            vessels,
            cells,
        )

    @classmethod
    def from_plasma_volume(cls, v_p: Tensor, classes: int = 3, cells: int = 32) -> KroghCylinders:
        """Cylinders from the plasma volume fraction of DCE, ``v_b = v_p / (1 - Hct)``, with the
        table's vessel radius and spread of radii.

        Args:
            v_p: plasma volume fraction, ``(cluster,)``.
            classes: number of Gauss-Hermite nodes.
            cells: number of cells along r.
        """
        return cls.from_blood_volume(
            v_p / (1 - value("Hct")), value("R_c"), value("spread_Rt"), classes, cells
        )

    @property
    def wall_radius(self) -> Tensor:
        """Radius of the vessel, ``(cluster, class)``, m."""
        return torch.as_tensor(self.R_c, dtype=self.R_t.dtype, device=self.R_t.device).expand_as(
            self.R_t
        )

    @property
    def ring_area(self) -> Tensor:
        """Area of the tissue over pi, ``(cluster, class)``, m2."""
        return self.R_t**2 - self.R_c**2

    @property
    def tissue_fractions(self) -> Tensor:
        """Fraction of a cluster's tissue in each class, ``(cluster, class)``; the sum is 1."""
        area = self.vessels * self.ring_area
        return area / area.sum(-1, keepdim=True)

    @property
    def relative_vessel_density(self) -> Tensor:
        """Vessels per tissue area in a class, relative to its cluster, ``(cluster, class)``.

        Wall surface, blood volume and flow per tissue volume scale by this factor.
        """
        return self.vessels / self.tissue_fractions

    @property
    def surface_density(self) -> Tensor:
        """Wall surface per tissue volume, S/V, ``(cluster,)``, 1/m."""
        return 2 * self.wall_radius[:, 0] / (self.vessels * self.ring_area).sum(-1)

    @property
    def step(self) -> Tensor:
        """Step of ln r, ``(cluster, class, 1)``."""
        return (self.R_t / self.R_c).log()[..., None] / self.cells

    @cached_property
    def faces(self) -> Tensor:
        """Radii of the cells' faces, ``(cluster, class, r + 1)``, m."""
        return self.wall_radius[..., None] * torch.exp(
            self.step * torch.arange(self.cells + 1, dtype=self.R_t.dtype, device=self.R_t.device)
        )

    @cached_property
    def r(self) -> Tensor:
        """Radii of the cells' centres (geometric), ``(cluster, class, r)``, m."""
        return (self.faces[..., 1:] * self.faces[..., :-1]).sqrt()

    @cached_property
    def area(self) -> Tensor:
        """Area of the cells over that of their ring, ``(cluster, class, r)``; sums to 1 over r."""
        return (self.faces**2).diff(dim=-1) / self.ring_area[..., None]

    @property
    def conductance(self) -> Tensor:
        """Conductance between neighbouring cells, per diffusivity and tissue volume, ``(cluster,
        class, 1)``, 1/m2.

        ``2 pi / ln(r_{i+1}/r_i)`` per length of vessel, over ``pi (R_t^2 - R_c^2)``; the same at
        every face.
        """
        return 2 / (self.step * self.ring_area[..., None])

    def tissue_mean(self, values: Tensor) -> Tensor:
        """Mean over the tissue of a cluster of values ``(..., cluster, class, r)``."""
        return (values * self.area * self.tissue_fractions[..., None]).sum((-2, -1))


def limit_radius_spread(v_b: Tensor, log_radius_sd: Tensor, classes: int) -> Tensor:
    """Limit the spread of radii such that the tissue radius of the narrowest class is at least
    :data:`MIN_RADIUS_RATIO` vessel radii.

    Args:
        v_b: blood volume fraction, at most ``MIN_RADIUS_RATIO^-2``, ``(cluster,)``.
        log_radius_sd: standard deviation of ln R_t, ``(cluster,)``.
        classes: number of Gauss-Hermite nodes.

    Returns:
        ``(cluster,)``.
    """
    z, vessels = _gauss_hermite_nodes(classes, v_b)
    low, high = torch.zeros_like(log_radius_sd), log_radius_sd
    for _ in range(50):
        middle = (low + high) / 2
        wide = v_b.rsqrt() * _relative_radii(middle[:, None], z, vessels)[:, 0] >= MIN_RADIUS_RATIO
        low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
    return torch.where(
        v_b.rsqrt() * _relative_radii(log_radius_sd[:, None], z, vessels)[:, 0] >= MIN_RADIUS_RATIO,
        log_radius_sd,
        low,
    )


def _gauss_hermite_nodes(classes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes, increasing, and the fraction of the vessels at each."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(classes)
    z, vessels = (
        torch.as_tensor(v, dtype=like.dtype, device=like.device)
        for v in (nodes, weights / weights.sum())
    )
    return z, vessels


def _relative_radii(log_radius_sd: Tensor, z: Tensor, vessels: Tensor) -> Tensor:
    """R_t of each class over the root of its mean square, ``(cluster, class)``."""
    shape = torch.exp(log_radius_sd * z)
    return shape / (vessels * shape**2).sum(-1, keepdim=True).sqrt()
