# ruff: noqa: E501  # hostile texts read better in one line
"""Saved fits that someone made: they run no code, take no memory on a header's word, and hold what
their classes say or are refused.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from nanopinn.errors import InputError
from nanopinn.inference.engine_driver import read_engine_state
from nanopinn.inference.saved_fit import fit_to_bytes, load_fit, load_fitted_problem
from nanopinn.io import serialize as saving
from nanopinn.io.checkpoint_store import CheckpointStore
from nanopinn.results import (
    CheckItem,
    CheckResult,
    EngineRun,
    FitResult,
    MapEstimate,
    ScalarEstimate,
)
from tests.variants import for_each

from .hostile import refused

SCALAR = ScalarEstimate("l", "l", "mm", "log", 1.0, 0.5, 1.2, 0.2)
FIT = FitResult(
    scalars=(SCALAR,),
    covariance=np.eye(1),
    runs={
        "fv": EngineRun(
            engine="fv",
            scalars=(SCALAR,),
            covariance=np.eye(1),
            objective=(3.0, 2.0),
            chi2=4.0,
            observations=5,
            seconds=1.0,
            converged=True,
            message="converged",
        )
    },
    engine_distance={"l": 0.1},
    check=CheckResult((CheckItem("balance", 0.1, 1.0, True, "mass"),), 1.0),
    maps={
        "p": MapEstimate(
            "p", "Pa", "pressure", "images", np.ones((3, 3, 3)), np.zeros((20, 20, 20))
        )
    },
    fields={},
    curves=(),
    assumptions=("one",),
    affine=np.eye(4),
    mask=np.ones((3, 3, 3), dtype=bool),
)


def content_of(raw: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors.torch import load

    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    return json.loads(header["content"]), load(raw)


def sealed(content: Any, arrays: dict[str, torch.Tensor] | None = None, **meta: str) -> bytes:
    """A file with a right checksum, as one who means harm would write it."""
    text = content if isinstance(content, str) else json.dumps(content)
    arrays = arrays or {}
    digest = saving._digest(text, arrays)
    return save(
        arrays,
        {
            "format": "nanopinn",
            "version": str(saving.VERSION),
            "content": text,
            "sha256": digest,
            **meta,
        },
    )


def read(folder: Path, raw: bytes) -> Callable[[], Any]:
    (folder / "fit.safetensors").write_bytes(raw)
    return lambda: load_fit(folder)


def test_a_fit_that_was_saved_is_read_back(tmp_path: Path) -> None:
    found = read(tmp_path, fit_to_bytes(FIT))()
    assert found.scalars == FIT.scalars
    np.testing.assert_array_equal(found.maps["p"].std, np.zeros((20, 20, 20)))


class Armed:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@for_each(
    "write",
    [
        lambda a: pickle.dumps(a),
        lambda a: _torch_saved(a),
        lambda a: sealed(json.dumps({"pickle": "x"})),
    ],
)
def test_a_pickle_in_place_of_a_saved_fit_is_refused_and_not_run(
    tmp_path: Path, write: Callable[[Any], bytes]
) -> None:
    mark = tmp_path / "ran"
    refused(read(tmp_path, write(Armed(mark))), "fit.safetensors")
    assert not mark.exists()


def _torch_saved(armed: Armed) -> bytes:
    import io

    out = io.BytesIO()
    torch.save(armed, out)
    return out.getvalue()


def header(text: str | bytes, body: bytes = b"", length: int | None = None) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


ONE = '{"0": {"dtype": "F64", "shape": [%s], "data_offsets": [%d, %d]}}'


@for_each(
    "raw",
    [
        b"",
        b"\0" * 8,
        header("{}", length=2**63),
        header("{}", length=2**40),
        header("{"),
        header("[]"),
        header("3"),
        header(b"\xff\xfe"),
        header("{" + " " * (9 << 20) + "}"),
        header("[" * 100_000),
        header('{"__metadata__": null}'),
        header('{"__metadata__": 3}'),
        header('{"__metadata__": {"format": 3}}'),
        header(ONE % ("1000000000000", 0, 8000000000000)),
        header(ONE % ("1", 0, 8)),
        header(ONE % ("2", 0, 8), b"\0" * 8),
        header(ONE % ("-1", 0, 8), b"\0" * 8),
        header(ONE % ("1", 8, 0), b"\0" * 8),
        header(
            '{"0": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}, "1": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}',
            b"\0" * 8,
        ),
        header(ONE.replace("F64", "X9") % ("1", 0, 8), b"\0" * 8),
        header(ONE % ("18446744073709551615, 2", 0, 8), b"\0" * 8),
        header(
            '{"0": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}, "__metadata__": {"format": "nanopinn", "version": "3"}}',
            b"\0" * 8,
        ),
    ],
)
def test_a_false_safetensors_header_is_refused(tmp_path: Path, raw: bytes) -> None:
    refused(read(tmp_path, raw), "fit.safetensors")


def sparse(shape: list[Any]) -> dict[str, Any]:
    return {"tensor": {"shape": shape, "usual": 0.0, "index": "0", "values": "1"}}


@for_each("shape", [[10**6, 10**6], [2**62], [-1], [1.5], ["8"], [10**9], [4000, 4000, 5]])
def test_a_sparse_tensor_that_expands_too_far_is_refused(tmp_path: Path, shape: list[Any]) -> None:
    arrays = {"0": torch.zeros(1, dtype=torch.int32), "1": torch.ones(1, dtype=torch.float64)}
    refused(read(tmp_path, sealed(sparse(shape), arrays)), "fit.safetensors")


def test_sparse_tensors_that_expand_too_far_together_are_refused(tmp_path: Path) -> None:
    arrays = {"0": torch.zeros(1, dtype=torch.int32), "1": torch.ones(1, dtype=torch.bool)}
    assert "few numbers" in str(
        refused(
            read(tmp_path, sealed({"tuple": [sparse([2**25])] * 40}, arrays)), "fit.safetensors"
        )
    )


@for_each(
    "content",
    [
        "",
        "3",
        "null",
        "[]",
        "{}",
        '{"class": "FitResult"}',
        '{"class": "os.system", "fields": {}}',
        '{"class": "Popen", "fields": {"args": ["id"]}}',
        '{"class": "FitResult", "fields": {}}',
        '{"class": "FitResult", "fields": 3}',
        '{"class": ["FitResult"], "fields": {}}',
        '{"tuple": 3}',
        '{"mapping": [[{"mapping": []}, 1]]}',
        '{"mapping": [1]}',
        '{"tensor": {"at": "9"}}',
        '{"float": "x"}',
        '{"float": 3}',
        '{"array": 3}',
        '{"tuple": ' * 5000 + "[]" + "}" * 5000,
        "[" * 100_000,
    ],
)
def test_content_that_is_not_a_fit_is_refused(tmp_path: Path, content: str) -> None:
    refused(read(tmp_path, sealed(content)), "fit.safetensors")


@for_each(
    "path, value",
    [
        (("scalars",), 3),
        (("scalars",), {"tuple": [3]}),
        (("covariance",), None),
        (("check",), "passed"),
        (("assumptions",), {"tuple": [1]}),
        (("seconds",), {"mapping": [["fit", "1"]]}),
        (("check", "fields", "seconds"), "1"),
        (("check", "fields", "seconds"), True),
        (("runs",), {"mapping": [["fv", None]]}),
        (("ended",), 3),
        (("no_such",), 3),
        (("mask",), {"array": {"at": "0"}}),
        (("scalars", "tuple", 0, "fields", "scale"), "cubic"),
        (("scalars", "tuple", 0, "fields", "median"), True),
    ],
)
def test_a_field_of_another_type_is_refused_though_the_checksum_is_right(
    tmp_path: Path, path: tuple[Any, ...], value: Any
) -> None:
    content, arrays = content_of(fit_to_bytes(FIT))
    arrays["0"] = arrays["0"].double()
    at = content["fields"]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    refused(read(tmp_path, sealed(content, arrays)), "fit.safetensors")


def test_a_saved_fit_without_its_problem_is_refused_for_profiles(
    tmp_path: Path,
) -> None:
    read(tmp_path, fit_to_bytes(FIT))
    refused(lambda: load_fitted_problem(tmp_path), None)


@for_each("study", ["", "[]", "3", "[" * 100_000, '{"a": 1}', '{"a": {}}', "\0"])
def test_a_damaged_record_of_an_interrupted_run_is_refused(tmp_path: Path, study: str) -> None:
    (tmp_path / "study.json").write_text(study)
    refused(lambda: CheckpointStore.reopen(tmp_path, {"a": "x"}, "cpu"), None)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint_store = CheckpointStore.create_empty(tmp_path / "kept", {"a": "x"}, "cpu")
    (tmp_path / "kept" / "fv.safetensors").write_bytes(fit_to_bytes(FIT))
    again = CheckpointStore.reopen(tmp_path / "kept", {"a": "x"}, "cpu")
    assert checkpoint_store.study == again.study
    with pytest.raises(InputError, match="`resume`"):
        read_engine_state(again, "fv")
