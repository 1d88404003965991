"""One driver to a folder, and none of a killed driver's jobs beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nanopinn.errors import OutputError
from nanopinn.report.lock import locked

if TYPE_CHECKING:
    from psutil import Process

#: In the environment of Snakemake and of each job: the folder it works for.
MARK = "NANOPINN_WORKS_FOR"
_PATIENCE_S = 60.0


@contextmanager
def alone_in(out: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder against other drivers; jobs that a killed one left behind are stopped first: they keep what they have reached.

    Raises:
        OutputError: the folder cannot be written, another run works in it, or Snakemake was started there by hand.
    """
    with locked(out / "work"):
        _refuse_started_by_hand(out)
        _stop_left_behind(out, tell)
        yield


def _refuse_started_by_hand(out: Path) -> None:
    """This package starts Snakemake without a lock of Snakemake's: one that is there is another's."""
    locks = out / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        raise OutputError(
            f"Snakemake, started by hand, works in {out}, or was killed there. Wait for its end; after a kill: snakemake --unlock there."
        )


def left_behind(out: Path) -> list[Process]:
    """Processes on this machine that work for a folder."""
    import psutil

    mark = str(out.resolve())
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _works_for(p) == mark]


def _works_for(process: Process) -> str | None:
    import psutil

    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):  # ended meanwhile, or another user's
        return None


def _stop_left_behind(out: Path, tell: Callable[[str], None]) -> None:
    """Until none is left: Snakemake may have started another job before it was told."""
    import psutil

    left, until = left_behind(out), time.monotonic() + _PATIENCE_S
    if left:
        tell(
            f"A run was killed here and left {len(left)} processes behind; they are stopped first and keep what they have reached."
        )
    while left and time.monotonic() < until:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(left, timeout=_PATIENCE_S)
        left = left_behind(out)
    if left:
        numbers = ", ".join(str(p.pid) for p in left)
        raise OutputError(
            f"Processes {numbers} of a killed run work on in {out} and do not stop. End them first."
        )
