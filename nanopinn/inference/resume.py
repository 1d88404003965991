"""Where a descent stands, kept on disk before every iteration, so that a killed fit goes on and ends where it would have ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.imaging.io import write_bytes, write_json
from nanopinn.inference import saving
from nanopinn.inference.device import on_device
from nanopinn.inference.gauss_newton import Place
from nanopinn.inference.problem import PARTS, Fields, InverseProblem
from nanopinn.solvers.forward import Flow


@dataclass(frozen=True)
class Stand:
    """Where an engine stands before an iteration, with all that the iteration depends on.

    The networks' hidden features follow from the seed and their last layers from the anchor, so no weights and no
    state of a random generator belong to it.

    Attributes:
        engine: its name. place: of its descent.
        problem: with the maps and errors that the descent has followed so far.
        pressure: from which the next pressure solve starts.
        fields: at the place, where they are at hand. events: of the run so far.
    """

    engine: str
    place: Place
    problem: InverseProblem
    pressure: Tensor | None
    fields: Fields | None
    events: tuple[str, ...] = ()


#: Everything a kept state may hold.
_CLASSES: tuple[type, ...] = (
    *PARTS, Fields, Flow, Place, Stand,
)  # fmt: skip

_STUDY = "study.json"


@dataclass(frozen=True)
class Keeper:
    """States of a fit's engines in a folder of their own; each file is whole or absent.

    Attributes:
        folder: beside the result. study: what was given, each by name with its value or hash.
        resumed: whether states found there are taken up.
    """

    folder: Path
    study: Mapping[str, str] = field(repr=False)
    resumed: bool
    device: str = "cpu"

    @classmethod
    def begun(cls, folder: Path, study: Mapping[str, str], device: str) -> Keeper:
        """For a fit that starts anew: what an earlier one left is taken away."""
        for file in folder.glob("*.safetensors"):
            file.unlink()
        write_json(folder / _STUDY, study)
        return cls(folder, study, False, device)

    @classmethod
    def continued(cls, folder: Path, study: Mapping[str, str], device: str) -> Keeper:
        """For a fit that goes on.

        Raises:
            InputError: nothing was kept, or it was kept of other inputs or settings.
        """
        try:
            before = json.loads((folder / _STUDY).read_text(encoding="utf-8"))
            changed = sorted(k for k in {*before, *study} if before.get(k) != study.get(k))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                "there is no interrupted fit to go on with", field="--resume", file=folder, remedy="Leave --resume out to start anew."
            ) from error
        if changed:
            name = changed[0]
            raise InputError(
                f"the interrupted fit was another one: {', '.join(changed)} changed",
                field=name,
                file=folder,
                found=study.get(name, "nothing"),
                expected=before.get(name, "nothing"),
                remedy="Give what was given then, or leave --resume out to start anew.",
            )
        return cls(folder, study, True, device)

    def keep(self, stand: Stand) -> None:
        """Put a state in place of the engine's last, or leave that whole."""
        write_bytes(self._file(stand.engine), saving.to_bytes(stand, _CLASSES))

    def stand(self, engine: str) -> Stand | None:
        """Where an engine stood when it was interrupted; None if it had not begun.

        Raises:
            InputError: what was kept is spoiled.
        """
        file = self._file(engine)
        if not self.resumed or not file.exists():
            return None
        try:
            stand = saving.from_bytes(file.read_bytes(), _CLASSES)
            if not isinstance(stand, Stand):
                raise ValueError(f"it holds a {type(stand).__name__}")
        except (OSError, ValueError) as error:
            raise InputError(
                "the state of the interrupted fit cannot be read", file=file, found=str(error), remedy="Leave --resume out to start anew."
            ) from error
        return on_device(stand, self.device)

    def _file(self, engine: str) -> Path:
        return self.folder / f"{engine}.safetensors"


def forget(folder: Path) -> None:
    """Take the kept states away, once the result is written."""
    for file in (*folder.glob("*.safetensors"), folder / _STUDY):
        file.unlink(missing_ok=True)
    folder.rmdir()
