"""Duration of the finite-volume solvers: compared with FiPy in the same run, for the contrast agent
and the full drug model, and as a function of the number of voxels.

Run: python benchmarks/fv.py [--device cuda] [--only peer|solves|growth] [--sizes 16 32 48 64 96]
[--figure docs/figures/fv_growth.png]
FiPy is installed by: pip install -e '.[test]'
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanopinn.imaging.dce.aif import load_aif
from nanopinn.imaging.dce.impulse_response import PlasmaCurve
from nanopinn.physics.drug_pools import FULL_POOLS, drug_pools
from nanopinn.physics.formulation_library import THERMOSENSITIVE
from nanopinn.physics.plasma import Dose
from nanopinn.physics.pools import PoolAssembler
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.solvers.forward import FlowSolution, ForwardModel
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.krylov_reduction import low_rank_response
from nanopinn.solvers.linear_pools import integrate_fixed_steps
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval, PoolOperator
from nanopinn.solvers.runge_kutta import SDIRK3
from nanopinn.solvers.tissue_setting import TissueSetting

HOUR, VOXEL_M, FRAMES = 3600.0, 0.5e-3, 60
NONE = torch.zeros(0, dtype=torch.float64)


def timed(work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Shortest duration of ``repeats`` runs, s, and the result."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best, result


def tumour(shape: tuple[int, int, int], device: str) -> ForwardModel:
    """A spherical tumour with random tissue maps in normal tissue, voxels of 0.5 mm."""
    g = torch.Generator().manual_seed(0)
    axes = [(torch.arange(n, dtype=torch.float64) + 0.5 - n / 2) * VOXEL_M for n in shape]
    r = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(dim=0).sqrt()

    def random_map(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64)).to(device)

    ball = (r < 0.35 * min(shape) * VOXEL_M).double().to(device)
    maps = TissueMaps(
        ball,
        random_map(5e-4, 3e-3),
        random_map(0.15, 0.4),
        random_map(0.01, 0.05),
        random_map(6.5, 7.2),
    )
    return ForwardModel(
        TissueSetting(maps, Grid(shape, (VOXEL_M, VOXEL_M, VOXEL_M)), 1), lambda _: {}
    )


def bolus() -> tuple[PlasmaCurve, np.ndarray]:
    frames = np.linspace(5.0, 600.0, FRAMES)
    return (
        load_aif("parker", frame_times_s=frames, bolus_arrival_s=20.0, hematocrit=0.42).curve,
        frames,
    )


def contrast_low_rank(forward: ForwardModel, flow: FlowSolution) -> Tensor:
    aif, frames = bolus()
    pools, operator, _ = forward.linearise_pools("contrast", NONE, flow)
    found = low_rank_response(operator, pools.capacity, aif.times_s, aif.plasma_mM, frames)
    C, maps = found.evaluate()[:, 0], forward.setting.maps
    for frame, plasma in zip(
        C, np.interp(frames, aif.times_s, aif.plasma_mM, left=0.0), strict=True
    ):
        frame.mul_(maps.phi).add_(maps.v_p, alpha=float(plasma))
    return C


def drug(forward: ForwardModel, flow: FlowSolution, hours: float, step: float) -> Any:
    """All pools of thermosensitive liposomes with one hour of heat from the dose on."""
    maps = forward.setting.maps
    start = torch.zeros(
        (len(FULL_POOLS.pools), *maps.phi.shape), dtype=maps.phi.dtype, device=maps.phi.device
    )
    return integrate_adaptive(
        _heated(forward, flow, hours), start, [HOUR, hours * HOUR], tolerance=Tolerance(step=step)
    )


def _heated(forward: ForwardModel, flow: FlowSolution, hours: float) -> Iterator[Interval]:
    """The heated interval and the one after it; only one is in memory at a time."""
    plasma = THERMOSENSITIVE.plasma([Dose(0.0, 9e-5)])
    model, maps, grid = forward.model(NONE), forward.setting.maps, forward.setting.grid
    for start, end, kelvin in ((0.0, HOUR, 315.15), (HOUR, hours * HOUR, 310.15)):
        T = 310.15 + (kelvin - 310.15) * maps.tumour
        pools = drug_pools(
            model,
            flow.J_v,
            flow.J_L,
            FULL_POOLS,
            THERMOSENSITIVE.release_rate(maps.pH, T),
            THERMOSENSITIVE.heat_release_excess(T),
        )
        curves = (
            plasma.encapsulated.smooth_piece_from(start),
            plasma.unbound().smooth_piece_from(start),
        )

        def feed(t: float, curves: Any = curves) -> Tensor:
            at = torch.tensor(t, dtype=torch.float64)
            return torch.stack([c(at) for c in curves]).to(maps.phi)

        interval = Interval.from_pools(start, end, pools, flow.flows, grid, feed)
        del pools
        yield interval
        del interval


def compare_with_fipy() -> None:
    """One pool with convection, diffusion and reaction on the same grid and time steps; FiPy uses
    its default solver.
    """
    import fipy

    shape, steps, end = (24, 24, 24), 20, 2 * HOUR
    forward = tumour(shape, "cpu")
    grid, phi = forward.setting.grid, forward.setting.maps.phi
    flow = forward.solve_flow(NONE)
    for axis, f in enumerate(
        flow.flows
    ):  # the two codes treat open boundaries differently, so that all are closed
        f.narrow(axis, 0, 1).zero_()
        f.narrow(axis, f.shape[axis] - 1, 1).zero_()
    system = PoolAssembler(("one",), phi)
    system.set_capacity("one", phi)
    system.add_transport("one", 1.0, 2e-10 * phi)
    system.add_loss("one", 5e-5 * phi)
    system.add_plasma_source("one", 0, phi)
    pools = system.coefficients()
    operator = PoolOperator.from_pools(pools, flow.flows, grid)
    source = 1e-4 * phi[None] * forward.setting.maps.tumour
    times = list(np.linspace(0, end, steps + 1))
    ours, run = timed(
        lambda: integrate_fixed_steps(operator, pools.capacity, lambda t: (source, None), times), 3
    )

    def to_fipy_order(values: Tensor) -> np.ndarray:
        return values.numpy().transpose(2, 1, 0).ravel()

    mm = 1e3 * VOXEL_M  # in metres the coefficients are below FiPy's tolerances
    mesh = fipy.Grid3D(nx=shape[0], ny=shape[1], nz=shape[2], dx=mm, dy=mm, dz=mm)
    C = fipy.CellVariable(mesh=mesh, value=0.0)
    porosity, made = (
        fipy.CellVariable(mesh=mesh, value=to_fipy_order(v)) for v in (phi, source[0])
    )
    velocity = fipy.FaceVariable(mesh=mesh, rank=1, value=_fipy_velocity(mesh, flow, grid))
    equation = fipy.TransientTerm(coeff=porosity) == (
        fipy.DiffusionTerm(coeff=(2e-4 * porosity).harmonicFaceValue)
        - fipy.ExponentialConvectionTerm(coeff=velocity)
        - fipy.ImplicitSourceTerm(coeff=5e-5 * porosity)
        + made
    )

    def solve(substeps: int) -> np.ndarray:
        C.setValue(0.0)
        for _ in range(steps * substeps):
            equation.solve(var=C, dt=end / steps / substeps)
        return C.value.reshape(shape[::-1]).transpose(2, 1, 0).copy()

    theirs, coarse = timed(lambda: solve(1))
    finer = 2 * solve(2) - coarse  # backward Euler, extrapolated to second order
    found = run.U[-1, 0].numpy()
    head = (
        f"peer: {steps} steps of {shape}: nanopinn {ours:.3f} s, FiPy"
        f" {fipy.__version__} {theirs:.1f} s"
    )
    print(f"{head} ({theirs / ours:.0f} times as long)")
    for name, other in (
        ("at the same steps", coarse),
        ("extrapolated to zero step length", finer),
    ):
        print(
            f"      relative difference from FiPy {name}:"
            f" {np.linalg.norm(found - other) / np.linalg.norm(found):.1e}"
        )


def _fipy_velocity(mesh: Any, flow: FlowSolution, grid: Grid) -> np.ndarray:
    """Velocities on FiPy's faces, mm/s, from our volume flows."""
    x = np.array(mesh.faceCenters)
    value = np.zeros_like(x)
    normal = np.abs(np.array(mesh.faceNormals)).argmax(axis=0)
    for axis, f in enumerate(flow.flows):
        speed = 1e3 * f.numpy() / grid.face_area(axis)
        here = normal == axis
        index = [
            np.rint(x[a, here] / (1e3 * VOXEL_M) - (0 if a == axis else 0.5)).astype(int)
            for a in range(3)
        ]
        value[axis, here] = speed[tuple(index)]
    return value


