"""What a run shows while it works, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from nanopinn.progress import Progress, RemainingTimeEstimator, ignore_progress

if TYPE_CHECKING:
    from rich.progress import TaskID


@contextmanager
def progress_display(quiet: bool, verbose: bool = False) -> Iterator[Progress]:
    """A bar on a terminal, a line per step elsewhere or with ``verbose``, nothing with ``quiet``."""
    if quiet:
        yield ignore_progress
    elif verbose or not sys.stderr.isatty():
        yield _line_progress(verbose)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(stderr=True)) as bars:
            tasks: dict[str, TaskID] = {}

            def show(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=1.0, said="")
                bars.update(tasks[stage], completed=fraction, said=_format_key_numbers(numbers))

            yield show


def _line_progress(verbose: bool) -> Progress:
    """A line per step; none that says what the last one said."""
    last = ""
    clock = RemainingTimeEstimator()

    def show(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
        nonlocal last
        left, line = (
            clock.estimate_remaining_s(stage, fraction),
            _line(stage, fraction, numbers, verbose),
        )
        if line != last:
            typer.echo(line + ("" if left is None else f", at most {left:.0f} s left"), err=True)
        last = line

    return show


def _format_key_numbers(numbers: Mapping[str, float]) -> str:
    """Misfit, and the largest residual of the linear systems where there are any."""
    said = [f"chi2/N {numbers['chi2/N']:.3f}"] if "chi2/N" in numbers else []
    residuals = [v for k, v in numbers.items() if k.startswith("residual")]
    return ", ".join([*said, *([f"residual {max(residuals):.0e}"] if residuals else [])])


def _line(stage: str, fraction: float, numbers: Mapping[str, float], verbose: bool) -> str:
    said = (
        ", ".join(f"{k} {v:.4g}" for k, v in numbers.items())
        if verbose
        else _format_key_numbers(numbers)
    )
    return f"[{fraction:4.0%}] {stage}{', ' + said if said else ''}"
