"""The pressure operator: of a box, and with one unknown per cell of a box that is refined near the tumour's edge.

    (A p)_i = sum_j G_ij (p_i - p_j) + S_i p_i,    m3/s

with the conductance G of the face between two cells (see :func:`nanopinn.solvers.fluxes.conductance`) and what
leaves a cell per pressure, S, through walls, lymphatics and the boundary of the box. Symmetric, positive definite.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nanopinn.physics.model import FlowCoefficients
from nanopinn.solvers.fluxes import SPACE, face_conductance
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.rim import RimGrid


@dataclass(frozen=True)
class BoxPressureMatrix:
    """A on fields ``(..., x, y, z)``.

    Attributes:
        faces: G of the inner faces, one tensor per axis, n-1 entries along it.
        walls, ends: S, through walls and lymphatics and through the boundary of the box, ``(x, y, z)``.
    """

    faces: tuple[Tensor, Tensor, Tensor]
    walls: Tensor
    ends: Tensor

    @classmethod
    def of(cls, flow: FlowCoefficients, grid: Grid) -> BoxPressureMatrix:
        """From the coefficients; a fixed pressure stands on the boundary of the box, nothing but an inflow passes its cut faces."""
        ends, faces = torch.zeros_like(flow.K), []
        for dim in SPACE:
            G = face_conductance(flow.K, grid, dim, fixed_value_boundary=True)
            n = G.shape[dim] - 1
            for side in (0, 1):
                if (dim + 3, side) not in flow.cut:
                    ends.narrow(dim, side * (n - 1), 1).add_(G.narrow(dim, side * n, 1))
            faces.append(G.narrow(dim, 1, n - 1))
        return cls(
            (faces[0], faces[1], faces[2]), (flow.LpSV + flow.LpLSL) * grid.cell_volume, ends
        )

    @cached_property
    def diagonal(self) -> Tensor:
        """Diagonal of A, ``(x, y, z)``."""
        total = self.walls + self.ends
        for G, dim in zip(self.faces, SPACE, strict=True):
            n = G.shape[dim]
            total.narrow(dim, 0, n).add_(G)
            total.narrow(dim, 1, n).add_(G)
        return total

    def __call__(self, p: Tensor) -> Tensor:
        out = self.diagonal * p
        for G, dim in zip(self.faces, SPACE, strict=True):
            n = G.shape[dim]
            out.narrow(dim, 1, n).addcmul_(G, p.narrow(dim, 0, n), value=-1)
            out.narrow(dim, 0, n).addcmul_(G, p.narrow(dim, 1, n), value=-1)
        return out


@dataclass(frozen=True)
class RefinedPressureMatrix:
    """A on the cells of a refined rim, ``(..., cells)``: the matrix of the box, with what is one cell added up.

    Attributes:
        diagonal: ``(cells,)``. rows: all of A, sparse rows, ``(cells, cells)``.
    """

    diagonal: Tensor
    rows: Tensor

    @classmethod
    def of(cls, box: BoxPressureMatrix, grid: RimGrid) -> RefinedPressureMatrix:
        """Add up the faces between each pair of cells, and what leaves the parts of each."""
        touching = grid.connections
        G = touching.sum_over_parts(box.faces)
        diagonal = (
            grid.sum_over_parts(box.walls + box.ends)
            .index_add_(0, touching.before, G)
            .index_add_(0, touching.after, G)
        )
        return cls(diagonal, touching.matrix(-G, diagonal))

    def __call__(self, p: Tensor) -> Tensor:
        if p.dim() == 1:
            return self.rows @ p
        return torch.stack([self(v) for v in p])
