"""Progress of a run on standard error."""

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
    """Show progress while a run works.

    Args:
        quiet: Show nothing.
        verbose: Show the numbers of every step, one line each.

    Yields:
        Function to call with stage, fraction and numbers. On a terminal it draws a bar; elsewhere
        it prints a line per step.
    """
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
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(stderr=True)) as bars:
            tasks: dict[str, TaskID] = {}

            def show(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=1.0, numbers="")
                bars.update(tasks[stage], completed=fraction, numbers=_format_key_numbers(numbers))

            yield show


def _line_progress(verbose: bool) -> Progress:
    """Print a line per step, unless it equals the last one."""
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
    """Misfit, and the largest residual of the linear systems if there are any."""
    parts = [f"chi2/N {numbers['chi2/N']:.3f}"] if "chi2/N" in numbers else []
    residuals = [v for k, v in numbers.items() if k.startswith("residual")]
    return ", ".join([*parts, *([f"residual {max(residuals):.0e}"] if residuals else [])])


def _line(stage: str, fraction: float, numbers: Mapping[str, float], verbose: bool) -> str:
    text = (
        ", ".join(f"{k} {v:.4g}" for k, v in numbers.items())
        if verbose
        else _format_key_numbers(numbers)
    )
    return f"[{fraction:4.0%}] {stage}{', ' + text if text else ''}"
