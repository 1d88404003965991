"""The command that says, before a scan, what it would tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nanopinn.cli.config import build_settings
from nanopinn.cli.options import Device, Overwrite, Quiet, Verbose
from nanopinn.cli.screen import progress_display
from nanopinn.errors import InputError

_IMAGE = "QUANTITY@HOURS[:NOISE] after the dose, such as released@24:0.05, :5% or :0.3ug/mL"


def plan(
    tumour_mm: Annotated[
        list[float] | None, typer.Option(help="Diameters of the tumour, one or three (6 6 4).")
    ] = None,
    voxel_mm: Annotated[
        list[float] | None, typer.Option(help="Voxel size, one or three (0.5).")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Of the DCE series (60).")] = None,
    frame_spacing: Annotated[float | None, typer.Option(help="s (10).")] = None,
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
    candidate: Annotated[
        list[str] | None,
        typer.Option(help="Images to weigh (encapsulated and released, 0.5 to 72 h)."),
    ] = None,
    image_noise: Annotated[
        float | None,
        typer.Option(help="Of images without their own, over their largest value (0.05)."),
    ] = None,
    source: Annotated[
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
    from nanopinn.report.table import reserve_table_file, write_plan
    from nanopinn.workflows.plan import plan_protocol
    from nanopinn.workflows.settings import PlanSettings

    scan = {
        "tumour_mm": tumour_mm,
        "voxel_mm": voxel_mm,
        "frames": frames,
        "frame_spacing_s": frame_spacing,
        "snr": snr,
        "t1_noise": t1_noise,
        "aif": aif,
        "ph": ph,
        "ph_noise": ph_noise,
        "ph_shared_noise": ph_shared_noise,
        "drug": drug,
        "preset": preset,
    }
    _refuse_protocol_with_result(source, scan)
    given = {
        **scan,
        "candidates": candidate,
        "image_noise": image_noise,
        "draws": draws,
        "seed": seed,
        "device": device,
    }
    settings = build_settings(PlanSettings, "plan", config, given)
    with reserve_table_file(out, overwrite=overwrite):
        with progress_display(quiet, verbose) as progress:
            found = plan_protocol(settings, folder=source, progress=progress)
        typer.echo(found.summary())
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
            remedy="The result's scan is done; give only --candidate, --image-noise, --draws and --seed with it.",
        )
