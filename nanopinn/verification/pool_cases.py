"""Pools in tissue: release, contrast agent without flow, conservation, and scaling of the pressure
(V6, V7, V9, V10).
"""

from __future__ import annotations

import numpy as np
import torch

from nanopinn.imaging.dce.convolution import convolve_exponential
from nanopinn.parameters import value
from nanopinn.physics import analytic
from nanopinn.physics.formulation_library import PH_SENSITIVE, THERMOSENSITIVE
from nanopinn.physics.heat import scheduled_temperature
from nanopinn.physics.plasma import Dose
from nanopinn.physics.pools import PoolAssembler
from nanopinn.physics.radiation import RadiationCourse
from nanopinn.physics.treatment import GivenDose, Treatment
from nanopinn.solvers.forward import ForwardModel
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.integrate import drug_nodes
from nanopinn.solvers.linear_pools import integrate_fixed_steps
from nanopinn.solvers.nonlinear_pools import EvolutionResult, Tolerance, integrate_adaptive
from nanopinn.solvers.operator import PoolOperator
from nanopinn.solvers.runge_kutta import SDIRK3, TR_BDF2
from nanopinn.solvers.time_partition import TreatmentTimeline
from nanopinn.solvers.tissue_setting import Setting
from nanopinn.verification.case import VerificationCase, small_tissue


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
    still = Setting(
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
    forward = ForwardModel(setting, lambda th: {})
    none = torch.zeros(0, dtype=torch.float64)
    flow = forward.solve_flow(none)
    found = []
    for scheme in (TR_BDF2, SDIRK3):
        run = forward.solve_drug(
            none, flow, PH_SENSITIVE.bolus_curves(), drug_nodes([3600.0, 86400.0]), scheme
        )
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


def _evolve_heated_tissue(setting: Setting) -> EvolutionResult:
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