def time_solves(device: str, shape: tuple[int, int, int]) -> None:
    forward = tumour(shape, device)
    forward.solve_flow(NONE)
    forward.last_pressure = None
    seconds, flow = timed(lambda: forward.solve_flow(NONE))
    print(f"{shape} on {device}: pressure {seconds:.3f} s")
    aif, frames = bolus()
    exact = forward.solve_contrast(NONE, flow, aif, frames, SDIRK3, 8)[0]
    integration_s, (C, _, _) = timed(lambda: forward.solve_contrast(NONE, flow, aif, frames), 3)
    low_rank_s, R = timed(lambda: contrast_low_rank(forward, flow), 3)
    for name, took, found in (
        ("time integration", integration_s, C),
        ("low rank", low_rank_s, R),
    ):
        error = float((found - exact).norm() / exact.norm())
        worst = float((found - exact).abs().max() / exact.max())
        print(
            f"  contrast, {FRAMES} frames in 10 min, {name}: {took:.3f} s, temporal error"
            f" {error:.1e} (at most {worst:.1e} of the peak)"
        )
    seconds, run = timed(lambda: drug(forward, flow, 72, 1e-4))
    finer = drug(forward, flow, 72, 1e-5)
    error = float((run.U - finer.U).norm() / finer.U.norm())
    print(
        f"  drug, {len(FULL_POOLS.pools)} pools, 72 h with one hour of heat: {seconds:.1f} s,"
        f" temporal error {error:.1e}; {run}"
    )


