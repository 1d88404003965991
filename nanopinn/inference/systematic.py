"""Systematic errors: Gaussian nuisance parameters of given prior variance that are eliminated from
the misfit.

A nuisance parameter is eliminated either from a residual and its effect (:class:`SharedError`) or
from a joint precision matrix (:func:`marginal_precision`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def marginal_precision(precision: Array, nuisance: NDArray[np.integer]) -> Array:
    """Precision of a Gaussian after marginalisation of nuisance coordinates (Schur complement).

    Args:
        precision: joint precision, ``(n, n)``.
        nuisance: indices of the nuisance coordinates.

    Returns:
        Precision of the other coordinates, in their order.
    """
    other = np.setdiff1d(np.arange(len(precision)), nuisance)
    explained = precision[np.ix_(other, nuisance)] @ np.linalg.solve(
        precision[np.ix_(nuisance, nuisance)], precision[np.ix_(nuisance, other)]
    )
    return np.asarray(precision[np.ix_(other, other)] - explained)


@dataclass(frozen=True)
class SharedError:
    """Systematic errors ``b`` of unit prior variance that many observations share.

    With a residual ``r`` evaluated at the errors ``b0`` and their effect ``E`` on it, the misfit
    with the errors eliminated is ``min_b |r + E (b - b0)|^2 + |b|^2``.

    Attributes:
        effect: derivative E of the residual with respect to the errors, ``(n, k)``.
        reference: the errors b0 at which the residual was evaluated, ``(k,)``.
    """

    effect: Tensor
    reference: Tensor

    def conditional_estimate(self, residual: Tensor) -> Tensor:
        """Conditional maximum a posteriori estimate of the errors for fixed unknowns.

        Args:
            residual: whitened residual at the reference errors, ``(n,)``.

        Returns:
            The errors b, ``(k,)``.
        """
        return self._conditional_shift(residual - self.effect @ self.reference)

    def eliminate(self, residual: Tensor) -> Tensor:
        """Residual with the errors eliminated; its squared norm is the minimum of the misfit.

        Args:
            residual: whitened residual at the reference errors, ``(n,)``.

        Returns:
            Residual, ``(n + k,)``; the last k entries are the errors themselves.
        """
        return self.eliminate_tangents(residual - self.effect @ self.reference)

    def eliminate_tangents(self, tangents: Tensor) -> Tensor:
        """Derivatives of the residual with the errors eliminated.

        Args:
            tangents: derivatives of the whitened residual, ``(m, n)``.

        Returns:
            Derivatives, ``(m, n + k)``.
        """
        b = self._conditional_shift(tangents)
        return torch.cat([tangents + b @ self.effect.T, b], dim=-1)

    @property
    def covariance(self) -> Tensor:
        """Posterior covariance of the errors for fixed unknowns, ``(k, k)``."""
        return torch.linalg.inv(self.precision)

    @cached_property
    def precision(self) -> Tensor:
        """Posterior precision of the errors for fixed unknowns, ``1 + E' E``, ``(k, k)``."""
        E = self.effect
        return torch.eye(E.shape[1], dtype=E.dtype, device=E.device) + E.T @ E

    def _conditional_shift(self, values: Tensor) -> Tensor:
        """Minimiser b of ``|v + E b|^2 + |b|^2`` for each row v of ``values``."""
        projected = (values @ self.effect).unsqueeze(-1)
        return -torch.linalg.solve(self.precision, projected).squeeze(-1)


@dataclass(frozen=True)
class ModelError:
    """Prior of the model error e of each mass balance, relative to the flux of the balance.

    Attributes:
        basis: basis functions of e for weights of unit variance, ``(k, x, y, z)``.
        prior_sd: prior standard deviation of e.
        length_m: correlation length of e, m.
    """

    basis: Tensor
    prior_sd: float
    length_m: float


