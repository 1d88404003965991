"""The linear system of one implicit stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

from nanopinn.physics.pools import Entries
from nanopinn.solvers.linear import KRYLOV_FIELDS, bicgstab
from nanopinn.solvers.local import Elimination
from nanopinn.solvers.operator import PoolOperator


class Stage(Protocol):
    """``capacity + w (transport + reaction)``, to be solved with; ``renew`` puts another w or reaction in its place."""

    def renew(self, w: float, reaction: Entries) -> None: ...

    def solve(
        self,
        b: Tensor,
        start: Tensor | None = None,
        *,
        tol: float,
        transposed: bool = False,
        overwrite: bool = False,
    ) -> tuple[Tensor, int]: ...

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

    def __init__(
        self, operator: PoolOperator, capacity: Tensor, w: float, reaction: Entries | None = None
    ) -> None:
        self.capacity, self.moving, self.transport = (
            capacity,
            list(operator.moving),
            operator.transport,
        )
        self.cells = Elimination(
            [p for p in range(operator.pools) if p not in operator.moving], operator.moving
        )
        self._memory: Tensor | None = None
        self.renew(w, operator.coupled if reaction is None else reaction)

    def renew(self, w: float, reaction: Entries) -> None:
        """Another w or reaction, in the place of the last."""
        self.w = w
        self.cells.factorise(self._terms(w, reaction))

    def _terms(
        self, w: float, reaction: Entries
    ) -> Iterator[tuple[tuple[int, int], Tensor, float]]:
        yield from ((pq, m, w) for pq, m in reaction.items())
        yield from (((p, p), held, 1.0) for p, held in enumerate(self.capacity.unbind(-4)))
        yield from (
            ((p, p), t.diagonal, w) for p, t in zip(self.moving, self.transport.each, strict=True)
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
        y = cells.down(b if overwrite else b.clone(), transposed=transposed)
        if not self.moving:
            return cells.up(y, transposed=transposed), 0
        right = y[..., self.moving, :, :, :]
        guess = None if start is None else start[..., self.moving, :, :, :]

        def matrix(U: Tensor, out: Tensor) -> None:
            cells.apply_reduced(U, out, transposed=transposed)
            self.transport.subtract_neighbours(out, U, self.w, transposed=transposed)

        def precondition(r: Tensor, out: Tensor) -> None:
            cells.solve_rest(out.copy_(r), transposed=transposed)

        if self._memory is None or self._memory.shape[1:] != right.shape:
            self._memory = right.new_empty((KRYLOV_FIELDS, *right.shape))
        found = bicgstab(
            matrix, right, precondition, guess, tol=tol, lead=b.dim() - 4, memory=self._memory
        )
        y[..., self.moving, :, :, :] = found.x
        return cells.up(y, transposed=transposed), found.iterations

    def settle(self, b: Tensor) -> Tensor:
        """The solution without what neighbours exchange, in place of ``b``: damps what is stiff in a cell."""
        y = self.cells.down(b)
        if self.moving:
            y[..., self.moving, :, :, :] = self.cells.solve_rest(y[..., self.moving, :, :, :])
        return self.cells.up(y)
