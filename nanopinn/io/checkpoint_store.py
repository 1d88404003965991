"""Checkpoints of a run: data classes in a folder beside the result, each file whole or absent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

from nanopinn.errors import InputError
from nanopinn.io.safe_open import read_bytes, read_json
from nanopinn.io.serialize import MAX_FILE_BYTES, from_bytes, to_bytes
from nanopinn.io.volumes import sync_folder, write_bytes, write_json

_RUN_INPUTS_FILE = "study.json"
#: Why the run ended early, where it could still write that.
FAILURE_FILE = "fault.json"
#: Files that remain of a process that was killed while it wrote.
_PARTIAL_FILES = ".*.part"
Stored = TypeVar("Stored")

#: Whether to continue an interrupted run: no; yes, and refuse where that is impossible; or where a
#: run of the same inputs and settings left checkpoints ("if available").
ResumeMode = bool | Literal["if available"]


@dataclass(frozen=True)
class CheckpointStore:
    """Data classes of a run by name, in a folder.

    Attributes:
        folder: beside the result.
        study: inputs and settings of the run, each by name with its value or hash.
        resumed: whether the stored values of an interrupted run are used.
        device: of the run.
        strict: whether a damaged file is refused; otherwise its value is computed again.
    """

    folder: Path
    study: Mapping[str, str] = field(repr=False)
    resumed: bool
    device: str = "cpu"
    strict: bool = True

    @classmethod
    def from_interrupted_run(
        cls, folder: Path, study: Mapping[str, str], device: str, resume: ResumeMode
    ) -> CheckpointStore | None:
        """The store of a run that continues; None if it shall start from the beginning.

        Raises:
            InputError: ``resume`` is true, and the run cannot continue.
        """
        try:
            return (
                replace(cls.reopen(folder, study, device), strict=resume is True)
                if resume
                else None
            )
        except InputError:
            if resume is True:
                raise
            return None

    @classmethod
    def create_empty(cls, folder: Path, study: Mapping[str, str], device: str) -> CheckpointStore:
        """Create the store of a new run and delete the files of an earlier run."""
        for file in (
            *folder.glob("*.safetensors"),
            *folder.glob(_PARTIAL_FILES),
            folder / FAILURE_FILE,
        ):
            file.unlink(missing_ok=True)
        write_json(folder / _RUN_INPUTS_FILE, study)
        return cls(folder, study, False, device)

    @classmethod
    def reopen(cls, folder: Path, study: Mapping[str, str], device: str) -> CheckpointStore:
        """The store of an interrupted run.

        Raises:
            InputError: there is none, or it belongs to other inputs or settings.
        """
        try:
            before = read_json(folder / _RUN_INPUTS_FILE, "what an interrupted run was given")
            changed = sorted(k for k in {*before, *study} if before.get(k) != study.get(k))
        except InputError as error:
            raise InputError(
                "there is no interrupted run to continue",
                field="resume",
                file=folder,
                remedy="Leave out `resume` to start from the beginning.",
            ) from error
        if changed:
            name = changed[0]
            raise InputError(
                f"the interrupted run had other inputs or settings: {', '.join(changed)} changed",
                field=name,
                file=folder,
                found=study.get(name, "nothing"),
                expected=before.get(name, "nothing"),
                remedy="Give the same inputs and settings, or leave out `resume`.",
            )
        (folder / FAILURE_FILE).unlink(missing_ok=True)
        return cls(folder, study, True, device)

    def put(self, name: str, value: Any, classes: Iterable[type]) -> None:
        """Store a data class under a name.

        Args:
            name: of the value; an earlier value of that name is replaced.
            value: a data class.
            classes: of which it consists, as for :func:`nanopinn.io.serialize.to_bytes`.

        Raises:
            OutputError: the file cannot be written.
        """
        write_bytes(self._file(name), to_bytes(value, classes))
        sync_folder(self.folder)

    def get(self, name: str, kind: type[Stored], classes: Iterable[type]) -> Stored | None:
        """The value that an interrupted run stored under a name; None where there is none.

        Args:
            name: of the value.
            kind: its class.
            classes: of which it consists.

        Raises:
            InputError: the file is damaged.
        """
        file = self._file(name)
        if not self.resumed or not file.exists():
            return None
        try:
            value = from_bytes(read_bytes(file, MAX_FILE_BYTES), classes)
            if not isinstance(value, kind):
                raise ValueError(f"it holds a {type(value).__name__}")
        except (InputError, ValueError) as error:
            if not self.strict:
                return None
            raise InputError(
                "the state of the interrupted run cannot be read",
                file=file,
                found=str(error),
                remedy="Leave out `resume` to start from the beginning.",
            ) from error
        return value

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def delete_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a run whose result is written."""
    for file in (
        *folder.glob("*.safetensors"),
        *folder.glob(_PARTIAL_FILES),
        folder / FAILURE_FILE,
        folder / _RUN_INPUTS_FILE,
    ):
        file.unlink(missing_ok=True)
    with suppress(OSError):  # files of other origin remain
        folder.rmdir()


def run_identity(
    choices: Mapping[str, Mapping[str, Any]], input_hashes: Mapping[str, str]
) -> dict[str, str]:
    """All that determines the result of a run, by name: choices by value, files by hash.

    Args:
        choices: tables of settings by name.
        input_hashes: SHA-256 of every file that is read, by its name.
    """
    values = {
        f"{table}.{name}": json.dumps(choice, default=str)
        for table, entries in choices.items()
        for name, choice in entries.items()
    }
    return {**values, **input_hashes, "nanopinn": version("nanopinn")}
