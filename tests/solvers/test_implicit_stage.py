"""The linear system of a stage: lines of cells against dense elimination."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nanopinn.solvers.fluxes import TransportOperator
from nanopinn.solvers.implicit_stage import BlockTridiagonalStageSolver, KrylovStageSolver
from nanopinn.solvers.linear import SolverError
from nanopinn.solvers.operator import PoolOperator

POOLS, LINES, CELLS = 4, 5, 9


def lines() -> tuple[PoolOperator, Tensor]:
    """Four pools, two of which move, on lines of random transport and random exchange."""
    g = torch.Generator().manual_seed(2)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=g)

    faces = [rand(2, LINES, 1, CELLS + 1) for _ in range(2)]
    for face in faces:
        face[..., 0], face[..., -1] = 0.0, 0.1
    exchange = rand(POOLS, POOLS, LINES, 1, CELLS)
    reaction = -exchange
    for p in range(POOLS):
        reaction[p, p] = exchange[:, p].sum(0)
    closed = torch.zeros(2, LINES + 1, 1, CELLS), torch.zeros(2, LINES, 2, CELLS)
    closed = closed[0].double(), closed[1].double()
    transport = TransportOperator((*closed, 50 * faces[0]), (*closed, 50 * faces[1]))
    operator = PoolOperator(
        POOLS,
        (0, 2),
        transport,
        {(p, q): reaction[p, q] for p in range(POOLS) for q in range(POOLS)},
        {},
    )
    return operator, 0.1 + rand(POOLS, LINES, 1, CELLS)


def dense(operator: PoolOperator, capacity: Tensor, w: float) -> Tensor:
    n = capacity.numel()
    unit = torch.eye(n, dtype=torch.float64).reshape(n, *capacity.shape)
    return (capacity * unit + w * operator(unit)).reshape(n, n).T


@pytest.mark.parametrize("w", [1e-3, 1.0, 1e4])
def test_the_line_solver_equals_dense_elimination(w: float) -> None:
    operator, capacity = lines()
    matrix, b = (
        dense(operator, capacity, w),
        torch.randn(
            3, *capacity.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        ),
    )
    line = BlockTridiagonalStageSolver(operator, capacity, w)
    for found, A in ((line.solve(b)[0], matrix), (line.solve(b, transposed=True)[0], matrix.T)):
        exact = torch.linalg.solve(A, b.reshape(3, -1).T).T.reshape(b.shape)
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-11 * float(exact.abs().max()))


def test_one_right_hand_side_is_solved_where_all_pools_move() -> None:
    operator, capacity = lines()
    part = operator.restrict_to([0, 2])
    line = BlockTridiagonalStageSolver(part, capacity[[0, 2]], 2.0)
    b = capacity[[0, 2]]
    exact = torch.linalg.solve(dense(part, b, 2.0), b.flatten()).reshape(b.shape)
    torch.testing.assert_close(line.solve(b)[0], exact, rtol=1e-11, atol=1e-13)


def test_transport_across_lines_is_refused() -> None:
    operator, capacity = lines()
    before = operator.transport.before
    leaky = replace(
        operator, transport=replace(operator.transport, before=(before[0] + 1.0, *before[1:]))
    )
    with pytest.raises(ValueError, match="closed faces"):
        BlockTridiagonalStageSolver(leaky, capacity, 1.0)


def test_a_singular_line_is_an_error() -> None:
    """Cells that hold nothing, lose nothing and touch nothing have no solution."""
    operator, capacity = lines()
    part = operator.restrict_to([0])
    before, after = part.transport.before, part.transport.after
    alone = 0 * before[2]
    alone[..., 1] = 1.0
    empty = replace(
        part,
        transport=TransportOperator((*before[:2], alone), (*after[:2], 0 * alone)),
        reaction={},
    )
    with pytest.raises(SolverError, match="singular"):
        BlockTridiagonalStageSolver(empty, 0 * capacity[:1], 1.0)


def test_an_updated_matrix_equals_a_new_one() -> None:
    """More entries, fewer entries, another step: nothing of the last matrix is left."""
    operator, capacity = lines()
    few = {(p, q): m for (p, q), m in operator.reaction.items() if p == q or (p, q) == (1, 3)}
    b = torch.randn(capacity.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for kind in (KrylovStageSolver, BlockTridiagonalStageSolver):
        stage = kind(operator, capacity, 2.0, few)
        for w, reaction in ((2.0, operator.reaction), (0.5, few), (0.5, {})):
            stage.update_matrix(w, reaction)
            A = dense(replace(operator, reaction=reaction), capacity, w)
            exact = torch.linalg.solve(A, b.flatten()).reshape(b.shape)
            torch.testing.assert_close(stage.solve(b, tol=1e-13)[0], exact, rtol=1e-9, atol=1e-11)
