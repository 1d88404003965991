"""Saved fits and checkpoints are read back unchanged, and other files are refused."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

import nanopinn
from nanopinn.errors import InputError
from nanopinn.inference.saved_fit import FILE, FittedProblem, fit_from_bytes, fit_to_bytes
from nanopinn.io import serialize as saving
from tests.variants import for_each

from .test_engines import small_problem


def test_a_problem_that_was_read_back_predicts_the_same() -> None:
    problem, theta = small_problem()
    here = problem.solve(theta, problem.forward())
    problem = problem.update_linearisation(theta, here).with_systematic_errors(theta, here)
    content = fit_to_bytes(FittedProblem(problem, theta))
    again = fit_from_bytes(content)
    np.testing.assert_array_equal(again.theta, theta)
    assert again.problem.unknowns == problem.unknowns
    before, after = (p.predict(theta, p.forward()) for p in (problem, again.problem))
    torch.testing.assert_close(after.residual, before.residual, rtol=0, atol=0)


@dataclass(frozen=True)
class Odd:
    """One of everything that a fit may hold."""

    value: object


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 3)),
        np.array([True, False]),
        np.arange(6).reshape(2, 3)[:, ::-1],
        np.float32([1.5, np.nan]),
        np.eye(40),
        np.where(np.eye(40) > 0, 2.5, np.nan),
        np.eye(60) > 0,
        np.full((30, 40), np.nan),
        np.array(3.0),
    ],
    ids=str,
)
def test_arrays_of_every_shape_are_read_back_bit_for_bit(value: np.ndarray) -> None:
    for kept in (value, torch.tensor(value.copy())):
        again = saving.from_bytes(saving.to_bytes(Odd(kept), [Odd]), [Odd]).value
        assert type(again) is type(kept)
        assert again.dtype == kept.dtype
        np.testing.assert_array_equal(np.asarray(again), np.asarray(kept))


@pytest.mark.parametrize("usual", [0.0, np.nan])
def test_arrays_of_nearly_one_value_take_little_space(usual: float) -> None:
    field = np.full((40, 40, 40), usual)
    field[10:15, 10:15, 10:15] = 3.0
    assert len(saving.to_bytes(Odd(field), [Odd])) < 0.01 * field.nbytes


def test_plain_values_are_read_back_unchanged() -> None:
    value = ({"a": (1, 2.5, "x"), "b": None}, True, float("inf"), -1e-300, 'ü " \\ \n')
    assert saving.from_bytes(saving.to_bytes(Odd(value), [Odd]), [Odd]).value == value
    assert np.isnan(saving.from_bytes(saving.to_bytes(Odd(float("nan")), [Odd]), [Odd]).value)


def test_values_that_could_not_be_read_back_are_not_written() -> None:
    for value in (object(), Odd(1), np.array(["text"])):
        with pytest.raises(TypeError):
            saving.to_bytes(value, [])


def saved() -> bytes:
    return saving.to_bytes(Odd((np.arange(2000.0), "words")), [Odd])


def harmful() -> bytes:
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    return pickle.dumps(Harm())


def relabelled(**change: str) -> bytes:
    content = saved()
    header = saving.json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])[
        "__metadata__"
    ]
    return save(load(content), header | change)


DAMAGED = {
    "nothing": b"",
    "text": b"not a checkpoint",
    "a pickle": harmful(),
    "half": saved()[:3000],
    "longer": saved() + b"0",
    "a flipped bit": saved()[:-8] + bytes([saved()[-8] ^ 1]) + saved()[-7:],
    "no header of ours": save({"a": torch.ones(2)}),
    "other words": relabelled(content='{"class": "Odd", "fields": {"value": 1}}'),
    "another version": relabelled(version="0"),
}


@for_each("content", DAMAGED.values())
def test_a_damaged_file_is_refused_with_its_reason(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the file of a fit|a file of a fit"):
        saving.from_bytes(content, [Odd])
    (tmp_path / FILE).write_bytes(content)
    for path in (tmp_path, tmp_path / FILE):
        with pytest.raises(InputError, match="fit cannot be read"):
            nanopinn.load_fit(path)


@for_each(
    "content",
    [
        '{"class": "Popen", "fields": {}}',
        '{"class": "Odd", "fields": {"command": 1}}',
        '{"class": "Odd"}',
        '{"tensor": {"at": "0"}}',
        '{"tensor": {"shape": [9], "usual": 0.0, "index": "i", "values": "v"}}',
        '{"mapping": [1]}',
        "[" * 100_000,
    ],
)
def test_a_file_with_a_right_checksum_and_wrong_content_is_refused(content: str) -> None:
    arrays = {"i": torch.tensor([99], dtype=torch.int32), "v": torch.ones(1)}
    header = {
        "format": "nanopinn",
        "version": str(saving.VERSION),
        "content": content,
        "sha256": saving._digest(content, arrays),
    }
    with pytest.raises(ValueError, match=r"not a file of a fit|Expecting|recursion"):
        saving.from_bytes(save(arrays, header), [Odd])


def test_a_fit_of_version_0_1_is_refused_with_both_versions(tmp_path: Path) -> None:
    """The metadata of a file of release 0.1: format 3, no package version."""
    header = {
        "format": "nanopinn",
        "version": "3",
        "content": '{"class": "FitResult", "fields": {"scalars": {"tuple": []}}}',
        "sha256": "0" * 64,
    }
    (tmp_path / FILE).write_bytes(save({"0": torch.ones(1)}, header))
    with pytest.raises(InputError, match=r"format 3 of nanopinn 0\.1;.* reads format 5") as error:
        nanopinn.load_fit(tmp_path)
    assert "Run the fit again with this version." in str(error.value)


def test_a_file_that_holds_no_fit_is_refused(tmp_path: Path) -> None:
    from nanopinn.inference.saved_fit import _SERIALISABLE_CLASSES
    from nanopinn.results import CheckResult

    (tmp_path / FILE).write_bytes(saving.to_bytes(CheckResult(()), _SERIALISABLE_CLASSES))
    with pytest.raises(InputError, match="CheckResult"):
        nanopinn.load_fit(tmp_path)
    with pytest.raises(InputError, match="not a result folder"):
        nanopinn.load_fit(tmp_path / "elsewhere")
