"""What an interrupted run leaves: its states, why it ended, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanopinn.cli.verdict import Ending
from nanopinn.errors import OutputError, StoppedError


def kept_of(out: Path) -> Path:
    """Where the states of a run are kept: beside its output."""
    return out.absolute().with_name(f"{out.absolute().name}.partial")


@contextmanager
def kept_on_record(kept: Path) -> Iterator[None]:
    """Say how to go on with work that ends early, and write why it did into the folder of its states, if it has got so far.

    Raises:
        StoppedError: the work was stopped.
        OutputError: it could not be written.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if not kept.exists():
            raise StoppedError("Interrupted; nothing was written.") from error
        _record(kept, stopped := StoppedError(f"Interrupted. {_how_to_go_on(kept)}"))
        raise stopped from error
    except OutputError as error:
        _record(kept, error)
        raise OutputError(
            f"{error} {_how_to_go_on(kept)}" if kept.exists() else str(error)
        ) from error
    except Exception as error:
        _record(kept, error)
        raise


def _how_to_go_on(kept: Path) -> str:
    return f"{kept} keeps what was reached: the same command with --resume goes on from there."


def _record(kept: Path, error: Exception) -> None:
    from nanopinn.imaging.io import write_json
    from nanopinn.inference.resume import FAULT

    if not kept.is_dir():
        return
    ending = Ending.of(error)
    with suppress(OutputError):  # the disk may be what failed
        write_json(
            kept / FAULT,
            {
                "status": ending.status,
                "exit_code": ending.exit_code,
                "message": ending.without_folders,
            },
        )
