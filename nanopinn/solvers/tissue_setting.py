"""Tissue on a grid, and the refinement of the grid on which its flow is solved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from nanopinn.errors import InputError
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.solvers.grid import Grid, RimGrid, repeat_cells, subdivide_with_slopes


@dataclass(frozen=True)
class TissueSetting:
    """Tissue on a grid, and the refinement on which its flow is solved.

    Attributes:
        maps: of the tissue.
        grid: of the maps.
        flow_refine: cells of the flow per voxel edge.
        rim: distance from the tumour's edge within which voxels are refined, m (0: those that touch
            it); None refines all.
        release_jump_times_s: s after the dose, increasing; the carrier's release rate is constant
            in each time segment between two of them.
    """

    maps: TissueMaps
    grid: Grid
    flow_refine: int = 2
    rim: float | None = None
    release_jump_times_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.rim is not None and not 0 <= self.rim < float("inf"):
            raise InputError(
                "the depth of the refined rim is invalid",
                field="rim",
                found=self.rim,
                expected="m, 0 or more",
            )
        edge = torch.ones_like(self.maps.tumour, dtype=torch.bool)
        edge[1:-1, 1:-1, 1:-1] = False
        for axis, side in self.maps.cut:
            edge.select(axis, -side).fill_(False)
        if bool((self.maps.tumour[edge] > 0.5).any()):
            raise InputError(
                "the tumour touches the boundary of the box that is solved",
                field="tumour mask",
                expected="normal tissue all around",
                remedy="Widen the box or shrink the mask.",
            )

    def refined(self, factor: int) -> TissueSetting:
        """The tissue with every cell divided into ``factor^3``, along limited slopes."""
        m = self.maps
        PS, phi, v_p, pH = (subdivide_with_slopes(t, factor) for t in (m.PS, m.phi, m.v_p, m.pH))
        shapes = {name: subdivide_with_slopes(t, factor) for name, t in m.shapes.items()}
        maps = replace(
            m, tumour=repeat_cells(m.tumour, factor), PS=PS, phi=phi, v_p=v_p, pH=pH, shapes=shapes
        )
        return replace(self, maps=maps, grid=self.grid.refined(factor))

    @cached_property
    def flow_setting(self) -> TissueSetting:
        """The tissue on the grid of the flow."""
        fine = self.refined(self.flow_refine)
        if self.rim is None or self.flow_refine == 1:
            return fine
        return replace(
            fine,
            grid=RimGrid.from_tumour_edge(self.maps.tumour, self.grid, self.flow_refine, self.rim),
        )
