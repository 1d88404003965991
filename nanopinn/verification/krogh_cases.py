"""Pools around a vessel: sink in closed form, retarded front, penetration of doxorubicin (V3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nanopinn.parameters import MMHG, UM, value
from nanopinn.physics import analytic
from nanopinn.physics.cell_kill import efflux_rate, uptake_rate
from nanopinn.physics.circulation import free_drug_impulse_response
from nanopinn.physics.drug_pools import DrugPoolOptions, drug_pools
from nanopinn.physics.oxygen import OxygenSupply, oxygen_pressure
from nanopinn.physics.pools import PoolAssembler
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.implicit_stage import BlockTridiagonalStageSolver
from nanopinn.solvers.krogh import (
    KroghSolution,
    half_distance,
    krogh_interval,
    krogh_operator,
    solve_cylinders,
    vessel_pools,
)
from nanopinn.verification.case import VerificationCase, order_of_convergence
from nanopinn.verification.treatment_cases import ONE, one_cylinder


def krogh_sink() -> list[VerificationCase]:
    """V3: first-order sink behind a permeable wall, by the formula and by the solver, whose order
    of convergence is observed.
    """
    R_c, R_t, phi_D, k, P = 10 * UM, 100 * UM, 4.68e-11, 0.02, 2.67e-6
    source = "modified Bessel functions"
    points = {10: 0.51881, 60: 0.11809, 100: 0.08245}
    errors = []
    for cells in (16, 32, 64):
        cylinders = one_cylinder(R_t, cells)
        pools = PoolAssembler(("drug",), ONE)
        pools.add_transport("drug", 0.0, phi_D * ONE)
        pools.add_loss("drug", k * ONE)
        PS = P * cylinders.surface_density[:, None, None]
        pools.add_wall_exchange("drug", 0, PS, PS)
        operator, capacity, _ = krogh_operator(pools.coefficients(), cylinders)
        C = BlockTridiagonalStageSolver(operator, 0 * capacity, 1.0).solve(
            operator.plasma_source(capacity.new_ones(1))
        )[0][0]
        exact = torch.as_tensor(
            analytic.krogh_first_order(cylinders.r.numpy(), R_c, R_t, phi_D, k, P)
        )
        errors.append(float(cylinders.tissue_mean((C - exact) ** 2).sqrt()))
    profile, x = C[0, 0].numpy(), cylinders.r[0, 0].log().numpy()
    # linear extrapolation to the wall, and a parabola with zero slope at the edge
    ends = [1.5 * profile[0] - 0.5 * profile[1], profile[-1] - (profile[-2] - profile[-1]) / 8]
    solved = np.interp(
        np.log(np.array(list(points)) * UM),
        [np.log(R_c), *x, np.log(R_t)],
        [ends[0], *profile, ends[1]],
    )
    formula = analytic.krogh_first_order(np.array(list(points)) * UM, R_c, R_t, phi_D, k, P)
    found = []
    for (at, reference), by_formula, by_solver in zip(points.items(), formula, solved, strict=True):
        found.append(
            VerificationCase(
                "V3",
                "Krogh cylinder, formula",
                f"C({at} um)",
                float(by_formula),
                reference,
                1e-5,
                source,
            )
        )
        found.append(
            VerificationCase(
                "V3",
                "Krogh cylinder, 64 cells",
                f"C({at} um)",
                float(by_solver),
                reference,
                1e-4,
                source,
            )
        )
    for n, coarse, fine in ((32, *errors[:2]), (64, *errors[1:])):
        order = order_of_convergence(coarse, fine)
        found.append(
            VerificationCase(
                "V3",
                f"Krogh cylinder, {n // 2} to {n} cells",
                "order of the error",
                order,
                2.0,
                0.1,
                "second-order cells",
            )
        )
    return found


def _add_cells(pools: PoolAssembler, uptake: float, efflux: float) -> None:
    """Exchange between free drug and cells, 1/s."""
    pools.add_transfer("free", "intracellular", uptake * ONE)
    pools.add_transfer("intracellular", "free", efflux * ONE)


def retarded_front() -> list[VerificationCase]:
    """V3: reversible uptake retards diffusion of doxorubicin, C = erfc(x/2 sqrt(D t/R)).

    The vessel is so wide that the tissue is flat, and exchange with cells is a hundred times faster
    than by the table, so that it is at equilibrium everywhere.
    """
    phi, D, t, R_c = value("ve_t"), value("D_f_t"), 3600.0, 10e-3
    uptake, efflux = (
        float(uptake_rate(7.4 * torch.ones((), dtype=torch.float64))),
        float(efflux_rate()),
    )
    R = 1 + uptake / efflux / phi
    cylinders = one_cylinder(R_c + 300 * UM, 150, R_c)
    pools = PoolAssembler(("free", "intracellular"), ONE)
    pools.set_capacity("free", phi * ONE)
    pools.add_transport("free", 0.0, phi * D * ONE)
    _add_cells(pools, 100 * uptake, 100 * efflux)
    open_wall = 1.0 * cylinders.surface_density[:, None, None]
    pools.add_wall_exchange("free", 0, open_wall, open_wall)
    interval = krogh_interval(
        0.0, t, pools.coefficients(), cylinders, lambda t: torch.ones(1, dtype=torch.float64)
    )
    C = solve_cylinders([interval], pools.names, (), cylinders, [t]).pool("free")[0, 0, 0]
    exact = torch.as_tensor(analytic.ogata_banks(cylinders.r[0, 0].numpy() - R_c, t, 0.0, D / R))
    error = float((C - exact).norm() / exact.norm())
    at_phi = 1 + uptake / efflux / 0.4
    return [
        VerificationCase(
            "V3",
            "retarded front",
            "retardation at phi 0.4, pH 7.4",
            at_phi,
            157.0,
            1.0,
            "El-Kareh and Secomb 2000 constants",
        ),
        VerificationCase(
            "V3",
            "retarded front, 1 h",
            "relative L2 from erfc(x/2 sqrt(D t/R))",
            error,
            0.0,
            5e-3,
            "local equilibrium",
        ),
    ]


def doxorubicin_bolus(R_t: float, save_at: list[float]) -> KroghSolution:
    """Free doxorubicin around one vessel after a bolus, with the dose and parameters of the table.

    Args:
        R_t: radius of the tissue, m.
        save_at: times of the profiles, s.
    """
    cylinders = one_cylinder(R_t, 48, value("R_c"))
    maps = TissueMaps(
        ONE, value("Ktrans_t") * ONE, value("ve_t") * ONE, value("vp_t") * ONE, 6.9 * ONE
    )
    detail = DrugPoolOptions(carrier=False, bound=True, saturable=True)
    pools = drug_pools(
        TumourModel.from_maps(maps, None, {"SV": float(cylinders.surface_density) / value("SV_t")}),
        0 * ONE,
        0 * ONE,
        detail,
    )
    curve = free_drug_impulse_response().scaled(value("Dose") * (1 - value("fb")))

    def plasma(t: float) -> Tensor:
        unbound = curve(torch.tensor(t, dtype=torch.float64))
        return torch.stack([torch.zeros_like(unbound), unbound])

    interval = krogh_interval(0.0, save_at[-1], pools, cylinders, plasma)
    return solve_cylinders([interval], pools.names, vessel_pools(pools), cylinders, save_at)


def doxorubicin_half_distance() -> list[VerificationCase]:
    """Published: half-distance of doxorubicin in xenografts, 20 to 50 um at 10 to 20 min."""
    found = doxorubicin_bolus(120 * UM, [600.0, 1200.0])
    source = "Primeau 2005 (40-50 um), BMC Cancer 2012 12:214 (24-43 um)"
    cases = [
        VerificationCase(
            "bracket",
            "doxorubicin around a vessel",
            f"half-distance in cells at {minutes} min, um",
            float(d) / UM,
            35.0,
            15.0,
            source,
        )
        for minutes, d in zip(
            (10, 20), half_distance(found.cells(), found.cylinders)[:, 0, 0], strict=True
        )
    ]
    supply, edge = OxygenSupply.from_values(), torch.tensor([125 * UM], dtype=torch.float64)
    p = float(oxygen_pressure(edge, edge, value("R_c"), supply.D, supply.M, supply.p_0)) / MMHG
    text = "Primeau 2005: hypoxia 90-140 um from vessels, by which the table's consumption was set"
    return [
        *cases,
        VerificationCase(
            "bracket",
            "oxygen around a vessel",
            "p 115 um from it, R_t 125 um, mmHg",
            p,
            10.0,
            0.2,
            text,
        ),
    ]
