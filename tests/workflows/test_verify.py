"""The verification cases are the tests of the solvers: each against an analytic value or an invariant."""

from __future__ import annotations

from nanopinn.workflows.verify import VerificationCase, run_verification


def test_the_solvers_reproduce_every_reference_value() -> None:
    cases = run_verification()
    assert {c.id for c in cases} == {"V1", "V2", "V3", "V4", "V5", "V6", "V7", "V9", "V10", "V11", "V12", "V13", "PK", "bracket"}
    for c in cases:
        assert c.passed, f"{c.id} {c.quantity}: {c.observed} against {c.reference} +- {c.tolerance}"


def test_a_wrong_value_fails() -> None:
    assert not VerificationCase("V0", "n", "q", 1.1, 1.0, 0.05, "s").passed
