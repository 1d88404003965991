"""Gradient of a scalar of contrast agent and drug with respect to all that coefficients depend on.

One integration forward and one adjoint integration give the gradient for any number of unknowns,
such as the weights of a network. The steps are those of
:class:`nanopinn.solvers.forward.ForwardModel`, so that the gradient is that of the discrete model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.physics.plasma import ConcentrationFunction
from nanopinn.solvers.derivatives import GradientAccumulator, solve_adjoint
from nanopinn.solvers.drug_course import DrugSegment
from nanopinn.solvers.forward import FlowSolution, ForwardModel, LocalResponse
from nanopinn.solvers.integrate import frame_nodes, stage_times
from nanopinn.solvers.nonlinear_pools import EvolutionResult, integrate_adaptive
from nanopinn.solvers.operator import Interval, PoolOperator
from nanopinn.solvers.pressure import pressure_gradient
from nanopinn.solvers.runge_kutta import TR_BDF2


class DrugAdjoint:
    """Integration of the drug with all that its adjoint needs.

    Attributes:
        U: ``(node, pool, x, y, z)``.
        segments: of the treatment, without effects of heat or radiation.
    """

    def __init__(
        self,
        forward: ForwardModel,
        theta: Tensor,
        flow: FlowSolution,
        times: np.ndarray,
    ) -> None:
        assert forward.course is not None
        curves = forward.course.curves(forward.values)
        jumps = forward.setting.release_jump_times_s
        self.segments = forward.course.segments(float(times[-1]), jumps)
        intervals = []
        for segment in self.segments:
            pools, operator, _ = forward.linearise_pools(
                "drug", theta, replace(flow, dp=None), segment
            )
            smooth = [c.smooth_piece_from(segment.start) for c in curves]

            def plasma(t: float, smooth: list[ConcentrationFunction] = smooth) -> Tensor:
                return torch.stack([c(theta.new_tensor(t)) for c in smooth])

            intervals.append(Interval(segment.start, segment.end, operator, pools.capacity, plasma))
        self.evolution = _integrate_given_steps(intervals, [float(t) for t in times])
        self.U = self.evolution.U

    def operator_gradients(self, grad_U: Tensor) -> list[PoolOperator]:
        """Gradient with respect to each coefficient, in every time segment.

        Args:
            grad_U: gradient of a scalar with respect to U.
        """
        return [g.operator for g in solve_adjoint(self.evolution, grad_U)[0]]


class ContrastAdjoint:
    """Integration of the contrast agent with all that its adjoint needs.

    The bolus is integrated exactly, as in :meth:`ForwardModel.solve_contrast`.

    Attributes:
        C: ``(t, x, y, z)``, mM of tissue at the frames.
    """

    def __init__(
        self,
        forward: ForwardModel,
        theta: Tensor,
        flow: FlowSolution,
        aif: PlasmaCurve,
        frame_times: np.ndarray,
    ) -> None:
        pools, self.operator, _ = forward.linearise_pools("contrast", theta, replace(flow, dp=None))
        self.maps = forward.setting.maps
        nodes, self.at = frame_nodes(frame_times, float(aif.times_s[0]), 1)
        self.local = LocalResponse(self.maps, aif, stage_times(nodes, TR_BDF2))
        self.relative_inflow = self.operator.inflow[0, 0][None] / self.maps.PS

        def smooth(t: float) -> Tensor:
            U0 = self.relative_inflow * self.local.at_time(t)
            return self.maps.PS * U0 - self.operator(U0)

        one = replace(self.operator, inflow={(0, 0): torch.ones_like(self.maps.PS)})
        self.evolution = _integrate_given_steps(
            [Interval(nodes[0], nodes[-1], one, pools.capacity, smooth)], nodes
        )
        self.U0 = torch.stack([self.local.at_time(nodes[i]) for i in self.at])
        plasma = np.interp(frame_times, aif.times_s, aif.plasma_mM, left=0.0)
        of_plasma = (
            self.maps.v_p
            * torch.as_tensor(plasma, dtype=self.U0.dtype, device=self.U0.device)[
                :, None, None, None
            ]
        )
        self.C = (
            self.maps.phi * (self.evolution.U[self.at, 0] + self.relative_inflow[0] * self.U0)
            + of_plasma
        )

    def operator_gradients(self, grad_C: Tensor) -> list[PoolOperator]:
        """Gradient with respect to each coefficient.

        Args:
            grad_C: gradient of a scalar with respect to C.
        """
        grad_nodes = self.evolution.U.new_zeros(self.evolution.U.shape)
        grad_nodes[self.at, 0] = self.maps.phi * grad_C
        found = solve_adjoint(self.evolution, grad_nodes, lambda _: _BolusGradient(self))[0][
            0
        ].operator
        direct = (self.maps.phi * grad_C * self.U0).sum(dim=0) / self.maps.PS
        return [replace(found, inflow={(0, 0): found.inflow[0, 0] + direct})]


class _BolusGradient(GradientAccumulator):
    """Gradients of ``y . (inflow U0 - A (U + U0 inflow/PS))``."""

    def __init__(self, run: ContrastAdjoint) -> None:
        super().__init__(run.evolution.intervals[0])
        self.run = run

    def add(self, y: Tensor, U: Tensor, t: float) -> None:
        A, U0 = self.run.operator, self.run.local.at_time(t)
        *of_A, of_inflow = A.gradient(y, U + self.run.relative_inflow * U0, U0[None])
        for total, part in zip(
            self.total,
            (*of_A, of_inflow - (A.transposed(y) * U0 / self.run.maps.PS)[0]),
            strict=True,
        ):
            total += part


def _integrate_given_steps(
    intervals: Sequence[Interval], nodes: Sequence[float]
) -> EvolutionResult:
    nothing = torch.zeros_like(intervals[0].capacity)
    return integrate_adaptive(intervals, nothing, nodes, keep_stages=True, nodes=nodes)


def gradient_by_adjoint(
    forward: ForwardModel,
    theta: Tensor,
    flow: FlowSolution,
    operator_gradients: Mapping[str, Sequence[PoolOperator]],
    leaves: Sequence[Tensor] = (),
    drug_segments: Sequence[DrugSegment] = (),
) -> tuple[Tensor, list[Tensor]]:
    """Gradient with respect to the parameters, and to tensors on which maps of the tissue depend.

    Args:
        forward: whose maps depend on ``leaves``.
        theta: ``(m,)``.
        flow: at theta.
        operator_gradients: gradients with respect to the coefficients of "contrast" and "drug", in
            every time segment.
        leaves: tensors that require gradients.
        drug_segments: of :class:`DrugAdjoint`.

    Returns:
        ``(m,)``, and one tensor for each leaf.
    """
    at, p = theta.detach().requires_grad_(), flow.p.detach().requires_grad_()
    wanted = (at, p, *leaves)
    total = p.new_zeros(())
    for kind, segments in operator_gradients.items():
        for k, grad_operator in enumerate(segments):
            segment = drug_segments[k] if kind == "drug" else None
            for t, g in zip(
                forward.assemble_pools(kind, at, p, segment)[1].tensors(),
                grad_operator.tensors(),
                strict=True,
            ):
                total = total + (t * g).sum()
    grad_theta, grad_p, *of_leaves = torch.autograd.grad(
        total, wanted, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    of_theta, through_p = pressure_gradient(
        forward.flow_coefficients,
        theta,
        flow.p,
        grad_p,
        forward.setting.flow_setting.grid,
        leaves,
    )
    return grad_theta + of_theta, [a + b for a, b in zip(of_leaves, through_p, strict=True)]
