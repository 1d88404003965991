"""Errors that the noise of the measured numbers does not cover: unknowns of stated size, eliminated
and not ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

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
    reference: Tensor

    def conditional_estimate(self, residual: Tensor) -> Tensor:
        """The errors ``b`` that a residual ``(n,)`` asks for, ``(k,)``."""
        return self._conditional_shift(residual - self.effect @ self.reference)

    def eliminate(self, residual: Tensor) -> Tensor:
        """A residual ``(n,)`` with the errors eliminated, ``(n + k,)``: its square is the misfit."""
        return self.eliminate_tangents(residual - self.effect @ self.reference)

    def eliminate_tangents(self, tangents: Tensor) -> Tensor:
        """Derivatives ``(m, n)`` of a residual, of the eliminated one: ``(m, n + k)``."""
        b = self._conditional_shift(tangents)
        return torch.cat([tangents + b @ self.effect.T, b], dim=-1)

    @property
    def covariance(self) -> Tensor:
        """Posterior covariance of the errors, ``(k, k)``."""
        return torch.linalg.inv(self._precision)

    @cached_property
    def _precision(self) -> Tensor:
        E = self.effect
        return torch.eye(E.shape[1], dtype=E.dtype, device=E.device) + E.T @ E

    def _conditional_shift(self, values: Tensor) -> Tensor:
        return -torch.linalg.solve(self._precision, (values @ self.effect).unsqueeze(-1)).squeeze(
            -1
        )


@dataclass(frozen=True)
class ModelError:
    """Size and smoothness of the error.

    Attributes:
        bumps: ``(k, x, y, z)``, weighed with unit variance: e of one balance, relative to its flux.
        prior_sd: of e.
        length_m: over which it is smooth.
    """

    basis: Tensor
    prior_sd: float
    length_m: float


@dataclass(frozen=True)
class SystematicErrors:
    """What the noise of the measured numbers does not cover, as it acts at one parameter vector.

    Attributes:
        theta: where the effects were worked out; grid_theta: where that of the grid was.
        grid_on_contrast, grid_on_drug: ``(n, k)``, of the grid of the maps on curves and on all
            drug images.
        closure_on_drug: ``(n, k)``, of what the model leaves out.
        pH_on_drug: ``(n, k)``, of the pH map's error. pH: ``(k,)``, that error as it stands in the
            maps now.
        model_on_contrast, model_on_drug: ``(n, k)``, of the model's own error, where one is
            allowed.
    """

    theta: NDArray[np.float64]
    grid_theta: NDArray[np.float64]
    grid_on_contrast: Tensor
    grid_on_drug: Tensor
    closure_on_drug: Tensor
    pH_on_drug: Tensor
    pH: Tensor
    model_on_contrast: Tensor | None = None
    model_on_drug: Tensor | None = None

    @cached_property
    def contrast(self) -> SharedError:
        effect = _concatenate_effects(self.model_on_contrast, self.grid_on_contrast)
        at = effect.new_zeros(effect.shape[1])
        at[effect.shape[1] - self.grid_on_contrast.shape[1] :] = -1.0
        return SharedError(effect, at)

    @cached_property
    def drug(self) -> SharedError:
        effect = _concatenate_effects(
            self.pH_on_drug, self.closure_on_drug, self.model_on_drug, self.grid_on_drug
        )
        at = effect.new_zeros(effect.shape[1])
        at[: len(self.pH)] = self.pH
        at[effect.shape[1] - self.grid_on_drug.shape[1] :] = -1.0
        return SharedError(effect, at)

    def model_weights(
        self, block: Literal["contrast", "drug"], residual: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weights of the model's error that a residual ``(n,)`` asks for, and their posterior
        covariance at the fitted unknowns.
        """
        model = self.model_on_contrast if block == "contrast" else self.model_on_drug
        assert model is not None
        before = (
            0 if block == "contrast" else self.pH_on_drug.shape[1] + self.closure_on_drug.shape[1]
        )
        at = slice(before, before + model.shape[1])
        error: SharedError = getattr(self, block)
        return error.conditional_estimate(residual)[at], error.covariance[at, at]

    def without_model(self) -> SystematicErrors:
        """The same with equations that are trusted."""
        return replace(self, model_on_contrast=None, model_on_drug=None)

    def without_grid(self) -> SystematicErrors:
        """The same with a grid that is trusted."""
        return replace(
            self,
            grid_on_contrast=self.grid_on_contrast[:, :0],
            grid_on_drug=self.grid_on_drug[:, :0],
        )


def _concatenate_effects(*effects: Tensor | None) -> Tensor:
    return torch.cat([e for e in effects if e is not None], dim=1)
