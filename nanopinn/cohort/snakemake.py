"""Run the Snakemake workflows of ``pipelines``, one run at a time in each output folder.

A run first stops the jobs that a killed run left in its folder. The plan of a run is parsed from
the output of Snakemake's dry run.
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
    """Folder ``pipelines`` of the checkout or the installed package.

    Raises:
        InputError: The folder is missing, or Snakemake is not installed.
    """
    folder = Path(str(files("nanopinn") / "pipelines")).resolve()
    if not (folder / "cohort" / "Snakefile").is_file():
        raise InputError(
            "the workflows are missing from this installation",
            file=folder,
            remedy="Install nanopinn again.",
        )
    if find_spec("snakemake") is None:
        raise InputError(
            "Snakemake is not installed", remedy="Install the extra nanopinn[pipelines]."
        )
    return folder


def profile_folder(name: str) -> Path:
    """Folder of a Snakemake profile.

    Args:
        name: One of :data:`PROFILES`, or a folder.

    Raises:
        InputError: There is no such profile.
    """
    folder = pipelines_folder() / "profiles" / name if name in PROFILES else Path(name).absolute()
    if not any((folder / file).is_file() for file in ("config.yaml", "profile.yaml")):
        expected = f"{', '.join(PROFILES)}, or a folder with a config.yaml"
        raise InputError("there is no such profile", field="profile", found=name, expected=expected)
    return folder


#: Environment variable of Snakemake and of each job: the output folder of the run.
RUN_FOLDER_VARIABLE = "NANOPINN_WORKS_FOR"
_STOP_TIMEOUT_S = 60.0


@contextmanager
def lock_run_folder(out: Path, notify: Callable[[str], None]) -> Iterator[None]:
    """Reserve the folder for this run, and stop jobs that a killed run left in it.

    Stopped jobs keep their checkpoints.

    Args:
        out: Output folder.
        notify: Called with a message if jobs are stopped.

    Raises:
        OutputError: The folder cannot be written, another run works in it, or Snakemake was started
            there directly.
    """
    with exclusive_lock(out / "work"):
        _refuse_foreign_snakemake_lock(out)
        _stop_orphan_processes(out, notify)
        yield


def _refuse_foreign_snakemake_lock(out: Path) -> None:
    """Refuse a folder with a lock of Snakemake: runs of this package do not create one."""
    locks = out / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        raise OutputError(
            f"Snakemake was started directly in {out} and is still running, or was killed. Wait"
            " until it ends; if it was killed, run snakemake --unlock in that folder."
        )


def find_orphan_processes(out: Path) -> list[Process]:
    """Find processes on this machine that belong to a run in a folder."""
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
    except (psutil.Error, OSError):  # the process has ended, or belongs to another user
        return None


def _stop_orphan_processes(out: Path, notify: Callable[[str], None]) -> None:
    """Stop orphan processes until none is left: Snakemake may start a job while it is stopped."""
    import psutil

    orphans, until = find_orphan_processes(out), time.monotonic() + _STOP_TIMEOUT_S
    if orphans:
        notify(
            f"A killed run left {len(orphans)} processes running in this folder. They are stopped"
            " first; their checkpoints are kept."
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
            f"Processes {numbers} of a killed run still work in {out} and do not stop. End them"
            " first."
        )


_HEAD = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$")
_ENTRY = re.compile(r"^ +(reason|wildcards): (.*)$")

#: Reasons that Snakemake gives, in plain words; the first that matches counts.
_REASONS = (
    ("Missing output files", "not done yet"),
    ("Updated input files", "an input file has changed"),
    ("Set of input files has changed", "the set of input files has changed"),
    ("Params have changed", "the settings or the version have changed"),
    ("Code has changed", "the workflow has changed"),
    ("Input files updated by another job", "its inputs are computed again"),
)

#: Order of the rules of one study.
_RULE_ORDER = ("fit", "derivatives", "arms", "derivatives_of_arms")


@dataclass(frozen=True)
class Job:
    """One planned job.

    Attributes:
        rule: Name of its rule.
        relative_folder: Folder of its study; empty if the job is for all studies.
        reason: Why the job would run.
    """

    rule: str
    relative_folder: str
    reason: str


def parse_dry_run(dry_run_output: str) -> tuple[Job, ...]:
    """Parse the jobs of a dry run, without the rule ``all``."""
    return tuple(job for job in _parse_jobs(dry_run_output) if job.rule != "all")


def _parse_jobs(dry_run_output: str) -> Iterator[Job]:
    """Parse each heading with the indented lines below it."""
    rule, found = "", {}
    for line in [*dry_run_output.splitlines(), ""]:
        head, entry = _HEAD.match(line), _ENTRY.match(line)
        if entry and rule:
            found[entry[1]] = entry[2]
        elif not line.startswith(" ") and rule:
            yield Job(
                rule,
                _folder_from_wildcards(found.get("wildcards", "")),
                _translate_reason(found.get("reason", "")),
            )
            rule = ""
        if head:
            rule, found = head[1], {}


def _folder_from_wildcards(wildcards: str) -> str:
    key, _, value = wildcards.partition("=")
    return value if key == "relative_folder" else ""


def _translate_reason(reason: str) -> str:
    return next((words for start, words in _REASONS if start in reason), reason)


def describe_jobs(jobs: Sequence[Job], relative_folder: str) -> str:
    """Describe the planned jobs of one study: ``fit, derivatives (not done yet)``."""
    own = sorted(
        (job for job in jobs if job.relative_folder == relative_folder),
        key=lambda job: _RULE_ORDER.index(job.rule),
    )
    return f"{', '.join(job.rule for job in own)} ({own[0].reason})" if own else "nothing to do"


_POLL_S = 1.0


@dataclass(frozen=True)
class Workflow:
    """A workflow with its configuration.

    Attributes:
        name: Folder below ``pipelines``.
        out: Output folder.
        profile: Name or folder of the Snakemake profile.
        config: Configuration, as the schema of the workflow describes it.
        cores: Number of jobs at a time on this machine; None leaves it to the profile.
        options: Further options of Snakemake.
    """

    name: str
    out: Path
    profile: str = "local"
    config: Mapping[str, Any] = field(default_factory=dict)
    cores: int | None = None
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a workflow that cannot be started."""
        pipelines_folder()
        profile_folder(self.profile)

    def run_dry(self, folder: Path) -> str:
        """Run Snakemake with ``--dry-run``, and return its output.

        Args:
            folder: Temporary folder for the configuration; used as output folder if ``out`` does
                not exist.

        Raises:
            NanopinnError: Snakemake cannot plan the work.
        """
        directory = self.out if self.out.is_dir() else folder
        done = subprocess.run(
            [*self._command(directory, folder), "--dry-run"],
            env=self._environment(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise NanopinnError(
                "Snakemake cannot plan the work:"
                f" {extract_error_message(done.stderr + done.stdout)}"
            )
        return done.stdout + done.stderr

    def run(self, log: Path, on_poll: Callable[[], None]) -> int:
        """Run the workflow.

        Args:
            log: File for the output of Snakemake.
            on_poll: Called once a second.

        Returns:
            Exit code of Snakemake.

        Raises:
            StoppedError: The user or the system stopped the run; its jobs keep their checkpoints.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as output, _SignalForwarder() as stop:
            running = subprocess.Popen(
                self._command(self.out, log.parent),
                env=self._environment(),
                stdout=output,
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

    def _command(self, directory: Path, folder: Path) -> list[str]:
        """Command line of Snakemake with the options that hold for every profile.

        Jobs write their outputs under a temporary name and rename them when complete, so an
        existing output is complete even if Snakemake was killed before it noted that
        (``--ignore-incomplete``). :func:`lock_run_folder` locks the folder, and its lock ends with
        the process (``--nolock``).
        """
        settings = folder / f"{self.name}.json"
        settings.write_text(json.dumps(dict(self.config), indent=2) + "\n", encoding="utf-8")
        options = {
            "--snakefile": pipelines_folder() / self.name / "Snakefile",
            "--directory": directory,
            "--configfile": settings,
            "--profile": profile_folder(self.profile),
            "--workflow-profile": "none",
            "--runtime-source-cache-path": directory / ".snakemake" / "source-cache",
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
        """Environment in which the jobs find this Python's ``nanopinn`` and know their folder."""
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(executables_folder()), os.environ.get("PATH", "")]),
            RUN_FOLDER_VARIABLE: str(self.out.resolve()),
        }


