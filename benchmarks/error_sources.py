"""Why is an answer off the truth? One Gauss-Newton step from the truth of a phantom, taken apart by
source of error.

    OMP_NUM_THREADS=1 python benchmarks/error_sources.py --folder phantoms --seeds 101 102 103

The step that the fit's linearisation makes at the true unknowns is linear in the residual, so the
parts of the residual move it one by one: noise of the drug images, the error of the pH map (and
what of it is not linear), that of the kinetic maps, the grid, the contrast agent's curves and the
prior. Shifts are in posterior standard deviations; their sum stands beside the fit's own error.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from nanopinn import FitSettings, ImagingInputs
from nanopinn.imaging.pipeline import make_maps
from nanopinn.inference.fv_engine import fit_fv
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.pose import pose_problem
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.settings import PhantomSettings

RELEASED = ("free", "bound", "intracellular", "nuclear")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="where phantoms are kept, and made when missing"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--length", type=float, default=0.4, help="l, mm")
    parser.add_argument("--shape", type=int, nargs=3, default=[16, 16, 10])
    parser.add_argument(
        "--unknown", default="krel_ref", help="the unknown whose shifts are shown for each seed"
    )
    args = parser.parse_args()
    tables = []
    for seed in args.seeds:
        study = args.folder / f"l{args.length:g}_seed{seed}"
        if not (study / "truth" / "parameters.json").exists():
            make_phantom(
                study,
                PhantomSettings(
                    seed=seed, shape=tuple(args.shape), length_scale_mm=args.length, refine=2
                ),
            )
        tables.append(shifts(study))
        print(
            f"seed {seed}, {args.unknown}: "
            + _in_words({k: v[args.unknown] for k, v in tables[-1].items()}),
            flush=True,
        )
    for unknown in tables[0]["noise"]:
        mean = {
            source: float(np.mean([t[source][unknown] for t in tables])) for source in tables[0]
        }
        print(f"mean of {len(tables)}, {unknown}: " + _in_words(mean))


def shifts(study: Path) -> dict[str, dict[str, float]]:
    """Shift of every unknown by every source, posterior sd; their ``sum``, and the ``fit``'s own
    error.
    """
    inputs = ImagingInputs(
        dce=study / "dce.nii.gz",
        cest=study / "ph.nii.gz",
        mask=study / "mask.nii.gz",
        vfa=tuple(sorted(study.glob("vfa_*.nii.gz"))),
    )
    drug = tuple(str(p) for p in sorted(study.glob("drug_*.nii.gz")))
    posed = pose_problem(make_maps(inputs), FitSettings(drug=drug), "cpu")
    fit = fit_fv(posed.problem)
    problem, unknowns = fit.problem, posed.problem.unknowns
    assert problem.errors is not None
    told = json.loads((study / "truth" / "parameters.json").read_text())
    truth = np.array(
        [
            math.log(told["scalars_SI"][u.name]) if u.scale == "log" else told["scalars_SI"][u.name]
            for u in unknowns.items
        ]
    )

    def true(name: str) -> torch.Tensor:
        """A map ``(x, y, z)`` or a field ``(t, x, y, z)`` of the truth."""
        values = np.nan_to_num(
            np.asarray(nib.load(study / "truth" / f"{name}.nii.gz").dataobj, dtype=np.float64)
        )
        return torch.as_tensor(
            posed.domain.crop(np.moveaxis(values, -1, 0) if values.ndim == 4 else values, 0.0)
        )

    maps = problem.setting.maps
    inside = maps.tumour > 0.5

    def known(problem: InverseProblem, **values: torch.Tensor) -> InverseProblem:
        """With these values in the tumour."""
        changed = {
            name: torch.where(inside, value, getattr(maps, name)) for name, value in values.items()
        }
        return replace(
            problem, setting=replace(problem.setting, maps=replace(problem.setting.maps, **changed))
        )

    def seen(of: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Every drug image, whitened."""
        return torch.cat([d.whiten(of(i)) for i, d in enumerate(problem.drug)])

    def images(problem: InverseProblem) -> torch.Tensor:
        pools = problem.solve(truth, problem.forward()).pools
        assert pools is not None
        return seen(
            lambda i: (d := problem.drug[i]).predict(
                pools[problem.node_index(d)], problem.setting.maps, problem.plasma_at(d.time_s)
            )
        )

    def true_image(i: int) -> torch.Tensor:
        d = problem.drug[i]
        at = told["settings"]["drug_times_h"].index(d.time_s / 3600)
        pools = ("encapsulated",) if d.quantity == "encapsulated" else RELEASED
        image = torch.stack([true(name)[at] for name in pools]).sum(dim=0) / 1e3
        return (
            image + true("vp") * problem.plasma_at(d.time_s)
            if d.quantity == "encapsulated"
            else image
        )

    of_scan = dict(
        phi=true("ve"), v_p=true("vp"), PS=maps.PS * true("Ktrans") / 60 / problem.local_kinetics[0]
    )
    as_fitted, as_scanned = images(problem), images(known(problem, **of_scan))
    as_measured = images(known(problem, **of_scan, pH=problem.measured_pH))
    as_it_is, exact = images(known(problem, **of_scan, pH=true("pH"))), seen(true_image)
    moved = problem.errors.pH_on_drug @ problem.errors.pH
    parts = {
        "kinetic maps": as_fitted - as_scanned,
        "pH": as_measured - as_it_is,
        "pH, not linear": as_scanned - as_measured - moved,
        "grid": as_it_is - exact + problem.errors.grid_on_drug.sum(dim=1),
        "noise": exact - seen(lambda i: problem.drug[i].measured),
    }

    fields = problem.solve(truth, problem.forward(), tangents=True)
    J = problem.jacobian(fields.d_contrast, fields.d_pools).numpy()
    curves = problem.residual(fields.contrast, None).numpy()
    of_curves, of_drug = J[: len(curves)], J[len(curves) :]
    hessian = J.T @ J + np.diag(unknowns.prior_sd**-2.0)
    sd = np.sqrt(np.diag(np.linalg.inv(hessian)))
    gradients = {
        k: of_drug.T @ problem.errors.drug.eliminate_tangents(v[None])[0].numpy()
        for k, v in parts.items()
    }
    gradients |= {
        "contrast agent": of_curves.T @ curves,
        "prior": (truth - unknowns.prior_mean) / unknowns.prior_sd**2,
    }
    found = {
        source: -np.linalg.solve(hessian, gradient) / sd for source, gradient in gradients.items()
    }
    found |= {"sum": np.sum(list(found.values()), axis=0), "fit": (fit.theta - truth) / sd}
    return {
        source: dict(zip(unknowns.names, values.tolist(), strict=True))
        for source, values in found.items()
    }


def _in_words(by_source: dict[str, float]) -> str:
    return ", ".join(f"{source} {value:+.2f}" for source, value in by_source.items())


if __name__ == "__main__":
    main()
