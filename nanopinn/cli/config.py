"""Configuration files: tables of settings that every run writes, merged with the options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError


def build_settings(kind: Any, table: str, config: Path | None, given: Mapping[str, Any]) -> Any:
    """Build settings from a table of a configuration file and the given options.

    Args:
        kind: A pydantic model or a data class.
        table: Name of the table.
        config: The configuration file; None if there is none.
        given: Options by setting; None stands for an option that is not given.

    Returns:
        An instance of ``kind``. Options take precedence over the file.

    Raises:
        InputError: The file cannot be read, or a setting is unknown or wrong.
    """
    from pydantic import TypeAdapter, ValidationError

    from nanopinn.cli.option_syntax import parse_arm_entries

    entries = {
        **read_config_table(config, table),
        **{k: v for k, v in given.items() if v is not None},
    }
    _check_setting_names(kind, entries, config)
    entries = parse_arm_entries(entries) if table == "arms" else entries
    try:
        found = TypeAdapter(kind).validate_python(entries)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        raise InputError(
            "a setting cannot be used",
            file=config,
            field=field,
            found=first["input"],
            expected=first["msg"],
        ) from error
    for name, entry in entries.items():
        if not _has_same_type(entry, getattr(found, name)):
            raise InputError(
                "a setting has the wrong type",
                file=config,
                field=name,
                found=entry,
                expected="numbers as numbers, without quotes",
                remedy="Correct the setting; true, false and texts are not numbers.",
            )
    return found


def _has_same_type(entry: object, taken: object) -> bool:
    """Whether an entry that pydantic read as a number is one; pydantic reads true as 1."""
    if isinstance(entry, (list, tuple)) and isinstance(taken, (list, tuple)):
        return all(_has_same_type(e, t) for e, t in zip(entry, taken, strict=False))
    if isinstance(entry, Mapping) and hasattr(taken, "model_dump"):
        return _has_same_type(entry, taken.model_dump())
    if isinstance(entry, Mapping) and isinstance(taken, Mapping):
        return all(_has_same_type(entry[key], taken[key]) for key in entry if key in taken)
    if isinstance(entry, bool) or isinstance(taken, bool):
        return type(entry) is type(taken)
    return isinstance(entry, (int, float)) or not isinstance(taken, (int, float))


def read_config_table(config: Path | None, name: str) -> dict[str, Any]:
    """Read a table of a configuration file; empty if it does not exist.

    Raises:
        InputError: The file cannot be read.
    """
    if config is None:
        return {}
    from nanopinn.io.safe_open import read_toml

    entries = read_toml(config, "the configuration").get(name, {})
    if not isinstance(entries, dict):
        raise InputError(
            f"[{name}] is not a table", file=config, field=name, found=type(entries).__name__
        )
    return entries


def _check_setting_names(kind: Any, entries: Mapping[str, Any], config: Path | None) -> None:
    """Refuse a setting that does not exist, by name."""
    known = set(getattr(kind, "model_fields", None) or kind.__dataclass_fields__)
    for name in entries:
        if name not in known:
            raise InputError(
                "a setting is not known",
                file=config,
                field=name,
                found=entries[name],
                expected=", ".join(sorted(known)),
            )
