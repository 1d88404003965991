"""The command ``simulate``: simulate one schedule, or compare treatment arms."""

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
from nanopinn.cli.options import Config, Continue, Device, Out, Overwrite, Quiet, Verbose
from nanopinn.cli.progress_display import progress_display
from nanopinn.cli.study_options import BodySurface, BodyWeight, Species
from nanopinn.errors import InputError

if TYPE_CHECKING:
    from nanopinn.io.checkpoint_store import ResumeMode
    from nanopinn.settings import PhantomSettings
    from nanopinn.studies.tissue_source import MapFiles

_ARMS = "Comparison of treatment arms"
_HEAT = (
    "Heating of the arms that respond to heat: degC:MINUTES\\[@START_H][~RAMP_MIN] or a thermometry"
    " file; several are separated by commas."
)


@with_verdict_option("simulate")
def simulate(
    schedule: Annotated[
        Path | None,
        typer.Option(help="Schedule of doses, heating and radiation (TOML); see docs/schedules."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--from", help="Result folder of nanopinn fit or nanopinn maps."),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(
            help="Verdict file of the run that made --from. Refused if it left no result."
        ),
    ] = None,
    phantom: Annotated[
        bool, typer.Option("--phantom", help="Use the tumour of a digital phantom.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the phantom and of the draws. Default: 0.")
    ] = None,
    shape: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Number of voxels of the phantom. Default: 24 24 12."),
    ] = None,
    ktrans: Annotated[
        Path | None,
        typer.Option(
            help="Map of Ktrans, 1/min or the unit of its sidecar; requires the maps below."
        ),
    ] = None,
    ve: Annotated[Path | None, typer.Option(help="Map of ve, as a fraction.")] = None,
    vp: Annotated[Path | None, typer.Option(help="Map of vp, as a fraction.")] = None,
    ph: Annotated[Path | None, typer.Option(help="Map of extracellular pH.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Tumour mask; voxels above 0.5 count.")] = None,
    assume_ph: Annotated[
        float | None, typer.Option(help="Extracellular pH to assume if there is no map.")
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help=(
                "State a scalar of the model or a parameter, such as l=0.8mm or p_e=15mmHg;"
                " repeatable."
            ),
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Time step error relative to the pool's largest mass. Default: 1e-4; arms 1e-3."
        ),
    ] = None,
    refine: Annotated[
        int | None, typer.Option(help="Grid cells of the flow per voxel edge, 1 to 4. Default: 2.")
    ] = None,
    rim_mm: Annotated[
        float | None,
        typer.Option(
            "--rim",
            help="Refine only voxels within this distance of the tumour edge, mm. Default: all.",
        ),
    ] = None,
    advection: Annotated[
        str | None,
        typer.Option(help="Advection scheme: fitted (default), central, upwind or limited."),
    ] = None,
    device: Device = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Formulations to compare, separated by commas: free, pld, tsl, ph or TOML files.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    dose: Annotated[
        str | None,
        typer.Option(
            help="Dose of every arm: 50mg/m2 (default in humans), 5mg/kg or 0.1mg.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    species: Species = None,
    body_weight_kg: BodyWeight = None,
    body_surface_m2: BodySurface = None,
    infusion_min: Annotated[
        float | None,
        typer.Option(
            "--infusion",
            help="Duration of the infusion, min. Default: 0, a bolus.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    heat: Annotated[str | None, typer.Option(help=_HEAT, rich_help_panel=_ARMS)] = None,
    heat_all: Annotated[
        bool | None,
        typer.Option(
            "--heat-all",
            help="Heat every arm, also those that do not respond to heat.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    heat_effects: Annotated[
        bool | None,
        typer.Option(
            "--heat-effects/--no-heat-effects",
            help="Include effects of heat on pressure and vessel walls (priors from mice).",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    heating_min: Annotated[
        str | None,
        typer.Option(
            "--heating-times",
            help="Heating durations to compare, min, or none. Default: 15,30,60.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    radiation: Annotated[
        str | None,
        typer.Option(
            help="Radiation fractions, Gy@HOURS, separated by commas.", rich_help_panel=_ARMS
        ),
    ] = None,
    radiation_from: Annotated[
        str | None,
        typer.Option(
            help=(
                "RESULT@HOURS: a fit of the same tumour, scanned this long after the first"
                " fraction, from which the effects of radiation are estimated."
            ),
            rich_help_panel=_ARMS,
        ),
    ] = None,
    end_h: Annotated[
        float | None,
        typer.Option(
            "--end", help="Duration of the simulation, h. Default: 72.", rich_help_panel=_ARMS
        ),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            help=(
                "Draws from posterior and priors, without a fit from priors alone; 0: medians"
                " alone. Default: 100."
            ),
            rich_help_panel=_ARMS,
        ),
    ] = None,
    groups: Annotated[
        int | None,
        typer.Option(
            help="Clusters of voxels of the sub-voxel model. Default: 8.", rich_help_panel=_ARMS
        ),
    ] = None,
    limit_um: Annotated[
        float | None,
        typer.Option(
            "--limit",
            help="Distance from the vessel beyond which cells count as far, um. Default: 50.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    lethal: Annotated[
        float | None,
        typer.Option(
            help="Surviving fraction at or below which an exposure is lethal. Default: 0.5.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    sensitivity: Annotated[
        bool | None,
        typer.Option(
            "--sensitivity/--no-sensitivity",
            help="Rank the inputs by the sensitivity of the outcome.",
            rich_help_panel=_ARMS,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume an interrupted comparison from its checkpoint.",
            rich_help_panel=_ARMS,
        ),
    ] = False,
    continue_run: Continue = False,
    config: Config = None,
    out: Out = Path("nanopinn_simulation"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> str:
    """Simulate the transport of a drug in a tumour, or compare treatment arms.

    Without a fit, arms take maps of a tumour, and every scalar of the model from its prior.

    A comparison resolves the distances from the vessels to the cells, over draws of the inputs.

    Examples:

    nanopinn simulate --from result --arms free,pld,tsl --heat 42:60 --out arms

    nanopinn simulate --from result --schedule docs/schedules/thermosensitive.toml --out one

    nanopinn simulate --from maps --arms pld --species mouse --dose 5mg/kg --set l=0.8mm
    """
    from nanopinn.cli.option_syntax import parse_list, parse_minutes, parse_values
    from nanopinn.settings import ComparisonSettings, PhantomSettings, SimulationSettings

    if after is not None:
        require_result(after)
    phantom_settings = (
        build_settings(PhantomSettings, "phantom", config, {"seed": seed, "shape": shape})
        if phantom
        else None
    )
    maps = _map_files({"ktrans": ktrans, "ve": ve, "vp": vp, "mask": mask, "ph": ph})
    numerical = {
        "tolerance": tolerance,
        "refine": refine,
        "device": device,
        "assume_ph": assume_ph,
        "values": parse_values(values),
    }
    arm_settings: dict[str, Any] = {
        "arms": parse_list(arms),
        "dose": dose,
        "species": species,
        "body_weight_kg": body_weight_kg,
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
        refused = {"rim_mm": rim_mm, "advection": advection}
        _refuse_options(
            refused,
            "a comparison of arms does not use it",
            "Leave it out, or simulate one schedule.",
        )
        settings = build_settings(
            ComparisonSettings, "arms", config, {**numerical, **arm_settings, "seed": seed}
        )
        resume_mode: ResumeMode = resume or (continue_run and "if available")
        return _compare(
            settings,
            schedule,
            folder,
            phantom_settings,
            maps,
            out,
            resume=resume_mode,
            overwrite=overwrite,
            quiet=quiet,
            verbose=verbose,
        )
    _refuse_options(
        {"resume": resume or None}, "a single simulation has no checkpoint", "Leave it out."
    )
    _refuse_options(
        arm_settings, "only a comparison of arms uses it", "Give `arms`, such as free,pld,tsl."
    )
    if schedule is None:
        raise InputError(
            "no treatment is given",
            field="schedule",
            expected="a schedule file, or `arms`",
            remedy="See docs/schedules for examples, or give `arms`, such as free,pld,tsl.",
        )
    given = {**numerical, "rim_mm": rim_mm, "advection": advection}
    single = build_settings(SimulationSettings, "simulate", config, given)
    return _run_one(
        single,
        schedule,
        folder,
        phantom_settings,
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
    from nanopinn.report.treatment_folder import write_simulation
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
    maps: MapFiles | None,
    out: Path,
    *,
    resume: ResumeMode,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> str:
    from nanopinn.io.checkpoint_store import delete_checkpoints
    from nanopinn.io.output import reserve_output_folder
    from nanopinn.report.treatment_folder import write_comparison
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
                maps=maps,
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
                f"this option belongs to another kind of run: {why}",
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
                field=name,
                expected="`ktrans`, `ve`, `vp`, `mask`, and `ph` or `assume_ph`",
            )
    return MapFiles(**files)
