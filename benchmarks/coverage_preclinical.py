"""Coverage of 90 % credible intervals in mice: pegylated and thermosensitive liposomes, free drug.

    python benchmarks/coverage_preclinical.py --phantoms 20 --folder phantoms

Phantoms of the sample studies (``nanopinn phantom --sample``) are made where they are missing. The
kinetics in plasma and all constants of wall, tissue, cells and release are drawn from their
distributions, and the drug images have an error of calibration, so that the truth violates the
values that a fit starts from. Truth is solved on a finer grid, with every pool and adaptive steps.
Each is fitted as ``nanopinn fit --preset fast`` does. Fits that are in the folder are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn import FitSettings, ImagingInputs
from nanopinn.cli.phantom_commands import format_coverage_table
from nanopinn.cohort.coverage import ParameterRecovery, interval_coverage, wilson_interval
from nanopinn.errors import NanopinnError
from nanopinn.phantoms.sample_studies import SAMPLE_STUDIES
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.settings import PhantomSettings
from nanopinn.studies.fit import run_fit


def main() -> None:
    args = _arguments()
    fits: dict[str, list[dict[str, Any]]] = {name: [] for name in args.samples}
    for seed in range(args.first_seed, args.first_seed + args.phantoms):
        for name in args.samples:
            study = Path(args.folder) / f"{name}_seed{seed}"
            if not (study / "truth" / "parameters.json").exists():
                settings = PhantomSettings(
                    **SAMPLE_STUDIES[name],
                    seed=seed,
                    draw_constants=True,
                    drug_scale_sd=args.scale_sd,
                )
                make_phantom(study, settings)
            fits[name].append(_load_or_fit(study, args.label))
            print(
                study.name, {k: v for k, v in fits[name][-1].items() if k != "unknowns"}, flush=True
            )
    for name, found in fits.items():
        summary = _print_report(name, found)
        if args.out:
            Path(f"{args.out}_{name}.json").write_text(json.dumps(summary, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", required=True)
    parser.add_argument("--phantoms", type=int, default=20, help="of each sample study")
    parser.add_argument("--first-seed", type=int, default=201)
    parser.add_argument("--samples", nargs="+", default=list(SAMPLE_STUDIES))
    parser.add_argument("--scale-sd", type=float, default=0.1, help="of the calibration")
    parser.add_argument("--label", default="fit", help="of the files with the results of the fits")
    parser.add_argument("--out", help="start of the path of the summaries")
    return parser.parse_args()


def _load_or_fit(study: Path, label: str) -> dict[str, Any]:
    result_file = study / f"{label}.json"
    if not result_file.exists():
        result_file.write_text(json.dumps(_fit(study)))
    return json.loads(result_file.read_text())


def _fit(study: Path) -> dict[str, Any]:
    inputs = ImagingInputs(
        dce=study / "dce.nii.gz",
        cest=study / "ph.nii.gz",
        mask=study / "mask.nii.gz",
        vfa=tuple(sorted(study.glob("vfa_*.nii.gz"))),
    )
    schedule = study / "schedule.toml"
    settings = FitSettings(
        drug=tuple(str(p) for p in sorted(study.glob("drug_*.nii.gz"))),
        schedule=schedule if schedule.exists() else None,
        preset="fast",
    )
    began, cpu = time.perf_counter(), time.process_time()
    try:
        fit = run_fit(inputs, settings).fit
    except NanopinnError as error:
        return {"study": study.name, "error": str(error), "unknowns": {}}
    truth = json.loads((study / "truth" / "parameters.json").read_text())["scalars_SI"]
    rows = {}
    for s, unknown in zip(fit.scalars, fit.fitted_problem.problem.unknowns.items, strict=True):
        true = truth[s.name] * unknown.per_unit
        error = math.log(s.median / true) if s.scale == "log" else s.median - true
        rows[s.name] = {
            "error": error,
            "sd": s.sd,
            "prior_sd": s.prior_sd,
            "informed": s.informed,
        }
    run = fit.runs["fv"]
    return {
        "study": study.name,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "converged": run.converged,
        "iterations": len(run.objective),
        "chi2": run.chi2 / run.observations,
        "check": fit.check.headline,
        "passed": fit.check.passed,
        "outside": {i.name: [i.value, i.limit] for i in fit.check.items if not i.passed},
        "shifts": {s.name: s.shift for s in fit.prior_shifts if s.flagged},
        "unknowns": rows,
    }


def _print_report(name: str, fits: list[dict[str, Any]]) -> dict[str, Any]:
    done = [f for f in fits if "error" not in f]
    print(f"\n{name}: {len(done)} fits of {len(fits)} phantoms")
    found = [
        ParameterRecovery(unknown, row["error"], row["sd"], row["prior_sd"], row["informed"])
        for f in done
        for unknown, row in f["unknowns"].items()
    ]
    if not found:
        return {"sample": name, "fits": 0}
    print("\n".join(format_coverage_table(interval_coverage(found))))
    covered = [f.covered for f in found if f.informed]
    low, high = wilson_interval(sum(covered), len(covered))
    summary = {
        "sample": name,
        "fits": len(done),
        "informed": len(covered),
        "covered": sum(covered) / max(len(covered), 1),
        "wilson_95": [low, high],
        "converged": float(np.mean([f["converged"] for f in done])),
        "passed": float(np.mean([f["passed"] for f in done])),
        "seconds": float(np.median([f["seconds"] for f in done])),
        "cpu_seconds": float(np.median([f["cpu_seconds"] for f in done])),
        "rows": fits,
    }
    print({k: v for k, v in summary.items() if k != "rows"})
    return summary


if __name__ == "__main__":
    main()
