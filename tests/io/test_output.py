"""Output folders have one writer at a time and are complete or absent after any interruption."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanopinn.errors import OutputError
from nanopinn.io import output as lock
from nanopinn.io.output import atomic_output_folder, reserve_output_file, reserve_output_folder
from nanopinn.io.volumes import write_bytes
from nanopinn.report.result_files import reserve_table_file

#: Claims a folder and waits to be killed.
HOLDS = """
import sys, time
from pathlib import Path
from nanopinn.io.output import reserve_output_folder
with reserve_output_folder(Path(sys.argv[1]), overwrite=True):
    print("held", flush=True)
    time.sleep(60)
"""
#: Writes a folder over another, and is killed before or after a call of os.replace or
#: shutil.rmtree.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from nanopinn.io.volumes import write_bytes
from nanopinn.io.output import atomic_output_folder
out, deadly = Path(sys.argv[1]), int(sys.argv[2])
moments = 0
def watched(call):
    def run(*args, **kwargs):
        global moments
        for step in (lambda: None, lambda: call(*args, **kwargs)):
            step()
            moments += 1
            if moments == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
    return run
os.replace, shutil.rmtree = watched(os.replace), watched(shutil.rmtree)
with atomic_output_folder(out, overwrite=True) as part:
    for name in ("a", "provenance.json"):
        write_bytes(part / name, b"new")
print(moments)
"""


def child(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True
    )


def result(out: Path, content: bytes) -> Path:
    with atomic_output_folder(out, overwrite=True) as part:
        for name in ("a", "provenance.json"):
            write_bytes(part / name, content)
    return out


def contents(folder: Path) -> set[bytes]:
    assert sorted(p.name for p in folder.iterdir()) == ["a", "provenance.json"]
    return {p.read_bytes() for p in folder.iterdir()}


def test_a_second_run_on_one_output_is_refused_and_names_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = child(HOLDS, out)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    try:
        with pytest.raises(
            OutputError, match=rf"Another run is writing .*out \(process {first.pid} on .+\)"
        ) as refused:
            result(out, b"mine")
        assert refused.value.exit_code == 4
        with (
            pytest.raises(OutputError, match="Another run"),
            reserve_output_folder(tmp_path / "x" / ".." / "out", overwrite=True),
        ):
            pass
    finally:
        first.kill()
        first.wait()
    result(out, b"mine")  # a lock does not outlive its process
    assert [p.name for p in tmp_path.iterdir() if p.name != "x"] == ["out"]


def test_a_lock_excludes_threads_and_allows_nested_calls(tmp_path: Path) -> None:
    out, said = tmp_path / "out", []

    def other() -> None:
        try:
            result(out, b"other")
        except OutputError as error:
            said.append(str(error))

    with reserve_output_folder(out, overwrite=False):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        result(out, b"mine")
    assert len(said) == 1
    assert contents(out) == {b"mine"}
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("deadly", range(1, 17))
def test_a_kill_during_overwriting_leaves_the_old_or_the_new_result(
    tmp_path: Path, deadly: int
) -> None:
    out = result(tmp_path / "out", b"old")
    writer = child(KILLED, out, deadly)
    done, _ = writer.communicate()
    assert done == "" or int(done) < deadly <= 16, "the writer has more steps than are tried here"
    with reserve_output_folder(out, overwrite=True):
        pass
    assert contents(out) in ({b"old"}, {b"new"})
    assert list(tmp_path.iterdir()) == [out]


def test_only_files_of_killed_runs_are_deleted(tmp_path: Path) -> None:
    mine = [
        ".out.part-1x",
        "out.part-1",
        ".outer.part-1",
        ".out.notes.part",
        ".out.old-1.bak",
        "out.partial",
    ]
    left = [".out.part-1", ".out.old-77", ".out.ab_c1234.part"]
    for name in (*mine, *left[:2]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("a")
    (tmp_path / left[2]).write_text("half of a table")
    (tmp_path / "out").write_text("a table")
    with reserve_output_file(tmp_path / "out", overwrite=True):
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*mine, "out", ".out.lock"])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*mine, "out"])


def test_an_empty_folder_is_nobodys_result(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_output_folder(tmp_path / "out", overwrite=False) as part:
        write_bytes(part / "a", b"new")
    assert (tmp_path / "out" / "a").read_bytes() == b"new"


def test_a_full_disk_leaves_the_old_result_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = result(tmp_path / "out", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left") as error:
        result(out, b"new")
    assert error.value.exit_code == 4
    assert contents(out) == {b"old"}
    assert list(tmp_path.iterdir()) == [out]


def test_an_interruption_while_writing_leaves_the_old_result(tmp_path: Path) -> None:
    out = result(tmp_path / "out", b"old")
    with pytest.raises(KeyboardInterrupt):
        stopped_while_writing(out)
    assert contents(out) == {b"old"}
    assert list(tmp_path.iterdir()) == [out]


def stopped_while_writing(out: Path) -> None:
    with atomic_output_folder(out, overwrite=True) as part:
        write_bytes(part / "a", b"new")
        raise KeyboardInterrupt


def test_a_failed_rename_puts_the_old_result_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, replace = result(tmp_path / "out", b"old"), os.replace

    def failing(a: Path, b: Path) -> None:
        if ".part-" in str(a) and b == out:
            raise OSError(errno.EIO, "Input/output error")
        replace(a, b)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OutputError, match="Input/output"):
        result(out, b"new")
    assert contents(out) == {b"old"}
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_system_without_locks_is_warned_of_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with pytest.warns(UserWarning, match="has no locks"):
        result(tmp_path / "out", b"new")


def test_a_read_only_folder_is_refused_before_the_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def read_only(path: object, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *mode)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", read_only)  # root may write everywhere
    with (
        pytest.raises(OutputError, match="Read-only file system"),
        reserve_output_folder(tmp_path / "out", overwrite=False),
    ):
        raise AssertionError("it began")
    with (
        pytest.raises(OutputError, match="Read-only file system"),
        reserve_table_file(tmp_path / "t.json", overwrite=False),
    ):
        raise AssertionError("it began")
