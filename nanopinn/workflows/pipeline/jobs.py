"""What Snakemake would do, read from its dry run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_HEAD = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$")
_ENTRY = re.compile(r"^ +(reason|wildcards): (.*)$")

#: Snakemake's reasons, in words; the first that is found counts.
_REASONS = (
    ("Missing output files", "not done yet"),
    ("Updated input files", "a file has changed since"),
    ("Set of input files has changed", "other files than before"),
    ("Params have changed", "other settings, or another version, than before"),
    ("Code has changed", "the workflow has changed since"),
    ("Input files updated by another job", "what it reads is made anew"),
)

#: What is done for a study, one after the other.
_RULE_ORDER = ("fit", "derivatives", "arms", "derivatives_of_arms")


@dataclass(frozen=True)
class Job:
    """One job: its rule, the study it is for (empty: for all), and why it would run."""

    rule: str
    place: str
    reason: str


def parse_dry_run(dry_run_output: str) -> tuple[Job, ...]:
    """The jobs of a dry run; the rule that only gathers the others is none."""
    return tuple(job for job in _parse_jobs(dry_run_output) if job.rule != "all")


def _parse_jobs(dry_run_output: str) -> Iterator[Job]:
    """Each head with the indented lines under it."""
    rule, found = "", {}
    for line in [*dry_run_output.splitlines(), ""]:
        head, entry = _HEAD.match(line), _ENTRY.match(line)
        if entry and rule:
            found[entry[1]] = entry[2]
        elif not line.startswith(" ") and rule:
            yield Job(
                rule,
                _place_from_wildcards(found.get("wildcards", "")),
                _translate_reason(found.get("reason", "")),
            )
            rule = ""
        if head:
            rule, found = head[1], {}


def _place_from_wildcards(wildcards: str) -> str:
    return wildcards.removeprefix("place=") if wildcards.startswith("place=") else ""


def _translate_reason(reason: str) -> str:
    return next((words for start, words in _REASONS if start in reason), reason)


def describe_jobs(jobs: Sequence[Job], place: str) -> str:
    """What would be done for one study: ``fit, derivatives (not done yet)``; nothing where nothing is to be done."""
    own = sorted(
        (job for job in jobs if job.place == place), key=lambda job: _RULE_ORDER.index(job.rule)
    )
    return f"{', '.join(job.rule for job in own)} ({own[0].reason})" if own else "nothing to do"