@dataclass(frozen=True)
class SystematicErrors:
    """Effects of all systematic errors on the whitened residuals, linearised at one parameter
    vector.

    The residuals are evaluated on the fit's grid. The unit error of the grid is the change from
    this grid to a finer one, and the estimate is centred on the finer grid, so the reference of
    this error is -1.

    Attributes:
        theta: coordinates at which the effects were computed, ``(m,)``.
        grid_theta: coordinates at which the discretisation error was computed, ``(m,)``.
        grid_on_contrast: effect of the discretisation error on the curves, ``(n, k)``.
        grid_on_drug: effect of the discretisation error on all drug images, ``(n, k)``.
        closure_on_drug: effect of processes that the model omits on the drug images, ``(n, k)``.
        pH_on_drug: effect of the error of the pH map on the drug images, ``(n, k)``.
        pH: the error of the pH map that the current maps include, ``(k,)``.
        scale_on_drug: effect of the scales of the drug images, ``(n, k)``.
        scale: the errors of these scales that the current predictions include, ``(k,)``.
        parameter_theta: coordinates at which the effects of the considered parameters were
            computed, ``(m,)``.
        parameters_on_contrast: effect of the considered parameters on the curves, ``(n, k)``.
        parameters_on_drug: effect of the considered parameters on the drug images, ``(n, k)``.
        contrast_parameters: deviates of the considered parameters that the current predictions of
            the curves include, ``(k,)``.
        drug_parameters: the same for the drug images, ``(k,)``.
        model_on_contrast: effect of the model error on the curves, ``(n, k)``, or None.
        model_on_drug: effect of the model error on the drug images, ``(n, k)``, or None.
    """

    theta: Array
    grid_theta: Array
    grid_on_contrast: Tensor
    grid_on_drug: Tensor
    closure_on_drug: Tensor
    pH_on_drug: Tensor
    pH: Tensor
    scale_on_drug: Tensor
    scale: Tensor
    parameter_theta: Array
    parameters_on_contrast: Tensor
    parameters_on_drug: Tensor
    contrast_parameters: Tensor
    drug_parameters: Tensor
    model_on_contrast: Tensor | None = None
    model_on_drug: Tensor | None = None

    @property
    def contrast_columns(self) -> dict[str, slice]:
        """Columns of every kind of error of the curves: model, parameters and grid."""
        return _columns(
            model=self.model_on_contrast,
            parameters=self.parameters_on_contrast,
            grid=self.grid_on_contrast,
        )

    @property
    def drug_columns(self) -> dict[str, slice]:
        """Columns of every kind of error of the drug images."""
        return _columns(
            pH=self.pH_on_drug,
            scale=self.scale_on_drug,
            closure=self.closure_on_drug,
            model=self.model_on_drug,
            parameters=self.parameters_on_drug,
            grid=self.grid_on_drug,
        )

    @cached_property
    def contrast(self) -> SharedError:
        """All errors of the contrast-agent curves."""
        effect = _concatenate_effects(
            self.model_on_contrast, self.parameters_on_contrast, self.grid_on_contrast
        )
        reference = effect.new_zeros(effect.shape[1])
        columns = self.contrast_columns
        reference[columns["parameters"]] = self.contrast_parameters
        reference[columns["grid"]] = -1.0
        return SharedError(effect, reference)

    @cached_property
    def drug(self) -> SharedError:
        """All errors of the drug images."""
        effect = _concatenate_effects(
            self.pH_on_drug,
            self.scale_on_drug,
            self.closure_on_drug,
            self.model_on_drug,
            self.parameters_on_drug,
            self.grid_on_drug,
        )
        reference = effect.new_zeros(effect.shape[1])
        columns = self.drug_columns
        reference[columns["pH"]] = self.pH
        reference[columns["scale"]] = self.scale
        reference[columns["parameters"]] = self.drug_parameters
        reference[columns["grid"]] = -1.0
        return SharedError(effect, reference)

    def model_weights(
        self, block: Literal["contrast", "drug"], residual: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Conditional maximum a posteriori estimate of the model error's weights.

        Args:
            block: observations that the residual belongs to.
            residual: whitened residual at the reference errors, ``(n,)``.

        Returns:
            Weights, ``(k,)``, and their posterior covariance for fixed unknowns, ``(k, k)``.
        """
        error = self.contrast if block == "contrast" else self.drug
        columns = (self.contrast_columns if block == "contrast" else self.drug_columns)["model"]
        return error.conditional_estimate(residual)[columns], error.covariance[columns, columns]

    def without_model(self) -> SystematicErrors:
        """The same errors without the model error."""
        return replace(self, model_on_contrast=None, model_on_drug=None)

    def without_grid(self) -> SystematicErrors:
        """The same errors without the discretisation error."""
        return replace(
            self,
            grid_on_contrast=self.grid_on_contrast[:, :0],
            grid_on_drug=self.grid_on_drug[:, :0],
        )


def _columns(**effects: Tensor | None) -> dict[str, slice]:
    """Columns of every effect in their order; none for None."""
    found, first = {}, 0
    for name, effect in effects.items():
        last = first + (0 if effect is None else effect.shape[1])
        found[name], first = slice(first, last), last
    return found


def _concatenate_effects(*effects: Tensor | None) -> Tensor:
    """Effects of several errors side by side, ``(n, k)``; None is skipped."""
    return torch.cat([e for e in effects if e is not None], dim=1)
