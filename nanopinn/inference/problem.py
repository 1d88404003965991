"""The inverse problem that both engines solve: unknowns, tissue, observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.aif import PlasmaCurve
from nanopinn.inference.observations import ContrastObservation, DrugObservation
from nanopinn.inference.unknowns import UnknownSet
from nanopinn.physics.plasma import SumOfExponentials
from nanopinn.physics.wall import permeability_from_transfer
from nanopinn.solvers.forward import Flow, Forward, Setting, drug_nodes
from nanopinn.solvers.march import TR_BDF2, Scheme, Trajectory

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """Fields at a parameter vector and what the observations make of them.

    Attributes:
        residual: whitened misfit of every observation, ``(N,)``.
        jacobian: its derivative, ``(N, m)``, or None.
        contrast: ``(t, x, y, z)`` mM; drug: the march, or None without drug images.
    """

    flow: Flow
    contrast: Tensor
    drug: Trajectory | None
    residual: Tensor
    jacobian: Tensor | None

    @property
    def chi2(self) -> float:
        """Sum of squared whitened residuals."""
        return float(self.residual @ self.residual)


@dataclass(frozen=True)
class InverseProblem:
    """Everything an engine needs; immutable, so that engines cannot disturb each other.

    Attributes:
        Ktrans: measured transfer constant, 1/s, on the grid of the maps. It holds the solvent drag of the
            contrast agent; ``setting.maps.PS`` is what is left of it at the current flow (:meth:`at_flow`).
    """

    unknowns: UnknownSet
    setting: Setting
    Ktrans: Tensor
    aif: PlasmaCurve
    frame_times: Array
    contrast: ContrastObservation
    drug: tuple[DrugObservation, ...]
    plasma: tuple[SumOfExponentials, SumOfExponentials]

    @property
    def observations(self) -> int:
        """Independent numbers measured."""
        return self.contrast.count + sum(d.count for d in self.drug)

    @property
    def drug_times(self) -> Array:
        """Nodes of the drug march, from the dose to the last image."""
        return drug_nodes(sorted({d.time_s for d in self.drug}))

    def forward(self) -> Forward:
        """A solver of this problem's fields."""
        return Forward(self.setting, self.unknowns.scalars)

    def at_flow(self, flow: Flow) -> InverseProblem:
        """The problem with PS freed of the solvent drag that this flow causes."""
        PS = permeability_from_transfer(self.Ktrans, flow.J_v)
        return replace(self, setting=replace(self.setting, maps=replace(self.setting.maps, PS=PS)))

    def refined(self, factor: int) -> Setting:
        """The tissue on a finer grid, for the check."""
        return self.setting.refined(factor)

    def prior_residual(self, theta: Array) -> Array:
        """Coordinates in prior standard deviations from their prior means."""
        return (theta - self.unknowns.prior_mean) / self.unknowns.prior_sd

    def objective(self, theta: Array, prediction: Prediction) -> float:
        """``(chi2 + prior) / 2``."""
        prior = self.prior_residual(theta)
        return 0.5 * (prediction.chi2 + float(prior @ prior))

    def predict(self, theta: Array, forward: Forward, *, tangents: bool = False, scheme: Scheme = TR_BDF2) -> Prediction:
        """Solve every field by finite volumes and compare it with the observations."""
        th = self.tensor(theta)
        flow = forward.flow(th, tangents=tangents)
        C, dC, _ = forward.contrast(th, flow, self.aif, self.frame_times, scheme)
        run = forward.drug(th, flow, self.plasma, self.drug_times, scheme) if self.drug else None
        residual = self.residual(C, run.U if run else None)
        if dC is None:
            return Prediction(flow, C, run, residual, None)
        jacobian = self.jacobian(dC.transpose(0, 1), run.tangents.transpose(0, 1) if run and run.tangents is not None else None)
        return Prediction(flow, C, run, residual, jacobian)

    def tensor(self, theta: Array) -> Tensor:
        """A coordinate vector as a tensor beside the maps."""
        phi = self.setting.maps.phi
        return torch.as_tensor(theta, dtype=phi.dtype, device=phi.device)

    def residual(self, C: Tensor, pools: Tensor | None) -> Tensor:
        """Whitened misfit of fields: ``C`` ``(t, x, y, z)`` mM, pools ``(t, pool, x, y, z)`` at the march's nodes."""
        parts = [self.contrast.residual(C).reshape(-1)]
        for d in self.drug:
            assert pools is not None
            image = d.predict(pools[self.node_of(d)], self.setting.maps, self.plasma_at(d.time_s))
            parts.append(d.whiten(image - d.measured))
        return torch.cat(parts)

    def jacobian(self, dC: Tensor, dpools: Tensor | None) -> Tensor:
        """``(N, m)`` from field tangents ``(m, t, x, y, z)`` and ``(m, t, pool, x, y, z)``."""
        parts = [self.contrast.whiten(dC).flatten(1)]
        for d in self.drug:
            assert dpools is not None
            parts.append(d.whiten(d.sensitivity(dpools[:, self.node_of(d)], self.setting.maps)))
        return torch.cat(parts, dim=1).T

    def node_of(self, drug: DrugObservation) -> int:
        """Index of an image's time among the nodes of the drug march."""
        return int(np.argmin(np.abs(self.drug_times - drug.time_s)))

    def plasma_at(self, time_s: float) -> float:
        """Encapsulated drug in plasma, kg/m3."""
        return float(self.plasma[0](torch.tensor(time_s, dtype=torch.float64)))

    def scalars(self, theta: Array) -> Mapping[str, float]:
        """Model scalars in SI as floats."""
        return {k: float(v) for k, v in self.unknowns.scalars(self.tensor(theta)).items()}
