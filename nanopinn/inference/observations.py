"""Observations with their noise, and the prediction of each from the model's fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.physics.drug_pools import LINEAR_POOLS, volume_fractions
from nanopinn.physics.tumour import TissueMaps

Quantity = Literal["encapsulated", "released", "free", "total"]

#: Pools that an image of each quantity shows, and whether it includes encapsulated drug in plasma.
_RELEASED = frozenset({"free", "bound", "intracellular", "nuclear"})
VISIBLE_POOLS: dict[Quantity, tuple[frozenset[str], bool]] = {
    "encapsulated": (frozenset({"encapsulated"}), True),
    "released": (_RELEASED, False),
    "free": (frozenset({"free"}), False),
    "total": (_RELEASED | {"encapsulated"}, True),
}


@dataclass(frozen=True)
class ContrastObservation:
    """Measured contrast-agent concentration with the nuisance directions of each voxel projected
    out.

    Ktrans, ve and vp of every voxel were fitted to the same curves, so the components of the
    residual along their sensitivities contain no information about the flow. The same holds for the
    effect of an error of the arrival time or of the baseline, and for heterogeneity within a voxel,
    which changes the curve along its second derivative with respect to ln ve. These directions are
    projected out, which is equivalent to eliminating them under flat priors. The remaining
    components depend on transport between voxels.

    Attributes:
        measured: concentration in the voxels of the fit, ``(t, n)``, mM.
        noise_sd: noise of each voxel, ``(n,)``, mM.
        voxels: voxels of the fit on the grid of the maps, ``(x, y, z)``, bool.
        nuisance_basis: orthonormal basis of the directions projected out, ``(n, t, k)``.
    """

    measured: Tensor
    noise_sd: Tensor
    voxels: Tensor
    nuisance_basis: Tensor

    @property
    def count(self) -> int:
        """Number of independent values that remain after the projection."""
        t, n = self.measured.shape
        return n * (t - self.nuisance_basis.shape[-1])

    def whiten(self, fields: Tensor) -> Tensor:
        """Fields in the voxels of the fit, divided by the noise and projected.

        Args:
            fields: concentration fields, ``(..., t, x, y, z)``, mM.

        Returns:
            Whitened curves, ``(..., n, t)``.
        """
        return self._project((fields[..., self.voxels] / self.noise_sd).transpose(-1, -2))

    def residual(self, C: Tensor) -> Tensor:
        """Whitened and projected misfit of a predicted concentration.

        Args:
            C: predicted concentration, ``(t, x, y, z)``, mM.

        Returns:
            Residual, ``(n, t)``.
        """
        return self._project(((C[:, self.voxels] - self.measured) / self.noise_sd).T)

    def _project(self, curves: Tensor) -> Tensor:
        """Remove the nuisance directions from curves ``(..., n, t)``."""
        along = torch.einsum("ntk,...nt->...nk", self.nuisance_basis, curves)
        return curves - torch.einsum("ntk,...nk->...nt", self.nuisance_basis, along)


@dataclass(frozen=True)
class DrugObservation:
    """One drug image taken after the dose, in kg per m3 of tissue.

    Attributes:
        time_s: time after the dose, s.
        quantity: the drug pools that the image shows; it is linear in them.
        measured: image on the grid of the maps, ``(x, y, z)``, kg/m3.
        noise_sd: noise of the image, ``(x, y, z)``, kg/m3.
        sd: standard deviation of the misfit, ``(x, y, z)``, kg/m3: the noise combined with the
            error of the prediction that comes from the Ktrans and ve maps.
        voxels: voxels of the fit, ``(x, y, z)``, bool.
    """

    time_s: float
    quantity: Quantity
    measured: Tensor
    noise_sd: Tensor
    sd: Tensor
    voxels: Tensor

    @property
    def name(self) -> str:
        """Quantity and time of the image."""
        return f"{self.quantity} at {self.time_s / 3600:g} h"

    @property
    def count(self) -> int:
        """Number of voxels of the fit."""
        return int(self.voxels.sum())

    def predict(self, pools: Tensor, maps: TissueMaps, plasma: float) -> Tensor:
        """Predict the image from the drug pools and the drug in plasma.

        Args:
            pools: concentrations of the pools, ``(..., pool, x, y, z)``, kg/m3.
            maps: tissue maps, which give the volume fractions.
            plasma: encapsulated drug in plasma at the time of the image, kg/m3.

        Returns:
            Image, ``(..., x, y, z)``, kg per m3 of tissue.
        """
        image = self.linear(pools, maps)
        return image + plasma * maps.v_p if VISIBLE_POOLS[self.quantity][1] else image

    def linear(self, pools: Tensor, maps: TissueMaps) -> Tensor:
        """The part of the image that is linear in the pools; the derivative of an image by any
        unknown is this part of the derivative of the pools.

        Args:
            pools: concentrations of the pools or their derivatives, ``(..., pool, x, y, z)``.
            maps: tissue maps, which give the volume fractions.

        Returns:
            Image without drug in plasma, ``(..., x, y, z)``.
        """
        shown = [
            i
            for i, name in enumerate(LINEAR_POOLS.pools)
            if name in VISIBLE_POOLS[self.quantity][0]
        ]
        return (volume_fractions(LINEAR_POOLS.pools, maps)[shown] * pools[..., shown, :, :, :]).sum(
            dim=-4
        )

    def whiten(self, image: Tensor) -> Tensor:
        """An image divided by its standard deviation in the voxels of the fit.

        Args:
            image: image, ``(..., x, y, z)``.

        Returns:
            Whitened values, ``(..., n)``.
        """
        return image[..., self.voxels] / self.sd[self.voxels]


def nearest_nodes(nodes: NDArray[np.float64], times_s: Sequence[float]) -> list[int]:
    """Index of the time node that is nearest to each observation time.

    Args:
        nodes: times of the nodes, ``(n,)``, s.
        times_s: observation times, s.
    """
    return [int(np.argmin(np.abs(nodes - t))) for t in times_s]
