"""Killed jobs and killed runs: finished studies are kept, and only the others are repeated."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from nanopinn.cohort.snakemake import find_orphan_processes

from .conftest import Cohort, until

EACH = ("sub-001", "sub-002", "sub-003")


def test_killed_job_is_repeated_alone(
    three: Cohort,
) -> None:
    three.hold("sub-002")
    driver = three.start()
    until(lambda: three.calls("sub-002"))
    os.kill(three.calls("sub-002")[0], signal.SIGKILL)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 6, said
    assert "sub-002: fit unfinished" in said
    assert [three.verdict(s) is not None for s in EACH] == [True, False, True]
    assert (three.out / "group.html").exists(), "the page is made of what there is"
    code, said = three.run()
    assert code == 0, said
    assert [len(three.calls(s)) for s in EACH] == [1, 2, 1]


def test_run_after_a_killed_run_stops_its_jobs_and_repeats_only_those(
    three: Cohort,
) -> None:
    three.hold("sub-002", "sub-003")
    driver = three.start("--cores", "3")
    until(
        lambda: (
            (three.out / "work/sub-001/derivatives.done").exists()
            and three.calls("sub-002")
            and three.calls("sub-003")
        )
    )
    finished = (three.out / "work/sub-001/fit.json").stat().st_mtime_ns
    driver.kill()
    driver.wait()
    orphans = [*three.calls("sub-002"), *three.calls("sub-003")]
    assert all(psutil.pid_exists(pid) for pid in orphans)
    code, said = three.run()
    assert code == 0, said
    assert "A killed run left" in said
    assert [len(three.calls(s)) for s in EACH] == [1, 2, 2]
    assert not any(psutil.pid_exists(pid) for pid in orphans)
    assert find_orphan_processes(three.out) == []
    assert (three.out / "work/sub-001/fit.json").stat().st_mtime_ns == finished


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_second_run_is_refused_and_a_signal_stops_every_job(
    three: Cohort, stop: signal.Signals
) -> None:
    three.hold(*EACH)
    before = signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # as a shell has it for what it starts in the background
    driver = three.start()
    signal.signal(signal.SIGINT, before)
    until(lambda: any(three.calls(s) for s in EACH))
    code, said = three.run()
    assert code == 4, said
    assert "Another run" in said
    driver.send_signal(stop)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "Start the same run again" in said
    assert find_orphan_processes(three.out) == []


def test_only_studies_with_changed_files_are_repeated(three: Cohort) -> None:
    scans = {f: f.stat().st_mtime_ns for f in three.bids.rglob("*")}
    code, said = three.run("--arms", "free,pld")
    assert code == 0, said
    assert {f: f.stat().st_mtime_ns for f in three.bids.rglob("*")} == scans, (
        "the dataset is only read"
    )
    before = three.times()
    code, said = three.run("--arms", "free,pld")
    assert code == 0, said
    changed = {f.name for f, t in three.times().items() if before.get(f) != t}
    assert changed <= {"cohort.log", "cohort.json"}, changed
    series = three.bids / "sub-003" / "perf" / "sub-003_dce.nii.gz"
    series.write_bytes(b"mended")
    os.utime(series, (time.time() + 1, time.time() + 1))
    code, said = three.run("--arms", "free,pld")
    assert code == 0, said
    assert [len(three.calls(s)) for s in EACH] == [1, 1, 2]
    assert [len(three.calls(s, "arms")) for s in EACH] == [1, 1, 2]
