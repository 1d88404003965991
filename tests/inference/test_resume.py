"""A fit that is killed goes on and ends where it would have ended; whole runs are killed in
tests/test_faults.py.
"""

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
from nanopinn.inference.checkpoint import CheckpointStore, EngineState, delete_checkpoints
from nanopinn.inference.gauss_newton import OptimiserState
from nanopinn.inference.krylov.krylov_engine import KrylovSettings, fit_krylov

from .test_engines import small_problem

STUDY = {"fit.seed": "0", "dce.nii.gz": "abc"}
QUICK = KrylovSettings(rank=8, iterations=2, ensemble=1)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def problem():
    p, _ = small_problem()
    return replace(p, setting=replace(p.setting, flow_refine=1), drug=p.drug[:2])


def test_networks_that_are_killed_and_go_on_end_where_they_would_have_ended(
    problem, tmp_path, monkeypatch
) -> None:
    torch.set_num_threads(1)
    kept = CheckpointStore.save_state

    def killed_at_the_second(self, state):
        kept(self, state)
        if state.optimiser_state.iteration == 1:
            raise Killed

    monkeypatch.setattr(CheckpointStore, "save_state", killed_at_the_second)
    with pytest.raises(Killed):
        fit_krylov(
            problem,
            settings=QUICK,
            checkpoint_store=CheckpointStore.create_empty(tmp_path, STUDY, "cpu"),
        )
    monkeypatch.undo()
    continued = CheckpointStore.reopen(tmp_path, STUDY, "cpu")
    assert continued.engine_state("pinn").optimiser_state.iteration == 1
    again, whole = (
        fit_krylov(problem, settings=QUICK, checkpoint_store=continued),
        fit_krylov(problem, settings=QUICK),
    )
    np.testing.assert_allclose(again.theta, whole.theta, rtol=0, atol=1e-10)
    np.testing.assert_allclose(again.run.covariance, whole.run.covariance, rtol=1e-8)


def test_another_study_is_refused_and_what_changed_is_named(tmp_path) -> None:
    CheckpointStore.create_empty(tmp_path, STUDY, "cpu")
    with pytest.raises(InputError, match=r"another one: fit\.seed changed.*found: 1.*expected: 0"):
        CheckpointStore.reopen(tmp_path, STUDY | {"fit.seed": "1"}, "cpu")
    with pytest.raises(InputError, match=r"dce\.nii\.gz"):
        CheckpointStore.reopen(tmp_path, STUDY | {"dce.nii.gz": "abd"}, "cpu")


def test_nothing_to_go_on_with_is_said(tmp_path) -> None:
    with pytest.raises(InputError, match="no interrupted run"):
        CheckpointStore.reopen(tmp_path / "absent", STUDY, "cpu")


def test_a_spoiled_state_is_refused(problem, tmp_path) -> None:
    CheckpointStore.create_empty(tmp_path, STUDY, "cpu").save_state(
        EngineState("fv", OptimiserState(0, problem.unknowns.prior_mean), problem, None, None)
    )
    checkpoint_store, file = (
        CheckpointStore.reopen(tmp_path, STUDY, "cpu"),
        tmp_path / "fv.safetensors",
    )
    content = bytearray(file.read_bytes())
    assert checkpoint_store.engine_state("fv").problem.unknowns == problem.unknowns
    content[len(content) // 2] ^= 1
    for spoiled in (bytes(content), bytes(content[:1000]), b""):
        file.write_bytes(spoiled)
        with pytest.raises(InputError, match="cannot be read"):
            checkpoint_store.engine_state("fv")


def test_a_run_that_may_go_on_starts_anew_where_it_cannot(problem, tmp_path) -> None:
    assert (
        CheckpointStore.from_interrupted_run(tmp_path / "absent", STUDY, "cpu", "if kept") is None
    )
    CheckpointStore.create_empty(tmp_path, STUDY, "cpu").save_state(
        EngineState("fv", OptimiserState(1, problem.unknowns.prior_mean), problem, None, None)
    )
    assert (
        CheckpointStore.from_interrupted_run(tmp_path, STUDY | {"fit.seed": "1"}, "cpu", "if kept")
        is None
    )
    assert CheckpointStore.from_interrupted_run(tmp_path, STUDY, "cpu", False) is None
    checkpoint_store = CheckpointStore.from_interrupted_run(tmp_path, STUDY, "cpu", "if kept")
    assert checkpoint_store is not None
    assert checkpoint_store.engine_state("fv").optimiser_state.iteration == 1
    (tmp_path / "fv.safetensors").write_bytes(b"spoiled")
    assert checkpoint_store.engine_state("fv") is None
    with pytest.raises(InputError, match="cannot be read"):
        CheckpointStore.from_interrupted_run(tmp_path, STUDY, "cpu", True).engine_state("fv")


def test_a_new_fit_does_not_see_what_an_old_one_left(problem, tmp_path) -> None:
    CheckpointStore.create_empty(tmp_path, STUDY, "cpu").save_state(
        EngineState("fv", OptimiserState(0, problem.unknowns.prior_mean), problem, None, None)
    )
    checkpoint_store = CheckpointStore.create_empty(tmp_path, STUDY, "cpu")
    assert checkpoint_store.engine_state("fv") is None
    assert not list(tmp_path.glob("*.safetensors"))
    delete_checkpoints(tmp_path)
    assert not tmp_path.exists()


def test_a_polite_kill_says_how_to_go_on_and_is_exit_code_130(tmp_path) -> None:
    partial = tmp_path / "result.partial"
    partial.mkdir()
    with pytest.raises(
        StoppedError, match=r"result\.partial keeps what was reached.*--resume"
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
