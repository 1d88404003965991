"""What was measured, with its noise, and how the model's fields predict it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nanopinn.physics.drug_pools import LINEAR_POOLS, volume_fractions
from nanopinn.physics.tumour import TissueMaps

Quantity = Literal["encapsulated", "released", "free", "total"]

#: Pools that an image shows, and whether it shows carriers in plasma.
_RELEASED = frozenset({"free", "bound", "intracellular", "nuclear"})
VISIBLE_POOLS: dict[Quantity, tuple[frozenset[str], bool]] = {
    "encapsulated": (frozenset({"encapsulated"}), True),
    "released": (_RELEASED, False),
    "free": (frozenset({"free"}), False),
    "total": (_RELEASED | {"encapsulated"}, True),
}


@dataclass(frozen=True)
class ContrastObservation:
    """Contrast-agent concentration, less what each voxel's own kinetic parameters explain.

    Ktrans, ve and vp of every voxel were fitted to the same curves, so the parts of the residual
    along their sensitivities carry no news of the flow; nor does what an error of arrival or
    baseline looks like, nor what tissue that is mixed within a voxel does: it bends the curve along
    its second derivative by ln ve. They are projected out, which is the same as giving each a flat
    prior and eliminating it. What is left sees what no voxel by itself can do: the flow that
    carries contrast agent from voxel to voxel.

    Attributes:
        measured: ``(t, n)`` mM in the voxels used.
        noise_sd: ``(n,)`` mM.
        voxels: ``(x, y, z)`` bool on the grid of the maps.
        explained: ``(n, t, k)`` orthonormal basis of all that.
    """

    measured: Tensor
    noise_sd: Tensor
    voxels: Tensor
    nuisance_basis: Tensor

    @property
    def count(self) -> int:
        """Independent numbers left after the projection."""
        t, n = self.measured.shape
        return n * (t - self.nuisance_basis.shape[-1])

    def whiten(self, fields: Tensor) -> Tensor:
        """Fields ``(..., t, x, y, z)`` in the voxels used, projected and over the noise, ``(..., n,
        t)``.
        """
        return self._project((fields[..., self.voxels] / self.noise_sd).transpose(-1, -2))

    def residual(self, C: Tensor) -> Tensor:
        """Projected, whitened misfit of a predicted concentration, ``(n, t)``."""
        return self._project(((C[:, self.voxels] - self.measured) / self.noise_sd).T)

    def _project(self, curves: Tensor) -> Tensor:
        along = torch.einsum("ntk,...nt->...nk", self.nuisance_basis, curves)
        return curves - torch.einsum("ntk,...nk->...nt", self.nuisance_basis, along)


@dataclass(frozen=True)
class DrugObservation:
    """One post-dose image, kg per m3 of tissue.

    Attributes:
        time_s: after the dose.
        quantity: which pools it shows, linear in them.
        measured: ``(x, y, z)`` on the grid of the maps.
        noise_sd: ``(x, y, z)``.
        sd: ``(x, y, z)``; the noise, and what the noise of the Ktrans and ve maps makes of the
            prediction.
        voxels: ``(x, y, z)`` bool, where it is used.
    """

    time_s: float
    quantity: Quantity
    measured: Tensor
    noise_sd: Tensor
    sd: Tensor
    voxels: Tensor

    @property
    def name(self) -> str:
        return f"{self.quantity} at {self.time_s / 3600:g} h"

    @property
    def count(self) -> int:
        """Voxels used."""
        return int(self.voxels.sum())

    def predict(self, pools: Tensor, maps: TissueMaps, plasma: float) -> Tensor:
        """The image that pools ``(..., pool, x, y, z)`` would give, with encapsulated drug in
        plasma.
        """
        image = self.linear(pools, maps)
        return image + plasma * maps.v_p if VISIBLE_POOLS[self.quantity][1] else image

    def linear(self, pools: Tensor, maps: TissueMaps) -> Tensor:
        """The part of the image that is linear in the pools."""
        shown = [
            i
            for i, name in enumerate(LINEAR_POOLS.pools)
            if name in VISIBLE_POOLS[self.quantity][0]
        ]
        return (volume_fractions(LINEAR_POOLS.pools, maps)[shown] * pools[..., shown, :, :, :]).sum(
            dim=-4
        )

    def whiten(self, image: Tensor) -> Tensor:
        """An image over its standard deviation in the voxels used, ``(..., n)``."""
        return image[..., self.voxels] / self.sd[self.voxels]
