"""Commands of one study: ``fit``, ``plan`` before a scan, and ``minimal-imaging``."""

from __future__ import annotations

from collections.abc import Mapping
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
from nanopinn.cli.study_options import with_study_options
from nanopinn.errors import CheckFailedError, InputError

if TYPE_CHECKING:
    from nanopinn.imaging.imaging_data import ImagingInputs


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
@with_study_options
def fit(
    inputs: ImagingInputs,
    study: dict[str, Any],
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
    from nanopinn.imaging.imaging_data import format_imaging_summary
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
        **study,
    }
    settings = build_settings(FitSettings, "fit", config, given)
    checkpoint_folder = locate_checkpoint_folder(out)
    report_limits = None if quiet else partial(typer.echo, err=True)
    with (
        reserve_output_folder(out, overwrite=overwrite),
        record_interruption(checkpoint_folder, fit),
    ):
        with progress_display(quiet, verbose) as progress:
            fitted = run_fit(
                inputs,
                settings,
                progress=progress,
                report_limits=report_limits,
                checkpoint_folder=checkpoint_folder,
                resume=resume or (continue_run and "if available"),
            )
        write_fit(out, fitted, overwrite=overwrite)
        delete_checkpoints(checkpoint_folder)
    typer.echo(format_imaging_summary(fitted.imaging))
    typer.echo(format_summary(fitted.fit))
    typer.echo(format_assumptions(fitted.fit.assumptions))
    typer.echo(f"Report: {out / 'report.html'}")
    if not fitted.fit.check.passed:
        raise CheckFailedError(fitted.fit.check.headline)
    return fitted.fit.check.headline


_IMAGE = "QUANTITY@HOURS[:NOISE], such as released@24:0.05, released@24:5% or released@24:0.3ug/mL"


