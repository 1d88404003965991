"""Where the workflows and their profiles lie, in a checkout as in an installed package.

One driver to a folder, and none of a killed driver's jobs beside it.

What Snakemake would do, read from its dry run.

One call of Snakemake on one of the workflows: what is said to it, and what of its own saying is
passed on.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from nanopinn.errors import InputError, NanopinnError, OutputError, StoppedError
from nanopinn.io.output import exclusive_lock

if TYPE_CHECKING:
    from psutil import Process


PROFILES = ("local", "slurm")


def pipelines_folder() -> Path:
    """The folder ``pipelines``.

    Raises:
        InputError: it is not there, or Snakemake is not.
    """
    folder = Path(str(files("nanopinn") / "pipelines")).resolve()
    if not (folder / "cohort" / "Snakefile").is_file():
        raise InputError(
            "the workflows are missing from this installation",
            file=folder,
            remedy="Install nanopinn anew.",
        )
    if find_spec("snakemake") is None:
        raise InputError("Snakemake is not installed", remedy="pip install 'nanopinn[pipelines]'.")
    return folder


def profile_folder(name: str) -> Path:
    """The folder of a profile: one of :data:`PROFILES`, or a folder of the user's.

    Raises:
        InputError: there is none.
    """
    folder = pipelines_folder() / "profiles" / name if name in PROFILES else Path(name).absolute()
    if not any((folder / file).is_file() for file in ("config.yaml", "profile.yaml")):
        expected = f"{', '.join(PROFILES)}, or a folder with a config.yaml"
        raise InputError(
            "there is no such profile", field="--profile", found=name, expected=expected
        )
    return folder


#: In the environment of Snakemake and of each job: the folder it works for.
RUN_FOLDER_VARIABLE = "NANOPINN_WORKS_FOR"
_STOP_TIMEOUT_S = 60.0


@contextmanager
def lock_run_folder(out: Path, notify: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder against other drivers; jobs that a killed one left behind are stopped first:
    they keep what they have reached.

    Raises:
        OutputError: the folder cannot be written, another run works in it, or Snakemake was started
            there by hand.
    """
    with exclusive_lock(out / "work"):
        _refuse_foreign_snakemake_lock(out)
        _stop_orphan_processes(out, notify)
        yield


def _refuse_foreign_snakemake_lock(out: Path) -> None:
    """This package starts Snakemake without a lock of Snakemake's: one that is there is another's."""
    locks = out / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        raise OutputError(
            f"Snakemake, started by hand, works in {out}, or was killed there. Wait for its end;"
            " after a kill: snakemake --unlock there."
        )


def find_orphan_processes(out: Path) -> list[Process]:
    """Processes on this machine that work for a folder."""
    import psutil

    run_folder = str(out.resolve())
    return [
        p
        for p in psutil.process_iter()
        if p.pid != os.getpid() and _read_run_folder(p) == run_folder
    ]


def _read_run_folder(process: Process) -> str | None:
    import psutil

    try:
        return process.environ().get(RUN_FOLDER_VARIABLE)
    except (psutil.Error, OSError):  # ended meanwhile, or another user's
        return None


def _stop_orphan_processes(out: Path, notify: Callable[[str], None]) -> None:
    """Until none is left: Snakemake may have started another job before it was told."""
    import psutil

    orphans, until = find_orphan_processes(out), time.monotonic() + _STOP_TIMEOUT_S
    if orphans:
        notify(
            f"A run was killed here and left {len(orphans)} processes behind; they are stopped"
            " first and keep what they have reached."
        )
    while orphans and time.monotonic() < until:
        for process in orphans:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(orphans, timeout=_STOP_TIMEOUT_S)
        orphans = find_orphan_processes(out)
    if orphans:
        numbers = ", ".join(str(p.pid) for p in orphans)
        raise OutputError(
            f"Processes {numbers} of a killed run work on in {out} and do not stop. End them first."
        )


_HEAD = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$")
_ENTRY = re.compile(r"^ +(reason|wildcards): (.*)$")

