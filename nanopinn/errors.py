"""The exceptions a user may see; each knows its exit code and reads as one paragraph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Longest detail and longest sentence of a paragraph, characters: a list of 100,000 numbers is no
#: message.
_MAX_DETAIL_CHARACTERS, _MAX_SENTENCE_CHARACTERS = 300, 2000


def format_on_one_line(content: Any, max_characters: int = _MAX_SENTENCE_CHARACTERS) -> str:
    """Something a user gave, as printable characters of one line: names and values may hold
    anything, a terminal's commands too.
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
    """Something the user gave cannot be used; says which file and field, what was found and what to
    do.

    Args:
        problem: what is wrong, as a clause ("the series has no frame times").
        file: the file concerned.
        field: the key, option or quantity concerned.
        found: the value found.
        expected: the value expected.
        remedy: what the user can do, as a sentence.
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
    """The result cannot be written where it was asked for."""

    exit_code = 4


class CheckFailedError(NanopinnError):
    """The answer is written, but finite volumes do not confirm it."""

    exit_code = 5


class PartialCohortError(NanopinnError):
    """The answer is written, but not every study of the cohort has a result that was confirmed."""

    exit_code = 6


class StoppedError(NanopinnError):
    """The user, or the system, stopped the work; says what is kept."""

    exit_code = 130
