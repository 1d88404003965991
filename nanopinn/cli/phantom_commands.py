"""Commands that make phantoms, fit many of them, and compare the fits with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanopinn.cli.config import build_settings
from nanopinn.cli.options import Out, Quiet, parse_extra_options
from nanopinn.cli.progress_display import progress_display
from nanopinn.cli.study_commands import fit as fit_command
from nanopinn.cli.study_options import with_study_options
from nanopinn.errors import InputError, PartialCohortError

if TYPE_CHECKING:
    from nanopinn.cohort.coverage import Coverage

_HEADS = (
    "parameter",
    "informed",
    "cover 90 %",
    "(all)",
    "contraction",
    "bias/sd",
    "rms",
    "median error",
    "median |error|",
)


@with_study_options
def phantom(
    out: Out,
    study: dict[str, Any],
    sample: Annotated[
        str | None,
        typer.Option(
            help="Small sample study of a mouse: mouse-pld, mouse-tsl (heated) or mouse-free."
            " Other options change it."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of anatomy, parameters and noise.")] = 0,
    length_scale_mm: Annotated[
        float | None,
        typer.Option(
            "--length-scale", help="Hydraulic length l, mm. Default: drawn from its prior."
        ),
    ] = None,
    shape: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Number of voxels along x, y and z. Default: 24 24 12."),
    ] = None,
    snr: Annotated[
        float, typer.Option(help="Signal-to-noise ratio of the baseline, per voxel and frame.")
    ] = 60.0,
    drug_noise: Annotated[
        float, typer.Option(help="Noise SD relative to the largest value of each drug image.")
    ] = 0.05,
    drug_times_h: Annotated[
        str | None,
        typer.Option(
            "--drug-times", help="Hours of the drug images after the first dose. Default: 2,24."
        ),
    ] = None,
    drug_scale_sd: Annotated[
        float,
        typer.Option(
            help="SD of the relative calibration error that the drug images of a quantity share,"
            " and of that of each image."
        ),
    ] = 0.0,
    drug_units: Annotated[
        str,
        typer.Option(help="Units of the drug images: ug/mL, or a.u. with an unknown factor."),
    ] = "ug/mL",
    draw_constants: Annotated[
        bool,
        typer.Option(
            "--draw-constants",
            help="Draw the kinetics in plasma and the constants of wall, tissue, cells and release"
            " from their distributions.",
        ),
    ] = False,
    ph_noise: Annotated[float, typer.Option(help="Noise SD of a voxel of the pH map.")] = 0.1,
    refine: Annotated[
        int | None,
        typer.Option(
            help="Refinement factor of the grid on which the truth is solved, 2 to 4. Default: 3."
        ),
    ] = None,
    conductivity_sd: Annotated[
        float, typer.Option(help="Standard deviation of ln K over the tumour.")
    ] = 0.0,
    release_sd: Annotated[
        float,
        typer.Option(help="Standard deviation of ln of the release rate about its law of pH."),
    ] = 0.0,
    pore_error: Annotated[
        float,
        typer.Option(
            help="Relative excess of the contrast agent's volume over the pores for drug."
        ),
    ] = 0.0,
    cut_voxels: Annotated[
        int, typer.Option(help="Number of voxels by which the field of view is cut along x.")
    ] = 0,
    count: Annotated[
        int | None,
        typer.Option(
            "--bids",
            help="Write a BIDS dataset with this number of subjects; seeds start at --seed.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a synthetic study with its truth, solved on a finer grid and by another scheme."""
    from nanopinn.cli.option_syntax import parse_numbers
    from nanopinn.phantoms.phantom_dataset import make_phantom_dataset
    from nanopinn.phantoms.sample_studies import find_sample_study
    from nanopinn.phantoms.synthetic_study import make_phantom
    from nanopinn.settings import PhantomSettings

    given = {
        "seed": seed,
        "length_scale_mm": length_scale_mm,
        "shape": shape,
        "snr": snr,
        "drug_noise": drug_noise,
        "drug_times_h": parse_numbers(drug_times_h, "drug_times_h", "hours separated by commas"),
        "drug_scale_sd": drug_scale_sd,
        "drug_units": drug_units,
        "draw_constants": draw_constants,
        "ph_noise": ph_noise,
        "refine": refine,
        "conductivity_sd": conductivity_sd,
        "release_sd": release_sd,
        "pore_error": pore_error,
        "cut_voxels": cut_voxels,
        **study,
    }
    stated = {name: content for name, content in given.items() if content is not None}
    of_sample = {} if sample is None else find_sample_study(sample)
    settings = build_settings(PhantomSettings, "phantom", None, {**of_sample, **stated})
    with progress_display(quiet) as progress:
        if count is None:
            folder = make_phantom(out, settings, progress=progress)
        else:
            folder = make_phantom_dataset(out, count, settings, progress=progress)
    typer.echo(f"{'Study' if count is None else 'Dataset'}: {folder}")


