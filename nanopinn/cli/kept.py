"""What an interrupted run leaves: its states, why it ended, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanopinn.cli.verdict import CommandStatus
from nanopinn.errors import OutputError, StoppedError


def locate_checkpoint_folder(out: Path) -> Path:
    """Where the states of a run are kept: beside its output."""
    return out.absolute().with_name(f"{out.absolute().name}.partial")


@contextmanager
def record_interruption(checkpoint_folder: Path) -> Iterator[None]:
    """Say how to go on with work that ends early, and write why it did into the folder of its states, if it has got so far.

    Raises:
        StoppedError: the work was stopped.
        OutputError: it could not be written.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if not checkpoint_folder.exists():
            raise StoppedError("Interrupted; nothing was written.") from error
        _write_failure(
            checkpoint_folder,
            stopped := StoppedError(f"Interrupted. {_resume_hint(checkpoint_folder)}"),
        )
        raise stopped from error
    except OutputError as error:
        _write_failure(checkpoint_folder, error)
        raise OutputError(
            f"{error} {_resume_hint(checkpoint_folder)}"
            if checkpoint_folder.exists()
            else str(error)
        ) from error
    except Exception as error:
        _write_failure(checkpoint_folder, error)
        raise


def _resume_hint(checkpoint_folder: Path) -> str:
    return f"{checkpoint_folder} keeps what was reached: the same command with --resume goes on from there."


def _write_failure(checkpoint_folder: Path, error: Exception) -> None:
    from nanopinn.imaging.io import write_json
    from nanopinn.inference.resume import FAILURE_FILE

    if not checkpoint_folder.is_dir():
        return
    ending = CommandStatus.of(error)
    with suppress(OutputError):  # the disk may be what failed
        write_json(
            checkpoint_folder / FAILURE_FILE,
            {
                "status": ending.status,
                "exit_code": ending.exit_code,
                "message": ending.message_without_paths,
            },
        )
