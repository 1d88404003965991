"""Where a descent stands, kept on disk before every iteration, so that a killed fit goes on and
ends where it would have ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.inference.device import on_device
from nanopinn.inference.gauss_newton import OptimiserState, PreviousStep
from nanopinn.inference.inverse_problem import SERIALISABLE_PARTS, InverseProblem
from nanopinn.inference.tumour_problem import Fields
from nanopinn.io import serialize as saving
from nanopinn.io.safe_open import read_bytes, read_json
from nanopinn.io.volumes import sync_folder, write_bytes, write_json
from nanopinn.solvers.forward import FlowSolution


@dataclass(frozen=True)
class EngineState:
    """Where an engine stands before an iteration, with all that the iteration depends on.

    The networks' hidden features follow from the seed and their last layers from the anchor, so no
    weights and no state of a random generator belong to it.

    Attributes:
        engine: its name. place: of its descent.
        problem: with the maps and errors that the descent has followed so far.
        pressure: from which the next pressure solve starts.
        fields: at the place, where they are at hand. events: of the run so far.
    """

    engine: str
    optimiser_state: OptimiserState
    problem: InverseProblem
    pressure: Tensor | None
    fields: Fields | None
    events: tuple[str, ...] = ()

    def restore(self) -> list[str]:
        """The events of a run that goes on from here."""
        return [
            *self.events,
            (
                f"interrupted before iteration {self.optimiser_state.iteration + 1}: went on from"
                " there"
            ),
        ]


#: Everything a kept state may hold.
_SERIALISABLE_CLASSES: tuple[type, ...] = (
    *SERIALISABLE_PARTS,
    Fields,
    FlowSolution,
    OptimiserState,
    EngineState,
    PreviousStep,
)

_RUN_INPUTS_FILE = "study.json"
#: Why the run ended early, where it could still say so.
FAILURE_FILE = "fault.json"
#: What a process leaves that is killed while it writes.
_PARTIAL_FILES = ".*.part"
Kind = TypeVar("Kind")

#: Whether to go on with an interrupted run: no, yes (else refuse), or where one of the same inputs
#: and settings kept anything.
ResumeMode = bool | Literal["if kept"]


@dataclass(frozen=True)
class CheckpointStore:
    """What a run has reached, in a folder of its own; each file is whole or absent.

    Attributes:
        folder: beside the result. study: what was given, each by name with its value or hash.
        resumed: whether states found there are taken up. strict: whether a spoiled one is refused;
            else it is worked out anew.
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
        """For a run that goes on; None if it shall start anew.

        Raises:
            InputError: it must go on, and cannot.
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
        """For a run that starts anew: what an earlier one left is taken away."""
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
        """For a run that goes on.

        Raises:
            InputError: nothing was kept, or it was kept of other inputs or settings.
        """
        try:
            before = read_json(folder / _RUN_INPUTS_FILE, "what an interrupted run was given")
            changed = sorted(k for k in {*before, *study} if before.get(k) != study.get(k))
        except InputError as error:
            raise InputError(
                "there is no interrupted run to go on with",
                field="--resume",
                file=folder,
                remedy="Leave --resume out to start anew.",
            ) from error
        if changed:
            name = changed[0]
            raise InputError(
                f"the interrupted run was another one: {', '.join(changed)} changed",
                field=name,
                file=folder,
                found=study.get(name, "nothing"),
                expected=before.get(name, "nothing"),
                remedy="Give what was given then, or leave --resume out to start anew.",
            )
        (folder / FAILURE_FILE).unlink(missing_ok=True)
        return cls(folder, study, True, device)

    def save_state(self, state: EngineState) -> None:
        """Put a state in place of the engine's last, or leave that whole."""
        self.put(state.engine, state, _SERIALISABLE_CLASSES)

    def engine_state(self, engine: str) -> EngineState | None:
        """Where an engine stood when it was interrupted; None if it had not begun.

        Raises:
            InputError: what was kept is spoiled.
        """
        state = self.get(engine, EngineState, _SERIALISABLE_CLASSES)
        return None if state is None else on_device(state, self.device)

    def put(self, name: str, value: Any, classes: Iterable[type]) -> None:
        """Keep a data class under a name, in place of the last of that name; ``classes`` as for
        :func:`saving.to_bytes`.
        """
        write_bytes(self._file(name), saving.to_bytes(value, classes))
        sync_folder(self.folder)

    def get(self, name: str, kind: type[Kind], classes: Iterable[type]) -> Kind | None:
        """What was kept under a name, if this run goes on with another.

        Raises:
            InputError: it is spoiled.
        """
        file = self._file(name)
        if not self.resumed or not file.exists():
            return None
        try:
            value = saving.from_bytes(read_bytes(file, saving.MAX_FILE_BYTES), classes)
            if not isinstance(value, kind):
                raise ValueError(f"it holds a {type(value).__name__}")
        except (InputError, ValueError) as error:
            if not self.strict:
                return None
            raise InputError(
                "the state of the interrupted run cannot be read",
                file=file,
                found=str(error),
                remedy="Leave --resume out to start anew.",
            ) from error
        return value

    def _file(self, engine: str) -> Path:
        return self.folder / f"{engine}.safetensors"


def delete_checkpoints(folder: Path) -> None:
    """Take the kept states away, once the result is written."""
    for file in (
        *folder.glob("*.safetensors"),
        *folder.glob(_PARTIAL_FILES),
        folder / FAILURE_FILE,
        folder / _RUN_INPUTS_FILE,
    ):
        file.unlink(missing_ok=True)
    with suppress(OSError):  # somebody put something of their own there
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