def time_one_size(n: int, device: str, out: Any) -> None:
    forward = tumour((n, n, n), device)
    pressure_s, flow = timed(lambda: forward.solve_flow(NONE))
    contrast_s, _ = timed(lambda: contrast_low_rank(forward, flow))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    drug_s, _ = timed(lambda: drug(forward, flow, 6, 1e-3))
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    out.put((n, pressure_s, contrast_s, drug_s, memory, whole))


def time_growth(device: str, sizes: list[int], figure: Path | None) -> None:
    """Run each size in its own process, so that peak memory is measured for that size alone."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for n in sizes:
        queue = context.Queue()
        process = context.Process(target=time_one_size, args=(n, device, queue))
        process.start()
        rows.append(queue.get())
        process.join()
        took = (
            "pressure {:.2f} s, contrast {:.2f} s, drug 6 h {:.1f} s; peak memory {:.2f} GB before"
            " the drug, {:.2f} GB after".format(*rows[-1][1:])
        )
        print(f"{n:4d}^3: {took}")
    exponents_all, exponents_largest = _exponents(rows), _exponents(rows[-3:])
    print(
        "exponent of the number of voxels over all sizes: pressure {:.2f}, contrast {:.2f}, drug"
        " {:.2f}".format(*exponents_all)
    )
    print("  over the three largest sizes: {:.2f}, {:.2f}, {:.2f}".format(*exponents_largest))
    if figure is not None:
        _draw(rows, exponents_all, figure)


def _exponents(rows: list[tuple[float, ...]]) -> list[float]:
    cells = np.log([r[0] ** 3 for r in rows])
    return [float(np.polyfit(cells, np.log([r[i] for r in rows]), 1)[0]) for i in (1, 2, 3)]


def _draw(rows: list[tuple[float, ...]], slopes: list[float], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    cells = np.array([r[0] ** 3 for r in rows])
    fig, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for i, name in ((1, "pressure"), (2, "contrast, 60 frames"), (3, "drug, 7 pools, 6 h")):
        ax.loglog(cells, [r[i] for r in rows], "o-", label=f"{name}: n^{slopes[i - 1]:.2f}")
    ax.loglog(cells, rows[-1][3] * (cells / cells[-1]) ** 1.2, "k:", label="n^1.2")
    ax.set(xlabel="voxels n", ylabel="seconds")
    ax.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--only", choices=("peer", "solves", "growth"))
    arguments.add_argument("--shape", type=int, nargs=3, default=(32, 32, 16))
    arguments.add_argument("--sizes", type=int, nargs="+", default=[16, 24, 32, 48, 64, 96])
    arguments.add_argument("--figure", type=Path)
    given = arguments.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if given.only in (None, "peer"):
        compare_with_fipy()
    if given.only in (None, "solves"):
        time_solves(given.device, tuple(given.shape))
    if given.only in (None, "growth"):
        time_growth(given.device, given.sizes, given.figure)


if __name__ == "__main__":
    main()
