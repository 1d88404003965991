"""Sparse matrices over pools in every cell, and their Gaussian elimination."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from nanopinn.physics.pools import Entries


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of tensors of these shapes broadcast together; faster than torch's function."""
    first = shapes[0]
    return first if all(s == first for s in shapes[1:]) else np.broadcast_shapes(*shapes)


def drop_zero_entries(entries: Entries) -> Entries:
    """The entries that are not zero everywhere."""
    return {pq: m for pq, m in entries.items() if bool((m != 0).any())}


def transpose_entries(entries: Entries) -> Entries:
    """The transposed matrix."""
    return {(q, p): m for (p, q), m in entries.items()}


def select_block(entries: Entries, rows: Sequence[int], columns: Sequence[int]) -> Entries:
    """The entries in some rows and columns, renumbered in their order."""
    return {
        (i, j): entries[p, q]
        for i, p in enumerate(rows)
        for j, q in enumerate(columns)
        if (p, q) in entries
    }


def column_sums(entries: Entries) -> dict[int, Tensor]:
    """Sum of each column that holds an entry."""
    total: dict[int, Tensor] = {}
    for (_, q), m in entries.items():
        total[q] = total[q] + m if q in total else m
    return total


def add_matrix_product(out: Tensor, entries: Entries, U: Tensor, sign: float = 1.0) -> Tensor:
    """Add ``sign matrix U`` to ``out`` ``(..., pool, x, y, z)`` in place, entry by entry."""
    for (p, q), m in entries.items():
        out[..., p, :, :, :].addcmul_(m, U[..., q, :, :, :], value=sign)
    return out


def cell_dot_product(a: Tensor, b: Tensor) -> Tensor:
    """``sum a b`` over the cells of ``(..., x, y, z)``; the product is not held in memory."""
    a, b = torch.broadcast_tensors(a, b)
    return torch.linalg.vecdot(a.flatten(-3), b.flatten(-3))


def mass_norms(capacity: Tensor, U: Tensor) -> Tensor:
    """Root of the summed squares of ``capacity U`` over cells, ``(..., pool)``.

    Pool by pool, so that the product of all pools is not held in memory.
    """
    found = [
        torch.linalg.vector_norm(c * u, dim=(-3, -2, -1))
        for c, u in zip(capacity.unbind(-4), U.unbind(-4), strict=True)
    ]
    return torch.stack(found, dim=-1)


