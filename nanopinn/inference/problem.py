"""The inverse problem that both engines solve: unknowns, tissue, observations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.aif.curve import PlasmaCurve
from nanopinn.imaging.kinetics.curve import InputCurve
from nanopinn.imaging.kinetics.fit import fit_kinetics
from nanopinn.imaging.kinetics.models import extended_tofts
from nanopinn.inference.contract import Prediction, Problem
from nanopinn.inference.observations import ContrastObservation, DrugObservation, SharedError, SystematicErrors
from nanopinn.physics.plasma import SumOfExponentials
from nanopinn.physics.wall import permeability_from_transfer
from nanopinn.solvers.forward import Flow, Forward, Setting
from nanopinn.solvers.grid import mean_of_parts
from nanopinn.solvers.nodes import drug_nodes
from nanopinn.solvers.schemes import TR_BDF2, Scheme

Array = NDArray[np.float64]

#: Prior standard deviations (of unknowns, and of the pH map's error) within which a linearisation holds.
NEAR = 0.08
#: The same for the effect of the grid.
GRID_NEAR = 0.6
#: No kinetic map moves by more than this factor between two linearisations.
LARGEST_STEP = 1.25


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

    def on_parents(self, factor: int) -> Fields:
        """Contrast and pools averaged over ``factor^3`` cells; the flow stays on its grid."""
        pools = None if self.pools is None else mean_of_parts(self.pools, factor)
        return Fields(self.flow, mean_of_parts(self.contrast, factor), pools, balance=self.balance)


@dataclass(frozen=True)
class InverseProblem(Problem[Forward, Fields]):
    """The voxel problem: everything an engine needs; immutable, so that engines cannot disturb each other.

    Attributes:
        kinetics: measured Ktrans (1/s), ve and vp, ``(3, x, y, z)``: what each voxel's curve says by itself.
        local: the same three of the tissue, ``(3, x, y, z)``, such that the model's curves, with all that flows and
            diffuses between voxels, say ``kinetics`` when each is fitted by itself. ``setting.maps`` are made of
            them; PS is Ktrans less the solvent drag.
        pH_bumps: ``(k, x, y, z)``; the error of the pH map is their sum with weights of unit variance.
        closure_bumps: ``(k, x, y, z)``, the same for what the model leaves out of each drug image, relative to it.
        spread: covariance of ln Ktrans and ln ve of every voxel, ``(2, 2, x, y, z)``.
        errors: what :meth:`linearised_at` found, None before.
    """

    setting: Setting
    kinetics: Tensor
    local: Tensor
    aif: PlasmaCurve
    frame_times: Array
    contrast: ContrastObservation
    drug: tuple[DrugObservation, ...]
    plasma: tuple[SumOfExponentials, SumOfExponentials]
    pH_bumps: Tensor
    closure_bumps: Tensor
    spread: Tensor
    errors: SystematicErrors | None = None

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

    def solver(self, before: Forward | None = None) -> Forward:
        """As :meth:`forward`, from the pressure where another one ended."""
        return self.forward(None if before is None else before.last_pressure)

    def linearised_at(self, theta: Array, forward: Forward) -> InverseProblem:
        """The problem with what it takes from the current state brought up to date.

        The kinetic maps are freed of what flow and diffusion between voxels add to them, the pH map takes the error
        that the drug images ask for, and the observations learn what systematic errors do to them there. Itself
        while none of it would change much: then the objective stands still and a descent can end.
        """
        here = self.solve(theta, forward)
        pH_error = self._best_pH_error(here)
        if self.errors is not None and self._near(theta, pH_error, self.errors):
            return self
        # maps and flow follow each other with a lag that full steps would overshoot; without drug images nothing
        # holds the flow against maps that follow it, so they stay as measured
        local = self._local_kinetics(here, share=1.0 if self.errors is None else 0.6) if self.drug else self.local
        maps = replace(
            self.setting.maps,
            PS=permeability_from_transfer(local[0], here.flow.J_v),
            phi=local[1],
            v_p=local[2],
            pH=self.measured_pH + torch.einsum("k,kxyz->xyz", pH_error, self.pH_bumps),
        )
        new = replace(self, local=local, setting=replace(self.setting, maps=maps))
        new = replace(new, drug=new._weighed(theta, here.flow))
        none = here.contrast.new_zeros((0, 0))
        grid_theta, on_contrast, on_drug = new._effect_of_grid(theta, here.flow.p)
        errors = SystematicErrors(
            theta=theta.copy(),
            grid_theta=grid_theta,
            grid_on_contrast=on_contrast,
            grid_on_drug=on_drug,
            closure_on_drug=new._effect_of_closure(here) if self.drug else none,
            pH_on_drug=new._effect_of_pH(theta, here.flow) if self.drug else none,
            pH=pH_error,
        )
        return replace(new, errors=errors)

    def _local_kinetics(self, fields: Fields, share: float) -> Tensor:
        """A share of a step to where each voxel's curve, fitted by itself, says what was measured."""
        voxels = self.contrast.voxels
        curve = InputCurve(self.aif, self.frame_times, str(voxels.device))
        fit = fit_kinetics(extended_tofts, fields.contrast[:, voxels].T.contiguous(), curve)
        apparent, measured, old = fit.parameters.T, self.kinetics[:, voxels], self.local[:, voxels]
        scale = (measured[:2] / apparent[:2]).clamp(1 / LARGEST_STEP, LARGEST_STEP) ** share
        new = torch.cat([old[:2] * scale, (old[2:] + share * (measured[2:] - apparent[2:])).clamp(0.0, 0.5)])
        new[1] = new[1].clamp(0.05, 0.9)
        local = self.local.clone()
        local[:, voxels] = torch.where(fit.converged & torch.isfinite(new).all(dim=0), new, old)
        return local

    def _weighed(self, theta: Array, flow: Flow) -> tuple[DrugObservation, ...]:
        """The drug images, each with the sd that noise and the errors of Ktrans and ve together leave."""
        if not self.drug:
            return ()
        pools = self.forward().drug(self.tensor(theta), flow, self.plasma, self.drug_times).U
        of_phi = self._slopes(theta, flow, "phi", 0.02, relative=True)
        weighed = []
        for d, b in zip(self.drug, of_phi, strict=True):
            # what enters a voxel is in proportion to its wall, and nearly all of it stays
            g = torch.stack([d.linear(pools[self.node_of(d)], self.setting.maps), b])
            variance = torch.einsum("ixyz,ijxyz,jxyz->xyz", g, self.spread, g)
            weighed.append(replace(d, sd=(d.noise_sd.square() + variance).sqrt()))
        return tuple(weighed)

    def _slopes(self, theta: Array, flow: Flow, name: str, step: float, *, relative: bool) -> list[Tensor]:
        """Derivative of every drug image by a map, ``(x, y, z)`` each, at the flow that stands.

        A voxel answers to its own value, so one uniform change of the map tells the slope of all.
        """
        images = []
        for shift in (step, -step):
            old = getattr(self.setting.maps, name)
            maps = replace(self.setting.maps, **{name: old * (1 + shift) if relative else old + shift})
            forward = Forward(replace(self.setting, maps=maps), self.unknowns.scalars)
            pools = forward.drug(self.tensor(theta), flow, self.plasma, self.drug_times).U
            images.append([d.linear(pools[self.node_of(d)], maps) for d in self.drug])
        return [(up - down) / (2 * step) for up, down in zip(*images, strict=True)]

    @property
    def measured_pH(self) -> Tensor:
        """The pH map without the error that :meth:`linearised_at` gave it."""
        pH = self.setting.maps.pH
        return pH if self.errors is None else pH - torch.einsum("k,kxyz->xyz", self.errors.pH, self.pH_bumps)

    def _best_pH_error(self, fields: Fields) -> Tensor:
        if self.errors is None or fields.pools is None:
            return self.pH_bumps.new_zeros(len(self.pH_bumps))
        return self.errors.drug.best(self._drug_misfit(fields.pools))[: len(self.pH_bumps)]

    def _near(self, theta: Array, pH_error: Tensor, last: SystematicErrors) -> bool:
        moved = np.abs(theta - last.theta) / self.unknowns.prior_sd
        return bool(moved.max() < NEAR) and float((pH_error - last.pH).square().mean().sqrt()) < NEAR

    def _effect_of_grid(self, theta: Array, pressure: Tensor) -> tuple[Array, Tensor, Tensor]:
        """Change of the whitened curves and of every whitened drug image when cells are halved, and where.

        One standard deviation of the error of the grid, and of knowing tissue only as voxel means; the estimate is
        centred on the finer grid (:class:`SharedError`, ``at``). It changes
        slowly and costs the most: near where it was last worked out it is kept.
        """
        last = self.errors
        if last is not None and np.all(np.abs(theta - last.grid_theta) < GRID_NEAR * self.unknowns.prior_sd):
            return last.grid_theta, last.grid_on_contrast, last.grid_on_drug
        setting = self.setting.refined(2)
        finer = replace(self, setting=replace(setting, flow_refine=-(-self.setting.flow_refine // 2)))
        here = self.solve(theta, self.forward(pressure))
        start = pressure if finer.setting.flow_setting.grid == self.setting.flow_setting.grid else None
        there = finer.solve(theta, finer.forward(start)).on_parents(2)
        curves = (self.contrast.residual(there.contrast) - self.contrast.residual(here.contrast)).reshape(-1, 1)
        if here.pools is None or there.pools is None:
            return theta.copy(), curves, curves.new_zeros((0, 0))
        moved = there.pools - here.pools
        images = [d.whiten(d.linear(moved[self.node_of(d)], self.setting.maps)) for d in self.drug]
        return theta.copy(), curves, torch.block_diag(*(i[:, None] for i in images))

    def _effect_of_closure(self, fields: Fields) -> Tensor:
        """Change of every whitened drug image by each bump of the closure error, which no two images share."""
        assert fields.pools is not None
        images = [d.linear(fields.pools[self.node_of(d)], self.setting.maps) for d in self.drug]
        return torch.block_diag(*(d.whiten(i * self.closure_bumps).T for d, i in zip(self.drug, images, strict=True)))

    def _effect_of_pH(self, theta: Array, flow: Flow) -> Tensor:
        """Change of every whitened drug image by each bump of the pH error, ``(n, k)``."""
        slopes = self._slopes(theta, flow, "pH", 0.02, relative=False)
        return torch.cat([d.whiten(s * self.pH_bumps).T for d, s in zip(self.drug, slopes, strict=True)])

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

    def compare(self, fields: Fields) -> Prediction[Fields]:
        """Fields against the observations."""
        residual = self.residual(fields.contrast, fields.pools)
        if fields.d_contrast is None:
            return Prediction(fields, residual, None)
        return Prediction(fields, residual, self.jacobian(fields.d_contrast, fields.d_pools))

    def predict(self, theta: Array, forward: Forward, *, tangents: bool = False) -> Prediction[Fields]:
        """Solve every field by finite volumes and compare it with the observations."""
        return self.compare(self.solve(theta, forward, tangents=tangents))

    def tensor(self, theta: Array) -> Tensor:
        """A coordinate vector as a tensor beside the maps."""
        phi = self.setting.maps.phi
        return torch.as_tensor(theta, dtype=phi.dtype, device=phi.device)

    def blocks(self, fields: Fields) -> dict[str, tuple[float, int]]:
        """Misfit and count of independent numbers of every observation, by name.

        Curves and images are taken after the best systematic errors, which they share.
        """
        curves = self._eliminated("contrast", self.contrast.residual(fields.contrast).reshape(-1))
        found = {"contrast agent": (float(curves.square().sum()), self.contrast.count)}
        if fields.pools is not None:
            left = self._eliminated("drug", self._drug_misfit(fields.pools))[: sum(d.count for d in self.drug)]
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
        parts = [self._eliminated("contrast", self.contrast.residual(C).reshape(-1))]
        if pools is not None:
            parts.append(self._eliminated("drug", self._drug_misfit(pools)))
        return torch.cat(parts)

    def jacobian(self, dC: Tensor, dpools: Tensor | None) -> Tensor:
        """``(N, m)`` from field tangents ``(m, t, x, y, z)`` and ``(m, node, pool, x, y, z)``."""
        parts = [self._eliminated("contrast", self.contrast.whiten(dC).flatten(1))]
        if dpools is not None:
            images = [d.whiten(d.linear(dpools[:, self.node_of(d)], self.setting.maps)) for d in self.drug]
            parts.append(self._eliminated("drug", torch.cat(images, dim=1)))
        return torch.cat(parts, dim=1).T

    def _eliminated(self, block: Literal["contrast", "drug"], whitened: Tensor) -> Tensor:
        """A residual ``(n,)``, or its tangents ``(m, n)``, less what systematic errors explain of it."""
        if self.errors is None:
            return whitened
        error: SharedError = getattr(self.errors, block)
        return error.eliminate(whitened) if whitened.dim() == 1 else error.eliminate_tangents(whitened)

    def node_of(self, drug: DrugObservation) -> int:
        """Index of an image's time among the nodes of the drug march."""
        return int(np.argmin(np.abs(self.drug_times - drug.time_s)))

    def plasma_at(self, time_s: float) -> float:
        """Encapsulated drug in plasma, kg/m3."""
        return float(self.plasma[0](torch.tensor(time_s, dtype=torch.float64)))
