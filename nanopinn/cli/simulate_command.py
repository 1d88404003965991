"""The command that takes treatments through a tumour: one schedule, or arms side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanopinn.cli.config import build_settings
from nanopinn.cli.exit_status import (
    locate_checkpoint_folder,
    record_interruption,
    require_result,
    with_verdict_option,
)
from nanopinn.cli.option_syntax import parse_list, parse_minutes
from nanopinn.cli.options import Continue, Device, Out, Overwrite, Quiet, Verbose
from nanopinn.cli.progress_display import progress_display
from nanopinn.errors import InputError

if TYPE_CHECKING:
    from nanopinn.io.checkpoint_store import ResumeMode
    from nanopinn.settings import PhantomSettings
    from nanopinn.studies.tissue_source import MapFiles

_ARMS = "Arms compared"
_HEAT = (
    "Heating, degC:MINUTES[@START_H][~RAMP_MIN], or a thermometry file; several with commas. Of"
    " arms that answer to heat."
)


@with_verdict_option("simulate")
def simulate(
    schedule: Annotated[
        Path | None, typer.Option(help="What is given and when (TOML); examples in docs/schedules.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--from", help="Result folder of `nanopinn fit` or `nanopinn maps`."),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(
            help="Verdict of the run that made --from: refused where that left no result."
        ),
    ] = None,
    phantom: Annotated[
        bool, typer.Option("--phantom", help="The digital phantom's tumour instead.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Of the phantom, and of the draws of arms (0).")
    ] = None,
    shape: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Voxels of the phantom (24 24 12).")
    ] = None,
    ktrans: Annotated[
        Path | None,
        typer.Option(
            help="Map of Ktrans, 1/min (or as its sidecar's Unit says), with the four below."
        ),
    ] = None,
    ve: Annotated[Path | None, typer.Option(help="Map of ve, a fraction.")] = None,
    vp: Annotated[Path | None, typer.Option(help="Map of vp, a fraction.")] = None,
    ph: Annotated[Path | None, typer.Option(help="Map of extracellular pH.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Tumour, above 0.5.")] = None,
    assume_ph: Annotated[
        float | None, typer.Option(help="pH of the tumour where there is no map of it.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Error of a time step over a pool's largest mass (1e-4; arms 1e-3)."),
    ] = None,
    refine: Annotated[
        int | None, typer.Option(help="Cells of the flow per voxel edge, 1 to 4 (2).")
    ] = None,
    rim_mm: Annotated[
        float | None,
        typer.Option("--rim", help="Refine only voxels so near to the tumour's edge, mm (all)."),
    ] = None,
    advection: Annotated[
        str | None, typer.Option(help="fitted (default), central, upwind or limited.")
    ] = None,
    device: Device = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Formulations to compare: free, pld, tsl, ph, or TOML files, with commas.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    dose: Annotated[
        str | None,
        typer.Option(help="Of every arm: 50mg/m2 (default) or 90mg.", rich_help_panel=_ARMS),
    ] = None,
    body_surface_m2: Annotated[
        float | None, typer.Option("--body-surface", help="m2 (1.8).", rich_help_panel=_ARMS)
    ] = None,
    infusion_min: Annotated[
        float | None,
        typer.Option(
            "--infusion", help="Minutes of infusion; 0 (default): a bolus.", rich_help_panel=_ARMS
        ),
    ] = None,
    heat: Annotated[str | None, typer.Option(help=_HEAT, rich_help_panel=_ARMS)] = None,
    heat_all: Annotated[
        bool | None, typer.Option("--heat-all", help="Heat every arm.", rich_help_panel=_ARMS)
    ] = None,
    heat_effects: Annotated[
        bool | None,
        typer.Option(
            "--heat-effects/--no-heat-effects",
            help="Heat changes pressure and walls (priors, from mice).",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    heating_min: Annotated[
        str | None,
        typer.Option(
            "--heating-times",
            help="Lengths of the heating to compare, min (15,30,60; none).",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    radiation: Annotated[
        str | None, typer.Option(help="Fractions, Gy@HOURS, with commas.", rich_help_panel=_ARMS)
    ] = None,
    radiation_from: Annotated[
        str | None,
        typer.Option(
            help=(
                "RESULT@HOURS: a fit of the same tumour scanned so long after the first fraction"
                " tells what radiation did."
            ),
            rich_help_panel=_ARMS,
        ),
    ] = None,
    end_h: Annotated[
        float | None, typer.Option("--end", help="Hours simulated (72).", rich_help_panel=_ARMS)
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            help="From posterior and priors (100); 0: medians alone.", rich_help_panel=_ARMS
        ),
    ] = None,
    groups: Annotated[
        int | None,
        typer.Option(help="Groups of voxels resolved around a vessel (8).", rich_help_panel=_ARMS),
    ] = None,
    limit_um: Annotated[
        float | None,
        typer.Option(
            "--limit", help="Distance from the vessel asked about, um (50).", rich_help_panel=_ARMS
        ),
    ] = None,
    lethal: Annotated[
        float | None,
        typer.Option(help="Surviving fraction that counts as lethal (0.5).", rich_help_panel=_ARMS),
    ] = None,
    sensitivity: Annotated[
        bool | None,
        typer.Option(
            "--sensitivity/--no-sensitivity",
            help="Rank the inputs by what they do.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with interrupted arms.", rich_help_panel=_ARMS)
    ] = False,
    continue_run: Continue = False,
    config: Annotated[
        Path | None, typer.Option(help="TOML as every run dumps it; options win.")
    ] = None,
    out: Out = Path("nanopinn_simulation"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> str:
    """Take a treatment through a tumour, every pool of the drug in time; or compare arms, down to
    what reaches cells far from vessels.

    Examples:

    nanopinn simulate --from result --arms free,pld,tsl --heat 42:60 --out arms

    nanopinn simulate --from result --schedule docs/schedules/thermosensitive.toml --out one
    """
    from nanopinn.settings import ComparisonSettings, PhantomSettings, SimulationSettings

    if after is not None:
        require_result(after)
    drawn = (
        build_settings(PhantomSettings, "phantom", config, {"seed": seed, "shape": shape})
        if phantom
        else None
    )
    maps = _map_files({"ktrans": ktrans, "ve": ve, "vp": vp, "mask": mask, "ph": ph})
    numerical = {"tolerance": tolerance, "refine": refine, "device": device}
    of_arms: dict[str, Any] = {
        "arms": parse_list(arms),
        "dose": dose,
        "body_surface_m2": body_surface_m2,
        "infusion_min": infusion_min,
        "heat": parse_list(heat),
        "heat_all": heat_all,
        "heat_effects": heat_effects,
        "heating_min": parse_minutes(heating_min),
        "radiation": parse_list(radiation),
        "radiation_from": radiation_from,
        "end_h": end_h,
        "draws": draws,
        "groups": groups,
        "limit_um": limit_um,
        "lethal": lethal,
        "sensitivity": sensitivity,
    }
    if arms is not None:
        refused = {
            "--rim": rim_mm,
            "--advection": advection,
            "--ktrans": maps,
            "--assume-ph": assume_ph,
        }
        _refuse_options(refused, "it is not of arms", "Leave it out, or simulate one schedule.")
        settings = build_settings(
            ComparisonSettings, "arms", config, {**numerical, **of_arms, "seed": seed}
        )
        going_on: ResumeMode = resume or (continue_run and "if kept")
        return _compare(
            settings,
            schedule,
            folder,
            drawn,
            out,
            resume=going_on,
            overwrite=overwrite,
            quiet=quiet,
            verbose=verbose,
        )
    _refuse_options(
        {"--resume": resume or None}, "one schedule keeps nothing to go on with", "Leave it out."
    )
    _refuse_options(
        {f"--{k.split('_')[0]}": v for k, v in of_arms.items()},
        "it is of arms",
        "Say which arms: --arms free,pld,tsl.",
    )
    if schedule is None:
        raise InputError(
            "nothing is given",
            field="--schedule",
            expected="a schedule file, or --arms",
            remedy="See docs/schedules for examples, or compare --arms free,pld,tsl.",
        )
    given = {**numerical, "rim_mm": rim_mm, "advection": advection, "assume_ph": assume_ph}
    single = build_settings(SimulationSettings, "simulate", config, given)
    return _run_one(
        single,
        schedule,
        folder,
        drawn,
        maps,
        out,
        overwrite=overwrite,
        quiet=quiet,
        verbose=verbose,
    )


def _run_one(
    settings: Any,
    schedule: Path,
    source: Path | None,
    phantom: PhantomSettings | None,
    maps: MapFiles | None,
    out: Path,
    *,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> str:
    from nanopinn.io.output import reserve_output_folder
    from nanopinn.report.simulation_folder import write_simulation
    from nanopinn.report.treatment_summary import format_assumptions, format_simulation
    from nanopinn.studies.simulate import run_simulation

    dump = {"simulate": settings.model_dump()} | (
        {"phantom": phantom.model_dump()} if phantom else {}
    )
    with reserve_output_folder(out, overwrite=overwrite):
        with progress_display(quiet, verbose) as progress:
            found = run_simulation(
                schedule,
                folder=source,
                phantom=phantom,
                maps=maps,
                settings=settings,
                progress=progress,
            )
        write_simulation(out, found, dump, overwrite=overwrite)
    typer.echo(format_simulation(found))
    typer.echo(format_assumptions(found.assumptions))
    typer.echo(f"Page: {out / 'simulation.html'}")
    return found.treatment[0] if found.treatment else ""


def _compare(
    settings: Any,
    schedule: Path | None,
    source: Path | None,
    phantom: PhantomSettings | None,
    out: Path,
    *,
    resume: ResumeMode,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> str:
    from nanopinn.io.checkpoint_store import delete_checkpoints
    from nanopinn.io.output import reserve_output_folder
    from nanopinn.report.comparison_folder import write_comparison
    from nanopinn.report.treatment_summary import format_assumptions, format_comparison
    from nanopinn.studies.arms.compare import compare_arms

    checkpoint_folder = locate_checkpoint_folder(out)
    dump = {"arms": settings.model_dump()} | ({"phantom": phantom.model_dump()} if phantom else {})
    with (
        reserve_output_folder(out, overwrite=overwrite),
        record_interruption(checkpoint_folder, simulate),
    ):
        with progress_display(quiet, verbose) as progress:
            found = compare_arms(
                settings,
                folder=source,
                phantom=phantom,
                schedule=schedule,
                progress=progress,
                checkpoint_folder=checkpoint_folder,
                resume=resume,
            )
        write_comparison(out, found, dump, overwrite=overwrite)
        delete_checkpoints(checkpoint_folder)
    typer.echo(format_comparison(found))
    typer.echo(format_assumptions(found.assumptions))
    typer.echo(f"Page: {out / 'comparison.html'}")
    return found.conclusions[0]


def _refuse_options(given: Mapping[str, object], why: str, remedy: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(
                f"this option is of another kind of run: {why}",
                field=name,
                found=str(value),
                remedy=remedy,
            )


def _map_files(files: dict[str, Path | None]) -> MapFiles | None:
    from nanopinn.studies.tissue_source import MapFiles

    if not any(files.values()):
        return None
    for name in ("ktrans", "ve", "vp", "mask"):
        if files[name] is None:
            raise InputError(
                "a map is missing",
                field=f"--{name}",
                expected="--ktrans, --ve, --vp, --mask, and --ph or --assume-ph",
            )
    return MapFiles(**files)