def executables_folder() -> Path:
    """Folder of this Python's ``nanopinn`` command."""
    return Path(sys.executable).parent


class _SignalForwarder:
    """Forwards SIGINT and SIGTERM to Snakemake and its jobs, and waits until they have ended.

    It is installed before they are started: a shell ignores SIGINT in background processes, and
    the jobs would inherit that.
    """

    def __init__(self) -> None:
        self._stop_requested, self._group = False, 0

    def __enter__(self) -> _SignalForwarder:
        self._before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def set_process_group(self, group: int) -> None:
        """Set the processes to stop; they are stopped at once if a signal has come already."""
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
                "Interrupted. Finished studies and checkpoints are kept. Start the same run again"
                " to continue."
            )


def raise_if_ended_early(code: int, log: Path) -> None:
    """Raise an error if Snakemake failed and no job did.

    Args:
        code: Exit code of Snakemake.
        log: File with its output.

    Raises:
        NanopinnError: Snakemake itself failed.
    """
    output = log.read_text(encoding="utf-8")
    if code and "Error in rule" not in output:
        raise NanopinnError(
            f"Snakemake ended early: {extract_error_message(output)} The whole output is in {log}."
        )


def extract_error_message(text: str) -> str:
    """Extract the error message from the output of Snakemake, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = [i for i, line in enumerate(lines) if re.search(r"(Error|Exception)\b", line)]
    return " ".join(lines[wrong[0] if wrong else -3 :][:6])
