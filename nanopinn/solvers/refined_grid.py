"""A grid that is refined near the edge of the tumour alone.

The rim that drains a tumour is thinner than a voxel; its core and the tissue around it vary slowly.
Voxels near the edge are divided into ``factor^3`` cells, the others stay whole. Fields have the
shape of the grid that is refined everywhere, and the parts of one cell have one value; the flow
through a coarse face is the sum over its parts.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from nanopinn.solvers.grid import Grid, average_subcells, repeat_cells

AXES = (0, 1, 2)


@dataclass(frozen=True)
class RimGrid(Grid):
    """A box of ``factor^3`` parts per voxel, of which those of a whole voxel are one cell.

    Attributes:
        factor: parts along the edge of a voxel.
        width: parts along the edge of the cell that a part belongs to, ``(X, Y, Z)``, int64: 1 or
            ``factor``.
    """

    factor: int
    width: Tensor = field(compare=False, repr=False)

    @classmethod
    def from_tumour_edge(cls, tumour: Tensor, grid: Grid, factor: int, distance: float) -> RimGrid:
        """Refine the voxels within a distance of the tumour's edge, and those that touch it.

        Args:
            tumour: 1 inside, ``(x, y, z)``.
            grid: of the voxels.
            factor: parts along the edge of a voxel.
            distance: along each axis, m.
        """
        fine = grid.refined(factor)
        width = torch.where(near_edge(tumour, grid, distance), 1, factor)
        return cls(fine.shape, fine.spacing, factor, repeat_cells(width, factor))

    def half_width(self, axis: int) -> Tensor:
        """Half the length along an axis of the cell that each part belongs to, m, ``(X, Y, Z)``."""
        return self.width.double() * (self.spacing[axis] / 2)

    def average_within_cells(self, values: Tensor) -> Tensor:
        """Give all parts of a cell their mean, ``(..., X, Y, Z)``."""
        return torch.where(
            self.width == 1,
            values,
            repeat_cells(average_subcells(values, self.factor), self.factor),
        )

    def sum_over_parts(self, values: Tensor) -> Tensor:
        """Sum over the parts of each cell, ``(..., X, Y, Z)`` to ``(..., cells)``."""
        flat = values.flatten(-3)
        return flat.new_zeros((*flat.shape[:-1], self.cells)).index_add_(
            -1, self.cell_index.flatten(), flat
        )

    @cached_property
    def cells(self) -> int:
        """Number of cells."""
        return int(self.cell_index.max()) + 1

    @cached_property
    def cell_index(self) -> Tensor:
        """Index of the cell that each part belongs to, ``(X, Y, Z)``, from 0."""
        return number_groups(group_starts(self.width, AXES))

    @cached_property
    def connections(self) -> CellConnections:
        """The pairs of cells that share a face."""
        return CellConnections.from_grid(self)


@dataclass(frozen=True)
class CellConnections:
    """The pairs of cells that share a face, each once.

    Attributes:
        before, after: indices of the two cells, ``(m,)``.
        faces: the inner faces of the box that lie between cells, numbered over all axes.
        pair: index of the pair that each face lies between.
        cells: number of cells.
    """

    before: Tensor
    after: Tensor
    faces: Tensor
    pair: Tensor
    cells: int

    @classmethod
    def from_grid(cls, grid: RimGrid) -> CellConnections:
        """The pairs of a grid; two cells share the faces of the parts of the smaller one."""
        ends: list[Tensor] = []
        pairs: list[Tensor] = []
        for axis in AXES:
            n = grid.shape[axis] - 1
            before, after = grid.cell_index.narrow(axis, 0, n), grid.cell_index.narrow(axis, 1, n)
            side = torch.minimum(grid.width.narrow(axis, 0, n), grid.width.narrow(axis, 1, n))
            first = torch.where(
                before == after, -1, group_starts(side, [a for a in AXES if a != axis])
            )
            leads = is_group_start(first).nonzero()[:, 0]
            pairs.append(
                torch.where(
                    first < 0, -1, number_groups(first) + sum(e.shape[1] for e in ends)
                ).flatten()
            )
            ends.append(torch.stack([before.flatten()[leads], after.flatten()[leads]]))
        (before, after), every = torch.cat(ends, dim=1), torch.cat(pairs)
        faces = (every >= 0).nonzero()[:, 0]
        return cls(before, after, faces, every[faces], grid.cells)

    def sum_over_parts(self, faces: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Sum over the faces between each pair, ``(m,)``.

        Args:
            faces: values on the inner faces of the box, one tensor per axis.
        """
        values = torch.cat([f.flatten() for f in faces])[self.faces]
        return values.new_zeros(len(self.before)).index_add_(0, self.pair, values)

    def matrix(self, values: Tensor, diagonal: Tensor) -> Tensor:
        """The symmetric matrix with a value for each pair and each cell, in compressed rows."""
        order, rows, columns = self._rows
        entries = torch.cat([values, values, diagonal])[order]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                rows, columns, entries, size=(self.cells, self.cells), check_invariants=False
            )

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Order of the entries by row, start of each row, and columns."""
        cells = torch.arange(self.cells, device=self.before.device)
        row, column = (
            torch.cat([self.before, self.after, cells]),
            torch.cat([self.after, self.before, cells]),
        )
        order = torch.argsort(row * self.cells + column)
        begins = torch.nn.functional.pad(
            torch.bincount(row, minlength=self.cells).cumsum(0), (1, 0)
        )
        # 32 bits, for which the matrix product is twice as fast
        return order, begins.int(), column[order].int()


def near_edge(tumour: Tensor, grid: Grid, distance: float) -> Tensor:
    """Voxels that have both tissues within a distance along each axis, or touch the other tissue.

    Args:
        tumour: 1 inside, ``(x, y, z)``.
        grid: of the voxels.
        distance: m.
    """
    # distance is measured from the faces of a voxel; the small number is for 0.3 / 0.1 < 3
    reach = [1 + int(distance / h + 1e-9) for h in grid.spacing]

    def spread(mask: Tensor) -> Tensor:
        window = [2 * n + 1 for n in reach]
        return (
            torch.nn.functional.max_pool3d(
                mask.double()[None, None], window, stride=1, padding=reach
            )[0, 0]
            > 0.5
        )

    return spread(tumour > 0.5) & spread(tumour <= 0.5)


def group_starts(width: Tensor, axes: Collection[int]) -> Tensor:
    """Index in the box of the first part of the group of each part.

    Args:
        width: length of the groups along ``axes``, in the shape of the parts.
        axes: along which parts are grouped.
    """
    place = torch.zeros_like(width)
    for axis, size in enumerate(width.shape):
        along = torch.arange(size, device=width.device).reshape(
            [-1 if a == axis else 1 for a in AXES]
        )
        place = place * size + along - (along % width if axis in axes else 0)
    return place


def is_group_start(first: Tensor) -> Tensor:
    """Whether each part is the first of its group, ``(parts,)``."""
    return first.flatten() == torch.arange(first.numel(), device=first.device)


def number_groups(first: Tensor) -> Tensor:
    """Index of each group from 0, in the order of their first parts and the shape of ``first``."""
    return (torch.cumsum(is_group_start(first), dim=0) - 1)[first.clamp_min(0)]