def phantoms(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Folder of the phantom study to make or continue."),
    ],
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of phantoms of each length scale.")
    ] = 10,
    first_seed: Annotated[
        int, typer.Option(min=0, help="Seed of the first phantom; the others follow.")
    ] = 101,
    length_scale: Annotated[
        list[float] | None,
        typer.Option(
            help="Hydraulic length l, mm. Repeat the option for several. Default: 0.4 and 1.2."
        ),
    ] = None,
    shape: Annotated[
        tuple[int, int, int], typer.Option(help="Number of voxels along x, y and z.")
    ] = (16, 16, 10),
    phantom_options: Annotated[
        str,
        typer.Option(
            "--phantom", help="Further options of nanopinn phantom: --phantom '--snr 30'."
        ),
    ] = "",
    fit: Annotated[
        str, typer.Option(help="Options of nanopinn fit: --fit '--engine fv --preset fast'.")
    ] = "--engine fv",
    drug: Annotated[bool, typer.Option(help="Fit the drug images as well.")] = True,
    profile: Annotated[
        str, typer.Option(help="Snakemake profile: local, slurm, or a folder with a profile.")
    ] = "local",
    cores: Annotated[
        int | None,
        typer.Option(min=1, help="Number of jobs at a time on this machine. Default: 2."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Dry run: print the planned jobs and do nothing."),
    ] = False,
) -> None:
    """Make and fit many phantoms to measure the power of a protocol and the coverage of intervals.

    Example: nanopinn phantoms study --seeds 30 --fit '--engine fv --preset fast'
    """
    from nanopinn.cohort.snakemake import (
        Workflow,
        lock_run_folder,
        parse_dry_run,
        raise_if_ended_early,
    )

    config = {
        "seeds": list(range(first_seed, first_seed + seeds)),
        "lengths": list(length_scale or (0.4, 1.2)),
        "drug": drug,
        "phantom": [
            "--shape",
            *map(str, shape),
            *parse_extra_options(phantom, "phantom_options", phantom_options, ["--out", "."]),
        ],
        "fit": parse_extra_options(fit_command, "fit", fit, ["--dce", "."]),
    }
    workflow = Workflow("phantoms", out.absolute(), profile, config, cores)
    if dry_run:
        with TemporaryDirectory() as folder:
            typer.echo(f"{len(parse_dry_run(workflow.run_dry(Path(folder))))} jobs")
        return
    with lock_run_folder(out, lambda line: typer.echo(line, err=True)):
        log = out / "work" / "phantoms.log"
        code = workflow.run(log, lambda: None)
        raise_if_ended_early(code, log)
    # if no phantom was fitted there is no table
    with suppress(InputError) if code else nullcontext():
        coverage(out)
    if code:
        raise PartialCohortError(
            f"Some phantoms were not fitted; see {log}. Repeat the command to try them again."
        )


def coverage(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a phantom study.")],
) -> None:
    """Compare the fits of a phantom study with the truth, and write the table coverage.tsv.

    Example: nanopinn coverage study
    """
    from nanopinn.cohort.coverage import study_coverage
    from nanopinn.report.result_files import write_table

    tables = study_coverage(out)
    for name, table in tables.items():
        typer.echo(
            f"\n{table[0].fits} phantoms, {name}. A parameter is informed if its contraction is"
            " above 0.5."
        )
        typer.echo("\n".join(format_coverage_table(table)))
    rows = [{"phantoms": name, **asdict(row)} for name, table in tables.items() for row in table]
    write_table(out / "coverage.tsv", rows, {}, overwrite=True)


def format_coverage_table(table: Sequence[Coverage]) -> list[str]:
    """Format the coverage of all parameters as a table."""
    widths = (10, 8, 10, 6, 11, 7, 5, 12, 14)
    lines = [" ".join(f"{h:>{w}s}" for h, w in zip(_HEADS, widths, strict=True))]
    for r in table:
        covered = "-" if r.covered != r.covered else f"{r.covered:.0%}"
        cells = (
            r.unknown,
            f"{r.informed:.0%}",
            covered,
            f"{r.covered_all:.0%}",
            f"{r.contraction:.2f}",
            f"{r.bias_sd:.2f}",
            f"{r.rms_sd:.2f}",
            f"{r.median_error:.3f}",
            f"{r.median_absolute_error:.3f}",
        )
        lines.append(" ".join(f"{c:>{w}s}" for c, w in zip(cells, widths, strict=True)))
    return lines
