"""Pools in voxels and below them (V4 to V7, V9, V10, V12, V13).

Voxels: release, contrast agent without flow, conservation, scaling of the pressure. Below the
voxel: oxygen around a vessel, fronts, walls and barriers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nanopinn.imaging.dce.convolution import convolve_exponential
from nanopinn.parameters import MG, MMHG, UM, value
from nanopinn.physics import analytic
from nanopinn.physics.barrier import layered_permeability, series_conductance
from nanopinn.physics.flow import exchange_coefficients
from nanopinn.physics.formulation_library import PH_SENSITIVE, THERMOSENSITIVE
from nanopinn.physics.heat import scheduled_temperature
from nanopinn.physics.oxygen import oxygen_pressure, oxygen_zones, supplied_radius
from nanopinn.physics.plasma import Dose
from nanopinn.physics.pools import PoolAssembler
from nanopinn.physics.treatment import GivenDose, RadiationCourse, Treatment
from nanopinn.solvers.drug_course import bolus_course
from nanopinn.solvers.drug_forward import solve_drug
from nanopinn.solvers.fluxes import TransportOperator
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.implicit_stage import BlockTridiagonalStageSolver
from nanopinn.solvers.integrate import drug_nodes
from nanopinn.solvers.linear_pools import integrate_fixed_steps
from nanopinn.solvers.nonlinear_pools import EvolutionResult, Tolerance, integrate_adaptive
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.runge_kutta import SDIRK3, TR_BDF2
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.solvers.treatment_timeline import TreatmentTimeline
from nanopinn.verification.case import VerificationCase, order_of_convergence, small_tissue


def release_chain() -> list[VerificationCase]:
    """V6: release of a carrier and elimination of the released drug, by time integration."""
    k, k_out = 0.0458, 0.02
    one = torch.ones((1, 2, 2, 2), dtype=torch.float64)
    system = PoolAssembler(("carrier", "released"), one[0])
    system.add_transfer("carrier", "released", k)
    system.add_loss("released", k_out)
    pools = system.coefficients()
    grid = Grid((2, 2, 2), (1e-3, 1e-3, 1e-3))
    flows = tuple(torch.zeros(s, dtype=torch.float64) for s in ((3, 2, 2), (2, 3, 2), (2, 2, 3)))
    operator = PoolOperator.from_pools(pools, flows, grid)
    start = torch.cat([one, 0 * one])
    times = np.linspace(0.0, 60.0, 121)
    # the integrator starts from 0 and solves for the change, with the source -A times the start
    run = integrate_fixed_steps(
        operator, pools.capacity, lambda t: (-operator(start), None), list(times), scheme=TR_BDF2
    )
    carrier, released = (run.U + start)[:, 0, 0, 0, 0], (run.U + start)[:, 1, 0, 0, 0]
    bateman = float(analytic.bateman(np.array([60.0]), k, k_out)[0])
    text = "Needham 2013: 60 % in 20 s"
    return [
        VerificationCase(
            "V6", "release", "released at 20 s", 1 - float(carrier[40]), 0.600, 5e-4, text
        ),
        VerificationCase(
            "V6", "release", "released at 60 s", 1 - float(carrier[120]), 0.936, 5e-4, text
        ),
        VerificationCase(
            "V6",
            "Bateman chain",
            "product at 60 s",
            float(released[120]),
            bateman,
            1e-5,
            "closed solution",
        ),
    ]


def contrast_is_tofts() -> list[VerificationCase]:
    """V7: without flow and diffusion between cells the contrast agent follows extended Tofts."""
    setting, aif, frames = small_tissue()
    still = TissueSetting(
        setting.maps, Grid(setting.grid.shape, (1.0, 1.0, 1.0)), 1
    )  # cells of 1 m: no flux through their faces matters
    forward = ForwardModel(still, lambda th: {"q": torch.tensor(1e-20, dtype=torch.float64)})
    none = torch.zeros(0, dtype=torch.float64)
    C, _, _ = forward.solve_contrast(none, forward.solve_flow(none), aif, frames)
    m = setting.maps
    curve = [torch.as_tensor(v) for v in (aif.times_s, aif.plasma_mM)]
    response = convolve_exponential(curve[0], curve[1], m.PS / m.phi, torch.as_tensor(frames))
    plasma = torch.as_tensor(np.interp(frames, aif.times_s, aif.plasma_mM, left=0.0))
    tofts = (m.PS[..., None] * response + m.v_p[..., None] * plasma).movedim(-1, 0)
    error = float((C - tofts).abs().max() / tofts.abs().max())
    return [
        VerificationCase(
            "V7",
            "contrast agent at rest",
            "relative distance from extended Tofts",
            error,
            0.0,
            1e-6,
            "Tofts 1999",
        )
    ]


def mass_balance() -> list[VerificationCase]:
    """V9: mass balance of linear pools with both schemes, of all pools, and of the fluid."""
    setting, _, _ = small_tissue()
    course = bolus_course(PH_SENSITIVE, 90 * MG)
    forward = ForwardModel(setting, lambda th: {}, course=course)
    none = torch.zeros(0, dtype=torch.float64)
    flow = forward.solve_flow(none)
    found = []
    for scheme in (TR_BDF2, SDIRK3):
        run = solve_drug(forward, none, flow, drug_nodes([3600.0, 86400.0]), scheme)
        found.append(_mass_balance_case(f"drug pools, {scheme.name}", run.balance.error))
    found.append(
        _mass_balance_case(
            "every pool, heat, saturable uptake", _evolve_heated_tissue(setting).balance.error
        )
    )
    net = sum(float((f.select(a, -1) - f.select(a, 0)).sum()) for a, f in enumerate(flow.flows))
    made = float((flow.J_v - flow.J_L).sum()) * setting.grid.cell_volume
    scale = float(flow.J_v.abs().sum()) * setting.grid.cell_volume
    found.append(_mass_balance_case("fluid", abs(net - made) / scale))
    return found


def _mass_balance_case(name: str, observed: float) -> VerificationCase:
    """A mass-balance error beside 0."""
    return VerificationCase(
        "V9", name, "relative mass-balance error", observed, 0.0, 1e-10, "conservation"
    )


def _evolve_heated_tissue(setting: TissueSetting) -> EvolutionResult:
    """Thermosensitive liposomes with an hour of heat, over a day, with all pools."""
    dose = GivenDose(THERMOSENSITIVE, Dose(0.0, value("Dose")))
    treatment = Treatment(
        (dose,), heatings=(), radiation=RadiationCourse(), images_s=(), end_s=86400.0
    )
    course = TreatmentTimeline(
        setting,
        {},
        treatment,
        scheduled_temperature(setting.maps.tumour, value("T_hot"), 0.0, 3600.0),
    )
    return integrate_adaptive(
        course.intervals(), course.zero_pools(), [86400.0], tolerance=Tolerance(step=1e-3)
    )


def pressure_scaling() -> list[VerificationCase]:
    """V10: the scaling (K, Lp, p_e) -> (a K, a Lp, p_e/a) leaves the contrast agent unchanged."""
    setting, aif, frames = small_tissue()
    none = torch.zeros(0, dtype=torch.float64)

    def contrast(p_e: float) -> torch.Tensor:
        forward = ForwardModel(setting, lambda th: {"p_e": torch.tensor(p_e, dtype=torch.float64)})
        return forward.solve_contrast(none, forward.solve_flow(none), aif, frames)[0]

    one, other = contrast(1533.0), contrast(1533.0 / 4)
    error = float((one - other).abs().max() / one.abs().max())
    return [
        VerificationCase(
            "V10",
            "scaling of p_e by 4",
            "relative change of the images",
            error,
            0.0,
            1e-13,
            "exact symmetry",
        )
    ]


def oxygen_cylinder() -> list[VerificationCase]:
    """V4: oxygen at the edge of the cylinder, and balance of flux and consumption at the free
    boundary.
    """
    D, M, p_0, R_c = 2000 * UM**2, 15 * MMHG, 40 * MMHG, 10 * UM
    R_t = torch.tensor([50.0, 70.0, 90.0], dtype=torch.float64) * UM
    p = oxygen_pressure(R_t, R_t, R_c, D, M, p_0) / MMHG
    found = [
        VerificationCase(
            "V4",
            "oxygen, Krogh-Erlang",
            f"p(R_t = {R:.0f} um), mmHg",
            float(v),
            ref,
            5e-3,
            "Krogh 1919",
        )
        for R, v, ref in zip((50, 70), p[:2], (29.41, 13.24), strict=True)
    ]
    r_a, h = supplied_radius(R_t[2:], R_c, D, M, p_0), 1e-4 * UM
    wall = torch.tensor([R_c], dtype=torch.float64)
    slope = (oxygen_pressure(wall + h, R_t[2:], R_c, D, M, p_0) - p_0) / h
    supplied = float(-2 * R_c * D * slope / (M * (r_a**2 - R_c**2)))
    zones = oxygen_zones(R_t, R_c, D, M, p_0, 10 * MMHG, 0.0)
    total = zones.proliferating + zones.quiescent + zones.necrotic
    exact = "conservation"
    return [
        *found,
        VerificationCase(
            "V4",
            "oxygen, anoxic core",
            "wall flux over consumption inside r_a",
            supplied,
            1.0,
            1e-4,
            exact,
        ),
        VerificationCase(
            "V4",
            "oxygen zones",
            "largest difference of their sum from 1",
            float((total - 1).abs().max()),
            0.0,
            1e-12,
            exact,
        ),
    ]


def _line(velocity: float, D: float, h: float, cells: int) -> tuple[PoolOperator, Tensor]:
    """A column of cells whose first cell, at x = 0, is held at the input."""
    grid, one = Grid((2, 2, cells), (h, h, h)), torch.ones((2, 2, cells), dtype=torch.float64)
    strong = torch.zeros_like(one)
    strong[..., 0] = 1e5
    pools = PoolAssembler(("tracer",), one)
    pools.add_transport("tracer", 1.0, D * one)
    pools.add_loss("tracer", strong)
    pools.add_plasma_source("tracer", 0, strong)
    flows = [torch.zeros(s, dtype=torch.float64) for s in ((3, 2, cells), (2, 3, cells))]
    flows.append(torch.full((2, 2, cells + 1), velocity * h**2, dtype=torch.float64))
    return PoolOperator.from_pools(pools.coefficients(), tuple(flows), grid), one[None]


def _front(h: float, steps: int, points: Sequence[float]) -> tuple[Tensor, float]:
    """The front after 600 s at some points, and the relative L2 norm of its error."""
    v, D, end, length = 0.17 * UM, 117 * UM**2, 600.0, 2400 * UM
    operator, capacity = _line(v, D, h, round(length / h) + 1)
    times, source = (
        list(np.linspace(0.0, 1.0, steps + 1) ** 2 * end),
        operator.plasma_source(capacity.new_ones(1)),
    )
    C = integrate_fixed_steps(
        operator, capacity, lambda t: (source, None), times, scheme=SDIRK3, tol=1e-12
    ).U[-1, 0, 0, 0]
    x = np.linspace(0.0, h * (len(C) - 1), len(C))
    exact = torch.as_tensor(analytic.ogata_banks(x, end, v, D))
    return C[[round(p / h) for p in points]], float((C - exact).norm() / exact.norm())


def travelling_front() -> list[VerificationCase]:
    """V5: the front of Ogata and Banks through a line of cells, and its order of convergence."""
    source, points = "Ogata and Banks 1961", (100 * UM, 300 * UM, 500 * UM)
    formula = analytic.ogata_banks(np.array(points), 600.0, 0.17 * UM, 117 * UM**2)
    errors = []
    for h, steps in ((50 * UM, 20), (25 * UM, 40), (12.5 * UM, 80)):
        C, error = _front(h, steps, points)
        errors.append(error)
    found = []
    for x, exact, solved, reference in zip(
        (100, 300, 500), formula, C, (0.8432, 0.5177, 0.2559), strict=True
    ):
        found.append(
            VerificationCase(
                "V5", "front, formula", f"C({x} um)", float(exact), reference, 1e-4, source
            )
        )
        found.append(
            VerificationCase(
                "V5", "front, 12.5 um cells", f"C({x} um)", float(solved), reference, 1.5e-4, source
            )
        )
    order = order_of_convergence(errors[1], errors[2])
    return [
        *found,
        VerificationCase(
            "V5",
            "front, 25 to 12.5 um",
            "order of the error",
            order,
            2.0,
            0.1,
            "second-order faces",
        ),
    ]


def wall_limits() -> list[VerificationCase]:
    """V12: limits of the wall flux without and with dominant solvent drag, over 600 decades."""
    PS, sigma = torch.tensor(1e-6, dtype=torch.float64), 0.2
    J = 10.0 ** torch.linspace(-300, 300, 601, dtype=torch.float64)
    a, b = exchange_coefficients(PS, torch.cat([J, -J]), sigma)
    finite = float((torch.isfinite(a) & torch.isfinite(b)).double().mean())
    slow = max(abs(float(x[0] / PS) - 1) for x in (a, b))
    drag = 1e300 * (1 - sigma)
    text = "Patlak 1963, limit"
    return [
        VerificationCase(
            "V12",
            "wall flux, Pe 1e-294 to 1e306",
            "share of finite values",
            finite,
            1.0,
            0.0,
            "no overflow",
        ),
        VerificationCase(
            "V12",
            "wall flux, Pe -> 0",
            "a and b over PS, difference from 1",
            slow,
            0.0,
            1e-12,
            text,
        ),
        VerificationCase(
            "V12",
            "wall flux, Pe -> inf",
            "a over J_v (1 - sigma)",
            float(a[600]) / drag,
            1.0,
            1e-12,
            text,
        ),
        VerificationCase(
            "V12",
            "wall flux, Pe -> inf",
            "b over J_v (1 - sigma)",
            float(b[600]) / drag,
            0.0,
            1e-12,
            text,
        ),
        VerificationCase(
            "V12",
            "wall flux, Pe -> -inf",
            "b over |J_v| (1 - sigma)",
            float(b[1201]) / drag,
            1.0,
            1e-12,
            text,
        ),
    ]


def _layered_flux(layers: Sequence[tuple[float, float]], P: float, cells: int) -> float:
    """Steady flux from 1 to 0 through two layers with a thin interface, mol/(m2 s)."""
    (L1, D1), (L2, D2) = layers
    g1, g2 = D1 * cells / L1, D2 * cells / L2
    # the interface is in series with half a cell on either side
    inner = [g1] * (cells - 1) + [float(series_conductance(2 * g1, P, 2 * g2))] + [g2] * (cells - 1)
    n = 2 * cells
    face = torch.zeros((1, 1, 1, n + 1), dtype=torch.float64)
    face[..., 1:n] = torch.tensor(inner, dtype=torch.float64)
    reaction = torch.zeros((1, 1, n), dtype=torch.float64)
    reaction[..., 0], reaction[..., -1] = 2 * g1, 2 * g2
    closed = (
        torch.zeros((1, 2, 1, n), dtype=torch.float64),
        torch.zeros((1, 1, 2, n), dtype=torch.float64),
    )
    operator = PoolOperator(
        1, (0,), TransportOperator((*closed, face), (*closed, face)), {(0, 0): reaction}, {}
    )
    fed = torch.zeros((1, 1, 1, n), dtype=torch.float64)
    fed[..., 0] = 2 * g1
    C, _ = BlockTridiagonalStageSolver(operator, 0 * fed, 1.0).solve(fed)
    return float(2 * g2 * C[..., -1])


def thin_interface() -> list[VerificationCase]:
    """V13: two layers with a thin interface, in closed form and on coarse and fine cells."""
    layers, P, reference = [(10 * UM, 6e-10), (20 * UM, 3.6e-10)], 1e-6, 9.3264e-7
    J = layered_permeability(layers, [P])
    solved = [_layered_flux(layers, P, n) for n in (1, 16)]
    source = "resistances in series"
    return [
        VerificationCase(
            "V13", "interface between layers, formula", "J, mol/(m2 s)", J, reference, 5e-12, source
        ),
        VerificationCase(
            "V13",
            "interface between layers, 2 cells",
            "J, mol/(m2 s)",
            solved[0],
            reference,
            5e-12,
            source,
        ),
        VerificationCase(
            "V13",
            "interface between layers, 32 cells",
            "J, mol/(m2 s)",
            solved[1],
            reference,
            5e-12,
            source,
        ),
    ]
