"""Data classes of tensors on another device."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


def on_device(value: T, device: str) -> T:
    """A tensor, or data classes, tuples and mappings of them at any depth, on a device; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(on_device(v, device) for v in value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {k: on_device(v, device) for k, v in value.items()}  # type: ignore[return-value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = {
            f.name: on_device(getattr(value, f.name), device)
            for f in dataclasses.fields(value)
            if f.init
        }
        return dataclasses.replace(value, **held)
    return value
