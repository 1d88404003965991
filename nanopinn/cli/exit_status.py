"""How a run ended: in words for people, as an exit code for shells, as a file for workflows.

What an interrupted run leaves: its states, why it ended, and how to go on.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from nanopinn.cli.error_text import map_parameters_to_options
from nanopinn.errors import (
    CheckFailedError,
    InputError,
    NanopinnError,
    OutputError,
    StoppedError,
    format_error,
)

_HELP = (
    "Write how the run ended to this JSON file, and exit with 0 unless it could not write (4) or"
    " was stopped (130)."
)
_STATUS = {0: "passed", 3: "refused", 4: "not written", 5: "check failed", 130: "interrupted"}

#: Folders of an absolute path, up to the name of a file; quoted ones may hold spaces.
_FOLDER_PATTERN = re.compile(r"(?<=')/[^']*/|(?<=\")/[^\"]*/|(?<![\w./])/(?:[^\s/'\"]+/)+")


@dataclass(frozen=True)
class CommandStatus:
    """How a command ended.

    Attributes:
        exit_code: as documented. message: one paragraph.
    """

    exit_code: int
    message: str

    @classmethod
    def of(
        cls, error: Exception, options: Mapping[str, str] = MappingProxyType({})
    ) -> CommandStatus:
        """The exit code and the message of an error.

        Args:
            error: an error of the input, of the system or of the package.
            options: option of each parameter of the command that ran.
        """
        if isinstance(error, NanopinnError):
            return cls(error.exit_code, format_error(error, options))
        if _is_out_of_memory(error):
            return cls(
                1,
                "There is not enough memory for this study. On a GPU, --device cpu may have more;"
                " --preset fast needs less.",
            )
        if isinstance(error, OSError):
            return cls(
                1, f"A file cannot be read or written: {error}. Nothing of the result was written."
            )
        return cls(
            1,
            f"Internal error: {type(error).__name__}: {error}. Please report it with the command"
            " you gave.",
        )

    @property
    def status(self) -> str:
        """The same in a word or two."""
        return _STATUS.get(self.exit_code, "internal error")

    @property
    def message_without_paths(self) -> str:
        """The message for files that others read: it names files, and no folder of this machine."""
        return _FOLDER_PATTERN.sub("", self.message)


def _is_out_of_memory(error: Exception) -> bool:
    # torch is not imported for its exception: on the CPU it raises a plain RuntimeError anyway
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


@dataclass(frozen=True)
class RunRecord:
    """What a workflow reads; no path of this machine stands in it."""

    status: str
    exit_code: int
    message: str
    command: str
    version: str
    seconds: float

    @classmethod
    def of(cls, ending: CommandStatus, command: str, seconds: float) -> RunRecord:
        """The verdict on a command that ran so long."""
        from nanopinn import __version__

        return cls(
            ending.status,
            ending.exit_code,
            ending.message_without_paths,
            command,
            __version__,
            round(seconds, 3),
        )


def with_verdict_option(command: str) -> Callable[[Callable[..., str]], Callable[..., None]]:
    """Give a command the option ``--verdict FILE``; the command returns what there is to say of its
    success.
    """

    def decorate(run: Callable[..., str]) -> Callable[..., None]:
        def run_with_verdict(*, verdict: Path | None = None, **given: Any) -> None:
            if verdict is None:
                run(**given)
            else:
                shown = map_parameters_to_options(run_with_verdict)
                _run_and_record(verdict, command, lambda: run(**given), shown)

        known = inspect.signature(run, eval_str=True).parameters.values()
        option = inspect.Parameter(
            "verdict",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, typer.Option(help=_HELP)],
        )
        options = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in known), option]
        run_with_verdict.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        run_with_verdict.__annotations__ = {p.name: p.annotation for p in options}
        run_with_verdict.__name__, run_with_verdict.__doc__ = run.__name__, run.__doc__
        return run_with_verdict

    return decorate


def _run_and_record(
    file: Path, command: str, run: Callable[[], str], options: Mapping[str, str]
) -> None:
    """Run, and write the verdict; what is no verdict goes on as it is."""
    from nanopinn.io.volumes import write_json

    _remove_old_record(file)
    began = time.perf_counter()
    try:
        ending = CommandStatus(0, run())
    except (typer.Exit, OutputError, StoppedError):
        raise
    except Exception as error:
        ending = CommandStatus.of(error, options)
        typer.echo(ending.message, err=True)
    write_json(file, asdict(RunRecord.of(ending, command, time.perf_counter() - began)))


def _remove_old_record(file: Path) -> None:
    """Take the verdict on an earlier run away: this one may end without any.

    Raises:
        OutputError: it cannot be written there.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{file} cannot be written: {error.strerror}. Give another file to --verdict."
        ) from error


def has_result(verdict: Mapping[str, Any]) -> bool:
    """Whether the run of a verdict wrote a result, with a check that passed or failed."""
    return verdict.get("exit_code") in (0, CheckFailedError.exit_code)


def require_result(verdict: Path) -> None:
    """Refuse to read a result where the run that should have made it left none; what an older run
    left there is not taken for it.

    Raises:
        InputError: it left none, or there is no such verdict.
    """
    from nanopinn.io.safe_open import read_json_or_empty

    before = read_json_or_empty(verdict)
    if not has_result(before):
        raise InputError(
            "the run before left no result",
            file=verdict,
            found=str(before.get("message", before.get("status"))),
        )


def locate_checkpoint_folder(out: Path) -> Path:
    """Where the states of a run are kept: beside its output."""
    return out.absolute().with_name(f"{out.absolute().name}.partial")


@contextmanager
def record_interruption(
    checkpoint_folder: Path, command: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Say how to resume a run that ends early, and write the reason into its checkpoint folder.

    Args:
        checkpoint_folder: where the run keeps its states; nothing is written while there is none.
        command: the command that runs, whose options the reason names.

    Raises:
        StoppedError: the work was stopped.
        OutputError: it could not be written.
    """
    options = {} if command is None else map_parameters_to_options(command)
    try:
        yield
    except KeyboardInterrupt as error:
        if not checkpoint_folder.exists():
            raise StoppedError("Interrupted; nothing was written.") from error
        _write_failure(
            checkpoint_folder,
            stopped := StoppedError(f"Interrupted. {_resume_hint(checkpoint_folder)}"),
            options,
        )
        raise stopped from error
    except OutputError as error:
        _write_failure(checkpoint_folder, error, options)
        raise OutputError(
            f"{error} {_resume_hint(checkpoint_folder)}"
            if checkpoint_folder.exists()
            else str(error)
        ) from error
    except Exception as error:
        _write_failure(checkpoint_folder, error, options)
        raise


def _resume_hint(checkpoint_folder: Path) -> str:
    return (
        f"{checkpoint_folder} keeps what was reached: the same command with --resume goes on from"
        " there."
    )


def _write_failure(checkpoint_folder: Path, error: Exception, options: Mapping[str, str]) -> None:
    from nanopinn.io.checkpoint_store import FAILURE_FILE
    from nanopinn.io.volumes import write_json

    if not checkpoint_folder.is_dir():
        return
    ending = CommandStatus.of(error, options)
    with suppress(OutputError):  # the disk may be what failed
        write_json(
            checkpoint_folder / FAILURE_FILE,
            {
                "status": ending.status,
                "exit_code": ending.exit_code,
                "message": ending.message_without_paths,
            },
        )
