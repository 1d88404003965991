"""The command that gathers a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nanopinn.errors import PartialCohortError


def group(
    dataset: Annotated[
        Path, typer.Argument(help="Dataset of derivatives, as nanopinn cohort writes it.")
    ],
) -> None:
    """Write the group tables and the group page of a cohort: what needs a look first; exit code 6 if any study does.

    Example: nanopinn group derivatives/nanopinn
    """
    from nanopinn.report.group import write_group
    from nanopinn.workflows.cohort.dataset import write_derivatives_description
    from nanopinn.workflows.cohort.group import run_group

    found = run_group(dataset)
    write_derivatives_description(dataset)
    page = write_group(dataset, found)
    typer.echo(found.summary())
    typer.echo(f"Page: {page}")
    if not found.all_passed:
        raise PartialCohortError(found.headline)
