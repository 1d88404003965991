"""Whether a value is what a data class says of its field: a file's fields are no better than the file."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

#: Kinds of numbers that an array of a type may hold.
_DTYPE_KINDS = {np.bool_: "b", np.float64: "fiu", np.int32: "iu", np.int64: "iu"}


def check_fields(kind: type, given: Mapping[str, Any], known: Mapping[str, type]) -> None:
    """Refuse fields that a data class does not have, or whose values are not of their types.

    Args:
        known: classes by name, for annotations that a type checker alone resolves.

    Raises:
        ValueError: which.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"a {kind.__name__} cannot be a {type(given).__name__}")
    hints = get_type_hints(kind, localns=dict(known))
    names = {f.name for f in fields(kind)}
    for name, value in given.items():
        if name not in names or not matches_type(value, hints[name]):
            raise ValueError(f"{kind.__name__}.{name[:60]} cannot be a {type(value).__name__}")


def matches_type(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; what is nested in it too."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(matches_type(value, one) for one in inner)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin is tuple:
        return isinstance(value, tuple) and _fits_tuple(value, inner)
    if origin is np.ndarray:
        return isinstance(value, np.ndarray) and value.dtype.kind in _DTYPE_KINDS.get(
            get_args(inner[1])[0], value.dtype.kind
        )
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            matches_type(k, inner[0]) and matches_type(v, inner[1]) for k, v in value.items()
        )
    if hint in (int, float):
        return not isinstance(value, bool) and isinstance(
            value, (int, float) if hint is float else int
        )
    return not isinstance(hint, type) or isinstance(value, hint)


def _fits_tuple(value: tuple[Any, ...], inner: tuple[Any, ...]) -> bool:
    if inner[-1:] == (Ellipsis,):
        return all(matches_type(v, inner[0]) for v in value)
    return len(value) == len(inner) and all(
        matches_type(v, one) for v, one in zip(value, inner, strict=True)
    )
