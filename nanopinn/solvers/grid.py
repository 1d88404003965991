"""Grids of cells: the box within an image, its refinement, and a grid refined near the tumour's
edge.

The box holds the tumour with a margin of normal tissue; it may exceed the field of view. The rim
that drains a tumour is thinner than a voxel, while its core and the tissue around it vary slowly.
:class:`RimGrid` therefore divides voxels near the edge into ``factor^3`` cells and leaves the
others whole. Fields have the shape of the grid that is refined everywhere, and the parts of one
cell have one value; the flow through a coarse face is the sum over its parts.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.errors import InputError


@dataclass(frozen=True)
class Grid:
    """A box of equal cells; ``spacing`` in m along x, y and z.

    Along an axis with one cell nothing varies, as in a single slice.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or sum(n > 1 for n in self.shape) < 1:
            raise InputError(
                "the grid has too few cells",
                field="shape",
                found=self.shape,
                expected="at least one cell along each axis, and 2 along one",
            )
        if not all(0 < h < float("inf") for h in self.spacing):
            raise InputError("cell sizes must be positive", field="spacing", found=self.spacing)

    @property
    def cell_volume(self) -> float:
        """m3."""
        return self.spacing[0] * self.spacing[1] * self.spacing[2]

    def face_area(self, axis: int) -> float:
        """Area of a face normal to an axis, m2."""
        return self.cell_volume / self.spacing[axis]

    def half_width(self, axis: int) -> Tensor | float:
        """Half the length along an axis of every cell, m."""
        return self.spacing[axis] / 2

    def average_within_cells(self, values: Tensor) -> Tensor:
        """Average over the parts of each cell; here every part is a cell."""
        return values

    def refined(self, factor: int) -> Grid:
        """The grid with every cell cut into ``factor^3``."""
        nx, ny, nz = (factor * n for n in self.shape)
        hx, hy, hz = (h / factor for h in self.spacing)
        return Grid((nx, ny, nz), (hx, hy, hz))


def repeat_cells(values: Tensor, factor: int) -> Tensor:
    """Repeat the value of each cell for its ``factor^3`` parts; the last three axes are space."""
    for axis in (-3, -2, -1):
        values = values.repeat_interleave(factor, dim=axis)
    return values


def subdivide_with_slopes(values: Tensor, factor: int) -> Tensor:
    """Subdivide cells into ``factor^3`` parts along limited slopes.

    Each cell keeps its mean, and no new extremum appears. The monotonized central limiter is
    applied axis by axis. Maps are averages over voxels; values held constant within voxels would
    introduce jumps, and with them numerical diffusion.

    Args:
        values: ``(..., x, y, z)``.
        factor: parts per cell edge.

    References:
        van Leer, J. Comput. Phys. 23:276 (1977).
    """
    for dim in (-3, -2, -1):
        n = values.shape[dim]
        padded = torch.cat(
            [values.narrow(dim, 0, 1), values, values.narrow(dim, n - 1, 1)], dim=dim
        )
        steps = padded.diff(dim=dim)
        back, ahead = steps.narrow(dim, 0, n), steps.narrow(dim, 1, n)
        size = torch.minimum((back + ahead).abs() / 2, 2 * torch.minimum(back.abs(), ahead.abs()))
        slope = torch.where(back * ahead > 0, torch.sign(back) * size, 0.0)
        offsets = [(i + 0.5) / factor - 0.5 for i in range(factor)]
        values = torch.stack([values + o * slope for o in offsets], dim=dim).flatten(dim - 1, dim)
    return values


