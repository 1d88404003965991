"""BIDS derivatives: names, sidecars, no traces of the machine, complete or absent."""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nanopinn.cli.app import app
from nanopinn.cli.options import expand_multivalue_options, format_input_options
from nanopinn.cohort.bids_derivatives import write_derivatives
from nanopinn.cohort.group import run_group
from nanopinn.cohort.study_table import find_studies
from nanopinn.errors import InputError, OutputError
from nanopinn.io.output import exclusive_lock
from nanopinn.io.volumes import write_volume
from nanopinn.phantoms.phantom_dataset import make_phantom_dataset
from nanopinn.settings import PhantomSettings
from tests.variants import for_each

from .faked_cohort import put_fit, scalar

ID = "sub-01_ses-1"


def result(
    dataset: Path,
    id: str = ID,
    maps: tuple[str, ...] = ("Ktrans", "Ktrans_std", "T1", "pH", "mask", "velocity_vector"),
    passed: bool = True,
) -> Path:
    """A result folder with a few maps and a field."""
    fit = put_fit(dataset, id, [scalar("k", 2.0, 0.1)], passed=passed)
    (fit / "parameters.tsv").write_text("name\tposterior_median\nk\t2.0\n")
    for name in maps:
        side = {"Unit": "1/min", "Description": f"what {name} is", "Source": "images"}
        write_volume(fit / "maps" / f"{name}.nii.gz", np.ones((3, 3, 2)), np.eye(4), sidecar=side)
    write_volume(
        fit / "fields" / "free.nii.gz",
        np.ones((2, 3, 3, 2)),
        np.eye(4),
        sidecar={"Unit": "ug/mL", "FrameTimes": [1.0, 2.0]},
    )
    return fit


def names(dataset: Path) -> set[str]:
    return {
        p.relative_to(dataset).as_posix()
        for p in dataset.rglob("*")
        if p.is_file() and "work" not in p.relative_to(dataset).parts
    }


def test_maps_and_tables_have_bids_names(tmp_path: Path) -> None:
    mark = write_derivatives(result(tmp_path), tmp_path, ID)
    assert mark == tmp_path / "sub-01/ses-1/perf/sub-01_ses-1_desc-fit_parameters.tsv"
    stems = {
        n.removeprefix("sub-01/ses-1/").replace("sub-01_ses-1_", "")
        for n in names(tmp_path)
        if n.endswith((".nii.gz", ".tsv"))
    }
    assert stems == {
        "anat/desc-fit_T1map.nii.gz",
        "anat/label-tumour_mask.nii.gz",
        "cest/desc-fit_pHmap.nii.gz",
        "perf/desc-fit_Ktransmap.nii.gz",
        "perf/desc-std_Ktransmap.nii.gz",
        "perf/desc-fit_velocityVectormap.nii.gz",
        "perf/desc-free_drug.nii.gz",
        "perf/desc-fit_parameters.tsv",
        "perf/desc-fit_check.tsv",
    }
    assert all(
        n.replace(".nii.gz", ".json").replace(".tsv", ".json") in names(tmp_path)
        for n in names(tmp_path)
        if n.startswith("sub")
    )
    image = nib.load(tmp_path / "sub-01/ses-1/perf/sub-01_ses-1_desc-fit_Ktransmap.nii.gz")
    np.testing.assert_array_equal(image.get_fdata(), 1)


def test_sidecars_hold_unit_source_and_check_but_no_path_of_the_machine(
    tmp_path: Path,
) -> None:
    write_derivatives(result(tmp_path, passed=False), tmp_path, ID)
    side = json.loads(
        (tmp_path / "sub-01/ses-1/perf/sub-01_ses-1_desc-fit_Ktransmap.json").read_text()
    )
    assert side["Units"] == "1/min"
    assert side["Sources"] == ["bids::work/sub-01/ses-1/fit/maps/Ktrans.nii.gz"]
    assert (side["SkullStripped"], side["CheckPassed"]) == (False, False)
    about = json.loads((tmp_path / "dataset_description.json").read_text())
    assert (about["DatasetType"], about["GeneratedBy"][0]["Name"]) == ("derivative", "nanopinn")
    text = "".join((tmp_path / n).read_text() for n in names(tmp_path) if not n.endswith(".gz"))
    assert str(tmp_path) not in text
    assert "/tmp" not in text


