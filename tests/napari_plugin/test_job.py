"""The worker process: one request, one reply, and a message for every error."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanopinn.napari_plugin import job


def test_errors_are_reported_as_messages(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    job.handle_request(
        {"kind": "maps", "inputs": {"dce": str(tmp_path / "none.nii")}, "out": str(tmp_path / "o")},
        said.append,
    )
    assert said[-1] == {
        "failed": "none.nii: there is no such file (found: none.nii). Check the path."
    }
    job.handle_request({"kind": "maps", "inputs": {"no": 1}, "out": ""}, said.append)
    assert said[-1]["failed"].startswith("Internal error: TypeError")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "There is not enough memory for this study."),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_lack_of_memory_or_disk_is_reported(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []

    def broken(request: dict[str, Any], progress: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setitem(job.REQUEST_HANDLERS, "maps", broken)
    job.handle_request({"kind": "maps"}, said.append)
    assert words in said[-1]["failed"]


def test_printed_text_is_no_reply_and_a_closed_input_ends_the_worker() -> None:
    code = (
        "import nanopinn.napari_plugin.job as j\n"
        "j.REQUEST_HANDLERS['maps'] = lambda r, p: print('noise') or {'ok': True}\nj.main()"
    )
    run = partial(
        subprocess.run,
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    ended = run(input='{"kind": "maps"}\n')
    assert [json.loads(line) for line in ended.stdout.splitlines()] == [
        {"ready": True},
        {"done": {"ok": True}},
    ]
    assert "noise" in ended.stderr
    assert run(input="").stdout.splitlines() == ['{"ready": true}']


def test_progress_is_sent_as_plain_numbers() -> None:
    said: list[dict[str, Any]] = []
    job._progress(said.append)("stage", 0.5, {"chi2/N": np.float64(1.5)})
    assert json.dumps(said) == '[{"stage": "stage", "fraction": 0.5, "numbers": {"chi2/N": 1.5}}]'
