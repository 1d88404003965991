"""Errors in the terms of the command line: the parameters of a command become its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import typer
from typer.models import ArgumentInfo, OptionInfo

from nanopinn.cli.options import OVERRIDE_KEYS


def map_parameters_to_options(command: Callable[..., Any]) -> dict[str, str]:
    """Find the option of every parameter of a command.

    Args:
        command: the function that typer calls.

    Returns:
        The option as it is typed, by the parameter's Python name; the metavariable for an argument
        without an option.
    """
    parameters = inspect.signature(command, eval_str=True).parameters
    options = {name: _find_option(p) for name, p in parameters.items()}
    if OVERRIDE_KEYS.keys() <= options.keys():  # a command with the imaging options
        options |= {f"overrides.{key}": options[name] for name, key in OVERRIDE_KEYS.items()}
    return options


def _find_option(parameter: inspect.Parameter) -> str:
    """The long option of a parameter, or its metavariable."""
    declared = [
        i for i in get_args(parameter.annotation) if isinstance(i, (OptionInfo, ArgumentInfo))
    ]
    info = declared[0] if declared else None
    if isinstance(info, ArgumentInfo):
        return info.metavar or parameter.name.upper()
    # within Annotated, the first declaration takes the place of the default
    words = () if info is None else (info.default, *(info.param_decls or ()))
    long = [w for w in words if isinstance(w, str) and w.startswith("--")]
    return long[0].partition("/")[0] if long else f"--{parameter.name.replace('_', '-')}"


def find_command_options(app: typer.Typer, arguments: Sequence[str]) -> Mapping[str, str]:
    """The options of the command that a command line runs, by parameter.

    Args:
        app: the commands.
        arguments: the words of the command line after the program's name.

    Returns:
        As :func:`map_parameters_to_options`; empty where the line names no command.
    """
    name = next((a for a in arguments if not a.startswith("-")), None)
    for command in app.registered_commands:
        if command.callback is not None and name == (
            command.name or command.callback.__name__.replace("_", "-")
        ):
            return map_parameters_to_options(command.callback)
    return {}
