"""Studies of a cohort: found by their names, safe names, and reported problems."""

from __future__ import annotations

import contextlib
import csv
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanopinn.cohort.bids import parse_study_id
from nanopinn.cohort.bids_studies import CohortStudy
from nanopinn.cohort.study_table import find_studies
from nanopinn.errors import InputError
from tests.variants import for_each

#: A whole study: what a fit takes, as data folder and rest of the name.
WHOLE = (
    "perf/dce.nii.gz",
    "perf/dce.json",
    "anat/flip-1_VFA.nii.gz",
    "anat/flip-2_VFA.nii.gz",
    "cest/pHmap.nii.gz",
    "perf/acq-released2h_drug.nii.gz",
    "perf/acq-released24h_drug.nii.gz",
)


def put(dataset: Path, names: Iterable[str], sub: str = "01", ses: str = "") -> Path:
    """Empty files ``sub-.._REST`` in their folders."""
    parts = [f"sub-{sub}", *([f"ses-{ses}"] if ses else [])]
    for name in names:
        folder, rest = name.rsplit("/", 1)
        path = dataset.joinpath(*parts, folder, "_".join([*parts, rest]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return dataset


def only(dataset: Path, **more: object) -> CohortStudy:
    (study,) = find_studies(dataset, **more)  # type: ignore[arg-type]
    return study


def files_for(study: CohortStudy, name: str) -> list[str]:
    return [Path(value).name for option, value in study.inputs if option == name]


def test_session_gives_a_fit_all_its_inputs(tmp_path: Path) -> None:
    study = only(put(tmp_path, [*WHOLE, "anat/T1w.nii.gz", "fmap/TB1map.nii.gz"], "01", "02"))
    assert (study.id, study.relative_folder, study.problem) == (
        "sub-01_ses-02",
        Path("sub-01/ses-02"),
        "",
    )
    assert files_for(study, "dce") == ["sub-01_ses-02_dce.nii.gz"]
    assert files_for(study, "vfa") == [
        "sub-01_ses-02_flip-1_VFA.nii.gz",
        "sub-01_ses-02_flip-2_VFA.nii.gz",
    ]
    assert files_for(study, "cest") == ["sub-01_ses-02_pHmap.nii.gz"]
    assert len(files_for(study, "drug")) == 2
    assert files_for(study, "b1") == ["sub-01_ses-02_TB1map.nii.gz"]
    assert "sub-01_ses-02_dce.json" in {f.name for f in study.files}
    assert all(f.is_absolute() for f in study.files)
    assert not any("T1w" in f.name for f in study.files)


def test_masks_are_read_from_derivatives_but_not_from_own_results(tmp_path: Path) -> None:
    put(tmp_path, WHOLE)
    put(
        tmp_path / "derivatives" / "by_hand",
        [
            "anat/label-tumour_mask.nii.gz",
            "perf/desc-AIF_mask.nii.gz",
            "anat/label-brain_mask.nii.gz",
        ],
    )
    own = put(
        tmp_path / "derivatives" / "nanopinn",
        ["anat/label-tumour_mask.nii.gz", "cest/pHmap.nii.gz", "anat/T1map.nii.gz"],
    )
    (own / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "nanopinn"}]}')
    study = only(tmp_path)
    assert study.problem == ""
    assert files_for(study, "mask") == ["sub-01_label-tumour_mask.nii.gz"]
    assert dict(study.inputs)["aif"].startswith("mask:/")
    with pytest.raises(InputError, match="results of nanopinn"):
        find_studies(own)


