"""The commands of the program, and those that need no module of their own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanopinn.cli.cohort_commands import cohort, derivatives, group
from nanopinn.cli.options import Cest, Device, Out, Overwrite, Quiet, Verbose, with_imaging_options
from nanopinn.cli.phantom_commands import coverage, phantom, phantoms
from nanopinn.cli.progress_display import progress_display
from nanopinn.cli.simulate_command import simulate
from nanopinn.cli.study_commands import fit, minimal_imaging, plan
from nanopinn.errors import CheckFailedError, InputError

if TYPE_CHECKING:
    from nanopinn.imaging.imaging_data import ImagingInputs

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=(
        "Imaging-driven inverse modelling of tumour nanomedicine. Research use only.\n\n"
        "Example: nanopinn fit --dce scan.nii --cest ph.nii --t1 1.4"
    ),
)
app.command()(fit)
app.command()(simulate)
app.command()(plan)
app.command()(cohort)
app.command()(phantom)
app.command()(phantoms)
app.command()(coverage)
app.command("minimal-imaging")(minimal_imaging)
app.command()(derivatives)
app.command()(group)


@app.command()
@partial(with_imaging_options, needs_dce=False)
def maps(
    inputs: ImagingInputs,
    model: Annotated[
        str | None,
        typer.Option(
            help=(
                "Kinetic model: etofts (default), tofts, patlak, 2cum, 2cxm, steady, or auto: the"
                " model with the least AICc in each voxel."
            )
        ),
    ] = None,
    smooth: Annotated[
        bool | None, typer.Option("--smooth", help="Spatial regularisation of the kinetic maps.")
    ] = None,
    device: Device = "auto",
    out: Out = Path("nanopinn_maps"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compute T1, kinetic and pH maps with standard deviations, and the arterial input function.

    A CEST scan alone (--cest without --dce) gives the pH maps on its own grid.

    Example: nanopinn maps --dce dce.nii.gz --vfa fa02.nii.gz fa10.nii.gz fa20.nii.gz --model 2cxm
    --out maps
    """
    from dataclasses import replace

    from nanopinn.imaging.imaging_data import format_imaging_summary
    from nanopinn.io.output import reserve_output_folder
    from nanopinn.report.result_folder import write_imaging
    from nanopinn.report.treatment_summary import format_assumptions
    from nanopinn.studies.fit import run_maps

    choice = {"model": model, "smooth": smooth}
    chosen = replace(inputs, **{k: v for k, v in choice.items() if v is not None})  # type: ignore[arg-type]
    with reserve_output_folder(out, overwrite=overwrite):
        with progress_display(quiet, verbose) as progress:
            imaging = run_maps(chosen, device=device or "auto", progress=progress)
        write_imaging(out, imaging, chosen, overwrite=overwrite)
    typer.echo(format_imaging_summary(imaging))
    typer.echo(format_assumptions(imaging.assumptions))
    typer.echo(f"Page: {out / 'imaging.html'}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Result folder of a fit.")],
    refine: Annotated[int, typer.Option(help="Refinement factor of the grid of the fit.")] = 2,
    quiet: Quiet = False,
) -> None:
    """Repeat the finite-volume check of a result folder. The exit code is 5 if it fails.

    Example: nanopinn check nanopinn_result --refine 3
    """
    from nanopinn.studies.fit import run_check

    with progress_display(quiet) as progress:
        result = run_check(folder, refine=refine, progress=progress)
    typer.echo(result.headline)
    for item in result.items:
        typer.echo(
            f"{'ok    ' if item.passed else 'FAILED'} {item.name:44s}{item.value:12.4g}  limit"
            f" {item.limit:.4g}"
        )
    if not result.passed:
        raise CheckFailedError(result.headline)


@app.command()
def verify(
    published: Annotated[
        bool,
        typer.Option(help="Run only the comparisons with published values and reference runs."),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the table to this JSON file as well.")
    ] = None,
) -> None:
    """Run the verification cases and print observed and reference values.

    The exit code is 5 if a case fails.
    """
    from nanopinn.verification.run import run_verification

    cases = run_verification(published=published)
    for c in cases:
        mark = "FAILED" if c.failed else "ok    " if c.passed else "differs"
        numbers = f"{c.observed:13.6g}{c.reference:12.5g}  +- {c.tolerance:.2g}"
        typer.echo(f"{mark} {c.id:8s}{c.name + ': ' + c.quantity:92s}{numbers}")
    failed = [c for c in cases if c.failed]
    outside = [c for c in cases if not c.passed and not c.failed]
    typer.echo(f"{len(cases) - len(failed) - len(outside)} of {len(cases)} cases passed")
    if outside:
        typer.echo(
            f"{len(outside)} observed values are outside the range published for other tumours and"
            " treatments; these are not counted"
        )
    if json_file is not None:
        from dataclasses import asdict

        from nanopinn.io.volumes import write_json

        write_json(json_file, {"cases": [asdict(c) | {"passed": c.passed} for c in cases]})
    if failed:
        raise CheckFailedError(f"{len(failed)} of {len(cases)} cases failed.")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Result folder of a fit.")]) -> None:
    """Print the check, the parameters, the profile likelihoods and the assumptions of a fit."""
    from nanopinn.inference.saved_fit import load_fit
    from nanopinn.report.fit_summary import format_summary
    from nanopinn.report.treatment_summary import format_assumptions

    fit = load_fit(folder)
    typer.echo(format_summary(fit))
    typer.echo(format_assumptions(fit.assumptions))


@app.command()
def validate(
    dce: Annotated[Path | None, typer.Option(help="DCE-MRI series to read.")] = None,
    cest: Cest = None,
    template: Annotated[
        Path | None, typer.Option(help="Write a template of a sidecar to this file.")
    ] = None,
) -> None:
    """Read inputs and report their geometry and timing, or write a template of a sidecar."""
    from nanopinn.imaging.acquisition import ACQUISITION_KEYS, load_acquisition
    from nanopinn.io.dicom import open_series
    from nanopinn.io.volumes import read_volume

    if template is not None:
        if template.exists():
            raise InputError(
                "the file exists already",
                file=template,
                field="template",
                remedy="Choose another file for `template`.",
            )
        template.write_text(json.dumps(ACQUISITION_KEYS, indent=2) + "\n", encoding="utf-8")
        typer.echo(f"Template: {template}")
    if dce is not None:
        with open_series(dce) as (path, _):
            volume = read_volume(path)
            found = load_acquisition(path, volume.shape[-1], float(volume.meta["pixdim4_s"]))
        _describe(dce, volume)
        t = found.frame_times_s
        typer.echo(
            f"  {len(t)} frames, {t[0]:g} to {t[-1]:g} s; TR {found.repetition_time_s:g} s, flip"
            f" {found.flip_angle_deg:g} deg"
        )
    if cest is not None:
        _describe(cest, read_volume(cest))


def _describe(path: Path, volume: Any) -> None:
    typer.echo(
        f"{path.name}: {tuple(volume.shape)} voxels of"
        f" {tuple(round(s, 4) for s in volume.meta['spacing_mm'])} mm"
    )


@app.command()
def info() -> None:
    """Print versions, number of threads and GPU."""
    import torch

    from nanopinn import __version__

    typer.echo(
        f"nanopinn {__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    typer.echo(f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