def test_scans_are_named_as_sources_if_the_raw_dataset_is_known(tmp_path: Path) -> None:
    raw, dataset = tmp_path, tmp_path / "derivatives" / "nanopinn"
    scan = raw / "sub-01" / "ses-1" / "perf" / "sub-01_ses-1_dce.nii.gz"
    scan.parent.mkdir(parents=True)
    scan.touch()
    fit = result(dataset)
    (fit / "provenance.json").write_text(
        json.dumps({"inputs": {scan.name: "0" * 64, "elsewhere.nii.gz": "1" * 64}})
    )
    write_derivatives(fit, dataset, ID)
    side = json.loads((dataset / "sub-01/ses-1/anat/sub-01_ses-1_desc-fit_T1map.json").read_text())
    assert side["Sources"][1:] == ["bids:raw:sub-01/ses-1/perf/sub-01_ses-1_dce.nii.gz"]
    assert json.loads((dataset / "dataset_description.json").read_text())["DatasetLinks"] == {
        "raw": "../.."
    }


def rules() -> list[re.Pattern[str]]:
    schema_of = pytest.importorskip("bidsschematools.schema")
    from bidsschematools.rules import regexify_filename_rules

    files = schema_of.load_schema().rules.files
    return [
        re.compile(r["regex"])
        for r in itertools.chain(
            *(
                regexify_filename_rules(g, schema_of.load_schema(), level=2)
                for g in (files.common, files.raw, files.deriv)
            )
        )
    ]


def ignored(name: str, patterns: list[str]) -> bool:
    folders, file = name.split("/")[:-1], name.split("/")[-1]
    return any(p[:-1] in folders if p.endswith("/") else fnmatch.fnmatch(file, p) for p in patterns)


def test_every_name_is_defined_by_bids_or_listed_in_bidsignore(tmp_path: Path) -> None:
    write_derivatives(result(tmp_path), tmp_path, ID)
    patterns, known = (tmp_path / ".bidsignore").read_text().split(), rules()
    official = {n for n in names(tmp_path) if any(r.fullmatch(n) for r in known)}
    assert names(tmp_path) - official - {".bidsignore"} == {
        n for n in names(tmp_path) if ignored(n, patterns)
    }
    assert {n.split("_", 2)[-1] for n in official if "anat" in n} == {
        "desc-fit_T1map.json",
        "desc-fit_T1map.nii.gz",
        "label-tumour_mask.json",
        "label-tumour_mask.nii.gz",
    }


def test_later_result_replaces_all_files_of_the_earlier_one(tmp_path: Path) -> None:
    write_derivatives(result(tmp_path / "a"), tmp_path / "out", ID)
    write_derivatives(result(tmp_path / "b", "sub-02"), tmp_path / "out", "sub-02")
    first = names(tmp_path / "out")
    write_derivatives(result(tmp_path / "c", maps=("Ktrans", "mask")), tmp_path / "out", ID)
    gone = first - names(tmp_path / "out")
    stems = ("Ktransmap", "T1map", "pHmap", "velocityVectormap")
    assert {n.split("_")[-1] for n in gone} == {
        f"{s}.{end}" for s in stems for end in ("json", "nii.gz")
    }
    assert all("desc-std_Ktransmap" in n or "Ktransmap" not in n for n in gone)
    assert not any("sub-02" in n for n in gone)


@pytest.mark.parametrize(("at", "old_is_whole"), [(1, True), (4, False), (15, False)])
def test_full_disk_leaves_no_completion_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, old_is_whole: bool
) -> None:
    fit, move, count = result(tmp_path / "a"), os.replace, itertools.count()

    def full(source: str, target: str) -> None:
        if "out" in str(target) and ".part" not in str(target) and next(count) == at:
            raise OSError(28, "No space left on device")
        move(source, target)

    write_derivatives(fit, tmp_path / "out", ID)
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", full)
        with pytest.raises(OutputError, match="No space left"):
            write_derivatives(fit, tmp_path / "out", ID)
    assert any(n.endswith("parameters.tsv") for n in names(tmp_path / "out")) == old_is_whole
    assert not list((tmp_path / "out").rglob("*.part*"))
    write_derivatives(fit, tmp_path / "out", ID)
    assert sum(n.endswith(".nii.gz") for n in names(tmp_path / "out")) == 7


def test_files_of_killed_runs_are_removed_and_running_ones_protected(
    tmp_path: Path,
) -> None:
    fit, session = result(tmp_path), tmp_path / "sub-01" / "ses-1"
    stale = session / f".{ID}_fit.part" / "perf" / "old.nii.gz"
    stale.parent.mkdir(parents=True)
    stale.touch()
    write_derivatives(fit, tmp_path, ID)
    assert not [p for p in session.iterdir() if p.name.startswith(".")]
    with (
        exclusive_lock(session / f"{ID}_fit"),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(OutputError, match="Another run"),
    ):
        pool.submit(write_derivatives, fit, tmp_path, ID).result()


