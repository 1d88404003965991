"""Syntax of options that hold several numbers in one word, such as ``42:60@0.5~5``.

The same syntax is read in the ``[arms]`` table of a configuration and in the napari panel; settings
and studies take the plain values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanopinn.errors import InputError
from nanopinn.settings import FractionSpec, HeatingSpec, SecondScan

_NUMBER = r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"
_HEAT = re.compile(rf"{_NUMBER}:{_NUMBER}(?:@{_NUMBER})?(?:~{_NUMBER})?")
_FILE = re.compile(rf"(.+\.nii(?:\.gz)?)(?:@{_NUMBER})?")
_RADIATION = re.compile(rf"{_NUMBER}@{_NUMBER}")


def parse_heating(text: str) -> HeatingSpec:
    """Parse a heating, ``degC:MINUTES[@START_H][~RAMP_MIN]``, or a thermometry file,
    ``FILE[@START_H]``.

    Raises:
        InputError: the text is neither.
    """
    if (file := _FILE.fullmatch(text.strip())) is not None:
        return HeatingSpec(file=Path(file[1]), start_h=float(file[2] or 0))
    found = _HEAT.fullmatch(text.strip())
    if found is None:
        raise InputError(
            "the heating cannot be read",
            field="heat",
            found=text,
            expected='"42:60", "42:60@0.5~5" or a thermometry file',
            remedy=(
                "Write degrees C:minutes, then @ and the hour of the start, then ~ and the minutes"
                " of the ramps."
            ),
        )
    T, minutes, start, ramp = (float(v or 0) for v in found.groups())
    return HeatingSpec(temperature_C=T, minutes=minutes, start_h=start, ramp_min=ramp)


def parse_fraction(text: str) -> FractionSpec:
    """Parse a fraction of radiation, ``GY@HOURS``.

    Raises:
        InputError: the text is something else.
    """
    found = _RADIATION.fullmatch(text.strip())
    if found is None:
        raise InputError(
            "the radiation cannot be read",
            field="radiation",
            found=text,
            expected='"5@24", Gy@hours',
        )
    return FractionSpec(dose_Gy=float(found[1]), time_h=float(found[2]))


def parse_second_scan(text: str) -> SecondScan:
    """Parse the result of a scan after radiation and its time, ``RESULT@HOURS``.

    Raises:
        InputError: the time is missing.
    """
    folder, _, hours = text.rpartition("@")
    try:
        return SecondScan(folder=Path(folder), time_h=float(hours))
    except ValueError:
        raise InputError(
            "the second scan has no time",
            field="radiation_from",
            found=text,
            expected="RESULT@HOURS, in hours from the start of the treatment",
        ) from None


def parse_list(text: str | None) -> tuple[str, ...] | None:
    """Split a text at commas; None stays None."""
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def parse_minutes(text: str | None) -> tuple[float, ...] | None:
    """Parse durations in minutes separated by commas; ``none`` is an empty list.

    Raises:
        InputError: a word is no number.
    """
    if text is not None and text.strip().lower() == "none":
        return ()
    return parse_numbers(text, "heating_min", "minutes separated by commas, or none")


def parse_numbers(text: str | None, field: str, expected: str) -> tuple[float, ...] | None:
    """Parse numbers separated by commas; None stays None.

    Args:
        text: of the option.
        field: name of the parameter in errors.
        expected: what the numbers are, in errors.

    Raises:
        InputError: a word is no number.
    """
    try:
        return None if text is None else tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError(
            "the numbers cannot be read", field=field, found=text, expected=expected
        ) from None


def parse_values(words: Sequence[str] | None) -> dict[str, str] | None:
    """Parse values that are stated as ``NAME=VALUE``, such as ``l=0.8mm``; None stays None.

    Args:
        words: one for each value.

    Raises:
        InputError: a word is something else, or a name occurs twice.
    """
    if not words:
        return None
    found: dict[str, str] = {}
    for word in words:
        name, _, content = (part.strip() for part in word.partition("="))
        if not name or not content or name in found:
            raise InputError(
                "a value is stated twice" if name in found else "a stated value cannot be read",
                field="values",
                found=word,
                expected='NAME=VALUE, such as "l=0.8mm" or "p_e=15mmHg"',
            )
        found[name] = content
    return found


_ONE: dict[str, Callable[[str], Any]] = {"radiation_from": parse_second_scan}
_MANY: dict[str, Callable[[str], Any]] = {"heat": parse_heating, "radiation": parse_fraction}


def parse_arm_entries(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Replace every text of the settings of arms that has a syntax by its plain value.

    Args:
        entries: of :class:`nanopinn.settings.ComparisonSettings`, by name, from options or from a
            configuration.

    Returns:
        The entries; those that are no text are unchanged.

    Raises:
        InputError: a text cannot be read.
    """
    found = dict(entries)
    for name, parse in _ONE.items():
        if isinstance(found.get(name), str):
            found[name] = parse(found[name])
    for name, parse in _MANY.items():
        if isinstance(found.get(name), (list, tuple)):
            found[name] = tuple(parse(v) if isinstance(v, str) else v for v in found[name])
    return found
