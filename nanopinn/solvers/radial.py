"""Cylinders of tissue around vessels: their radii, and the ring-shaped cells they are cut into.

A voxel's vessels stand at uneven distances. Their tissue radii are log-normal, ``R_t = R_m exp(s z)``, in classes at
Gauss-Hermite nodes z; a class stands for a share of the vessels (the node's weight) and hence of the tissue (weight
times ring area: ``share``). Means over a cluster are means over tissue, so they weigh classes by area. ``R_m`` is such
that the vessels fill their volume fraction: ``R_c^2 / E[R_t^2] = v_b``.

Cells are equal steps of ln r: thin where profiles are steep, and a profile ``A + B ln r``, which diffusion without
sinks has, is exact on any number of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.parameters import value


@dataclass(frozen=True)
class Cylinders:
    """Rings of tissue around vessels, cut into cells.

    Attributes:
        R_c: radius of the vessels, m.
        R_t: ``(cluster, class)``, radius of the tissue, m.
        vessels: ``(class,)``, share of the vessels that a class stands for; sums to 1.
        cells: how many along r.
    """

    R_c: float
    R_t: Tensor
    vessels: Tensor
    cells: int = 32

    def __post_init__(self) -> None:
        if not bool((self.R_t > self.R_c).all()):
            raise InputError(
                "a vessel is as wide as the tissue it stands in", field="R_t", found=f"{float(self.R_t.min()) * 1e6:.1f} um",
                expected=f"above R_c = {self.R_c * 1e6:.1f} um", remedy="Check the blood volume fraction and the spread of radii.",
            )  # fmt: skip

    @classmethod
    def around(cls, v_b: Tensor, R_c: float, spread: float, classes: int = 3, cells: int = 32) -> Cylinders:
        """Cylinders whose vessels fill a volume fraction of the tissue.

        Args:
            v_b: ``(cluster,)``, blood volume fraction, in (0, 1).
            R_c: vessel radius, m.
            spread: standard deviation of ln R_t; with 0 one class is enough.
            classes: Gauss-Hermite nodes.

        Raises:
            InputError: a tissue radius would not exceed R_c.
        """
        nodes, weights = np.polynomial.hermite_e.hermegauss(classes)
        vessels = torch.as_tensor(weights / weights.sum(), dtype=v_b.dtype, device=v_b.device)
        shape = torch.exp(spread * torch.as_tensor(nodes, dtype=v_b.dtype, device=v_b.device))
        shape = shape / (vessels * shape**2).sum().sqrt()
        return cls(R_c, R_c * v_b.rsqrt()[:, None] * shape, vessels, cells)

    @classmethod
    def of_plasma(cls, v_p: Tensor, classes: int = 3, cells: int = 32) -> Cylinders:
        """Cylinders by the plasma volume fraction of DCE, ``v_b = v_p / (1 - Hct)``, and the table's radius and spread."""
        return cls.around(v_p / (1 - value("Hct")), value("R_c"), value("spread_Rt"), classes, cells)

    @property
    def ring(self) -> Tensor:
        """Area of the tissue over pi, ``(cluster, class)``, m2."""
        return self.R_t**2 - self.R_c**2

    @property
    def share(self) -> Tensor:
        """Share of a cluster's tissue that a class holds, ``(cluster, class)``; sums to 1 over classes."""
        held = self.vessels * self.ring
        return held / held.sum(-1, keepdim=True)

    @property
    def vessels_per_tissue(self) -> Tensor:
        """Vessels per tissue area in a class over that of its cluster, ``(cluster, class)``.

        By this factor wall surface, blood volume and flow per tissue volume exceed the cluster's.
        """
        return self.vessels / self.share

    @property
    def surface(self) -> Tensor:
        """Wall surface per tissue volume, S/V, ``(cluster,)``, 1/m."""
        return 2 * self.R_c / (self.vessels * self.ring).sum(-1)

    @property
    def step(self) -> Tensor:
        """Step of ln r, ``(cluster, class, 1)``."""
        return (self.R_t / self.R_c).log()[..., None] / self.cells

    @cached_property
    def faces(self) -> Tensor:
        """Radii of the cells' faces, ``(cluster, class, r + 1)``, m."""
        return self.R_c * torch.exp(self.step * torch.arange(self.cells + 1, dtype=self.R_t.dtype, device=self.R_t.device))

    @cached_property
    def r(self) -> Tensor:
        """Radii of the cells' centres (geometric), ``(cluster, class, r)``, m."""
        return (self.faces[..., 1:] * self.faces[..., :-1]).sqrt()

    @cached_property
    def area(self) -> Tensor:
        """Area of the cells over that of their ring, ``(cluster, class, r)``; sums to 1 over r."""
        return (self.faces**2).diff(dim=-1) / self.ring[..., None]

    @property
    def conductance(self) -> Tensor:
        """Conductance between neighbouring cells, per diffusivity and tissue volume, ``(cluster, class, 1)``, 1/m2.

        ``2 pi / ln(r_{i+1}/r_i)`` per length of vessel, over ``pi (R_t^2 - R_c^2)``; the same at every face.
        """
        return 2 / (self.step * self.ring[..., None])

    def tissue_mean(self, values: Tensor) -> Tensor:
        """Mean over the tissue of a cluster of values ``(..., cluster, class, r)``."""
        return (values * self.area * self.share[..., None]).sum((-2, -1))
