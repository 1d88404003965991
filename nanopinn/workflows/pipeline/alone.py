"""One driver to a folder, and none of a killed driver's jobs beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nanopinn.errors import OutputError
from nanopinn.report.lock import exclusive_lock

if TYPE_CHECKING:
    from psutil import Process

#: In the environment of Snakemake and of each job: the folder it works for.
RUN_FOLDER_VARIABLE = "NANOPINN_WORKS_FOR"
_STOP_TIMEOUT_S = 60.0


@contextmanager
def lock_run_folder(out: Path, notify: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder against other drivers; jobs that a killed one left behind are stopped first: they keep what they have reached.

    Raises:
        OutputError: the folder cannot be written, another run works in it, or Snakemake was started there by hand.
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
            f"Snakemake, started by hand, works in {out}, or was killed there. Wait for its end; after a kill: snakemake --unlock there."
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
            f"A run was killed here and left {len(orphans)} processes behind; they are stopped first and keep what they have reached."
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
