"""The command ``nanopinn cohort``: a small real cohort, refusals before a run, packaging."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer

from nanopinn.cli.cohort_commands import _print_results
from nanopinn.cli.phantom_commands import phantoms
from nanopinn.cohort.bids_studies import CohortStudy
from nanopinn.cohort.snakemake import Job, Workflow, describe_jobs, parse_dry_run, profile_folder
from nanopinn.cohort.study_status import RunStatus, exit_code, read_run_statuses
from nanopinn.errors import InputError, PartialCohortError
from nanopinn.phantoms.phantom_dataset import make_phantom_dataset
from nanopinn.settings import PhantomSettings
from tests.variants import for_each

from .conftest import Cohort, dataset

ROOT = Path(__file__).resolve().parents[2]
SMALL = PhantomSettings(
    seed=1,
    shape=(8, 8, 6),
    voxel_mm=(0.6, 0.6, 0.6),
    tumour_mm=(3.4, 3.4, 2.6),
    frames=20,
    frame_spacing_s=15.0,
    refine=2,
    length_scale_mm=0.8,
    drug_times_h=(1.0,),
)


def cohort(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nanopinn", "cohort", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_broken_subject_stops_no_other_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    bids, out = make_phantom_dataset(tmp_path / "bids", 3, SMALL), tmp_path / "out"
    for image in bids.glob("sub-*/perf/*_drug.*"):
        image.unlink()
    os.truncate(bids / "sub-02" / "perf" / "sub-02_dce.nii.gz", 1000)
    given = ("--engine", "fv", "--preset", "fast", "--arms", "free,pld", "--simulate", "--draws 0")
    ended = cohort(bids, out, *given)
    assert ended.returncode == 6, ended.stderr
    assert "sub-02: fit refused" in ended.stdout
    assert "A job that follows the fits failed" not in ended.stdout, (
        out / "work" / "cohort.log"
    ).read_text()
    verdicts = {
        s: json.loads((out / "work" / s / "fit.json").read_text())["exit_code"]
        for s in ("sub-01", "sub-02", "sub-03")
    }
    assert verdicts["sub-02"] == 3
    assert {verdicts["sub-01"], verdicts["sub-03"]} <= {0, 5}
    assert (out / "group.html").is_file()
    assert list(out.glob("sub-01/perf/*Ktransmap.nii.gz"))
    for arms in (
        "desc-arms_outcomes.tsv",
        "desc-free_aucFreemap.nii.gz",
        "desc-pld_aucFreemap.nii.gz",
    ):
        assert (out / "sub-01" / "perf" / f"sub-01_{arms}").is_file()
    assert not list(out.glob("sub-02/**/*.nii.gz"))
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*") if f.is_file()}
    again = cohort(bids, out, *given)
    assert again.returncode == 6, again.stderr
    log = (out / "work" / "cohort.log").read_text()
    assert "Nothing to be done" in log
    changed = {f.name for f, t in before.items() if f.stat().st_mtime_ns != t}
    assert changed <= {"cohort.log", "cohort.json"}, changed


def test_two_hundred_subjects_are_planned_in_seconds(tmp_path: Path) -> None:
    bids = dataset(tmp_path / "bids", 200)
    (bids / "sub-007" / "cest" / "sub-007_pHmap.nii.gz").unlink()
    began = _cpu_of_children()
    said = cohort(bids, tmp_path / "out", "--arms", "free,pld", "--dry-run")
    assert said.returncode == 0, said.stderr
    assert _cpu_of_children() - began < 10, (
        "one thread, so on a free core hardly more on the clock, where 20 s are the limit"
    )
    lines = said.stdout.splitlines()
    assert lines[0] == "sub-001: fit, derivatives, arms, derivatives_of_arms (not done yet)"
    assert any(line.startswith("sub-007: no pH map") for line in lines)
    # four jobs for each of the 199 that can be fitted, and the page
    assert "200 studies, 1 of them with a problem; 797 jobs" in lines[-1]
    assert not (tmp_path / "out").exists()


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_dataset_without_a_usable_study_exits_with_3(tmp_path: Path) -> None:
    three = Cohort(tmp_path, 2)
    for image in three.bids.rglob("*_pHmap.*"):
        image.unlink()
    code, said = three.run()
    assert code == 3, said
    assert "no pH map" in said


def test_results_are_not_written_into_the_dataset(tmp_path: Path) -> None:
    bids = dataset(tmp_path / "bids", 1)
    assert cohort(bids, bids / "results").returncode == 4
    assert not (bids / "results").exists()
    assert cohort(bids, bids / "derivatives" / "nanopinn", "--dry-run").returncode == 0


def test_error_of_snakemake_is_reported(tmp_path: Path) -> None:
    bids = dataset(tmp_path / "bids", 1)
    ended = cohort(bids, tmp_path / "out", "--snakemake", "--no-such-option")
    assert ended.returncode == 1
    assert "no-such-option" in ended.stderr
    assert "Traceback" not in ended.stderr


@for_each(
    "words, said",
    [
        (
            ["cohort", "{bids}", "{out}", "--fit", "--nonsense 3"],
            "--fit; found: --nonsense 3: No such option: --nonsense",
        ),
        (
            ["cohort", "{bids}", "{out}", "--fit", "--seed x"],
            "--fit; found: --seed x: Input should be a valid integer",
        ),
        (
            ["cohort", "{bids}", "{out}", "--arms", "free", "--simulate", "--heat"],
            "--simulate; found: --heat: ",
        ),
        (
            ["phantoms", "{out}", "--phantom", "--rfine 2"],
            "--phantom; found: --rfine 2: No such option: --rfine",
        ),
        (["phantoms", "{out}", "--fit", "--engine 'fv"], "No closing quotation"),
    ],
)
def test_invalid_options_of_jobs_are_refused_before_the_first_job(
    tmp_path: Path, words: list[str], said: str
) -> None:
    bids = dataset(tmp_path / "bids", 1)
    given = [w.format(bids=bids, out=tmp_path / "out") for w in words]
    ended = subprocess.run(
        [sys.executable, "-m", "nanopinn", *given], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 3, ended.stderr
    assert said in ended.stderr
    assert not (tmp_path / "out").exists()


def test_multivalue_options_of_jobs_are_accepted(tmp_path: Path) -> None:
    bids = dataset(tmp_path / "bids", 1)
    ended = cohort(bids, tmp_path / "out", "--fit", "--profile q PS_l --engine fv", "--dry-run")
    assert ended.returncode == 0, ended.stderr


def test_unknown_profile_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="nowhere"):
        profile_folder("nowhere")


def test_missing_snakemake_is_reported_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanopinn.cohort.snakemake.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"Install the extra nanopinn\[pipelines\]"):
        Workflow("cohort", tmp_path)


def test_verdict_files_determine_the_exit_code(tmp_path: Path) -> None:
    studies = [CohortStudy(s, Path(s)) for s in ("sub-1", "sub-2")]

    def judged(*status: str) -> int:
        for study, s in zip(studies, status, strict=True):
            place = tmp_path / "work" / study.relative_folder
            place.mkdir(parents=True, exist_ok=True)
            (place / "fit.json").write_text(json.dumps({"status": s}) if s else "{")
        return exit_code(read_run_statuses(tmp_path, studies, arms=False))

    assert judged("passed", "passed") == 0
    assert (
        judged("passed", "refused") == judged("passed", "check failed") == judged("passed", "") == 6
    )
    assert judged("refused", "internal error") == 3


def test_failed_job_after_the_fits_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [
        RunStatus(s, "fit", status, "") for s, status in (("sub-1", "passed"), ("sub-2", "refused"))
    ]
    with pytest.raises(typer.Exit) as ended:
        _print_results(ends, tmp_path, 1)
    assert ended.value.exit_code == 6
    assert "A job that follows the fits failed" in capsys.readouterr().out
    with pytest.raises(typer.Exit):
        _print_results(ends, tmp_path, 0)
    assert "A job that follows the fits failed" not in capsys.readouterr().out


def test_log_is_named_if_no_phantom_was_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(self: Workflow, log: Path, watch: object) -> int:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("Error in rule phantom")
        return 1

    monkeypatch.setattr(Workflow, "run", failed)
    with pytest.raises(PartialCohortError, match=r"phantoms\.log"):
        phantoms(tmp_path)


def test_jobs_are_parsed_from_a_dry_run() -> None:
    said = """