def add_capacity_difference(out: Tensor, capacity: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Add ``capacity (a - b)`` to ``out`` in place, pool by pool to save memory."""
    for o, c, x, y in zip(*(v.unbind(-4) for v in (out, capacity, a, b)), strict=True):
        o.addcmul_(c, x - y)
    return out


def markowitz_order(entries: Iterable[tuple[int, int]], pools: Sequence[int]) -> list[int]:
    """The order of elimination that fills few entries: the pool with the fewest neighbours first.

    References:
        Markowitz, Management Science 3:255 (1957).
    """
    there, left, order = set(entries), set(pools), []

    def fills(k: int) -> list[tuple[int, int]]:
        rows, columns = (
            [pq[side] for pq in there if pq[1 - side] == k and pq[side] != k] for side in (0, 1)
        )
        return [(i, j) for i in rows for j in columns]

    while left:
        k = min(sorted(left), key=lambda p: len(fills(p)))
        there = {pq for pq in there | set(fills(k)) if k not in pq}
        left.remove(k)
        order.append(k)
    return order


class CellwiseElimination:
    """Gaussian elimination in every cell at once, some pools first, entry by entry.

    No pivoting is needed: what leaves one pool enters another or is lost, so that every column is
    diagonally dominant. A new matrix is written over the last one.

    Args:
        first: pools that are eliminated from the equations of the others.
        remaining: the others; ``reduced`` holds their matrix after the elimination.
    """

    def __init__(self, first: Sequence[int], remaining: Sequence[int]) -> None:
        self.eliminated, self.remaining = tuple(first), tuple(remaining)
        self.m: dict[tuple[int, int], Tensor] = {}
        self.reduced: dict[tuple[int, int], Tensor] = {}
        self._sparsity_pattern: set[tuple[int, int]] = set()

    def factorise(self, terms: Iterable[tuple[tuple[int, int], Tensor, float]]) -> None:
        """Factorise the sum of ``weight entry`` over the terms.

        Args:
            terms: position (row, column), entry and weight; every diagonal entry must be among
                them.
        """
        self._sparsity_pattern.clear()
        for at, entry, weight in terms:
            if at in self._sparsity_pattern:
                torch.add(
                    self.m[at], entry, alpha=weight, out=self._entry_buffer(at, self.m[at], entry)
                )
            else:
                torch.mul(entry, weight, out=self._entry_buffer(at, entry))
        self.eliminated = tuple(markowitz_order(self._sparsity_pattern, self.eliminated))
        self._eliminate(self.eliminated, self.eliminated + self.remaining)
        last, self.reduced = self.reduced, {}
        for at, entry in select_block(
            {at: self.m[at] for at in self._sparsity_pattern}, self.remaining, self.remaining
        ).items():
            self.reduced[at] = (
                last[at].copy_(entry)
                if at in last and last[at].shape == entry.shape
                else entry.clone()
            )
        self._eliminate(self.remaining, self.remaining)
        self.m = {
            at: self.m[at] for at in self._sparsity_pattern
        }  # without what only the last matrix held

    def _entry_buffer(self, at: tuple[int, int], *like: Tensor) -> Tensor:
        """The tensor to which an entry is written, its last value if that has the shape."""
        shape = broadcast_shape(*(t.shape for t in like))
        if at not in self.m or self.m[at].shape != shape:
            self.m[at] = like[0].new_empty(shape)
        self._sparsity_pattern.add(at)
        return self.m[at]

    def _eliminate(self, pivots: Sequence[int], order: Sequence[int]) -> None:
        m = self.m
        for at, k in enumerate(pivots):
            inverse = m[k, k].reciprocal_()
            later = [i for i in order[at + 1 :] if (i, k) in self._sparsity_pattern]
            right = [j for j in order[at + 1 :] if (k, j) in self._sparsity_pattern]
            for i in later:
                factor = torch.mul(
                    m[i, k], inverse, out=self._entry_buffer((i, k), m[i, k], inverse)
                )
                for j in right:
                    if (i, j) in self._sparsity_pattern:
                        torch.addcmul(
                            m[i, j],
                            factor,
                            m[k, j],
                            value=-1,
                            out=self._entry_buffer((i, j), m[i, j], factor, m[k, j]),
                        )
                    else:
                        torch.mul(
                            factor, m[k, j], out=self._entry_buffer((i, j), factor, m[k, j])
                        ).neg_()

    def eliminate_forward(self, y: Tensor, *, transposed: bool = False) -> Tensor:
        """The right-hand side after forward elimination, in its place."""
        for at, k in enumerate(self.eliminated):
            if transposed:
                _at(y, k).mul_(self.m[k, k])
            for i in (*self.eliminated[at + 1 :], *self.remaining):
                if (entry := (k, i) if transposed else (i, k)) in self.m:
                    _at(y, i).addcmul_(self.m[entry], _at(y, k), value=-1)
        return y

    def substitute_back(self, y: Tensor, *, transposed: bool = False) -> Tensor:
        """Back substitution: the eliminated pools from the others, in the place of ``y``."""
        for at, k in reversed(list(enumerate(self.eliminated))):
            for j in (*self.eliminated[at + 1 :], *self.remaining):
                if (entry := (j, k) if transposed else (k, j)) in self.m:
                    _at(y, k).addcmul_(self.m[entry], _at(y, j), value=-1)
            if not transposed:
                _at(y, k).mul_(self.m[k, k])
        return y

    def solve_reduced(self, x: Tensor, *, transposed: bool = False) -> Tensor:
        """``reduced^-1 x`` for ``x`` ``(..., remaining, x, y, z)``, in its place."""
        order = list(enumerate(self.remaining))
        for i, p in order:
            if transposed:
                _at(x, i).mul_(self.m[p, p])
            for j, q in order[i + 1 :]:
                if (entry := (p, q) if transposed else (q, p)) in self.m:
                    _at(x, j).addcmul_(self.m[entry], _at(x, i), value=-1)
        for i, p in reversed(order):
            for j, q in order[i + 1 :]:
                if (entry := (q, p) if transposed else (p, q)) in self.m:
                    _at(x, i).addcmul_(self.m[entry], _at(x, j), value=-1)
            if not transposed:
                _at(x, i).mul_(self.m[p, p])
        return x

    def multiply_reduced(self, U: Tensor, out: Tensor, *, transposed: bool = False) -> Tensor:
        """``reduced U`` for ``U`` ``(..., remaining, x, y, z)``, written to ``out``."""
        return add_matrix_product(
            out.zero_(), transpose_entries(self.reduced) if transposed else self.reduced, U
        )


def _at(U: Tensor, pool: int) -> Tensor:
    return U[..., pool, :, :, :]
