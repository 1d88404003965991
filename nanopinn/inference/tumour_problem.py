"""The voxel problem: unknowns, tissue and observations, its solution and its misfit.

:class:`nanopinn.inference.inverse_problem.InverseProblem` adds what changes between iterations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.dce.plasma_curve import PlasmaCurve
from nanopinn.inference.observations import ContrastObservation, DrugObservation, nearest_nodes
from nanopinn.inference.problem import Prediction, Problem
from nanopinn.inference.systematic import ModelError, SystematicErrors
from nanopinn.physics.plasma import SumOfExponentials
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.runge_kutta import TR_BDF2, Scheme
from nanopinn.solvers.tissue_setting import Setting

Array = NDArray[np.float64]

#: Relative residual of the linear solves of a fit: far below the noise of any image.
SOLVER_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Fields:
    """Every field at a parameter vector, whoever found them, with tangents where they were asked
    for.

    Attributes:
        flow: pressure on the flow grid, exchange and face flows on the grid of the maps.
        contrast: ``(t, x, y, z)`` mM of tissue at the frames; ``d_contrast`` ``(m, t, x, y, z)``.
        pools: ``(node, pool, x, y, z)`` kg/m3 at the nodes of the drug march, or None without drug
            images; ``d_pools`` at the drug images alone, ``(m, image, pool, x, y, z)``.
        balance: relative mass imbalance of the drug march.
    """

    flow: FlowSolution
    contrast: Tensor
    pools: Tensor | None
    d_contrast: Tensor | None = None
    d_pools: Tensor | None = None
    balance: float = 0.0

    @property
    def flow_without_tangents(self) -> FlowSolution:
        """The flow alone, for a forward run."""
        return replace(self.flow, dp=None)

    def on_parents(self, factor: int) -> Fields:
        """Contrast and pools averaged over ``factor^3`` cells; the flow stays on its grid."""
        pools = None if self.pools is None else average_subcells(self.pools, factor)
        return Fields(
            self.flow, average_subcells(self.contrast, factor), pools, balance=self.balance
        )


@dataclass(frozen=True)
class TumourProblem(Problem[ForwardModel, Fields]):
    """The voxel problem: everything an engine needs; immutable, so that engines cannot disturb each
    other.

    Attributes:
        kinetics: measured Ktrans (1/s), ve and vp, ``(3, x, y, z)``: what each voxel's curve says
            by itself.
        local: the same three of the tissue, ``(3, x, y, z)``, such that the model's curves, with
            all that flows and diffuses between voxels, say ``kinetics`` when each is fitted by
            itself. ``setting.maps`` are made of them; PS is Ktrans less the solvent drag.
        pH_error_basis: ``(k, x, y, z)``; the error of the pH map is their sum with weights of unit
            variance.
        closure_basis: ``(k, x, y, z)``, the same for what the model leaves out of each drug image,
            relative to it.
        spread: covariance of ln Ktrans and ln ve of every voxel, ``(2, 2, x, y, z)``.
        model_error: how much the equations may err; None where they are exact.
        errors: what relinearisation found, None before.
    """

    setting: Setting
    kinetics: Tensor
    local_kinetics: Tensor
    aif: PlasmaCurve
    frame_times: Array
    contrast: ContrastObservation
    drug: tuple[DrugObservation, ...]
    plasma: tuple[SumOfExponentials, SumOfExponentials]
    pH_error_basis: Tensor
    closure_basis: Tensor
    kinetic_covariance: Tensor
    errors: SystematicErrors | None = None
    model_error: ModelError | None = None

    @property
    def observations(self) -> int:
        """Independent numbers measured."""
        return self.contrast.count + sum(d.count for d in self.drug)

    @property
    def drug_times(self) -> Array:
        """Nodes of the drug march, from the dose to the last image."""
        return self.setting.drug_nodes([d.time_s for d in self.drug])

    def forward(self, pressure: Tensor | None = None) -> ForwardModel:
        """A solver of this problem's fields, which may start from a pressure nearby."""
        return ForwardModel(self.setting, self.unknowns.scalars, pressure)

    def solver(self, before: ForwardModel | None = None) -> ForwardModel:
        """As :meth:`forward`, from the pressure where another one ended."""
        return self.forward(None if before is None else before.last_pressure)

    @property
    def measured_pH(self) -> Tensor:
        """The pH map without the error that relinearisation gave it."""
        pH = self.setting.maps.pH
        return (
            pH
            if self.errors is None
            else pH - torch.einsum("k,kxyz->xyz", self.errors.pH, self.pH_error_basis)
        )

    def solve(
        self,
        theta: Array,
        forward: ForwardModel,
        *,
        tangents: bool = False,
        scheme: Scheme = TR_BDF2,
        tol: float = SOLVER_TOLERANCE,
    ) -> Fields:
        """Every field by finite volumes, each linear solve to a relative residual ``tol``, those of
        the flow's tangents to a hundredth.
        """
        th = self.tensor(theta)
        flow = forward.solve_flow(th, tangents=tangents, tangent_tolerance=1e-2 * tol)
        C, dC, _ = forward.solve_contrast(th, flow, self.aif, self.frame_times, scheme, tol=tol)
        if not self.drug:
            return Fields(flow, C, None, None if dC is None else dC.transpose(0, 1))
        run = forward.solve_drug(
            th,
            flow,
            self.plasma,
            self.drug_times,
            scheme,
            tol,
            [self.node_index(d) for d in self.drug],
        )
        if dC is None or run.tangents is None:
            return Fields(flow, C, run.U, balance=run.balance.error)
        return Fields(
            flow, C, run.U, dC.transpose(0, 1), run.tangents.transpose(0, 1), run.balance.error
        )

    def compare(self, fields: Fields) -> Prediction[Fields]:
        """Fields against the observations."""
        residual = self.residual(fields.contrast, fields.pools)
        if fields.d_contrast is None:
            return Prediction(fields, residual, None)
        return Prediction(fields, residual, self.jacobian(fields.d_contrast, fields.d_pools))

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
            left = self._eliminated("drug", self.drug_misfit(fields.pools))[
                : sum(d.count for d in self.drug)
            ]
            for d, part in zip(self.drug, left.split([d.count for d in self.drug]), strict=True):
                found[d.name] = (float(part.square().sum()), d.count)
        return found

    def drug_misfit(self, pools: Tensor) -> Tensor:
        """Whitened misfit of every drug image, before systematic errors are eliminated."""
        parts = []
        for d in self.drug:
            image = d.predict(
                pools[self.node_index(d)], self.setting.maps, self.plasma_at(d.time_s)
            )
            parts.append(d.whiten(image - d.measured))
        return torch.cat(parts)

    def residual(self, C: Tensor, pools: Tensor | None) -> Tensor:
        """Whitened misfit of fields: ``C`` ``(t, x, y, z)`` mM, pools ``(node, pool, x, y, z)``."""
        parts = [self._eliminated("contrast", self.contrast.residual(C).reshape(-1))]
        if pools is not None:
            parts.append(self._eliminated("drug", self.drug_misfit(pools)))
        return torch.cat(parts)

    def jacobian(self, dC: Tensor, dpools: Tensor | None) -> Tensor:
        """``(N, m)`` from field tangents ``(m, t, x, y, z)`` and ``(m, image, pool, x, y, z)``."""
        parts = [self._eliminated("contrast", self.contrast.whiten(dC).flatten(1))]
        if dpools is not None:
            images = [
                d.whiten(d.linear(dpools[:, i], self.setting.maps)) for i, d in enumerate(self.drug)
            ]
            parts.append(self._eliminated("drug", torch.cat(images, dim=1)))
        return torch.cat(parts, dim=1).T

    def _eliminated(self, block: Literal["contrast", "drug"], whitened: Tensor) -> Tensor:
        """A residual ``(n,)``, or its tangents ``(m, n)``, less what systematic errors explain of
        it.
        """
        if self.errors is None:
            return whitened
        error = self.errors.contrast if block == "contrast" else self.errors.drug
        return (
            error.eliminate(whitened) if whitened.dim() == 1 else error.eliminate_tangents(whitened)
        )

    def node_index(self, drug: DrugObservation) -> int:
        """Index of an image's time among the nodes of the drug march."""
        return nearest_nodes(self.drug_times, [drug.time_s])[0]

    def plasma_at(self, time_s: float) -> float:
        """Encapsulated drug in plasma, kg/m3."""
        return float(self.plasma[0](torch.tensor(time_s, dtype=torch.float64)))

    def scalars(self, theta: Array) -> Mapping[str, float]:
        """Model scalars in SI as floats."""
        return {
            k: float(v)
            for k, v in self.unknowns.scalars(self.tensor(theta)).items()
            if v.dim() == 0
        }


#: A voxel problem of either class, for functions that return it changed.
AnyTumourProblem = TypeVar("AnyTumourProblem", bound=TumourProblem)
