"""The inverse problem that both engines solve: unknowns, tissue, observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.aif import PlasmaCurve
from nanopinn.inference.gauss_newton import Quadratic
from nanopinn.inference.observations import ContrastObservation, DrugObservation, SharedError
from nanopinn.inference.unknowns import UnknownSet
from nanopinn.physics.plasma import SumOfExponentials
from nanopinn.physics.wall import permeability_from_transfer
from nanopinn.solvers.forward import Flow, Forward, Setting, drug_nodes
from nanopinn.solvers.grid import mean_of_parts
from nanopinn.solvers.march import TR_BDF2, Scheme

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fields:
    """Every field at a parameter vector, whoever found them, with tangents where they were asked for.

    Attributes:
        flow: pressure on the flow grid, exchange and face flows on the grid of the maps.
        contrast: ``(t, x, y, z)`` mM of tissue at the frames; ``d_contrast`` ``(m, t, x, y, z)``.
        pools: ``(node, pool, x, y, z)`` kg/m3 at the nodes of the drug march, or None without drug images;
            ``d_pools`` ``(m, node, pool, x, y, z)``.
        balance: relative mass imbalance of the drug march.
    """

    flow: Flow
    contrast: Tensor
    pools: Tensor | None
    d_contrast: Tensor | None = None
    d_pools: Tensor | None = None
    balance: float = 0.0

    @property
    def flow_without_tangents(self) -> Flow:
        """The flow alone, for a forward run."""
        return replace(self.flow, dp=None)

    def averaged(self, factor: int, flow_factor: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pressure, contrast and pools averaged over ``factor^3`` cells (pressure: its own factor)."""
        pools = None if self.pools is None else mean_of_parts(self.pools, factor)
        return mean_of_parts(self.flow.p, flow_factor), mean_of_parts(self.contrast, factor), pools


