"""The command that takes a treatment through a tumour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanopinn.cli.config import settings_of
from nanopinn.cli.options import Device, Out, Overwrite, Quiet, Verbose
from nanopinn.cli.screen import shown_progress
from nanopinn.errors import InputError

if TYPE_CHECKING:
    from nanopinn.workflows.simulate import MapFiles


def simulate(
    schedule: Annotated[Path | None, typer.Option(help="What is given and when (TOML); examples in docs/schedules. Required.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Result folder of `nanopinn fit` or `nanopinn maps`.")] = None,
    phantom: Annotated[bool, typer.Option("--phantom", help="The digital phantom's tumour instead.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of the phantom (0).")] = None,
    shape: Annotated[tuple[int, int, int] | None, typer.Option(help="Voxels of the phantom (24 24 12).")] = None,
    ktrans: Annotated[Path | None, typer.Option(help="Map of Ktrans, 1/min (or as its sidecar's Unit says), with the four below.")] = None,
    ve: Annotated[Path | None, typer.Option(help="Map of ve, a fraction.")] = None,
    vp: Annotated[Path | None, typer.Option(help="Map of vp, a fraction.")] = None,
    ph: Annotated[Path | None, typer.Option(help="Map of extracellular pH.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Tumour, above 0.5.")] = None,
    assume_ph: Annotated[float | None, typer.Option(help="pH of the tumour where there is no map of it.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Error of a time step over a pool's largest mass (1e-4).")] = None,
    refine: Annotated[int | None, typer.Option(help="Cells of the flow per voxel edge, 1 to 4 (2).")] = None,
    rim: Annotated[float | None, typer.Option(help="Refine only voxels so near to the tumour's edge, mm (all).")] = None,
    advection: Annotated[str | None, typer.Option(help="fitted (default), central, upwind or limited.")] = None,
    device: Device = None,
    config: Annotated[Path | None, typer.Option(help="TOML as every run dumps it; options win.")] = None,
    out: Out = Path("nanopinn_simulation"), overwrite: Overwrite = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Take a treatment through a tumour: every pool of the drug in time, from its maps and a schedule.

    Example: nanopinn simulate --schedule docs/schedules/thermosensitive.toml --from result --out arm1
    """
    from nanopinn.report.folder import claim_output
    from nanopinn.report.simulation import write_simulation
    from nanopinn.workflows.settings import PhantomSettings, SimulationSettings
    from nanopinn.workflows.simulate import run_simulation

    if schedule is None:
        raise InputError("nothing is given", field="--schedule", expected="a schedule file", remedy="See docs/schedules for examples.")
    given = {"tolerance": tolerance, "refine": refine, "rim_mm": rim, "advection": advection, "device": device, "assume_ph": assume_ph}
    settings = settings_of(SimulationSettings, "simulate", config, given)
    drawn = settings_of(PhantomSettings, "phantom", config, {"seed": seed, "shape": shape}) if phantom else None
    maps = _map_files({"ktrans": ktrans, "ve": ve, "vp": vp, "mask": mask, "ph": ph})
    claim_output(out, overwrite=overwrite)
    with shown_progress(quiet, verbose) as progress:
        found = run_simulation(schedule, folder=source, phantom=drawn, maps=maps, settings=settings, progress=progress)
    dump = {"simulate": settings.model_dump()} | ({"phantom": drawn.model_dump()} if drawn else {})
    write_simulation(out, found, dump, overwrite=overwrite)
    typer.echo(found.summary())
    typer.echo("Assumed:\n" + "\n".join(f"- {a}" for a in found.assumptions))
    typer.echo(f"Page: {out / 'simulation.html'}")


def _map_files(files: dict[str, Path | None]) -> MapFiles | None:
    from nanopinn.workflows.simulate import MapFiles

    if not any(files.values()):
        return None
    for name in ("ktrans", "ve", "vp", "mask"):
        if files[name] is None:
            raise InputError("a map is missing", field=f"--{name}", expected="--ktrans, --ve, --vp, --mask, and --ph or --assume-ph")
    return MapFiles(**files)  # type: ignore[arg-type]
