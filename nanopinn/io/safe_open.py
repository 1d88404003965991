"""Numbers of a file that anyone may have written: no text, no truth value, nothing that a float
cannot hold.

Files as they were handed over: only regular ones are opened, and no more of one is read than its
kind can need.

Nothing here believes a file: a pipe, a device or a folder under a file's name, text that is none,
JSON and TOML that are made to stall or to fill the memory end in an :class:`InputError`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError

#: More values than any list of a sidecar has.
MAX_LIST_LENGTH = 100_000


def is_number(found: object) -> TypeGuard[int | float]:
    """Whether it is a finite number as JSON and TOML write one; true and false, which Python counts
    with, are none.
    """
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


#: Longest text file that is read, bytes: a sidecar with 100,000 frame times has a tenth of it.
MAX_TEXT_BYTES = 4 << 20
#: Longest TOML file, bytes: the standard parser takes a second for as much.
MAX_TOML_BYTES = 1 << 18
#: A key of more parts than this is no setting; the standard parser's time grows with their square.
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
    """Whether a regular file stands there; a name that no file can have is that of none."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Whether a folder stands there."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def open_regular_file(path: str | Path) -> BinaryIO:
    """A regular file, open to be read.

    Raises:
        InputError: there is none, it is something else (a pipe would be waited for without end), or
            it may not be read.
    """
    path = Path(path)
    try:
        _check_regular_file(path, os.stat(path))
        # it may have become a pipe since; opening one without this flag waits for its other end
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
        why = error.strerror if isinstance(error, OSError) else "a name that no file can have"
        raise InputError(
            "the file cannot be opened",
            file=path,
            found=why,
            remedy="Check its name and that you may read it.",
        ) from error


def _check_regular_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _FILE_TYPES.get(stat.S_IFMT(found.st_mode), "something else")
        raise InputError(
            "not a file",
            file=path,
            found=kind,
            expected="a regular file",
            remedy="Give the file itself.",
        )


def read_bytes(path: str | Path, most: int) -> bytes:
    """The whole of a file that is no longer than ``most``.

    Raises:
        InputError: as :func:`opened`, it cannot be read, or it is longer.
    """
    content = bytearray()
    with open_regular_file(path) as handle:
        try:
            # a piece at a time: memory for what is there, and not for what may be
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
            "the file is too large for what it should be",
            file=path,
            field="size",
            found=f"more than {most} bytes",
            expected=f"at most {most} bytes",
            remedy="Check that it is the file that you mean.",
        )
    return bytes(content)


def read_text(path: str | Path, most: int = MAX_TEXT_BYTES) -> str:
    """A text file, with or without a byte-order mark.

    Raises:
        InputError: as :func:`read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "not readable as text",
            file=path,
            found=f"byte {error.start} is none of a text",
            expected="a UTF-8 file",
            remedy="Check the path.",
        ) from error


def read_toml(path: str | Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file; ``what`` it should be ("the schedule") is named in errors.

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
    """A text of a file that will be shown, as it is.

    Raises:
        ValueError: it holds what is no sign on one line: a line's end, a command to a terminal.
    """
    if not text.isprintable():
        raise ValueError("a text on one line, of printable characters alone")
    return text


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """A JSON object; ``what`` it should be ("the sidecar") is named in errors.

    Raises:
        InputError: as :func:`read_text`, it is not JSON, no object, or gives one key two values.
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
    """The same of a file of our own that may be missing or half of one: empty where it cannot be
    read.
    """
    try:
        return read_json(path, "the file")
    except InputError:
        return {}


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise ValueError(f"{key[:60]!r} stands twice with two values")
        found[key] = value
    return found
