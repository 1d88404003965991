"""Where the numbers are crunched."""

from __future__ import annotations

from nanopinn.errors import InputError


def choose_device(wanted: str) -> str:
    """``auto``, ``cpu`` or ``cuda[:N]`` to a device that is there.

    Raises:
        InputError: a GPU was asked for and there is none of that number.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda"):
        number = int(wanted.partition(":")[2] or 0)
        if number >= torch.cuda.device_count():
            raise InputError(
                "this GPU is not there",
                field="--device",
                found=wanted,
                expected=f"one of {torch.cuda.device_count()} visible to torch",
                remedy="Use --device cpu, or install a CUDA build of torch.",
            )
    return wanted
