"""Cost and accuracy of refining the grid at the tumour's rim only: a ball with its analytic
solution, and a phantom compared with a much finer grid.

Run: OMP_NUM_THREADS=1 python benchmarks/rim.py [--only ball|phantom] [--voxel 0.5|1.0] [--device
cuda]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.phantoms.truth import draw_anatomy
from nanopinn.physics.analytic import sphere_in_tissue_pressure
from nanopinn.physics.flow import FlowCoefficients
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.grid import Domain, Grid, RimGrid, average_subcells, near_edge
from nanopinn.solvers.pressure import solve_pressure
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.verification.case import ball

NONE = torch.zeros(0, dtype=torch.float64)
#: Cells per voxel edge, and the distance from the tumour's edge within which voxels are refined, m
#: (None: all voxels).
REFINEMENTS = (
    (1, None),
    (2, None),
    (3, None),
    (4, None),
    (2, 0.0),
    (3, 0.0),
    (4, 0.0),
    (2, 0.5e-3),
    (3, 0.5e-3),
    (4, 0.5e-3),
)


def timed(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Shortest processor time of ``repeats`` runs, s, and the result. Processor time excludes what
    other jobs use.
    """
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.process_time() - began)
    return best, result


def format_cut(refine: int, rim: float | None) -> str:
    return f"all {refine}" if rim is None or refine == 1 else f"rim {refine}, {1e3 * rim:.1f} mm"


def count_cells(grid: Grid) -> int:
    return grid.cells if isinstance(grid, RimGrid) else int(np.prod(grid.shape))


def refine_ball(device: str, n: int = 24, R: float = 5e-3) -> None:
    """Case V2 (Baxter and Jain), l = 0.27 mm. A cell belongs to the tumour if its centre does."""
    K, LpSV, p_e = (3.098e-14, 6.4e-15), (4.2e-7, 1.89e-8), (1533.0, 867.0)
    tissue = dict(
        zip(
            ("K_t", "LpSV_t", "p_e", "K_n", "LpSV_n", "p_e_n"),
            (K[0], LpSV[0], p_e[0], K[1], LpSV[1], p_e[1]),
            strict=True,
        )
    )
    edge_flux = (
        -K[0]
        * np.diff(sphere_in_tissue_pressure(np.array([R - 1e-9, R]), R, **tissue, LpLSL_n=4.17e-7))[
            0
        ]
        / 1e-9
    )
    print(
        f"ball of 5 mm, voxels of {2e3 * R * 1.25 / n:.2f} mm, l = 0.27 mm; edge flux"
        f" {1e6 * edge_flux:.4f} um/s"
    )
    for refine, rim in REFINEMENTS:
        fine, r = ball(R, 1.25, n * refine)
        inside = (r < R).to(device)
        grid: Grid = fine
        if rim is not None:
            tumour_share = average_subcells(inside.double(), refine)
            grid = RimGrid.from_tumour_edge(
                (tumour_share > 0.5).double(), fine_voxels(fine, refine), refine, rim
            )

        def per(pair: tuple[float, float], inside: Tensor = inside) -> Tensor:
            return torch.where(
                inside, *(torch.tensor(v, dtype=torch.float64, device=device) for v in pair)
            )

        flow = FlowCoefficients(per(K), per(LpSV), per(p_e), per((0.0, 4.17e-7)), 0.0, 0.0)
        solve_pressure(flow, grid)
        seconds, found = timed(lambda flow=flow, grid=grid: solve_pressure(flow, grid))
        exact = torch.as_tensor(
            sphere_in_tissue_pressure(r.numpy(), R, **tissue, LpLSL_n=4.17e-7), device=device
        )
        error = float((found.x - exact)[inside].norm() / exact[inside].norm())
        outflow = (
            float((LpSV[0] * (p_e[0] - found.x))[inside].sum())
            * fine.cell_volume
            / (4 * np.pi * R**2)
        )
        print(
            f"  {format_cut(refine, rim):16s} error of p in the tumour {error:.2e}, of the edge"
            f" flux {outflow / edge_flux - 1:+.2e}, {count_cells(grid):7d} cells,"
            f" {found.iterations} iterations, {seconds:.3f} s",
            flush=True,
        )


