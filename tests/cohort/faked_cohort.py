"""Folders of a cohort with results that no fit computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from nanopinn.cohort.bids import parse_study_id
from nanopinn.report.result_folder import parameter_row
from nanopinn.results import CheckItem, CheckResult, ScalarEstimate

PRIOR_SD = 1.0


def scalar(
    name: str, median: float, sd: float, scale: str = "log", prior: float = 1.0
) -> ScalarEstimate:
    return ScalarEstimate(name, f"quantity {name}", "1/h", scale, prior, PRIOR_SD, median, sd)  # type: ignore[arg-type]


def put_verdict(dataset: Path, id: str, status: str, message: str = "", run: str = "fit") -> Path:
    work = dataset / "work" / parse_study_id(id).relative_folder
    work.mkdir(parents=True, exist_ok=True)
    code = {"passed": 0, "check failed": 5, "refused": 3, "internal error": 1}[status]
    verdict = {
        "status": status,
        "exit_code": code,
        "message": message,
        "command": run,
        "version": "0.1.0",
        "seconds": 61.5,
    }
    (work / f"{run}.json").write_text(json.dumps(verdict))
    return work


def put_fit(dataset: Path, id: str, scalars: Sequence[ScalarEstimate], passed: bool = True) -> Path:
    """A verdict, and the tables of a result folder."""
    items = (
        CheckItem("pressure, relative L2", 0.2, 0.3 if passed else 0.05, passed, "what it means"),
        CheckItem("misfit of contrast agent, chi2/N", 1.1, 2.0, True, "data"),
    )
    check = CheckResult(items)
    work = put_verdict(
        dataset, id, "passed" if passed else "check failed", "" if passed else check.headline
    )
    fit = work / "fit"
    fit.mkdir()
    rows = [parameter_row(s) for s in scalars]
    (fit / "parameters.json").write_text(json.dumps({"parameters": rows, "assumptions": []}))
    entries = {
        "passed": passed,
        "headline": check.headline,
        "seconds": 1.0,
        "items": [asdict(i) for i in items],
    }
    (fit / "check.json").write_text(json.dumps(entries))
    (fit / "provenance.json").write_text(
        json.dumps({"versions": {"nanopinn": "0.1.0", "torch": "2.13.0"}})
    )
    return fit


def put_arms(dataset: Path, id: str, medians: Mapping[str, float]) -> None:
    arms = put_verdict(dataset, id, "passed", run="arms") / "arms"
    arms.mkdir()
    heads = [
        "outcome",
        "unit",
        "words",
        *(f"{a}_{q}" for a in medians for q in ("median", "low_90", "high_90")),
    ]
    cells = [
        "dose",
        "ug/mL",
        "drug in cells",
        *(f"{m * f:g}" for m in medians.values() for f in (1, 0.5, 2)),
    ]
    (arms / "outcomes.tsv").write_text("\t".join(heads) + "\n" + "\t".join(cells) + "\n")


def drawn(rng: np.random.Generator, truth: float, error: float) -> ScalarEstimate:
    """A posterior as Bayes has it: data with their error, and a prior of ln 1 +- 1."""
    seen, precision = truth + error * rng.standard_normal(), 1 / error**2 + 1 / PRIOR_SD**2
    return scalar("k", float(np.exp(seen / error**2 / precision)), precision**-0.5)
