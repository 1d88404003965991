"""The verification cases are the tests of the solvers: each against an analytic value or an invariant."""

from __future__ import annotations

import pytest

from nanopinn.workflows import verify
from nanopinn.workflows.verify import VerificationCase, run_verification


@pytest.fixture(scope="module")
def cases() -> tuple[VerificationCase, ...]:
    return run_verification()


def test_the_solvers_reproduce_every_reference_value(cases: tuple[VerificationCase, ...]) -> None:
    numbered = {f"V{n}" for n in range(1, 14)}
    assert {c.id for c in cases} == numbered | {"PK", "TX", "REF", "bracket"}
    for c in cases:
        assert not c.failed, f"{c.id} {c.quantity}: {c.observed} against {c.reference} +- {c.tolerance}"


def test_a_wrong_value_fails() -> None:
    assert VerificationCase("V0", "n", "q", 1.1, 1.0, 0.05, "s").failed


def test_a_published_value_of_another_tumour_is_shown_and_cannot_fail() -> None:
    beside = VerificationCase("V0", "n", "q", 1.1, 1.0, 0.05, "s", "bracket")
    assert not beside.passed
    assert not beside.failed


def test_in_a_matched_setting_heat_adds_what_was_published_and_arms_rank_as_published(cases: tuple[VerificationCase, ...]) -> None:
    assert [c.passed for c in cases if c.id == "TX"] == [True] * 5
    reference = [c for c in cases if c.id == "REF" and c.kind == "value"]
    assert len(reference) == 10
    assert all(c.passed for c in reference)


def test_published_values_alone_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PUBLISHED", (verify.treatment.hot_release, verify.treatment.plasma_brackets))
    assert {c.id for c in run_verification(published=True)} == {"PK"}