@for_each(
    "without, more, words",
    [
        ("perf/dce.json", [], "without a sidecar of its own"),
        ("cest/pHmap.nii.gz", [], "no pH map"),
        ("VFA", [], "no native T1"),
        ("", ["anat/T1map.nii.gz"], "native T1 is given 2 times"),
        ("", ["cest/cest.nii.gz"], "2 files for `cest`"),
        ("", ["perf/acq-late_dce.nii.gz", "perf/acq-late_dce.json"], "2 files for `dce`"),
        ("", ["anat/acq-b_flip-2_VFA.nii.gz"], "2 files for `vfa`"),
        ("", ["perf/dce.nii"], "2 files for `dce`"),
    ],
)
def test_missing_or_ambiguous_input_is_reported_for_its_study_only(
    tmp_path: Path, without: str, more: list[str], words: str
) -> None:
    put(tmp_path, [n for n in [*WHOLE, *more] if not without or without not in n], "01")
    put(tmp_path, WHOLE, "02")
    first, second = find_studies(tmp_path)
    assert words in first.problem
    assert second.problem == ""


def test_shared_inputs_complete_the_studies(tmp_path: Path) -> None:
    put(tmp_path, ["perf/dce.nii.gz", "perf/dce.json"])
    assert only(tmp_path, shared_inputs=["t1", "assume_ph"]).problem == ""
    put(tmp_path, ["anat/flip-1_VFA.nii.gz"])
    assert (
        "native T1 is given 2 times (`t1`, `vfa`)"
        in only(tmp_path, shared_inputs=["t1", "assume_ph"]).problem
    )


def test_runs_are_separate_studies_only_if_every_file_names_its_run(
    tmp_path: Path,
) -> None:
    put(tmp_path, [n.replace("/", f"/run-{r}_") for r in (1, 2) for n in WHOLE])
    # BIDS puts run before flip; the grammar does not mind
    found = find_studies(tmp_path)
    assert [(s.id, str(s.relative_folder), s.problem) for s in found] == [
        ("sub-01_run-1", "sub-01/run-1", ""),
        ("sub-01_run-2", "sub-01/run-2", ""),
    ]
    assert all("run-2" not in w for _, w in found[0].inputs)
    put(tmp_path, ["fmap/TB1map.nii.gz"])
    assert "do not say to which run they belong" in only(tmp_path).problem


def test_file_of_another_subject_is_not_used(tmp_path: Path) -> None:
    put(tmp_path, WHOLE)
    (tmp_path / "sub-01" / "perf" / "sub-02_acq-x_drug.nii.gz").touch()
    study = only(tmp_path)
    assert "sub-02_acq-x_drug.nii.gz in the folder of sub-01" in study.problem
    assert not any("sub-02" in w for _, w in study.inputs)


def test_broken_link_is_reported(tmp_path: Path) -> None:
    put(tmp_path, WHOLE)
    series = tmp_path / "sub-01" / "perf" / "sub-01_dce.nii.gz"
    series.unlink()
    series.symlink_to(series)
    assert "sub-01_dce.nii.gz cannot be read (a broken link?)" in only(tmp_path).problem


@for_each(
    "name",
    [
        "sub-",
        "sub-0 1",
        "sub-01;rm -rf x",
        "sub-$(id)",
        "sub-01\n",
        "sub-..",
        "sub-０１",
        "sub-a_b",
        "sub-" + "a" * 65,
    ],
)
def test_folder_with_an_unsafe_label_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path, WHOLE)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="label cannot be used"):
        find_studies(tmp_path)


def test_empty_dataset_is_refused_with_the_expected_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder sub-.*_dce\.nii\.gz"):
        find_studies(tmp_path)
    put(tmp_path, ["anat/T1w.nii.gz"])
    with pytest.raises(InputError, match="without a DCE series"):
        find_studies(tmp_path)
    with pytest.raises(InputError, match="no such dataset"):
        find_studies(tmp_path / "none")


def test_subjects_can_be_selected(tmp_path: Path) -> None:
    for sub, ses in (("01", "1"), ("01", "2"), ("011", "1")):
        put(tmp_path, WHOLE, sub, ses)
    assert [s.id for s in find_studies(tmp_path, only=["01"])] == ["sub-01_ses-1", "sub-01_ses-2"]
    assert [s.id for s in find_studies(tmp_path, only=["sub-01_ses-2", "sub-011"])] == [
        "sub-01_ses-2",
        "sub-011_ses-1",
    ]
    with pytest.raises(InputError, match="no such study"):
        find_studies(tmp_path, only=["7"])
    with pytest.raises(InputError, match="label"):
        find_studies(tmp_path, only=["../etc"])


