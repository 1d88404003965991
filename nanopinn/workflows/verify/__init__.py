"""The verification cases: what the solvers give beside what is known, in one run."""

from __future__ import annotations

from collections.abc import Callable

from nanopinn.workflows.verify import flow, krogh, manufactured, pools, treatment, under_the_voxel
from nanopinn.workflows.verify.case import VerificationCase

__all__ = ["CASES", "VerificationCase", "run_verification"]

#: Every case; each gives one or more values.
CASES: tuple[Callable[[], list[VerificationCase]], ...] = (
    flow.isolated_sphere, flow.sphere_in_tissue, pools.release_chain, pools.contrast_is_tofts, pools.mass_balance, pools.pressure_scaling,
    under_the_voxel.oxygen_cylinder, under_the_voxel.travelling_front, under_the_voxel.wall_limits, under_the_voxel.thin_interface,
    krogh.krogh_sink, krogh.retarded_front, krogh.doxorubicin_half_distance,
    manufactured.pressure_order, manufactured.rim_order, manufactured.transport_order, manufactured.time_order,
    treatment.hot_release, treatment.plasma_brackets, treatment.partition_at_equilibrium, treatment.what_heat_adds,
)  # fmt: skip


def run_verification() -> tuple[VerificationCase, ...]:
    """Run every case; in the order of their numbers, what has none last."""
    return tuple(sorted((case for run in CASES for case in run()), key=_number))


def _number(case: VerificationCase) -> int:
    number = case.id.removeprefix("V")
    return int(number) if number.isdigit() else len(CASES) + 100
