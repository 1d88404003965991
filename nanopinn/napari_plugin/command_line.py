"""The command line that repeats a run of the panel."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

#: Option of each input.
_OPTIONS = {
    "dce": "--dce",
    "cest": "--cest",
    "mask": "--mask",
    "vfa": "--vfa",
    "t1": "--t1",
    "aif": "--aif",
    "assume_ph": "--assume-ph",
    "model": "--model",
    "smooth": "--smooth",
}
#: Options of settings that are not named as their option.
_SETTINGS = {
    "body_weight_kg": "--body-weight",
    "infusion_min": "--infusion",
}
_OVERRIDES = {
    "RepetitionTime": "--frame-spacing",
    "RepetitionTimeExcitation": "--tr",
    "FlipAngle": "--flip-angle",
    "ContrastRelaxivity": "--relaxivity",
}


def format_command_line(request: Mapping[str, Any], out: str) -> str:
    """Format the command that repeats a request: ``nanopinn fit``, ``maps`` or ``simulate``.

    Args:
        request: Request to the worker.
        out: Result folder.

    Returns:
        The command, quoted for a shell.
    """
    if request["kind"] == "arms":
        return shlex.join([*_simulate(request), "--out", out])
    words = ["nanopinn", request["kind"]]
    for field, option in _OPTIONS.items():
        words += _format_option(option, request["inputs"].get(field))
    for key, value in request["inputs"].get("overrides", {}).items():
        words += [_OVERRIDES[key], repr(value)]
    settings = request.get("settings", {"device": request.get("device", "auto")})
    for name, value in settings.items():
        words += _format_option(_SETTINGS.get(name, f"--{name.replace('_', '-')}"), value)
    return shlex.join([*words, "--out", out])


def _format_option(option: str, value: Any) -> list[str]:
    if value is None or value is False or value == []:
        return []
    if value is True:
        return [option]
    return [option, *(str(v) for v in value)] if isinstance(value, list) else [option, str(value)]


def _simulate(request: Mapping[str, Any]) -> list[str]:
    s = request["settings"]
    words = [
        "nanopinn",
        "simulate",
        "--from",
        request["from"],
        "--arms",
        ",".join(s["arms"]),
    ]
    for option, name in (("--heat", "heat"), ("--radiation", "radiation")):
        words += [option, ",".join(s[name])] if s[name] else []
    for name in ("dose", "species", "body_weight_kg"):
        words += _format_option(_SETTINGS.get(name, f"--{name}"), s.get(name))
    words += [
        "--end",
        f"{s['end_h']:g}",
        "--draws",
        str(s["draws"]),
        "--heating-times",
        "none",
        "--no-sensitivity",
    ]
    return words
