"""Configuration files: the tables that every run dumps, read back under the options that are given."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError


def settings_of(kind: Any, table: str, config: Path | None, given: Mapping[str, Any]) -> Any:
    """Settings of a pydantic model or a data class: a table of the file under the options that were given.

    Raises:
        InputError: the file cannot be read, or a setting is unknown or wrong; says which.
    """
    from pydantic import TypeAdapter, ValidationError

    entries = {**table_of(config, table), **{k: v for k, v in given.items() if v is not None}}
    _know(kind, entries, config)
    try:
        return TypeAdapter(kind).validate_python(entries)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        raise InputError("a setting cannot be used", file=config, field=field, found=first["input"], expected=first["msg"]) from error


def table_of(config: Path | None, name: str) -> dict[str, Any]:
    """A table of a configuration; empty if it has none.

    Raises:
        InputError: the file cannot be read.
    """
    if config is None:
        return {}
    try:
        entries = tomllib.loads(config.read_text(encoding="utf-8")).get(name, {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError("the configuration cannot be read", file=config, found=str(error), expected="TOML") from error
    if not isinstance(entries, dict):
        raise InputError(f"[{name}] is not a table", file=config, field=name, found=type(entries).__name__)
    return entries


def _know(kind: Any, entries: Mapping[str, Any], config: Path | None) -> None:
    """Refuse a setting that does not exist: a data class would not name it in one line."""
    known = set(getattr(kind, "model_fields", None) or kind.__dataclass_fields__)
    for name in entries:
        if name not in known:
            raise InputError("a setting is not known", file=config, field=name, found=entries[name], expected=", ".join(sorted(known)))
