"""The command that says what each post-dose image is worth for an outcome."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanopinn.cli.config import build_settings
from nanopinn.cli.options import Device, Overwrite, Quiet, Verbose, with_imaging_options
from nanopinn.cli.screen import progress_display

if TYPE_CHECKING:
    from nanopinn.imaging.inputs import ImagingInputs


@with_imaging_options
def minimal_imaging(
    inputs: ImagingInputs,
    drug: Annotated[
        list[Path],
        typer.Option(help="Post-dose drug images, each with its sidecar: --drug FILE FILE ..."),
    ],
    arm: Annotated[
        str, typer.Option(help="The treatment: free, pld, tsl, ph, or a TOML file.")
    ] = "ph",
    outcome: Annotated[
        str, typer.Option(help="Positive outcome of `simulate --arms`: area, 'peak at wall', ...")
    ] = "area",
    drug_dose: Annotated[str | None, typer.Option(help="50mg/m2 (default) or 90mg.")] = None,
    heat: Annotated[str | None, typer.Option(help="degC:MINUTES[@START_H].")] = None,
    draws: Annotated[int, typer.Option(help="From posterior and priors.")] = 100,
    preset: Annotated[
        str | None, typer.Option(help="Of the fits: fast, default or accurate.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    device: Device = None,
    config: Path | None = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the table too: FILE.json or FILE.tsv.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fit a tumour with none, one and more of its post-dose images, and say how sure each makes an outcome.

    Example: nanopinn minimal-imaging --dce dce.nii.gz --cest ph.nii.gz --t1 1.4 --drug drug_2h.nii.gz drug_24h.nii.gz
    """
    from nanopinn.report.table import reserve_table_file, write_table
    from nanopinn.workflows.settings import ComparisonSettings, FitSettings
    from nanopinn.workflows.therapy.minimal_imaging import outcome_uncertainty_by_images
    from nanopinn.workflows.therapy.run import arms_from_settings, outcome_function

    fits = build_settings(
        FitSettings,
        "fit",
        config,
        {
            "drug": [str(d) for d in drug],
            "preset": preset,
            "device": device,
            "engine": "fv",
            "seed": seed,
        },
    )
    given = {
        "arms": (arm,),
        "dose": drug_dose,
        "heat": (heat,) if heat else None,
        "draws": draws,
        "seed": seed,
    }
    settings = build_settings(ComparisonSettings, "arms", None, given)
    arms, notes = arms_from_settings(settings)
    with reserve_table_file(out, overwrite=overwrite):
        with progress_display(quiet, verbose) as progress:
            found = outcome_uncertainty_by_images(
                inputs,
                fits,
                arms,
                outcome_function(arms[0], outcome, settings),
                name=f"{arm}: {outcome}",
                draws=draws,
                seed=seed,
                progress=progress,
            )
        assumed = [*notes, *found.assumptions]
        typer.echo(found.summary())
        typer.echo("Assumed:\n" + "\n".join(f"- {a}" for a in assumed))
        if out is not None:
            said = {
                "outcome": found.outcome,
                "draws": found.draws,
                "in_words": found.describe(),
                "assumptions": assumed,
            }
            typer.echo(f"Table: {write_table(out, found.table(), said, overwrite=overwrite)}")
