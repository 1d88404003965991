"""Coverage of the 90 % credible intervals: many phantoms, each fitted once.

    python benchmarks/coverage.py --phantoms 60 --engine fv --folder phantoms

Phantoms are stored in ``--folder`` and made if they are missing. They are solved on a finer grid
and by another time scheme than the fits. Half of them have l = 0.4 mm and half 1.2 mm; all other
scalars are drawn. Fits that are already in the folder are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from nanopinn import FitSettings, ImagingInputs
from nanopinn.cli.phantom_commands import format_coverage_table
from nanopinn.cohort.coverage import ParameterRecovery, interval_coverage
from nanopinn.imaging.pipeline import make_maps
from nanopinn.inference.engine_driver import fit_fv
from nanopinn.inference.krylov.krylov_engine import fit_krylov
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.settings import PhantomSettings
from nanopinn.solvers.grid import average_subcells
from nanopinn.studies.pose_study import pose_study


def main() -> None:
    args = _arguments()
    folder = Path(args.folder)
    settings = {
        folder / f"l{length:g}_seed{seed}": PhantomSettings(
            seed=seed, shape=tuple(args.shape), length_scale_mm=length, refine=args.refine
        )
        for seed in range(
            args.first_seed, args.first_seed + math.ceil(args.phantoms / len(args.lengths))
        )
        for length in args.lengths
    }
    fits = []
    for study, phantom in list(settings.items())[: args.phantoms]:
        if not (study / "truth" / "parameters.json").exists():
            make_phantom(study, phantom)
        if args.engine != "none":
            fits.append(_load_or_fit(study, args.engine))
    if fits:
        _print_report(fits, args.engine)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", required=True)
    parser.add_argument("--phantoms", type=int, default=60)
    parser.add_argument("--first-seed", type=int, default=101)
    parser.add_argument("--lengths", type=float, nargs="+", default=[0.4, 1.2], help="l, mm")
    parser.add_argument("--shape", type=int, nargs=3, default=[16, 16, 10])
    parser.add_argument("--refine", type=int, default=2)
    parser.add_argument("--engine", choices=["fv", "krylov", "none"], default="fv")
    return parser.parse_args()


def _load_or_fit(study: Path, engine: str) -> dict:
    result_file = study / f"fit_{engine}.json"
    if not result_file.exists():
        result_file.write_text(json.dumps(_fit(study, engine)))
    return json.loads(result_file.read_text())


def _fit(study: Path, engine: str) -> dict:
    inputs = ImagingInputs(
        dce=study / "dce.nii.gz",
        cest=study / "ph.nii.gz",
        mask=study / "mask.nii.gz",
        vfa=tuple(sorted(study.glob("vfa_*.nii.gz"))),
    )
    drug = tuple(str(p) for p in sorted(study.glob("drug_*.nii.gz")))
    began, cpu = time.perf_counter(), time.process_time()
    posed = pose_study(make_maps(inputs), inputs, FitSettings(drug=drug), "cpu")
    fit = (fit_fv if engine == "fv" else fit_krylov)(posed.problem)
    truth = json.loads((study / "truth" / "parameters.json").read_text())["scalars_SI"]
    rows = {}
    for unknown, theta, s in zip(
        posed.problem.unknowns.items, fit.theta, fit.run.scalars, strict=True
    ):
        true = truth[unknown.name]
        coordinate = math.log(true) if unknown.scale == "log" else true
        rows[unknown.name] = {
            "error": float(theta - coordinate),
            "sd": s.sd,
            "prior_sd": unknown.prior_sd,
            "prior_error": unknown.prior_mean - coordinate,
            "informed": s.informed,
        }
    inside = posed.problem.contrast.voxels.numpy()
    p = (
        posed.domain.crop(_volume(study / "truth" / "IFP.nii.gz"), 0.0)[inside]
        * 133.322
        / truth["p_e"]
    )
    C = posed.domain.crop(np.moveaxis(_volume(study / "truth" / "contrast.nii.gz"), -1, 0), 0.0)[
        :, inside
    ]
    fields, setting = fit.prediction.fields, posed.problem.setting
    found_p = (
        average_subcells(fields.flow.p, setting.flow_refine).numpy()[inside]
        / fit.problem.scalars(fit.theta)["p_e"]
    )
    return {
        "contrast_L2": _relative(fields.contrast.numpy()[:, inside], C),
        "pressure_L2": _relative(found_p, p),
        "study": study.name,
        "unknowns": rows,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "converged": fit.run.converged,
        "iterations": len(fit.run.objective),
        "chi2": fit.run.chi2 / fit.run.observations,
    }


def _volume(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def _relative(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def _print_report(fits: list[dict], engine: str) -> None:
    print(
        f"{len(fits)} phantoms, engine {engine}; an unknown is informed if its contraction is"
        " above 0.5"
    )
    found = [
        ParameterRecovery(name, row["error"], row["sd"], row["prior_sd"], row["informed"])
        for f in fits
        for name, row in f["unknowns"].items()
    ]
    print("\n".join(format_coverage_table(interval_coverage(found))))
    inside_all = [f.covered for f in found if f.informed]
    seconds, cpu = (float(np.median([f[key] for f in fits])) for key in ("seconds", "cpu_seconds"))
    converged = np.mean([f["converged"] for f in fits])
    print(
        f"all informed unknowns: {np.mean(inside_all):.1%} of {len(inside_all)} intervals contain"
        f" the truth; {converged:.0%} of the fits converged"
    )
    for name in ("contrast_L2", "pressure_L2"):
        q = np.quantile([f[name] for f in fits], [0.1, 0.5, 0.9])
        print(
            f"{name} in the tumour against the truth (pressure divided by p_e): median {q[1]:.1%},"
            f" 10 % to 90 % quantile {q[0]:.1%} to {q[2]:.1%}"
        )
    print(f"median duration of a fit: {seconds:.1f} s, CPU time {cpu:.1f} s")


if __name__ == "__main__":
    main()
