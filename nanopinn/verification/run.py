"""All verification cases in one run: values of the solvers with their references."""

from __future__ import annotations

from collections.abc import Callable

from nanopinn.verification import flow_cases as flow
from nanopinn.verification import krogh_cases as krogh
from nanopinn.verification import manufactured_cases as manufactured
from nanopinn.verification import plasma_cases as plasma
from nanopinn.verification import pool_cases as microscale
from nanopinn.verification import pool_cases as pools
from nanopinn.verification import treatment_cases as arms
from nanopinn.verification import treatment_cases as treatment
from nanopinn.verification.case import VerificationCase

__all__ = ["CASES", "VerificationCase", "run_verification"]

#: All cases; each gives one or more values.
CASES: tuple[Callable[[], list[VerificationCase]], ...] = (
    flow.isolated_sphere,
    flow.sphere_in_tissue,
    pools.release_chain,
    pools.contrast_is_tofts,
    pools.mass_balance,
    pools.pressure_scaling,
    microscale.oxygen_cylinder,
    microscale.travelling_front,
    microscale.wall_limits,
    microscale.thin_interface,
    krogh.krogh_sink,
    krogh.retarded_front,
    krogh.doxorubicin_half_distance,
    manufactured.pressure_order,
    manufactured.rim_order,
    manufactured.transport_order,
    manufactured.time_order,
    treatment.hot_release,
    plasma.plasma_cases,
    treatment.partition_at_equilibrium,
    arms.reference_runs,
    arms.published_ratios,
)
#: Cases with published values or runs of other code as references.
PUBLISHED: tuple[Callable[[], list[VerificationCase]], ...] = (
    flow.sphere_in_tissue,
    krogh.doxorubicin_half_distance,
    plasma.plasma_cases,
    arms.reference_runs,
    arms.published_ratios,
)


def run_verification(*, published: bool = False) -> tuple[VerificationCase, ...]:
    """Run the verification cases.

    Args:
        published: run only the cases with published values or runs of other code as references.

    Returns:
        The cases in the order of their numbers.
    """
    found = [case for run in (PUBLISHED if published else CASES) for case in run()]
    return tuple(sorted((c for c in found if not (published and _is_numbered(c))), key=_number))


def _number(case: VerificationCase) -> int:
    """Number by which cases are ordered; those without one come last."""
    return int(case.id[1:]) if _is_numbered(case) else len(CASES) + 100


def _is_numbered(case: VerificationCase) -> bool:
    """Whether the case has an exact reference (V1 to V13)."""
    return case.id.startswith("V") and case.id[1:].isdigit()
