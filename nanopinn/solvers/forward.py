"""The forward model: fields of a tumour as a function of its scalars, with exact tangents.

The rim that drains a tumour is often thinner than a voxel. Pressure is therefore solved on a grid
that is refined everywhere or in the rim alone (:mod:`nanopinn.solvers.grid`). Face flows
are summed and filtration is averaged back to the grid of the maps, which keeps the fluid balance of
every cell exact. Pools are solved on the grid of the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanopinn.imaging.dce.convolution import convolve_exponential
from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.parameters import Number, Values
from nanopinn.physics.drug_pools import carrier_pool_coefficients
from nanopinn.physics.flow import FlowCoefficients
from nanopinn.physics.pools import PoolCoefficients
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.derivatives import directional_derivatives
from nanopinn.solvers.drug_course import DrugCourse, DrugSegment
from nanopinn.solvers.fluxes import darcy_flows
from nanopinn.solvers.grid import Grid, average_subcells, sum_subface_flows
from nanopinn.solvers.integrate import frame_nodes, stage_times, time_key
from nanopinn.solvers.linear_pools import Trajectory, integrate_fixed_steps
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.pressure import pressure_tangents, solve_pressure
from nanopinn.solvers.runge_kutta import TR_BDF2, Scheme
from nanopinn.solvers.tissue_setting import TissueSetting

#: Scalars of the model (SI) as a function of the parameter vector.
ScalarsFunction = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class FlowSolution:
    """Solved flow: pressure on the flow grid, exchange and face flows on the grid of the maps.

    Attributes:
        p: Pa, on the refined grid.
        dp: tangents of p, ``(m, ...)``, or None.
        J_v, J_L: 1/s, ``(x, y, z)``.
        flows: m3/s through the faces of the map grid, one tensor per axis.
        iterations: of the pressure solve.
    """

    p: Tensor
    dp: Tensor | None
    J_v: Tensor
    J_L: Tensor
    flows: tuple[Tensor, Tensor, Tensor]
    iterations: int

    def velocity(self, grid: Grid) -> Tensor:
        """Fluid velocity at cell centres, m/s, ``(3, x, y, z)``."""
        parts = []
        for axis, f in enumerate(self.flows):
            n = f.shape[axis] - 1
            parts.append((f.narrow(axis, 0, n) + f.narrow(axis, 1, n)) / 2 / grid.face_area(axis))
        return torch.stack(parts)


class LocalResponse:
    """Exact response of each cell to the plasma curve without transport between cells (Tofts).

    Args:
        maps: of the tissue.
        aif: the plasma curve.
        times: at which the response is needed, s.
    """

    def __init__(self, maps: TissueMaps, aif: PlasmaCurve, times: list[float]) -> None:
        rate = (maps.PS / maps.phi).reshape(-1)
        curve_t, curve_c = (
            torch.as_tensor(v, dtype=rate.dtype, device=rate.device)
            for v in (aif.times_s, aif.plasma_mM)
        )
        at = torch.tensor(times, dtype=rate.dtype, device=rate.device)
        response = convolve_exponential(curve_t, curve_c, rate, at) * rate[:, None]
        self._index = {time_key(t): i for i, t in enumerate(times)}
        self._values = response.T.reshape(len(times), *maps.phi.shape)

    def at_time(self, t: float) -> Tensor:
        """The response at one of the times, ``(x, y, z)``, mM."""
        return self._values[self._index[time_key(t)]]


class ForwardModel:
    """Fields of a tumour as a function of its scalars, with exact tangents.

    Args:
        setting: the tissue.
        scalars_from_theta: model scalars as a function of the parameter vector; those it leaves out
            keep the value of the parameter table.
        pressure: initial guess of the pressure, on the flow grid, Pa.
        factors: on properties of the tumour; see :class:`TumourModel`.
        values: of parameters, in place of those of the table.
        course: the treatment of which drug is solved; None without drug.
    """

    def __init__(
        self,
        setting: TissueSetting,
        scalars_from_theta: ScalarsFunction,
        pressure: Tensor | None = None,
        factors: Mapping[str, Number] | None = None,
        values: Values | None = None,
        course: DrugCourse | None = None,
    ) -> None:
        self.setting = setting
        self.scalars_from_theta = scalars_from_theta
        self.factors, self.course = factors, course
        self.values: Values = {**(course.values if course else {}), **(values or {})}
        self.last_pressure = pressure
        self._fine = setting.flow_setting
        self._local_response_cache: tuple[PlasmaCurve, tuple[float, ...], LocalResponse] | None = (
            None
        )

    def model(self, theta: Tensor) -> TumourModel:
        """The model on the grid of the maps."""
        return TumourModel.from_maps(
            self.setting.maps, self.scalars_from_theta(theta), self.factors, self.values
        )

    def flow_coefficients(self, theta: Tensor) -> FlowCoefficients:
        """Coefficients of the flow on its refined grid."""
        return TumourModel.from_maps(
            self._fine.maps, self.scalars_from_theta(theta), self.factors, self.values
        ).flow_coefficients()

    def solve_flow(
        self, theta: Tensor, *, tangents: bool = False, tangent_tolerance: float = 1e-12
    ) -> FlowSolution:
        """Solve the pressure; with tangents for every parameter on request, to a relative residual
        ``tangent_tolerance``.
        """
        coefficients = self.flow_coefficients(theta)
        solution = solve_pressure(coefficients, self._fine.grid, self.last_pressure)
        self.last_pressure = solution.x.detach()
        dp = (
            pressure_tangents(
                self.flow_coefficients, theta, solution.x, self._fine.grid, tangent_tolerance
            )
            if tangents
            else None
        )
        return self.flow_from_pressure(theta, solution.x, dp, solution.iterations)

    def flow_from_pressure(
        self, theta: Tensor, p: Tensor, dp: Tensor | None = None, iterations: int = 0
    ) -> FlowSolution:
        """Exchange and face flows at a given pressure."""
        J_v, J_L, *flows = self._exchange(theta, p)
        return FlowSolution(p, dp, J_v, J_L, (flows[0], flows[1], flows[2]), iterations)

    def _exchange(self, theta: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        r = self.setting.flow_refine
        model = TumourModel.from_maps(
            self._fine.maps, self.scalars_from_theta(theta), self.factors, self.values
        )
        J_v, J_L = (average_subcells(J, r) for J in model.filtration_and_drainage(p))
        fine = darcy_flows(model.flow_coefficients(), p, self._fine.grid)
        return J_v, J_L, *(sum_subface_flows(f, r, axis) for axis, f in enumerate(fine))

    def assemble_pools(
        self, kind: str, theta: Tensor, p: Tensor, segment: DrugSegment | None = None
    ) -> tuple[PoolCoefficients, PoolOperator]:
        """Pools and their operator at a pressure.

        Args:
            kind: "contrast" or "drug".
            theta: ``(m,)``.
            p: pressure on the flow grid, Pa.
            segment: of the treatment, for drug; the first one if None.
        """
        J_v, J_L, *flows = self._exchange(theta, p)
        model = self.model(theta)
        pools = (
            model.contrast_agent_pools(J_v, J_L)
            if kind == "contrast"
            else self._drug_coefficients(model, J_v, J_L, segment)
        )
        return pools, PoolOperator.from_pools(
            pools, tuple(flows), self.setting.grid, cut=self.setting.maps.cut
        )

    def _drug_coefficients(
        self, model: TumourModel, J_v: Tensor, J_L: Tensor, segment: DrugSegment | None
    ) -> PoolCoefficients:
        if self.course is None:
            raise ValueError("drug is solved of a treatment: give the model its course")
        course = self.course
        temperature = None if segment is None else segment.temperature
        number = 0 if segment is None else segment.release_segment
        return carrier_pool_coefficients(
            model, J_v, J_L, course.options, course.carrier, temperature, self.values, number
        )

    def in_segment(self, segment: DrugSegment) -> ForwardModel:
        """The model with the factors that hold in a segment of the treatment."""
        if not segment.factors:
            return self
        return ForwardModel(
            self.setting,
            self.scalars_from_theta,
            self.last_pressure,
            {**(self.factors or {}), **segment.factors},
            self.values,
            self.course,
        )

    def linearise_pools(
        self,
        kind: str,
        theta: Tensor,
        flow: FlowSolution,
        segment: DrugSegment | None = None,
    ) -> tuple[PoolCoefficients, PoolOperator, dict[int, PoolOperator]]:
        """Pools, their operator and its tangents, by index of the parameters that change it.

        Args:
            kind: "contrast" or "drug".
            theta: ``(m,)``.
            flow: at theta; without tangents of its own there are none of the operator.
            segment: of the treatment, for drug; the first one if None.
        """
        pools, operator = self.assemble_pools(kind, theta, flow.p, segment)
        pools.validate()
        if flow.dp is None:
            return pools, operator, {}
        identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
        scale = [float(t.abs().max()) for t in operator.tensors()]

        def tensors(th: Tensor, p: Tensor) -> tuple[Tensor, ...]:
            return self.assemble_pools(kind, th, p, segment)[1].tensors()

        every = directional_derivatives(tensors, (theta, flow.p), (identity, flow.dp))
        tangents = {}
        for j in range(len(theta)):
            moved = tuple(t[j] for t in every)
            if any(float(t.abs().max()) > 1e-9 * s for t, s in zip(moved, scale, strict=True)):
                tangents[j] = operator.with_tensors(moved)
        return pools, operator, tangents

    def solve_contrast(
        self,
        theta: Tensor,
        flow: FlowSolution,
        aif: PlasmaCurve,
        frame_times: np.ndarray,
        scheme: Scheme = TR_BDF2,
        substeps: int = 1,
        tol: float = 1e-10,
    ) -> tuple[Tensor, Tensor | None, Trajectory]:
        """Tissue concentration of the contrast agent at the frames, mM.

        The bolus is integrated exactly: with ``U = (a/PS) U0 + delta`` and U0 the exact local
        (Tofts) response to the plasma curve, the time integration is of the smooth remainder delta.

        Returns:
            ``phi U + v_p C_p`` as ``(t, x, y, z)``, its tangents ``(t, m, x, y, z)`` or None, and
            the trajectory of the remainder.
        """
        pools, operator, tangents = self.linearise_pools("contrast", theta, flow)
        maps = self.setting.maps
        nodes, at = frame_nodes(frame_times, float(aif.times_s[0]), substeps)
        local = self._get_local_response(aif, stage_times(nodes, scheme))
        one = maps.phi.new_ones(1)
        share = operator.plasma_source(one) / maps.PS
        dAs = list(tangents.values())
        together = PoolOperator.stack(dAs) if dAs else None
        d_share = None if together is None else together.plasma_source(one) / maps.PS

        def source(t: float) -> tuple[Tensor, Tensor | None]:
            U0 = local.at_time(t)[None]
            alone = share * U0
            s = maps.PS * alone - operator(alone)
            if together is None or d_share is None:
                return s, None
            d_alone = d_share * U0
            return s, (maps.PS * d_alone).sub_(operator(d_alone)).sub_(together(alone))

        run = integrate_fixed_steps(
            operator, pools.capacity, source, nodes, scheme=scheme, tangent_operators=dAs, tol=tol
        )
        U0 = torch.stack([local.at_time(nodes[i]) for i in at])
        plasma = torch.as_tensor(
            np.interp(frame_times, aif.times_s, aif.plasma_mM, left=0.0), dtype=maps.phi.dtype
        )
        C = (
            maps.phi * (run.U[at, 0] + share[0] * U0)
            + maps.v_p * plasma.to(maps.phi.device)[:, None, None, None]
        )
        if flow.dp is None:
            return C, None, run
        dC = C.new_zeros((len(frame_times), len(theta), *C.shape[1:]))
        if run.tangents is not None and d_share is not None:
            dC[:, list(tangents)] = maps.phi * (
                run.tangents[at, :, 0] + d_share[:, 0] * U0[:, None]
            )
        return C, dC, run

    def _get_local_response(self, aif: PlasmaCurve, times: list[float]) -> LocalResponse:
        """The response of each cell without transport, cached because scalars do not change it."""
        if (
            self._local_response_cache is None
            or self._local_response_cache[0] is not aif
            or self._local_response_cache[1] != tuple(times)
        ):
            self._local_response_cache = (
                aif,
                tuple(times),
                LocalResponse(self.setting.maps, aif, times),
            )
        return self._local_response_cache[2]
