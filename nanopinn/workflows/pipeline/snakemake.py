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
from nanopinn.workflows.pipeline.alone import MARK
from nanopinn.workflows.pipeline.places import pipelines, profile_folder

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
        pipelines()
        profile_folder(self.profile)

    def planned(self, folder: Path) -> str:
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
                f"Snakemake cannot plan the work: {last_words(said.stderr + said.stdout)}"
            )
        return said.stdout + said.stderr

    def run(self, log: Path, each: Callable[[], None]) -> int:
        """Do what is to be done; Snakemake's words go to ``log``, ``each`` is called once a second.

        Returns:
            int: Snakemake's exit code.

        Raises:
            StoppedError: the user, or the system, stopped it; its jobs have kept what they had reached.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as said, _Stop() as stop:
            running = subprocess.Popen(
                self._command(self.out, log.parent),
                env=self._environment(),
                stdout=said,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            stop.goes_to(running.pid)
            while True:
                try:
                    return running.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    each()

    def _command(self, place: Path, folder: Path) -> list[str]:
        """Options that hold for every profile.

        Jobs write their outputs under another name and rename them when they are whole, so what is there is complete, also when
        its driver was killed before it took note (``--ignore-incomplete``). Who works where is settled by :mod:`alone`, whose
        locks do not outlive a kill (``--nolock``).
        """
        settings = folder / f"{self.name}.json"
        settings.write_text(json.dumps(dict(self.config), indent=2) + "\n", encoding="utf-8")
        options = {
            "--snakefile": pipelines() / self.name / "Snakefile",
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
            "PATH": os.pathsep.join([str(commands()), os.environ.get("PATH", "")]),
            MARK: str(self.out.resolve()),
        }


def commands() -> Path:
    """Where this Python's ``nanopinn`` lies."""
    return Path(sys.executable).parent


class _Stop:
    """Hands Ctrl-C and a polite kill to Snakemake and its jobs, and ends in words once they have ended.

    It is there before they are started: a shell that starts us in the background has SIGINT ignored, and they would inherit that.
    """

    def __init__(self) -> None:
        self._asked, self._group = False, 0

    def __enter__(self) -> _Stop:
        self._before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def goes_to(self, group: int) -> None:
        """The processes to stop, also if that was asked for already."""
        self._group = group
        if self._asked:
            self._stop(signal.SIGINT, None)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._group:
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGINT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)
        if self._asked and error is None:
            raise StoppedError(
                "Interrupted. What is finished is kept: the same command goes on from there."
            )


def refuse_early_end(code: int, log: Path) -> None:
    """Say why Snakemake ended where that was for no job's sake.

    Raises:
        NanopinnError: it was so.
    """
    said = log.read_text(encoding="utf-8")
    if code and "Error in rule" not in said:
        raise NanopinnError(f"Snakemake ended early: {last_words(said)} All of it: {log}")


def last_words(text: str) -> str:
    """The end of what Snakemake said, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = [i for i, line in enumerate(lines) if re.search(r"(Error|Exception)\b", line)]
    return " ".join(lines[wrong[0] if wrong else -3 :][:6])
