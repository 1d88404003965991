"""What is given: plasma, release in heated vessels, cells at equilibrium, and what heat adds to a tumour (V6, V8, PK, TX)."""

from __future__ import annotations

import math

import torch

from nanopinn.parameters import value
from nanopinn.physics.cells import CELLS_PER_UNIT
from nanopinn.physics.drug import DrugDetail
from nanopinn.physics.formulation import FREE, PEGYLATED, THERMOSENSITIVE, Formulation
from nanopinn.physics.model import TissueMaps, TumourModel
from nanopinn.physics.plasma import Dose
from nanopinn.physics.radiation import RadiationCourse
from nanopinn.physics.release import released_per_pass
from nanopinn.report.simulated import Simulation
from nanopinn.solvers.evolve import Tolerance, evolve
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.interval import Interval
from nanopinn.workflows.settings import PhantomSettings, SimulationSettings
from nanopinn.workflows.simulate import run_simulation
from nanopinn.workflows.treatment import GivenDose, Heating, Treatment
from nanopinn.workflows.verify.case import VerificationCase

HOUR = 3600.0
#: 50 mg/m2 of 1.8 m2, as a bolus.
DOSE = (Dose(0.0, 90e-6),)
DRUMMOND = "Gabizon 1994 as tabulated in Drummond 1999"


def _in_bracket(name: str, quantity: str, observed: float, low: float, high: float) -> VerificationCase:
    """A value against a published bracket: its middle, within half its width."""
    bracket = f"{quantity}, bracket {low:g} to {high:g}"
    return VerificationCase("PK", name, bracket, observed, (low + high) / 2, (high - low) / 2, DRUMMOND)


def plasma_brackets() -> list[VerificationCase]:
    """PK: half-life, area and clearance of PLD, area of free drug, at 50 mg/m2 (90 mg)."""
    per_kg = 1e3 / HOUR  # kg s/m3 in mg h/L
    encapsulated, free = PEGYLATED.plasma(DOSE).encapsulated, FREE.plasma(DOSE).free
    late = torch.tensor([100.0, 200.0], dtype=torch.float64) * HOUR
    C = encapsulated(late)
    half_life = float(100.0 * math.log(2) / torch.log(C[0] / C[1]))
    area = encapsulated.area() * per_kg
    return [
        _in_bracket("PLD in plasma", "terminal half-life, h", half_life, 29, 74),
        _in_bracket("PLD in plasma", "area, mg h/L (published mean 902)", area, 335, 2497),
        _in_bracket("PLD in plasma", "clearance, L/h", 90 / area, 0.03, 0.24),
        _in_bracket("free drug in plasma", "area, mg h/L (published mean 3.5)", free.area() * per_kg, 2.6, 6.0),
    ]


def hot_release() -> list[VerificationCase]:
    """V6: what a thermosensitive liposome releases at 42 C, in 20 s and per pass through the tumour's vessels."""
    pH = torch.tensor(7.0, dtype=torch.float64)
    k = float(THERMOSENSITIVE.release_rate(pH, torch.tensor(315.15, dtype=torch.float64)))
    found = [VerificationCase("V6", "LTSL at 42 C", "released in 20 s", -math.expm1(-20 * k), 0.600, 5e-4, "Needham 2013: 60 % in 20 s")]
    for tau, share in ((5.0, 0.19), (10.0, 0.31)):
        observed = float(released_per_pass(k, tau))
        quantity = f"released per pass, transit time {tau:g} s"
        found.append(
            VerificationCase("V6", "LTSL at 42 C", quantity, observed, share, 5e-3, "k tau/(1 + k tau) at the rate of Needham 2013")
        )
    return found


def partition_at_equilibrium() -> list[VerificationCase]:
    """V8: a closed voxel at pH 7.4, left alone, ends at ``I = rho (K_i/K_e) F``, below and above saturation."""
    one = torch.ones((2, 2, 2), dtype=torch.float64)
    tissue = TissueMaps(one, 1e-3 * one, 0.3 * one, 0.03 * one, 7.4 * one)
    # walls that let nothing through
    pools = TumourModel.of(tissue, None, {"P": 0.0}).drug(0 * one, 0 * one, DrugDetail(carrier=False, saturable=True))
    still = tuple(torch.zeros(s, dtype=torch.float64) for s in ((3, 2, 2), (2, 3, 2), (2, 2, 3)))
    end, free, cell = 1e8, pools.names.index("free"), pools.names.index("intracellular")
    interval = Interval.of(0.0, end, pools, still, Grid((2, 2, 2), (1e-3,) * 3), lambda t: torch.zeros(2, dtype=torch.float64))
    found = []
    for F_0 in (1e-2, 10.0):
        start = torch.zeros_like(interval.capacity)
        start[free] = F_0
        U = evolve([interval], start, [end], tolerance=Tolerance(longest_step=1e7)).U[-1, :, 0, 0, 0]
        expected = float(U[free]) * value("rho_c") / CELLS_PER_UNIT * value("K_i") / value("K_e")
        quantity = f"I over rho (K_i/K_e) F, at F = {float(U[free]) / value('K_e'):.2g} K_e"
        found.append(VerificationCase("V8", "closed voxel", quantity, float(U[cell]) / expected, 1.0, 1e-8, "z = 0"))
    return found


def what_heat_adds() -> list[VerificationCase]:
    """TX: a thermosensitive liposome with heat against free drug, and against itself without heat, in a small phantom tumour."""
    hot, free = _tumour(THERMOSENSITIVE, 30.0), _tumour(FREE, 0.0)
    ratio = max(_outside_carriers(hot)) / max(_outside_carriers(free))
    quantity = "peak drug outside carriers, LTSL + 30 min at 42 C / free"
    source = "Gasselhuber 2010: 9.3 against 3.0 ug/g (another model, at the edge of an ablation)"
    found = [VerificationCase("TX", "heat against free drug", quantity, ratio, 3.1, 0.5, source, "bracket")]
    for minutes, published in ((15, 4.6), (30, 9.3), (60, 13.2)):
        with_heat, without = (_outside_carriers(_tumour(THERMOSENSITIVE, m, minutes))[-1] for m in (minutes, 0.0))
        quantity, ratio = f"drug outside carriers, {minutes} min of heat / none", with_heat / without
        source = "Motamarry 2019: fluorescence of mouse tumours (drug that binds DNA shines less)"
        found.append(VerificationCase("TX", "heat against none", quantity, ratio, published, 0.3 * published, source, "bracket"))
    return found


def _tumour(formulation: Formulation, heated_min: float, end_min: float = 120.0) -> Simulation:
    """A bolus of 90 mg, and 42 C in the tumour from then on, which opens carriers and changes nothing else.

    The model of Gasselhuber 2010 has no effect of heat on pressure or walls; in the mice of Motamarry 2019 there was one, of unknown size.
    """
    heat = (Heating(0.0, 60 * heated_min, 0.0, "imposed", 315.15, None),) if heated_min else ()
    given, end_s = (GivenDose(formulation, DOSE[0]),), 60 * end_min
    treatment = Treatment(given, heat, RadiationCourse(), (end_s,), end_s, heat_effects=None)
    phantom = PhantomSettings.model_validate({"shape": (10, 10, 8), "refine": 2})
    return run_simulation(treatment, phantom=phantom, settings=SimulationSettings(device="cpu", refine=1))


def _outside_carriers(run: Simulation) -> list[float]:
    """Tumour mean of all drug that is not in a carrier, at every step, ug/mL."""
    return [float(v) for v in sum(v for name, v in run.courses.tumour.items() if "encapsulated" not in name)]  # type: ignore[union-attr]