[Sat Nov 21 2026]
rule fit:
    input: /a/b
    reason: Missing output files: work/sub-1/fit.json
    wildcards: relative_folder=sub-1/ses-2
[Sat Nov 21 2026]
localrule group:
    reason: Input files updated by another job: x
localrule all:
    reason: Input files updated by another job: y
"""
    assert parse_dry_run(said) == (
        Job("fit", "sub-1/ses-2", "not done yet"),
        Job("group", "", "its inputs are computed again"),
    )
    assert describe_jobs(parse_dry_run(said), "sub-1/ses-2") == "fit (not done yet)"
    assert describe_jobs((), "sub-1/ses-2") == "nothing to do"


def test_workflows_are_in_the_wheel(tmp_path: Path) -> None:
    build = "-m pip wheel -q --no-deps --no-build-isolation --no-cache-dir -w".split()
    subprocess.run(
        [sys.executable, *build, str(tmp_path), str(_copy(tmp_path))], check=True, timeout=120
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    workflows = ("cohort/Snakefile", "cohort/schemas/config.schema.yaml", "phantoms/Snakefile")
    wanted = (*workflows, "profiles/local/config.yaml", "profiles/slurm/config.yaml")
    assert {f"nanopinn/pipelines/{name}" for name in wanted} <= set(names)


def _copy(folder: Path) -> Path:
    """The tracked tree, so that a build leaves nothing in the checkout."""
    copy = folder / "tree"
    copy.mkdir()
    for name in ("nanopinn", "pipelines", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-a", str(ROOT / name), str(copy)], check=True)
    return copy
