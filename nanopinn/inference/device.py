"""The device of a computation: its choice, and moving data classes of tensors to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from nanopinn.errors import InputError

T = TypeVar("T")


def on_device(value: T, device: str) -> T:
    """A value with its tensors on a device.

    Args:
        value: a tensor, or data classes, tuples and dictionaries of tensors at any depth. Anything
            else is returned as it is.
        device: of torch.
    """
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


def run_with_cpu_fallback(
    run: Callable[[], T], run_on_cpu: Callable[[], T], device: str
) -> tuple[T, bool]:
    """Run a computation, and again on the CPU if the memory of the GPU is exhausted.

    Args:
        run: the computation.
        run_on_cpu: the same on the CPU.
        device: on which ``run`` computes.

    Returns:
        The result, and whether it was computed on the CPU in place of the GPU.

    Raises:
        torch.OutOfMemoryError: ``run`` computed on the CPU already.
    """
    import torch

    try:
        return run(), False
    except torch.OutOfMemoryError:
        if device == "cpu":
            raise
    # outside of the handler, whose traceback holds what filled the memory
    return run_on_cpu(), True


def choose_device(wanted: str) -> str:
    """The device of torch for a choice.

    Args:
        wanted: "auto", "cpu" or "cuda[:N]".

    Raises:
        InputError: there is no GPU of that number.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda"):
        number = int(wanted.partition(":")[2] or 0)
        if number >= torch.cuda.device_count():
            raise InputError(
                "there is no such GPU",
                field="device",
                found=wanted,
                expected=f"one of {torch.cuda.device_count()} visible to torch",
                remedy="Use the `device` cpu, or install a CUDA build of torch.",
            )
    return wanted