@dataclass(frozen=True)
class Prediction:
    """Fields and what the observations make of them.

    Attributes:
        residual: whitened misfit of every observation, ``(N,)``.
        jacobian: its derivative, ``(N, m)``, or None.
    """

    fields: Fields
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
    shared: SharedError

    @property
    def observations(self) -> int:
        """Independent numbers measured."""
        return self.contrast.count + sum(d.count for d in self.drug)

    @property
    def drug_times(self) -> Array:
        """Nodes of the drug march, from the dose to the last image."""
        return drug_nodes(sorted({d.time_s for d in self.drug}))

    def forward(self, pressure: Tensor | None = None) -> Forward:
        """A solver of this problem's fields, which may start from a pressure nearby."""
        return Forward(self.setting, self.unknowns.scalars, pressure)

    def quadratic(self, theta: Array, prediction: Prediction) -> Quadratic:
        """Normal equations of a prediction that carries its Jacobian."""
        assert prediction.jacobian is not None
        residual, jacobian = (t.cpu().numpy() for t in (prediction.residual, prediction.jacobian))
        return Quadratic.of(residual, jacobian, self.prior_residual(theta), self.unknowns.prior_sd)

    def linearised_at(self, theta: Array, forward: Forward) -> InverseProblem:
        """The problem with what it takes from the current state brought up to date.

        PS is freed of the solvent drag of the current flow, and the drug images learn how an error of the pH
        map moves them. Itself, where both are up to date: then the objective stands still and a descent can
        end.
        """
        flow = forward.flow(self.tensor(theta))
        PS = permeability_from_transfer(self.Ktrans, flow.J_v)
        change = (PS / self.setting.maps.PS - 1).abs().flatten()
        new = self
        if float(change.kthvalue(int(0.95 * change.numel())).values) > 0.01:
            new = replace(self, setting=replace(self.setting, maps=replace(self.setting.maps, PS=PS)))
        if not self.drug:
            return new
        effect = new._effect_of_pH(theta, flow)
        old = self.shared.effect
        if old is None or float((effect - old).norm() / effect.norm()) > 0.05:
            new = replace(new, shared=replace(self.shared, effect=effect))
        return new

    def _effect_of_pH(self, theta: Array, flow: Flow, step: float = 0.02) -> Tensor:
        """Change of every whitened drug image by each bump of the pH error, ``(n, k)``.

        A voxel answers to its own pH, so one uniform shift of the map tells the slope of all.
        """
        images = []
        for shift in (step, -step):
            maps = replace(self.setting.maps, pH=self.setting.maps.pH + shift)
            forward = Forward(replace(self.setting, maps=maps), self.unknowns.scalars)
            pools = forward.drug(self.tensor(theta), flow, self.plasma, self.drug_times).U
            images.append([d.linear(pools[self.node_of(d)], maps) for d in self.drug])
        slopes = [(up - down) / (2 * step) for up, down in zip(*images, strict=True)]
        effects = [d.whiten(s * self.shared.bumps).T for d, s in zip(self.drug, slopes, strict=True)]
        return torch.cat(effects)

    def prior_residual(self, theta: Array) -> Array:
        """Coordinates in prior standard deviations from their prior means."""
        return (theta - self.unknowns.prior_mean) / self.unknowns.prior_sd

    def objective(self, theta: Array, prediction: Prediction) -> float:
        """``(chi2 + prior) / 2``."""
        prior = self.prior_residual(theta)
        return 0.5 * (prediction.chi2 + float(prior @ prior))

    def solve(self, theta: Array, forward: Forward, *, tangents: bool = False, scheme: Scheme = TR_BDF2) -> Fields:
        """Every field by finite volumes."""
        th = self.tensor(theta)
        flow = forward.flow(th, tangents=tangents)
        C, dC, _ = forward.contrast(th, flow, self.aif, self.frame_times, scheme)
        if not self.drug:
            return Fields(flow, C, None, None if dC is None else dC.transpose(0, 1))
        run = forward.drug(th, flow, self.plasma, self.drug_times, scheme)
        if dC is None or run.tangents is None:
            return Fields(flow, C, run.U, balance=run.balance.error)
        return Fields(flow, C, run.U, dC.transpose(0, 1), run.tangents.transpose(0, 1), run.balance.error)

    def compare(self, fields: Fields) -> Prediction:
        """Fields against the observations."""
        residual = self.residual(fields.contrast, fields.pools)
        if fields.d_contrast is None:
            return Prediction(fields, residual, None)
        return Prediction(fields, residual, self.jacobian(fields.d_contrast, fields.d_pools))

    def predict(self, theta: Array, forward: Forward, *, tangents: bool = False) -> Prediction:
        """Solve every field by finite volumes and compare it with the observations."""
        return self.compare(self.solve(theta, forward, tangents=tangents))

    def tensor(self, theta: Array) -> Tensor:
        """A coordinate vector as a tensor beside the maps."""
        phi = self.setting.maps.phi
        return torch.as_tensor(theta, dtype=phi.dtype, device=phi.device)

    def blocks(self, fields: Fields) -> dict[str, tuple[float, int]]:
        """Misfit and count of independent numbers of every observation, by name.

        Drug images are taken after the best pH error, which they share.
        """
        curves = self.contrast.residual(fields.contrast)
        found = {"contrast agent": (float(curves.square().sum()), self.contrast.count)}
        if fields.pools is not None:
            left = self.shared.eliminate(self._drug_misfit(fields.pools))[: sum(d.count for d in self.drug)]
            for d, part in zip(self.drug, left.split([d.count for d in self.drug]), strict=True):
                found[d.name] = (float(part.square().sum()), d.count)
        return found

    def _drug_misfit(self, pools: Tensor) -> Tensor:
        parts = []
        for d in self.drug:
            image = d.predict(pools[self.node_of(d)], self.setting.maps, self.plasma_at(d.time_s))
            parts.append(d.whiten(image - d.measured))
        return torch.cat(parts)

    def residual(self, C: Tensor, pools: Tensor | None) -> Tensor:
        """Whitened misfit of fields: ``C`` ``(t, x, y, z)`` mM, pools ``(node, pool, x, y, z)``."""
        parts = [self.contrast.residual(C).reshape(-1)]
        if pools is not None:
            parts.append(self.shared.eliminate(self._drug_misfit(pools)))
        return torch.cat(parts)

    def jacobian(self, dC: Tensor, dpools: Tensor | None) -> Tensor:
        """``(N, m)`` from field tangents ``(m, t, x, y, z)`` and ``(m, node, pool, x, y, z)``."""
        parts = [self.contrast.whiten(dC).flatten(1)]
        if dpools is not None:
            images = [d.whiten(d.linear(dpools[:, self.node_of(d)], self.setting.maps)) for d in self.drug]
            parts.append(self.shared.eliminate(torch.cat(images, dim=1)))
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