def test_names_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    put(put(tmp_path, WHOLE, "a"), WHOLE, "A")
    with pytest.raises(InputError, match="two studies have the same name"):
        find_studies(tmp_path)


def table(folder: Path, *rows: str, name: str = "studies.tsv") -> Path:
    for file in ("a.nii.gz", "fa 1.nii.gz", "fa2.nii.gz", "ph.nii.gz"):
        (folder / file).touch()
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder / name


def test_table_gives_relative_files_and_further_columns(tmp_path: Path) -> None:
    heads = "participant_id\tsession_id\tdce\tvfa\tcest\tassume_ph\taif\tgroup"
    rows = [
        "sub-01\tses-1\ta.nii.gz\tfa 1.nii.gz; fa2.nii.gz\tph.nii.gz\tn/a\tparker\tcontrol",
        "02\t\tb.nii.gz\tfa2.nii.gz\t\t7.0\t\ttreated",
    ]
    first, second = find_studies(table(tmp_path, heads, *rows))
    a, b, c, ph = (
        str(tmp_path / f) for f in ("a.nii.gz", "fa 1.nii.gz", "fa2.nii.gz", "ph.nii.gz")
    )
    assert first.inputs == (
        ("dce", a),
        ("vfa", b),
        ("vfa", c),
        ("cest", ph),
        ("aif", "parker"),
    )
    assert (first.id, first.problem, first.participant_columns) == (
        "sub-01_ses-1",
        "",
        (("group", "control"),),
    )
    assert (second.id, second.inputs[-1]) == ("sub-02", ("assume_ph", "7.0"))
    assert second.problem == "no such file: b.nii.gz"


def test_drug_and_subject_are_columns_of_a_table_and_of_the_group(tmp_path: Path) -> None:
    heads = "participant_id\tdce\tformulation\tdrug_dose\tspecies\tbody_weight\tplasma"
    row = "1\ta.nii.gz\tpld\t5mg/kg\tmouse\t0.021\tp.tsv"
    (study,) = find_studies(table(tmp_path, heads, row))
    assert study.inputs[1:] == (
        ("formulation", "pld"),
        ("drug_dose", "5mg/kg"),
        ("species", "mouse"),
        ("body_weight", "0.021"),
        ("plasma", str(tmp_path / "p.tsv")),
    )
    assert study.participant_columns == (
        ("formulation", "pld"),
        ("drug_dose", "5mg/kg"),
        ("species", "mouse"),
    )


def test_csv_cell_may_list_files_with_semicolons(tmp_path: Path) -> None:
    study = only(
        table(
            tmp_path,
            "participant_id,dce,vfa,assume_ph",
            "1,a.nii.gz,fa 1.nii.gz;fa2.nii.gz,7",
            name="s.csv",
        )
    )
    assert len(files_for(study, "vfa")) == 2


@for_each(
    "id",
    [
        "../../etc",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "",
        "n/a",
        "0 1",
        "01;id",
        "$(id)",
        "`id`",
        "01|x",
        "''",
        "sub-sub-01",
        "０１",
        "оne",
        "a" * 65,
        "-o",
        ".",
    ],
)
def test_unsafe_label_in_a_table_is_refused(tmp_path: Path, id: str) -> None:
    with pytest.raises(InputError):
        find_studies(table(tmp_path, "participant_id\tdce\tt1", f"{id}\ta.nii.gz\t1.4"))


