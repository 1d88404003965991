"""Numbers of a file that anyone may have written: no text, no truth value, nothing that a float cannot hold."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

#: More values than any list of a sidecar has.
MAX_LIST_LENGTH = 100_000


def is_number(found: object) -> TypeGuard[int | float]:
    """Whether it is a finite number as JSON and TOML write one; true and false, which Python counts with, are none."""
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return False
    try:
        return math.isfinite(found)
    except OverflowError:  # an integer beyond every float
        return False


def parse_number_list(listed: Any) -> NDArray[np.float64] | None:
    """A list of numbers ``(n,)``; None if it is anything else."""
    if (
        not isinstance(listed, (list, tuple))
        or len(listed) > MAX_LIST_LENGTH
        or not all(is_number(n) for n in listed)
    ):
        return None
    return np.array([float(n) for n in listed], dtype=np.float64)
