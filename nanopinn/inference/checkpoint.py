"""A posed problem and its estimate as plain data, so that a finished fit can be checked or taken up again."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.imaging.aif.curve import PlasmaCurve
from nanopinn.inference.functions import FunctionUnknown
from nanopinn.inference.model_error import ModelError
from nanopinn.inference.observations import ContrastObservation, DrugObservation
from nanopinn.inference.problem import InverseProblem
from nanopinn.inference.systematic import SystematicErrors
from nanopinn.inference.unknowns import Unknown, UnknownSet
from nanopinn.physics.model import TissueMaps
from nanopinn.physics.plasma import SumOfExponentials
from nanopinn.solvers.forward import Setting
from nanopinn.solvers.grid import Grid

Array = NDArray[np.float64]

_CLASSES: dict[str, Any] = {
    c.__name__: c
    for c in (
        ContrastObservation, DrugObservation, FunctionUnknown, Grid, InverseProblem, ModelError, PlasmaCurve, Setting, SumOfExponentials,
        SystematicErrors, TissueMaps, Unknown, UnknownSet,
    )
}  # fmt: skip

#: Raised with every change that older files do not survive.
VERSION = 3


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit ended: the problem as it stood, and the coordinates of the estimate."""

    problem: InverseProblem
    theta: Array

    def to_bytes(self) -> bytes:
        """Serialise; tensors and plain values only, so that reading runs no code."""
        buffer = io.BytesIO()
        torch.save({"version": VERSION, "problem": _plain(self.problem), "theta": _plain(self.theta)}, buffer)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Checkpoint:
        """The inverse of :meth:`to_bytes`.

        Raises:
            ValueError: not a checkpoint, or one of another version.
        """
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a spoiled file
            raise ValueError(f"not a checkpoint: {error}") from error
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise ValueError("a checkpoint of another version")
        return cls(_rebuilt(state["problem"]), _rebuilt(state["theta"]))


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _packed(value.detach().cpu())
    if isinstance(value, np.ndarray):
        return {"array": torch.as_tensor(value)}
    if dataclasses.is_dataclass(value):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, tuple):
        return {"tuple": [_plain(v) for v in value]}
    if isinstance(value, Mapping):
        return {"mapping": [(k, _plain(v)) for k, v in value.items()]}
    return value


def _packed(tensor: Tensor) -> Any:
    """Itself, or its non-zero entries where these are few."""
    if tensor.numel() < 1_000 or int(torch.count_nonzero(tensor)) > tensor.numel() // 10:
        return tensor.contiguous()
    flat = tensor.reshape(-1)
    at = torch.nonzero(flat)[:, 0]
    return {"shape": list(tensor.shape), "at": at, "values": flat[at]}


def _rebuilt(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    if "array" in plain:
        return plain["array"].numpy()
    if "tuple" in plain:
        return tuple(_rebuilt(v) for v in plain["tuple"])
    if "mapping" in plain:
        return {k: _rebuilt(v) for k, v in plain["mapping"]}
    if "at" in plain:
        flat = torch.zeros(plain["shape"], dtype=plain["values"].dtype).reshape(-1)
        flat[plain["at"]] = plain["values"]
        return flat.reshape(plain["shape"])
    return _CLASSES[plain["class"]](**{k: _rebuilt(v) for k, v in plain["fields"].items()})
