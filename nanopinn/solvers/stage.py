"""The linear system of one implicit stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from nanopinn.physics.pools import Entries
from nanopinn.solvers.linear import bicgstab
from nanopinn.solvers.local import Elimination, sparsest_first
from nanopinn.solvers.operator import PoolOperator


class Stage(Protocol):
    """``capacity + w (transport + reaction)``, to be solved with."""

    def solve(self, b: Tensor, start: Tensor | None = None, *, tol: float, transposed: bool = False) -> tuple[Tensor, int]: ...

    def settle(self, b: Tensor) -> Tensor: ...


#: Makes the stage of an operator, capacity, w and reaction.
StageOf = Callable[[PoolOperator, Tensor, float, Entries], Stage]


class StageMatrix:
    """``capacity + w (transport + reaction)``, to be solved with.

    Pools that do not move are eliminated cell by cell, so that the Krylov solver only sees those that do; it is
    preconditioned with the exact inverse of what is local to a cell.

    Args:
        reaction: of the pools, if not that of the operator (a linearisation adds to it).
    """

    def __init__(self, operator: PoolOperator, capacity: Tensor, w: float, reaction: Entries | None = None) -> None:
        self.w = w
        self.moving = list(operator.moving)
        self.transport = operator.transport
        pools = range(capacity.shape[-4])
        local = {pq: w * m for pq, m in (operator.coupled if reaction is None else reaction).items()}
        for p in pools:
            local[p, p] = local[p, p] + capacity[..., p, :, :, :] if (p, p) in local else capacity[..., p, :, :, :]
        for p, transport in zip(self.moving, self.transport.each, strict=True):
            local[p, p] = local[p, p] + w * transport.diagonal
        self.cells = Elimination(local, sparsest_first(local, [p for p in pools if p not in self.moving]), self.moving)

    def solve(self, b: Tensor, start: Tensor | None = None, *, tol: float, transposed: bool = False) -> tuple[Tensor, int]:
        """The solution ``(..., pool, x, y, z)`` and the Krylov iterations it took.

        Args:
            start: a guess. tol: relative residual. transposed: solve with the transposed matrix.

        Raises:
            SolverError: the tolerance was not reached.
        """
        cells = self.cells
        y = cells.down(b, transposed=transposed)
        if not self.moving:
            return cells.up(y, transposed=transposed), 0
        right = y[..., self.moving, :, :, :]
        guess = None if start is None else start[..., self.moving, :, :, :]

        def matrix(U: Tensor) -> Tensor:
            return self.transport.subtract_neighbours(cells.apply_reduced(U, transposed=transposed), U, self.w, transposed=transposed)

        def precondition(r: Tensor) -> Tensor:
            return cells.solve_rest(r, transposed=transposed)

        found = bicgstab(matrix, right, precondition, guess, tol=tol, lead=b.dim() - 4)
        y[..., self.moving, :, :, :] = found.x
        return cells.up(y, transposed=transposed), found.iterations

    def settle(self, b: Tensor) -> Tensor:
        """The solution without what neighbours exchange: damps what is stiff in a cell."""
        y = self.cells.down(b)
        if self.moving:
            y[..., self.moving, :, :, :] = self.cells.solve_rest(y[..., self.moving, :, :, :])
        return self.cells.up(y)
