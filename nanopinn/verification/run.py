"""The verification cases: what the solvers give beside what is known, in one run."""

from __future__ import annotations

from collections.abc import Callable

from nanopinn.verification import arm_cases as arms
from nanopinn.verification import flow_cases as flow
from nanopinn.verification import krogh_cases as krogh
from nanopinn.verification import manufactured_cases as manufactured
from nanopinn.verification import microscale_cases as under_the_voxel
from nanopinn.verification import pool_cases as pools
from nanopinn.verification import treatment_cases as treatment
from nanopinn.verification.case import VerificationCase

__all__ = ["CASES", "VerificationCase", "run_verification"]

#: Every case; each gives one or more values.
CASES: tuple[Callable[[], list[VerificationCase]], ...] = (
    flow.isolated_sphere,
    flow.sphere_in_tissue,
    pools.release_chain,
    pools.contrast_is_tofts,
    pools.mass_balance,
    pools.pressure_scaling,
    under_the_voxel.oxygen_cylinder,
    under_the_voxel.travelling_front,
    under_the_voxel.wall_limits,
    under_the_voxel.thin_interface,
    krogh.krogh_sink,
    krogh.retarded_front,
    krogh.doxorubicin_half_distance,
    manufactured.pressure_order,
    manufactured.rim_order,
    manufactured.transport_order,
    manufactured.time_order,
    treatment.hot_release,
    treatment.plasma_brackets,
    treatment.partition_at_equilibrium,
    arms.reference_runs,
    arms.published_ratios,
)
#: Those with published values, or runs of other code, beside which nothing exact is known.
PUBLISHED: tuple[Callable[[], list[VerificationCase]], ...] = (
    flow.sphere_in_tissue,
    krogh.doxorubicin_half_distance,
    treatment.plasma_brackets,
    arms.reference_runs,
    arms.published_ratios,
)


def run_verification(*, published: bool = False) -> tuple[VerificationCase, ...]:
    """Run every case, or those alone that stand beside published values and reference runs; in the
    order of their numbers.
    """
    found = [case for run in (PUBLISHED if published else CASES) for case in run()]
    return tuple(sorted((c for c in found if not (published and _is_numbered(c))), key=_number))


def _number(case: VerificationCase) -> int:
    return int(case.id[1:]) if _is_numbered(case) else len(CASES) + 100


def _is_numbered(case: VerificationCase) -> bool:
    """Whether it has an exact reference of DESIGN 8, V1 to V13."""
    return case.id.startswith("V") and case.id[1:].isdigit()