def fine_voxels(fine: Grid, refine: int) -> Grid:
    """The voxel grid of a refined grid."""
    (nx, ny, nz), (hx, hy, hz) = fine.shape, fine.spacing
    return Grid((nx // refine, ny // refine, nz // refine), (hx * refine, hy * refine, hz * refine))


def refine_phantom(device: str, voxel: float, l_mm: float, finest: int) -> None:
    """Tissue of the digital phantom, constant in each voxel, so that refinement changes the error
    of the flow and not the tissue.
    """
    n = round(12 / voxel)
    anatomy = draw_anatomy((n, n, n), (voxel,) * 3, np.random.default_rng(0))
    h = 1e-3 * voxel
    domain = Domain.from_mask(anatomy.tumour, (h, h, h), 3e-3)

    def crop(values: Any, fill: float) -> Tensor:
        return torch.as_tensor(domain.crop(values.astype(float), fill), device=device)

    maps = TissueMaps(
        crop(anatomy.tumour, 0.0),
        crop(anatomy.PS, value("Ktrans_n")),
        crop(anatomy.phi, value("ve_n")),
        crop(anatomy.v_p, value("vp_n")),
        crop(anatomy.pH, value("pHe_n")),
    )
    grid = Grid(domain.shape, (h, h, h))
    near = (maps.tumour > 0.5) | near_edge(maps.tumour, grid, 0.0)

    def solve(
        refine: int, rim: float | None, repeats: int
    ) -> tuple[ForwardModel, float, float, FlowSolution]:
        scalars = {"l": torch.tensor(1e-3 * l_mm, dtype=torch.float64, device=device)}
        forward = ForwardModel(TissueSetting(maps, grid, refine, rim), lambda _: scalars)
        first, flow = timed(lambda: forward.solve_flow(NONE.to(device)), 1)

        def solve_again() -> FlowSolution:
            forward.last_pressure = None
            return forward.solve_flow(NONE.to(device))

        return forward, first, (timed(solve_again, repeats)[0] if repeats else first), flow

    reference = at_voxels(solve(finest, None, 0)[3], grid)
    print(
        f"phantom, {grid.shape} voxels of {voxel} mm, l = {l_mm} mm; reference: all"
        f" voxels refined {finest} times"
    )
    for refine, rim in REFINEMENTS:
        forward, first, again, flow = solve(refine, rim, 2)
        p, J, u = (
            float((a - b)[..., near].norm() / b[..., near].norm())
            for a, b in zip(at_voxels(flow, grid), reference, strict=True)
        )
        count = count_cells(forward.setting.flow_setting.grid)
        print(
            f"  {format_cut(refine, rim):16s} p {p:.2e}, J_v {J:.2e}, u {u:.2e}, {count:7d} cells,"
            f" {flow.iterations} iterations, {again:.3f} s (first {first:.3f})",
            flush=True,
        )


def at_voxels(flow: FlowSolution, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    return average_subcells(flow.p, flow.p.shape[0] // grid.shape[0]), flow.J_v, flow.velocity(grid)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--only", choices=("ball", "phantom"))
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--voxel", type=float, choices=(0.5, 1.0), help="of the phantom, mm")
    given = arguments.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.device}")
    if given.only in (None, "ball"):
        refine_ball(given.device)
    if given.only in (None, "phantom"):
        for voxel, l_mm, finest in ((0.5, 0.4, 6), (0.5, 1.0, 6), (1.0, 0.4, 8), (1.0, 1.0, 8)):
            if given.voxel in (None, voxel):
                refine_phantom(given.device, voxel, l_mm, finest)


if __name__ == "__main__":
    main()
