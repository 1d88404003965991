"""Commands of cohorts: fit every study, write BIDS derivatives, summarise the group."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanopinn.cli.config import read_config_table
from nanopinn.cli.exit_status import has_result
from nanopinn.cli.options import Quiet, parse_extra_options
from nanopinn.cli.simulate_command import simulate as simulate_command
from nanopinn.cli.study_commands import fit as fit_command
from nanopinn.cli.study_options import SUBJECT_OPTIONS, name_study_options, with_study_options
from nanopinn.errors import InputError, OutputError, PartialCohortError

if TYPE_CHECKING:
    from nanopinn.cohort.bids_studies import CohortStudy
    from nanopinn.cohort.snakemake import Workflow
    from nanopinn.cohort.study_status import RunStatus


_PROFILE = "Snakemake profile: local (two jobs at a time), slurm, or a folder with a profile."


@with_study_options
def cohort(
    source: Annotated[
        Path, typer.Argument(metavar="BIDS", help="BIDS folder, or a table with one row per study.")
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Dataset of derivatives to make or continue."),
    ],
    study: dict[str, Any],
    profile: Annotated[str, typer.Option(help=_PROFILE)] = "local",
    cores: Annotated[
        int | None,
        typer.Option(min=1, help="Number of jobs at a time on this machine. Default: 2."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Study or subject to include. Repeat the option for several. Default: all."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Dry run: print the planned jobs and do nothing."),
    ] = False,
    engine: Annotated[
        str | None, typer.Option(help="Engine of the fits: auto, fv or krylov.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset of the fits: fast, default or accurate.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device: auto, cpu or cuda. With cuda every job requests a GPU."),
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Treatment arms to compare in every tumour: free,pld,tsl.")
    ] = None,
    fit: Annotated[
        str,
        typer.Option(
            help="Further options of nanopinn fit, quoted: --fit '--assume-ph 6.9 --seed 1'."
        ),
    ] = "",
    simulate: Annotated[
        str, typer.Option(help="Further options of nanopinn simulate: --simulate '--heat 42:60'.")
    ] = "",
    config: Annotated[
        Path | None, typer.Option(help="TOML file as every run writes it, for fits and arms.")
    ] = None,
    memory: Annotated[
        int, typer.Option(min=500, help="Memory that a job requests at its first attempt, MB.")
    ] = 4000,
    minutes: Annotated[
        int, typer.Option(min=1, help="Time that a job requests at its first attempt, min.")
    ] = 240,
    snakemake: Annotated[
        str,
        typer.Option(
            help="Further options of Snakemake: --snakemake '--slurm-status-command squeue'."
        ),
    ] = "",
    quiet: Quiet = False,
) -> None:
    """Fit every study of a dataset, and write derivatives, group tables and the group page.

    Studies that are finished and unchanged are not repeated.

    Example: nanopinn cohort bids derivatives/nanopinn --arms free,pld --dry-run
    """
    from nanopinn.cohort.snakemake import Workflow
    from nanopinn.cohort.study_table import find_studies

    shared = {"--device": device, "--config": config.absolute() if config else None}
    of_study = name_study_options(study)
    of_subject = {option: of_study[option] for option in SUBJECT_OPTIONS}
    settings: dict[str, Any] = {
        "source": str(source.absolute()),
        "only": list(only or ()),
        "gpu": (device or "").startswith("cuda"),
        "mem_mb": memory,
        "runtime_min": minutes,
        "files": [
            str(f.absolute()) for f in (config, study["schedule"], study["plasma"]) if f is not None
        ],
        "fit": _command_options(
            fit_command, fit, {"--engine": engine, "--preset": preset, **of_study, **shared}
        ),
        "arms": _command_options(
            simulate_command, simulate, {"--arms": arms, **of_subject, **shared}
        )
        if arms
        else [],
    }
    words = [w.partition("=")[0] for w in settings["fit"] if w.startswith("--")]
    settings["shared_inputs"] = [
        *(w.removeprefix("--").replace("-", "_") for w in words),
        *read_config_table(config, "imaging"),
    ]
    if simulate and not arms:
        raise InputError(
            "options of arms are given, but no arms",
            field="simulate",
            found=simulate,
            remedy="Give `arms`, such as free,pld.",
        )
    studies = find_studies(source, only=settings["only"], shared_inputs=settings["shared_inputs"])
    _check_outside_dataset(source, out)
    workflow = Workflow(
        "cohort", out.absolute(), profile, settings, cores, _split("snakemake", snakemake)
    )
    if dry_run:
        _print_plan(workflow, studies)
    else:
        _run_workflow(workflow, studies, bool(arms), quiet)


def _command_options(command: Callable[..., Any], more: str, given: dict[str, Any]) -> list[str]:
    """Options of a command: those with an option of their own here, then the further ones."""
    words = [
        str(word) for name, value in given.items() if value is not None for word in (name, value)
    ]
    name = command.__name__
    needed = ["--dce", "."] if name == "fit" else []
    return [*words, *parse_extra_options(command, name, more, [*needed, *words])]


def _split(option: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InputError(
            "the options cannot be read",
            field=option,
            found=text,
            expected=f"quoted words ({error})",
        ) from error


def _check_outside_dataset(source: Path, out: Path) -> None:
    """Refuse to write into the dataset itself; BIDS allows results in its ``derivatives``."""
    inside, data = out.resolve(), source.resolve()
    if inside == data or (
        inside.is_relative_to(data) and "derivatives" not in inside.relative_to(data).parts
    ):
        raise OutputError(
            f"{out} is in the dataset, which is only read. Give a folder outside the dataset or in"
            " its folder derivatives."
        )


def _print_plan(workflow: Workflow, studies: Sequence[CohortStudy]) -> None:
    from nanopinn.cohort.snakemake import describe_jobs, parse_dry_run

    with TemporaryDirectory() as folder:
        jobs = parse_dry_run(workflow.run_dry(Path(folder)))
    for study in studies:
        typer.echo(
            f"{study.id}: {study.problem or describe_jobs(jobs, str(study.relative_folder))}"
        )
    counts = Counter(job.rule for job in jobs)
    problems = sum(bool(s.problem) for s in studies)
    rules = ", ".join(f"{n} {rule}" for rule, n in counts.items())
    typer.echo(
        f"{len(studies)} studies, {problems} of them with a problem; {len(jobs)} jobs"
        + (f": {rules}." if jobs else ".")
    )


def _run_workflow(
    workflow: Workflow, studies: Sequence[CohortStudy], arms: bool, quiet: bool
) -> None:
    from nanopinn.cohort.snakemake import lock_run_folder, raise_if_ended_early
    from nanopinn.cohort.study_status import RunMonitor, read_run_statuses

    def notify(line: str) -> None:
        if not quiet:
            typer.echo(line, err=True)

    log = workflow.out / "work" / "cohort.log"
    with lock_run_folder(workflow.out, notify):
        report_ended_runs = RunMonitor(workflow.out, studies, arms, notify)
        code = workflow.run(log, report_ended_runs)
        report_ended_runs()
        raise_if_ended_early(code, log)
        ends = read_run_statuses(workflow.out, studies, arms=arms)
    _print_results(ends, workflow.out, code)


def _print_results(ends: Sequence[RunStatus], out: Path, code: int) -> None:
    """Print every run that did not pass, the counts and the page; exit with the right code."""
    from nanopinn.cohort.study_status import exit_code, format_run_status

    fits = Counter(end.status for end in ends if end.run == "fit")
    for end in ends:
        if end.status != "passed":
            typer.echo(format_run_status(end))
    typer.echo(
        f"{fits.total()} studies: " + ", ".join(f"{n} {status}" for status, n in fits.items()) + "."
    )
    typer.echo(f"Page: {out / 'group.html'}")
    ended = exit_code(ends)
    if code and all(end.status != "unfinished" for end in ends):
        typer.echo(
            "A job that follows the fits failed (derivatives or the page); see"
            f" {out / 'work' / 'cohort.log'}."
        )
        ended = ended or PartialCohortError.exit_code
    if ended:
        raise typer.Exit(ended)


_AFTER_HELP = (
    "Verdict file of the run that made the result. If the run left no result, nothing is written"
    " and the exit code is 0."
)


def derivatives(
    result: Annotated[Path, typer.Argument(help="Result folder of a fit or of compared arms.")],
    dataset: Annotated[
        Path,
        typer.Argument(
            help="Dataset of derivatives to write into; it is made if it does not exist."
        ),
    ],
    id: Annotated[str, typer.Option("--id", help="Name of the study, such as sub-01_ses-01.")],
    after: Annotated[Path | None, typer.Option(help=_AFTER_HELP)] = None,
) -> None:
    """Write the maps and tables of one result as BIDS derivatives.

    Example: nanopinn derivatives work/sub-01/ses-01/fit . --id sub-01_ses-01
    """
    from nanopinn.cohort.bids_derivatives import write_derivatives
    from nanopinn.io.safe_open import read_json_or_empty

    if after is not None and not has_result(read_json_or_empty(after)):
        typer.echo(f"{id}: there is no result to write.")
        return
    typer.echo(f"{id}: {write_derivatives(result, dataset, id)}")


def group(
    dataset: Annotated[
        Path, typer.Argument(help="Dataset of derivatives that nanopinn cohort wrote.")
    ],
) -> None:
    """Write the group tables and the group page of a cohort, with studies that need review first.

    The exit code is 6 if a study needs review.

    Example: nanopinn group derivatives/nanopinn
    """
    from nanopinn.cohort.bids_derivatives import write_derivatives_description
    from nanopinn.cohort.group import run_group
    from nanopinn.report.group_page import cohort_headline, format_cohort, write_group

    found = run_group(dataset)
    write_derivatives_description(dataset)
    page = write_group(dataset, found)
    typer.echo(format_cohort(found))
    typer.echo(f"Page: {page}")
    if not found.all_passed:
        raise PartialCohortError(cohort_headline(found))
