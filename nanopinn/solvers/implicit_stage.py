"""The linear system ``capacity + w (transport + reaction)`` of one implicit stage.

A box of cells is solved by a Krylov method preconditioned cell by cell. Lines of cells around
vessels, where cells are a micrometre wide and steps are minutes, are solved directly by
block-tridiagonal (Thomas) elimination, because there the exchange between neighbours dominates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from nanopinn.physics.pools import Entries
from nanopinn.solvers.cell_elimination import CellwiseElimination
from nanopinn.solvers.linear import BICGSTAB_WORK_VECTORS, SolverError, bicgstab
from nanopinn.solvers.operator import PoolOperator


class StageSolver(Protocol):
    """Solver of ``capacity + w (transport + reaction)``."""

    def update_matrix(self, w: float, reaction: Entries) -> None:
        """Replace w and the reaction."""
        ...

    def solve(
        self,
        b: Tensor,
        start: Tensor | None = None,
        *,
        tol: float,
        transposed: bool = False,
        overwrite: bool = False,
    ) -> tuple[Tensor, int]:
        """The solution and the iterations it took."""
        ...

    def apply_preconditioner(self, b: Tensor) -> Tensor:
        """An approximate solution, in the place of ``b``."""
        ...


#: Creates the solver of a stage from an operator, capacity, w and reaction.
StageFactory = Callable[[PoolOperator, Tensor, float, Entries], StageSolver]


class KrylovStageSolver:
    """Solver of ``capacity + w (transport + reaction)`` by BiCGStab.

    Pools that do not move are eliminated cell by cell, so that the Krylov iteration runs over those
    that do; it is preconditioned with the exact inverse of the terms local to a cell.

    Args:
        operator: transport and reaction of the pools.
        capacity: ``(..., pool, x, y, z)``.
        w: ``gamma dt``, s.
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
        """Replace w and the reaction; memory is used again."""
        self.w = w
        self.cells.factorise(self._matrix_terms(w, reaction))

    def _matrix_terms(
        self, w: float, reaction: Entries
    ) -> Iterator[tuple[tuple[int, int], Tensor, float]]:
        """The terms local to a cell, as (position, entry, weight)."""
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
            b: right-hand side, ``(..., pool, x, y, z)``.
            start: initial guess.
            tol: relative residual.
            transposed: whether the matrix is transposed.
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
        """The solution without the exchange between neighbours, in the place of ``b``."""
        y = self.cells.eliminate_forward(b)
        if self.moving:
            y[..., self.moving, :, :, :] = self.cells.solve_reduced(y[..., self.moving, :, :, :])
        return self.cells.substitute_back(y)


def _invert_blocks(blocks: Tensor) -> Tensor:
    """Inverse of matrices ``(p, p, line)``, not finite where there is none."""
    return torch.linalg.inv_ex(blocks.movedim(-1, 0)).inverse.movedim(0, -1).contiguous()


def _multiply_blocks(matrix: Tensor, vector: Tensor) -> Tensor:
    """``(p, q, line)`` times ``(q, lead, line)``."""
    return (matrix[:, :, None] * vector[None]).sum(1)


class BlockTridiagonalStageSolver(KrylovStageSolver):
    """Direct solver for pools that move along the last axis alone, ``(pool, x, y, r)``.

    Args:
        operator: transport and reaction of the pools.
        capacity: ``(pool, x, y, r)``.
        w: ``gamma dt``, s.
        reaction: of the pools, if not that of the operator.

    Raises:
        ValueError: something moves across x or y.
        SolverError: a block is singular.
    """

    def __init__(
        self, operator: PoolOperator, capacity: Tensor, w: float, reaction: Entries | None = None
    ) -> None:
        if any(
            bool((face != 0).any())
            for axis in (0, 1)
            for face in (operator.transport.before[axis], operator.transport.after[axis])
        ):
            raise ValueError("a line matrix needs closed faces across the first two axes")
        super().__init__(operator, capacity, w, reaction)

    def update_matrix(self, w: float, reaction: Entries) -> None:
        """Replace w and the reaction."""
        super().update_matrix(w, reaction)
        self._before, self._after = (
            w * _faces_first(f[2]) for f in (self.transport.before, self.transport.after)
        )
        self._factorise(self._blocks(self.capacity))

    def _blocks(self, capacity: Tensor) -> Tensor:
        """Terms local to a cell after elimination of the pools that stay, ``(r, p, p, line)``."""
        *space, cells = capacity.shape[-3:]
        n = len(self.moving)
        blocks = capacity.new_zeros((n, n, *space, cells))
        for (i, j), entry in self.cells.reduced.items():
            blocks[i, j] = entry
        return blocks.reshape(n, n, -1, cells).movedim(-1, 0).contiguous()

    def _factorise(self, blocks: Tensor) -> None:
        """Inverse pivots along a line, ``D_i = B_i - a_i D_{i-1}^-1 c_{i-1}``."""
        inverses: list[Tensor] = []
        for i, block in enumerate(blocks):
            through = self._before[i][:, None] * inverses[-1] * self._after[i][None] if i else 0.0
            inverses.append(_invert_blocks(block - through))
        self._inverse = torch.stack(inverses)
        if not bool(torch.isfinite(self._inverse).all()):
            raise SolverError("a line of cells has a singular block")

    def solve(
        self,
        b: Tensor,
        start: Tensor | None = None,
        *,
        tol: float = 0.0,
        transposed: bool = False,
        overwrite: bool = False,
    ) -> tuple[Tensor, int]:
        """The exact solution ``(..., pool, x, y, r)``, in no iterations.

        Args:
            b: right-hand side, ``(..., pool, x, y, r)``.
            start: not used.
            tol: not used.
            transposed: whether the matrix is transposed.
            overwrite: whether the solution may take the place of ``b``.
        """
        y = self.cells.eliminate_forward(b if overwrite else b.clone(), transposed=transposed)
        if self.moving:
            right = y[..., self.moving, :, :, :]
            *lead, pool, nx, ny, cells = right.shape
            columns = (
                right.reshape(-1, pool, nx * ny, cells).permute(3, 1, 0, 2).contiguous()
            )  # (r, p, lead, line)
            found = self._thomas_sweep(columns, transposed=transposed).permute(2, 1, 3, 0)
            y[..., self.moving, :, :, :] = found.reshape(*lead, pool, nx, ny, cells)
        return self.cells.substitute_back(y, transposed=transposed), 0

    def apply_preconditioner(self, b: Tensor) -> Tensor:
        """The exact solution, in the place of ``b``."""
        return self.solve(b, overwrite=True)[0]

    def _thomas_sweep(self, b: Tensor, *, transposed: bool) -> Tensor:
        """Forward elimination and back substitution; ``b`` is ``(r, p, lead, line)``."""
        inverse, lower, upper = self._inverse, self._before, self._after
        if transposed:
            inverse, lower, upper = inverse.transpose(1, 2), upper, lower
        found: list[Tensor] = []
        for i, right in enumerate(b):
            found.append(
                _multiply_blocks(inverse[i], right + lower[i][:, None] * found[-1] if i else right)
            )
        for i in range(len(b) - 2, -1, -1):
            found[i] = found[i] + _multiply_blocks(inverse[i], upper[i + 1][:, None] * found[i + 1])
        return torch.stack(found)


def _faces_first(faces: Tensor) -> Tensor:
    """Faces ``(p, x, y, face)`` as ``(face, p, line)``."""
    return faces.flatten(1, 2).movedim(-1, 0).contiguous()