def average_subcells(values: Tensor, factor: int) -> Tensor:
    """Mean over the ``factor^3`` parts of each cell, the inverse of :func:`repeat_cells`."""
    *lead, nx, ny, nz = values.shape
    parts = values.reshape(*lead, nx // factor, factor, ny // factor, factor, nz // factor, factor)
    return parts.mean(dim=(-5, -3, -1))


def sum_subface_flows(flow: Tensor, factor: int, axis: int) -> Tensor:
    """Sum the flows through the parts of each coarse face.

    Args:
        flow: through fine faces, n+1 along ``axis``.
        factor: parts per cell edge.
        axis: 0, 1 or 2.
    """
    dim = axis - 3
    index = torch.arange(0, flow.shape[dim], factor, device=flow.device)
    flow = flow.index_select(dim, index)
    for other in {0, 1, 2} - {axis}:
        d = other - 3
        size = flow.shape[d] // factor
        flow = flow.unflatten(d, (size, factor)).sum(dim=d)
    return flow


#: A face of the image cuts the tumour if its section there is at least this share of its largest
#: parallel section. A tumour that narrows more ends soon beyond the face: for balls cut at any
#: distance filtration is then closer if the tumour ends at the face than if it continues as its
#: mirror image (radius of 7.5 hydraulic lengths).
CUT_SECTION = 0.8


@dataclass(frozen=True)
class Domain:
    """An index box over an image; ``low`` may be negative and ``high`` may exceed the image."""

    image_shape: tuple[int, int, int]
    low: tuple[int, int, int]
    high: tuple[int, int, int]

    @classmethod
    def from_mask(
        cls,
        mask: NDArray[np.bool_],
        spacing_m: tuple[float, ...],
        margin_m: float,
        cut: tuple[tuple[int, int], ...] = (),
    ) -> Domain:
        """The bounding box of a mask, widened by at least ``margin_m`` and two voxels on each side.

        Args:
            mask: of the tumour, ``(x, y, z)``.
            spacing_m: of the voxels, m.
            margin_m: m.
            cut: faces of the image, as (axis, side) with side 0 or 1, at which the box ends.

        Raises:
            InputError: the mask is empty.
        """
        if not mask.any():
            raise InputError(
                "the tumour mask is empty", field="mask", remedy="Outline at least a few voxels."
            )
        low, high = [], []
        for axis, h in enumerate(spacing_m):
            where = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            pad = max(2, int(np.ceil(margin_m / h)))
            low.append(0 if (axis, 0) in cut else int(where[0]) - pad)
            high.append(mask.shape[axis] if (axis, 1) in cut else int(where[-1]) + 1 + pad)
        return cls(mask.shape, (low[0], low[1], low[2]), (high[0], high[1], high[2]))

    @staticmethod
    def cut_faces(
        mask: NDArray[np.bool_], least_section: float = CUT_SECTION
    ) -> tuple[tuple[int, int], ...]:
        """Faces of the image that cut a mask, as (axis, side).

        Args:
            mask: of the tumour, ``(x, y, z)``.
            least_section: least section of the mask at a face over its largest section parallel to
                the face; 0 for every face that the mask touches.
        """
        found = []
        for axis in range(3):
            sections = mask.sum(axis=tuple(a for a in range(3) if a != axis))
            least = max(1.0, least_section * sections.max())
            found += [(axis, side) for side in (0, 1) if sections[-side] >= least]
        return tuple(found)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells of the box."""
        x, y, z = (b - a for a, b in zip(self.low, self.high, strict=True))
        return x, y, z

    def _overlap(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The overlap of image and box, as slices of each."""
        image, box = [], []
        for a, b, n in zip(self.low, self.high, self.image_shape, strict=True):
            start, stop = max(a, 0), min(b, n)
            image.append(slice(start, stop))
            box.append(slice(start - a, stop - a))
        return tuple(image), tuple(box)

    def crop(self, values: NDArray[np.float64], fill: float) -> NDArray[np.float64]:
        """Crop an image ``(..., x, y, z)`` to the box, with ``fill`` beyond the image."""
        image, box = self._overlap()
        out = np.full((*values.shape[:-3], *self.shape), fill, dtype=np.float64)
        out[..., box[0], box[1], box[2]] = values[..., image[0], image[1], image[2]]
        return out

    def embed(self, values: NDArray[np.float64], fill: float = np.nan) -> NDArray[np.float64]:
        """Embed values of the box ``(..., x, y, z)`` in an image, with ``fill`` outside the box."""
        image, box = self._overlap()
        out = np.full((*values.shape[:-3], *self.image_shape), fill, dtype=np.float64)
        out[..., image[0], image[1], image[2]] = values[..., box[0], box[1], box[2]]
        return out

    def refined(self, factor: int) -> Domain:
        """The same box over the image with every voxel cut into ``factor^3``."""

        def times(index: tuple[int, int, int]) -> tuple[int, int, int]:
            x, y, z = (factor * i for i in index)
            return x, y, z

        return Domain(times(self.image_shape), times(self.low), times(self.high))


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

    def dilate(mask: Tensor) -> Tensor:
        window = [2 * n + 1 for n in reach]
        return (
            torch.nn.functional.max_pool3d(
                mask.double()[None, None], window, stride=1, padding=reach
            )[0, 0]
            > 0.5
        )

    return dilate(tumour > 0.5) & dilate(tumour <= 0.5)


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
