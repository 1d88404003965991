"""The command that says, before a scan, what it would tell.

The command that says what each post-dose image is worth for an outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanopinn.cli.config import build_settings
from nanopinn.cli.options import Device, Overwrite, Quiet, Verbose, with_imaging_options
from nanopinn.cli.progress_display import progress_display
from nanopinn.errors import InputError

if TYPE_CHECKING:
    from nanopinn.imaging.inputs import ImagingInputs


_IMAGE = "QUANTITY@HOURS[:NOISE] after the dose, such as released@24:0.05, :5% or :0.3ug/mL"


def plan(
    tumour_mm: Annotated[
        list[float] | None, typer.Option(help="Diameters of the tumour, one or three (6 6 4).")
    ] = None,
    voxel_mm: Annotated[
        list[float] | None, typer.Option(help="Voxel size, one or three (0.5).")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Of the DCE series (60).")] = None,
    frame_spacing_s: Annotated[
        float | None, typer.Option("--frame-spacing", help="s (10).")
    ] = None,
    snr: Annotated[
        float | None, typer.Option(help="Baseline signal over noise, per voxel and frame (60).")
    ] = None,
    t1_noise: Annotated[
        float | None, typer.Option(help="Relative error of a voxel's native T1 (0.01).")
    ] = None,
    aif: Annotated[
        str | None,
        typer.Option(help="parker (default), georgiou, weinmann, preclinical, or a TSV/CSV."),
    ] = None,
    ph: Annotated[
        bool | None, typer.Option("--ph/--no-ph", help="Whether a pH map is measured (yes).")
    ] = None,
    ph_noise: Annotated[float | None, typer.Option(help="Of a voxel of the pH map (0.1).")] = None,
    ph_shared_noise: Annotated[
        float | None, typer.Option(help="Error that the whole pH map shares: calibration (0).")
    ] = None,
    drug: Annotated[
        list[str] | None, typer.Option(help=f"Drug images of the protocol: {_IMAGE}.")
    ] = None,
    candidates: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate", help="Images to weigh (encapsulated and released, 0.5 to 72 h)."
        ),
    ] = None,
    image_noise: Annotated[
        float | None,
        typer.Option(help="Of images without their own, over their largest value (0.05)."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Result folder of a fit: what would an image add for this patient?"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="fast (default), default or accurate: cells of the flow per voxel."),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help="Tumours and parameters to average over (3).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draws (0).")] = None,
    device: Device = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML with a table [plan]; options win.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the table too: FILE.json or FILE.tsv.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say before a scan which unknowns it would inform, and which image helps most.

    Example: nanopinn plan --tumour-mm 8 --voxel-mm 0.7 --drug encapsulated@24
    """
    from nanopinn.report.plan_summary import format_plan, write_plan
    from nanopinn.report.result_files import reserve_table_file
    from nanopinn.settings import PlanSettings
    from nanopinn.studies.plan import plan_protocol

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
            dump = settings.model_dump() | {"aif": Path(settings.aif).name}
            typer.echo(f"Table: {write_plan(out, found, dump, overwrite=overwrite)}")


def _refuse_protocol_with_result(source: Path | None, scan: Mapping[str, Any]) -> None:
    """Refuse a protocol beside a result: the scan of that patient is done.

    Raises:
        InputError: both are given.
    """
    given = [
        f"--{name.removesuffix('_s').replace('_', '-')}"
        for name, value in scan.items()
        if value is not None
    ]
    if source is not None and given:
        raise InputError(
            "a protocol and a result are both given",
            field=", ".join(given),
            found=f"--from {source.name}",
            expected="one of them",
            remedy=(
                "The result's scan is done; give only --candidate, --image-noise, --draws and"
                " --seed with it."
            ),
        )


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
    """Fit a tumour with none, one and more of its post-dose images, and say how sure each makes an
    outcome.

    Example: nanopinn minimal-imaging --dce dce.nii.gz --cest ph.nii.gz --t1 1.4 --drug
    drug_2h.nii.gz drug_24h.nii.gz
    """
    from nanopinn.report.result_files import reserve_table_file, write_table
    from nanopinn.settings import ComparisonSettings, FitSettings
    from nanopinn.studies.arms.arm_specs import arms_from_settings
    from nanopinn.studies.arms.compare import outcome_function
    from nanopinn.studies.minimal_imaging import outcome_uncertainty_by_images

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
