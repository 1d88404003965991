"""What was measured, with its noise, and how the model's fields predict it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nanopinn.physics.model import TissueMaps

Quantity = Literal["encapsulated", "released", "free", "total"]

#: Weight of (encapsulated, free, intracellular, nuclear) drug per tissue volume, and of plasma, in an image.
SEEN = {
    "encapsulated": ((1.0, 0.0, 0.0, 0.0), 1.0),
    "released": ((0.0, 1.0, 1.0, 1.0), 0.0),
    "free": ((0.0, 1.0, 0.0, 0.0), 0.0),
    "total": ((1.0, 1.0, 1.0, 1.0), 1.0),
}


@dataclass(frozen=True)
class ContrastObservation:
    """Contrast-agent concentration, less what each voxel's own kinetic parameters explain.

    Ktrans, ve and vp of every voxel were fitted to the same curves, so the parts of the residual along
    their sensitivities carry no news of the flow; nor does what an error of arrival or baseline looks like.
    They are projected out, which is the same as giving each a flat prior and eliminating it. What is left sees what no well-mixed voxel can do: the flow
    that carries contrast agent from voxel to voxel.

    Attributes:
        measured: ``(t, n)`` mM in the voxels used.
        noise_sd: ``(n,)`` mM.
        voxels: ``(x, y, z)`` bool on the grid of the maps.
        explained: ``(n, t, k)`` orthonormal basis of the local sensitivities.
    """

    measured: Tensor
    noise_sd: Tensor
    voxels: Tensor
    explained: Tensor

    @property
    def count(self) -> int:
        """Independent numbers left after the projection."""
        t, n = self.measured.shape
        return n * (t - self.explained.shape[-1])

    def whiten(self, fields: Tensor) -> Tensor:
        """Fields ``(..., t, x, y, z)`` in the voxels used, projected and over the noise, ``(..., n, t)``."""
        return self._project((fields[..., self.voxels] / self.noise_sd).transpose(-1, -2))

    def residual(self, C: Tensor) -> Tensor:
        """Projected, whitened misfit of a predicted concentration, ``(n, t)``."""
        return self._project(((C[:, self.voxels] - self.measured) / self.noise_sd).T)

    def _project(self, curves: Tensor) -> Tensor:
        along = torch.einsum("ntk,...nt->...nk", self.explained, curves)
        return curves - torch.einsum("ntk,...nk->...nt", self.explained, along)


@dataclass(frozen=True)
class DrugObservation:
    """One post-dose image, kg per m3 of tissue.

    Attributes:
        time_s: after the dose.
        quantity: which pools it shows, linear in them.
        measured: ``(x, y, z)`` on the grid of the maps.
        sd: ``(x, y, z)``; noise, and the error that the noise of the Ktrans map makes in the prediction.
        voxels: ``(x, y, z)`` bool, where it is used.
    """

    time_s: float
    quantity: Quantity
    measured: Tensor
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
        """The image that pools ``(..., pool, x, y, z)`` would give, with encapsulated drug in plasma."""
        return self.linear(pools, maps) + SEEN[self.quantity][1] * plasma * maps.v_p

    def linear(self, pools: Tensor, maps: TissueMaps) -> Tensor:
        """The part of the image that is linear in the pools."""
        w = SEEN[self.quantity][0]
        L, F, In, N = pools.unbind(dim=-4)
        return maps.phi * (w[0] * L + w[1] * F) + w[2] * In + w[3] * N

    def whiten(self, image: Tensor) -> Tensor:
        """An image over its standard deviation in the voxels used, ``(..., n)``."""
        return image[..., self.voxels] / self.sd[self.voxels]


@dataclass(frozen=True)
class SharedError:
    """The error of the pH map, which neighbouring voxels and all drug images share.

    It is a sum of smooth bumps ``b ~ N(0, 1)``. With their effect ``E`` on the whitened images the misfit is
    ``min_b |r + E b|^2 + |b|^2 = r' (1 + E E')^{-1} r``: the bumps are eliminated, not ignored.

    Attributes:
        bumps: ``(k, x, y, z)`` pH, each its standard deviation high.
        effect: ``(n, k)``, or None before the sensitivity to pH is known.
    """

    bumps: Tensor
    effect: Tensor | None = None

    def eliminate(self, whitened: Tensor) -> Tensor:
        """Whitened images ``(..., n)`` with the bumps eliminated, ``(..., n + k)``: its square is the misfit."""
        if self.effect is None:
            return torch.cat([whitened, whitened.new_zeros((*whitened.shape[:-1], len(self.bumps)))], dim=-1)
        E = self.effect
        gram = torch.eye(E.shape[1], dtype=E.dtype, device=E.device) + E.T @ E
        b = -torch.linalg.solve(gram, (whitened @ E).unsqueeze(-1)).squeeze(-1)
        return torch.cat([whitened + b @ E.T, b], dim=-1)
