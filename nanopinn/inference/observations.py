"""What was measured, with its noise, and how the model's fields predict it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
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
    They are projected out, which is the same as giving each a flat prior and eliminating it. What is left sees
    what no well-mixed voxel can do: the flow that carries contrast agent from voxel to voxel.

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
        noise_sd: ``(x, y, z)``.
        sd: ``(x, y, z)``; the noise, and what the noise of the Ktrans and ve maps makes of the prediction.
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
    """Errors that many measured numbers share, each of unit variance.

    With a residual ``r`` at errors ``b0`` and their effect ``E`` on it the misfit is
    ``min_b |r + E (b - b0)|^2 + |b|^2``: they are eliminated, not ignored.

    Attributes:
        effect: ``(n, k)``.
        at: ``(k,)``, the errors ``b0`` with which the residual was worked out.
    """

    effect: Tensor
    at: Tensor

    def best(self, residual: Tensor) -> Tensor:
        """The errors ``b`` that a residual ``(n,)`` asks for, ``(k,)``."""
        return self._best(residual - self.effect @ self.at)

    def eliminate(self, residual: Tensor) -> Tensor:
        """A residual ``(n,)`` with the errors eliminated, ``(n + k,)``: its square is the misfit."""
        return self.eliminate_tangents(residual - self.effect @ self.at)

    def eliminate_tangents(self, tangents: Tensor) -> Tensor:
        """Derivatives ``(m, n)`` of a residual, of the eliminated one: ``(m, n + k)``."""
        b = self._best(tangents)
        return torch.cat([tangents + b @ self.effect.T, b], dim=-1)

    def _best(self, values: Tensor) -> Tensor:
        E = self.effect
        gram = torch.eye(E.shape[1], dtype=E.dtype, device=E.device) + E.T @ E
        return -torch.linalg.solve(gram, (values @ E).unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class SystematicErrors:
    """What the noise of the measured numbers does not cover, as it acts at one parameter vector.

    Attributes:
        theta: where the effects were worked out; grid_theta: where that of the grid was.
        grid_on_contrast, grid_on_drug: ``(n, k)``, of the grid of the maps on curves and on all drug images.
        closure_on_drug: ``(n, k)``, of what the model leaves out.
        pH_on_drug: ``(n, k)``, of the pH map's error. pH: ``(k,)``, that error as it stands in the maps now.
    """

    theta: NDArray[np.float64]
    grid_theta: NDArray[np.float64]
    grid_on_contrast: Tensor
    grid_on_drug: Tensor
    closure_on_drug: Tensor
    pH_on_drug: Tensor
    pH: Tensor

    @property
    def contrast(self) -> SharedError:
        return SharedError(self.grid_on_contrast, -self.grid_on_contrast.new_ones(self.grid_on_contrast.shape[1]))

    @property
    def drug(self) -> SharedError:
        effect = torch.cat([self.pH_on_drug, self.closure_on_drug, self.grid_on_drug], dim=1)
        at = effect.new_zeros(effect.shape[1])
        at[: len(self.pH)] = self.pH
        at[effect.shape[1] - self.grid_on_drug.shape[1] :] = -1.0
        return SharedError(effect, at)

    def without_grid(self) -> SystematicErrors:
        """The same with a grid that is trusted."""
        return replace(self, grid_on_contrast=self.grid_on_contrast[:, :0], grid_on_drug=self.grid_on_drug[:, :0])
