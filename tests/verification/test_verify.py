"""The verification cases are the tests of the solvers: each against an analytic value or an
invariant.
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from nanopinn.cli.app import app
from nanopinn.verification import run as verify
from nanopinn.verification.case import VerificationCase
from nanopinn.verification.run import run_verification


@pytest.fixture(scope="module")
def command_and_cases(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Result, tuple[VerificationCase, ...]]:
    """What `nanopinn verify` says, and the cases that it writes."""
    table = tmp_path_factory.mktemp("verify") / "cases.json"
    result = CliRunner().invoke(app, ["verify", "--json", str(table)])
    return result, tuple(
        VerificationCase(**{k: v for k, v in c.items() if k != "passed"})
        for c in json.loads(table.read_text())["cases"]
    )


@pytest.fixture(scope="module")
def cases(
    command_and_cases: tuple[Result, tuple[VerificationCase, ...]],
) -> tuple[VerificationCase, ...]:
    return command_and_cases[1]


def test_the_command_succeeds_and_prints_every_case(
    command_and_cases: tuple[Result, tuple[VerificationCase, ...]],
) -> None:
    result, cases = command_and_cases
    assert result.exit_code == 0
    for c in cases:
        assert f"{c.id:8s}{c.name}: {c.quantity}" in result.output
    assert f"of {len(cases)} cases passed" in result.output


def test_the_solvers_reproduce_every_reference_value(cases: tuple[VerificationCase, ...]) -> None:
    numbered = {f"V{n}" for n in range(1, 14)}
    assert {c.id for c in cases} == numbered | {"PK", "TX", "REF", "bracket"}
    for c in cases:
        assert not c.failed, (
            f"{c.id} {c.quantity}: {c.observed} against {c.reference} +- {c.tolerance}"
        )


def test_a_wrong_value_fails() -> None:
    assert VerificationCase("V0", "n", "q", 1.1, 1.0, 0.05, "s").failed


def test_a_published_bracket_is_shown_and_cannot_fail() -> None:
    beside = VerificationCase("V0", "n", "q", 1.1, 1.0, 0.05, "s", "bracket")
    assert not beside.passed
    assert not beside.failed


def test_heat_gain_and_ranking_of_arms_are_as_published(
    cases: tuple[VerificationCase, ...],
) -> None:
    assert [c.passed for c in cases if c.id == "TX"] == [True] * 5
    reference = [c for c in cases if c.id == "REF" and c.kind == "value"]
    assert len(reference) == 10
    assert all(c.passed for c in reference)


def test_published_values_can_be_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        verify, "PUBLISHED", (verify.treatment.hot_release, verify.plasma.plasma_cases)
    )
    assert {c.id for c in run_verification(published=True)} == {"PK"}
