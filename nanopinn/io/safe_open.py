"""Safe reading of untrusted files and their numbers.

Only regular files are opened, and no file is read beyond the largest size of its kind. Pipes,
devices and folders, binary data in place of text, and JSON or TOML made to stall the parser or to
exhaust the memory are refused by an :class:`InputError`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pydantic import Strict

from nanopinn.errors import InputError

#: Largest length of a list in a sidecar.
MAX_LIST_LENGTH = 100_000

#: A number as TOML writes it: no string, no boolean.
TomlNumber = Annotated[float, Strict()]


def is_number(found: object) -> TypeGuard[int | float]:
    """Whether a value of JSON or TOML is a finite number; booleans are not."""
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return False
    try:
        return math.isfinite(found)
    except OverflowError:  # an integer beyond the range of floats
        return False


def parse_number_list(listed: Any) -> NDArray[np.float64] | None:
    """Convert a list of numbers to ``(n,)``; None if it is anything else."""
    if (
        not isinstance(listed, (list, tuple))
        or len(listed) > MAX_LIST_LENGTH
        or not all(is_number(n) for n in listed)
    ):
        return None
    return np.array([float(n) for n in listed], dtype=np.float64)


#: Largest text file, bytes; a sidecar with 100,000 frame times has a tenth of it.
MAX_TEXT_BYTES = 4 << 20
#: Largest TOML file, bytes; the standard parser takes a second for it.
MAX_TOML_BYTES = 1 << 18
#: A key of 16 or more parts; the standard parser's time grows with the square of their number.
_DEEPLY_DOTTED_KEY = re.compile(
    r"(?<![\w-])(?:(?:[\w-]++|\"[^\"\n]*+\"|'[^'\n]*+')[ \t]*+\.[ \t]*+){16}"
)
_FILE_TYPES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_file(path: str | Path) -> bool:
    """Whether the path is that of a regular file; False for impossible names."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Whether the path is that of a folder; False for impossible names."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def open_regular_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        InputError: there is none, it is something else such as a pipe, which would block, or it
            cannot be read.
    """
    path = Path(path)
    try:
        _check_regular_file(path, os.stat(path))
        # it may have become a pipe since; opening a pipe without this flag blocks
        number = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
        handle = os.fdopen(number, "rb")
        _check_regular_file(path, os.fstat(number))
        return handle
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            "there is no such file", file=path, found=path.name, remedy="Check the path."
        ) from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "an impossible name"
        raise InputError(
            "the file cannot be opened",
            file=path,
            found=why,
            remedy="Check its name and permissions.",
        ) from error


def _check_regular_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _FILE_TYPES.get(stat.S_IFMT(found.st_mode), "a special file")
        raise InputError(
            "not a file",
            file=path,
            found=kind,
            expected="a regular file",
            remedy="Give a regular file.",
        )


def read_bytes(path: str | Path, most: int) -> bytes:
    """Read a file of at most ``most`` bytes.

    Raises:
        InputError: as :func:`open_regular_file`, it cannot be read, or it is larger.
    """
    content = bytearray()
    with open_regular_file(path) as handle:
        try:
            # in pieces: memory for the bytes that are there, not for those that may be
            while (
                os.fstat(handle.fileno()).st_size <= most
                and len(content) <= most
                and (piece := handle.read(1 << 20))
            ):
                content += piece
            longer = len(content) > most or os.fstat(handle.fileno()).st_size > most
        except OSError as error:
            raise InputError(
                "the file cannot be read", file=path, found=error.strerror, remedy="Copy it again."
            ) from error
    if longer:
        raise InputError(
            "the file is too large for its kind",
            file=path,
            field="size",
            found=f"more than {most} bytes",
            expected=f"at most {most} bytes",
            remedy="Check that it is the right file.",
        )
    return bytes(content)


def read_text(path: str | Path, most: int = MAX_TEXT_BYTES) -> str:
    """Read a UTF-8 text file, with or without a byte-order mark.

    Raises:
        InputError: as :func:`read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "not readable as text",
            file=path,
            found=f"byte {error.start} is not UTF-8",
            expected="a UTF-8 file",
            remedy="Check the path.",
        ) from error


def read_toml(path: str | Path, what: str) -> dict[str, Any]:
    """Read a TOML file; errors name ``what`` it should be ("the schedule").

    Raises:
        InputError: as :func:`read_text`, or it is not TOML.
    """
    text = read_text(path, MAX_TOML_BYTES)
    try:
        if _DEEPLY_DOTTED_KEY.search(text):
            raise ValueError("a key of more than 16 parts")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        found = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise InputError(
            f"{what} cannot be read", file=path, found=found, expected="TOML", remedy="Correct it."
        ) from error


def check_printable(text: str) -> str:
    """Return a text unchanged if it is printable on one line.

    Raises:
        ValueError: it contains line breaks or control characters.
    """
    if not text.isprintable():
        raise ValueError("a text of printable characters on one line is needed")
    return text


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """Read a JSON object; errors name ``what`` it should be ("the sidecar").

    Raises:
        InputError: as :func:`read_text`, it is not a JSON object, or a key has two values.
    """
    try:
        content = json.loads(read_text(path), object_pairs_hook=_reject_duplicate_keys)
    except (ValueError, RecursionError) as error:
        found = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise InputError(
            f"{what} is not valid JSON", file=path, found=found, remedy="Correct it."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{what} is not a JSON object",
            file=path,
            found=type(content).__name__,
            expected="an object {...}",
            remedy="Write the keys and values between braces.",
        )
    return content


def read_json_or_empty(path: str | Path) -> dict[str, Any]:
    """Read a JSON object of this package's own; empty where it is missing or incomplete."""
    try:
        return read_json(path, "the file")
    except InputError:
        return {}


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise ValueError(f"{key[:60]!r} occurs twice with different values")
        found[key] = value
    return found
