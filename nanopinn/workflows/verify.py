"""The verification cases: what the solvers give beside what is known, in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nanopinn.imaging.aif.curve import PlasmaCurve
from nanopinn.imaging.kinetics.convolution import convolve_exponential
from nanopinn.physics import analytic
from nanopinn.physics.model import FlowCoefficients, PoolCoefficients, TissueMaps
from nanopinn.physics.plasma import leaked_free_drug, pegylated_liposome
from nanopinn.solvers.fluxes import PoolOperator
from nanopinn.solvers.forward import Forward, Setting, drug_nodes
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.march import SDIRK3, TR_BDF2, march
from nanopinn.solvers.pressure import solve_pressure

MMHG = 133.322


@dataclass(frozen=True)
class VerificationCase:
    """One observed value beside its reference; ``tolerance`` is absolute."""

    id: str
    name: str
    quantity: str
    observed: float
    reference: float
    tolerance: float
    source: str

    @property
    def passed(self) -> bool:
        return bool(abs(self.observed - self.reference) <= self.tolerance)


def run_verification() -> tuple[VerificationCase, ...]:
    """Run every case; takes about half a minute on two cores."""
    cases: tuple[Callable[[], list[VerificationCase]], ...] = (
        isolated_sphere, sphere_in_tissue, release_chain, contrast_is_tofts, mass_balance, pressure_scaling,
    )  # fmt: skip
    return tuple(case for run in cases for case in run())


def isolated_sphere() -> list[VerificationCase]:
    """V1: sphere with p = 0 at its edge; the formula in its digits, and the solver on cubes."""
    source = "Baxter and Jain 1989"
    found = []
    for alpha, points, mean in (
        (36.82, {0.9: 0.9720}, 0.9207),
        (18.41, {0.9: 0.8237}, 0.8459),
        (3.968, {1e-9: 0.8498, 0.5: 0.7300}, 0.4339),
    ):
        for x, reference in points.items():
            exact = float(analytic.isolated_sphere_pressure(np.array([x]), alpha)[0])
            quantity = f"p/p_e at x={x:.1f}, a={alpha}"
            found.append(VerificationCase("V1", "isolated sphere, formula", quantity, exact, reference, 1.5e-4, source))
        quantity, exact = f"mean p/p_e, a={alpha}", analytic.isolated_sphere_mean(alpha)
        found.append(VerificationCase("V1", "isolated sphere, formula", quantity, exact, mean, 1.5e-4, source))
    R, K, LpSV = 5e-3, 3.098e-14, 3.098e-14 * (3.968 / 5e-3) ** 2
    grid, r = _ball(R, 1.1, 64)
    inside = r < R
    # outside the ball a perfect conductor with a strong sink holds p at zero on the ball's faces
    flow = FlowCoefficients(
        K=torch.where(inside, K, 1e5 * K), LpSV=torch.where(inside, LpSV, 0.0), p_e=torch.full_like(r, 1533.0),
        LpLSL=torch.where(inside, 0.0, 1e5 * LpSV), p_L=0.0, p_inf=0.0,
    )  # fmt: skip
    p = solve_pressure(flow, grid).x / 1533.0
    exact_field = torch.as_tensor(analytic.isolated_sphere_pressure(r.numpy().clip(1e-9) / R, 3.968))
    error = float((p - exact_field)[inside].norm() / exact_field[inside].norm())
    return [
        *found,
        VerificationCase("V1", "isolated sphere, 64^3 cells", "relative L2 of p", error, 0.0, 0.03, source),
        VerificationCase("V1", "isolated sphere, 64^3 cells", "mean p/p_e", float(p[inside].mean()), 0.4339, 0.01, source),
    ]


def _ball(radius: float, widen: float, n: int) -> tuple[Grid, torch.Tensor]:
    """A cube of n^3 cells around a ball, and each cell's distance from the centre, m."""
    h = 2 * radius * widen / n
    x = (torch.arange(n, dtype=torch.float64) + 0.5) * h - radius * widen
    r = torch.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2)
    return Grid((n, n, n), (h, h, h)), r


