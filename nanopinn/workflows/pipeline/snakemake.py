"""One call of Snakemake on one of the workflows: what is said to it, and what of its own saying is passed on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from nanopinn.errors import NanopinnError, StoppedError
from nanopinn.workflows.pipeline.alone import RUN_FOLDER_VARIABLE
from nanopinn.workflows.pipeline.places import pipelines_folder, profile_folder

_POLL_S = 1.0


@dataclass(frozen=True)
class Workflow:
    """A workflow with what it is told.

    Attributes:
        name: folder under ``pipelines``. out: where it works. profile: name or folder. config: as its schema says.
        cores: at once on this machine; None leaves it to the profile. options: more of Snakemake's.
    """

    name: str
    out: Path
    profile: str = "local"
    config: Mapping[str, Any] = field(default_factory=dict)
    cores: int | None = None
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be started at all."""
        pipelines_folder()
        profile_folder(self.profile)

    def run_dry(self, folder: Path) -> str:
        """What Snakemake says it would do; ``folder`` holds the configuration, and stands in for an output that is not there yet."""
        place = self.out if self.out.is_dir() else folder
        said = subprocess.run(
            [*self._command(place, folder), "--dry-run"],
            env=self._environment(),
            capture_output=True,
            text=True,
        )
        if said.returncode:
            raise NanopinnError(
                f"Snakemake cannot plan the work: {extract_error_message(said.stderr + said.stdout)}"
            )
        return said.stdout + said.stderr

    def run(self, log: Path, on_poll: Callable[[], None]) -> int:
        """Do what is to be done; Snakemake's words go to ``log``, ``each`` is called once a second.

        Returns:
            int: Snakemake's exit code.

        Raises:
            StoppedError: the user, or the system, stopped it; its jobs have kept what they had reached.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as said, _SignalForwarder() as stop:
            running = subprocess.Popen(
                self._command(self.out, log.parent),
                env=self._environment(),
                stdout=said,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            stop.set_process_group(running.pid)
            while True:
                try:
                    return running.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    on_poll()

    def _command(self, place: Path, folder: Path) -> list[str]:
        """Options that hold for every profile.

        Jobs write their outputs under another name and rename them when they are whole, so what is there is complete, also when
        its driver was killed before it took note (``--ignore-incomplete``). Who works where is settled by :mod:`alone`, whose
        locks do not outlive a kill (``--nolock``).
        """
        settings = folder / f"{self.name}.json"
        settings.write_text(json.dumps(dict(self.config), indent=2) + "\n", encoding="utf-8")
        options = {
            "--snakefile": pipelines_folder() / self.name / "Snakefile",
            "--directory": place,
            "--configfile": settings,
            "--profile": profile_folder(self.profile),
            "--workflow-profile": "none",
            "--runtime-source-cache-path": place / ".snakemake" / "source-cache",
        } | ({"--cores": self.cores} if self.cores else {})
        flat = [str(word) for pair in options.items() for word in pair]
        return [
            sys.executable,
            "-m",
            "snakemake",
            *flat,
            "--nolock",
            "--ignore-incomplete",
            "--nocolor",
            *self.options,
        ]

    def _environment(self) -> dict[str, str]:
        """The jobs' ``nanopinn`` is this Python's, and each carries the mark of the folder it works for."""
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(executables_folder()), os.environ.get("PATH", "")]),
            RUN_FOLDER_VARIABLE: str(self.out.resolve()),
        }


def executables_folder() -> Path:
    """Where this Python's ``nanopinn`` lies."""
    return Path(sys.executable).parent


class _SignalForwarder:
    """Hands Ctrl-C and a polite kill to Snakemake and its jobs, and ends in words once they have ended.

    It is there before they are started: a shell that starts us in the background has SIGINT ignored, and they would inherit that.
    """

    def __init__(self) -> None:
        self._stop_requested, self._group = False, 0

    def __enter__(self) -> _SignalForwarder:
        self._before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def set_process_group(self, group: int) -> None:
        """The processes to stop, also if that was asked for already."""
        self._group = group
        if self._stop_requested:
            self._stop(signal.SIGINT, None)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._stop_requested = True
        if self._group:
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGINT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)
        if self._stop_requested and error is None:
            raise StoppedError(
                "Interrupted. What is finished is kept: the same command goes on from there."
            )


def raise_if_ended_early(code: int, log: Path) -> None:
    """Say why Snakemake ended where that was for no job's sake.

    Raises:
        NanopinnError: it was so.
    """
    said = log.read_text(encoding="utf-8")
    if code and "Error in rule" not in said:
        raise NanopinnError(
            f"Snakemake ended early: {extract_error_message(said)} All of it: {log}"
        )


def extract_error_message(text: str) -> str:
    """The end of what Snakemake said, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = [i for i, line in enumerate(lines) if re.search(r"(Error|Exception)\b", line)]
    return " ".join(lines[wrong[0] if wrong else -3 :][:6])