@for_each(
    "heads, row, words",
    [
        ("participant_id,dce,t1", '1,"a\nb.nii.gz",1.4', "line break or control"),
        ("participant_id,dce,t1", "1,a\x00.nii.gz,1.4", "line break or control"),
        ("participant_id,dce,register", "1,a.nii.gz,--overwrite", "begin with a dash"),
        ("participant_id,dce,masks", "1,a.nii.gz,m.nii.gz", "column of images is not known"),
        ("participant_id,dce,dose", "1,a.nii.gz,0.1", "contrast_dose"),
        ("participant_id,dce,dce", "1,a.nii.gz,a.nii.gz", "header of the table cannot be used"),
        ("participant_id,dce,t1", "1,a.nii.gz", "another length"),
        ("participant_id,scan", "1,a.txt", "no study is found"),
        (
            "participant_id,dce,t1",
            "1,a.nii.gz,1\nsub-1,a.nii.gz,1",
            "two studies have the same name",
        ),
    ],
)
def test_invalid_table_is_refused(tmp_path: Path, heads: str, row: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_studies(table(tmp_path, heads, row, name="s.csv"))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text() | st.text(alphabet="sub-ses_run.01/\\\t,;~$\"'\x00\n ", max_size=40))
def test_no_label_leaves_the_output_folder(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.csv").write_text("participant_id,session_id,dce,t1\n", encoding="utf-8")
    with (tmp_path / "s.csv").open("a", encoding="utf-8", errors="replace", newline="") as handle:
        csv.writer(handle).writerow([text, text, text, text])
    try:
        found = find_studies(tmp_path / "s.csv")
    except InputError:
        return
    for study in found:
        assert re.fullmatch(
            r"sub-[0-9A-Za-z]{1,64}(/ses-[0-9A-Za-z]{1,64})?", str(study.relative_folder)
        )
        assert not any("\n" in word or "\x00" in word for _, word in study.inputs)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary() | st.text(alphabet='participant_id,dce\n\t"01./;').map(str.encode))
def test_broken_table_raises_only_input_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.tsv").write_bytes(b"participant_id\tdce\tt1\n" + content)
    with contextlib.suppress(InputError):
        find_studies(tmp_path / "s.tsv")


@for_each("cell", ["/", ".", "~", "x" * 5000, "a" * 300 + "/b.nii.gz"])
def test_unusual_paths_in_a_table_do_no_harm(tmp_path: Path, cell: str) -> None:
    study = only(table(tmp_path, "participant_id\tdce\tt1\tassume_ph", f"1\t{cell}\t1.4\t7"))
    assert len(study.files) < 1000


def test_binary_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.tsv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(InputError, match="not readable as text"):
        find_studies(tmp_path / "s.tsv")


def test_participant_columns_are_given_to_every_session(tmp_path: Path) -> None:
    put(put(tmp_path, WHOLE, "01", "1"), WHOLE, "02", "1")
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tcontrol\n")
    assert [s.participant_columns for s in find_studies(tmp_path)] == [(("group", "control"),), ()]


@pytest.mark.parametrize("id", ["sub-01_ses-1", "sub-01", "sub-a_run-2", "sub-a_ses-b_run-03"])
def test_study_name_equals_its_parts(id: str) -> None:
    assert parse_study_id(id).id == id
    assert parse_study_id(id).relative_folder == Path(*id.split("_"))


@for_each(
    "id",
    [
        "",
        "01",
        "sub-01/ses-1",
        "ses-1_sub-01",
        "sub-01_sub-02",
        "sub-01_x-1",
        "sub-../x",
        "sub-01\n",
        "sub-",
    ],
)
def test_malformed_study_name_is_refused(id: str) -> None:
    with pytest.raises(InputError):
        parse_study_id(id)


def test_two_hundred_subjects_are_found_quickly_without_heavy_imports(tmp_path: Path) -> None:
    for i in range(200):
        put(tmp_path, WHOLE, f"{i:03d}", "1")
    began = time.perf_counter()
    assert len(find_studies(tmp_path)) == 200
    assert time.perf_counter() - began < 1.0  # measured: 0.2 s beside other work
    code = f"""
import sys
from nanopinn.cohort.study_table import find_studies
find_studies({str(tmp_path)!r})
sys.exit(any(m in sys.modules for m in ("torch", "monai", "pandas", "bids", "matplotlib")))"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
