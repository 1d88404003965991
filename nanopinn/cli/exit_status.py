"""How a run ended: as a message, an exit code and a verdict file; and how to resume it."""

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
    describe_error,
)

_HELP = (
    "Write status, exit code and message of the run to this JSON file. The exit code is then 0,"
    " unless the file cannot be written (4) or the run was stopped (130)."
)
_STATUS = {0: "passed", 3: "refused", 4: "not written", 5: "check failed", 130: "interrupted"}

#: Folders of an absolute path, up to the name of the file; a quoted path may hold spaces.
_FOLDER_PATTERN = re.compile(r"(?<=')/[^']*/|(?<=\")/[^\"]*/|(?<![\w./])/(?:[^\s/'\"]+/)+")


@dataclass(frozen=True)
class CommandStatus:
    """How a command ended.

    Attributes:
        exit_code: Exit code of the program.
        message: One paragraph.
    """

    exit_code: int
    message: str

    @classmethod
    def from_error(
        cls, error: Exception, options: Mapping[str, str] = MappingProxyType({})
    ) -> CommandStatus:
        """Exit code and message of an error.

        Args:
            error: An error of the input, of the system or of the package.
            options: Option of each parameter of the command that ran.
        """
        code = error.exit_code if isinstance(error, NanopinnError) else NanopinnError.exit_code
        return cls(code, describe_error(error, options))

    @property
    def status(self) -> str:
        """Status in one or two words."""
        return _STATUS.get(self.exit_code, "internal error")

    @property
    def message_without_paths(self) -> str:
        """Message with file names but no folders of this machine, for files that others read."""
        return _FOLDER_PATTERN.sub("", self.message)


@dataclass(frozen=True)
class RunRecord:
    """Content of a verdict file, which workflows read; it holds no path of this machine.

    Attributes:
        status: Status in one or two words.
        exit_code: Exit code that the run would have without a verdict file.
        message: One paragraph.
        command: Name of the command.
        version: Version of nanopinn.
        seconds: Duration of the run.
    """

    status: str
    exit_code: int
    message: str
    command: str
    version: str
    seconds: float

    @classmethod
    def from_status(cls, ending: CommandStatus, command: str, seconds: float) -> RunRecord:
        """Make the record of a command that ended after ``seconds``."""
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
    """Give a command the option ``--verdict FILE``.

    Args:
        command: Name of the command.

    Returns:
        Decorator of a function that returns the message of its success.
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
    """Run, and write the verdict file; errors that leave no verdict are raised again."""
    from nanopinn.io.volumes import write_json

    _remove_old_record(file)
    began = time.perf_counter()
    try:
        ending = CommandStatus(0, run())
    except (typer.Exit, OutputError, StoppedError):
        raise
    except Exception as error:
        ending = CommandStatus.from_error(error, options)
        typer.echo(ending.message, err=True)
    write_json(file, asdict(RunRecord.from_status(ending, command, time.perf_counter() - began)))


def _remove_old_record(file: Path) -> None:
    """Remove the verdict file of an earlier run, because this one may end without one.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{file} cannot be written: {error.strerror}. Choose another file for `verdict`."
        ) from error


def has_result(verdict: Mapping[str, Any]) -> bool:
    """Whether the run of a verdict file wrote a result, with a check that passed or failed."""
    return verdict.get("exit_code") in (0, CheckFailedError.exit_code)


def require_result(verdict: Path) -> None:
    """Refuse to read a result that the run of a verdict file did not write.

    An older result in the same folder is not used.

    Raises:
        InputError: The run left no result, or there is no such file.
    """
    from nanopinn.io.safe_open import read_json_or_empty

    before = read_json_or_empty(verdict)
    if not has_result(before):
        raise InputError(
            "the preceding run produced no result",
            file=verdict,
            found=str(before.get("message", before.get("status"))),
        )


def locate_checkpoint_folder(out: Path) -> Path:
    """Checkpoint folder of a run, in the same folder as its output."""
    return out.absolute().with_name(f"{out.absolute().name}.partial")


@contextmanager
def record_interruption(
    checkpoint_folder: Path, command: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Say how to resume a run that ends early, and write the reason into its checkpoint folder.

    Args:
        checkpoint_folder: Checkpoint folder of the run; nothing is written if it does not exist.
        command: The command that runs, whose options the message names.

    Raises:
        StoppedError: The run was stopped.
        OutputError: The result could not be written.
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
    return f"{checkpoint_folder} holds a checkpoint: repeat the command with --resume to continue."


def _write_failure(checkpoint_folder: Path, error: Exception, options: Mapping[str, str]) -> None:
    from nanopinn.io.checkpoint_store import FAILURE_FILE
    from nanopinn.io.volumes import write_json

    if not checkpoint_folder.is_dir():
        return
    ending = CommandStatus.from_error(error, options)
    with suppress(OutputError):  # the disk may be the cause of the failure
        write_json(
            checkpoint_folder / FAILURE_FILE,
            {
                "status": ending.status,
                "exit_code": ending.exit_code,
                "message": ending.message_without_paths,
            },
        )
