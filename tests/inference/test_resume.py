"""Interrupted fits resume from their checkpoint; whole runs are killed in tests/test_faults.py."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nanopinn.cli.entry import _SignalHandler
from nanopinn.cli.exit_status import record_interruption
from nanopinn.errors import InputError, StoppedError
from nanopinn.inference.engine_driver import EngineState, read_engine_state, save_engine_state
from nanopinn.inference.gauss_newton import OptimiserState
from nanopinn.inference.krylov.krylov_engine import KrylovSettings, fit_krylov
from nanopinn.io.checkpoint_store import CheckpointStore, delete_checkpoints

from .test_engines import small_problem

STUDY = {"fit.seed": "0", "dce.nii.gz": "abc"}
QUICK = KrylovSettings(rank=8, iterations=2, ensemble=1)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def problem():
    p, _ = small_problem()
    return replace(p, setting=replace(p.setting, flow_refine=1), drug=p.drug[:2])


def test_a_killed_krylov_fit_resumes_to_the_same_result(problem, tmp_path, monkeypatch) -> None:
    torch.set_num_threads(1)
    put = CheckpointStore.put

    def killed_at_the_second(self, name, state, classes):
        put(self, name, state, classes)
        if state.optimiser_state.iteration == 1:
            raise Killed

    monkeypatch.setattr(CheckpointStore, "put", killed_at_the_second)
    with pytest.raises(Killed):
        fit_krylov(
            problem,
            settings=QUICK,
            checkpoint_store=CheckpointStore.create_empty(tmp_path, STUDY, "cpu"),
        )
    monkeypatch.undo()
    continued = CheckpointStore.reopen(tmp_path, STUDY, "cpu")
    assert read_engine_state(continued, "krylov").optimiser_state.iteration == 1
    again, whole = (
        fit_krylov(problem, settings=QUICK, checkpoint_store=continued),
        fit_krylov(problem, settings=QUICK),
    )
    np.testing.assert_allclose(again.theta, whole.theta, rtol=0, atol=1e-10)
    np.testing.assert_allclose(again.run.covariance, whole.run.covariance, rtol=1e-8)


def test_a_checkpoint_of_another_study_is_refused_and_the_change_is_named(tmp_path) -> None:
    CheckpointStore.create_empty(tmp_path, STUDY, "cpu")
    with pytest.raises(
        InputError, match=r"other inputs or settings: fit\.seed changed.*found: 1.*expected: 0"
    ):
        CheckpointStore.reopen(tmp_path, STUDY | {"fit.seed": "1"}, "cpu")
    with pytest.raises(InputError, match=r"dce\.nii\.gz"):
        CheckpointStore.reopen(tmp_path, STUDY | {"dce.nii.gz": "abd"}, "cpu")


def test_resuming_without_a_checkpoint_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no interrupted run"):
        CheckpointStore.reopen(tmp_path / "absent", STUDY, "cpu")


def test_a_damaged_state_is_refused(problem, tmp_path) -> None:
    save_engine_state(
        CheckpointStore.create_empty(tmp_path, STUDY, "cpu"),
        EngineState("fv", OptimiserState(0, problem.unknowns.prior_mean), problem, None, None),
    )
    checkpoint_store, file = (
        CheckpointStore.reopen(tmp_path, STUDY, "cpu"),
        tmp_path / "fv.safetensors",
    )
    content = bytearray(file.read_bytes())
    assert read_engine_state(checkpoint_store, "fv").problem.unknowns == problem.unknowns
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), bytes(content[:1000]), b""):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read"):
            read_engine_state(checkpoint_store, "fv")


def test_a_run_that_may_resume_starts_from_the_beginning_where_it_cannot(problem, tmp_path) -> None:
    assert (
        CheckpointStore.from_interrupted_run(tmp_path / "absent", STUDY, "cpu", "if available")
        is None
    )
    save_engine_state(
        CheckpointStore.create_empty(tmp_path, STUDY, "cpu"),
        EngineState("fv", OptimiserState(1, problem.unknowns.prior_mean), problem, None, None),
    )
    assert (
        CheckpointStore.from_interrupted_run(
            tmp_path, STUDY | {"fit.seed": "1"}, "cpu", "if available"
        )
        is None
    )
    assert CheckpointStore.from_interrupted_run(tmp_path, STUDY, "cpu", False) is None
    checkpoint_store = CheckpointStore.from_interrupted_run(tmp_path, STUDY, "cpu", "if available")
    assert checkpoint_store is not None
    assert read_engine_state(checkpoint_store, "fv").optimiser_state.iteration == 1
    (tmp_path / "fv.safetensors").write_bytes(b"spoiled")
    assert read_engine_state(checkpoint_store, "fv") is None
    with pytest.raises(InputError, match="cannot be read"):
        read_engine_state(CheckpointStore.from_interrupted_run(tmp_path, STUDY, "cpu", True), "fv")


def test_a_new_fit_does_not_use_the_checkpoints_of_an_old_one(problem, tmp_path) -> None:
    save_engine_state(
        CheckpointStore.create_empty(tmp_path, STUDY, "cpu"),
        EngineState("fv", OptimiserState(0, problem.unknowns.prior_mean), problem, None, None),
    )
    checkpoint_store = CheckpointStore.create_empty(tmp_path, STUDY, "cpu")
    assert read_engine_state(checkpoint_store, "fv") is None
    assert not list(tmp_path.glob("*.safetensors"))
    delete_checkpoints(tmp_path)
    assert not tmp_path.exists()


def test_an_interrupted_command_tells_how_to_resume_and_exits_with_130(tmp_path) -> None:
    partial = tmp_path / "result.partial"
    partial.mkdir()
    with pytest.raises(
        StoppedError, match=r"result\.partial holds a checkpoint.*--resume"
    ) as stopped:
        stopped_by(signal.SIGTERM, partial)
    assert stopped.value.exit_code == 130
    with pytest.raises(StoppedError, match=r"nothing was written"):
        stopped_by(signal.SIGINT, tmp_path / "absent")


def stopped_by(what: signal.Signals, partial: Path) -> None:
    before = signal.signal(what, _SignalHandler())
    try:
        with record_interruption(partial):
            os.kill(os.getpid(), what)
            time.sleep(1)
    finally:
        signal.signal(what, before)
