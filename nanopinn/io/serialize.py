"""Serialisation of data classes as one safetensors file.

Arrays are stored as tensors and everything else as JSON in the header; nothing is pickled. Types of
fields are checked when a file is read, because files are not trusted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib.metadata import version as package_version
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

#: NumPy kinds that are accepted for an annotated type of numbers.
_DTYPE_KINDS = {np.bool_: "b", np.float64: "fiu", np.int32: "iu", np.int64: "iu"}


def check_fields(kind: type, given: Mapping[str, Any], known: Mapping[str, type]) -> None:
    """Refuse fields that a data class does not have, or values of other types.

    Args:
        kind: the data class.
        given: values by field.
        known: classes by name, for annotations under ``TYPE_CHECKING``.

    Raises:
        ValueError: a field is unknown or of another type.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"a {kind.__name__} cannot be a {type(given).__name__}")
    hints = get_type_hints(kind, localns=dict(known))
    names = {f.name for f in fields(kind)}
    for name, value in given.items():
        if name not in names or not matches_type(value, hints[name]):
            raise ValueError(f"{kind.__name__}.{name[:60]} cannot be a {type(value).__name__}")


def matches_type(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type, with all nested values."""
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
    """Whether the entries of a tuple are of the annotated types."""
    if inner[-1:] == (Ellipsis,):
        return all(matches_type(v, inner[0]) for v in value)
    return len(value) == len(inner) and all(
        matches_type(v, one) for v, one in zip(value, inner, strict=True)
    )


#: Version of the format, increased with every change that makes older files unreadable.
VERSION = 5
#: The package version of files that do not name one.
_FIRST_RELEASE = "0.1"
#: Largest file and largest header, bytes; reading a header takes twenty times its size in memory.
MAX_FILE_BYTES, MAX_HEADER_BYTES = 2**31, 8 << 20
#: Largest number of entries of all sparse tensors beyond a hundred for each stored number.
_MAX_IMPLIED_ENTRIES, _IMPLIED_PER_STORED = 2**26, 100


def to_bytes(value: Any, classes: Iterable[type]) -> bytes:
    """Serialise a data class of tensors, arrays, data classes, tuples, mappings and plain values.

    Fields with ``metadata={"saved": False}`` are not stored and get their defaults when read.

    Args:
        value: a data class.
        classes: data classes that may occur in it, as for :func:`from_bytes`.

    Returns:
        Content of a safetensors file.

    Raises:
        TypeError: a value in it is of another type.
    """
    writer = _Writer(frozenset(classes))
    content = json.dumps(writer.to_json(value), allow_nan=False)
    digest = _digest(content, writer.arrays)
    return save(
        writer.arrays,
        {
            "format": "nanopinn",
            "version": str(VERSION),
            "written_by": package_version("nanopinn"),
            "content": content,
            "sha256": digest,
        },
    )


def from_bytes(content: bytes, classes: Iterable[type]) -> Any:
    """Read a data class from the content of a file; the inverse of :func:`to_bytes`.

    Args:
        content: of the file.
        classes: data classes that may occur in it.

    Raises:
        ValueError: it is not such a file, is damaged, or is of another version.
    """
    try:
        if int.from_bytes(content[:8], "little") > MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        arrays = load(content)
        header = (
            json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__")
            or {}
        )
        found = {
            key: str(header.get(key, default))
            for key, default in (
                ("format", ""),
                ("version", ""),
                ("written_by", _FIRST_RELEASE),
                ("content", ""),
                ("sha256", ""),
            )
        }
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"not a file of a fit: {error}") from error
    if found["format"] != "nanopinn":
        raise ValueError("not a file of a fit: nanopinn did not write it")
    if found["version"] != str(VERSION):
        raise ValueError(
            f"the file of a fit has format {found['version'][:60]} of nanopinn"
            f" {found['written_by'][:60]}; nanopinn {package_version('nanopinn')} reads format"
            f" {VERSION}"
        )
    try:
        whole = found["sha256"] == _digest(found["content"], arrays)
        value = (
            _Reader({c.__name__: c for c in classes}, arrays).decode(json.loads(found["content"]))
            if whole
            else None
        )
    except Exception as error:  # a manipulated file may fail anywhere and in any way
        raise ValueError(f"not a file of a fit: {type(error).__name__} {error}") from error
    if not whole:
        raise ValueError("the file of a fit was changed: its checksum differs")
    return value


def _digest(text: str, arrays: Mapping[str, Tensor]) -> str:
    """SHA-256 of the JSON text and all arrays."""
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {tuple(arrays[name].shape)}".encode())
        found.update(arrays[name].numpy().tobytes())
    return found.hexdigest()


class _Writer:
    """Converts values to JSON and collects their arrays."""

    def __init__(self, classes: frozenset[type]) -> None:
        self.classes = classes
        self.arrays: dict[str, Tensor] = {}

    def to_json(self, value: Any) -> Any:
        """JSON of a value with references to its arrays."""
        if isinstance(value, Tensor):
            return {"tensor": self.encode_tensor(value.detach().cpu())}
        if isinstance(value, np.ndarray):
            # tensors have no negative strides
            return {"array": self.encode_tensor(torch.tensor(value.copy()))}
        if type(value) in self.classes:
            saved = [f.name for f in dataclasses.fields(value) if f.metadata.get("saved", True)]
            return {
                "class": type(value).__name__,
                "fields": {n: self.to_json(getattr(value, n)) for n in saved},
            }
        if isinstance(value, tuple):
            return {"tuple": [self.to_json(v) for v in value]}
        if isinstance(value, Mapping):
            return {"mapping": [[self.to_json(k), self.to_json(v)] for k, v in value.items()]}
        if isinstance(value, np.generic):
            return self.to_json(value.item())
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": repr(value)}
        if value is None or isinstance(value, str | int | float | bool):
            return value
        raise TypeError(f"{type(value).__name__} cannot be saved")

    def encode_tensor(self, tensor: Tensor) -> Any:
        """Reference to a tensor in the file, stored dense or by the entries that differ."""
        tensor = tensor.contiguous().clone()
        fill_value = _fill_value(tensor)
        if fill_value is None:
            return {"at": self._store_array(tensor)}
        flat = tensor.reshape(-1)
        where = torch.nonzero(~torch.isnan(flat) if math.isnan(fill_value) else flat)[:, 0]
        kept = {
            "index": self._store_array(where.to(torch.int32)),
            "values": self._store_array(flat[where].clone()),
        }
        return {"shape": list(tensor.shape), "usual": self.to_json(fill_value), **kept}

    def _store_array(self, tensor: Tensor) -> str:
        name = str(len(self.arrays))
        self.arrays[name] = tensor
        return name


def _fill_value(tensor: Tensor) -> float | None:
    """Zero or NaN if so many entries equal it that storing the others is shorter; else None."""
    if tensor.numel() < 1_000 or tensor.numel() >= 2**31:
        return None
    size = tensor.element_size()
    most = tensor.numel() * size / (2 * (size + 4))
    if int(torch.count_nonzero(tensor)) < most:
        return 0.0
    known = (
        torch.count_nonzero(~torch.isnan(tensor)) if tensor.is_floating_point() else tensor.numel()
    )
    return math.nan if int(known) < most else None


class _Reader:
    """Converts JSON back to values with the arrays of a file."""

    def __init__(self, classes: Mapping[str, type], arrays: Mapping[str, Tensor]) -> None:
        self.classes, self.arrays, self.implied_entries = classes, arrays, 0

    def decode(self, plain: Any) -> Any:
        if not isinstance(plain, dict):
            return plain
        if "tensor" in plain:
            return self.tensor(plain["tensor"])
        if "array" in plain:
            return self.tensor(plain["array"]).numpy()
        if "tuple" in plain:
            return tuple(self.decode(v) for v in plain["tuple"])
        if "mapping" in plain:
            return {self.decode(k): self.decode(v) for k, v in plain["mapping"]}
        if "float" in plain:
            return float(plain["float"])
        kind, given = (
            self.classes[plain["class"]],
            {k: self.decode(v) for k, v in plain["fields"].items()},
        )
        check_fields(kind, given, self.classes)
        return kind(**given)

    def tensor(self, place: Mapping[str, Any]) -> Tensor:
        if "at" in place:
            return self.arrays[place["at"]]
        values = self.arrays[place["values"]]
        fill_value = self.decode(place["usual"])
        self.implied_entries += max(
            0, math.prod(place["shape"]) - _IMPLIED_PER_STORED * values.numel()
        )
        if self.implied_entries > _MAX_IMPLIED_ENTRIES:
            raise ValueError(
                f"tensors of {place['shape']} and others would be made of a few numbers"
            )
        out = torch.full(
            place["shape"],
            bool(fill_value) if values.dtype == torch.bool else fill_value,
            dtype=values.dtype,
        )
        out.reshape(-1)[self.arrays[place["index"]].long()] = values
        return out
