"""Drug in tissue over the segments of a treatment, with exact tangents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nanopinn.parameters import Number
from nanopinn.physics.plasma import PlasmaInput
from nanopinn.physics.pools import PoolCoefficients, SaturableTransfer
from nanopinn.solvers.drug_course import DrugSegment
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.integrate import split_at_jumps
from nanopinn.solvers.linear_pools import (
    SaturableTerms,
    SourceTerm,
    Trajectory,
    concatenate_trajectories,
    integrate_fixed_steps,
)
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.runge_kutta import TR_BDF2, Scheme
from nanopinn.solvers.time_partition import FLOW_FACTORS

#: Step of a parameter for the derivative of saturable transfers at fixed pools.
TRANSFER_STEP = 1e-4


@dataclass(frozen=True)
class _LinearisedSegment:
    """Pools of a segment with the tangents of their operator."""

    segment: DrugSegment
    pools: PoolCoefficients
    operator: PoolOperator
    tangents: dict[int, PoolOperator]
    moved_transfers: dict[int, tuple[SaturableTransfer, ...]]


def solve_drug(
    forward: ForwardModel,
    theta: Tensor,
    flow: FlowSolution,
    times: np.ndarray,
    scheme: Scheme = TR_BDF2,
    tol: float = 1e-10,
    tangents_at: Collection[int] | None = None,
) -> Trajectory:
    """Every pool of the treatment's drug, kg/m3.

    Args:
        forward: model with its course.
        theta: ``(m,)``.
        flow: at theta before the treatment; without tangents of its own there are none of the drug.
        times: time nodes after the first dose, s; they hold the ends of all segments.
        scheme: the Runge-Kutta method.
        tol: relative residual of the linear solves.
        tangents_at: indices of the times at which tangents are returned, in this order; None for
            all.

    Raises:
        ValueError: a segment of the treatment ends at a time that is not among them.
    """
    parts = _linearise_segments(forward, theta, flow, times, tol)
    assert forward.course is not None
    curves = forward.course.curves(forward.values)
    moving = sorted({j for p in parts for j in (*p.tangents, *p.moved_transfers)})
    wanted = list(range(len(times)) if tangents_at is None else tangents_at)
    every = (
        None
        if flow.dp is None
        else flow.dp.new_zeros((len(wanted), len(theta), *parts[0].pools.capacity.shape))
    )
    runs: list[Trajectory] = []
    first = 0
    nodes_of_parts = split_at_jumps(times, [p.segment.start for p in parts[1:]])
    for nodes, part in zip(nodes_of_parts, parts, strict=True):
        operator = part.operator
        none = [0 * t for t in operator.tensors()] if moving else []
        dAs = [part.tangents.get(j) or operator.with_tensors(none) for j in moving]
        last = first + len(nodes) - 1
        here = sorted({i for i in wanted if first < i <= last or i == 0 == first})
        smooth = [c.smooth_piece_from(part.segment.start) for c in curves]
        run = integrate_fixed_steps(
            operator,
            part.pools.capacity,
            _plasma_source([smooth], operator, dAs),
            nodes,
            scheme=scheme,
            tangent_operators=dAs,
            tol=tol,
            initial_state=runs[-1].final_state if runs else None,
            tangents_at=[i - first for i in here],
            saturable=SaturableTerms(
                part.pools.transfers,
                tuple(part.moved_transfers.get(j) for j in moving),
                TRANSFER_STEP,
            ),
        )
        if every is not None and run.tangents is not None:
            tangents_by_node = dict(zip(here, run.tangents, strict=False))
            for into, i in zip(every, wanted, strict=True):
                if i in tangents_by_node:
                    into[moving] = tangents_by_node[i].to(into.dtype)
        runs.append(run)
        first = last
    return replace(concatenate_trajectories(runs), tangents=every)


def _linearise_segments(
    forward: ForwardModel, theta: Tensor, flow: FlowSolution, times: np.ndarray, tol: float
) -> list[_LinearisedSegment]:
    """Pools of every segment; segments with the same coefficients share them."""
    found: list[_LinearisedSegment] = []
    for segment, model, local in _flows_of_segments(forward, theta, flow, times, tol):
        if found and segment.has_coefficients_of(found[-1].segment):
            found.append(replace(found[-1], segment=segment))
            continue
        pools, operator, tangents = model.linearise_pools("drug", theta, local, segment)
        moved = {} if flow.dp is None else _moved_transfers(model, theta, local, segment, pools)
        found.append(_LinearisedSegment(segment, pools, operator, tangents, moved))
    return found


def _flows_of_segments(
    forward: ForwardModel, theta: Tensor, flow: FlowSolution, times: np.ndarray, tol: float
) -> list[tuple[DrugSegment, ForwardModel, FlowSolution]]:
    """Every segment with its model and its flow, which is solved again where factors change it."""
    assert forward.course is not None
    jumps = forward.setting.release_jump_times_s
    solved: list[tuple[Mapping[str, Number], FlowSolution]] = [({}, flow)]
    found = []
    treatment = forward.course.treatment.with_values(forward.values)
    for segment in forward.course.segments(float(times[-1]), jumps):
        if segment.factors:
            segment = replace(segment, factors=treatment.factors(segment.flow_time_s))
        model = forward.in_segment(segment)
        acting = {k: f for k, f in segment.factors.items() if k in FLOW_FACTORS and f != 1.0}
        known = next((s for factors, s in solved if factors == acting), None)
        if known is None:
            known = model.solve_flow(
                theta, tangents=flow.dp is not None, tangent_tolerance=1e-2 * tol
            )
            solved.append((acting, known))
        found.append((segment, model, known))
    return found


def _moved_transfers(
    model: ForwardModel,
    theta: Tensor,
    flow: FlowSolution,
    segment: DrugSegment,
    pools: PoolCoefficients,
) -> dict[int, tuple[SaturableTransfer, ...]]:
    """Saturable transfers after a small step of every parameter that changes them."""
    if not pools.transfers:
        return {}
    found = {}
    for j in range(len(theta)):
        step = torch.zeros_like(theta)
        step[j] = TRANSFER_STEP
        moved = model.assemble_pools("drug", theta + step, flow.p, segment)[0].transfers
        pairs = zip(moved, pools.transfers, strict=True)
        if any(not _equal_transfers(a, b) for a, b in pairs):
            found[j] = moved
    return found


def _transfer_tensors(k: SaturableTransfer, like: Tensor) -> list[Tensor]:
    return [torch.as_tensor(v).to(like) for v in (k.uptake, k.efflux, k.K_out, k.K_in)]


def _equal_transfers(a: SaturableTransfer, b: SaturableTransfer) -> bool:
    pairs = zip(_transfer_tensors(a, a.uptake), _transfer_tensors(b, a.uptake), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def solve_drug_for_tissues(
    forwards: Sequence[ForwardModel],
    theta: Tensor,
    flow: FlowSolution,
    times: np.ndarray,
    scheme: Scheme = TR_BDF2,
    tol: float = 1e-10,
) -> Tensor:
    """Drug of one treatment in several tissues on one grid, in a single integration.

    The tissues and the parameters of their models may differ; the flow before the treatment is
    the same.

    Args:
        forwards: model of each tissue, with the same course.
        theta: ``(m,)``.
        flow: at theta.
        times: time nodes after the first dose, s.
        scheme: the Runge-Kutta method.
        tol: relative residual of the linear solves.

    Returns:
        ``(n, tissue, pool, x, y, z)`` kg/m3.
    """
    flow = flow if flow.dp is None else replace(flow, dp=None)
    curves: list[tuple[PlasmaInput, ...]] = []
    for f in forwards:
        assert f.course is not None
        same = bool(curves) and f.values == forwards[0].values
        curves.append(curves[0] if same else f.course.curves(f.values))
    runs: list[Trajectory] = []
    parts = _flows_of_tissues(forwards, theta, flow, times, tol)
    nodes_of_parts = split_at_jumps(times, [segment.start for segment, _, _ in parts[0][1:]])
    for number, nodes in enumerate(nodes_of_parts):
        tissues = [
            model.assemble_pools("drug", theta, local.p, segment)
            for segment, model, local in (of_tissue[number] for of_tissue in parts)
        ]
        operator = PoolOperator.stack([operator for _, operator in tissues])
        start = parts[0][number][0].start
        smooth = [[c.smooth_piece_from(start) for c in own] for own in curves]
        run = integrate_fixed_steps(
            operator,
            torch.stack([pools.validate().capacity for pools, _ in tissues]),
            _plasma_source(smooth, operator, ()),
            nodes,
            scheme=scheme,
            tol=tol,
            initial_state=runs[-1].final_state if runs else None,
            saturable=SaturableTerms(_stack_transfers([pools.transfers for pools, _ in tissues])),
        )
        runs.append(run)
    return concatenate_trajectories(runs).U


def _flows_of_tissues(
    forwards: Sequence[ForwardModel],
    theta: Tensor,
    flow: FlowSolution,
    times: np.ndarray,
    tol: float,
) -> list[list[tuple[DrugSegment, ForwardModel, FlowSolution]]]:
    """Segments of every tissue; flows are solved again only for other effects of the treatment."""
    found = [_flows_of_segments(forwards[0], theta, flow, times, tol)]
    for f in forwards[1:]:
        assert f.course is not None
        own, first = (f.course.treatment.with_values(v.values) for v in (f, forwards[0]))
        found.append(
            [(segment, f.in_segment(segment), local) for segment, _, local in found[0]]
            if own == first
            else _flows_of_segments(f, theta, flow, times, tol)
        )
    return found


def _stack_transfers(
    tissues: Sequence[tuple[SaturableTransfer, ...]],
) -> tuple[SaturableTransfer, ...]:
    """The transfers of several tissues, with their coefficients ``(tissue, x, y, z)``."""
    stacked = []
    for of_tissues in zip(*tissues, strict=True):
        rows = [_transfer_tensors(k, k.uptake) for k in of_tissues]
        columns = [
            torch.stack([v if v.dim() else v.reshape(1, 1, 1) for v in column])
            for column in zip(*rows, strict=True)
        ]
        first = of_tissues[0]
        stacked.append(SaturableTransfer(first.outside, first.inside, *columns))
    return tuple(stacked)


def _plasma_source(
    smooth: Sequence[Sequence[Callable[[Tensor], Tensor]]],
    operator: PoolOperator,
    dAs: Sequence[PoolOperator],
) -> SourceTerm:
    """The source of the pools from plasma curves, one set or one for each tissue; its tangents."""
    together = PoolOperator.stack(dAs) if dAs else None

    def source(t: float) -> tuple[Tensor, Tensor | None]:
        like = operator.transport.before[0]
        at = torch.tensor(t, dtype=torch.float64)
        first = torch.stack([curve(at) for curve in smooth[0]])
        if len(smooth) == 1:
            c = first.to(like)
        else:
            by_tissue = [
                first if own == smooth[0] else torch.stack([curve(at) for curve in own])
                for own in smooth
            ]
            c = torch.stack(by_tissue)[..., None, None, None].to(like)
        return operator.plasma_source(c), None if together is None else together.plasma_source(c)

    return source
