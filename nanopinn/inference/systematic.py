"""Errors that the noise of the measured numbers does not cover: unknowns of stated size, eliminated and not ignored."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