def test_many_studies_are_written_at_once(tmp_path: Path) -> None:
    ids = [f"sub-{i:02d}" for i in range(8)]
    fits = [result(tmp_path / "in", id, maps=("Ktrans",)) for id in ids]
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda pair: write_derivatives(pair[0], tmp_path / "out", pair[1]),
                zip(fits, ids, strict=True),
            )
        )
    assert (
        json.loads((tmp_path / "out" / "dataset_description.json").read_text())["DatasetType"]
        == "derivative"
    )
    assert sum(n.endswith("parameters.tsv") for n in names(tmp_path / "out")) == 8


@for_each("id", ["../sub-01", "sub-01/../..", "sub-", "sub-01_ses-1;ls", "01"])
def test_invalid_study_name_writes_nothing(tmp_path: Path, id: str) -> None:
    with pytest.raises(InputError):
        write_derivatives(result(tmp_path / "in"), tmp_path / "out", id)
    assert not (tmp_path / "out").exists()


def test_folder_without_a_result_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="not a result folder"):
        write_derivatives(tmp_path / "in", tmp_path / "out", ID)
    assert not (tmp_path / "out").exists()


def test_maps_of_compared_arms_are_added_to_those_of_the_fit(tmp_path: Path) -> None:
    write_derivatives(result(tmp_path), tmp_path, ID)
    arms = tmp_path / "work" / "arms"
    arms.mkdir()
    (arms / "comparison.json").write_text(json.dumps({"arms": {"tsl": {}, "my_liposome": {}}}))
    (arms / "outcomes.tsv").write_text("outcome\tunit\twords\n")
    for arm, name in (
        ("tsl", "lethal_radius_peak"),
        ("my_liposome", "lethal_radius_peak_std"),
        ("tsl", "mask"),
        ("my_liposome", "mask"),
    ):
        write_volume(
            arms / arm / "maps" / f"{name}.nii.gz",
            np.ones((3, 3, 2)),
            np.eye(4),
            sidecar={"Unit": "um"},
        )
    before = names(tmp_path)
    write_derivatives(arms, tmp_path, ID)
    new = {
        n.split("sub-01_ses-1_")[-1] for n in names(tmp_path) - before if not n.endswith(".json")
    }
    assert new == {
        "desc-arms_outcomes.tsv",
        "desc-tsl_lethalRadiusPeakmap.nii.gz",
        "desc-myLiposomeStd_lethalRadiusPeakmap.nii.gz",
    }
    assert before < names(tmp_path)


def run(*words: str | Path) -> None:
    """A command as the shell gives it, in this process."""
    app(expand_multivalue_options([str(w) for w in words]), standalone_mode=False)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = PhantomSettings(
        shape=(10, 10, 6), frames=20, frame_spacing_s=15.0, refine=2, drug_times_h=(2.0,)
    )
    return make_phantom_dataset(tmp_path_factory.mktemp("phantoms") / "bids", 1, small)


def test_phantoms_are_a_dataset_whose_truth_no_fit_reads(phantoms: Path) -> None:
    (study,) = find_studies(phantoms)
    assert study.problem == ""
    assert not any("sourcedata" in w for _, w in study.inputs)
    assert (phantoms / "sourcedata" / "sub-01" / "truth" / "parameters.json").is_file()
    patterns, known = (phantoms / ".bidsignore").read_text().split(), rules()
    own = {n for n in names(phantoms) if not n.startswith(("sourcedata", "derivatives"))}
    assert all(
        ignored(n, patterns) or any(r.fullmatch(n) for r in known) for n in own - {".bidsignore"}
    )


def test_phantom_dataset_is_fitted_and_summarised(phantoms: Path, tmp_path: Path) -> None:
    (study,) = find_studies(phantoms)
    work, out = tmp_path / "work" / study.relative_folder, tmp_path
    inputs = [
        w for pair in study.inputs if pair[0] != "drug" for w in format_input_options([pair])
    ]  # in a third of the time
    run(
        "fit",
        *inputs,
        "--engine",
        "fv",
        "--preset",
        "fast",
        "-q",
        "-o",
        work / "fit",
        "--verdict",
        work / "fit.json",
    )
    run("derivatives", work / "fit", out, "--id", study.id, "--after", work / "fit.json")
    group = run_group(out)
    assert [s.status for s in group.studies] in (["passed"], ["check failed"])
    written = nib.load(out / "sub-01" / "perf" / "sub-01_desc-fit_Ktransmap.nii.gz").get_fdata()
    np.testing.assert_array_equal(
        written, nib.load(work / "fit" / "maps" / "Ktrans.nii.gz").get_fdata()
    )
    assert group.studies[0].seconds > 0


def test_study_without_a_result_has_no_derivatives_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "fit.json").write_text('{"status": "refused", "exit_code": 3}')
    run(
        "derivatives",
        tmp_path / "fit",
        tmp_path / "out",
        "--id",
        ID,
        "--after",
        tmp_path / "fit.json",
    )
    assert not (tmp_path / "out").exists()
