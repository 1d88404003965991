"""The verdict file of a run, which workflows read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from nanopinn.cli.exit_status import with_verdict_option
from nanopinn.errors import CheckFailedError, InputError, OutputError, StoppedError

REPORTED_STATUSES = [
    (None, "passed", 0),
    (CheckFailedError("CHECK FAILED: pressure."), "check failed", 5),
    (InputError("the file is truncated", file="dce.nii.gz"), "refused", 3),
    (ZeroDivisionError("by zero"), "internal error", 1),
    (MemoryError(), "internal error", 1),
]


def command(error: BaseException | None):
    @with_verdict_option("fit")
    def run(size: int = 1) -> str:
        """A command."""
        if error is not None:
            raise error
        return f"size {size}"

    return run


@pytest.mark.parametrize(("error", "status", "code"), REPORTED_STATUSES)
def test_every_status_is_written_to_the_verdict_file(
    tmp_path: Path, error, status: str, code: int
) -> None:
    file = tmp_path / "new" / "fit.json"
    assert command(error)(size=2, verdict=file) is None
    said = json.loads(file.read_text())
    assert (said["status"], said["exit_code"], said["command"]) == (status, code, "fit")
    assert said["message"] == ("size 2" if error is None else said["message"])
    assert said["seconds"] >= 0
    assert [p.name for p in file.parent.iterdir()] == ["fit.json"]


@pytest.mark.parametrize(
    "error",
    [
        OutputError("the disk is full"),
        StoppedError("stopped"),
        KeyboardInterrupt(),
        typer.Exit(130),
    ],
)
def test_stopped_or_unwritable_run_leaves_no_verdict_file(
    tmp_path: Path, error: BaseException
) -> None:
    file = tmp_path / "fit.json"
    file.write_text('{"status": "passed"}')
    with pytest.raises(type(error)):
        command(error)(verdict=file)
    assert list(tmp_path.iterdir()) == []


def test_errors_propagate_without_a_verdict_file(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError):
        command(CheckFailedError("CHECK FAILED"))(verdict=None)


def test_verdict_file_names_files_but_no_folders(tmp_path: Path) -> None:
    places = ["/home/me/scans/dce.nii.gz", "/data/of a patient/ph.nii.gz"]
    for error in (
        FileNotFoundError(2, "No such file", places[0]),
        ValueError(f"{places[0]}: bad"),
        ValueError(f"read '{places[1]}'"),
    ):
        command(error)(verdict=tmp_path / "fit.json")
        said = json.loads((tmp_path / "fit.json").read_text())["message"]
        assert "/" not in said
        assert "dce.nii.gz" in said or "ph.nii.gz" in said
    command(InputError("bad", found="1/min, or 1/s"))(verdict=tmp_path / "fit.json")
    assert "1/min, or 1/s" in (tmp_path / "fit.json").read_text()


def test_unwritable_verdict_file_is_refused_before_the_run(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="`verdict`"):
        command(AssertionError("it ran"))(verdict=tmp_path / "file" / "fit.json")
