"""Duration of the sub-voxel model: Krogh cylinders of three radius classes for each cluster of
voxels, 24 h after a PEGylated liposome.

Run: OMP_NUM_THREADS=1 python benchmarks/krogh.py [--clusters 200]
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from nanopinn.parameters import value
from nanopinn.physics.drug_pools import FULL_POOLS, DrugPoolOptions, drug_pools
from nanopinn.physics.formulation_library import PEGYLATED
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.tumour import TumourModel
from nanopinn.solvers.drug_course import bolus_course
from nanopinn.solvers.krogh import krogh_interval, solve_cylinders, vessel_pools
from nanopinn.solvers.krogh_geometry import KroghCylinders
from nanopinn.solvers.nonlinear_pools import Tolerance

HOUR = 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, default=200)
    n = parser.parse_args().clusters
    generator = torch.Generator().manual_seed(0)

    def random_map(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((n, 1, 1), generator=generator, dtype=torch.float64)

    one = torch.ones(n, 1, 1, dtype=torch.float64)
    model = TumourModel.from_maps(
        TissueMaps(
            one,
            random_map(5e-4, 3e-3),
            random_map(0.15, 0.4),
            random_map(0.01, 0.05),
            random_map(6.5, 7.2),
        )
    )
    cylinders = KroghCylinders.from_plasma_volume(model.maps.v_p.flatten())
    encapsulated, free = bolus_course(PEGYLATED, value("Dose")).bolus_curves()

    def plasma(t: float) -> Tensor:
        at = torch.tensor(t, dtype=torch.float64)
        return torch.stack([encapsulated(at), free(at)])

    for name, options in (
        ("5 pools", DrugPoolOptions(bound=True, saturable=True)),
        ("with microvessels, 7 pools", FULL_POOLS),
    ):
        pools = drug_pools(model, 0 * one, 0 * one, options)
        ends: list[Tensor] = []
        for step in (1e-3, 1e-4):
            began = time.perf_counter()
            interval = krogh_interval(0.0, 24 * HOUR, pools, cylinders, plasma)
            found = solve_cylinders(
                [interval],
                pools.names,
                vessel_pools(pools),
                cylinders,
                [HOUR, 24 * HOUR],
                tolerance=Tolerance(step),
            )
            ends.append(found.U)
            seconds = time.perf_counter() - began
            print(
                f"{n} clusters x 3 classes x 32 cells, {name}, 24 h, step {step:g}:"
                f" {seconds:.1f} s, {found.steps} steps",
                end="; ",
            )
            print(
                f"mass-balance error {found.mass_balance_error:.0e},"
                f" {torch.get_num_threads()} threads"
            )
        difference = (ends[0] - ends[1]).flatten(2).norm(dim=-1) / ends[1].flatten(2).norm(dim=-1)
        print(
            "  largest relative difference of a pool between the two steps:"
            f" {float(difference.max()):.1e}"
        )


if __name__ == "__main__":
    main()
