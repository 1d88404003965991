"""Direct solution along lines of cells: block-tridiagonal elimination, all lines at once.

    (capacity + w A) U = b,    A the transport along the last axis and the reaction of every cell

Around a vessel cells are a micrometre wide and steps are minutes, so that neighbours matter more than what
is local and a Krylov solver preconditioned cell by cell crawls. A line is short: Thomas elimination with
blocks over the pools that move (the others are eliminated cell by cell first) is exact, and costs two sweeps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanopinn.solvers.fluxes import PoolOperator
from nanopinn.solvers.linear import SolverError


def _inverse(blocks: Tensor) -> Tensor:
    """Inverse of matrices ``(p, p, cells)``, not finite where there is none."""
    return torch.linalg.inv_ex(blocks.movedim(-1, 0)).inverse.movedim(0, -1).contiguous()


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """``(p, q, cells)`` times ``(q, lead, cells)``."""
    return (matrix[:, :, None] * vector[None]).sum(1)


class LineSolver:
    """``(capacity + w A)^-1`` for one step size, for pools that move along the last axis alone.

    Args:
        operator: A; its faces across x and y must be closed.
        capacity: ``(pool, x, y, r)``.
        w: step size times the diagonal coefficient of the scheme, s.

    Raises:
        ValueError: something moves across x or y.
        SolverError: a block is singular.
    """

    def __init__(self, operator: PoolOperator, capacity: Tensor, w: float) -> None:
        if any(bool((face != 0).any()) for axis in (0, 1) for face in (operator.before[axis], operator.after[axis])):
            raise ValueError("a line solver needs closed faces across the first two axes")
        self.operator, self.capacity, self.w = operator, capacity, w
        self.iterations = 0
        self.moving = list(operator.mobile)
        self.still = [p for p in range(len(capacity)) if p not in operator.mobile]
        local = w * operator.reaction
        for p in range(len(capacity)):
            local[p, p] += capacity[p] + w * operator.diagonal[p]
        local = local.flatten(2, 3).movedim(-1, 0).contiguous()  # (r, p, p, line)
        self._eliminate_still(local)
        self.before = w * self._faces(operator.before[2])
        self.after = w * self._faces(operator.after[2])
        self._factorise()

    def _faces(self, faces: Tensor) -> Tensor:
        return faces[self.moving].flatten(1, 2).movedim(-1, 0).contiguous()  # (face, p, line)

    def _eliminate_still(self, local: Tensor) -> None:
        """Schur complement of the pools that stay; ``local`` is ``(r, p, p, line)``."""
        cells = local.movedim(0, -1)
        mm, ms, sm, ss = (cells[rows][:, columns] for rows in (self.moving, self.still) for columns in (self.moving, self.still))
        self.settle = _inverse(ss)
        self.feed, self.back = sm, ms
        through = (ms[:, :, None] * self.settle[None]).sum(1) if self.still else ms
        reduced = mm - (through[:, :, None] * sm[None]).sum(1) if self.still else mm
        self.reduced = reduced.movedim(-1, 0).contiguous()

    def _factorise(self) -> None:
        """Inverse pivots of the block elimination, ``D_i = B_i - a_i D_{i-1}^-1 c_{i-1}``."""
        inverses: list[Tensor] = []
        for i, block in enumerate(self.reduced):
            if i:
                block = block - self.before[i][:, None] * inverses[-1] * self.after[i][None]
            inverses.append(_inverse(block))
        self.inverse = torch.stack(inverses)
        if not bool(torch.isfinite(self.inverse).all()):
            raise SolverError("a line of cells has a singular block")

    def __call__(self, b: Tensor, start: Tensor | None = None) -> Tensor:
        """U for right-hand sides ``(..., pool, x, y, r)``; exact, so that ``start`` is not needed."""
        return self._solve(b, self.inverse, self.before, self.after, self.settle, self.back, self.feed)

    def transposed(self, b: Tensor) -> Tensor:
        """Solution with the transposed matrix, which adjoints need."""
        settle, back, feed = self.settle.transpose(0, 1), self.feed.transpose(0, 1), self.back.transpose(0, 1)
        return self._solve(b, self.inverse.transpose(1, 2), self.after, self.before, settle, back, feed)

    def _solve(
        self, b: Tensor, inverse: Tensor, lower: Tensor, upper: Tensor, settle: Tensor, back: Tensor, feed: Tensor
    ) -> Tensor:  # fmt: skip
        pool, *space = b.shape[-4:]
        flat = b.reshape(-1, pool, space[0] * space[1], space[2]).movedim((1, 0), (0, 1))  # (pool, lead, line, r)
        moving, still = flat[self.moving], flat[self.still]
        if self.still:
            still = _times(settle, still)
            moving = moving - _times(back, still)
        swept = self._sweep(moving.movedim(-1, 0).contiguous(), inverse, lower, upper).movedim(0, -1)
        out = torch.empty_like(flat)
        out[self.moving] = swept
        if self.still:
            out[self.still] = still - _times(settle, _times(feed, swept))
        return out.movedim((0, 1), (1, 0)).reshape(b.shape)

    @staticmethod
    def _sweep(b: Tensor, inverse: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Forward elimination and back substitution; ``b`` is ``(r, p, lead, line)``."""
        found: list[Tensor] = []
        for i, right in enumerate(b):
            found.append(_times(inverse[i], right + lower[i][:, None] * found[-1] if i else right))
        for i in range(len(b) - 2, -1, -1):
            found[i] = found[i] + _times(inverse[i], upper[i + 1][:, None] * found[i + 1])
        return torch.stack(found)
