"""One vessel and its tissue, under one arm: the setting in which arms are matched."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.physics.drug import CELLULAR_POOLS, DrugPoolOptions
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.model import TissueMaps, TumourModel
from nanopinn.physics.plasma import Dose
from nanopinn.physics.pools import PoolCoefficients
from nanopinn.solvers.exposure import ExposureAccumulator
from nanopinn.solvers.interval import Interval
from nanopinn.solvers.krogh import krogh_interval, vessel_pools
from nanopinn.solvers.penetration import KroghSolution, solve_cylinders
from nanopinn.solvers.radial import KroghCylinders

UM = 1e-6
ONE = torch.ones(1, 1, 1, dtype=torch.float64)
#: 50 mg/m2 of 1.8 m2, as a bolus.
DOSE = (Dose(0.0, 90e-6),)
HOT_K, BODY_K = 315.15, 310.15
PHI = 0.3


def one_cylinder(R_t: float, cells: int, R_c: float = 10 * UM) -> KroghCylinders:
    """A single vessel."""
    return KroghCylinders(
        R_c, torch.full((1, 1), R_t, dtype=torch.float64), torch.ones(1, dtype=torch.float64), cells
    )


class Vessel:
    """A vessel of 10 um in tissue of 100 um, phi .3, pH 7.4, no flow of fluid, no sites in nuclei, walls of the table's permeability.

    The exchange is through the cylinder's own wall, not through the table's S/V. Heat opens carriers and does nothing else.

    Args:
        formulation: 90 mg of it as a bolus at 0.
        heated_s: 42 C from 0 on.
        depleted: whether tissue depletes the microvessels' plasma (two-way); otherwise they are a pool of the same transit time
            that tissue takes nothing from: carriers ``C_l/(1 + k tau)``, free drug ``C_f + k tau`` times that.
    """

    def __init__(
        self, formulation: Formulation, heated_s: float = 0.0, *, depleted: bool = True
    ) -> None:
        self.formulation, self.heated_s, self.depleted = formulation, heated_s, depleted
        self.cylinders = one_cylinder(100 * UM, 48)
        self.detail = DrugPoolOptions(
            formulation.circulation is not None, bound=True, saturable=True, vessels=depleted
        )
        blood = float((self.cylinders.wall_radius / self.cylinders.R_t) ** 2)
        maps = TissueMaps(
            ONE, value("Ktrans_t") * ONE, PHI * ONE, blood * (1 - value("Hct")) * ONE, 7.4 * ONE
        )
        self.model = TumourModel.of(
            maps, {"k_on_DNA": 0.0}, {"SV": float(self.cylinders.surface_density) / value("SV_t")}
        )

    def run(self, save_at: list[float]) -> tuple[KroghSolution, ExposureAccumulator]:
        """Pools at some times, and peaks up to the last."""
        gathered, vessels = (
            ExposureAccumulator(self.detail.pools),
            vessel_pools(self._pool_coefficients(BODY_K)),
        )
        return solve_cylinders(
            self._intervals(save_at[-1]),
            self.detail.pools,
            vessels,
            self.cylinders,
            save_at,
            on_step=gathered,
        ), gathered

    def outside_carriers(self, run: KroghSolution) -> Tensor:
        """Mean over the tissue of all drug that is not in a carrier, ``(time,)``, kg/m3 of tissue."""
        of_tissue = {"free": PHI, "bound": PHI, **dict.fromkeys(CELLULAR_POOLS, 1.0)}
        return sum(
            (of_tissue.get(n, 0.0) * run.mean[:, p, 0] for p, n in enumerate(run.names)),
            torch.zeros(len(run.times)),
        )

    def _intervals(self, end: float) -> list[Interval]:
        marks = sorted({0.0, min(self.heated_s, end), end})
        temperatures = [
            (a, b, HOT_K if b <= self.heated_s else BODY_K) for a, b in itertools.pairwise(marks)
        ]
        return [
            krogh_interval(a, b, self._pool_coefficients(T), self.cylinders, self._plasma(T))
            for a, b, T in temperatures
        ]

    def _heat_release_excess(self, T_K: float) -> Tensor:
        return self.formulation.heat_release_excess(T_K * ONE)

    def _pool_coefficients(self, T_K: float) -> PoolCoefficients:
        if not self.detail.carrier:
            return self.model.drug(0 * ONE, 0 * ONE, self.detail)
        release = self.formulation.release_rate(self.model.maps.pH, T_K * ONE)
        return self.model.drug(
            0 * ONE, 0 * ONE, self.detail, release, self._heat_release_excess(T_K)
        )

    def _plasma(self, T_K: float) -> Callable[[float], Tensor]:
        given = self.formulation.plasma(DOSE)
        per_pass = 0.0 if self.depleted else float(self._heat_release_excess(T_K)) * value("tau_c")

        def plasma(t: float) -> Tensor:
            carried, unbound = (
                c(torch.tensor(t, dtype=torch.float64))
                for c in (given.releasable(), given.unbound())
            )
            carried = carried / (1 + per_pass)
            return torch.stack([carried, unbound + (1 - given.fb) * per_pass * carried])

        return plasma
