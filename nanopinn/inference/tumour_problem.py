"""The voxel problem: unknowns, tissue and observations, its solution and its misfit.

:class:`nanopinn.inference.inverse_problem.InverseProblem` adds what changes between iterations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.inference.observations import ContrastObservation, DrugObservation, nearest_nodes
from nanopinn.inference.problem import Prediction, Problem
from nanopinn.inference.systematic import ModelError, SystematicErrors
from nanopinn.parameters import ParameterDistribution, Values
from nanopinn.solvers.drug_course import DrugCourse
from nanopinn.solvers.drug_forward import solve_drug
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.grid import average_subcells
from nanopinn.solvers.integrate import drug_nodes
from nanopinn.solvers.runge_kutta import TR_BDF2, Scheme
from nanopinn.solvers.tissue_setting import TissueSetting

Array = NDArray[np.float64]

#: Constants on which the curves of the contrast agent depend.
CONTRAST_SYMBOLS = ("D_Gd",)
#: Relative residual of the linear solves of a fit: far below the noise of any image.
SOLVER_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Fields:
    """Every field at a point, with tangents if they were computed.

    Attributes:
        flow: pressure on the flow grid, exchange and face flows on the grid of the maps.
        contrast: contrast agent in tissue at the frames, ``(t, x, y, z)``, mM.
        pools: drug pools at the nodes of the time integration, ``(node, pool, x, y, z)``, kg/m3;
            None without drug images.
        d_contrast: tangents of ``contrast``, ``(m, t, x, y, z)``.
        d_pools: tangents of the pools at the drug images, ``(m, image, pool, x, y, z)``.
        balance: relative mass-balance error of the time integration of drug.
    """

    flow: FlowSolution
    contrast: Tensor
    pools: Tensor | None
    d_contrast: Tensor | None = None
    d_pools: Tensor | None = None
    balance: float = 0.0

    @property
    def flow_without_tangents(self) -> FlowSolution:
        """The flow without its tangents."""
        return replace(self.flow, dp=None)

    def on_parents(self, factor: int) -> Fields:
        """Contrast and pools averaged over ``factor^3`` cells; the flow keeps its grid."""
        pools = None if self.pools is None else average_subcells(self.pools, factor)
        return Fields(
            self.flow, average_subcells(self.contrast, factor), pools, balance=self.balance
        )


@dataclass(frozen=True)
class TumourProblem(Problem[ForwardModel, Fields]):
    """Unknowns, tissue and observations of the voxels of one tumour.

    Attributes:
        unknowns: in the order of the coordinates.
        setting: tissue maps with their grids.
        kinetics: measured Ktrans (1/s), ve and vp, each voxel fitted alone, ``(3, x, y, z)``.
        local_kinetics: the same of the tissue, ``(3, x, y, z)``: with them the modelled curves,
            which include flow and diffusion between voxels, give ``kinetics`` when each voxel is
            fitted alone. ``setting.maps`` are derived from them; PS is Ktrans less solvent drag.
        aif: arterial input.
        frame_times: of the frames, s, ``(t,)``.
        contrast: concentration of contrast agent in the tumour.
        drug: post-dose images.
        course: the treatment of the drug images; None without them.
        pH_error_basis: ``(k, x, y, z)``. The error of the pH map is their sum with weights of unit
            variance.
        closure_basis: ``(k, x, y, z)``, the same for the model error of each drug image, relative
            to the image.
        kinetic_covariance: of ln Ktrans and ln ve in every voxel, ``(2, 2, x, y, z)``.
        considered: distributions of the parameters that are not estimated but whose errors are
            eliminated, by symbol.
        errors: effect of systematic errors at the last linearisation; None before the first.
        model_error: prior of the error of the equations; None where they are exact.
    """

    setting: TissueSetting
    kinetics: Tensor
    local_kinetics: Tensor
    aif: PlasmaCurve
    frame_times: Array
    contrast: ContrastObservation
    drug: tuple[DrugObservation, ...]
    course: DrugCourse | None
    pH_error_basis: Tensor
    closure_basis: Tensor
    kinetic_covariance: Tensor
    considered: Mapping[str, ParameterDistribution] = field(default_factory=dict)
    errors: SystematicErrors | None = None
    model_error: ModelError | None = None

    @property
    def considered_on_contrast(self) -> dict[str, ParameterDistribution]:
        """The considered parameters on which the curves of the contrast agent depend."""
        return {s: d for s, d in self.considered.items() if s in CONTRAST_SYMBOLS}

    @property
    def considered_on_drug(self) -> dict[str, ParameterDistribution]:
        """The considered parameters on which the drug images depend."""
        if not self.drug:
            return {}
        return {s: d for s, d in self.considered.items() if s not in CONTRAST_SYMBOLS}

    @property
    def deviates(self) -> dict[str, float]:
        """Estimated deviates of the considered parameters that predictions include, by symbol."""
        if self.errors is None:
            return {}
        pairs = (
            (self.considered_on_contrast, self.errors.contrast_parameters),
            (self.considered_on_drug, self.errors.drug_parameters),
        )
        return {
            symbol: float(z)
            for considered, deviates in pairs
            if len(deviates)
            for symbol, z in zip(considered, deviates, strict=True)
        }

    @property
    def parameter_values(self) -> dict[str, float]:
        """Values of the considered parameters where predictions move them, by symbol."""
        return {
            symbol: float(self.considered[symbol].values_at_deviates(np.array([z]))[0])
            for symbol, z in self.deviates.items()
            if z != 0
        }

    @property
    def observations(self) -> int:
        """Number of independent observations."""
        return self.contrast.count + sum(d.count for d in self.drug)

    @property
    def drug_times(self) -> Array:
        """Nodes of the time integration of drug, from the dose to the last image, s."""
        return self.drug_nodes([d.time_s for d in self.drug])

    def drug_nodes(self, times_s: Sequence[float], **steps: float) -> Array:
        """Time nodes of the drug that hold given times and the ends of all segments.

        Args:
            times_s: after the first dose, s.
            steps: of :func:`nanopinn.solvers.integrate.drug_nodes`, in place of those of the
                treatment.
        """
        assert self.course is not None
        end, jumps = max(times_s), self.setting.release_jump_times_s
        marks = [s.start for s in self.course.segments(end, jumps)]
        return drug_nodes(
            times_s,
            **{"first_step_s": self.course.first_step_s, **steps},
            jumps_s=(*self.course.jumps(), *jumps),
            marks_s=marks,
        )

    def forward(self, pressure: Tensor | None = None, values: Values | None = None) -> ForwardModel:
        """A solver of the fields.

        Args:
            pressure: initial guess, on the flow grid, Pa.
            values: of parameters by symbol, in place of the table's.
        """
        return ForwardModel(
            self.setting,
            self.unknowns.scalars,
            pressure,
            values={**self.parameter_values, **(values or {})},
            course=self.course,
        )

    def solver(self, before: ForwardModel | None = None) -> ForwardModel:
        """As :meth:`forward`, from the last pressure of another solver."""
        return self.forward(None if before is None else before.last_pressure)

    @property
    def measured_pH(self) -> Tensor:
        """The pH map without its estimated error."""
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
        """Every field by finite volumes.

        Args:
            theta: coordinates, ``(m,)``.
            forward: the solver.
            tangents: with exact tangents.
            scheme: of the time integration.
            tol: relative residual of the linear solves; a hundredth of it for tangents of the flow.
        """
        th = self.tensor(theta)
        flow = forward.solve_flow(th, tangents=tangents, tangent_tolerance=1e-2 * tol)
        C, dC, _ = forward.solve_contrast(th, flow, self.aif, self.frame_times, scheme, tol=tol)
        if not self.drug:
            return Fields(flow, C, None, None if dC is None else dC.transpose(0, 1))
        run = solve_drug(
            forward,
            th,
            flow,
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
        """The residual of fields, with its Jacobian where they have tangents."""
        residual = self.residual(fields.contrast, fields.pools)
        if fields.d_contrast is None:
            return Prediction(fields, residual, None)
        return Prediction(fields, residual, self.jacobian(fields.d_contrast, fields.d_pools))

    def tensor(self, theta: Array) -> Tensor:
        """Coordinates as a tensor on the device of the maps."""
        phi = self.setting.maps.phi
        return torch.as_tensor(theta, dtype=phi.dtype, device=phi.device)

    def blocks(self, fields: Fields) -> dict[str, tuple[float, int]]:
        """chi2 and number of independent observations by kind of observation.

        The systematic errors have their conditional MAP estimates.
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
        """Whitened residual of every drug image before systematic errors are eliminated."""
        parts = []
        for d in self.drug:
            image = d.predict(
                pools[self.node_index(d)], self.setting.maps, self.plasma_at(d.time_s)
            )
            parts.append(d.whiten(image - d.measured))
        return torch.cat(parts)

    def residual(self, C: Tensor, pools: Tensor | None) -> Tensor:
        """Whitened residual of all observations, ``(N,)``.

        Args:
            C: contrast agent, ``(t, x, y, z)``, mM.
            pools: of drug, ``(node, pool, x, y, z)``, kg/m3.
        """
        parts = [self._eliminated("contrast", self.contrast.residual(C).reshape(-1))]
        if pools is not None:
            parts.append(self._eliminated("drug", self.drug_misfit(pools)))
        return torch.cat(parts)

    def jacobian(self, dC: Tensor, dpools: Tensor | None) -> Tensor:
        """Derivative of :meth:`residual`, ``(N, m)``.

        Args:
            dC: tangents of the contrast agent, ``(m, t, x, y, z)``.
            dpools: tangents of the pools at the images, ``(m, image, pool, x, y, z)``.
        """
        parts = [self._eliminated("contrast", self.contrast.whiten(dC).flatten(1))]
        if dpools is not None:
            images = [
                d.whiten(d.linear(dpools[:, i], self.setting.maps)) for i, d in enumerate(self.drug)
            ]
            parts.append(self._eliminated("drug", torch.cat(images, dim=1)))
        return torch.cat(parts, dim=1).T

    def _eliminated(self, block: Literal["contrast", "drug"], whitened: Tensor) -> Tensor:
        """A residual ``(n,)`` or its tangents ``(m, n)`` with systematic errors eliminated."""
        if self.errors is None:
            return whitened
        error = self.errors.contrast if block == "contrast" else self.errors.drug
        return (
            error.eliminate(whitened) if whitened.dim() == 1 else error.eliminate_tangents(whitened)
        )

    def node_index(self, drug: DrugObservation) -> int:
        """Index of an image's time among :attr:`drug_times`."""
        return nearest_nodes(self.drug_times, [drug.time_s])[0]

    def plasma_at(self, time_s: float, values: Values | None = None) -> float:
        """Encapsulated drug in plasma at a time, kg/m3.

        Args:
            time_s: after the first dose, s.
            values: of parameters by symbol, in place of those of the problem.
        """
        assert self.course is not None
        return self.course.encapsulated_at(time_s, {**self.parameter_values, **(values or {})})

    def scalars(self, theta: Array) -> Mapping[str, float]:
        """Scalars of the model, SI."""
        return {
            k: float(v)
            for k, v in self.unknowns.scalars(self.tensor(theta)).items()
            if v.dim() == 0
        }


#: A voxel problem of either class, for functions that return it changed.
AnyTumourProblem = TypeVar("AnyTumourProblem", bound=TumourProblem)
