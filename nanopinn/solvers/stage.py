"""The linear system of one implicit stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

from nanopinn.physics.pools import Entries
from nanopinn.solvers.linear import BICGSTAB_WORK_VECTORS, bicgstab
from nanopinn.solvers.local import CellwiseElimination
from nanopinn.solvers.operator import PoolOperator


class StageSolver(Protocol):
    """``capacity + w (transport + reaction)``, to be solved with; ``renew`` puts another w or reaction in its place."""

    def update_matrix(self, w: float, reaction: Entries) -> None: ...

    def solve(
        self,
        b: Tensor,
        start: Tensor | None = None,
        *,
        tol: float,
        transposed: bool = False,
        overwrite: bool = False,
    ) -> tuple[Tensor, int]: ...

    def apply_preconditioner(self, b: Tensor) -> Tensor: ...


#: Makes the stage of an operator, capacity, w and reaction.
StageFactory = Callable[[PoolOperator, Tensor, float, Entries], StageSolver]


class KrylovStageSolver:
    """``capacity + w (transport + reaction)``, to be solved with.

    Pools that do not move are eliminated cell by cell, so that the Krylov solver only sees those that do; it is
    preconditioned with the exact inverse of what is local to a cell.

    Args:
        reaction: of the pools, if not that of the operator (a linearisation adds to it).
    """

    def __init__(
        self, operator: PoolOperator, capacity: Tensor, w: float, reaction: Entries | None = None
    ) -> None:
        self.capacity, self.moving, self.transport = (
            capacity,
            list(operator.moving),
            operator.transport,
        )
        self.cells = CellwiseElimination(
            [p for p in range(operator.pools) if p not in operator.moving], operator.moving
        )
        self._memory: Tensor | None = None
        self.update_matrix(w, operator.nonzero_reaction if reaction is None else reaction)

    def update_matrix(self, w: float, reaction: Entries) -> None:
        """Another w or reaction, in the place of the last."""
        self.w = w
        self.cells.factorise(self._iterate_dosed_curves(w, reaction))

    def _iterate_dosed_curves(
        self, w: float, reaction: Entries
    ) -> Iterator[tuple[tuple[int, int], Tensor, float]]:
        yield from ((pq, m, w) for pq, m in reaction.items())
        yield from (((p, p), held, 1.0) for p, held in enumerate(self.capacity.unbind(-4)))
        yield from (
            ((p, p), t.diagonal, w)
            for p, t in zip(self.moving, self.transport.per_pool, strict=True)
        )

    def solve(
        self,
        b: Tensor,
        start: Tensor | None = None,
        *,
        tol: float,
        transposed: bool = False,
        overwrite: bool = False,
    ) -> tuple[Tensor, int]:
        """The solution ``(..., pool, x, y, z)`` and the Krylov iterations it took.

        Args:
            start: a guess. tol: relative residual. transposed: solve with the transposed matrix.
            overwrite: whether the solution may take the place of ``b``.

        Raises:
            SolverError: the tolerance was not reached.
        """
        cells = self.cells
        y = cells.eliminate_forward(b if overwrite else b.clone(), transposed=transposed)
        if not self.moving:
            return cells.substitute_back(y, transposed=transposed), 0
        right = y[..., self.moving, :, :, :]
        guess = None if start is None else start[..., self.moving, :, :, :]

        def matrix(U: Tensor, out: Tensor) -> None:
            cells.multiply_reduced(U, out, transposed=transposed)
            self.transport.subtract_neighbours(out, U, self.w, transposed=transposed)

        def precondition(r: Tensor, out: Tensor) -> None:
            cells.solve_reduced(out.copy_(r), transposed=transposed)

        if self._memory is None or self._memory.shape[1:] != right.shape:
            self._memory = right.new_empty((BICGSTAB_WORK_VECTORS, *right.shape))
        found = bicgstab(
            matrix, right, precondition, guess, tol=tol, batch_dims=b.dim() - 4, memory=self._memory
        )
        y[..., self.moving, :, :, :] = found.x
        return cells.substitute_back(y, transposed=transposed), found.iterations

    def apply_preconditioner(self, b: Tensor) -> Tensor:
        """The solution without what neighbours exchange, in place of ``b``: damps what is stiff in a cell."""
        y = self.cells.eliminate_forward(b)
        if self.moving:
            y[..., self.moving, :, :, :] = self.cells.solve_reduced(y[..., self.moving, :, :, :])
        return self.cells.substitute_back(y)
