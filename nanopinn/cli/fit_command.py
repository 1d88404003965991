"""The command that fits one study."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanopinn.cli.config import build_settings
from nanopinn.cli.exit_status import (
    locate_checkpoint_folder,
    record_interruption,
    with_verdict_option,
)
from nanopinn.cli.options import (
    Continue,
    Device,
    Out,
    Overwrite,
    Quiet,
    Verbose,
    with_imaging_options,
)
from nanopinn.cli.progress_display import progress_display
from nanopinn.errors import CheckFailedError

if TYPE_CHECKING:
    from nanopinn.imaging.inputs import ImagingInputs

_FIELD_HELP = (
    "Unknown field in the tumour, NAME[:bumps|neural]; NAME: conductivity, filtration, permeability"
    " or release. Repeat for more."
)
_RELEASE_IN_TIME_HELP = (
    "Hours after the dose at which the release rate may jump, e.g. 6,24; constant between them."
)


@with_verdict_option("fit")
@with_imaging_options
def fit(
    inputs: ImagingInputs,
    drug: Annotated[
        list[Path] | None,
        typer.Option(help="Post-dose drug images, each with its sidecar: --drug FILE FILE ..."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="auto (fv), fv, or krylov (polished by fv); pinn runs krylov."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="fast, default or accurate.")] = None,
    device: Device = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the time basis of krylov and of draws from priors.")
    ] = None,
    field: Annotated[list[str] | None, typer.Option(help=_FIELD_HELP)] = None,
    inflow: Annotated[
        bool | None,
        typer.Option("--inflow", help="The tumour goes on beyond the image where a face cuts it."),
    ] = None,
    model_error: Annotated[
        float | None,
        typer.Option(help="Prior sd of the equations' error over their fluxes, e.g. 0.1."),
    ] = None,
    release_law: Annotated[
        bool | None,
        typer.Option("--release-law", help="Let the release law's steepness vary along pH."),
    ] = None,
    release_in_time: Annotated[str | None, typer.Option(help=_RELEASE_IN_TIME_HELP)] = None,
    starts: Annotated[
        int | None,
        typer.Option(help="Descents of fv, all but the first from draws of the prior (1)."),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(help="given (default), or estimated from what the fit leaves over."),
    ] = None,
    aif_sd: Annotated[
        float | None,
        typer.Option(
            help="Sd of ln of the arterial input's scale as an unknown; 0 (default): none."
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Profile likelihood of unknowns: --profile l q PS_l ..."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a fit that was interrupted; give what was given then."
        ),
    ] = False,
    continue_run: Continue = False,
    config: Path | None = None,
    out: Out = Path("nanopinn_result"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> str:
    """Fit one study: maps, flow, release and drug, each checked against finite volumes.

    Example: nanopinn fit --dce dce.nii.gz --cest ph.nii.gz --t1 1.4 --out result
    """
    from nanopinn.io.checkpoint_store import delete_checkpoints
    from nanopinn.io.output import reserve_output_folder
    from nanopinn.report.fit_summary import format_summary
    from nanopinn.settings import FitSettings
    from nanopinn.studies.fit import run_fit, write_fit

    given: dict[str, Any] = {
        "engine": engine,
        "preset": preset,
        "device": device,
        "seed": seed,
        "drug": [str(d) for d in drug] if drug else None,
        "field": field or None,
        "inflow": inflow,
        "model_error": model_error,
        "release_law": release_law,
        "release_in_time": release_in_time,
        "starts": starts,
        "noise": noise,
        "aif_sd": aif_sd,
        "profile": profile or None,
    }
    settings = build_settings(FitSettings, "fit", config, given)
    checkpoint_folder = locate_checkpoint_folder(out)
    report_limits = None if quiet else partial(typer.echo, err=True)
    with (
        reserve_output_folder(out, overwrite=overwrite),
        record_interruption(checkpoint_folder, fit),
    ):
        with progress_display(quiet, verbose) as progress:
            study = run_fit(
                inputs,
                settings,
                progress=progress,
                report_limits=report_limits,
                checkpoint_folder=checkpoint_folder,
                resume=resume or (continue_run and "if kept"),
            )
        write_fit(out, study, overwrite=overwrite)
        delete_checkpoints(checkpoint_folder)
    typer.echo(study.imaging.summary())
    typer.echo(format_summary(study.fit))
    typer.echo("Assumed:\n" + "\n".join(f"- {a}" for a in study.fit.assumptions))
    typer.echo(f"Report: {out / 'report.html'}")
    if not study.fit.check.passed:
        raise CheckFailedError(study.fit.check.headline)
    return study.fit.check.headline
