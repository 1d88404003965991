"""Repeatability of a fit, and faults during a run: lost inputs, full disks, signals, kills."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nanopinn.cli.exit_status import record_interruption
from nanopinn.errors import InputError, OutputError
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.imaging.pipeline import make_maps
from nanopinn.inference.device import choose_device
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.gauss_newton import OptimiserState
from nanopinn.io.checkpoint_store import FAILURE_FILE, CheckpointStore, delete_checkpoints
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.settings import FitSettings, PhantomSettings
from nanopinn.studies import fit as workflow
from nanopinn.studies.fit import run_fit, write_fit
from nanopinn.studies.pose_study import pose_study

KILLS = Path(__file__).resolve().parents[1] / "benchmarks" / "kills.py"
SETTINGS = FitSettings(engine="fv", preset="fast", device="cpu")
#: Largest relative difference of a posterior median or sd between one thread and two;
#: benchmarks/threads.py measures it.
THREADS = 1e-8


def inputs_in(folder: Path) -> ImagingInputs:
    return ImagingInputs(
        dce=folder / "dce.nii.gz", cest=folder / "ph.nii.gz", mask=folder / "mask.nii.gz", t1=1.4
    )


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_phantom(
        tmp_path_factory.mktemp("faults") / "phantom", PhantomSettings(shape=(10, 10, 6), refine=2)
    )


@pytest.fixture(scope="module")
def result(phantom: Path) -> Path:
    torch.set_num_threads(1)
    return write_fit(phantom.with_name("first"), run_fit(inputs_in(phantom), SETTINGS))


def estimates(folder: Path) -> np.ndarray:
    rows = json.loads((folder / "parameters.json").read_text())["parameters"]
    return np.array([[r["posterior_median"], r["posterior_sd"]] for r in rows])


def test_repeated_fit_gives_the_same_bytes_though_its_inputs_are_removed(
    phantom: Path, result: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    copied = shutil.copytree(phantom, tmp_path / "copied")

    def remove(stage: str, *_: object) -> None:
        if stage == "fv: Gauss-Newton":
            shutil.rmtree(copied, ignore_errors=True)

    again = write_fit(tmp_path / "again", run_fit(inputs_in(copied), SETTINGS, progress=remove))
    assert not copied.exists()
    timed = {"check.json", "provenance.json", "report.html", "fit.safetensors"}
    names = {str(p.relative_to(result)) for p in result.rglob("*") if p.is_file()}
    assert {n for n in names if (again / n).read_bytes() != (result / n).read_bytes()} <= timed
    read = [
        json.loads((folder / "provenance.json").read_text())["inputs"] for folder in (again, result)
    ]
    assert read[0] == read[1]
    assert {"dce.nii.gz", "dce.json", "ph.nii.gz", "mask.nii.gz"} <= set(read[0])


def test_two_threads_give_the_same_estimates_within_the_stated_limit(
    phantom: Path, result: Path
) -> None:
    torch.set_num_threads(1)
    inputs = inputs_in(phantom)
    problem = pose_study(make_maps(inputs), inputs, SETTINGS, "cpu").problem
    torch.set_num_threads(2)
    try:
        again = fit_fv(problem).run.scalars
    finally:
        torch.set_num_threads(1)
    np.testing.assert_allclose([[s.median, s.sd] for s in again], estimates(result), rtol=THREADS)


def test_input_that_changes_while_it_is_read_is_refused(phantom: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(phantom, tmp_path / "copied")

    def change(stage: str, *_: object) -> None:
        if stage == "arterial input":
            (copied / "ph.nii.gz").unlink(missing_ok=True)

    with pytest.raises(
        InputError, match=r"ph\.nii\.gz: the file was changed or removed.*found: removed"
    ):
        make_maps(inputs_in(copied), progress=change)


def test_full_gpu_falls_back_to_the_cpu_and_reports_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = SimpleNamespace(events=("step rejected",))
    tried: list[object] = []

    def run_inference(
        imaging: object,
        posed: object,
        settings: object,
        progress: object,
        seconds: object,
        checkpoint_store: object,
    ) -> object:
        tried.append(checkpoint_store)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer

    monkeypatch.setattr(workflow, "run_inference", run_inference)
    monkeypatch.setattr(
        workflow, "replace", lambda value, **new: SimpleNamespace(**{**vars(value), **new})
    )
    answer = SimpleNamespace(runs={"fv": run})

    def on(device: str) -> SimpleNamespace:
        maps = SimpleNamespace(phi=torch.zeros(1, device=device))
        return SimpleNamespace(problem=SimpleNamespace(setting=SimpleNamespace(maps=maps)))

    checkpoint_store = SimpleNamespace(resumed=False, device="cuda")
    found = workflow._infer_with_cpu_fallback(
        None, on("meta"), SETTINGS, None, {}, checkpoint_store
    )  # type: ignore[arg-type]
    assert found.runs["fv"].events == (
        "step rejected",
        "the GPU's memory was exhausted: the fit continued on the CPU",
    )
    assert (tried[1].resumed, tried[1].device) == (True, "cpu")  # type: ignore[attr-defined]
    tried.clear()
    with pytest.raises(torch.OutOfMemoryError):
        workflow._infer_with_cpu_fallback(None, on("cpu"), SETTINGS, None, {}, None)  # type: ignore[arg-type]


def test_missing_gpu_is_refused_before_inputs_are_read() -> None:
    with pytest.raises(InputError, match="There is no such GPU"):
        choose_device(f"cuda:{torch.cuda.device_count()}")


def test_full_disk_leaves_the_last_checkpoint_and_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_folder = tmp_path / "out.partial"
    checkpoint_store = CheckpointStore.create_empty(checkpoint_folder, {"seed": "0"}, "cpu")
    checkpoint_store.put("fv", OptimiserState(1, np.ones(3)), (OptimiserState,))
    filled, write = [True], os.fsync

    def full(handle: int) -> None:
        if filled[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(handle)

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(
            OutputError, match=r"No space left.*out\.partial holds a checkpoint.*--resume"
        ),
        record_interruption(checkpoint_folder),
    ):
        checkpoint_store.put("fv", OptimiserState(2, np.zeros(3)), (OptimiserState,))
    assert sorted(p.name for p in checkpoint_folder.iterdir()) == ["fv.safetensors", "study.json"]
    assert (
        CheckpointStore.reopen(checkpoint_folder, {"seed": "0"}, "cpu")
        .get("fv", OptimiserState, (OptimiserState,))
        .iteration
        == 1
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [(ZeroDivisionError("in /home/me/x.py"), "internal error"), (InputError("bad"), "refused")],
)
def test_failure_is_recorded_with_the_checkpoint_until_the_run_resumes(
    tmp_path: Path, error: Exception, status: str
) -> None:
    checkpoint_folder = tmp_path / "out.partial"
    with pytest.raises(type(error)), record_interruption(checkpoint_folder):
        raise error
    assert not checkpoint_folder.exists()  # nothing had been kept
    CheckpointStore.create_empty(checkpoint_folder, {"seed": "0"}, "cpu")
    with pytest.raises(type(error)), record_interruption(checkpoint_folder):
        raise error
    said = json.loads((checkpoint_folder / FAILURE_FILE).read_text())
    assert said["status"] == status
    assert "/home" not in said["message"]
    (checkpoint_folder / ".fv.safetensors.abcd1234.part").write_bytes(
        b"half"
    )  # of a process killed while it wrote
    CheckpointStore.reopen(checkpoint_folder, {"seed": "0"}, "cpu")
    assert not (checkpoint_folder / FAILURE_FILE).exists()
    delete_checkpoints(checkpoint_folder)
    assert not checkpoint_folder.exists()


def caught(status: str, what: signal.Signals) -> bool:
    """Whether a process has a handler of its own."""
    mask = next(
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")
    )
    return bool(mask >> (what - 1) & 1)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux says what signals a process catches"
)
@pytest.mark.parametrize("after_s", [0.0, 1.0])
@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_the_imports_is_reported(
    tmp_path: Path, after_s: float, what: signal.Signals
) -> None:
    command = [sys.executable, "-m", "nanopinn", "phantom", "-o", tmp_path / "out"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    status = Path(f"/proc/{run.pid}/status")
    while not caught(status.read_text(), signal.SIGTERM):
        time.sleep(0.005)
    time.sleep(after_s)
    run.send_signal(what)
    _, said = run.communicate()
    assert run.returncode == 130, said
    assert said == "Interrupted; nothing was written.\n"
    assert list(tmp_path.iterdir()) == []


def test_runs_killed_at_random_moments_resume_to_the_same_result(
    phantom: Path,
) -> None:
    command = [
        sys.executable,
        KILLS,
        "--kills",
        "3",
        "--seed",
        "1",
        "--what",
        "fv",
        "--fresh",
        "0",
        "--study",
        phantom,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert sum(found["kills"].values()) == 3
    assert found["largest_difference"] <= 1e-10