#: Snakemake's reasons, in words; the first that is found counts.
_REASONS = (
    ("Missing output files", "not done yet"),
    ("Updated input files", "a file has changed since"),
    ("Set of input files has changed", "other files than before"),
    ("Params have changed", "other settings, or another version, than before"),
    ("Code has changed", "the workflow has changed since"),
    ("Input files updated by another job", "what it reads is made anew"),
)

#: What is done for a study, one after the other.
_RULE_ORDER = ("fit", "derivatives", "arms", "derivatives_of_arms")


@dataclass(frozen=True)
class Job:
    """One job: its rule, the study it is for (empty: for all), and why it would run."""

    rule: str
    place: str
    reason: str


def parse_dry_run(dry_run_output: str) -> tuple[Job, ...]:
    """The jobs of a dry run; the rule that only gathers the others is none."""
    return tuple(job for job in _parse_jobs(dry_run_output) if job.rule != "all")


def _parse_jobs(dry_run_output: str) -> Iterator[Job]:
    """Each head with the indented lines under it."""
    rule, found = "", {}
    for line in [*dry_run_output.splitlines(), ""]:
        head, entry = _HEAD.match(line), _ENTRY.match(line)
        if entry and rule:
            found[entry[1]] = entry[2]
        elif not line.startswith(" ") and rule:
            yield Job(
                rule,
                _place_from_wildcards(found.get("wildcards", "")),
                _translate_reason(found.get("reason", "")),
            )
            rule = ""
        if head:
            rule, found = head[1], {}


def _place_from_wildcards(wildcards: str) -> str:
    return wildcards.removeprefix("place=") if wildcards.startswith("place=") else ""


def _translate_reason(reason: str) -> str:
    return next((words for start, words in _REASONS if start in reason), reason)


def describe_jobs(jobs: Sequence[Job], place: str) -> str:
    """What would be done for one study: ``fit, derivatives (not done yet)``; nothing where nothing
    is to be done.
    """
    own = sorted(
        (job for job in jobs if job.place == place), key=lambda job: _RULE_ORDER.index(job.rule)
    )
    return f"{', '.join(job.rule for job in own)} ({own[0].reason})" if own else "nothing to do"


_POLL_S = 1.0


@dataclass(frozen=True)
class Workflow:
    """A workflow with what it is told.

    Attributes:
        name: folder under ``pipelines``. out: where it works. profile: name or folder. config: as
            its schema says.
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
        """What Snakemake says it would do; ``folder`` holds the configuration, and stands in for an
        output that is not there yet.
        """
        place = self.out if self.out.is_dir() else folder
        said = subprocess.run(
            [*self._command(place, folder), "--dry-run"],
            env=self._environment(),
            capture_output=True,
            text=True,
        )
        if said.returncode:
            raise NanopinnError(
                "Snakemake cannot plan the work:"
                f" {extract_error_message(said.stderr + said.stdout)}"
            )
        return said.stdout + said.stderr

    def run(self, log: Path, on_poll: Callable[[], None]) -> int:
        """Do what is to be done; Snakemake's words go to ``log``, ``each`` is called once a second.

        Returns:
            int: Snakemake's exit code.

        Raises:
            StoppedError: the user, or the system, stopped it; its jobs have kept what they had
                reached.
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

        Jobs write their outputs under another name and rename them when they are whole, so what is
        there is complete, also when its driver was killed before it took note
        (``--ignore-incomplete``). Who works where is settled by :mod:`alone`, whose locks do not
        outlive a kill (``--nolock``).
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
        """The jobs' ``nanopinn`` is this Python's, and each carries the mark of the folder it works
        for.
        """
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(executables_folder()), os.environ.get("PATH", "")]),
            RUN_FOLDER_VARIABLE: str(self.out.resolve()),
        }


def executables_folder() -> Path:
    """Where this Python's ``nanopinn`` lies."""
    return Path(sys.executable).parent


class _SignalForwarder:
    """Hands Ctrl-C and a polite kill to Snakemake and its jobs, and ends in words once they have
    ended.

    It is there before they are started: a shell that starts us in the background has SIGINT
    ignored, and they would inherit that.
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
