"""A test of many variants runs every one of them and names those that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.variants import for_each


def test_every_variant_runs_and_each_failure_is_named() -> None:
    seen = []

    @for_each("number, word", [(1, "one"), (2, "two"), (3, "three"), (4, "four")])
    def odd(number: int, word: str) -> None:
        seen.append(word)
        if number == 4:
            with pytest.raises(ValueError, match="never raised"):
                pass
        assert number % 2, "even"

    with pytest.raises(AssertionError) as caught:
        odd()
    assert seen == ["one", "two", "three", "four"]
    assert "2 of 4 variants failed" in str(caught.value)
    assert "1: 2, 'two': even" in str(caught.value)
    assert "3: 4, 'four': DID NOT RAISE" in str(caught.value)


def test_two_decorators_run_every_pair_in_a_folder_of_its_own(tmp_path: Path) -> None:
    seen = []

    @for_each("first", "ab")
    @for_each("second", "xyz")
    def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str) -> None:
        monkeypatch.setenv("VARIANT", first + second)
        (tmp_path / "file").write_text(first + second)
        seen.append((first + second, tmp_path))

    pairs(tmp_path=tmp_path, monkeypatch=pytest.MonkeyPatch())
    assert [pair for pair, _ in seen] == ["ax", "ay", "az", "bx", "by", "bz"]
    assert len({folder for _, folder in seen}) == 6
    assert all((folder / "file").read_text() == pair for pair, folder in seen)


def test_an_empty_list_and_a_wrong_name_are_no_test() -> None:
    with pytest.raises(AssertionError, match="no variants"):
        for_each("number", [])
    with pytest.raises(AssertionError, match="has no argument other"):
        for_each("other", [1])(lambda number: None)
