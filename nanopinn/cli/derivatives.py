"""The command that gives a result the names of BIDS derivatives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nanopinn.cli.verdict import has_result

_AFTER_HELP = "Verdict of the run that made it: where that left no result, nothing is written and nothing is wrong."


def derivatives(
    result: Annotated[Path, typer.Argument(help="Result folder of a fit, or of compared arms.")],
    dataset: Annotated[
        Path, typer.Argument(help="Dataset of derivatives to write into; made if there is none.")
    ],
    id: Annotated[str, typer.Option("--id", help="The study: sub-01_ses-01.")],
    after: Annotated[Path | None, typer.Option(help=_AFTER_HELP)] = None,
) -> None:
    """Write the maps and tables of one result under the names of BIDS derivatives.

    Example: nanopinn derivatives work/sub-01/ses-01/fit . --id sub-01_ses-01
    """
    from nanopinn.imaging.given import read_json_or_empty
    from nanopinn.workflows.cohort.derivatives import write_derivatives

    if after is not None and not has_result(read_json_or_empty(after)):
        typer.echo(f"{id}: there is no result to write.")
        return
    typer.echo(f"{id}: {write_derivatives(result, dataset, id)}")
