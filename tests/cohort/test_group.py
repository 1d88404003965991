"""Group statistics, tables and page of a cohort."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nanopinn.cohort.bids_derivatives import write_studies
from nanopinn.cohort.bids_studies import CohortStudy
from nanopinn.cohort.group import random_effects, remove_prior, robust_z, run_group
from nanopinn.errors import InputError
from nanopinn.report.group_page import cohort_headline, describe_parameter, write_group
from tests.variants import for_each

from .faked_cohort import drawn, put_arms, put_fit, put_verdict, scalar

#: Cases of tuberculosis and others, vaccinated and not, of the 13 trials of BCG (Colditz et al.
#: 1994).
BCG = np.array(
    [
        [4, 119, 11, 128],
        [6, 300, 29, 274],
        [3, 228, 11, 209],
        [62, 13536, 248, 12619],
        [33, 5036, 47, 5761],
        [180, 1361, 372, 1079],
        [8, 2537, 10, 619],
        [505, 87886, 499, 87892],
        [29, 7470, 45, 7232],
        [17, 1699, 65, 1600],
        [186, 50448, 141, 27197],
        [5, 2493, 3, 2338],
        [27, 16886, 29, 17825],
    ],
    dtype=float,
)


def test_random_effects_equal_published_values_of_metafor() -> None:
    a, b, c, d = BCG.T
    y, v = np.log(a * (c + d) / (c * (a + b))), 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)
    found = random_effects(y, v)
    # README of R's metafor 4: rma(yi, vi, test = "knha"); printed to four digits
    assert found.between_variance == pytest.approx(0.3132, abs=5e-5)
    assert (found.mean, found.se) == (
        pytest.approx(-0.7145, abs=5e-5),
        pytest.approx(0.1808, abs=5e-5),
    )
    assert (found.low, found.high) == (
        pytest.approx(-1.1084, abs=1e-4),
        pytest.approx(-0.3206, abs=1e-4),
    )


def test_between_subject_variance_is_zero_if_errors_explain_the_scatter() -> None:
    found = random_effects(np.array([1.0, 1.01, 0.99]), np.full(3, 0.04))
    assert found.between_variance == 0
    assert found.se == pytest.approx((0.04 / 3) ** 0.5)


def test_dividing_out_the_prior_inverts_bayes() -> None:
    precision = 1 / 0.5**2 + 1 / 1.2**2
    y = (2.0 / 0.5**2 + 7.0 / 1.2**2) / precision
    assert remove_prior(y, precision**-0.5, 7.0, 1.2) == (pytest.approx(2.0), pytest.approx(0.5))


def test_single_outlier_has_a_large_robust_z_score() -> None:
    y = np.array([0.0, 0.1, -0.1, 0.05, -0.05, 9.0])
    assert np.abs(robust_z(y, np.full(6, 1e-4))).argmax() == 5
    assert robust_z(y, np.full(6, 1e-4))[5] > 3.5
    assert (
        abs(robust_z(y, np.array([1e-4] * 5 + [100.0]))[5]) < 1
    )  # its own error says that it may lie there


def test_pooled_mean_is_the_true_mean_and_not_the_prior(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = 1.5 + 0.4 * rng.standard_normal(60)  # ln; the prior is at 0
    for i, value in enumerate(truth):
        put_fit(tmp_path, f"sub-{i:03d}", [drawn(rng, value, 0.45)])
    (k,) = run_group(tmp_path).parameters
    assert len(k.estimates) == 60
    assert np.log(k.mean) == pytest.approx(1.5, abs=3 * (0.4**2 + 0.45**2) ** 0.5 / 60**0.5)
    assert k.between_sd == pytest.approx(0.4, abs=0.15)
    shrink_to_tumour_mean = np.log([m.scalar.median for m in k.estimates])
    assert (
        shrink_to_tumour_mean.mean() < 1.5 - 0.15
    )  # averaged as they stand, posteriors lie towards the prior


def cohort(dataset: Path) -> Path:
    """Eight subjects: five that pass, one of them far off, a failed check, a refusal, and one that
    was killed.
    """
    for i, median in enumerate((2.0, 2.1, 1.9, 2.05, 60.0)):
        put_fit(
            dataset, f"sub-0{i + 1}_ses-1", [scalar("k", median, 0.1), scalar("p_e", 1.0, 0.99)]
        )
        put_arms(dataset, f"sub-0{i + 1}_ses-1", {"free": 1.0 + i, "tsl": 3.0 + i})
    put_fit(dataset, "sub-06_ses-1", [scalar("k", 7.0, 0.1), scalar("p_e", 1.0, 0.2)], passed=False)
    put_arms(dataset, "sub-06_ses-1", {"free": 99.0})
    put_verdict(
        dataset, "sub-07_ses-1", "refused", "sub-07_dce.nii.gz: the file is <b>truncated</b>."
    )
    (dataset / "work" / "sub-08" / "ses-1" / "fit.partial").mkdir(parents=True)
    studies = [
        CohortStudy(
            f"sub-0{i}_ses-1",
            Path(f"sub-0{i}/ses-1"),
            participant_columns=(("group", "a" if i < 5 else "<i>b</i>"),),
        )
        for i in range(1, 10)
    ]
    write_studies(dataset, studies)
    return dataset


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_every_study_has_a_row_with_its_status(tmp_path: Path) -> None:
    write_group(tmp_path, run_group(cohort(tmp_path)))
    table = rows(tmp_path / "group_studies.tsv")
    ended = ["passed"] * 5 + ["check failed", "refused", "unfinished", "unfinished"]
    assert [r["status"] for r in table] == ended
    assert table[5]["failed"] == "pressure, relative L2"
    assert (table[0]["checks"], table[0]["worst_chi2_n"], table[0]["worst_chi2_n_of"]) == (
        "2",
        "1.1",
        "contrast agent",
    )
    assert "arms_message" in table[0]
    assert "truncated" in table[6]["message"]
    assert "without a verdict file" in table[7]["message"]
    assert table[8]["message"] == "not started"
    assert [r["group"] for r in table[:2]] == ["a", "a"]
    assert (table[0]["seconds"], table[0]["torch"], table[6]["torch"]) == ("61.5", "2.13.0", "n/a")


def test_averages_include_only_informed_values_of_passed_fits(tmp_path: Path) -> None:
    write_group(tmp_path, run_group(cohort(tmp_path)))
    k, p_e = rows(tmp_path / "group_summary.tsv")
    assert (k["n_passed"], k["n_informed"], p_e["n_informed"]) == ("5", "5", "0")
    assert float(k["median"]) == 2.05  # 7.0, whose check failed, is not among them
    assert (p_e["typical"], p_e["between_sd"]) == ("n/a", "n/a")
    assert len(rows(tmp_path / "group_parameters.tsv")) == 12
    assert {r["check"] for r in rows(tmp_path / "group_parameters.tsv")} == {
        "passed",
        "check failed",
    }


def test_parameter_that_few_studies_inform_is_not_averaged(tmp_path: Path) -> None:
    for i in range(6):
        put_fit(tmp_path, f"sub-{i}", [scalar("k", 3.0, 0.1 if i < 3 else 0.9)])
    (k,) = run_group(tmp_path).parameters
    assert np.isnan(k.mean)
    assert (
        describe_parameter(k)
        == "informed by the images in 3 of 6 studies; not averaged, because it is prior-dominated"
        " in the others"
    )


def test_fits_with_a_failed_check_are_shown_and_not_averaged(tmp_path: Path) -> None:
    for i in range(3):
        put_fit(tmp_path, f"sub-{i}", [scalar("k", 3.0, 0.1)], passed=False)
    group = run_group(tmp_path)
    page = write_group(tmp_path, group).read_text()
    assert np.isnan(group.parameters[0].mean)
    assert "no study passed its check" in page
    assert "Dotted: check failed, not counted." in page


def test_outliers_are_tested_only_with_enough_studies(tmp_path: Path) -> None:
    k, p_e = run_group(cohort(tmp_path)).parameters
    assert [m.study for m in k.outliers] == ["sub-05_ses-1"]
    assert k.outliers_tested
    assert not p_e.outliers_tested


def test_page_begins_with_failures_and_escapes_values(tmp_path: Path) -> None:
    page = write_group(tmp_path, run_group(cohort(tmp_path))).read_text()
    headline = "5 of 9 studies passed; 1 refused; 2 unfinished; 1 check failed"
    heads = (
        "Studies without a result",
        "Failed checks",
        "Outliers",
        "Parameter estimates and identifiability",
        "Treatment arms",
        "All studies",
    )
    order = ("Research use only", headline, *heads)
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert page.index("sub-05_ses-1") > page.index("Outliers")
    assert "<b>truncated" not in page
    assert "<i>b" not in page
    assert "informed by the images in 0 of 5 studies; prior-dominated" in page
    assert 'href="work/sub-01/ses-1/fit/report.html"' in page
    assert not re.search(r"https?://", page.replace("http://www.w3.org", ""))
    assert str(tmp_path) not in page


def test_arms_of_passed_fits_are_listed_and_missing_ones_reported(
    tmp_path: Path,
) -> None:
    group = run_group(cohort(tmp_path))
    write_group(tmp_path, group)
    assert len(rows(tmp_path / "group_outcomes.tsv")) == 11
    assert (
        "99"
        not in (tmp_path / "group.html")
        .read_text()
        .split("Treatment arms")[1]
        .split("All studies")[0]
    )
    (tmp_path / "work" / "sub-01" / "ses-1" / "arms.json").unlink()
    assert "the comparison of arms did not pass in 1" in cohort_headline(run_group(tmp_path))


def test_worse_of_verdict_and_result_folder_counts(tmp_path: Path) -> None:
    put_verdict(tmp_path, "sub-1", "passed")
    put_fit(tmp_path, "sub-2", [scalar("k", 2.0, 0.1)], passed=False)
    put_verdict(tmp_path, "sub-2", "passed")
    put_fit(tmp_path, "sub-3", [scalar("k", 2.0, 0.1)])
    write_studies(tmp_path, [CohortStudy("sub-3", Path("sub-3"), problem="no DCE series")])
    first, second, third = run_group(tmp_path).studies
    assert (first.status, second.status) == ("internal error", "check failed")
    assert (third.status, third.message, third.scalars) == ("refused", "no DCE series", ())


@for_each("broken", ["", "{", "[]", '{"status": 5}', '{"status": "passed"', "\x00"])
def test_unreadable_verdict_file_counts_as_missing(tmp_path: Path, broken: str) -> None:
    work = put_verdict(tmp_path, "sub-1", "passed")
    (work / "fit.json").write_text(broken)
    assert run_group(tmp_path).studies[0].status == "unfinished"


@for_each(
    "broken",
    [
        None,
        b"\xff\xfe",
        b"outcome\tpld_median\nonly one cell\n",
        b'outcome\tpld_median\n"\t1\n',
        b"a\ta\n",
    ],
)
def test_unreadable_table_of_arms_is_reported_and_the_page_is_written(
    tmp_path: Path, broken: bytes | None
) -> None:
    put_fit(tmp_path, "sub-1", [scalar("k", 2.0, 0.1)])
    put_arms(tmp_path, "sub-1", {"pld": 1.0})
    table = tmp_path / "work" / "sub-1" / "arms" / "outcomes.tsv"
    table.unlink() if broken is None else table.write_bytes(broken)
    study = run_group(tmp_path).studies[0]
    assert (study.status, study.arms, study.outcomes) == ("passed", "internal error", ())
    assert "its table of outcomes cannot be read" in study.comparison_message


def test_other_folders_are_ignored(tmp_path: Path) -> None:
    put_fit(tmp_path, "sub-1", [scalar("k", 2.0, 0.1)])
    for name in ("sub-<x>", "notes", "ses-1", "sub-1/sub-2", "sub-1/run-1/ses-2"):
        (tmp_path / "work" / name / "fit").mkdir(parents=True)
    assert [s.id for s in run_group(tmp_path).studies] == ["sub-1"]
    with pytest.raises(InputError, match="no study is found"):
        run_group(tmp_path / "none")


def test_group_command_exits_with_6_unless_all_studies_passed(tmp_path: Path) -> None:
    def group(dataset: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nanopinn", "group", str(dataset)],
            capture_output=True,
            text=True,
            timeout=120,
        )

    put_fit(tmp_path / "a", "sub-1", [scalar("k", 2.0, 0.1)])
    assert group(tmp_path / "a").returncode == 0
    assert (
        json.loads((tmp_path / "a" / "dataset_description.json").read_text())["DatasetType"]
        == "derivative"
    )
    ended = group(cohort(tmp_path / "b"))
    assert ended.returncode == 6, ended.stderr
    assert "5 of 9 studies passed" in ended.stderr
    assert (tmp_path / "b" / "group.html").is_file()


def test_two_hundred_studies_are_summarised_in_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for i in range(200):
        put_fit(
            tmp_path,
            f"sub-{i:03d}",
            [scalar(f"p{j}", float(rng.lognormal(0, 0.3)), 0.2) for j in range(10)],
        )
    began = time.perf_counter()
    write_group(tmp_path, run_group(tmp_path))
    assert time.perf_counter() - began < 30
