"""The exceptions a user may see; each has its exit code and reads as one paragraph.

Messages name parameters of the Python API in backticks. The command line and the napari panel
replace these names by the option or the label of the parameter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Longest detail and longest sentence of a paragraph, characters: a list of 100,000 numbers is no
#: message.
_MAX_DETAIL_CHARACTERS, _MAX_SENTENCE_CHARACTERS = 300, 2000


#: A parameter in backticks, dotted where it is nested, with a value or without one.
_PARAMETER = re.compile(r"`([A-Za-z_][\w.]*)(?:=([^`]*))?`")
#: Files whose keys are fields of their own: they keep their names wherever the error is shown.
_KEYED_SUFFIXES = (".toml", ".json", ".tsv", ".csv")


def format_on_one_line(content: Any, max_characters: int = _MAX_SENTENCE_CHARACTERS) -> str:
    """Format any value as printable characters of one line.

    Names and values that a user gave may contain anything, such as control sequences of a terminal.

    Args:
        content: the value.
        max_characters: length at which the text is cut.

    Returns:
        The text, with unprintable characters escaped.
    """
    try:
        text = str(content)
    except (ValueError, RecursionError):  # Python writes no integer of thousands of digits
        text = f"a {type(content).__name__} too large to be shown"
    shown = text if len(text) <= max_characters else text[:max_characters] + "..."
    return (
        shown
        if shown.isprintable()
        else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    )


class NanopinnError(Exception):
    """Base of every error that is not a bug."""

    exit_code = 1


class InputError(NanopinnError):
    """An input that cannot be used, with the file, the field, the value and the remedy.

    Args:
        problem: what is wrong, as a clause ("the series has no frame times").
        file: the file concerned.
        field: the parameter of the API, the key of the file or the quantity concerned; several are
            separated by ", ".
        found: the value found.
        expected: the value expected.
        remedy: what the user can do, as a sentence; parameters are in backticks.
    """

    exit_code = 3

    def __init__(
        self,
        problem: str,
        *,
        file: Any = None,
        field: str | None = None,
        found: Any = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.field, self.found, self.expected, self.remedy = (
            problem,
            field,
            found,
            expected,
            remedy,
        )
        self.file = Path(str(file)).name if file is not None else None
        super().__init__(self._format_message())

    def _format_message(self) -> str:
        problem = format_on_one_line(self.problem)
        head = (
            f"{format_on_one_line(self.file)}: {problem}"
            if self.file
            else problem[:1].upper() + problem[1:]
        )
        details = [
            f"{label}: {format_on_one_line(content, max_characters)}"
            for label, content, max_characters in (
                ("field", self.field, _MAX_DETAIL_CHARACTERS),
                ("found", self.found, _MAX_DETAIL_CHARACTERS),
                ("expected", self.expected, _MAX_SENTENCE_CHARACTERS),
            )
            if content is not None
        ]
        text = head + (f" ({'; '.join(details)})" if details else "") + "."
        return f"{text} {format_on_one_line(self.remedy)}" if self.remedy else text


class OutputError(NanopinnError):
    """The result cannot be written to the requested place."""

    exit_code = 4


class CheckFailedError(NanopinnError):
    """The result is written, but the finite-volume check failed."""

    exit_code = 5


class PartialCohortError(NanopinnError):
    """The cohort's result is written, but a study has no result or failed its check."""

    exit_code = 6


class StoppedError(NanopinnError):
    """The user or the system stopped the run; the message says what is kept."""

    exit_code = 130


def replace_parameter_names(text: str, names: Mapping[str, str]) -> str:
    """Replace parameters in backticks by other names for them.

    Args:
        text: a message, such as "Give `t1` or `vfa`."
        names: name to show for each parameter; a parameter that is not in it stays as it is. A
            dotted name such as `cest_options.agent` is looked up as a whole, then by its last part.

    Returns:
        The message; "`t1=1.4`" becomes the name, a space and the value.
    """

    def shown(match: re.Match[str]) -> str:
        name = _find_name(match[1], names)
        if name is None:
            return match[0]
        given = match[2]
        return name if given in (None, "True") else f"{name} {given.strip(chr(39) + chr(34))}"

    return _PARAMETER.sub(shown, text)


def format_error(error: NanopinnError, names: Mapping[str, str]) -> str:
    """The message of an error with other names for the API's parameters.

    Args:
        error: the error.
        names: name to show for each parameter, such as an option of a command.

    Returns:
        The message as one paragraph. Values and files are shown as they were given.
    """
    if not isinstance(error, InputError):
        return replace_parameter_names(str(error), names)
    problem, expected, remedy = (
        None if text is None else replace_parameter_names(text, names)
        for text in (error.problem, error.expected, error.remedy)
    )
    keyed = error.file is not None and error.file.lower().endswith(_KEYED_SUFFIXES)
    field = error.field if keyed else _replace_field(error.field, names)
    return str(
        InputError(
            problem or "",
            file=error.file,
            field=field,
            found=error.found,
            expected=expected,
            remedy=remedy,
        )
    )


def _find_name(parameter: str, names: Mapping[str, str]) -> str | None:
    """Name of a parameter, or of the last part of a dotted one."""
    return names.get(parameter, names.get(parameter.rpartition(".")[2]))


def _replace_field(field: str | None, names: Mapping[str, str]) -> str | None:
    """A field whose parts are parameters, with or without backticks."""
    if field is None:
        return None
    parts = replace_parameter_names(field, names).split(", ")
    return ", ".join(_find_name(part, names) or part for part in parts)


def describe_error(error: Exception, names: Mapping[str, str]) -> str:
    """Describe any error to the user, as one paragraph.

    Args:
        error: An error of the input, of the system or of the package.
        names: Name to show for each parameter, as in :func:`replace_parameter_names`.
    """
    if isinstance(error, NanopinnError):
        return format_error(error, names)
    if _is_out_of_memory(error):
        return replace_parameter_names(
            "There is not enough memory for this study. `device='cpu'` may have more than a GPU;"
            " `preset='fast'` needs less.",
            names,
        )
    if isinstance(error, OSError):
        return f"A file cannot be read or written: {error}. No result was written."
    return (
        f"Internal error: {type(error).__name__}: {error}. Please report it with the command or the"
        " inputs."
    )


def _is_out_of_memory(error: Exception) -> bool:
    # torch is not imported for its exception; on the CPU it raises a plain RuntimeError anyway
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