def sphere_in_tissue() -> list[VerificationCase]:
    """V2: sphere in infinite normal tissue: far field, edge, inside, and the solver's field."""
    source = "Baxter and Jain 1989, closed solution"
    R, tissue = 5e-3, {"K_t": 3.098e-14, "LpSV_t": 4.2e-7, "p_e": 1533.0}
    normal = {"K_n": 6.4e-15, "LpSV_n": 1.89e-8, "p_e_n": 867.0, "LpLSL_n": 4.17e-7}

    def exact(r: np.ndarray) -> np.ndarray:
        return analytic.sphere_in_tissue_pressure(r, R, **tissue, **normal)

    points = {"far field": (0.1, 0.28), "edge": (R, 7.752), "r = 0.9 R": (0.9 * R, 10.838), "core": (1e-6, 11.498)}
    found = [
        VerificationCase(
            "V2",
            "sphere in tissue, formula",
            f"{name}, mmHg",
            float(exact(np.array([r]))[0]) / MMHG,
            ref,
            5e-3,
            source,
        )
        for name, (r, ref) in points.items()
    ]
    step = 1e-9
    slope = float((exact(np.array([R]))[0] - exact(np.array([R - step]))[0]) / step)
    found.append(VerificationCase(
        "V2", "sphere in tissue, formula", "edge flux, um/s", -tissue["K_t"] * slope * 1e6, 0.0539, 5e-5, source
    ))  # fmt: skip
    grid, r = _ball(R, 1.25, 96)
    inside = r < R
    flow = FlowCoefficients(
        K=torch.where(inside, tissue["K_t"], normal["K_n"]), LpSV=torch.where(inside, tissue["LpSV_t"], normal["LpSV_n"]),
        p_e=torch.where(inside, tissue["p_e"], normal["p_e_n"]), LpLSL=torch.where(inside, 0.0, normal["LpLSL_n"]),
        p_L=0.0, p_inf=0.0,
    )  # fmt: skip
    p = solve_pressure(flow, grid).x
    reference = torch.as_tensor(exact(r.numpy()))
    error = float((p - reference)[inside].norm() / reference[inside].norm())
    core = float(p[48, 48, 48]) / MMHG
    return [
        *found,
        VerificationCase("V2", "sphere in tissue, 96^3 cells", "relative L2 of p in the tumour", error, 0.0, 0.03, source),
        VerificationCase("V2", "sphere in tissue, 96^3 cells", "core, mmHg", core, 11.498, 0.01, source),
    ]


def release_chain() -> list[VerificationCase]:
    """V6: release of a carrier and the fate of what it releases, by the march."""
    k, k_out = 0.0458, 0.02
    one = torch.ones((1, 2, 2, 2), dtype=torch.float64)
    reaction = torch.zeros((2, 2, 2, 2, 2), dtype=torch.float64)
    reaction[0, 0], reaction[1, 0], reaction[1, 1] = k, -k, k_out
    pools = PoolCoefficients(
        ("carrier", "released"), torch.cat([one, one]), torch.zeros(2, dtype=torch.float64),
        torch.zeros((2, 2, 2, 2), dtype=torch.float64), reaction, torch.zeros((2, 1, 2, 2, 2), dtype=torch.float64),
    )  # fmt: skip
    grid = Grid((2, 2, 2), (1e-3, 1e-3, 1e-3))
    flows = tuple(torch.zeros(s, dtype=torch.float64) for s in ((3, 2, 2), (2, 3, 2), (2, 2, 3)))
    operator = PoolOperator.of(pools, flows, grid)
    start = torch.cat([one, 0 * one])
    times = np.linspace(0.0, 60.0, 121)
    # from 1 rather than from 0: the march of the change, whose source is -A applied to the start
    run = march(operator, pools.capacity, lambda t: (-operator(start), None), list(times), scheme=TR_BDF2)
    carrier, released = (run.U + start)[:, 0, 0, 0, 0], (run.U + start)[:, 1, 0, 0, 0]
    bateman = float(analytic.bateman(np.array([60.0]), k, k_out)[0])
    text = "Needham 2013: 60 % in 20 s"
    return [
        VerificationCase("V6", "release", "released at 20 s", 1 - float(carrier[40]), 0.600, 5e-4, text),
        VerificationCase("V6", "release", "released at 60 s", 1 - float(carrier[120]), 0.936, 5e-4, text),
        VerificationCase("V6", "Bateman chain", "product at 60 s", float(released[120]), bateman, 1e-5, "closed solution"),
    ]


