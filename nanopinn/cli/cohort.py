"""The command that takes every study of a dataset through the workflow."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanopinn.cli.config import read_config_table
from nanopinn.cli.options import Quiet, parse_extra_options
from nanopinn.errors import InputError, OutputError, PartialCohortError

if TYPE_CHECKING:
    from nanopinn.workflows.cohort.studies import CohortStudy
    from nanopinn.workflows.pipeline.ends import RunStatus
    from nanopinn.workflows.pipeline.snakemake import Workflow

_PROFILE = "local (two jobs at a time), slurm, or a folder with a Snakemake profile."


def cohort(
    source: Annotated[
        Path, typer.Argument(metavar="BIDS", help="BIDS folder, or a table of studies.")
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Dataset of derivatives that is made, or gone on with."),
    ],
    profile: Annotated[str, typer.Option(help=_PROFILE)] = "local",
    cores: Annotated[
        int | None, typer.Option(min=1, help="Jobs at once on this machine (2).")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A study or subject to take; repeat for more (all).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would be done, and do nothing.")
    ] = False,
    engine: Annotated[str | None, typer.Option(help="Of the fits: auto, pinn or fv.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Of the fits: fast, default or accurate.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; with cuda every job asks for a GPU.")
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Compare arms in every tumour: free,pld,tsl.")
    ] = None,
    fit: Annotated[
        str,
        typer.Option(
            help="More options of nanopinn fit, quoted: --fit '--assume-ph 6.9 --seed 1'."
        ),
    ] = "",
    simulate: Annotated[
        str, typer.Option(help="More options of nanopinn simulate: --simulate '--heat 42:60'.")
    ] = "",
    config: Annotated[
        Path | None, typer.Option(help="TOML as every run dumps it, for fits and arms.")
    ] = None,
    memory: Annotated[
        int, typer.Option(min=500, help="MB a job may ask a cluster for at its first attempt.")
    ] = 4000,
    minutes: Annotated[
        int, typer.Option(min=1, help="Minutes a job may ask a cluster for at its first attempt.")
    ] = 240,
    snakemake: Annotated[
        str,
        typer.Option(
            help="More options of Snakemake: --snakemake '--slurm-status-command squeue'."
        ),
    ] = "",
    quiet: Quiet = False,
) -> None:
    """Fit every study of a dataset, and write derivatives, group tables and a page. What is done is not done again.

    Example: nanopinn cohort bids derivatives/nanopinn --arms free,pld --dry-run
    """
    from nanopinn.workflows.cohort.studies import find_studies
    from nanopinn.workflows.pipeline.snakemake import Workflow

    shared = {"--device": device, "--config": config.absolute() if config else None}
    settings: dict[str, Any] = {
        "source": str(source.absolute()),
        "only": list(only or ()),
        "gpu": (device or "").startswith("cuda"),
        "mem_mb": memory,
        "runtime_min": minutes,
        "files": [str(config.absolute())] if config else [],
        "fit": _command_options("fit", fit, {"--engine": engine, "--preset": preset, **shared}),
        "arms": _command_options("simulate", simulate, {"--arms": arms, **shared}) if arms else [],
    }
    settings["given"] = [
        *settings["fit"],
        *(f"--{name.replace('_', '-')}" for name in read_config_table(config, "imaging")),
    ]
    if simulate and not arms:
        raise InputError(
            "options of arms, and no arms",
            field="--simulate",
            found=simulate,
            remedy="Say which: --arms free,pld.",
        )
    studies = find_studies(source, only=settings["only"], given=settings["given"])
    _check_outside_dataset(source, out)
    workflow = Workflow(
        "cohort", out.absolute(), profile, settings, cores, _split("snakemake", snakemake)
    )
    if dry_run:
        _say_plan(workflow, studies)
    else:
        _run_workflow(workflow, studies, bool(arms), quiet)


def _command_options(command: str, more: str, given: dict[str, Any]) -> list[str]:
    """Options of a command, those with an option of their own here first."""
    words = [
        str(word) for name, value in given.items() if value is not None for word in (name, value)
    ]
    needed = ["--dce", "."] if command == "fit" else []
    return [*words, *parse_extra_options(command, command, more, [*needed, *words])]


def _split(option: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InputError(
            "the options cannot be read",
            field=f"--{option}",
            found=text,
            expected=f"words, quoted ({error})",
        ) from error


def _check_outside_dataset(source: Path, out: Path) -> None:
    """The dataset itself is never written to; its folder ``derivatives`` is where BIDS wants results."""
    inside, data = out.resolve(), source.resolve()
    if inside == data or (
        inside.is_relative_to(data) and "derivatives" not in inside.relative_to(data).parts
    ):
        raise OutputError(
            f"{out} lies in the dataset, which is only read. Give a folder outside it, or in its derivatives."
        )


def _say_plan(workflow: Workflow, studies: Sequence[CohortStudy]) -> None:
    from nanopinn.workflows.pipeline.jobs import parse_dry_run, describe_jobs

    with TemporaryDirectory() as folder:
        jobs = parse_dry_run(workflow.run_dry(Path(folder)))
    for study in studies:
        typer.echo(f"{study.id}: {study.problem or describe_jobs(jobs, str(study.place))}")
    counts = Counter(job.rule for job in jobs)
    problems = sum(bool(s.problem) for s in studies)
    said = ", ".join(f"{n} {rule}" for rule, n in counts.items())
    typer.echo(
        f"{len(studies)} studies, {problems} of them with a problem; {len(jobs)} jobs"
        + (f": {said}." if jobs else ".")
    )


def _run_workflow(
    workflow: Workflow, studies: Sequence[CohortStudy], arms: bool, quiet: bool
) -> None:
    from nanopinn.workflows.pipeline.alone import lock_run_folder
    from nanopinn.workflows.pipeline.ends import RunMonitor, read_run_statuses
    from nanopinn.workflows.pipeline.snakemake import raise_if_ended_early

    def tell(line: str) -> None:
        if not quiet:
            typer.echo(line, err=True)

    log = workflow.out / "work" / "cohort.log"
    with lock_run_folder(workflow.out, tell):
        watch = RunMonitor(workflow.out, studies, arms, tell)
        code = workflow.run(log, watch)
        watch()
        raise_if_ended_early(code, log)
        ends = read_run_statuses(workflow.out, studies, arms=arms)
    _print_results(ends, workflow.out, code)


def _print_results(ends: Sequence[RunStatus], out: Path, code: int) -> None:
    """Every run that did not pass, the counts, and the page; then the exit code."""
    from nanopinn.workflows.pipeline.ends import PASSED, UNFINISHED, exit_code

    fits = Counter(end.status for end in ends if end.run == "fit")
    for end in ends:
        if end.status != PASSED:
            typer.echo(end.format_line())
    typer.echo(
        f"{fits.total()} studies: " + ", ".join(f"{n} {status}" for status, n in fits.items()) + "."
    )
    typer.echo(f"Page: {out / 'group.html'}")
    ended = exit_code(ends)
    if code and all(end.status != UNFINISHED for end in ends):
        typer.echo(
            f"A job that follows the fits failed (derivatives or the page): {out / 'work' / 'cohort.log'} says which."
        )
        ended = ended or PartialCohortError.exit_code
    if ended:
        raise typer.Exit(ended)
