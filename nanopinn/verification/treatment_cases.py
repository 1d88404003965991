"""Plasma curves, release in heated vessels, and cells at equilibrium (V6, V8, PK)."""

from __future__ import annotations

import math

import torch

from nanopinn.parameters import value
from nanopinn.parameters.units import HOUR
from nanopinn.physics.cell_kill import CELLS_PER_UNIT
from nanopinn.physics.drug_pools import DrugPoolOptions, drug_pools
from nanopinn.physics.formulation_library import FREE, PEGYLATED, THERMOSENSITIVE
from nanopinn.physics.release import single_pass_release_fraction
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval
from nanopinn.verification.arm_cases import DOSE
from nanopinn.verification.case import VerificationCase

DRUMMOND = "Gabizon 1994 as tabulated in Drummond 1999"


def _in_bracket(
    name: str, quantity: str, observed: float, low: float, high: float
) -> VerificationCase:
    """A value that must lie in a published bracket."""
    bracket = f"{quantity}, bracket {low:g} to {high:g}"
    return VerificationCase(
        "PK", name, bracket, observed, (low + high) / 2, (high - low) / 2, DRUMMOND
    )


def plasma_brackets() -> list[VerificationCase]:
    """PK: half-life, AUC and clearance of PLD, and AUC of free drug, at 50 mg/m2 (90 mg)."""
    per_kg = 1e3 / HOUR  # kg s/m3 in mg h/L
    encapsulated, free = PEGYLATED.plasma(DOSE).encapsulated, FREE.plasma(DOSE).free
    late = torch.tensor([100.0, 200.0], dtype=torch.float64) * HOUR
    C = encapsulated(late)
    half_life = float(100.0 * math.log(2) / torch.log(C[0] / C[1]))
    area = encapsulated.area() * per_kg
    return [
        _in_bracket("PLD in plasma", "terminal half-life, h", half_life, 29, 74),
        _in_bracket("PLD in plasma", "AUC, mg h/L (published mean 902)", area, 335, 2497),
        _in_bracket("PLD in plasma", "clearance, L/h", 90 / area, 0.03, 0.24),
        _in_bracket(
            "free drug in plasma",
            "AUC, mg h/L (published mean 3.5)",
            free.area() * per_kg,
            2.6,
            6.0,
        ),
    ]


def hot_release() -> list[VerificationCase]:
    """V6: release of a thermosensitive liposome at 42 C, in 20 s and per pass through vessels."""
    pH = torch.tensor(7.0, dtype=torch.float64)
    k = float(THERMOSENSITIVE.release_rate(pH, torch.tensor(315.15, dtype=torch.float64)))
    found = [
        VerificationCase(
            "V6",
            "LTSL at 42 C",
            "released in 20 s",
            -math.expm1(-20 * k),
            0.600,
            5e-4,
            "Needham 2013: 60 % in 20 s",
        )
    ]
    for tau, share in ((5.0, 0.19), (10.0, 0.31)):
        observed = float(single_pass_release_fraction(k, tau))
        quantity = f"released per pass, transit time {tau:g} s"
        found.append(
            VerificationCase(
                "V6",
                "LTSL at 42 C",
                quantity,
                observed,
                share,
                5e-3,
                "k tau/(1 + k tau) at the rate of Needham 2013",
            )
        )
    return found


def partition_at_equilibrium() -> list[VerificationCase]:
    """V8: equilibrium ``I = rho (K_i/K_e) F`` of a closed voxel at pH 7.4, below and above
    saturation.
    """
    one = torch.ones((2, 2, 2), dtype=torch.float64)
    tissue = TissueMaps(one, 1e-3 * one, 0.3 * one, 0.03 * one, 7.4 * one)
    # impermeable walls
    pools = drug_pools(
        TumourModel.from_maps(tissue, None, {"P": 0.0}),
        0 * one,
        0 * one,
        DrugPoolOptions(carrier=False, saturable=True),
    )
    still = tuple(torch.zeros(s, dtype=torch.float64) for s in ((3, 2, 2), (2, 3, 2), (2, 2, 3)))
    end, free, cell = 1e8, pools.names.index("free"), pools.names.index("intracellular")
    interval = Interval.from_pools(
        0.0,
        end,
        pools,
        still,
        Grid((2, 2, 2), (1e-3,) * 3),
        lambda t: torch.zeros(2, dtype=torch.float64),
    )
    found = []
    for F_0 in (1e-2, 10.0):
        start = torch.zeros_like(interval.capacity)
        start[free] = F_0
        U = integrate_adaptive([interval], start, [end], tolerance=Tolerance(max_step=1e7)).U[
            -1, :, 0, 0, 0
        ]
        expected = float(U[free]) * value("rho_c") / CELLS_PER_UNIT * value("K_i") / value("K_e")
        quantity = f"I over rho (K_i/K_e) F, at F = {float(U[free]) / value('K_e'):.2g} K_e"
        found.append(
            VerificationCase(
                "V8", "closed voxel", quantity, float(U[cell]) / expected, 1.0, 1e-8, "z = 0"
            )
        )
    return found