def contrast_is_tofts() -> list[VerificationCase]:
    """V7: without flow and diffusion between cells the contrast agent is the extended Tofts model."""
    setting, aif, frames = _small_tissue()
    still = Setting(setting.maps, Grid(setting.grid.shape, (1.0, 1.0, 1.0)), 1)  # metre cells: nothing crosses faces
    forward = Forward(still, lambda th: {"q": torch.tensor(1e-20, dtype=torch.float64)})
    none = torch.zeros(0, dtype=torch.float64)
    C, _, _ = forward.contrast(none, forward.flow(none), aif, frames)
    m = setting.maps
    curve = [torch.as_tensor(v) for v in (aif.times_s, aif.plasma_mM)]
    response = convolve_exponential(curve[0], curve[1], m.PS / m.phi, torch.as_tensor(frames))
    plasma = torch.as_tensor(np.interp(frames, aif.times_s, aif.plasma_mM, left=0.0))
    tofts = (m.PS[..., None] * response + m.v_p[..., None] * plasma).movedim(-1, 0)
    error = float((C - tofts).abs().max() / tofts.abs().max())
    return [VerificationCase("V7", "contrast agent at rest", "relative distance from extended Tofts", error, 0.0, 1e-6, "Tofts 1999")]


def mass_balance() -> list[VerificationCase]:
    """V9: what enters a leaking tumour reacts, flows out or stays, for both schemes; and the fluid itself."""
    setting, _, _ = _small_tissue()
    forward = Forward(setting, lambda th: {})
    none = torch.zeros(0, dtype=torch.float64)
    flow = forward.flow(none)
    plasma = pegylated_liposome()
    inputs = (plasma, leaked_free_drug(plasma, 1e-6))
    found = []
    for scheme in (TR_BDF2, SDIRK3):
        run = forward.drug(none, flow, inputs, drug_nodes([3600.0, 86400.0]), scheme)
        found.append(
            VerificationCase(
                "V9",
                f"drug pools, {scheme.name}",
                "relative imbalance",
                run.balance.error,
                0.0,
                1e-8,
                "conservation",
            )
        )
    net = sum(float((f.select(a, -1) - f.select(a, 0)).sum()) for a, f in enumerate(flow.flows))
    made = float((flow.J_v - flow.J_L).sum()) * setting.grid.cell_volume
    scale = float(flow.J_v.abs().sum()) * setting.grid.cell_volume
    found.append(VerificationCase("V9", "fluid", "relative imbalance", abs(net - made) / scale, 0.0, 1e-9, "conservation"))
    return found


def pressure_scaling() -> list[VerificationCase]:
    """V10: (K, Lp, p_e) -> (aK, aLp, p_e/a) leaves the contrast agent as it was."""
    setting, aif, frames = _small_tissue()
    none = torch.zeros(0, dtype=torch.float64)

    def contrast(p_e: float) -> torch.Tensor:
        forward = Forward(setting, lambda th: {"p_e": torch.tensor(p_e, dtype=torch.float64)})
        return forward.contrast(none, forward.flow(none), aif, frames)[0]

    one, other = contrast(1533.0), contrast(1533.0 / 4)
    error = float((one - other).abs().max() / one.abs().max())
    return [VerificationCase("V10", "scaling of p_e by 4", "relative change of the images", error, 0.0, 1e-10, "exact symmetry")]


def _small_tissue() -> tuple[Setting, PlasmaCurve, np.ndarray]:
    """A heterogeneous ball of tumour in 12^3 voxels of 0.5 mm, a sharp bolus, and 30 uneven frames."""
    generator = torch.Generator().manual_seed(3)
    grid, r = _ball(2e-3, 1.5, 12)
    tumour = (r < 2e-3).double()

    def rough(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(r.shape, generator=generator, dtype=torch.float64)

    maps = TissueMaps(tumour, rough(5e-4, 3e-3), rough(0.15, 0.4), rough(0.01, 0.05), rough(6.5, 7.2))
    t = np.concatenate([[20.0, 22.0], np.arange(24.0, 400.0, 2.0)])
    aif = PlasmaCurve(times_s=t, plasma_mM=np.where(t > 20, 6.0 * np.exp(-(t - 22) / 60) + 1.0, 0.0))
    return Setting(maps, grid, 1), aif, np.cumsum(np.linspace(4.0, 18.0, 30))
