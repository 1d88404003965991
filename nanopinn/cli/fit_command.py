"""The command ``fit``: fit one study."""

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
    Config,
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

_ENGINE_HELP = (
    "Engine: fv (implicit finite volumes, also used by auto, the default) or krylov (tangents by"
    " Krylov subspaces in a reduced time basis, then fv). On voxels, pinn runs krylov."
)
_FIELD_HELP = (
    "Unknown field in the tumour, NAME[:bumps|neural], as Gaussian radial basis or neural field."
    " NAME is conductivity, filtration, permeability or release. Repeat the option for several."
)
_RELEASE_IN_TIME_HELP = (
    "Hours after the dose at which the release rate may change, such as 6,24. It is constant"
    " between them."
)


@with_verdict_option("fit")
@with_imaging_options
def fit(
    inputs: ImagingInputs,
    drug: Annotated[
        list[Path] | None,
        typer.Option(help="Post-dose drug images, each with its sidecar: --drug FILE FILE ..."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help=_ENGINE_HELP)] = None,
    preset: Annotated[str | None, typer.Option(help="Preset: fast, default or accurate.")] = None,
    device: Device = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the time basis of krylov and of draws from priors. Default: 0."),
    ] = None,
    field: Annotated[list[str] | None, typer.Option(help=_FIELD_HELP)] = None,
    inflow: Annotated[
        bool | None,
        typer.Option("--inflow", help="Fit the flow through image faces that cut the tumour."),
    ] = None,
    model_error: Annotated[
        float | None,
        typer.Option(
            help="Prior SD of the model error relative to the fluxes, such as 0.1. Default: 0."
        ),
    ] = None,
    release_law: Annotated[
        bool | None,
        typer.Option(
            "--release-law", help="Fit a steepness of the release law that varies with pH."
        ),
    ] = None,
    release_in_time: Annotated[str | None, typer.Option(help=_RELEASE_IN_TIME_HELP)] = None,
    starts: Annotated[
        int | None,
        typer.Option(
            help="Optimisation runs of fv; all but the first start from prior draws. Default: 1."
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(help="Noise: given (default) or estimated from the residuals of the fit."),
    ] = None,
    aif_sd: Annotated[
        float | None,
        typer.Option(
            help="Prior SD of the logarithm of the scale of the arterial input. Default: 0, fixed."
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Parameters whose profile likelihood is computed: --profile l q PS_l ..."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume an interrupted fit from its checkpoint, with the same inputs and options.",
        ),
    ] = False,
    continue_run: Continue = False,
    config: Config = None,
    out: Out = Path("nanopinn_result"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> str:
    """Fit one study: kinetic maps, interstitial flow, release and drug transport.

    An independent finite-volume solution checks the result.

    Example: nanopinn fit --dce dce.nii.gz --cest ph.nii.gz --t1 1.4 --out result
    """
    from nanopinn.imaging.parametric_maps import format_imaging_summary
    from nanopinn.io.checkpoint_store import delete_checkpoints
    from nanopinn.io.output import reserve_output_folder
    from nanopinn.report.fit_summary import format_summary
    from nanopinn.report.treatment_summary import format_assumptions
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
    typer.echo(format_imaging_summary(study.imaging))
    typer.echo(format_summary(study.fit))
    typer.echo(format_assumptions(study.fit.assumptions))
    typer.echo(f"Report: {out / 'report.html'}")
    if not study.fit.check.passed:
        raise CheckFailedError(study.fit.check.headline)
    return study.fit.check.headline