@with_study_options
def plan(
    study: dict[str, Any],
    tumour_mm: Annotated[
        list[float] | None,
        typer.Option(help="Diameters of the tumour, one or three, mm. Default: 6 6 4."),
    ] = None,
    voxel_mm: Annotated[
        list[float] | None, typer.Option(help="Voxel size, one or three values, mm. Default: 0.5.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames of the DCE series. Default: 60.")
    ] = None,
    frame_spacing_s: Annotated[
        float | None, typer.Option("--frame-spacing", help="Time between frames, s. Default: 10.")
    ] = None,
    snr: Annotated[
        float | None,
        typer.Option(
            help="Signal-to-noise ratio of the baseline, per voxel and frame. Default: 60."
        ),
    ] = None,
    t1_noise: Annotated[
        float | None,
        typer.Option(help="Relative error of the native T1 of a voxel. Default: 0.01."),
    ] = None,
    aif: Annotated[
        str | None,
        typer.Option(help="Arterial input: parker, georgiou, weinmann, preclinical or a TSV/CSV."),
    ] = None,
    ph: Annotated[
        bool | None,
        typer.Option("--ph/--no-ph", help="Whether a pH map is measured. Default: yes."),
    ] = None,
    ph_noise: Annotated[
        float | None, typer.Option(help="Noise SD of a voxel of the pH map. Default: 0.1.")
    ] = None,
    ph_shared_noise: Annotated[
        float | None, typer.Option(help="Calibration error common to the whole pH map. Default: 0.")
    ] = None,
    drug: Annotated[
        list[str] | None,
        typer.Option(help=f"Drug images of the protocol, in hours after the dose: {_IMAGE}."),
    ] = None,
    candidates: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate", help="Candidate images. Default: encapsulated and released, 0.5 to 72 h."
        ),
    ] = None,
    image_noise: Annotated[
        float | None,
        typer.Option(
            help="Noise SD of images without one, relative to their largest value. Default: 0.05."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Result folder of a fit: compute what an image would add for this patient.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Preset of the flow grid: fast (default), default or accurate."),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(help="Number of tumours and parameter sets to average over. Default: 3."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the draws. Default: 0.")] = None,
    device: Device = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with a table \\[plan]; options take precedence.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the table to FILE.json or FILE.tsv as well."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compute before a scan which parameters it would inform, and which image adds most.

    Example: nanopinn plan --tumour-mm 8 --voxel-mm 0.7 --drug encapsulated@24
    """
    from nanopinn.report.plan_summary import format_plan, write_plan
    from nanopinn.report.result_files import reserve_table_file
    from nanopinn.settings import PlanSettings
    from nanopinn.studies.plan import plan_protocol
    from nanopinn.studies.treatment_source import settings_to_write

    scan = {
        "tumour_mm": tumour_mm,
        "voxel_mm": voxel_mm,
        "frames": frames,
        "frame_spacing_s": frame_spacing_s,
        "snr": snr,
        "t1_noise": t1_noise,
        "aif": aif,
        "ph": ph,
        "ph_noise": ph_noise,
        "ph_shared_noise": ph_shared_noise,
        "drug": drug,
        "preset": preset,
    }
    _refuse_protocol_with_result(folder, scan)
    given = {
        **scan,
        **study,
        "candidates": candidates,
        "image_noise": image_noise,
        "draws": draws,
        "seed": seed,
        "device": device,
    }
    settings = build_settings(PlanSettings, "plan", config, given)
    with reserve_table_file(out, overwrite=overwrite):
        with progress_display(quiet, verbose) as progress:
            found = plan_protocol(settings, folder=folder, progress=progress)
        typer.echo(format_plan(found))
        if out is not None:
            dump = settings_to_write(settings) | {"aif": settings.aif and Path(settings.aif).name}
            typer.echo(f"Table: {write_plan(out, found, dump, overwrite=overwrite)}")


def _refuse_protocol_with_result(source: Path | None, scan: Mapping[str, Any]) -> None:
    """Refuse a protocol together with a result, whose scan is done.

    Raises:
        InputError: Both are given.
    """
    given = [name for name, value in scan.items() if value is not None]
    if source is not None and given:
        raise InputError(
            "both a protocol and a result are given",
            field=", ".join(given),
            found=source.name,
            expected="one of them",
            remedy=(
                "The scan of the result is done. Give only `candidates`, `image_noise`, `draws` and"
                " `seed` with it."
            ),
        )


@with_imaging_options
@with_study_options
def minimal_imaging(
    inputs: ImagingInputs,
    study: dict[str, Any],
    drug: Annotated[
        list[Path],
        typer.Option(help="Post-dose drug images, each with its sidecar: --drug FILE FILE ..."),
    ],
    arm: Annotated[
        str, typer.Option(help="Formulation of the arm: free, pld, tsl, ph or a TOML file.")
    ] = "ph",
    outcome: Annotated[
        str,
        typer.Option(help="Positive outcome of simulate --arms, such as area or 'peak at wall'."),
    ] = "area",
    arm_dose: Annotated[
        str | None,
        typer.Option(help="Dose of the arm: 50mg/m2 or 5mg/kg. Default: that of the study."),
    ] = None,
    heat: Annotated[
        str | None, typer.Option(help="Heating of the arm: degC:MINUTES\\[@START_H].")
    ] = None,
    draws: Annotated[int, typer.Option(help="Number of draws from posterior and priors.")] = 100,
    preset: Annotated[
        str | None, typer.Option(help="Preset of the fits: fast, default or accurate.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    device: Device = None,
    config: Config = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the table to FILE.json or FILE.tsv as well."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fit a tumour with no, one and more post-dose images, and compare an outcome's uncertainty.

    Example: nanopinn minimal-imaging --dce dce.nii.gz --cest ph.nii.gz --t1 1.4 --drug
    drug_2h.nii.gz drug_24h.nii.gz
    """
    from nanopinn.report.plan_summary import (
        describe_minimal_imaging,
        format_minimal_imaging,
        tabulate_minimal_imaging,
    )
    from nanopinn.report.result_files import reserve_table_file, write_table
    from nanopinn.report.treatment_summary import format_assumptions
    from nanopinn.settings import ComparisonSettings, FitSettings, parse_dose
    from nanopinn.studies.arms.arm_specs import arms_from_settings
    from nanopinn.studies.arms.compare import outcome_function
    from nanopinn.studies.minimal_imaging import (
        arm_settings_of_study,
        outcome_uncertainty_by_images,
    )

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
            **study,
        },
    )
    given = {
        "arms": (arm,),
        "dose": parse_dose(arm_dose, "arm_dose") if arm_dose else None,
        "heat": (heat,) if heat else None,
        "draws": draws,
        "seed": seed,
    }
    settings = build_settings(ComparisonSettings, "arms", None, given)
    settings, of_subject = arm_settings_of_study(settings, inputs, fits)
    arms, of_arms = arms_from_settings(settings)
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
        assumed = [*of_arms, *of_subject, *found.assumptions]
        typer.echo(format_minimal_imaging(found))
        typer.echo(format_assumptions(assumed))
        if out is not None:
            metadata = {
                "outcome": found.outcome,
                "draws": found.draws,
                "in_words": describe_minimal_imaging(found),
                "assumptions": assumed,
            }
            rows = tabulate_minimal_imaging(found)
            typer.echo(f"Table: {write_table(out, rows, metadata, overwrite=overwrite)}")
